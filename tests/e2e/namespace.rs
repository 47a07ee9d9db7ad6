//! Daemons and the verbs of the namespace: put, get, cat, append, ls, nodes, push, drop, rm.

use std::path::Path;

use crate::lab::process::Process;
use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Lab, data};
use crate::node::{Node, nodes, text_of, until};
use crate::steps::MIB;

/// How often a daemon is killed while names are put.
const KILLS: u64 = 50;
/// Every so many puts one is waited for before anybody dies …
const WAITED_FOR: u64 = 4;
/// … so that this many are acknowledged on any machine.
const ACKNOWLEDGED_MIN: usize = 12;

#[test]
fn six_daemons_share_names_without_any_setting() {
    let Some(lab) = Lab::hosts(6).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let tree = scene.path("tree");
    data::odd_tree(&tree, 3);
    let id = nodes[1].put(&tree, "experiments/tree");
    for node in &nodes[2..] {
        assert_same(&tree, &node.get("experiments/tree"));
    }
    nodes[0].until_copies("experiments/tree", 5);
    let listed = nodes[3].run(&["ls", "-l", "experiments/*"]);
    assert_eq!(listed.event("listed").text("id"), id);
    assert!(listed.event("listed").value["here"].as_bool().expect("a flag"));

    until("six nodes", || {
        let listed = nodes[4].run(&["nodes"]);
        listed.events.iter().filter(|event| event.name() == "node").count() == 6
    });
    let status = nodes[5].run(&["status"]);
    assert_eq!(status.event("held").text("state"), "complete");

    // The other verbs, each from another node.
    let chunks = nodes[2].run(&["ls", "--chunks", "experiments/tree"]).events;
    assert_eq!(chunks.iter().filter(|event| event.name() == "pieces").count(), 5);
    let note = scene.path("note");
    std::fs::write(&note, "first\n").expect("it is written");
    nodes[5].put(&note, "note");
    assert_eq!(nodes[4].dft().args(["cat", "note"]).run().expect_code(0).stdout, "first");
    let local = scene.path("local");
    std::fs::write(&local, "before, ").expect("it is written");
    nodes[3].run(&["append", "note", local.to_str().expect("a path of a test")]);
    assert_eq!(text_of(&local), "before, first\n");
    nodes[0].run(&["push", "note", "--to", "h1", "h2", "--wait"]);
    nodes[0].until_copies("note", 5);
    nodes[5].run(&["drop", "note"]);
    nodes[1].until_copies("note", 4);
    nodes[2].run(&["limit", "--max-upload", "off"]);
    let batch = nodes[4].dft().args(["-c", "ls -l note, get note, !cat note"]).run().expect_code(0);
    assert!(batch.stdout.ends_with("first"), "{}", batch.stdout);
    nodes[1].run(&["rm", "note"]);
    for node in &nodes {
        assert!(node.fails(7, &["get", "note"]).contains("knows no note"));
    }
}

#[test]
fn cat_and_append_read_what_another_node_has() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let (file, tree) = (scene.path("numbers"), scene.new_directory("tree"));
    data::random_file(&file, 7, 3 * MIB + 5);
    std::fs::write(tree.join("one"), "first\n").expect("it is written");
    std::fs::write(tree.join("two"), "second\n").expect("it is written");
    nodes[1].put(&file, "numbers");
    nodes[1].put(&tree, "tree");

    let local = scene.path("local");
    std::fs::write(&local, "before ").expect("it is written");
    nodes[2].run(&["append", "numbers", local.to_str().expect("a path")]);
    let whole = std::fs::read(&file).expect("it is there");
    assert!(std::fs::read(&local).expect("it is there") == [&b"before "[..], &whole].concat());
    nodes[2].fails(7, &["append", "nothing", local.to_str().expect("a path")]);
    assert_eq!(
        std::fs::metadata(&local).expect("it is there").len(),
        7 + whole.len() as u64,
        "nothing was added"
    );

    let cat = |verb: &[&str]| nodes[2].dft().args(["cat"]).args(verb).run();
    assert_eq!(cat(&["tree", "two"]).expect_code(0).stdout, "second");
    assert_eq!(cat(&["tree", "two", "--range", "1-4"]).expect_code(0).stdout, "eco");
    assert!(cat(&["tree"]).expect_code(2).stderr.contains("is a directory"));
    assert!(cat(&["tree", "three"]).expect_code(7).stderr.contains("holds no three"));
    assert_eq!(cat(&["tree", "two", "--range", "-0"]).expect_code(0).stdout, "");
}

