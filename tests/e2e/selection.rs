//! A part of a dataset: what is selected arrives and nothing else, and the rest can follow.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::data;
use crate::lab::process::Outcome;
use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::steps::{MIB, Place, Seeder, fetch};

const HERE: Place<'static> = Place::Here;

/// `images/` with 3 MiB, `runs/` with 1 MiB and small files, `notes.txt`.
fn dataset(scene: &Scene) -> PathBuf {
    let root = scene.path("data");
    data::tiny_files(&root.join("runs/logs"), 4, 30, None);
    data::random_file(&root.join("runs/large.bin"), 1, MIB);
    fs::create_dir_all(root.join("images")).expect("a new directory");
    for number in 0..3 {
        data::random_file(&root.join(format!("images/{number}.raw")), 10 + number, MIB);
    }
    fs::write(root.join("notes.txt"), "a small file beside others").expect("it is writable");
    root
}

fn fetch_selected(scene: &Scene, name: &str, manifest: &Path, options: &[&str]) -> Outcome {
    fetch(scene, HERE, name, manifest, &[&["--linger", "0"], options].concat()).wait()
}

/// The paths of files below a directory, relative to it.
fn files(root: &Path) -> Vec<String> {
    let files = data::files_below(root).into_iter();
    let relative = |path: PathBuf| path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
    let mut files: Vec<String> = files.map(relative).collect();
    files.sort();
    files
}

fn verify(scene: &Scene, manifest: &Path, path: &Path, options: &[&str]) -> Outcome {
    scene.dft("verify").arg("verify").args([manifest, path]).args(options).run()
}

