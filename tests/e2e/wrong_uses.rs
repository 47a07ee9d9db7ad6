//! Used wrongly: each message names what is wrong and says what to try, and the exit code tells
//! wrong usage from a bad manifest and from a disk that refuses.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::lab::data;
use crate::lab::process::Outcome;
use crate::lab::scene::Scene;
use crate::steps::{MIB, Place, Seeder, fetch, random_dataset};

const HERE: Place<'static> = Place::Here;

fn dft(scene: &Scene, arguments: &[&str]) -> Outcome {
    scene.dft("here").args(arguments).run()
}

/// Fails the test unless the message is about `name`, and has a hint.
fn assert_helpful(outcome: &Outcome, name: &str) {
    assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(name), "it names «{name}»: {}", outcome.stderr);
    assert!(outcome.stderr.contains("\nhint: "), "it says what to try: {}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
}

/// A dataset `data` with a file and a directory, and its manifest `here/data.dft`; nobody serves it.
fn seeded(scene: &Scene) -> PathBuf {
    let dataset = scene.path("here/data");
    data::tiny_files(&dataset.join("small"), 1, 10, None);
    data::random_file(&dataset.join("large.bin"), 2, MIB);
    let seeder = Seeder::named(scene, HERE, "here", &dataset, &[]);
    seeder.process.interrupt().expect_code(0);
    dataset
}