#[test]
fn a_name_never_changes_what_it_stands_for() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let (one, other) = (scene.path("one"), scene.path("other"));
    data::random_file(&one, 1, 1000);
    data::random_file(&other, 2, 1000);
    // Two writers at once: one of them wins, and both nodes agree on which.
    let put = |node: &Node<'_>, path: &Path| {
        node.begin(&["put", path.to_str().expect("a path of a test"), "--name", "result"])
    };
    let outcomes = [put(&nodes[1], &one), put(&nodes[2], &other)].map(Process::wait);
    let codes = outcomes.each_ref().map(|outcome| outcome.code);
    assert!(codes == [Some(0), Some(7)] || codes == [Some(7), Some(0)], "{codes:?}");
    let (winner, loser) = if codes[0] == Some(0) { (&one, 2) } else { (&other, 1) };
    let target = scene.new_directory("target");
    nodes[0].run(&["get", "result", target.to_str().expect("a path")]);
    assert_same(winner, &target.join("result"));
    // The loser's node does not hold what it could not publish.
    let held = nodes[loser].run(&["status"]).events;
    assert!(held.iter().all(|event| event.name() != "held"), "{held:?}");
    // The same content once more is fine.
    let again = nodes[3 - loser].run(&["put", winner.to_str().expect("a path"), "--name", "result"]);
    assert!(again.event("put").value["already"].as_bool().expect("a flag"));
    assert!(nodes[0].fails(7, &["get", "result", "--id", &"0".repeat(64)]).contains("in the catalogue, not"));
}

#[test]
fn closed_catalogue_takes_names_from_those_with_its_token() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let token = scene.path("token");
    let with_token = ["--token", token.to_str().expect("a path of a test")];
    let keeper = Node::start(&scene, lab.host(0), &[&["--embed-tracker"][..], &with_token].concat());
    let friend = Node::start(&scene, lab.host(1), &with_token);
    let stranger = Node::start(&scene, lab.host(2), &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 1000);
    let path = file.to_str().expect("a path of a test");
    assert!(stranger.fails(1, &["put", path, "--name", "model"]).contains("token"));
    let held = stranger.run(&["status"]).events;
    assert!(held.iter().all(|event| event.name() != "held"), "it holds what it could not publish: {held:?}");
    friend.put(&file, "model");
    assert_same(&file, &stranger.get("model"));
    assert!(stranger.fails(1, &["rm", "model"]).contains("token"));
    keeper.run(&["rm", "model"]);
}

