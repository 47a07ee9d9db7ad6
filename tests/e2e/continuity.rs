//! What goes on though a tracker or a node dies.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::lab::process::Process;
use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Lab, data};
use crate::node::{nodes, until};
use crate::steps::MIB;

/// What was counted before is counted for 100 s where nothing tells of a node's death: far less than that.
const AT_ONCE_MAX: Duration = Duration::from_secs(30);

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

#[test]
fn transfers_end_well_though_the_only_tracker_dies() {
    let Some(lab) = Lab::hosts(4).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 8 * MIB);
    nodes[1].put(&file, "model");
    nodes[1].run(&["limit", "--max-upload", "1M"]);
    let gets = [2, 3].map(|node| nodes[node].begin(&["get", "model"]));
    for node in &nodes[2..] {
        until("a beginning", || {
            let status = node.run(&["status"]);
            let held = status.events.iter().find(|event| event.name() == "held");
            held.is_some_and(|held| held.number("have_bytes") > 0)
        });
    }
    nodes[0].kill9();
    nodes[1].run(&["limit", "--max-upload", "off"]);
    for (get, name) in gets.into_iter().zip(["h2", "h3"]) {
        get.wait().expect_code(0);
        assert_same(&file, &scene.path(name).join("model"));
    }
    assert!(nodes[2].fails(4, &["ls"]).contains("transfers go on without it"));
}

#[test]
fn node_that_is_killed_leaves_the_map_at_once() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, MIB);
    nodes[1].put(&file, "model");
    nodes[2].get("model");
    nodes[0].until_copies("model", 2);
    let killed = Instant::now();
    nodes[2].kill9();
    nodes[0].until_copies("model", 1);
    let nodes_seen = nodes[0].run(&["nodes"]).events;
    assert_eq!(nodes_seen.iter().filter(|event| event.name() == "node").count(), 2);
    assert!(killed.elapsed() < AT_ONCE_MAX, "it was counted for {:?}", killed.elapsed());
    // Nobody counts on what it had.
    assert!(nodes[1].fails(4, &["drop", "model"]).contains("no other node has all of model"));
    nodes[2].start_again();
    nodes[0].until_copies("model", 2);
}

#[test]
fn node_that_falls_silent_leaves_the_map_within_seconds() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, MIB);
    nodes[1].put(&file, "model");
    nodes[2].get("model");
    nodes[0].until_copies("model", 2);
    // As when a host loses power: no connection ends.
    let silent = Instant::now();
    lab.host(2).link_down();
    nodes[0].until_copies("model", 1);
    assert!(silent.elapsed() < AT_ONCE_MAX, "it was counted for {:?}", silent.elapsed());
    assert!(nodes[1].fails(4, &["drop", "model"]).contains("no other node has all of model"));
    lab.host(2).link_up();
    nodes[0].until_copies("model", 2);
}

#[test]
fn list_shows_who_has_which_pieces() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 16 * MIB);
    nodes[1].put(&file, "model");
    nodes[1].run(&["limit", "--max-upload", "1M"]);
    let get = nodes[2].begin(&["get", "model"]);
    let mut listed = Vec::new();
    until("a part on another node", || {
        listed = nodes[0].run(&["ls", "-l"]).events;
        let pieces = listed.iter().find(|event| event.name() == "pieces");
        pieces.is_some_and(|pieces| pieces.value["runs"].as_array().is_some_and(|runs| !runs.is_empty()))
    });
    let [model, part] = listed.as_slice() else { panic!("one name, and one part: {listed:?}") };
    assert_eq!((model.number("replicas"), model.number("partial")), (1, 1));
    assert_eq!(model.texts("holders"), ["h1"]);
    assert_eq!(part.text("node"), "h2");
    let shown = nodes[0].dft().args(["ls", "-l"]).run().expect_code(0).stdout;
    let lines: Vec<&str> = shown.lines().collect();
    let all = format!("model  (0-{}: h1)", model.number("pieces") - 1);
    assert!(lines[0].ends_with(&all), "{shown}");
    assert!(lines[1].trim_start().starts_with("h2 "), "{shown}");
    nodes[1].run(&["limit", "--max-upload", "off"]);
    get.wait().expect_code(0);
    nodes[0].until_copies("model", 2);
    let shown = nodes[0].dft().args(["ls", "-l"]).run().expect_code(0).stdout;
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(shown.trim_end().ends_with(" h2)") || shown.trim_end().ends_with(" h1)"), "{shown}");
}

#[test]
fn second_tracker_answers_without_the_first_and_takes_names_once_promoted() {
    let scene = Scene::new();
    let tracker = |name: &str, options: &[&str]| -> (Process, String) {
        let state = scene.new_directory(name);
        let tracker =
            scene.dft(&format!("tracker {name}")).args(["tracker", "--json", "--state", text(&state)]);
        let tracker = tracker.args(["--listen", "127.0.0.1:0"]).args(options).start();
        let addr = tracker.wait_for("listening").texts("addrs").remove(0);
        (tracker, addr)
    };
    let (first, one) = tracker("first", &[]);
    let token = scene.path("first/token");
    let kept = scene.new_directory("second").join("token");
    std::fs::copy(&token, &kept).expect("it is copied");
    let (second, two) = tracker("second", &["--follow", &one]);
    let daemon = |name: &str, tracker: &[&str]| {
        let daemon = scene.dft(name).args(["daemon", "--json", "--no-mdns", "--listen", "127.0.0.1"]);
        let daemon = daemon.args(["--name", name, "--token", text(&token)]).args(tracker).start();
        daemon.wait_for("ready");
        daemon
    };
    let both = ["--tracker", &one, "--tracker", &two];
    let _daemons = [daemon("writer", &both), daemon("reader", &["--tracker", &two])];
    let dft = |name: &str, words: &[&str]| scene.dft(name).args(words).arg("--json").run();
    let files = ["a", "b"].map(|name| scene.path(name));
    files.iter().zip(1..).for_each(|(file, seed)| data::random_file(file, seed, 100_000));
    dft("writer", &["put", text(&files[0])]).expect_code(0);
    until("a copy of the name", || {
        dft("reader", &["ls"]).events.iter().any(|event| event.name() == "listed")
    });
    first.kill9();
    // Reads go on, with what the copy says; writes wait for a person.
    let into = scene.new_directory("into");
    dft("reader", &["get", "a", text(&into)]).expect_code(0);
    assert_same(&files[0], &into.join("a"));
    let refused = dft("writer", &["put", text(&files[1])]);
    assert_ne!(refused.code, Some(0), "a copy took a name: {:?}", refused.events);
    second.interrupt();
    let (_promoted, again) = tracker("second", &["--promote"]);
    assert_eq!(again, two, "it is where it was");
    until("a tracker that takes names", || dft("writer", &["put", text(&files[1])]).code == Some(0));
    dft("reader", &["get", "b", text(&into)]).expect_code(0);
    assert_same(&files[1], &into.join("b"));
}
