//! What daemons tell and spare whoever waits: why nothing comes, several names at once, a fetch by
//! its manifest, no byte written twice, no part left behind.

use std::path::{Path, PathBuf};

use crate::lab::process::Event;
use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Lab, data};
use crate::node::{Node, nodes, until};
use crate::steps::MIB;

const KIB: u64 = 1024;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("it is there");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("a name of a test")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn lost_file_leaves_the_map_and_whoever_waits_for_it_is_told_why() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 2 * MIB);
    nodes[1].put(&file, "model");
    nodes[0].until_copies("model", 1);
    std::fs::remove_file(&file).expect("it is there");
    // Nobody asks for it: the node notices by itself.
    nodes[0].until_copies("model", 0);
    assert_eq!(nodes[1].run(&["status"]).event("held").text("state"), "damaged");
    let told = nodes[2].fails(4, &["get", "model", "--timeout", "5s"]);
    assert!(told.contains("waiting for 2.00 MiB of 2.00 MiB of model"), "{told}");
    assert!(told.contains("no node that runs has any of it"), "{told}");
    assert!(told.contains("nobody who has model can be reached"), "{told}");
}

#[test]
fn holders_that_do_not_answer_are_named() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 2 * MIB);
    nodes[1].put(&file, "model");
    nodes[0].until_copies("model", 1);
    nodes[1].daemon().stop();
    let told = nodes[2].fails(4, &["get", "model", "--timeout", "6s"]);
    assert!(told.contains("no node that has it answers; by the catalogue, it is at h1 (all)"), "{told}");
    nodes[1].daemon().cont();
    // The daemon went on trying.
    nodes[0].until_copies("model", 2);
    // The tracker does not answer: that is said, too.
    nodes[0].daemon().stop();
    let told = nodes[2].fails(4, &["ls"]);
    assert!(told.contains("waiting for the catalogue at "), "{told}");
    nodes[0].daemon().cont();
    nodes[0].kill9();
}

#[test]
fn several_names_and_patterns_are_got_by_one_command() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let source = scene.new_directory("source");
    for number in 0..30 {
        let file = source.join(format!("run-{number:02}"));
        data::random_file(&file, number, 4 * KIB + number);
        nodes[1].put(&file, &format!("runs/run-{number:02}"));
    }
    let other = source.join("other");
    data::random_file(&other, 99, 100);
    nodes[1].put(&other, "elsewhere/run-00");
    nodes[1].put(&other, "odd[1]");

    let into = scene.new_directory("into");
    let got = nodes[2].run(&["get", "runs/run-1*", "runs/run-00", "-o", text(&into)]);
    assert_eq!(got.events.iter().filter(|event| event.name() == "got").count(), 11);
    assert_eq!(names_in(&into).len(), 11);
    for name in names_in(&into) {
        assert_same(&source.join(&name), &into.join(&name));
    }
    // Again is fine, and a pattern into DEST as well; all of them are shared.
    nodes[2].run(&["get", "runs/*", text(&into)]);
    assert_eq!(names_in(&into).len(), 30);
    nodes[0].until_copies("runs/run-29", 2);

    let told = nodes[2].fails(7, &["get", "runs/run-00", "runs/absent", "-o", text(&into)]);
    assert!(told.contains("1 of 2 datasets are not there; runs/absent"), "{told}");
    let told = nodes[2].fails(2, &["get", "runs/run-00", "elsewhere/run-00", "-o", text(&into)]);
    assert!(told.contains("would both be called run-00") && told.contains("--parents"), "{told}");
    let apart = scene.new_directory("apart");
    let both = ["get", "*/run-00", "--parents", "-o", text(&apart)];
    nodes[2].run(&both);
    assert_same(&source.join("run-00"), &apart.join("runs/run-00"));
    assert_same(&other, &apart.join("elsewhere/run-00"));
    nodes[2].run(&both);
    nodes[2].fails(2, &["get", "odd[1]", "--parents", text(&apart.join("runs/run-00"))]);
    assert!(nodes[2].fails(7, &["get", "nothing*", text(&into)]).contains("knows no name like nothing*"));
    assert!(nodes[2].fails(2, &["get", "a", "b", "c"]).contains("several names need a directory"));
    // What looks like a pattern may be a name.
    nodes[2].run(&["get", "odd[1]", text(&into)]);
    for name in ["o*d", "oad", "un[closed"] {
        nodes[1].put(&other, name);
    }
    nodes[2].run(&["get", "o*d", "un[closed", "-o", text(&into)]);
    assert!(into.join("o*d").exists() && into.join("un[closed").exists() && !into.join("oad").exists());
    assert_same(&other, &into.join("odd[1]"));
}

