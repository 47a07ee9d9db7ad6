//! What a `put` asks before it hashes, what it keeps from nobody, and what it leaves when it is interrupted.

use std::path::{Path, PathBuf};

use crate::endings::takes_long_to_hash;
use crate::lab::process::Outcome;
use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Lab, data};
use crate::node::{Node, nodes, until};
use crate::steps::MIB;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

fn is_at_work(outcome: &Outcome, verb: &str) -> bool {
    outcome.events.iter().any(|event| event.name() == "progress" && event.text("verb") == verb)
}

#[test]
fn put_that_will_be_refused_hashes_nothing() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let keeper = Node::start(&scene, lab.host(0), &["--embed-tracker"]);
    let stranger = Node::start(&scene, lab.host(1), &[]);
    let (small, large) = (scene.path("small"), scene.path("large"));
    data::random_file(&small, 5, 1000);
    takes_long_to_hash(&large, 8192);
    keeper.put(&small, "small");
    let unproven = stranger.begin(&["put", text(&large), "--name", "large"]).wait().expect_code(1);
    assert!(unproven.stderr.contains("wants its token"), "{}", unproven.stderr);
    assert!(!is_at_work(&unproven, "hashing"), "{:?}", unproven.events);
    let taken = keeper.begin(&["put", text(&large), "--name", "small"]).wait().expect_code(7);
    assert!(taken.stderr.contains("belongs to dataset"), "{}", taken.stderr);
    assert!(!is_at_work(&taken, "hashing"), "{:?}", taken.events);
}

#[test]
fn status_tells_of_datasets_by_name() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let names = ["d", "b", "e", "a", "c", "f"];
    for (number, name) in names.into_iter().enumerate() {
        let file = scene.path(name);
        data::random_file(&file, number as u64, 1000);
        nodes[0].put(&file, name);
    }
    let listed = || nodes[0].run(&["status"]).events;
    let held: Vec<_> = listed().into_iter().filter(|event| event.name() == "held").collect();
    let told: Vec<_> = held.iter().map(|event| event.text("name")).collect();
    assert_eq!(told, ["a", "b", "c", "d", "e", "f"]);
    let said = nodes[0].dft().args(["put", text(&scene.path("a"))]).run().expect_code(0).stdout;
    assert!(said.contains("1 piece, id"), "{said}");
}

/// A file that is «model» for all, of which the second node sends little at a time.
fn put_on_a_slow_node(scene: &Scene, nodes: &[Node<'_>]) -> PathBuf {
    let file = scene.path("model");
    data::random_file(&file, 5, 8 * MIB);
    nodes[1].put(&file, "model");
    nodes[1].run(&["limit", "--max-upload", "100K"]);
    file
}

#[test]
fn put_of_what_is_being_fetched_is_done_at_once_and_the_fetch_goes_on_from_it() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = put_on_a_slow_node(&scene, &nodes);
    let get = nodes[2].begin(&["get", "model"]);
    until("a fetch", || nodes[2].status().contains("\"fetching\""));
    // A disk with the same arrives.
    nodes[2].put(&file, "model");
    get.wait().expect_code(0);
    assert_same(&file, &scene.path("h2/model"));
    nodes[0].until_copies("model", 2);
    let left: Vec<_> = std::fs::read_dir(scene.path("h2")).expect("it is there").flatten().collect();
    assert_eq!(left.len(), 1, "no part is left: {left:?}");
}

#[test]
fn copy_of_what_is_being_fetched_into_the_store_takes_its_place() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = put_on_a_slow_node(&scene, &nodes);
    nodes[1].run(&["push", "model", "--to", "h2"]);
    until("a fetch", || nodes[2].status().contains("\"fetching\""));
    nodes[2].run(&["put", "--copy", text(&file), "--name", "model"]);
    let held = nodes[2].run(&["status"]).event("held").clone();
    assert_eq!((held.text("state"), &held.value["in_store"]), ("complete", &serde_json::json!(true)));
    assert_same(&file, Path::new(held.text("path")));
    nodes[0].until_copies("model", 2);
}

