//! Which catalogue daemons use where nobody named one: none that does not answer, the same of several, and
//! another one when theirs is gone.

use std::path::Path;

use crate::lab::process::Process;
use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Host, Lab, data};
use crate::node::{Node, until};

const KEEPS: [&str; 2] = ["--embed-tracker", "--open"];

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

/// The trackers that a node uses, and what a person should know of its catalogue.
fn catalogue_of(node: &Node<'_>) -> (Vec<String>, String) {
    let status = node.run(&["status"]);
    let status = status.event("status");
    (status.texts("trackers"), status.texts("catalogue_problems").join("; "))
}

fn until_found(node: &Node<'_>) -> Vec<String> {
    until("a catalogue", || !catalogue_of(node).0.is_empty());
    catalogue_of(node).0
}

#[test]
fn of_two_catalogues_on_a_lan_all_find_the_same_and_say_so() {
    let Some(lab) = Lab::hosts(4).start_or_skip() else { return };
    let scene = Scene::new();
    let first = Node::start(&scene, lab.host(0), &KEEPS);
    let file = scene.path("model");
    data::random_file(&file, 5, 1000);
    first.put(&file, "model");
    let early = Node::start(&scene, lab.host(1), &[]);
    let own = first.run(&["status"]).event("status").texts("trackers");
    assert_eq!(until_found(&early), own);
    // Somebody starts another one by mistake.
    let second = Node::start(&scene, lab.host(2), &KEEPS);
    let warned = second.daemon().wait_for("warning");
    let said = warned.text("message");
    let of = |number: usize| format!("(node {})", lab.host(number).name());
    for word in ["two catalogues are on this LAN", &of(0), &of(2), "this node keeps the first", "--tracker"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    // Whoever comes later finds that with names in it.
    let late = Node::start(&scene, lab.host(3), &[]);
    assert_eq!(until_found(&late), own);
    assert_same(&file, &late.get("model"));
    for node in [&first, &early, &late] {
        let said = node.daemon().wait_for("warning").text("message").to_owned();
        assert!(said.contains(&of(0)) && said.contains(&of(2)), "{said}");
        let (trackers, problems) = catalogue_of(node);
        assert_eq!(trackers, own);
        assert!(problems.contains("two catalogues"), "{problems}");
    }
    let shown = late.dft().arg("status").run().expect_code(0).stdout;
    assert!(shown.contains("two catalogues are on this LAN"), "{shown}");
}

#[test]
fn catalogue_that_does_not_answer_is_neither_believed_in_nor_kept_to() {
    let Some(lab) = Lab::hosts(4).start_or_skip() else { return };
    let scene = Scene::new();
    let nowhere = format!("{}:4711", lab.host(3).v4());
    let told = Node::start(&scene, lab.host(0), &["--tracker", &nowhere]);
    let finder = Node::start(&scene, lab.host(1), &[]);
    let said = finder.fails(4, &["ls"]);
    assert!(said.contains("is said to keep one, and does not answer"), "{said}");
    until("a silence that is told of", || catalogue_of(&told).1.contains("has not answered"));
    let mut keeper = Node::start(&scene, lab.host(2), &KEEPS);
    let own = keeper.run(&["status"]).event("status").texts("trackers");
    assert_eq!(until_found(&finder), own);
    assert_eq!(catalogue_of(&told).0, [nowhere], "what was named stays");
    // It goes for good; another node takes over.
    keeper.kill9();
    until("a silence that is told of", || catalogue_of(&finder).1.contains("has not answered"));
    let next = Node::start(&scene, lab.host(3), &KEEPS);
    let own = next.run(&["status"]).event("status").texts("trackers");
    until("another catalogue", || catalogue_of(&finder).0 == own);
    let warned = finder.daemon().stderr();
    assert!(warned.contains("does not answer; this node uses another one, at"), "{warned}");
    let file = scene.path("model");
    data::random_file(&file, 5, 1000);
    finder.put(&file, "model");
    assert_same(&file, &next.get("model"));
}

#[test]
fn copy_of_a_catalogue_is_found_when_its_first_tracker_is_gone() {
    let Some(lab) = Lab::hosts(4).start_or_skip() else { return };
    let scene = Scene::new();
    let tracker = |host: Host<'_>, options: &[&str]| -> (Process, String) {
        let listen = format!("{}:4711", host.v4());
        let state = scene.new_directory(&format!("{}.tracker", host.name()));
        let token = text(&scene.path("token")).to_owned();
        let tracker = scene.dft_on(host, &format!("tracker {}", host.name())).args(["tracker", "--json"]);
        let tracker = tracker.args(["--state", text(&state), "--token", &token, "--listen", &listen]);
        let tracker = tracker.args(options).start();
        tracker.wait_for("listening");
        (tracker, listen)
    };
    let (first, one) = tracker(lab.host(0), &[]);
    let (_second, two) = tracker(lab.host(1), &["--follow", &one]);
    let token = text(&scene.path("token")).to_owned();
    let told = Node::start(&scene, lab.host(2), &["--tracker", &one, "--token", &token]);
    // It finds the one tracker that is named on its LAN, by an address without an identity.
    let mut finder = Node::start(&scene, lab.host(3), &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 1000);
    told.put(&file, "model");
    assert_eq!(until_found(&finder), [format!("/ip4/{}/tcp/4711", lab.host(0).v4())]);
    finder.run(&["ls"]).event("listed");
    // Somebody tells one node of the copy.
    drop(told);
    let both = ["--tracker", &one, "--tracker", &two, "--token", &token];
    let _told = Node::start(&scene, lab.host(2), &both);
    let reader = Node::start(&scene, lab.host(1), &["--tracker", &two, "--no-mdns"]);
    until("a copy of the name", || reader.run(&["ls"]).events.iter().any(|event| event.name() == "listed"));
    first.kill9();
    until("the copy", || finder.begin(&["ls"]).wait().code == Some(0));
    let warned = finder.daemon().stderr();
    assert!(warned.contains("does not answer; it is found at"), "{warned}");
    assert_same(&file, &finder.get("model"));
    finder.kill9();
}

#[test]
fn catalogue_that_was_kept_by_mistake_is_kept_no_more_once_another_is_named() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let first = Node::start(&scene, lab.host(0), &KEEPS);
    let file = scene.path("model");
    data::random_file(&file, 5, 1000);
    first.put(&file, "model");
    let own = first.run(&["status"]).event("status").texts("trackers");
    let mut mistaken = Node::start(&scene, lab.host(1), &KEEPS);
    assert_ne!(catalogue_of(&mistaken).0, own);
    mistaken.kill9();
    let told = Node::start(&scene, lab.host(1), &["--tracker", &own[0]]);
    assert_same(&file, &told.get("model"));
    told.run(&["status", "--stop"]);
    // A verb starts it again, without a word.
    let listed = told.run(&["ls"]);
    assert_eq!(listed.event("listed").text("name"), "model");
    told.run(&["status", "--stop"]);
}