#[test]
fn several_paths_are_put_under_one_name() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let (file, tree) = (scene.path("h0/notes"), scene.new_directory("h0/runs"));
    data::random_file(&file, 1, 1000);
    data::random_file(&tree.join("1.csv"), 2, 1000);
    // The last word is the name, where no file is called so.
    nodes[0].run(&["put", "notes", "runs", "experiments/both"]);
    assert!(nodes[0].fails(2, &["put", "notes", "runs"]).contains("several paths need a name"));
    let copy = nodes[1].get("experiments/both");
    assert_eq!(copy, scene.path("h1/both"));
    assert_eq!(names_in(&copy), ["notes", "runs"]);
    assert_same(&file, &copy.join("notes"));
    assert_same(&tree, &copy.join("runs"));
}

#[test]
fn cat_prints_what_is_here_while_the_rest_is_fetched() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("log");
    let filler = format!("{:063}\n", 0).repeat((4 << 20) / 64);
    let text_of_log = format!("{{\"event\":\"first\"}}\n{filler}{{\"event\":\"last\"}}\n");
    std::fs::write(&file, &text_of_log).expect("it is written");
    nodes[0].run(&["put", text(&file), "--compress", "off"]);
    nodes[0].run(&["limit", "--max-upload", "128K"]);
    let cat = nodes[1].dft().args(["cat", "log"]).start();
    cat.wait_for("first");
    let held = nodes[1].run(&["status"]).event("held").clone();
    assert_eq!(held.text("state"), "fetching");
    assert!(held.number("have_bytes") < held.number("bytes"), "{}", held.value);
    nodes[0].run(&["limit", "--max-upload", "off"]);
    let printed = cat.wait().expect_code(0);
    assert_eq!(printed.event("last").name(), "last");
    assert!(printed.stdout == filler.trim_end(), "cat printed something else");
}

#[test]
fn running_daemon_does_what_fetch_asks_for() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let tree = scene.new_directory("tree");
    for (seed, name) in ["a.raw", "b.log"].into_iter().enumerate() {
        data::random_file(&tree.join(name), seed as u64, 2 * MIB);
    }
    let seeder = scene.dft_on(lab.host(0), "seeder").args(["seed", "--json"]).arg(&tree).start();
    let seeding = seeder.wait_for("seeding");
    let manifest = scene.path("seeder").join(seeding.text("manifest"));

    // A part of it; nobody keeps that.
    let fetched = nodes[1].run(&["fetch", text(&manifest), "--include", "*.log"]);
    assert_eq!(fetched.event("complete").number("bytes"), 2 * MIB);
    assert_eq!(names_in(&scene.path("h1/tree")), ["b.log"]);
    // All of it; the daemon has it from then on, so the seeder may leave.
    let fetched = nodes[1].run(&["fetch", text(&manifest)]);
    let names: Vec<&str> =
        fetched.events.iter().map(Event::name).filter(|name| *name != "progress").collect();
    assert_eq!(names, ["fetching", "complete", "done"]);
    assert_eq!(fetched.event("fetching").text("id"), seeding.text("id"));
    assert_same(&tree, &scene.path("h1/tree"));
    assert_eq!(nodes[1].run(&["status"]).event("held").text("state"), "complete");
    seeder.interrupt().expect_code(0);
    nodes[2].run(&["fetch", text(&manifest)]);
    assert_same(&tree, &scene.path("h2/tree"));
    // Once more, for people.
    let again = nodes[2].dft().arg("fetch").arg(&manifest).run().expect_code(0);
    assert!(again.stderr.contains("is complete already"), "{}", again.stderr);
    let there = nodes[2].dft().args(["fetch", "--standalone", "--linger", "0"]).arg(&manifest).run();
    assert!(there.expect_code(0).stderr.contains("is complete already"));

    // The same exit codes.
    nodes[2].fails(3, &["fetch", text(&tree)]);
    nodes[2].fails(2, &["fetch", text(&manifest), "-o", "absent"]);
    nodes[2].fails(2, &["fetch", text(&manifest), "--include", "absent"]);
    let orphan = scene.path("orphan");
    data::random_file(&orphan, 9, MIB);
    let seeder = scene.dft_on(lab.host(0), "gone").args(["seed", "--json"]).arg(&orphan).start();
    let manifest = scene.path("gone").join(seeder.wait_for("seeding").text("manifest"));
    seeder.interrupt().expect_code(0);
    let told = nodes[2].fails(4, &["fetch", text(&manifest), "--timeout", "4s"]);
    assert!(told.contains("waiting for 1.00 MiB of 1.00 MiB of orphan"), "{told}");
}