#[test]
fn token_of_a_user_opens_the_catalogue_of_his_daemon_and_open_does_without() {
    use std::os::unix::fs::PermissionsExt;
    let Some(lab) = Lab::hosts(4).start_or_skip() else { return };
    let scene = Scene::new();
    let mut keeper = Node::start(&scene, lab.host(0), &["--embed-tracker"]);
    let home_of = |name: &str| scene.path(&format!("{name}.state/.config"));
    let token = home_of("h0").join("dft/token");
    assert_eq!(keeper.daemon().wait_for("ready").text("token_file"), token.to_str().expect("a path"));
    assert_eq!(token.metadata().expect("it is made").permissions().mode() & 0o777, 0o600);
    let said = keeper.daemon().stderr();
    assert!(!said.contains(text_of(&token).trim()), "a token is never printed: {said}");
    // A home directory that is shared needs nothing.
    std::fs::create_dir_all(home_of("h1").parent().expect("a home")).expect("it is made");
    std::os::unix::fs::symlink(home_of("h0"), home_of("h1")).expect("the name is free");
    let same_user = Node::start(&scene, lab.host(1), &[]);
    let stranger = Node::start(&scene, lab.host(2), &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 1000);
    let path = file.to_str().expect("a path of a test");
    same_user.put(&file, "model");
    stranger.run(&["ls"]);
    let tracker = stranger.run(&["status"]).event("status").texts("trackers").remove(0);
    let own = home_of("h2").join("dft/token");
    let attempts = [&["put", path, "--name", "mine"][..], &["rm", "model"]];
    for attempt in attempts {
        let said = stranger.fails(1, attempt);
        for word in [&tracker, "wants its token", own.to_str().expect("a path"), "--open"] {
            assert!(said.contains(word), "{word} in {said}");
        }
    }
    assert_same(&file, &stranger.get("model"));
    // One file is copied; the daemon that runs finds it.
    std::fs::create_dir_all(own.parent().expect("a directory")).expect("it is made");
    std::fs::copy(&token, &own).expect("it is copied");
    attempts.iter().for_each(|attempt| drop(stranger.run(attempt)));

    // A file that holds another token is told from none.
    let other = Node::start(&scene, lab.host(3), &[]);
    let own = home_of("h3").join("dft/token");
    std::fs::create_dir_all(own.parent().expect("a directory")).expect("it is made");
    std::fs::copy(&token, &own).expect("it is copied");
    std::fs::write(&own, "0".repeat(64)).expect("it is written");
    assert!(other.fails(1, &["rm", "mine"]).contains("this one is another"));
    keeper.kill9();
    let open = Node::start(&scene, lab.host(0), &["--embed-tracker", "--open"]);
    assert!(open.daemon().wait_for("ready").value["token_file"].is_null());
    until("a catalogue that is open", || other.begin(&["rm", "mine"]).wait().code == Some(0));
}

#[test]
fn push_makes_nodes_fetch_and_drop_keeps_the_only_copy() {
    let Some(lab) = Lab::hosts(4).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 2 * MIB);
    nodes[1].put(&file, "model");
    assert!(nodes[1].fails(4, &["drop", "model"]).contains("no other node has all of model"));

    until("four nodes", || {
        nodes[1].run(&["nodes"]).events.iter().filter(|event| event.name() == "node").count() == 4
    });
    let said = nodes[1].fails(4, &["push", "model", "--to", "h2", "nobody"]);
    assert!(said.contains("nobody does not take model") && said.contains("are h0, h1, h2, h3;"), "{said}");
    nodes[1].until_copies("model", 2);
    nodes[1].run(&["push", "model", "--all"]);
    for node in &nodes {
        until("a copy everywhere", || node.status().contains("\"complete\""));
    }
    nodes[1].until_copies("model", 4);

    let chunks = nodes[0].run(&["ls", "--chunks", "model"]);
    let pieces: Vec<_> = chunks.events.iter().filter(|event| event.name() == "pieces").collect();
    let mut names: Vec<_> = pieces.iter().map(|event| event.text("node")).collect();
    names.sort_unstable();
    assert_eq!(names, ["h0", "h1", "h2", "h3"]);
    assert!(pieces.iter().all(|event| event.value["runs"] == pieces[0].value["runs"]), "{pieces:?}");

    nodes[1].run(&["drop", "model"]);
    nodes[0].until_copies("model", 3);
    assert!(file.exists(), "what was put stays where it is");
    nodes[2].run(&["rm", "model"]);
    assert!(nodes[3].fails(7, &["get", "model"]).contains("knows no model"));
}

