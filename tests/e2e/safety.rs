//! What daemons must never do: lose what was acknowledged, forget what they hold since its disk is
//! away, believe an outsider, remove what is not theirs.

use std::path::{Path, PathBuf};

use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Lab, data};
use crate::node::{Node, nodes, until};
use crate::steps::MIB;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

fn state(node: &Node<'_>) -> String {
    node.run(&["status"]).event("held").text("state").to_owned()
}

#[test]
fn copies_into_the_store_outlive_the_original() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    for (seed, name, is_held_already) in [(5, "new", false), (6, "held", true)] {
        let (file, kept) = (scene.path(name), scene.path(&format!("{name}.kept")));
        data::random_file(&file, seed, 2 * MIB);
        std::fs::copy(&file, &kept).expect("it is copied");
        if is_held_already {
            nodes[0].put(&file, name);
        }
        nodes[0].run(&["put", "--copy", text(&file), "--name", name]);
        std::fs::remove_file(&file).expect("it is removed");
        nodes[0].kill9();
        nodes[0].start_again();
        let got = nodes[1].get(name);
        assert!(std::fs::read(got).expect("it is there") == std::fs::read(kept).expect("it is there"));
    }
}

#[test]
fn what_was_put_is_served_again_when_its_disk_is_back() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let (disk, away) = (scene.new_directory("disk"), scene.path("away"));
    let file = disk.join("model");
    data::random_file(&file, 5, MIB);
    nodes[0].put(&file, "model");
    nodes[0].kill9();
    std::fs::rename(&disk, &away).expect("it is moved");
    nodes[0].start_again();
    until("a failure", || state(&nodes[0]) == "failed");
    // Whoever asks for it meanwhile does not make the node forget where it is.
    let target = scene.new_directory("target");
    assert!(nodes[0].fails(6, &["get", "model", text(&target)]).contains("its disk is away"));
    assert_eq!(nodes[0].dft().args(["cat", "model"]).run().code, Some(6));
    nodes[1].fails(4, &["push", "model", "--to", "h0"]);
    nodes[0].kill9();
    std::fs::rename(&away, &disk).expect("it is moved");
    nodes[0].start_again();
    until("all of it", || state(&nodes[0]) == "complete");
    assert_same(&file, &nodes[1].get("model"));
    // Also without a restart, once somebody asks.
    std::fs::rename(&disk, &away).expect("it is moved");
    until("its loss", || state(&nodes[0]) == "damaged");
    std::fs::rename(&away, &disk).expect("it is moved");
    nodes[0].run(&["get", "model", text(&target)]);
    assert_same(&file, &target.join("model"));
    assert_eq!(state(&nodes[0]), "complete");
}

/// A file in the store of the second node, of which the first has the original.
fn copied_into_the_store(scene: &Scene, nodes: &[Node<'_>]) -> (PathBuf, PathBuf) {
    let file = scene.path("model");
    data::random_file(&file, 5, 2 * MIB);
    nodes[0].put(&file, "model");
    nodes[1].run(&["push", "model", "--to", "h1"]);
    nodes[0].until_copies("model", 2);
    let copy = nodes[1].run(&["status"]).event("held").text("path").to_owned();
    (file, PathBuf::from(copy))
}

#[test]
fn copy_that_changes_in_the_store_is_not_served_and_comes_again() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let (file, copy) = copied_into_the_store(&scene, &nodes);
    // Whoever reads notices, and gets what others have.
    data::change_byte(&copy, 1000);
    let local = scene.path("local");
    std::fs::write(&local, "").expect("it is written");
    nodes[1].run(&["append", "model", text(&local)]);
    assert!(std::fs::read(&local).expect("it is there") == std::fs::read(&file).expect("it is there"));
    until("a whole copy", || state(&nodes[1]) == "complete");
    assert_same(&file, &copy);
    let target = scene.new_directory("target");
    data::change_byte(&copy, 1000);
    nodes[1].run(&["get", "model", text(&target)]);
    assert_same(&file, &target.join("model"));
    // Nobody else has it: the others do not count on it any more, and get nothing of it.
    until("a whole copy", || state(&nodes[1]) == "complete");
    nodes[0].run(&["drop", "model", "--force"]);
    nodes[2].until_copies("model", 1);
    data::change_byte(&copy, 1000);
    assert_eq!(nodes[1].dft().args(["cat", "model"]).run().code, Some(6));
    nodes[2].until_copies("model", 0);
    nodes[2].fails(4, &["get", "model", "--timeout", "2s"]);
    // Once somebody has it, so has this node, though nobody asks it.
    nodes[0].put(&file, "model");
    until("a whole copy", || state(&nodes[1]) == "complete");
    assert_same(&file, &copy);
}

