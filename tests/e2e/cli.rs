//! The contract with whoever types: exit codes, what goes to which stream, and what is said.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::data;
use crate::lab::process::Outcome;
use crate::lab::scene::Scene;
use crate::steps::{MIB, Place, Seeder, fetch_to_end};

/// Runs `dft` in the directory `here` of the scene.
fn dft(scene: &Scene, arguments: &[&str]) -> Outcome {
    scene.dft("here").args(arguments).run()
}

/// A dataset of a few files, seeded and no longer served: its manifest and itself.
fn seeded(scene: &Scene) -> (PathBuf, PathBuf) {
    let dataset = scene.path("dataset");
    data::tiny_files(&dataset, 11, 40, None);
    data::random_file(&dataset.join("large.bin"), 12, 2 * MIB);
    let seeder = Seeder::start(scene, Place::Here, &dataset, &[]);
    let manifest = seeder.manifest.clone();
    seeder.process.interrupt();
    (manifest, dataset)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a test's paths are UTF-8")
}

#[test]
fn wrong_usage_has_its_own_code() {
    let scene = Scene::new();
    let cases: [&[&str]; 16] = [
        &[],
        &["sow"],
        &["seed"],
        &["fetch"],
        &["seed", "x", "--no-such-flag"],
        &["seed", "x", "--piece-size", "1000"],
        &["seed", "x", "--port", "70000"],
        &["seed", "x", "--encryption", "perhaps"],
        &["seed", "x", "--exit-after-copies", "-1"],
        &["seed", "x", "--max-upload", "fast"],
        &["fetch", "x.dft", "--max-download", "0"],
        &["fetch", "x.dft", "--linger", "soon"],
        &["fetch", "x.dft", "--listen", "nowhere"],
        &["demo", "--peers", "0"],
        &["tracker", "--follow", "nowhere"],
        &["tracker", "--follow", "10.0.0.5:4711", "--promote"],
    ];
    for arguments in cases {
        let outcome = dft(&scene, arguments);
        assert_eq!(outcome.code, Some(2), "dft {arguments:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "dft {arguments:?} writes nothing to stdout");
        assert!(!outcome.stderr.is_empty(), "dft {arguments:?} says what is wrong");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let scene = Scene::new();
    for verb in [
        "seed",
        "fetch",
        "tracker",
        "show",
        "verify",
        "trace",
        "secret",
        "config",
        "demo",
        "completions",
        "man",
    ] {
        let outcome = dft(&scene, &[verb, "--help"]).expect_code(0);
        assert!(outcome.stdout.contains("Usage: dft "), "dft {verb} --help: {}", outcome.stdout);
    }
    assert!(dft(&scene, &["--version"]).expect_code(0).stdout.starts_with("dft "));
}

#[test]
fn damaged_manifest_has_its_own_code() {
    let scene = Scene::new();
    let (manifest, _) = seeded(&scene);
    let whole = fs::read(&manifest).expect("it was written");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    // A flipped bit of a hash would be another dataset, but for the checksum.
    let cases: [(&str, &[u8]); 5] = [
        ("flipped", &flipped),
        ("empty", b""),
        ("text", b"this is no manifest"),
        ("cut", &whole[..whole.len() - 1]),
        ("longer", &[&whole[..], b"\0"].concat()),
    ];
    for (name, bytes) in cases {
        let path = scene.path(&format!("{name}.dft"));
        fs::write(&path, bytes).expect("it is writable");
        for verb in ["show", "fetch", "verify"] {
            let outcome = dft(&scene, &[verb, text(&path)]).expect_code(3);
            assert!(outcome.stderr.starts_with("error: "), "{verb} {name}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(&format!("{name}.dft")), "{verb} {name}: {}", outcome.stderr);
        }
    }
}

#[test]
fn show_tells_what_a_manifest_holds() {
    let scene = Scene::new();
    let (manifest, _) = seeded(&scene);
    let id = crate::lab::hints::read_manifest(&manifest).id().to_string();
    let outcome = dft(&scene, &["show", text(&manifest)]).expect_code(0);
    for part in ["dataset", &id] {
        assert!(outcome.stdout.contains(part), "«{part}» in {}", outcome.stdout);
    }
    let outcome = dft(&scene, &["show", "--json", text(&manifest)]).expect_code(0);
    assert!(outcome.events.iter().any(|event| event.value["id"] == id.as_str()), "{:?}", outcome.events);
}

#[test]
fn verify_finds_every_difference() {
    let scene = Scene::new();
    let (manifest, dataset) = seeded(&scene);
    let verify = || dft(&scene, &["verify", text(&manifest), text(&dataset)]);
    verify().expect_code(0);

    let large = dataset.join("large.bin");
    let time = fs::metadata(&large).and_then(|metadata| metadata.modified()).expect("it has a time");
    data::change_byte(&large, MIB + 5);
    data::set_mtime(&large, time);
    let outcome = verify().expect_code(6);
    assert!((outcome.stdout + &outcome.stderr).contains("large.bin"), "it names the file");
    data::change_byte(&large, MIB + 5);
    data::set_mtime(&large, time);
    verify().expect_code(0);

    let small = data::files_below(&dataset).into_iter().find(|path| *path != large).expect("there are more");
    let name = small.file_name().expect("a file has a name").to_string_lossy().into_owned();
    fs::remove_file(&small).expect("it was there");
    let outcome = verify().expect_code(6);
    assert!((outcome.stdout + &outcome.stderr).contains(&name), "it names the file");
}

#[test]
fn without_json_nothing_goes_to_stdout_and_no_progress_to_a_file() {
    let scene = Scene::new();
    let dataset = scene.path("dataset");
    data::tiny_files(&dataset, 11, 40, None);
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &[]);
    let options = ["--listen", "127.0.0.1", "--linger", "0"];
    let outcome = scene.dft("here").arg("fetch").args(options).arg(&seeder.manifest).run().expect_code(0);
    assert_eq!(outcome.stdout, "");
    assert!(!outcome.stderr.contains('\r') && !outcome.stderr.contains('\x1b'), "{:?}", outcome.stderr);
}

#[test]
fn json_events_of_a_fetch_tell_the_whole_story() {
    let scene = Scene::new();
    let dataset = scene.path("dataset");
    data::tiny_files(&dataset, 11, 40, None);
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &[]);
    let outcome = fetch_to_end(&scene, Place::Here, "fetcher", &seeder.manifest).expect_code(0);
    let names: Vec<&str> = outcome.events.iter().map(|event| event.name()).collect();
    assert_eq!(names.first(), Some(&"fetching"), "{names:?}");
    assert_eq!(names.last(), Some(&"done"), "{names:?}");
    let (fetching, complete) = (outcome.event("fetching"), outcome.event("complete"));
    assert_eq!(fetching.text("id"), seeder.seeding.text("id"));
    assert_eq!(fetching.text("name"), "dataset");
    assert_eq!(complete.number("bytes"), seeder.bytes());
    assert!(complete.text("path").ends_with("dataset"), "{complete:?}");
    assert!(outcome.stdout.is_empty(), "nothing but JSON: {}", outcome.stdout);
}

#[test]
fn completions_and_manual_page_are_printed() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish"] {
        let outcome = dft(&scene, &["completions", shell]).expect_code(0);
        assert!(outcome.stdout.contains("dft"), "for {shell}");
    }
    let manual = dft(&scene, &["man"]).expect_code(0).stdout;
    assert!(manual.contains(".TH"), "it is roff: {manual}");
    dft(&scene, &["completions", "cobol"]).expect_code(2);
}

