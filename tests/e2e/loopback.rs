//! The daily use, on one machine: seed, fetch, and what the copy has in common with its original.

use std::fs;

use crate::lab::scene::Scene;
use crate::lab::tree::allocated_bytes;
use crate::lab::{data, hints};
use crate::steps::{
    MIB, NO_SOURCE_TIMEOUT, Place, Seeder, assert_fetched, fetch, fetch_to_end, random_dataset,
};

use dft_protocol::manifest::Hints;

const HERE: Place<'static> = Place::Here;
/// How often a dataset is seeded until it is old enough to be trusted.
const SETTLING_RUNS_MAX: usize = 100;

#[test]
fn eight_fetchers_get_exact_copies_and_the_seeder_sends_less_than_three() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 48);
    let seeder = Seeder::start(&scene, HERE, &dataset, &["--exit-after-copies", "8"]);
    let names: Vec<String> = (0..8).map(|number| format!("fetcher {number}")).collect();
    // They stay while others need them, and no longer: nobody waits for an hour.
    let options = ["--linger", "1h"];
    let fetchers: Vec<_> =
        names.iter().map(|name| fetch(&scene, HERE, name, &seeder.manifest, &options)).collect();
    for fetcher in fetchers {
        let outcome = fetcher.wait().expect_code(0);
        let complete = outcome.event("complete");
        let received = complete.number("from_seeders") + complete.number("from_peers");
        assert!(received >= 48 * MIB, "every byte came from somewhere: {received}");
    }
    let bytes = seeder.bytes();
    let done = seeder.process.wait().expect_code(0);
    let sent = done.event("done").number("sent_bytes");
    println!("the seeder sent {:.2} copies", sent as f64 / bytes as f64);
    assert!(sent < 3 * bytes, "the seeder sent {sent} bytes of {bytes}");
    for name in names {
        assert_fetched(&scene, &name, &dataset);
    }
}

#[test]
fn odd_tree_comes_back_entry_by_entry() {
    let scene = Scene::new();
    let dataset = scene.path("odd");
    data::odd_tree(&dataset, 7);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    fetch_to_end(&scene, HERE, "fetcher", &seeder.manifest).expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn twenty_thousand_tiny_files_come_back() {
    // To make, compare and remove so many files on a disk would take most of the time.
    let scene = Scene::in_memory();
    let dataset = scene.path("tiny");
    let bytes = data::tiny_files(&dataset, 3, 20_000, None);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    assert_eq!(seeder.bytes(), bytes);
    fetch_to_end(&scene, HERE, "fetcher", &seeder.manifest).expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn sparse_file_of_five_gigabytes_stays_sparse() {
    let scene = Scene::new();
    let dataset = scene.path("sparse.img");
    data::sparse_file(&dataset, 5, 5 * 1024 * MIB, 24);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    let outcome = fetch_to_end(&scene, HERE, "fetcher", &seeder.manifest).expect_code(0);
    let moved = outcome.event("complete").number("from_seeders");
    assert!(moved < 1024 * MIB, "holes aren't sent, but {moved} bytes were");
    assert_fetched(&scene, "fetcher", &dataset);
    let allocated = allocated_bytes(&scene.path("fetcher/sparse.img"));
    assert!(allocated < 16 * MIB, "{allocated} bytes on disk");
}

#[test]
fn empty_datasets_come_back() {
    let scene = Scene::new();
    let (file, directory) = (scene.path("empty file"), scene.path("empty directory"));
    data::random_file(&file, 0, 0);
    fs::create_dir(&directory).expect("a new directory");
    for dataset in [file, directory] {
        let name = dataset.file_name().expect("it has one").to_string_lossy().into_owned();
        let seeder = Seeder::named(&scene, HERE, &format!("seeder of {name}"), &dataset, &[]);
        let place = format!("fetcher of {name}");
        fetch_to_end(&scene, HERE, &place, &seeder.manifest).expect_code(0);
        assert_fetched(&scene, &place, &dataset);
    }
}

#[test]
fn many_paths_become_one_directory() {
    let scene = Scene::new();
    let (file, directory) = (scene.path("one.bin"), scene.path("two"));
    data::random_file(&file, 1, 3 * MIB);
    data::tiny_files(&directory, 2, 30, None);
    let seeder =
        HERE.dft(&scene, "seeder", "seed").args(["--name", "both"]).args([&file, &directory]).start();
    let manifest = scene.path("seeder").join(seeder.wait_for("seeding").text("manifest"));
    fetch_to_end(&scene, HERE, "fetcher", &manifest).expect_code(0);
    assert_fetched_within(&scene, "fetcher/both/one.bin", "one.bin");
    assert_fetched_within(&scene, "fetcher/both/two", "two");
}

fn assert_fetched_within(scene: &Scene, copy: &str, original: &str) {
    crate::lab::tree::assert_same(&scene.path(original), &scene.path(copy));
}

#[test]
fn tracker_alone_brings_peers_together() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 4);
    let tracker = scene.dft("tracker").args(["tracker", "--json", "--listen", "127.0.0.1:0"]).start();
    let address = tracker.wait_for("listening").texts("addrs").remove(0);
    let seeder = Seeder::start(&scene, HERE, &dataset, &["--tracker", &address]);
    let only_tracker = Hints { seeders: Vec::new(), trackers: vec![address.clone()] };
    let manifest = hints::with_hints(&seeder.manifest, &scene.path("tracker only"), only_tracker);
    fetch_to_end(&scene, HERE, "by hint", &manifest).expect_code(0);
    assert_fetched(&scene, "by hint", &dataset);

    let manifest = hints::without_hints(&seeder.manifest, &scene.path("no hints"));
    let options = ["--linger", "0", "--tracker", &address];
    fetch(&scene, HERE, "by option", &manifest, &options).wait().expect_code(0);
    assert_fetched(&scene, "by option", &dataset);
}