#[test]
fn selected_files_arrive_alone_and_later_ones_join_them() {
    let scene = Scene::new();
    let dataset = dataset(&scene);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    let copy = scene.path("fetcher/data");

    let outcome = fetch_selected(&scene, "fetcher", &seeder.manifest, &["--include", "images/[01].raw"]);
    let complete = outcome.expect_code(0).event("complete").clone();
    assert_eq!(complete.number("bytes"), 2 * MIB);
    assert_eq!(complete.number("from_seeders"), 2 * MIB, "no other piece is fetched");
    assert_eq!(files(&copy), ["images/0.raw", "images/1.raw"]);
    assert!(!copy.join("runs").exists(), "what holds nothing selected does not appear");
    let selected = ["--include", "images/*", "--exclude", "2.raw"];
    verify(&scene, &seeder.manifest, &copy, &selected).expect_code(0);
    let whole = verify(&scene, &seeder.manifest, &copy, &[]).expect_code(6);
    assert!(whole.stdout.contains("notes.txt"), "{}", whole.stdout);

    let again = fetch_selected(&scene, "fetcher", &seeder.manifest, &["--include", "0.raw"]).expect_code(0);
    assert!(again.events.iter().all(|event| event.name() != "fetching"), "nothing was left to do");

    let outcome = fetch_selected(&scene, "fetcher", &seeder.manifest, &["--include", "large.bin"]);
    assert_eq!(outcome.expect_code(0).event("complete").number("from_seeders"), MIB);
    assert_eq!(files(&copy), ["images/0.raw", "images/1.raw", "runs/large.bin"]);

    let outcome = fetch_selected(&scene, "fetcher", &seeder.manifest, &[]).expect_code(0);
    let fetched = outcome.event("complete").number("from_seeders");
    assert!(fetched < 2 * MIB, "only what was missing: {fetched}");
    crate::steps::assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn small_files_of_a_pack_are_told_apart() {
    let scene = Scene::new();
    let dataset = dataset(&scene);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    fetch_selected(&scene, "fetcher", &seeder.manifest, &["--include", "*.txt"]).expect_code(0);
    let copy = scene.path("fetcher/data");
    assert_eq!(files(&copy), ["notes.txt"]);
    assert_same(&dataset.join("notes.txt"), &copy.join("notes.txt"));
    fetch_selected(&scene, "fetcher", &seeder.manifest, &[]).expect_code(0);
    crate::steps::assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn fetchers_of_different_parts_help_each_other_to_the_end() {
    let scene = Scene::new();
    let dataset = dataset(&scene);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    let parts = [("one", "images"), ("two", "runs"), ("three", "images"), ("four", "*.txt")];
    let fetchers = parts.map(|(name, glob)| {
        let options = ["--include", glob, "--linger", "0"];
        (name, fetch(&scene, HERE, name, &seeder.manifest, &options))
    });
    for (name, fetcher) in fetchers {
        let outcome = fetcher.wait().expect_code(0);
        assert!(outcome.events.iter().all(|event| event.name() != "banned"), "{name}: {:?}", outcome.events);
    }
    assert_eq!(files(&scene.path("one/data")), files(&scene.path("three/data")));
    assert_same(&dataset.join("runs"), &scene.path("two/data/runs"));
}

#[test]
fn partial_tree_that_somebody_changed_is_left_alone() {
    let scene = Scene::new();
    let dataset = dataset(&scene);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    fetch_selected(&scene, "fetcher", &seeder.manifest, &["--include", "images"]).expect_code(0);
    let own = scene.path("fetcher/data/images/own.txt");
    fs::write(&own, "mine").expect("it is writable");
    let outcome = fetch_selected(&scene, "fetcher", &seeder.manifest, &[]).expect_code(5);
    assert!(outcome.stderr.contains("hint: "), "{}", outcome.stderr);
    assert_eq!(fs::read_to_string(&own).expect("it is there"), "mine");
    fs::remove_file(&own).expect("it was there");
    fetch_selected(&scene, "fetcher", &seeder.manifest, &[]).expect_code(0);
    crate::steps::assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn partial_tree_keeps_its_name_while_it_grows_whatever_ends_that() {
    let scene = Scene::new();
    let dataset = dataset(&scene);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    let first = ["--include", "0.raw", "--include", "notes.txt"];
    fetch_selected(&scene, "fetcher", &seeder.manifest, &first).expect_code(0);
    let copy = scene.path("fetcher/data");
    let stays = |when: &str| {
        assert_eq!(files(&copy), ["images/0.raw", "notes.txt"], "{when}");
        for path in ["images/0.raw", "notes.txt"] {
            assert_same(&dataset.join(path), &copy.join(path));
        }
    };
    let slowly = ["--include", "images/1.raw", "--include", "runs", "--max-download", "100K"];
    let grow = || {
        let growing = fetch(&scene, HERE, "fetcher", &seeder.manifest, &slowly);
        growing.wait_until("some bytes", |event| {
            event.name() == "progress" && event.number("have_bytes") > MIB + 30
        });
        stays("while it grows");
        growing
    };
    grow().kill9();
    stays("after a kill");
    grow().interrupt().expect_code(130);
    stays("after Ctrl-C");
    // What is there is served without the rest, and the growth goes on from what it had.
    let again = fetch_selected(&scene, "fetcher", &seeder.manifest, &["--include", "0.raw"]).expect_code(0);
    assert!(again.events.iter().all(|event| event.name() != "fetching"), "nothing was left to do");
    let outcome = fetch_selected(&scene, "fetcher", &seeder.manifest, &slowly[..4]).expect_code(0);
    assert_eq!(files(&copy).len(), 34, "{:?}", files(&copy));
    let complete = outcome.event("complete");
    let (fetched, bytes) = (complete.number("from_seeders"), complete.number("bytes"));
    assert!(fetched + MIB < bytes, "what was fetched before the end is not fetched again: {fetched}");
    fetch_selected(&scene, "fetcher", &seeder.manifest, &[]).expect_code(0);
    crate::steps::assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn partial_tree_that_is_changed_while_it_grows_is_not_replaced() {
    let scene = Scene::new();
    let dataset = dataset(&scene);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    fetch_selected(&scene, "fetcher", &seeder.manifest, &["--include", "0.raw"]).expect_code(0);
    let options = ["--include", "1.raw", "--max-download", "500K", "--linger", "0"];
    let growing = fetch(&scene, HERE, "fetcher", &seeder.manifest, &options);
    growing.wait_for("progress");
    let own = scene.path("fetcher/data/own.txt");
    fs::write(&own, "mine").expect("it is writable");
    let outcome = growing.wait().expect_code(5);
    assert!(outcome.stderr.contains("hint: "), "{}", outcome.stderr);
    assert_eq!(files(&scene.path("fetcher/data")), ["images/0.raw", "own.txt"]);
    fs::remove_file(&own).expect("it was there");
    let outcome = fetch_selected(&scene, "fetcher", &seeder.manifest, &["--include", "1.raw"]).expect_code(0);
    assert_eq!(outcome.event("complete").number("from_seeders"), 0, "all was there already");
    assert_eq!(files(&scene.path("fetcher/data")), ["images/0.raw", "images/1.raw"]);
}

#[test]
fn byte_counts_are_those_of_what_was_selected() {
    let scene = Scene::new();
    let dataset = dataset(&scene);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    // Both are a part of a pack, or next to one.
    let size = fs::metadata(dataset.join("notes.txt")).expect("it is there").len();
    for (name, options, bytes) in [
        ("note", &["--include", "notes.txt"][..], size),
        ("note and image", &["--include", "notes.txt", "--include", "1.raw"], size + MIB),
    ] {
        let outcome = fetch_selected(&scene, name, &seeder.manifest, options).expect_code(0);
        assert_eq!(outcome.event("fetching").number("bytes"), bytes, "{name}");
        let complete = outcome.event("complete");
        let received = complete.number("from_seeders") + complete.number("from_peers");
        assert_eq!((complete.number("bytes"), received), (bytes, bytes), "{name}: {complete:?}");
        for progress in outcome.events.iter().filter(|event| event.name() == "progress") {
            assert_eq!(progress.number("bytes"), bytes, "{name}: {progress:?}");
            assert!(progress.number("have_bytes") <= bytes, "{name}: {progress:?}");
        }
    }
}

#[test]
fn show_lists_what_would_be_fetched_and_nothing_selected_is_an_error() {
    let scene = Scene::new();
    let dataset = dataset(&scene);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    let manifest = seeder.manifest.to_str().expect("a test's paths are UTF-8");
    let show = |options: &[&str]| scene.dft("show").args(["show", manifest]).args(options).run();
    let shown = show(&["--include", "images", "--exclude", "2.raw"]).expect_code(0).stdout;
    assert!(shown.contains("data/images/1.raw") && !shown.contains("2.raw"), "{shown}");
    assert!(shown.contains("selected  2.00 MiB"), "{shown}");
    for verb in ["show", "fetch", "verify"] {
        let outcome = scene.dft(verb).args([verb, manifest, "--include", "absent"]).run().expect_code(2);
        assert!(outcome.stderr.contains("hint: "), "dft {verb}: {}", outcome.stderr);
        scene.dft(verb).args([verb, manifest, "--exclude", "{"]).run().expect_code(2);
        for option in ["--include", "--exclude"] {
            let outcome = scene.dft(verb).args([verb, manifest, option, ""]).run().expect_code(2);
            assert!(outcome.stderr.contains("an empty glob"), "dft {verb}: {}", outcome.stderr);
        }
    }
}
