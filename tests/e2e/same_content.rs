//! What is put again under its name: the same content is fine, whatever its times.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Lab, data};
use crate::node::{Node, nodes, until};
use crate::steps::MIB;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

/// A directory of two files, always of the same content.
fn tree_at(directory: &Path) {
    std::fs::create_dir_all(directory.join("sub")).expect("it is made");
    data::random_file(&directory.join("large"), 1, MIB);
    data::random_file(&directory.join("sub/small"), 2, 100);
}

/// Sets the time of each file and directory, as a checkout or `touch` does.
fn touch(directory: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    for path in ["large", "sub/small", "sub", ""] {
        let file = std::fs::File::open(directory.join(path)).expect("it is there");
        file.set_modified(time).expect("it takes a time");
    }
}

/// Puts it again, which must be fine and nothing new; the id.
fn put_again(node: &Node<'_>, tree: &Path) -> String {
    let put = node.run(&["put", text(tree), "--name", "tree"]);
    assert_eq!(put.event("put").value["already"], true);
    put.event("put").text("id").to_owned()
}

fn held(node: &Node<'_>) -> Vec<(String, String)> {
    let events = node.run(&["status"]).events;
    let held = events.iter().filter(|event| event.name() == "held");
    held.map(|event| (event.text("id").to_owned(), event.text("state").to_owned())).collect()
}

#[test]
fn put_of_the_same_content_with_other_times_is_the_same_dataset() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let (original, other) = (scene.path("original/tree"), scene.path("other/tree"));
    tree_at(&original);
    touch(&original, 1_000_000_000);
    let id = nodes[1].put(&original, "tree");
    let whole = || vec![(id.clone(), "complete".to_owned())];
    let got = nodes[0].get("tree");
    assert_same(&original, &got);
    nodes[0].run(&["drop", "tree"]);
    // Touched where it lies: it goes on being held, also over a restart.
    touch(&original, 1_100_000_000);
    assert_eq!(put_again(&nodes[1], &original), id);
    assert_eq!(held(&nodes[1]), whole());
    nodes[1].kill9();
    nodes[1].start_again();
    until("all of it", || held(&nodes[1]) == whole());
    // A copy on another node, with times of its own: two nodes have the one dataset.
    tree_at(&other);
    assert_eq!(put_again(&nodes[2], &other), id);
    nodes[0].until_copies("tree", 2);
    nodes[1].run(&["drop", "tree"]);
    let again = scene.new_directory("again");
    nodes[0].run(&["get", "tree", text(&again)]);
    assert_same(&got, &again.join("tree"));
    // The name was removed: it comes back with what it stood for.
    nodes[2].run(&["rm", "tree"]);
    touch(&other, 1_200_000_000);
    let put = nodes[2].run(&["put", text(&other), "--name", "tree"]);
    assert_eq!(put.event("put").text("id"), id);
    // Bytes and modes are content.
    data::set_mode(&other.join("sub/small"), 0o700);
    nodes[2].fails(7, &["put", text(&other), "--name", "tree"]);
    data::set_mode(&other.join("sub/small"), 0o644);
    data::change_byte(&other.join("large"), 1000);
    nodes[2].fails(7, &["put", text(&other), "--name", "tree"]);
}
