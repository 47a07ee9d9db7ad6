//! A private cluster: whoever has the secret takes part as ever; an outsider gets nothing and
//! learns nothing, whatever else he has.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use dft_protocol::manifest::Hints;

use crate::lab::process::{Outcome, Process};
use crate::lab::scene::Scene;
use crate::lab::{Lab, data, hints};
use crate::steps::{NO_SOURCE_TIMEOUT, Place, Seeder, assert_fetched, fetch, random_dataset};

const HERE: Place<'static> = Place::Here;

/// A new secret in the scene, as an option's value.
pub(crate) fn new_secret(scene: &Scene, name: &str) -> String {
    let path = scene.path(name);
    scene.dft("maker of secrets").args(["secret", "new"]).arg(&path).run().expect_code(0);
    path.to_str().expect("a test's paths are UTF-8").to_owned()
}

/// It says which secret is the matter, and what to try; and nothing of what is served.
fn assert_refused(outcome: &Outcome, reason: &str) {
    assert_eq!(outcome.code, Some(4), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(reason), "«{reason}» in {}", outcome.stderr);
    assert!(outcome.stderr.contains("\nhint: use the same --secret FILE"), "{}", outcome.stderr);
}

#[test]
fn members_fetch_with_encryption_and_without() {
    for encryption in ["on", "off"] {
        let scene = Scene::new();
        let dataset = random_dataset(&scene, 2);
        let secret = new_secret(&scene, "key");
        let options = ["--encryption", encryption, "--secret", &secret];
        let seeder = Seeder::start(&scene, HERE, &dataset, &options);
        let options = [&options[..], &["--linger", "0"]].concat();
        fetch(&scene, HERE, "member", &seeder.manifest, &options).wait().expect_code(0);
        assert_fetched(&scene, "member", &dataset);

        let options = [&["--encryption", encryption][..], &NO_SOURCE_TIMEOUT].concat();
        let outcome = fetch(&scene, HERE, "outsider", &seeder.manifest, &options).wait();
        assert_refused(&outcome, "it belongs to a cluster with a secret");
        assert!(!scene.path("outsider/dataset.bin").exists());
    }
}

#[test]
fn wrong_secrets_are_told_apart_at_either_end() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 1);
    let (one, other) = (new_secret(&scene, "one"), new_secret(&scene, "other"));
    let private = Seeder::named(&scene, HERE, "private", &dataset, &["--secret", &one]);
    let public = Seeder::named(&scene, HERE, "public", &dataset, &[]);
    let cases = [(&private, "its cluster has another secret"), (&public, "it has no secret")];
    for (number, (seeder, reason)) in cases.into_iter().enumerate() {
        let options = [&["--secret", &other][..], &NO_SOURCE_TIMEOUT].concat();
        let name = format!("fetcher {number}");
        assert_refused(&fetch(&scene, HERE, &name, &seeder.manifest, &options).wait(), reason);
    }
}

#[test]
fn outsider_cannot_tell_what_is_served() {
    let scene = Scene::new();
    let secret = new_secret(&scene, "key");
    let dataset = random_dataset(&scene, 1);
    let seeder = Seeder::start(&scene, HERE, &dataset, &["--secret", &secret]);
    let peer = seeder.seeding.texts("listen").remove(0);
    let elsewhere = scene.path("another.bin");
    data::random_file(&elsewhere, 77, 1000);
    let other = Seeder::named(&scene, HERE, "other", &elsewhere, &[]);
    other.process.interrupt().expect_code(0);
    let ask = |name: &str, manifest: &PathBuf| {
        let manifest = hints::without_hints(manifest, &scene.path(&format!("{name} manifest")));
        let options = [&["--peer", &peer][..], &NO_SOURCE_TIMEOUT].concat();
        fetch(&scene, HERE, name, &manifest, &options).wait()
    };
    let (served, unknown) = (ask("served", &seeder.manifest), ask("unknown", &other.manifest));
    let answer = |outcome: &Outcome| {
        let line = outcome.stderr.lines().find(|line| line.contains(&peer)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("the peer's answer in {}", outcome.stderr))
    };
    assert_eq!(answer(&served), answer(&unknown), "the answer does not depend on what is asked for");
}

