//! What ends or fills up in the middle: a command that its user interrupts, a daemon that is told to
//! end, a store that is full.

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::lab::process::Event;
use crate::lab::scene::Scene;
use crate::lab::tree::{assert_same, assert_same_bytes};
use crate::lab::{Lab, data};
use crate::node::{Node, nodes, until};
use crate::steps::MIB;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

fn held(node: &Node<'_>) -> Vec<Event> {
    let events = node.run(&["status"]).events;
    events.into_iter().filter(|event| event.name() == "held").collect()
}

#[test]
fn what_was_put_into_the_store_counts_against_the_quota() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &["--quota", "5M"]);
    let [first, second, other] = ["first", "second", "other"].map(|name| scene.path(name));
    for (seed, file) in [&first, &second, &other].into_iter().enumerate() {
        data::random_file(file, seed as u64, 3 * MIB);
    }
    nodes[1].put(&other, "other");
    nodes[0].run(&["put", "--copy", text(&first), "--name", "first"]);
    let status = nodes[0].run(&["status"]).event("status").clone();
    assert_eq!((status.number("store_bytes"), status.number("quota")), (3 * MIB, 5 * MIB));
    // Others have a copy, but what was put here stays.
    nodes[1].get("first");
    nodes[0].until_copies("first", 2);
    assert!(nodes[0].fails(5, &["put", "--copy", text(&second), "--name", "second"]).contains("quota"));
    assert!(nodes[0].fails(4, &["push", "other", "--to", "h0"]).contains("quota"));
    // What is read needs no room.
    let copy = scene.path("copy");
    let read = nodes[0].run(&["append", "other", text(&copy)]);
    assert!(read.stderr.contains("is read and not kept"), "{}", read.stderr);
    assert_same_bytes(&other, &copy);
    until("nothing is kept of it", || held(&nodes[0]).len() == 1);
    // In its own place it takes no room.
    nodes[0].put(&second, "second");
    nodes[0].run(&["drop", "first"]);
    nodes[0].run(&["push", "other", "--to", "h0"]);
}

#[test]
fn many_small_copies_leave_a_full_store_and_no_more_than_have_to() {
    const COPIES: u64 = 60;
    const LEN: u64 = 80 * 1024;
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &["--quota", "5M"]);
    let name = |number: u64| format!("c{number:02}");
    for number in 0..COPIES {
        let file = scene.path(&name(number));
        data::random_file(&file, number, LEN);
        nodes[0].put(&file, &name(number));
    }
    let all: Vec<String> = (0..COPIES).map(|number| format!("push {} --to h1", name(number))).collect();
    nodes[1].dft().args(["-c", &all.join(", ")]).run().expect_code(0);
    (0..COPIES).for_each(|number| nodes[0].until_copies(&name(number), 2));
    // Of 60 copies, 4.7 MiB, only 25 have room beside 3 MiB.
    let big = scene.path("big");
    data::random_file(&big, 99, 3 * MIB);
    nodes[0].put(&big, "big");
    nodes[1].run(&["push", "big", "--to", "h1"]);
    let mut left: Vec<String> = held(&nodes[1]).iter().map(|held| held.text("name").to_owned()).collect();
    left.sort_unstable();
    let room = (5 * MIB - 3 * MIB) / LEN;
    let mut expected: Vec<String> = (COPIES - room..COPIES).map(name).collect();
    expected.insert(0, "big".to_owned());
    assert_eq!(left, expected);
}

/// A file of so many MiB that takes little room on disk, since nearly all of it are holes; but none of its
/// pieces is a hole as a whole.
pub(crate) fn takes_long_to_hash(path: &Path, len_mib: u64) {
    let file = std::fs::File::create(path).expect("it is made");
    for mebibyte in 1..=len_mib {
        file.write_all_at(&[1], mebibyte * MIB - 1).expect("there is room");
    }
}