#[test]
fn what_could_not_be_fetched_safely_is_refused() {
    let scene = Scene::new();
    let dataset = scene.path("dataset");
    data::tiny_files(&dataset, 11, 3, None);
    std::os::unix::fs::symlink("/etc/passwd", dataset.join("outside")).expect("a new link");
    let outcome = dft(&scene, &["seed", "--listen", "127.0.0.1", text(&dataset)]);
    assert!(outcome.code.is_some_and(|code| code != 0), "{outcome:?}");
    assert!(outcome.stderr.contains("outside") && outcome.stderr.contains("hint: "), "{}", outcome.stderr);
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &["--skip-unsafe"]);
    fetch_to_end(&scene, Place::Here, "fetcher", &seeder.manifest).expect_code(0);
    assert!(!scene.path("fetcher/dataset/outside").is_symlink(), "the link was left out");
}

#[test]
fn demo_shows_a_swarm_at_work() {
    let scene = Scene::new();
    let outcome = dft(&scene, &["demo", "--json", "--peers", "3", "--size", "8M"]).expect_code(0);
    assert!(!outcome.events.is_empty(), "it says what happened: {}", outcome.stderr);
    let rest: Vec<_> = fs::read_dir(scene.path("here")).expect("it is there").collect();
    assert!(rest.is_empty(), "it cleans up: {rest:?}");
}