#[test]
fn trackers_know_members_only() {
    let scene = Scene::new();
    let secret = new_secret(&scene, "key");
    let dataset = random_dataset(&scene, 1);
    let tracker = scene.dft("tracker").args(["tracker", "--json", "--listen", "127.0.0.1:0"]);
    let tracker = tracker.args(["--secret", &secret]).start();
    let address = tracker.wait_for("listening").texts("addrs").remove(0);
    let seeder = Seeder::start(&scene, HERE, &dataset, &["--secret", &secret, "--tracker", &address]);
    let mut trackers = seeder.seeding.texts("trackers");
    trackers.push(address.clone());
    let manifests: Vec<PathBuf> = trackers
        .into_iter()
        .enumerate()
        .map(|(number, tracker)| {
            let only = Hints { seeders: Vec::new(), trackers: vec![tracker] };
            hints::with_hints(&seeder.manifest, &scene.path(&format!("only {number}")), only)
        })
        .collect();
    // Each waits to its end for somebody, all of them at once.
    let outsiders: Vec<Process> = manifests
        .iter()
        .enumerate()
        .map(|(number, manifest)| {
            fetch(&scene, HERE, &format!("outsider {number}"), manifest, &NO_SOURCE_TIMEOUT)
        })
        .collect();
    for (number, manifest) in manifests.iter().enumerate() {
        let member = format!("member {number}");
        let options = ["--linger", "0", "--secret", &secret];
        fetch(&scene, HERE, &member, manifest, &options).wait().expect_code(0);
        assert_fetched(&scene, &member, &dataset);
    }
    for outsider in outsiders {
        let outcome = outsider.wait().expect_code(4);
        assert!(outcome.stderr.contains("found nobody"), "{}", outcome.stderr);
        assert!(outcome.events.iter().all(|event| event.name() != "tracker_up"), "{:?}", outcome.events);
    }
}

#[test]
fn members_find_each_other_on_the_lan_and_outsiders_find_nobody() {
    let Some(lab) = Lab::hosts(3).start_or_skip() else { return };
    let scene = Scene::new();
    let secret = new_secret(&scene, "key");
    let dataset = random_dataset(&scene, 2);
    let seeder = Seeder::start(&scene, Place::On(lab.host(0)), &dataset, &["--secret", &secret]);
    let manifest = hints::without_hints(&seeder.manifest, &scene.path("no hints"));
    let outsider = fetch(&scene, Place::On(lab.host(2)), "outsider", &manifest, &["--timeout", "8s"]);
    let options = ["--linger", "0", "--secret", &secret];
    fetch(&scene, Place::On(lab.host(1)), "member", &manifest, &options).wait().expect_code(0);
    assert_fetched(&scene, "member", &dataset);
    let outcome = outsider.wait().expect_code(4);
    assert!(outcome.stderr.contains("found nobody"), "{}", outcome.stderr);
}

#[test]
fn secret_is_for_its_owner_alone() {
    let scene = Scene::new();
    let secret = new_secret(&scene, "key");
    let mode = fs::metadata(&secret).expect("it was written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(&secret).expect("it is readable");
    let again = scene.dft("again").args(["secret", "new", &secret]).run().expect_code(5);
    assert!(again.stderr.contains("hint: "), "{}", again.stderr);
    assert_eq!(fs::read_to_string(&secret).expect("it is readable"), text, "it stays as it is");
    let default = scene.dft("default").args(["secret", "new", "--json"]).run().expect_code(0);
    assert!(!default.event("secret").value.to_string().contains("dft secret 1"));
    assert!(scene.path("default/dft.secret").exists());

    let dataset = random_dataset(&scene, 1);
    let seed = |secret: &str| {
        let dft = HERE.dft(&scene, "seeder", "seed").arg(&dataset).args(["--secret", secret]);
        dft.run().expect_code(2)
    };
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).expect("it is ours");
    assert!(seed(&secret).stderr.contains("chmod 600"));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("it is ours");
    assert!(seed("nothing-here").stderr.contains("nothing-here"));
    fs::write(&secret, "dft secret 1\nabc\n").expect("it is ours");
    let outcome = seed(&secret);
    assert!(
        outcome.stderr.contains("holds no secret") && !outcome.stderr.contains("abc"),
        "{}",
        outcome.stderr
    );
}