#[test]
fn running_daemon_seeds_for_as_long_as_the_command_runs() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let tree = scene.new_directory("tree");
    for (seed, name) in ["a.raw", "b.log"].into_iter().enumerate() {
        data::random_file(&tree.join(name), seed as u64, 2 * MIB);
    }
    // The manifest lies among what it describes, and is no part of it.
    let manifest = tree.join("tree.dft");
    let begin = |node: &Node<'_>, more: &[&str]| {
        node.begin(&[&["seed", text(&tree), "-o", text(&manifest)], more].concat())
    };
    let held = |node: &Node<'_>| {
        let events = node.run(&["status"]).events;
        events.iter().filter(|event| event.name() == "held").count()
    };
    let seed = begin(&nodes[0], &[]);
    let seeding = seed.wait_for("seeding");
    let status = nodes[0].run(&["status"]);
    assert_eq!(seeding.text("peer"), status.event("status").text("peer"));
    assert_eq!(status.event("held").text("id"), seeding.text("id"));
    nodes[1].run(&["fetch", text(&manifest)]);
    assert_eq!(names_in(&scene.path("h1/tree")), ["a.raw", "b.log"]);
    assert_same(&tree.join("a.raw"), &scene.path("h1/tree/a.raw"));
    seed.wait_for("peer_complete");
    let ended = seed.interrupt().expect_code(0);
    let mut names: Vec<&str> = ended.events.iter().map(Event::name).collect();
    names.retain(|name| *name != "progress");
    assert_eq!(names, ["hashed", "seeding", "peer_complete", "done"]);
    assert_eq!(ended.event("done").number("copies"), 1);
    until("an end", || held(&nodes[0]) == 0);

    // The command ends when enough have it.
    let seed = begin(&nodes[0], &["--exit-after-copies", "1"]);
    seed.wait_for("seeding");
    nodes[2].run(&["fetch", text(&manifest)]);
    seed.wait().expect_code(0);
    until("an end", || held(&nodes[0]) == 0);

    // A daemon that is killed remembers no command.
    let seed = begin(&nodes[0], &[]);
    seed.wait_for("seeding");
    assert_eq!(seed.wait_for("hashed").value["cached"], true, "the hashes are those of before");
    nodes[0].kill9();
    assert!(seed.wait().expect_code(1).stderr.contains("lost the daemon"));
    nodes[0].start_again();
    assert_eq!(held(&nodes[0]), 0);
    // What is put meanwhile stays.
    for name in ["a.raw", "b.log"] {
        let path = tree.join(name);
        let seed = nodes[0].begin(&["seed", text(&path)]);
        seed.wait_for("seeding");
        if name == "a.raw" {
            nodes[0].put(&path, "files/a.raw");
        }
        seed.interrupt().expect_code(0);
        until("what was put alone", || held(&nodes[0]) == 1);
    }
    assert_eq!(nodes[0].run(&["status"]).event("held").value["origin"], true);
    assert_same(&tree.join("a.raw"), &nodes[1].get("files/a.raw"));
    // By itself, as where there is no daemon; and then so again, for its manifest names its own port.
    let own = begin(&nodes[0], &["--standalone"]);
    let peer = own.wait_for("seeding").text("peer").to_owned();
    assert_ne!(peer, seeding.text("peer"));
    own.interrupt().expect_code(0);
    let again = begin(&nodes[0], &[]);
    assert_eq!(again.wait_for("seeding").text("peer"), peer);
    again.interrupt().expect_code(0);
}

/// Bytes that a process has sent to disks (proc(5), `io`): those of its files and their names.
fn written_bytes(process: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{process}/io")).expect("it runs");
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.expect("a count").parse().expect("a number")
}

#[test]
fn get_writes_each_byte_once() {
    const BYTES: u64 = 64 * MIB;
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, BYTES);
    nodes[0].put(&file, "model");
    let before = written_bytes(nodes[1].daemon().id());
    let got = nodes[1].get("model");
    let written = written_bytes(nodes[1].daemon().id()) - before;
    println!("{written} bytes were written for {BYTES}");
    assert_same(&file, &got);
    assert!(written >= BYTES, "it counts what is written: {written}");
    assert!(written < BYTES * 11 / 10, "{written} bytes were written for {BYTES}");
}

#[test]
fn drop_of_what_is_being_fetched_leaves_nothing() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &["--max-download", "64K"]);
    let file = scene.path("model");
    data::random_file(&file, 5, 16 * MIB);
    nodes[0].put(&file, "model");
    let get = nodes[1].begin(&["get", "model"]);
    until("a part", || names_in(&scene.path("h1")) == [".model.dft-part"]);
    nodes[1].run(&["drop", "model"]);
    get.wait().expect_code(1);
    assert_eq!(names_in(&scene.path("h1")), Vec::<String>::new());
    assert!(file.exists());
}