#[test]
fn two_nodes_that_drop_at_once_keep_a_copy() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 100_000);
    nodes[1].put(&file, "model");
    let mut rounds_that_dropped = 0;
    for _ in 0..5 {
        let target = scene.new_directory("target");
        nodes[2].run(&["get", "model", target.to_str().expect("a path")]);
        nodes[1].run(&["put", file.to_str().expect("a path"), "--name", "model"]);
        nodes[0].until_copies("model", 2);
        let drops = [1, 2].map(|node| nodes[node].begin(&["drop", "model"]));
        let codes = drops.map(|drop| drop.wait().code);
        let dropped = codes.iter().filter(|code| **code == Some(0)).count();
        assert!(dropped <= 1, "both gave up what the other had: {codes:?}");
        nodes[0].until_copies("model", 2 - dropped as u64);
        rounds_that_dropped += dropped;
    }
    assert!(rounds_that_dropped > 0, "nobody ever dropped anything");
}

#[test]
fn selfish_get_leaves_no_trace() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 2 * MIB);
    nodes[0].put(&file, "model");
    nodes[1].run(&["get", "model", "--peek"]);
    assert_same(&file, &scene.path("h1/model"));
    assert_eq!(nodes[0].copies("model"), Some((1, 0)));
    let held = nodes[1].run(&["status"]).events;
    assert!(held.iter().all(|event| event.name() != "held"), "{held:?}");
    let left: Vec<_> = std::fs::read_dir(scene.path("h1")).expect("it is there").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn part_of_a_dataset_is_fetched_alone_and_a_later_get_adds_the_rest() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let tree = scene.new_directory("tree");
    for (seed, name) in ["a.raw", "b.raw", "c.log"].into_iter().enumerate() {
        data::random_file(&tree.join(name), seed as u64, 2 * MIB);
    }
    nodes[0].put(&tree, "tree");
    let there = |directory: &Path| {
        let entries = std::fs::read_dir(directory.join("tree")).expect("it is there");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    // From another node: only what was selected travels, and nobody counts on it.
    let got = nodes[1].run(&["get", "tree", "--include", "*.raw", "--exclude", "b*"]);
    let got = got.event("got");
    assert_eq!(got.number("bytes"), 2 * MIB);
    assert!(got.number("received_bytes") < 4 * MIB, "{got:?}");
    assert_eq!(there(&scene.path("h1")), ["a.raw"]);
    assert_same(&tree.join("a.raw"), &scene.path("h1/tree/a.raw"));
    assert_eq!(nodes[0].copies("tree"), Some((1, 0)));
    assert!(!nodes[1].status().contains("\"held\""), "{}", nodes[1].status());
    // Two parts at once wait for each other.
    let parts = ["b.raw", "c.log"].map(|name| {
        let target = scene.new_directory(name);
        let into = target.to_str().expect("a path of a test");
        (name, nodes[1].begin(&["get", "tree", into, "--include", name]), target)
    });
    for (name, get, target) in parts {
        get.wait().expect_code(0);
        assert_eq!(there(&target), [name]);
    }
    // All of it, in the same place; it is shared from then on.
    assert_same(&tree, &nodes[1].get("tree"));
    nodes[0].until_copies("tree", 2);
    // From what is here.
    let target = scene.new_directory("target");
    let into = target.to_str().expect("a path of a test");
    let got = nodes[1].run(&["get", "tree", into, "--exclude", "*.raw"]);
    assert_eq!((got.event("got").number("received_bytes"), there(&target)), (0, vec!["c.log".into()]));
    assert!(nodes[1].fails(2, &["get", "tree", into, "--include", "absent"]).contains("selected"));
    nodes[1].fails(2, &["get", "tree", into, "--exclude", "{"]);
}

