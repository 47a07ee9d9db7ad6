//! What disks and their users do: full, read-only, already there, changed meanwhile, shared.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::lab::scene::Scene;
use crate::lab::tree::assert_same;
use crate::lab::{Lab, data};
use crate::steps::{MIB, Place, Seeder, assert_fetched, fetch, fetch_to_end, random_dataset};

#[test]
fn full_disk_is_named_and_the_next_run_completes() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 24);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &[]);
    let disk = scene.new_directory("disk");
    lab.mount_small_disk(&disk, 8 * 1024);
    let fetch = || {
        let fetcher = Place::On(lab.host(1)).dft(&scene, "fetcher", "fetch");
        fetcher.arg(&seeder.manifest).arg("-o").arg(&disk).args(["--linger", "0"]).run()
    };
    let outcome = fetch().expect_code(5);
    assert!(outcome.stderr.contains("disk"), "it names the place: {}", outcome.stderr);
    let outside = lab.outside_path(&disk);
    assert!(!outside.join("dataset.bin").exists(), "no final name without its content");

    lab.resize_small_disk(&disk, 64 * 1024);
    fetch().expect_code(0);
    assert_same(&dataset, &outside.join("dataset.bin"));
}

#[test]
fn read_only_directory_is_named() {
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 1);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &[]);
    let target = scene.new_directory("read-only");
    lab.mount_read_only(&target);
    let fetcher = Place::On(lab.host(1)).dft(&scene, "fetcher", "fetch");
    let outcome = fetcher.arg(&seeder.manifest).arg("-o").arg(&target).run().expect_code(5);
    assert!(outcome.stderr.contains("read-only"), "it names the place: {}", outcome.stderr);
}

#[test]
fn second_fetch_into_one_place_is_told_so() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 1);
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &[]);
    seeder.process.stop();
    let first = fetch(&scene, Place::Here, "fetcher", &seeder.manifest, &["--linger", "0"]);
    first.wait_for("fetching");
    let second = Place::Here.dft(&scene, "second", "fetch").arg(&seeder.manifest);
    let outcome = second.arg("-o").arg(scene.path("fetcher")).run();
    assert_eq!(outcome.code, Some(5), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("error: "), "{}", outcome.stderr);
    seeder.process.cont();
    first.wait().expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn what_is_there_and_differs_is_kept_unless_forced() {
    let scene = Scene::new();
    let dataset = scene.path("dataset");
    data::tiny_files(&dataset, 1, 20, None);
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &[]);
    let precious = scene.new_directory("fetcher").join("dataset");
    fs::write(&precious, "precious").expect("it is writable");
    let outcome = fetch_to_end(&scene, Place::Here, "fetcher", &seeder.manifest);
    assert!(matches!(outcome.code, Some(1 | 5)), "exit code {:?}: {}", outcome.code, outcome.stderr);
    assert!(outcome.stderr.contains("--force"), "it says how: {}", outcome.stderr);
    assert_eq!(fs::read(&precious).expect("it is there"), b"precious");

    fetch(&scene, Place::Here, "fetcher", &seeder.manifest, &["--linger", "0", "--force"])
        .wait()
        .expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn fetching_again_what_is_complete_changes_nothing() {
    let scene = Scene::new();
    let dataset = scene.path("dataset");
    data::tiny_files(&dataset, 1, 20, None);
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &[]);
    fetch_to_end(&scene, Place::Here, "fetcher", &seeder.manifest).expect_code(0);
    let inode = || fs::metadata(scene.path("fetcher/dataset")).expect("it is there").ino();
    let before = inode();
    let outcome = fetch_to_end(&scene, Place::Here, "fetcher", &seeder.manifest).expect_code(0);
    let complete = outcome.event("complete");
    assert_eq!(complete.number("from_seeders") + complete.number("from_peers"), 0, "nothing was fetched");
    assert_eq!(inode(), before, "it is the same directory");
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn changed_file_is_not_served_and_the_seeder_says_so() {
    let scene = Scene::new();
    let dataset = scene.path("dataset");
    data::tiny_files(&dataset, 1, 20, None);
    let changing = dataset.join("changing.bin");
    data::random_file(&changing, 5, 2 * MIB);
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &[]);
    data::change_byte(&changing, MIB);
    let outcome = fetch(&scene, Place::Here, "fetcher", &seeder.manifest, &["--timeout", "5s"]).wait();
    assert_eq!(outcome.code, Some(4), "the dataset is nowhere whole: {}", outcome.stderr);
    assert!(!scene.path("fetcher/dataset").exists(), "no final name without its content");
    let changed = seeder.process.wait_for("changed");
    assert!(changed.value.to_string().contains("changing.bin"), "it names the file: {changed:?}");
}

#[test]
fn source_tree_is_never_touched() {
    let scene = Scene::new();
    let (dataset, twin) = (scene.path("dataset"), scene.path("twin"));
    data::odd_tree(&dataset, 2);
    let copied = std::process::Command::new("cp").arg("-a").args([&dataset, &twin]).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &[]);
    fetch_to_end(&scene, Place::Here, "fetcher", &seeder.manifest).expect_code(0);
    seeder.process.interrupt();
    assert_same(&twin, &dataset);
}