#[test]
fn put_that_is_refused_leaves_a_fetch_as_it_was() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let (file, other) = (put_on_a_slow_node(&scene, &nodes), scene.path("other"));
    data::random_file(&other, 6, 8 * MIB);
    nodes[1].put(&other, "taken");
    nodes[1].run(&["push", "model", "--to", "h2"]);
    until("a fetch", || nodes[2].status().contains("\"fetching\""));
    for copy in [&[][..], &["--copy"]] {
        let put = [&["put", text(&file), "--name", "taken"], copy].concat();
        assert!(nodes[2].fails(7, &put).contains("belongs to dataset"));
        let held = nodes[2].run(&["status"]).event("held").clone();
        assert_eq!(held.value["origin"], false, "{copy:?}: {}", held.value);
    }
    nodes[1].run(&["limit", "--max-upload", "off"]);
    nodes[0].until_copies("model", 2);
    let held = nodes[2].run(&["status"]).event("held").clone();
    assert_eq!(
        (held.text("name"), &held.value["in_store"]),
        ("model", &serde_json::json!(true)),
        "{}",
        held.value
    );
}

#[test]
fn copy_into_the_store_keeps_nobody_else_from_it_and_goes_when_it_is_interrupted() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &["--quota", "4G"]);
    let (large, small) = (scene.path("large"), scene.path("small"));
    takes_long_to_hash(&large, 3000);
    data::random_file(&small, 5, 1000);
    nodes[0].put(&small, "small");
    let held = || nodes[1].run(&["status"]).events.iter().filter(|event| event.name() == "held").count();
    let store = nodes[1].run(&["status"]).event("status").text("store").to_owned();
    let kept = || std::fs::read_dir(Path::new(&store).join("data")).expect("it is there").count();
    for is_interrupted_at_once in [true, false] {
        let put = nodes[1].begin(&["put", "--copy", text(&large)]);
        until("a copy that is being made", || kept() > 0);
        if !is_interrupted_at_once {
            // Others find room meanwhile, and not the room that is taken, for which the pushed copy would leave.
            nodes[0].run(&["push", "small", "--to", "h1"]);
            let refused = nodes[1].fails(5, &["put", "--copy", text(&other(&scene)), "--name", "other"]);
            assert!(refused.contains("quota"), "{refused}");
            let done = put.events().iter().any(|event| event.name() == "put");
            assert!(!done, "it was copied too fast to tell anything");
        }
        put.interrupt().expect_code(130);
        // What was pushed left for the copy that was refused.
        until("nothing that is held", || held() == 0);
        until("no data of it", || kept() == 0);
        assert!(nodes[0].copies("large").is_none(), "nobody hears of it");
    }
}

/// Too large for the room that is left.
fn other(scene: &Scene) -> PathBuf {
    let path = scene.path("other");
    takes_long_to_hash(&path, 1200);
    path
}

#[test]
fn secrets_of_a_node_are_put_under_no_name() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let mut node = Node::start(&scene, lab.host(0), &["--embed-tracker"]);
    let home = scene.path("h0.state");
    std::fs::write(home.join(".config/mine"), "text").expect("it is written");
    for (directory, name) in [(home.join(".config"), "config"), (home.join("data"), "data")] {
        let put = node.run(&["put", text(&directory), "--name", name]);
        assert!(put.stderr.contains("a secret of this node"), "{}", put.stderr);
        let files = node.run(&["ls", "--files", name]);
        let paths: Vec<&str> = files.events.iter().map(|file| file.text("path")).collect();
        let is_secret = |path: &&str| path.ends_with("token") || path.ends_with("identity");
        assert!(!paths.is_empty() && !paths.iter().any(is_secret), "{paths:?}");
    }
    // It is what it was when it is opened again.
    node.kill9();
    node.start_again();
    let held = || node.run(&["status"]).events.into_iter().filter(|event| event.name() == "held");
    until("it is opened", || held().all(|held| held.text("state") != "opening"));
    let config = held().find(|held| held.text("name") == "config").expect("it is held");
    assert_eq!(config.text("state"), "complete", "{}", config.value);
}