#[test]
fn damaged_copy_in_the_store_stays_until_it_is_whole_again() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let (file, copy) = copied_into_the_store(&scene, &nodes);
    nodes[1].kill9();
    data::change_byte(&copy, 1000);
    nodes[0].run(&["drop", "model", "--force"]);
    nodes[1].start_again();
    until("a failure", || state(&nodes[1]) == "failed");
    // What it announced before it was killed is not counted any more.
    nodes[0].until_copies("model", 0);
    assert_eq!(nodes[1].dft().args(["cat", "model"]).run().code, Some(6));
    assert!(copy.exists(), "it stays, damaged as it is");
    nodes[0].put(&file, "model");
    nodes[0].run(&["push", "model", "--to", "h1"]);
    nodes[0].until_copies("model", 2);
    assert_same(&file, &copy);
}

#[test]
fn of_a_damaged_copy_only_what_is_damaged_comes_again() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let tree = scene.new_directory("tree");
    for (seed, name) in ["changes", "goes", "shrinks", "stays"].into_iter().enumerate() {
        data::random_file(&tree.join(name), seed as u64, 4 * MIB);
    }
    nodes[0].put(&tree, "tree");
    nodes[1].run(&["push", "tree", "--to", "h1"]);
    nodes[0].until_copies("tree", 2);
    let sent = |nodes: &[Node<'_>]| nodes[0].run(&["status"]).event("held").number("sent_bytes");
    let copy = PathBuf::from(nodes[1].run(&["status"]).event("held").text("path"));
    // A daemon says what it sent a moment after its receiver has it.
    let until_sent = |nodes: &[Node<'_>], bytes| until("it is counted", || sent(nodes) >= bytes);
    until_sent(&nodes, 16 * MIB);
    // One byte while it is served, and more of it while nobody looks.
    let whole = sent(&nodes);
    data::change_byte(&copy.join("changes"), 3 * MIB);
    nodes[1].run(&["append", "tree", text(&scene.path("h1/local")), "--path", "changes"]);
    until("a whole copy", || state(&nodes[1]) == "complete");
    assert_same(&tree, &copy);
    until_sent(&nodes, whole + 1);
    let byte = sent(&nodes) - whole;
    assert!(byte <= MIB, "{byte} bytes were sent for a damaged one");
    nodes[1].kill9();
    std::fs::remove_file(copy.join("goes")).expect("it is there");
    std::fs::File::options()
        .write(true)
        .open(copy.join("shrinks"))
        .and_then(|file| file.set_len(2 * MIB))
        .expect("it is shortened");
    nodes[1].start_again();
    until("a whole copy", || state(&nodes[1]) == "complete");
    assert_same(&tree, &copy);
    until_sent(&nodes, whole + byte + 4 * MIB);
    let files = sent(&nodes) - whole - byte;
    assert!((4 * MIB..9 * MIB).contains(&files), "{files} bytes were sent for one and a half files");
}

#[test]
fn cat_prints_no_byte_that_changed_on_disk() {
    const LINES: usize = 1 << 20;
    const LINE_LEN: usize = 8;
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let numbers: String = (0..LINES).map(|number| format!("{number:07}\n")).collect();
    let file = scene.path("numbers");
    std::fs::write(&file, &numbers).expect("it is written");
    nodes[0].run(&["put", text(&file), "--name", "numbers", "--compress", "off"]);
    nodes[0].run(&["limit", "--max-upload", "512K"]);
    let assert_read = |options: &[&str], lines: std::ops::Range<usize>| {
        let cat = nodes[1].dft().args(["cat", "numbers"]).args(options).run().expect_code(0);
        let expected = &numbers[lines.start * LINE_LEN..lines.end * LINE_LEN];
        assert!(cat.stdout == expected.trim_end(), "cat {options:?} printed something else");
    };
    // These pieces are here and verified, and the fetch goes on.
    nodes[1].run(&["push", "numbers", "--to", "h1"]);
    assert_read(&["--range", "0-1M"], 0..LINES / 8);
    let data = nodes[1].run(&["status"]).event("held").text("path").to_owned();
    let part = Path::new(&data).join(".numbers.dft-part/data");
    for place in [0, 5, 12] {
        data::change_byte(&part, place * MIB / 16 + 5000);
    }
    assert_read(&["--range", "1K-1M"], 1024 / LINE_LEN..LINES / 8);
    nodes[0].run(&["limit", "--max-upload", "off"]);
    nodes[0].until_copies("numbers", 2);
    assert_read(&[], 0..LINES);
}

#[test]
fn get_looks_before_it_says_that_all_is_there() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, MIB);
    nodes[0].put(&file, "model");
    let copy = nodes[1].get("model");
    assert_eq!(nodes[1].get("model"), copy);
    data::change_byte(&copy, 1000);
    // What its user made of it is not replaced unless he says so.
    assert!(nodes[1].fails(5, &["get", "model"]).contains("--force"));
    nodes[1].run(&["get", "model", "--force"]);
    assert_same(&file, &copy);
}

