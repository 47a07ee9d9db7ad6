//! `dft cat` of what is not here: in order, no more than is read, and nothing of it stays.

use std::path::{Path, PathBuf};

use crate::lab::Lab;
use crate::lab::scene::Scene;
use crate::lab::tree::{assert_same, assert_same_bytes};
use crate::node::{Node, nodes, until};
use crate::steps::MIB;

const LINE_LEN: usize = 8;
const LINES: usize = 2 << 20;

/// 16 MiB of lines, no two of them the same.
fn lines(first: usize) -> String {
    (first..first + LINES).map(|number| format!("{number:07}\n")).collect()
}

/// Writes files of such lines below the scene's directory `name`.
fn tree_of(scene: &Scene, name: &str, files: &[&str]) -> (PathBuf, Vec<String>) {
    let tree = scene.new_directory(name);
    let texts: Vec<String> = (0..files.len()).map(|number| lines(number * LINES)).collect();
    for (file, text) in files.iter().zip(&texts) {
        std::fs::write(tree.join(file), text).expect("it is written");
    }
    (tree, texts)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

fn held(node: &Node<'_>) -> usize {
    node.run(&["status"]).events.iter().filter(|event| event.name() == "held").count()
}

/// Whether this is what was printed; the harness cuts the last newline off.
fn assert_printed(printed: &str, expected: &str) {
    assert!(printed == expected.trim_end(), "{} bytes were printed", printed.len());
}

#[test]
fn who_reads_a_part_fetches_that_alone_and_keeps_nothing() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let (tree, texts) = tree_of(&scene, "tree", &["a", "b"]);
    nodes[0].run(&["put", text(&tree), "--compress", "off"]);
    let before = lab.host(0).sent_bytes();
    let cat = nodes[1].dft().args(["cat", "tree", "b", "--range", "8M-9M"]).run().expect_code(0);
    assert_printed(&cat.stdout, &texts[1][8 << 20..9 << 20]);
    let sent = lab.host(0).sent_bytes() - before;
    assert!(sent < 4 * MIB, "{sent} bytes were sent for 1 MiB");
    until("nothing of it stays", || held(&nodes[1]) == 0);
    assert_eq!(nodes[0].copies("tree"), Some((1, 0)), "nobody was told of it");
    // A whole file of it, too.
    let copy = scene.path("copy");
    nodes[1].run(&["append", "tree", text(&copy), "--path", "a"]);
    assert_same_bytes(&tree.join("a"), &copy);
    until("nothing of it stays", || held(&nodes[1]) == 0);
}

#[test]
fn what_is_read_comes_in_order() {
    const MARKS: usize = 16;
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let mut marked = String::new();
    for number in 0..MARKS {
        marked += &format!("{{\"event\":\"mark {number}\"}}\n");
        marked += &lines(number * LINES)[..2 << 20];
    }
    let file = scene.path("log");
    std::fs::write(&file, &marked).expect("it is written");
    nodes[0].run(&["put", text(&file), "--compress", "off"]);
    nodes[0].run(&["limit", "--max-upload", "2M"]);
    let cat = nodes[1].dft().args(["cat", "log"]).start();
    for number in 0..MARKS / 4 {
        cat.wait_for(&format!("mark {number}"));
        let have = nodes[1].run(&["status"]).event("held").number("have_bytes");
        // Some are ahead, and the harness may be late; in an order of its own, most of 32 MiB would be here.
        let bound = (number as u64 + 4) * 2 * MIB;
        assert!(have <= bound, "{have} bytes were here when number {number} was printed");
    }
    nodes[0].run(&["limit", "--max-upload", "off"]);
    cat.wait().expect_code(0);
}

#[test]
fn several_read_at_once_and_whoever_keeps_it_takes_nothing_from_them() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let (tree, texts) = tree_of(&scene, "tree", &["a", "b", "c"]);
    nodes[0].run(&["put", text(&tree), "--compress", "off"]);
    nodes[0].run(&["limit", "--max-upload", "4M"]);
    let cats: Vec<_> =
        ["a", "b", "c"].iter().map(|file| nodes[1].dft().args(["cat", "tree", file]).start()).collect();
    let states = || -> Vec<String> {
        let status = nodes[1].run(&["status"]).events;
        let held = status.iter().filter(|event| event.name() == "held");
        held.map(|event| event.text("state").to_owned()).collect()
    };
    until("it is read", || states() == ["reading"]);
    let get = nodes[1].begin(&["get", "tree"]);
    until("it is kept", || states() == ["fetching"]);
    nodes[0].run(&["limit", "--max-upload", "off"]);
    for (cat, text) in cats.into_iter().zip(&texts) {
        assert_printed(&cat.wait().expect_code(0).stdout, text);
    }
    get.wait().expect_code(0);
    assert_same(&tree, &scene.path("h1/tree"));
}

#[test]
fn reader_that_leaves_takes_what_is_read_along() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let (tree, _) = tree_of(&scene, "tree", &["a", "b"]);
    nodes[0].run(&["put", text(&tree), "--compress", "off"]);
    nodes[0].run(&["limit", "--max-upload", "1M"]);
    let cat = nodes[1].dft().args(["cat", "tree", "a"]).start();
    until("it is read", || held(&nodes[1]) == 1);
    cat.kill9();
    until("nobody reads it", || held(&nodes[1]) == 0);
    nodes[0].run(&["limit", "--max-upload", "off"]);
    let line = nodes[1].dft().args(["cat", "tree", "b", "--range", "0-8"]).run().expect_code(0);
    assert_eq!(line.stdout.len() + 1, LINE_LEN);
}

#[test]
fn several_read_all_of_it_where_the_store_has_no_room() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &["--quota", "5M"]);
    let file = scene.path("log");
    let text_of_log = lines(0);
    std::fs::write(&file, &text_of_log).expect("it is written");
    nodes[0].run(&["put", text(&file), "--compress", "off"]);
    nodes[0].run(&["limit", "--max-upload", "8M"]);
    let cats: Vec<_> = (0..3).map(|_| nodes[1].dft().args(["cat", "log"]).start()).collect();
    // Who asks for a copy that has no room takes nothing from them either.
    for _ in 0..20 {
        assert!(nodes[0].fails(4, &["push", "log", "--to", "h1"]).contains("quota"));
    }
    for cat in cats {
        let outcome = cat.wait().expect_code(0);
        assert_printed(&outcome.stdout, &text_of_log);
        assert_eq!(outcome.stderr.matches("is read and not kept").count(), 1, "{}", outcome.stderr);
    }
    until("nothing of it stays", || held(&nodes[1]) == 0);
}

#[test]
fn what_is_of_no_use_is_set_aside_while_it_is_read() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let (tree, texts) = tree_of(&scene, "tree", &["a", "b"]);
    nodes[0].run(&["put", text(&tree), "--compress", "off"]);
    let copy = nodes[1].get("tree");
    std::fs::remove_dir_all(&copy).expect("it is removed");
    let before = lab.host(0).sent_bytes();
    let cat = nodes[1].dft().args(["cat", "tree", "a", "--range", "0-1M"]).run().expect_code(0);
    assert_printed(&cat.stdout, &texts[0][..1 << 20]);
    let sent = lab.host(0).sent_bytes() - before;
    assert!(sent < 4 * MIB, "{sent} bytes were sent for 1 MiB");
    until("it is remembered", || {
        let status = nodes[1].run(&["status"]).events;
        status.iter().any(|event| event.name() == "held" && event.text("state") != "reading")
    });
    assert!(!copy.exists(), "nothing was fetched to where it was");
}
