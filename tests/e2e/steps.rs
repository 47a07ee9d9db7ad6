//! The steps that the stories are told in: seed, fetch, and what must be true afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::process::{Event, Outcome, Process};
use crate::lab::scene::{Dft, Scene};
use crate::lab::tree::assert_same;
use crate::lab::{Host, data};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// SIGINT and SIGTERM end a `dft` within this time, whatever it does.
pub const INTERRUPT_MAX: Duration = Duration::from_secs(2);
/// For fetches that must find no one: long enough to look everywhere once.
pub const NO_SOURCE_TIMEOUT: [&str; 2] = ["--timeout", "3s"];

/// Where a `dft` runs.
#[derive(Clone, Copy)]
pub enum Place<'lab> {
    /// On this machine, on loopback alone.
    Here,
    /// On a host of a laboratory, with everything as a user has it.
    On(Host<'lab>),
}

impl Place<'_> {
    /// A `dft` at this place, with the verb and JSON events.
    pub fn dft(self, scene: &Scene, name: &str, verb: &str) -> Dft {
        match self {
            Place::Here => scene.dft(name).args([verb, "--json", "--listen", "127.0.0.1"]),
            Place::On(host) => scene.dft_on(host, name).args([verb, "--json"]),
        }
    }
}

/// A running seeder that has hashed everything and listens.
pub struct Seeder {
    /// The process.
    pub process: Process,
    /// What it said when it was ready.
    pub seeding: Event,
    /// The manifest that it wrote.
    pub manifest: PathBuf,
}

impl Seeder {
    /// Starts to seed, and waits until it does.
    pub fn start(scene: &Scene, place: Place<'_>, path: &Path, options: &[&str]) -> Self {
        Self::named(scene, place, "seeder", path, options)
    }

    /// The same in a directory of this name: the same name continues an earlier one.
    pub fn named(scene: &Scene, place: Place<'_>, name: &str, path: &Path, options: &[&str]) -> Self {
        let dft = place.dft(scene, name, "seed").arg(path).args(options);
        let directory = dft.directory().to_owned();
        let process = dft.start();
        let seeding = process.wait_for("seeding");
        let manifest = directory.join(seeding.text("manifest"));
        Self { process, seeding, manifest }
    }

    /// The payload bytes of the dataset.
    pub fn bytes(&self) -> u64 {
        self.seeding.number("bytes")
    }
}

/// Starts to fetch into the directory `name` of the scene.
pub fn fetch(scene: &Scene, place: Place<'_>, name: &str, manifest: &Path, options: &[&str]) -> Process {
    place.dft(scene, name, "fetch").arg(manifest).args(options).start()
}

/// Fetches into the directory `name` of the scene, and doesn't stay.
pub fn fetch_to_end(scene: &Scene, place: Place<'_>, name: &str, manifest: &Path) -> Outcome {
    fetch(scene, place, name, manifest, &["--linger", "0"]).wait()
}

/// A file `dataset.bin` of random bytes.
pub fn random_dataset(scene: &Scene, mib: u64) -> PathBuf {
    let path = scene.path("dataset.bin");
    data::random_file(&path, mib, mib * MIB);
    path
}

/// Fails the test unless the directory `name` of the scene holds a faithful copy of the dataset
/// and nothing else.
pub fn assert_fetched(scene: &Scene, name: &str, dataset: &Path) {
    let directory = scene.path(name);
    assert_same(dataset, &directory.join(dataset.file_name().expect("a dataset has a name")));
    let names: Vec<_> = std::fs::read_dir(&directory)
        .expect("the fetch ran there")
        .map(|entry| entry.expect("a readable entry").file_name())
        .collect();
    assert_eq!(names.len(), 1, "only the dataset is left there: {names:?}");
}

/// Whether a progress event says that `percent` of the data is there, and not all of it.
pub fn has_percent(percent: u64) -> impl Fn(&Event) -> bool {
    move |event| {
        event.name() == "progress"
            && event.value["have_bytes"].as_u64().unwrap_or(0) * 100
                >= event.value["bytes"].as_u64().unwrap_or(u64::MAX / 100) * percent
    }
}