#[test]
fn fetched_copy_that_its_user_removed_keeps_nobody_from_it() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let tree = scene.new_directory("tree");
    for (seed, name) in ["a.raw", "b.log"].into_iter().enumerate() {
        data::random_file(&tree.join(name), seed as u64, MIB);
    }
    nodes[0].put(&tree, "tree");
    let copy = nodes[1].get("tree");
    nodes[0].until_copies("tree", 2);
    std::fs::remove_dir_all(&copy).expect("it is there");
    nodes[0].until_copies("tree", 1);
    // Selfishly, all of it and a part; what is remembered stays.
    for (name, options) in [("all", &["--peek"][..]), ("part", &["--include", "*.log"])] {
        let target = scene.new_directory(name);
        nodes[1].run(&[&["get", "tree", text(&target)], options].concat());
        assert_same(&tree.join("b.log"), &target.join("tree/b.log"));
        until("what was before", || state(&nodes[1]) == "failed");
        assert_eq!(nodes[0].copies("tree"), Some((1, 0)));
    }
    nodes[0].run(&["push", "tree", "--to", "h1", "--wait"]);
    let held = nodes[1].run(&["status"]).event("held").clone();
    assert_eq!((held.text("state"), &held.value["in_store"]), ("complete", &true.into()));
    assert_same(&tree, Path::new(held.text("path")));
}

#[test]
fn get_with_force_goes_on_after_a_restart() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 4 * MIB);
    nodes[0].put(&file, "model");
    nodes[0].run(&["limit", "--max-upload", "64K"]);
    let there = scene.path("h1/model");
    std::fs::write(&there, "something else").expect("it is written");
    let get = nodes[1].begin(&["get", "model", "--force"]);
    until("a beginning", || nodes[1].status().contains("\"fetching\""));
    nodes[1].kill9();
    get.wait().expect_code(1);
    assert_eq!(std::fs::read(&there).expect("it is there"), b"something else");
    nodes[1].start_again();
    nodes[0].run(&["limit", "--max-upload", "off"]);
    nodes[0].until_copies("model", 2);
    assert_same(&file, &there);
}

#[test]
fn put_that_loses_its_name_leaves_what_another_counts_on() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let (taken, file) = (scene.path("taken"), scene.path("n"));
    data::random_file(&taken, 1, 1000);
    data::random_file(&file, 2, 1000);
    nodes[1].put(&taken, "a/n");
    for round in 0..10 {
        let mine = format!("b{round}/n");
        let puts = ["a/n", &mine].map(|name| nodes[0].begin(&["put", text(&file), "--name", name]));
        let [lost, won] = puts.map(|put| put.wait().code);
        assert_eq!((lost, won), (Some(7), Some(0)), "round {round}");
        // Which of them began it is chance; what was acknowledged is there.
        nodes[0].until_copies(&mine, 1);
        nodes[0].run(&["drop", &mine, "--force"]);
    }
}

#[test]
fn directory_that_is_no_store_is_left_alone() {
    let scene = Scene::new();
    let mine = scene.path("experiment/data/results");
    std::fs::create_dir_all(mine.parent().expect("a directory")).expect("it is made");
    std::fs::write(&mine, "precious").expect("it is written");
    let store = scene.path("experiment");
    let daemon = ["daemon", "--no-mdns", "--listen", "127.0.0.1", "--store", text(&store)];
    let refused = scene.dft("node").args(daemon).run().expect_code(2);
    assert!(refused.stderr.contains("is no store of dft, and not empty"), "{}", refused.stderr);
    assert_eq!(std::fs::read(&mine).expect("it is there"), b"precious");
}

#[test]
fn verbs_typed_in_a_shell_obey_the_configured_secret() {
    let scene = Scene::new();
    let (file, missing) = (scene.path("file"), scene.path("no-secret"));
    data::random_file(&file, 1, 1000);
    crate::config::configure(&scene, "here", &format!("secret = '{}'\n", text(&missing)));
    let options = "--no-mdns --listen 127.0.0.1 --exit-after-copies 0";
    let batch = format!("seed '{}' {options} -o '{}'", text(&file), text(&scene.path("file.dft")));
    // Without the secret that the file names, nothing is served.
    let refused = scene.dft("here").args(["-c", &batch]).run().expect_code(2);
    assert!(refused.stderr.contains("cannot read the secret"), "{}", refused.stderr);
}