#[test]
fn embedded_tracker_of_a_seeder_is_enough() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 2);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    let trackers = seeder.seeding.texts("trackers");
    assert!(!trackers.is_empty(), "a seeder is a tracker: {:?}", seeder.seeding);
    let only_trackers = Hints { seeders: Vec::new(), trackers };
    let manifest = hints::with_hints(&seeder.manifest, &scene.path("trackers only"), only_trackers);
    fetch_to_end(&scene, HERE, "fetcher", &manifest).expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn peer_given_by_hand_is_enough() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 2);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    let manifest = hints::without_hints(&seeder.manifest, &scene.path("no hints"));
    let peer = seeder.seeding.texts("listen").remove(0);
    let options = ["--linger", "0", "--peer", &peer];
    fetch(&scene, HERE, "fetcher", &manifest, &options).wait().expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn loopback_of_ip_version_6_works() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 2);
    let directory = scene.new_directory("seeder");
    let seeder = scene.dft("seeder").args(["seed", "--json", "--listen", "::1"]).arg(&dataset).start();
    let manifest = directory.join(seeder.wait_for("seeding").text("manifest"));
    let fetcher = scene.dft("fetcher").args(["fetch", "--json", "--listen", "::1", "--linger", "0"]);
    fetcher.arg(&manifest).run().expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn encryption_off_on_both_ends_works() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 8);
    let seeder = Seeder::start(&scene, HERE, &dataset, &["--encryption", "off"]);
    let options = ["--encryption", "off", "--linger", "0"];
    fetch(&scene, HERE, "fetcher", &seeder.manifest, &options).wait().expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn different_encryption_settings_are_told_apart_from_an_absent_seeder() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 1);
    for (seeding, fetching) in [("on", "off"), ("off", "on")] {
        let name = format!("seeder {seeding}");
        let seeder = Seeder::named(&scene, HERE, &name, &dataset, &["--encryption", seeding]);
        let fetcher = format!("fetcher {fetching}");
        let options = ["--encryption", fetching, "--timeout", "5s"];
        let outcome = fetch(&scene, HERE, &fetcher, &seeder.manifest, &options).wait().expect_code(4);
        assert!(outcome.stderr.contains("encryption"), "it names the cause: {}", outcome.stderr);
        assert!(outcome.stderr.contains("hint: "), "it says what to try: {}", outcome.stderr);
        assert_eq!(outcome.event("error").number("code"), 4);
    }
}

#[test]
fn seeder_leaves_after_as_many_copies_as_it_was_told() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 2);
    let seeder = Seeder::start(&scene, HERE, &dataset, &["--exit-after-copies", "2"]);
    fetch_to_end(&scene, HERE, "one", &seeder.manifest).expect_code(0);
    let one = seeder.process.wait_for("peer_complete");
    assert_eq!(one.number("copies"), 1);
    fetch_to_end(&scene, HERE, "two", &seeder.manifest).expect_code(0);
    let outcome = seeder.process.wait().expect_code(0);
    assert_eq!(outcome.event("done").number("copies"), 2);
}

#[test]
fn seeding_again_what_has_not_changed_reads_nothing() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 4);
    let mut ids = Vec::new();
    let mut seed = |options: &[&str]| {
        let seeder = Seeder::start(&scene, HERE, &dataset, options);
        ids.push(seeder.seeding.text("id").to_owned());
        let hashed = seeder.process.wait_for("hashed");
        seeder.process.interrupt().expect_code(0);
        hashed.value["cached"].as_bool().expect("it says whether it was cached")
    };
    assert!(!seed(&[]), "it was never hashed before");
    // What was written a moment ago could be written again without a trace: not trusted at once.
    let settled = (0..SETTLING_RUNS_MAX).any(|_| seed(&[]));
    assert!(settled, "what stays as it is is trusted in the end");
    assert!(!seed(&["--rehash"]), "all is read where that is asked for");
    data::change_byte(&dataset, MIB);
    assert!(!seed(&[]), "what has changed is read again");
    let changed = ids.pop();
    assert!(ids.iter().all(|id| *id == ids[0]), "the same data has the same id: {ids:?}");
    assert_ne!(changed.as_ref(), ids.first(), "other data has another id");
}

#[test]
fn sixty_four_file_descriptors_are_enough() {
    let scene = Scene::new();
    let dataset = scene.path("dataset");
    data::tiny_files(&dataset, 9, 600, None);
    data::random_file(&dataset.join("large.bin"), 9, 8 * MIB);
    let seeder = scene.dft("seeder").open_files_max(64);
    let seeder = seeder.args(["seed", "--json", "--listen", "127.0.0.1"]).arg(&dataset).start();
    let manifest = scene.path("seeder").join(seeder.wait_for("seeding").text("manifest"));
    let fetchers: Vec<_> = ["one", "two", "three"]
        .map(|name| {
            let fetcher = scene.dft(name).open_files_max(64);
            (name, fetcher.args(["fetch", "--json", "--listen", "127.0.0.1"]).arg(&manifest).start())
        })
        .into();
    for (name, fetcher) in fetchers {
        fetcher.wait().expect_code(0);
        assert_fetched(&scene, name, &dataset);
    }
}

#[test]
fn fetch_without_any_source_ends_with_its_own_code() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 1);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    let (manifest, gone) = (seeder.manifest.clone(), seeder.process);
    gone.kill9();
    let outcome = fetch(&scene, HERE, "fetcher", &manifest, &NO_SOURCE_TIMEOUT).wait().expect_code(4);
    assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("\nhint: "), "{}", outcome.stderr);
    assert!(!scene.path("fetcher/dataset.bin").exists(), "no final name without its content");
}