#[test]
fn words_that_make_no_sense_are_an_event_for_programs() {
    let scene = Scene::new();
    // words, what the message is about; nothing where there is no event
    let cases: [(&[&str], Option<&str>); 7] = [
        (&["push", "name", "--json"], Some("<--to <NODE>...|--all>")),
        (&["fetch", "--json"], Some("<MANIFEST>")),
        (&["get", "a", "--json", "--nonsense"], Some("--nonsense")),
        (&["seed", "a", "--port", "99999999", "--json"], Some("99999999")),
        (&["frobnicate", "--json"], Some("frobnicate")),
        (&["fetch", "--", "a", "b", "--json"], None),
        (&["fetch"], None),
    ];
    for (words, about) in cases {
        let outcome = dft(&scene, words).expect_code(2);
        assert!(outcome.stderr.contains("--help"), "people are told what to try: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
        let told = outcome.events.first().map(|event| event.text("message").to_owned());
        assert_eq!(told.is_some(), about.is_some(), "{words:?}: {told:?}");
        if let Some(event) = outcome.events.first() {
            assert_eq!((event.name(), event.number("code")), ("error", 2));
            assert!(event.text("message").contains(about.unwrap_or_default()), "{words:?}: {told:?}");
            assert!(!event.text("message").starts_with("error"), "{told:?}");
        }
    }
    let help = dft(&scene, &["fetch", "--help", "--json"]).expect_code(0);
    assert_eq!(help.events.len(), 0);
}

#[test]
fn failures_of_verbs_in_a_batch_are_events_for_programs() {
    let scene = Scene::new();
    // what is typed, the exit code, what the message is about; nothing where there is no event
    let cases = [
        ("ls --json --nonsense", 2, Some("--nonsense")),
        ("fetch --json", 2, Some("<MANIFEST>")),
        ("frobnicate --json", 2, Some("frobnicate")),
        ("put absent --json", 2, Some("absent")),
        ("show absent --json", 3, Some("absent")),
        ("show --json 'absent", 2, Some("quote")),
        ("!echo --json", 0, None),
        ("show absent", 3, None),
        ("ls --nonsense", 2, None),
        ("put 'absent --json'", 2, None),
    ];
    for (batch, code, about) in cases {
        let outcome = dft(&scene, &["-c", batch]).expect_code(code);
        let told: Vec<_> = outcome.events.iter().filter(|event| event.name() == "error").collect();
        assert_eq!(told.len(), usize::from(about.is_some()), "{batch}: {told:?}");
        if let (Some(event), Some(about)) = (told.first(), about) {
            assert_eq!(event.number("code"), u64::try_from(code).expect("a code"), "{batch}");
            assert!(event.text("message").contains(about), "{batch}: {}", event.value);
        }
        assert_eq!(outcome.stderr.matches("error: ").count(), usize::from(code != 0), "{}", outcome.stderr);
    }
}

#[test]
fn path_that_is_not_there_is_wrong_usage_for_every_verb() {
    let scene = Scene::new();
    seeded(&scene);
    let cases: [&[&str]; 17] = [
        &["append", "name", "absent/x"],
        &["append", "name", "data/large.bin/absent"],
        &["secret", "new", "absent/x"],
        &["seed", "absent"],
        &["seed", "data", "absent", "--name", "both"],
        &["seed", "absent", "-o", "x.dft"],
        &["seed", "data", "-o", "absent/x.dft"],
        &["seed", "data", "--trace", "absent/x"],
        &["seed", "data/large.bin/absent"],
        &["fetch", "data.dft", "-o", "absent"],
        &["fetch", "data.dft", "-o", "data/large.bin/absent"],
        &["put", "absent"],
        &["put", "data", "absent", "--name", "both"],
        &["verify", "data.dft", "absent"],
        &["demo", "absent"],
        &["trace", "absent"],
        &["fetch", "data.dft", "-o", "elsewhere", "--trace", "absent/x"],
    ];
    scene.new_directory("here/elsewhere");
    for arguments in cases {
        let outcome = dft(&scene, arguments);
        assert_eq!(outcome.code, Some(2), "dft {arguments:?}: {}", outcome.stderr);
        assert_helpful(&outcome, "absent");
    }
    // A manifest has a code of its own.
    for verb in ["fetch", "show", "verify"] {
        assert_helpful(&dft(&scene, &[verb, "absent.dft"]).expect_code(3), "absent.dft");
        assert_helpful(&dft(&scene, &[verb, "data"]).expect_code(3), "data");
    }
}

#[test]
fn what_is_there_and_cannot_be_meant_is_wrong_usage() {
    let scene = Scene::new();
    seeded(&scene);
    let cases: [(&[&str], &str); 15] = [
        (&["append", "name", "data"], "data"),
        (&["daemon", "--token", "absent/token", "--embed-tracker"], "absent"),
        (&["tracker", "--token", "absent/token", "--listen", "127.0.0.1:0"], "absent"),
        (&["daemon", "--tracker", "nonsense"], "nonsense"),
        (&["trace", "data/large.bin"], "large.bin"),
        (&["trace", "data"], "data"),
        (&["fetch", "data.dft", "-o", "data/large.bin"], "large.bin"),
        (&["seed", "data", "--name", "a/b"], "a/b"),
        (&["seed", "data", "--name", ""], "name"),
        (&["seed", "data", "-o", "data/large.bin"], "large.bin"),
        (&["seed", "data", "-o", "data"], "data"),
        (&["seed", "/dev/null"], "/dev/null"),
        (&["seed", "data", "data", "--name", "twice"], "data"),
        (&["tracker", "--state", "data/large.bin"], "large.bin"),
        (&["seed", "data", "--tracker", "nowhere"], "nowhere"),
    ];
    for (arguments, name) in cases {
        let outcome = dft(&scene, arguments);
        assert_eq!(outcome.code, Some(2), "dft {arguments:?}: {}", outcome.stderr);
        assert_helpful(&outcome, name);
    }
    dft(&scene, &["demo", "--size", "0"]).expect_code(2);
    for name in ["", " a", "\u{1b}[31m"] {
        let refused = dft(&scene, &["daemon", "--name", name]).expect_code(2);
        assert!(refused.stderr.contains("a node's name is"), "{}", refused.stderr);
    }
}

#[test]
fn tree_that_is_not_the_dataset_is_told_from_one_that_differs() {
    let scene = Scene::new();
    let dataset = seeded(&scene);
    let verify = |path: &str| dft(&scene, &["verify", "data.dft", path]);
    verify(".").expect_code(0);
    verify("data").expect_code(0);
    scene.new_directory("here/elsewhere/deeper");
    assert_helpful(&verify("elsewhere").expect_code(2), "there is no data in elsewhere");
    assert_helpful(&verify("data.dft").expect_code(2), "there is no data in data.dft");
    // A copy may have another name, and may lack something.
    let renamed = scene.path("renamed");
    fs::rename(&dataset, &renamed).expect("it was there");
    verify("../renamed").expect_code(0);
    scene.dft("renamed").args(["verify", "../here/data.dft"]).run().expect_code(0);
    assert_helpful(&dft(&scene, &["verify", "data.dft"]).expect_code(2), "there is no data in .");
    fs::remove_file(renamed.join("large.bin")).expect("it was there");
    let outcome = verify("../renamed").expect_code(6);
    assert!(outcome.stdout.contains("large.bin"), "{}", outcome.stdout);
}

#[test]
fn no_file_is_written_over_that_is_not_of_its_kind() {
    let scene = Scene::new();
    let dataset = seeded(&scene);
    let precious = ["data.dft", "data/large.bin"].map(|path| scene.path("here").join(path));
    let before = precious.each_ref().map(|path| fs::read(path).expect("it is there"));
    let trace = scene.path("here/run.trace");
    let traced = ["--trace", "run.trace", "--exit-after-copies", "0", "--listen", "127.0.0.1"];
    // Twice: a trace may be replaced by the next one.
    for _ in 0..2 {
        scene.dft("here").args(["seed", "-o", "traced.dft"]).arg(&dataset).args(traced).run().expect_code(0);
    }
    for arguments in [
        &["fetch", "data.dft", "--trace", "data.dft"][..],
        &["seed", "data", "--trace", "data/large.bin"],
        &["seed", "data", "-o", "data/large.bin"],
        &["trace", "run.trace", "--plot", "data/large.bin"],
        &["trace", "run.trace", "--plot", "run.trace"],
    ] {
        let outcome = dft(&scene, arguments).expect_code(2);
        assert_helpful(&outcome, "left alone");
    }
    assert!(precious.map(|path| fs::read(path).expect("it is there")) == before, "nothing was written");
    assert!(!fs::read(&trace).expect("it is there").starts_with(b"<svg"));
    for _ in 0..2 {
        dft(&scene, &["trace", "run.trace", "--plot", "run.svg"]).expect_code(0);
    }
}

#[test]
fn endless_file_is_no_manifest() {
    let scene = Scene::new();
    for arguments in [&["show", "/dev/zero"][..], &["fetch", "/dev/zero"], &["verify", "/dev/zero"]] {
        assert_helpful(&dft(&scene, arguments).expect_code(3), "/dev/zero");
    }
    scene.new_directory("here/data");
    assert_helpful(&dft(&scene, &["seed", "data", "-o", "/dev/zero"]).expect_code(2), "left alone");
}

#[test]
fn what_was_meant_is_guessed_where_that_is_easy() {
    let scene = Scene::new();
    seeded(&scene);
    fs::rename(scene.path("here/data"), scene.path("here/elsewhere")).expect("it was there");
    let outcome = dft(&scene, &["show", "data"]).expect_code(3);
    assert!(outcome.stderr.contains("hint: did you mean data.dft?"), "{}", outcome.stderr);
    let outcome = dft(&scene, &["verify", "elsewhere", "data.dft"]).expect_code(3);
    assert!(outcome.stderr.contains("comes first"), "{}", outcome.stderr);
    let options = ["--exit-after-copies", "0", "--listen", "127.0.0.1"];
    let outcome = scene.dft("here").args(["seed", "data.dft"]).args(options).run().expect_code(0);
    assert!(outcome.stderr.contains("dft fetch data.dft"), "{}", outcome.stderr);
    let outcome = dft(&scene, &["tracker", "--listen", "4711"]).expect_code(2);
    assert!(outcome.stderr.contains("IP:PORT, for example"), "{}", outcome.stderr);
    let empty = scene.new_directory("here/empty");
    let outcome = scene.dft("here").args(["demo", "--peers", "1"]).arg(&empty).run().expect_code(0);
    assert!(!outcome.stderr.contains("bound"), "nothing bounds the copying of nothing: {}", outcome.stderr);
}

#[test]
fn second_tracker_is_told_what_the_first_one_has() {
    let scene = Scene::new();
    let state = scene.path("state");
    let tracker = |listen: &str| scene.dft("tracker").args(["tracker", "--json", "--listen", listen]);
    let first = tracker("127.0.0.1:0").arg("--state").arg(&state).start();
    let addr = first.wait_for("listening").texts("addrs").remove(0);
    let port = addr.split('/').nth(4).expect("/ip4/…/tcp/PORT");
    let locked = tracker("127.0.0.1:0").arg("--state").arg(&state).run().expect_code(5);
    assert!(locked.stderr.contains("hint: ") && locked.stderr.contains("--state"), "{}", locked.stderr);
    let other = scene.path("other");
    let taken = tracker(&format!("127.0.0.1:{port}")).arg("--state").arg(&other).run().expect_code(1);
    assert!(taken.stderr.contains(port) && taken.stderr.contains("--listen IP:PORT"), "{}", taken.stderr);
    // 192.0.2.0/24 is for documentation: no machine has it.
    let foreign = tracker("192.0.2.1:0").arg("--state").arg(&other).run().expect_code(2);
    assert!(foreign.stderr.contains("hint: "), "{}", foreign.stderr);
    let dataset = random_dataset(&scene, 1);
    let seed = scene.dft("here").args(["seed", "--listen", "127.0.0.1", "--port", port]).arg(&dataset).run();
    assert!(seed.expect_code(1).stderr.contains("--port"));
}

#[test]
fn names_that_no_terminal_should_get_are_escaped() {
    let scene = Scene::new();
    for (name, shown) in [(&b"caf\xe9"[..], "caf\\xe9"), (b"red\x1b[31m", "red\\u{1b}[31m")] {
        let outcome = scene.dft("here").args([OsStr::new("seed"), OsStr::from_bytes(name)]).run();
        assert_helpful(&outcome.expect_code(2), shown);
        let outcome = scene.dft("here").args([OsStr::new("show"), OsStr::from_bytes(name)]).run();
        assert_helpful(&outcome.expect_code(3), shown);
    }
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let scene = Scene::new();
    let directory = scene.new_directory("here");
    for (arguments, code) in [(&["completions", "bash"][..], 0), (&["man"], 0), (&["seed", "absent"], 2)] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = std::process::Command::new(crate::lab::scene::DFT);
        command.args(arguments).env("DFT_CONFIG", "").env("XDG_STATE_HOME", &directory);
        command.stdout(writer.try_clone().expect("another end")).stderr(writer);
        let status = command.status().expect("it starts");
        assert_eq!(status.code(), Some(code), "dft {arguments:?}");
    }
}

