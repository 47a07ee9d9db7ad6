//! What becomes of a name that is taken back, and what a dataset holds.

use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Lab, data};
use crate::node::nodes;

#[test]
fn name_that_was_removed_stays_its_own_until_it_is_freed() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let files = ["old", "new", "newer"].map(|name| scene.path(name));
    for (seed, file) in files.iter().enumerate() {
        data::random_file(file, seed as u64, 1000);
    }
    let [old, new, newer] = files.each_ref().map(|file| file.to_str().expect("a path of a test"));
    let id = nodes[0].put(&files[0], "name");
    assert!(nodes[1].fails(7, &["put", new, "--name", "name"]).contains("dft rm NAME --forget"));
    assert!(nodes[1].fails(7, &["rm", "name", "--id", "00000000"]).contains(&id));
    nodes[1].run(&["rm", "name", "--id", &id[..8]]);
    let refused = nodes[1].fails(7, &["put", new, "--name", "name"]);
    let hint = format!("dft rm name --forget --id {id}");
    assert!(refused.contains(&hint), "{refused}");
    assert!(nodes[1].fails(7, &["rm", "name", "--forget"]).contains("knows no name"));
    nodes[1].fails(2, &["rm", "name", "--forget", "--id", &id[..8]]);
    // As the hint says, word by word.
    nodes[1].run(&hint.split(' ').skip(1).collect::<Vec<_>>());
    nodes[1].run(&["put", new, "--name", "name"]);
    assert_same(&files[1], &nodes[0].get("name"));
    // A node that holds both gives up what the name stands for, or the one that is named.
    assert_ne!(nodes[0].run(&["drop", "name", "--force"]).event("gone").text("id"), id);
    nodes[0].get("name");
    nodes[1].run(&["rm", "name"]);
    let which = nodes[0].fails(2, &["drop", "name", "--force"]);
    assert!(which.contains(&id[..12]) && which.contains("--id"), "{which}");
    let gone = nodes[0].run(&["drop", "name", "--force", "--id", &id[..12]]);
    assert_eq!(gone.event("gone").text("id"), id);
    nodes[1].run(&["put", new, "--name", "name"]);
    // One step is enough where it was not removed before.
    nodes[0].run(&["rm", "name", "--forget"]);
    nodes[0].run(&["put", newer, "--name", "name"]);
    nodes[0].fails(7, &["put", old, "--name", "name"]);
}

#[test]
fn files_of_a_dataset_are_listed() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let tree = scene.new_directory("tree");
    std::fs::create_dir(tree.join("run")).expect("it is made");
    data::random_file(&tree.join("run/1.csv"), 1, 1000);
    std::os::unix::fs::symlink("run/1.csv", tree.join("latest")).expect("a link");
    nodes[0].run(&["put", tree.to_str().expect("a path of a test")]);
    let listed = nodes[1].run(&["ls", "--files", "tree"]);
    let files = listed.events.iter().filter(|event| event.name() == "file");
    let files: Vec<(String, String, u64)> = files
        .map(|file| (file.text("kind").to_owned(), file.text("path").to_owned(), file.number("bytes")))
        .collect();
    let expected = [("symlink", "latest", 0), ("directory", "run", 0), ("file", "run/1.csv", 1000)];
    assert_eq!(files, expected.map(|(kind, path, bytes)| (kind.to_owned(), path.to_owned(), bytes)));
    let text = nodes[1].dft().args(["ls", "--files", "tree"]).run().expect_code(0).stdout;
    for word in ["latest -> run/1.csv", "run/", "1000 B", "run/1.csv"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    nodes[1].fails(7, &["ls", "--files", "nothing"]);
    nodes[1].fails(2, &["ls", "--files"]);
}
