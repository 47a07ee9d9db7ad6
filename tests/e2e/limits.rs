//! Rate limits: they hold, over all links together, and nobody is blamed for them.
//!
//! How long something takes is asserted from below only: a busy machine makes nothing faster.

use crate::lab::scene::Scene;
use crate::steps::{MIB, Place, Seeder, assert_fetched, fetch, random_dataset};

const HERE: Place<'static> = Place::Here;

#[test]
fn upload_limit_of_a_seeder_holds_over_all_its_links() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 2);
    let seeder = Seeder::start(&scene, HERE, &dataset, &["--max-upload", "512K", "--exit-after-copies", "3"]);
    let names = ["one", "two", "three"];
    let fetchers = names.map(|name| fetch(&scene, HERE, name, &seeder.manifest, &["--linger", "1h"]));
    let mut slowest: f64 = 0.0;
    for fetcher in fetchers {
        let outcome = fetcher.wait().expect_code(0);
        assert!(outcome.events.iter().all(|event| event.name() != "banned"), "{:?}", outcome.events);
        slowest = slowest.max(outcome.event("complete").value["seconds"].as_f64().expect("a number"));
    }
    let sent = seeder.process.wait().expect_code(0).event("done").number("sent_bytes");
    assert!(sent >= 2 * MIB, "one copy at least left the seeder: {sent}");
    // The first and the last step wait for nothing, and whoever comes late may catch up.
    assert!(slowest >= 3.5, "2 MiB at 512 KiB/s take 4 s, not {slowest}");
    for name in names {
        assert_fetched(&scene, name, &dataset);
    }
}

#[test]
fn slow_download_by_choice_blames_nobody_and_fetches_nothing_twice() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 1);
    let seeder = Seeder::start(&scene, HERE, &dataset, &[]);
    let second = fetch(&scene, HERE, "second source", &seeder.manifest, &["--linger", "1h"]);
    second.wait_for("complete");
    let options = ["--linger", "0", "--max-download", "1600kbit"];
    let outcome = fetch(&scene, HERE, "fetcher", &seeder.manifest, &options).wait().expect_code(0);
    let complete = outcome.event("complete");
    let seconds = complete.value["seconds"].as_f64().expect("a number");
    assert!(seconds >= 4.5, "1 MiB at 200 kB/s take 5.2 s, not {seconds}");
    assert_eq!(complete.number("wasted"), 0, "a piece that this end holds back is not late");
    assert!(outcome.events.iter().all(|event| event.name() != "banned"), "{:?}", outcome.events);
    assert_fetched(&scene, "fetcher", &dataset);
    let sharing = second.interrupt().expect_code(0);
    assert!(sharing.events.iter().all(|event| event.name() != "banned"), "{:?}", sharing.events);
    seeder.process.interrupt().expect_code(0);
}

#[test]
fn upload_limit_of_peers_makes_no_one_give_up() {
    let scene = Scene::new();
    // One piece of 4 MiB at 1 MiB/s: longer than any time that a fetch has without progress.
    let dataset = random_dataset(&scene, 4);
    let options = ["--max-upload", "1M", "--piece-size", "4M"];
    let seeder = Seeder::start(&scene, HERE, &dataset, &options);
    let options = ["--linger", "0", "--timeout", "2s"];
    fetch(&scene, HERE, "fetcher", &seeder.manifest, &options).wait().expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}