#[test]
fn data_that_changed_under_its_seeder_is_what_the_fetcher_hears_of() {
    let scene = Scene::new();
    let dataset = scene.path("data");
    fs::create_dir(&dataset).expect("a new directory");
    data::random_file(&dataset.join("stays.bin"), 1, MIB);
    data::random_file(&dataset.join("changes.bin"), 2, 4 * MIB);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    data::change_byte(&dataset.join("changes.bin"), 5);
    let fetcher = fetch(&scene, HERE, "fetcher", &seeder.manifest, &["--timeout", "4s"]);
    let outcome = fetcher.wait().expect_code(4);
    assert!(outcome.stderr.contains("warning: "), "it is said before the end: {}", outcome.stderr);
    let error = outcome.event("error");
    assert!(error.text("message").contains("no longer offered"), "{error:?}");
    assert!(error.text("message").contains("1.00 MiB of 5.00 MiB"), "{error:?}");
    assert!(error.text("hint").contains("data changed"), "{error:?}");
    // Who fetches later hears the same.
    let late = fetch(&scene, HERE, "late", &seeder.manifest, &["--timeout", "4s"]).wait().expect_code(4);
    assert!(late.stderr.contains("hint: "), "{}", late.stderr);
    // The seeder begins anew, with another manifest at the same place: the old one is nobody's.
    let old = scene.path("old.dft");
    fs::copy(&seeder.manifest, &old).expect("it was written");
    seeder.process.interrupt();
    let _seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    let outcome = fetch(&scene, HERE, "fetcher", &old, &["--timeout", "3s"]).wait().expect_code(4);
    assert!(outcome.event("error").text("hint").contains("copy the manifest"), "{}", outcome.stderr);
}