#[test]
fn put_that_is_interrupted_while_it_hashes_leaves_nothing() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let large = scene.path("large");
    takes_long_to_hash(&large, 8192);
    let small = scene.path("small");
    data::random_file(&small, 2, 100);
    for copy in [&[][..], &["--copy"]] {
        let put = nodes[0].begin(&[&["put", text(&large)], copy].concat());
        put.wait_for("progress");
        put.interrupt().expect_code(130);
        assert!(held(&nodes[0]).is_empty());
        // What comes later is done later.
        nodes[0].put(&small, "small");
        let names = nodes[0].run(&["ls"]).events;
        assert_eq!(names.iter().map(|event| event.text("name")).collect::<Vec<_>>(), ["small"]);
        assert_eq!(held(&nodes[0]).len(), 1);
        nodes[0].run(&["drop", "small", "--force"]);
        let store = nodes[0].run(&["status"]).event("status").text("store").to_owned();
        assert_eq!(std::fs::read_dir(Path::new(&store).join("data")).expect("it is there").count(), 0);
    }
}

#[test]
fn daemon_that_starts_on_a_full_disk_serves_what_it_has() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let disk = scene.new_directory("disk");
    lab.mount_small_disk(&disk, 4 * 1024);
    let keeper = Node::start(&scene, lab.host(0), &["--embed-tracker", "--open"]);
    let mut node = Node::start(&scene, lab.host(1), &["--store", text(&disk)]);
    let (kept, put, more) = (scene.path("kept"), scene.path("put"), scene.path("more"));
    for (seed, file) in [&kept, &put, &more].into_iter().enumerate() {
        data::random_file(file, seed as u64, MIB);
    }
    node.run(&["put", "--copy", text(&kept), "--name", "kept"]);
    node.put(&put, "put");
    keeper.put(&more, "more");
    node.kill9();
    let filler = lab.outside_path(&disk).join("filler");
    assert!(std::fs::write(&filler, vec![1; 4 << 20]).is_err(), "it fills the disk");
    node.start_again();
    assert_same(&kept, &keeper.get("kept"));
    assert_same(&put, &keeper.get("put"));
    // What does not fit is read all the same, and nothing of it stays.
    let copy = scene.path("copy");
    let read = node.run(&["append", "more", text(&copy)]);
    assert!(read.stderr.contains("is read and not kept"), "{}", read.stderr);
    assert_same_bytes(&more, &copy);
    until("nothing of it stays", || held(&node).len() == 2);
    let said = keeper.fails(4, &["push", "more", "--to", "h1", "--wait"]);
    assert!(said.contains("h1 does not take more") && said.contains("No space left"), "{said}");
    assert_eq!(held(&node).len(), 2, "what could not begin is not remembered");
    std::fs::remove_file(filler).expect("it is there");
    keeper.run(&["push", "more", "--to", "h1", "--wait"]);
    // Its record would fit, and it does not.
    let huge = scene.path("huge");
    data::random_file(&huge, 9, 6 * MIB);
    keeper.put(&huge, "huge");
    assert!(keeper.fails(4, &["push", "huge", "--to", "h1", "--wait"]).contains("bytes free"));
    assert_eq!(held(&node).len(), 3, "what could not begin is not remembered");
    // Who ends in good order is not counted any more.
    assert_eq!(keeper.copies("more"), Some((2, 0)));
    node.run(&["status", "--stop"]);
    assert_eq!(keeper.copies("more"), Some((1, 0)));
}

#[test]
fn daemon_that_is_told_to_end_goes_on_fetching_at_its_next_start() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 16 * MIB);
    nodes[0].put(&file, "model");
    nodes[0].run(&["limit", "--max-upload", "4M"]);
    let get = nodes[1].begin(&["get", "model"]);
    until("a quarter", || held(&nodes[1]).first().is_some_and(|held| held.number("have_bytes") > 4 * MIB));
    nodes[1].run(&["status", "--stop"]);
    get.wait().expect_code(1);
    assert!(!scene.path("h1/model").exists(), "no final name before it is complete");
    nodes[0].run(&["limit", "--max-upload", "16K"]);
    nodes[1].start_again();
    // What it had is there at once.
    until("what it had", || held(&nodes[1]).first().is_some_and(|held| held.number("have_bytes") > 4 * MIB));
    nodes[0].run(&["limit", "--max-upload", "off"]);
    nodes[0].until_copies("model", 2);
    assert_same(&file, &scene.path("h1/model"));
}