#[test]
fn limits_of_a_running_daemon_hold_and_are_lifted_for_links_that_wait() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &["--max-download", "50M"]);
    let (small, large) = (scene.path("small"), scene.path("large"));
    data::random_file(&small, 1, MIB);
    data::random_file(&large, 2, 16 * MIB);
    nodes[0].put(&small, "small");
    nodes[0].put(&large, "large");
    let limited = nodes[0].run(&["limit", "--max-upload", "512K"]);
    let limits = &limited.event("limits").value;
    assert_eq!((&limits["max_upload"], &limits["max_download"]), (&(512 << 10).into(), &(50 << 20).into()));
    let got = nodes[1].run(&["get", "small"]);
    let seconds = got.event("got").value["seconds"].as_f64().expect("a number");
    assert!(seconds >= 1.5, "1 MiB at 512 KiB/s takes 2 s, not {seconds}");
    // So slow that no test could wait for it; then the other end's limit does the same.
    nodes[0].run(&["limit", "--max-upload", "16K"]);
    let get = nodes[1].begin(&["get", "large"]);
    until("a link", || {
        let status = nodes[1].run(&["status"]).events;
        let held = status.iter().find(|event| event.name() == "held" && event.text("name") == "large");
        held.is_some_and(|held| held.number("peers") > 0)
    });
    nodes[1].run(&["limit", "--max-download", "16K"]);
    nodes[0].run(&["limit", "--max-upload", "off"]);
    assert!(nodes[1].status().contains("\"fetching\""), "{}", nodes[1].status());
    nodes[1].run(&["limit", "--max-download", "off"]);
    get.wait().expect_code(0);
    assert_same(&large, &scene.path("h1/large"));
    let status = nodes[1].run(&["status"]).event("status").value["limits"].clone();
    assert!(status["max_upload"].is_null() && status["max_download"].is_null(), "{status}");
    nodes[1].fails(2, &["limit", "--max-upload", "fast"]);
}

#[test]
fn data_travel_compressed_as_the_latest_put_says_also_after_a_restart() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let file = crate::compression::text(&scene, 2);
    let path = file.to_str().expect("a path of a test");
    // Nobody keeps a copy, so all comes from where it was put.
    let saved_by_a_get = |nodes: &[Node<'_>], number: u32| {
        let target = scene.new_directory(&format!("target {number}"));
        nodes[1].run(&["get", "table", target.to_str().expect("a path of a test"), "--peek"]);
        assert_same(&file, &target.join("table"));
        // What was sent is counted in plain bytes, and told a little later.
        let held = || nodes[0].run(&["status"]).event("held").clone();
        until("a count of all that was sent", || held().number("sent_bytes") >= 2 * MIB);
        held().number("saved_bytes")
    };
    nodes[0].run(&["put", path, "--name", "table", "--compress", "zstd"]);
    assert!(saved_by_a_get(&nodes, 1) > MIB / 2);
    nodes[0].kill9();
    nodes[0].start_again();
    // What the tracker knew is known at once, and stays known while its own node opens it again.
    assert_eq!(nodes[1].copies("table"), Some((1, 0)));
    assert!(saved_by_a_get(&nodes, 2) > MIB / 2);
    nodes[0].run(&["put", path, "--name", "table", "--compress", "off"]);
    assert_eq!(saved_by_a_get(&nodes, 3), 0);
}

#[test]
fn outsiders_reach_neither_a_private_daemon_nor_its_catalogue() {
    let Some(lab) = Lab::hosts(5).start_or_skip() else { return };
    let scene = Scene::new();
    let [secret, other] = ["secret", "other"].map(|name| crate::secret::new_secret(&scene, name));
    let keeper = Node::start(&scene, lab.host(0), &["--embed-tracker", "--secret", &secret]);
    let member = Node::start(&scene, lab.host(1), &["--secret", &secret]);
    let tracker = keeper.run(&["status"]).event("status").texts("trackers").remove(0);
    // One finds whom it can on the LAN; the others know the tracker, and one has a secret of its own.
    let stranger = Node::start(&scene, lab.host(2), &[]);
    let rival = Node::start(&scene, lab.host(3), &["--secret", &other, "--tracker", &tracker]);
    let knowing = Node::start(&scene, lab.host(4), &["--tracker", &tracker]);
    let file = scene.path("model");
    data::random_file(&file, 5, 2 * MIB);
    member.put(&file, "private/model");
    assert_same(&file, &keeper.get("private/model"));
    let path = file.to_str().expect("a path of a test");
    let verbs = [&["ls"][..], &["nodes"], &["get", "private/model"], &["put", path, "--name", "mine"]];
    for outsider in [&stranger, &rival, &knowing] {
        for attempt in verbs.map(|verb| outsider.begin(verb)) {
            let outcome = attempt.wait().expect_code(4);
            // A put hashes its own file, whatever comes of it.
            let told = |name| matches!(name, "error" | "progress");
            assert!(outcome.events.iter().all(|event| told(event.name())), "{:?}", outcome.events);
        }
        assert!(!outsider.status().contains("private/model"), "{}", outsider.status());
    }
    let seen = member.run(&["nodes"]).events;
    assert_eq!(seen.iter().filter(|event| event.name() == "node").count(), 2, "{seen:?}");
    let names = member.run(&["ls"]).events;
    assert_eq!(names.iter().filter(|event| event.name() == "listed").count(), 1, "{names:?}");
}

