//! Compression per piece: what compresses travels small, all arrives as it was, and what came
//! compressed is passed on so.

use std::fs;
use std::path::PathBuf;

use crate::lab::process::Outcome;
use crate::lab::scene::Scene;
use crate::steps::{MIB, Place, Seeder, assert_fetched, fetch, fetch_to_end, random_dataset};

const HERE: Place<'static> = Place::Here;

/// A file that compresses to less than half.
pub(crate) fn text(scene: &Scene, mib: u64) -> PathBuf {
    let path = scene.path("text.csv");
    let lines = (0u64..).flat_map(|line| format!("{line},{},{}\n", line * line, line % 97).into_bytes());
    let bytes: Vec<u8> = lines.take(usize::try_from(mib * MIB).expect("it fits memory")).collect();
    fs::write(&path, bytes).expect("it is writable");
    path
}

fn arrived(outcome: &Outcome) -> u64 {
    outcome.event("complete").number("arrived_bytes")
}

#[test]
fn text_travels_compressed_encrypted_or_not() {
    for encryption in ["on", "off"] {
        let scene = Scene::new();
        let dataset = text(&scene, 4);
        let options = ["--compress", "zstd", "--encryption", encryption, "--exit-after-copies", "2"];
        let seeder = Seeder::start(&scene, HERE, &dataset, &options);
        let options = ["--linger", "1h", "--encryption", encryption];
        let fetchers =
            ["one", "two"].map(|name| (name, fetch(&scene, HERE, name, &seeder.manifest, &options)));
        for (name, fetcher) in fetchers {
            let outcome = fetcher.wait().expect_code(0);
            assert!(arrived(&outcome) < 3 * MIB, "{} of 4 MiB arrived", arrived(&outcome));
            assert_fetched(&scene, name, &dataset);
        }
        let done = seeder.process.wait().expect_code(0).event("done").clone();
        assert!(done.number("saved_bytes") > MIB, "{done:?}");
    }
}

#[test]
fn what_came_compressed_is_passed_on_compressed() {
    let scene = Scene::new();
    let dataset = text(&scene, 4);
    let seeder = Seeder::start(&scene, HERE, &dataset, &["--compress", "zstd"]);
    // They are slow enough to be linked to each other long before the first one is complete. The
    // slower one keeps the other sharing, after the seeder is gone.
    let fetch_at = |name: &str, more: &[&str]| {
        fetch(&scene, HERE, name, &seeder.manifest, &[&["--linger", "1h"], more].concat())
    };
    let first = fetch_at("first", &["--max-download", "700K"]);
    let peer = first.wait_for("fetching").texts("listen").remove(0);
    let waiting = fetch_at("waiting", &["--max-download", "350K", "--peer", &peer]);
    first.wait_for("complete");
    seeder.process.kill9();
    let outcome = waiting.wait().expect_code(0);
    let complete = outcome.event("complete");
    assert!(complete.number("from_peers") > 0, "{complete:?}");
    assert!(arrived(&outcome) < 3 * MIB, "{} of 4 MiB arrived", arrived(&outcome));
    assert_fetched(&scene, "waiting", &dataset);
    first.wait().expect_code(0);
}

#[test]
fn what_does_not_compress_and_what_is_not_to_be_travels_plain() {
    let scene = Scene::new();
    for (name, dataset, compress) in
        [("noise", random_dataset(&scene, 2), "zstd"), ("text", text(&scene, 2), "off")]
    {
        let seeder = Seeder::named(
            &scene,
            HERE,
            &format!("seeder of {name}"),
            &dataset,
            &["--compress", compress, "--exit-after-copies", "1"],
        );
        let outcome = fetch_to_end(&scene, HERE, name, &seeder.manifest).expect_code(0);
        assert!(arrived(&outcome) >= 2 * MIB, "{name}");
        assert_fetched(&scene, name, &dataset);
        let done = seeder.process.wait().expect_code(0).event("done").clone();
        assert_eq!(done.number("saved_bytes"), 0, "{name}");
    }
}

#[test]
fn slow_link_makes_a_seeder_compress_by_itself() {
    let scene = Scene::new();
    let dataset = text(&scene, 4);
    let options = ["--max-upload", "1M", "--exit-after-copies", "1"];
    let seeder = Seeder::start(&scene, HERE, &dataset, &options);
    let outcome = fetch_to_end(&scene, HERE, "fetcher", &seeder.manifest).expect_code(0);
    assert!(arrived(&outcome) < 3 * MIB, "{} of 4 MiB arrived", arrived(&outcome));
    assert_fetched(&scene, "fetcher", &dataset);
    assert!(seeder.process.wait().expect_code(0).event("done").number("saved_bytes") > 0);
}
