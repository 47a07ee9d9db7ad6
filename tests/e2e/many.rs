//! A daemon that holds more datasets than it could be at work on at a time.

use std::path::PathBuf;

use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Lab, data};
use crate::node::{nodes, until};

/// More than are announced one by one, and than a tracker takes records from one address.
const DATASETS: usize = 4_500;
/// Puts of one command.
const PUTS: usize = 500;

#[test]
fn thousands_of_datasets_are_held_got_and_there_again_after_a_kill() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::in_memory();
    let mut nodes = nodes(&lab, &scene, &[]);
    let directory = nodes[1].dft().directory().to_owned();
    let name = |number: usize| format!("d{number:04}");
    for number in 0..DATASETS {
        data::random_file(&directory.join(name(number)), number as u64 + 1, 100);
    }
    let all: Vec<usize> = (0..DATASETS).collect();
    let put = |numbers: &[usize]| {
        let verbs: Vec<String> = numbers.iter().map(|number| format!("put {}", name(*number))).collect();
        nodes[1].dft().args(["-c", &verbs.join(", ")]).start()
    };
    for several in all.chunks(4 * PUTS) {
        let commands: Vec<_> = several.chunks(PUTS).map(put).collect();
        for command in commands {
            command.wait().expect_code(0);
        }
    }
    let held = |node: &crate::node::Node<'_>| {
        let status = node.run(&["status"]).events;
        let held = status.iter().filter(|event| event.name() == "held" && event.text("state") == "complete");
        held.count()
    };
    assert_eq!(held(&nodes[1]), DATASETS);
    let is_got = |number: usize| assert_same(&directory.join(name(number)), &nodes[2].get(&name(number)));
    [0, DATASETS / 2, DATASETS - 1].into_iter().for_each(is_got);

    nodes[1].kill9();
    nodes[1].start_again();
    assert_eq!(held(&nodes[1]), DATASETS);
    for number in [1, DATASETS / 2 + 1, DATASETS - 2] {
        assert_same(&directory.join(name(number)), &nodes[2].get(&name(number)));
        nodes[0].until_copies(&name(number), 2);
    }
    // What is at rest is dropped as all else is, and what was changed is not given to anybody.
    nodes[1].run(&["drop", &name(7), "--force"]);
    nodes[0].until_copies(&name(7), 0);
    std::fs::write(directory.join(name(8)), "something else").expect("it is written");
    nodes[2].fails(4, &["get", &name(8), "--timeout", "3s"]);
    until("a dataset that was changed is not counted", || {
        nodes[0].copies(&name(8)).is_some_and(|(all, _)| all == 0)
    });
    // What the daemon cannot open any more is told of, and of nothing else.
    let id = nodes[0].run(&["ls", &name(9)]).event("listed").text("id").to_owned();
    let store = PathBuf::from(nodes[1].run(&["status"]).event("status").text("store"));
    std::fs::write(store.join("datasets").join(&id).join("manifest.dft"), "something else")
        .expect("it is written");
    let status = nodes[1].run(&["status"]).events;
    let failed: Vec<_> = status.iter().filter(|event| event.name() == "held").collect();
    let failed: Vec<_> = failed.iter().filter(|event| event.text("state") == "failed").collect();
    assert_eq!(failed.iter().map(|event| event.text("name")).collect::<Vec<_>>(), [name(9)]);
    assert!(failed[0].text("problem").contains(&id), "{}", failed[0].text("problem"));
}