#[test]
fn put_while_it_is_peeked_at_keeps_what_was_put() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 4 * MIB);
    nodes[0].put(&file, "model");
    // The same, down to its time: the same dataset.
    let own = scene.path("own");
    std::fs::copy(&file, &own).expect("it is copied");
    let modified = std::fs::metadata(&file).and_then(|metadata| metadata.modified()).expect("it has a time");
    let copy = std::fs::File::options().write(true).open(&own).expect("it is there");
    copy.set_modified(modified).expect("it takes a time");
    let target: PathBuf = scene.new_directory("target");
    // Slow enough that the put comes in between; then it goes on.
    nodes[0].run(&["limit", "--max-upload", "64K"]);
    let peek = nodes[1].begin(&["get", "model", text(&target), "--peek"]);
    until("a peek", || nodes[1].status().contains("\"fetching\""));
    let put = nodes[1].begin(&["put", text(&own), "--name", "model"]);
    put.wait_for("progress");
    nodes[0].run(&["limit", "--max-upload", "off"]);
    peek.wait().expect_code(0);
    assert_same(&file, &target.join("model"));
    put.wait().expect_code(0);
    let held = nodes[1].run(&["status"]).event("held").clone();
    assert_eq!((held.text("state"), held.text("path")), ("complete", text(&own)));
    nodes[0].until_copies("model", 2);
}

#[test]
fn put_that_does_not_say_how_to_send_leaves_that_as_it_was() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = crate::compression::text(&scene, 2);
    nodes[0].run(&["put", text(&file), "--name", "table", "--compress", "zstd"]);
    assert!(nodes[0].put(&file, "table").len() == 64);
    nodes[1].get("table");
    let held = || nodes[0].run(&["status"]).event("held").clone();
    until("a count of all that was sent", || held().number("sent_bytes") >= 2 * MIB);
    assert!(held().number("saved_bytes") > MIB / 2, "{:?}", held());
}

#[test]
fn what_was_got_is_forwarded_as_it_came_and_compressed_by_its_source_alone() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = crate::compression::text(&scene, 4);
    nodes[0].run(&["put", text(&file), "--name", "table", "--compress", "off"]);
    nodes[1].get("table");
    nodes[0].until_copies("table", 2);
    nodes[0].run(&["drop", "table"]);
    // On such a slow link, what was put here would be compressed.
    nodes[1].run(&["limit", "--max-upload", "2M"]);
    nodes[2].get("table");
    let held = || nodes[1].run(&["status"]).event("held").clone();
    until("a count of all that was sent", || held().number("sent_bytes") >= 4 * MIB);
    assert_eq!(held().number("saved_bytes"), 0, "{:?}", held());
}

#[test]
fn cat_ends_once_nobody_reads_it() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    // What is a hole is there at once.
    data::random_file(&file, 5, 4 * MIB);
    let random = std::fs::read(&file).expect("it is there");
    std::fs::write(&file, [vec![0; random.len()], random].concat()).expect("it is written");
    nodes[0].put(&file, "model");
    nodes[0].run(&["limit", "--max-upload", "128K"]);
    let outcome = nodes[1].dft().run_in_shell("dft cat model | head -c 100 | wc -c").expect_code(0);
    assert_eq!(outcome.stdout.trim(), "100");
    let held = nodes[1].run(&["status"]).event("held").clone();
    assert_eq!(held.text("state"), "fetching", "{held:?}");
}

#[test]
fn push_waits_until_the_copies_are_there_and_nodes_tell_of_this_moment() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 8 * MIB);
    nodes[1].put(&file, "model");
    let own = |node: &Node<'_>| {
        let listed = node.run(&["nodes"]).events;
        let own = listed.iter().find(|event| event.text("name") == node.name());
        own.map(|own| (own.number("datasets"), own.number("bytes")))
    };
    assert_eq!(own(&nodes[1]), Some((1, 8 * MIB)));
    until("three nodes", || {
        nodes[1].run(&["nodes"]).events.iter().filter(|event| event.name() == "node").count() == 3
    });
    let pushed = nodes[1].run(&["push", "model", "--all", "--wait"]);
    let outcomes: Vec<&str> = pushed
        .events
        .iter()
        .filter(|event| event.name() == "pushed")
        .map(|event| event.text("outcome"))
        .collect();
    assert_eq!(outcomes, ["complete", "complete"]);
    for node in [&nodes[0], &nodes[2]] {
        assert_eq!(node.run(&["status"]).event("held").text("state"), "complete");
    }
    nodes[1].run(&["drop", "model"]);
    assert_eq!(own(&nodes[1]), Some((0, 0)));
}
