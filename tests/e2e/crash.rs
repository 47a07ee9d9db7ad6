//! What must survive `kill -9`, a hang and an interrupt: of a fetcher, the seeder, the tracker.

use rustix::process::Signal;

use crate::lab::scene::Scene;
use crate::lab::{Lab, hints};
use crate::steps::{
    INTERRUPT_MAX, MIB, Place, Seeder, assert_fetched, fetch, fetch_to_end, has_percent, random_dataset,
};

use dft_protocol::manifest::Hints;

/// What a killed fetch may have received without having it recorded as durable: what was in
/// flight, and what waited for the next flush to disk.
const UNRECORDED_MAX: u64 = 12 * MIB;
/// A host's link counters also count headers and what keeps links alive.
const OVERHEAD_PERCENT: u64 = 6;

#[test]
fn killed_fetch_resumes_and_fetches_little_again() {
    let Some(lab) = Lab::hosts(2).rate_mbit(100).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 48);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &[]);
    let fetcher = fetch(&scene, Place::On(lab.host(1)), "fetcher", &seeder.manifest, &[]);
    fetcher.wait_until("a half", has_percent(50));
    fetcher.kill9();
    let first = lab.host(0).sent_bytes();
    assert!(!scene.path("fetcher/dataset.bin").exists(), "no final name before it is complete");

    let outcome = fetch_to_end(&scene, Place::On(lab.host(1)), "fetcher", &seeder.manifest).expect_code(0);
    let fetching = outcome.event("fetching");
    assert!(fetching.number("have_pieces") > 0, "it begins where it was: {fetching:?}");
    let all = lab.host(0).sent_bytes();
    println!("sent {first} bytes before the kill, {all} in all, of {}", seeder.bytes());
    let allowed = seeder.bytes() * (100 + OVERHEAD_PERCENT) / 100 + UNRECORDED_MAX;
    assert!(all <= allowed, "{all} bytes were sent, {allowed} are allowed");
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn interrupted_fetch_says_how_to_go_on_and_then_does() {
    let Some(lab) = Lab::hosts(2).rate_mbit(100).start_or_skip() else { return };
    for signal in [Signal::INT, Signal::TERM] {
        let scene = Scene::new();
        let dataset = random_dataset(&scene, 16);
        let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &[]);
        let fetcher = fetch(&scene, Place::On(lab.host(1)), "fetcher", &seeder.manifest, &[]);
        fetcher.wait_until("a quarter", has_percent(25));
        fetcher.signal(signal);
        let outcome = fetcher.wait_exit_within(INTERRUPT_MAX).expect_code(130);
        assert!(outcome.stderr.contains("again"), "it says how to go on: {}", outcome.stderr);
        assert!(!scene.path("fetcher/dataset.bin").exists(), "no final name before it is complete");

        let outcome =
            fetch_to_end(&scene, Place::On(lab.host(1)), "fetcher", &seeder.manifest).expect_code(0);
        assert!(outcome.event("fetching").number("have_pieces") > 0, "it begins where it was");
        assert_fetched(&scene, "fetcher", &dataset);
        let seeder = seeder.process;
        seeder.signal(signal);
        seeder.wait_exit_within(INTERRUPT_MAX);
    }
}

#[test]
fn fetch_that_waits_for_a_source_can_be_interrupted() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 1);
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &[]);
    let manifest = seeder.manifest.clone();
    seeder.process.kill9();
    let fetcher = fetch(&scene, Place::Here, "fetcher", &manifest, &[]);
    fetcher.wait_for("fetching");
    fetcher.signal(Signal::INT);
    fetcher.wait_exit_within(INTERRUPT_MAX).expect_code(130);
}

#[test]
fn swarm_completes_after_the_seeder_is_killed() {
    let Some(lab) = Lab::hosts(4).rate_mbit(100).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 24);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &[]);
    let first = fetch(&scene, Place::On(lab.host(1)), "first", &seeder.manifest, &[]);
    let second = fetch(&scene, Place::On(lab.host(2)), "second", &seeder.manifest, &[]);
    // The second hangs until the first has everything; the first stays since the second needs it.
    second.wait_until("a little", has_percent(5));
    second.stop();
    first.wait_for("complete");
    let manifest = seeder.manifest.clone();
    seeder.process.kill9();
    second.cont();
    let third = fetch(&scene, Place::On(lab.host(3)), "third", &manifest, &[]);
    let outcome = second.wait().expect_code(0);
    assert!(outcome.event("complete").number("from_peers") > 0, "the rest came from the first");
    third.wait().expect_code(0);
    first.wait().expect_code(0);
    for name in ["first", "second", "third"] {
        assert_fetched(&scene, name, &dataset);
    }
}

#[test]
fn hanging_peer_holds_up_no_one() {
    let Some(lab) = Lab::hosts(4).rate_mbit(100).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 16);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &[]);
    let [hanging, second, third] = [1, 2, 3]
        .map(|host| fetch(&scene, Place::On(lab.host(host)), &host.to_string(), &seeder.manifest, &[]));
    hanging.wait_until("a little", has_percent(10));
    hanging.stop();
    second.wait_for("complete");
    third.wait_for("complete");
    hanging.cont();
    for fetcher in [hanging, second, third] {
        fetcher.wait().expect_code(0);
    }
    for name in ["1", "2", "3"] {
        assert_fetched(&scene, name, &dataset);
    }
}

#[test]
fn swarm_does_not_need_its_tracker_any_more_once_it_has_met() {
    let Some(lab) = Lab::hosts(4).rate_mbit(100).start_or_skip() else { return };
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 16);
    let listen = format!("{}:0", lab.host(3).v4());
    let tracker =
        scene.dft_on(lab.host(3), "tracker").args(["tracker", "--json", "--listen", &listen]).start();
    let address = tracker.wait_for("listening").texts("addrs").remove(0);
    let options = ["--no-mdns", "--tracker", &address];
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &options);
    let manifest = hints::without_hints(&seeder.manifest, &scene.path("no hints"));
    let fetchers =
        [1, 2].map(|host| fetch(&scene, Place::On(lab.host(host)), &host.to_string(), &manifest, &options));
    for fetcher in &fetchers {
        fetcher.wait_until("a little", has_percent(5));
    }
    tracker.kill9();
    for fetcher in fetchers {
        fetcher.wait().expect_code(0);
    }
    for name in ["1", "2"] {
        assert_fetched(&scene, name, &dataset);
    }
}

#[test]
fn killed_tracker_remembers_who_announced() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 2);
    let start = |listen: &str| {
        let tracker = scene.dft("tracker").args(["tracker", "--json", "--listen", listen]).start();
        let address = tracker.wait_for("listening").texts("addrs").remove(0);
        (tracker, address)
    };
    let (tracker, address) = start("127.0.0.1:0");
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &["--tracker", &address]);
    let only_tracker = Hints { seeders: Vec::new(), trackers: vec![address.clone()] };
    let manifest = hints::with_hints(&seeder.manifest, &scene.path("tracker only"), only_tracker);
    fetch_to_end(&scene, Place::Here, "before", &manifest).expect_code(0);
    tracker.kill9();
    // The port is the one that the manifest names; nobody else was given it meanwhile.
    let port = address.split('/').nth(4).expect("a multiaddress has a port").to_owned();
    let (_tracker, again) = start(&format!("127.0.0.1:{port}"));
    assert_eq!(again, address, "it has kept its identity");
    fetch_to_end(&scene, Place::Here, "after", &manifest).expect_code(0);
    assert_fetched(&scene, "after", &dataset);
}