#[test]
fn acknowledged_puts_survive_kill_9_of_every_daemon() {
    let Some(lab) = Lab::hosts(6).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let mut seed = data::Random::new(20);
    let mut below = |bound| usize::try_from(seed.below(bound)).expect("a small number");
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        let file = scene.path(&format!("file {round}"));
        data::random_file(&file, round, 1 + below(200_000) as u64);
        let name = format!("runs/{round}");
        let putter = 1 + below(5);
        let copy: &[&str] = if round % 3 == 0 { &["--copy"] } else { &[] };
        let put = ["put", file.to_str().expect("a path"), "--name", &name];
        let put = nodes[putter].begin(&[&put, copy].concat());
        // Who dies, the one with the tracker, whoever puts or another, and when: at any moment of the
        // put, or after it.
        let victim = [0, putter, 1 + below(5)][below(3)];
        let mut kill = || {
            std::thread::sleep(std::time::Duration::from_millis(below(150) as u64));
            nodes[victim].kill9();
            nodes[victim].start_again();
        };
        let outcome = if round % WAITED_FOR == 0 {
            let outcome = put.wait();
            kill();
            outcome
        } else {
            kill();
            put.wait()
        };
        if outcome.code == Some(0) {
            acknowledged.push((name, file));
        }
    }
    println!("{} of {KILLS} puts were acknowledged", acknowledged.len());
    assert!(acknowledged.len() >= ACKNOWLEDGED_MIN, "too few puts worked to tell anything");
    for (number, (name, file)) in acknowledged.iter().enumerate() {
        assert_same(file, &nodes[number % nodes.len()].get(name));
    }
}

#[test]
fn crowd_that_gets_a_small_file_spares_its_origin() {
    const CROWD: usize = 24;
    const LEN: u64 = 4096;
    let Some(lab) = Lab::hosts(CROWD + 1).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("settings");
    data::random_file(&file, 5, LEN);
    nodes[0].put(&file, "settings");
    let gets: Vec<Process> = nodes[1..].iter().map(|node| node.begin(&["get", "settings"])).collect();
    let mut longest = 0.0_f64;
    for get in gets {
        let got = get.wait().expect_code(0);
        longest = longest.max(got.event("got").value["seconds"].as_f64().expect("a number"));
    }
    let sent = nodes[0].run(&["status"]).event("held").number("sent_bytes");
    println!("{CROWD} gets at once: the longest took {longest:.2} s, the origin sent {sent} bytes");
    assert!(sent <= 5 * LEN, "{sent} bytes left the origin");
}

#[test]
fn killed_daemon_goes_on_fetching_when_it_starts_again() {
    let Some(lab) = Lab::hosts(2).rate_mbit(100).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 48 * MIB);
    nodes[0].put(&file, "model");
    let get = nodes[1].begin(&["get", "model"]);
    until("a third", || {
        let status = nodes[1].run(&["status"]);
        let held = status.events.iter().find(|event| event.name() == "held");
        held.is_some_and(|held| held.number("have_bytes") > 16 * MIB)
    });
    nodes[1].kill9();
    let lost = get.wait().expect_code(1);
    assert!(lost.stderr.contains("lost the daemon"), "{}", lost.stderr);
    assert!(!scene.path("h1/model").exists(), "no final name before it is complete");
    nodes[1].start_again();
    // The same command joins the fetch that goes on.
    let got = nodes[1].run(&["get", "model"]).event("got").clone();
    let received = got.number("received_bytes");
    assert!((MIB..40 * MIB).contains(&received), "{received} of 48 MiB came in the second part");
    nodes[0].until_copies("model", 2);
    assert_same(&file, &scene.path("h1/model"));
    let sent = lab.host(0).sent_bytes();
    assert!(sent < 48 * MIB * 13 / 10, "{sent} bytes were sent for 48 MiB");
}

#[test]
fn full_store_gives_up_copies_that_others_have_and_no_other() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &["--quota", "5M"]);
    let files = ["a", "b", "c"].map(|name| scene.path(name));
    for (number, file) in files.iter().enumerate() {
        data::random_file(file, number as u64, 2 * MIB);
    }
    nodes[0].put(&files[0], "a");
    nodes[0].put(&files[1], "b");
    for name in ["a", "b"] {
        nodes[1].run(&["push", name, "--to", "h1"]);
        nodes[0].until_copies(name, 2);
    }
    // The third copy fits once «a», which was used longest ago, has left.
    nodes[0].put(&files[2], "c");
    nodes[1].run(&["push", "c", "--to", "h1"]);
    nodes[0].until_copies("c", 2);
    nodes[0].until_copies("a", 1);
    assert_eq!(nodes[0].copies("b"), Some((2, 0)));
    // Copies of which there is no other stay, and what does not fit beside them is refused.
    for name in ["b", "c"] {
        nodes[0].run(&["drop", name]);
    }
    nodes[0].until_copies("b", 1);
    assert!(nodes[1].fails(4, &["push", "a", "--to", "h1"]).contains("quota"));
    let big = scene.path("big");
    data::random_file(&big, 9, 6 * MIB);
    assert!(
        nodes[1]
            .fails(5, &["put", "--copy", big.to_str().expect("a path"), "--name", "big"])
            .contains("quota")
    );
}

#[test]
fn copy_of_which_a_file_changes_is_damaged_and_goes_on_with_the_rest() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let dataset = scene.new_directory("data");
    for (number, name) in ["changes", "stays"].into_iter().enumerate() {
        data::random_file(&dataset.join(name), number as u64, 12 * MIB);
    }
    nodes[0].put(&dataset, "data");
    let copy = nodes[1].get("data");
    data::change_byte(&copy.join("changes"), 1000);
    // Most of the next copy comes from the node whose file has changed.
    nodes[0].run(&["limit", "--max-upload", "4M"]);
    let got = nodes[2].get("data");
    assert_same(&dataset, &got);
    // What it lacks is not asked for again, for it could not be written into what has its final name.
    nodes[0].run(&["limit", "--max-upload", "off"]);
    let held = nodes[1].run(&["status"]);
    assert_eq!(held.event("held").text("state"), "damaged", "{}", nodes[1].status());
}

#[test]
fn changed_original_is_noticed_after_a_restart() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, MIB);
    nodes[0].put(&file, "model");
    nodes[0].kill9();
    data::change_byte(&file, 1000);
    nodes[0].start_again();
    until("a failure", || nodes[0].run(&["status"]).event("held").text("state") == "failed");
    let problem = nodes[0].run(&["status"]).event("held").text("problem").to_owned();
    assert!(problem.contains("has changed"), "{problem}");
}

#[test]
fn a_catalogue_comes_back_with_its_node() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let mut nodes = nodes(&lab, &scene, &[]);
    let data = scene.path("data");
    data::random_file(&data, 3, MIB);
    nodes[0].put(&data, "kept");
    nodes[0].kill9();
    // A verb starts the daemon, with no option: it keeps the catalogue as before.
    let status = nodes[0].run(&["ls"]);
    assert_eq!(status.event("listed").text("name"), "kept");
    until("the other node's reach", || nodes[1].begin(&["ls"]).wait().code == Some(0));
    assert_same(&data, &nodes[1].get("kept"));
    nodes[0].run(&["status", "--stop"]);
}
