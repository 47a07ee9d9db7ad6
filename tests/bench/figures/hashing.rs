//! How fast a dataset is hashed, beside what all cores together can hash.

use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::lab::data::{self, Random};
use crate::lab::scene::Scene;
use crate::machine::cores;
use crate::table::{Samples, Table};

const BYTES: u64 = 2 << 30;
/// What one core hashes to learn its rate: from memory, a mebibyte at a time.
const CALIBRATION_ROUNDS: u32 = 512;

/// `dft seed` of one file, and one core alone.
pub fn measure(runs: usize) -> Vec<Table> {
    let scene = Scene::in_memory();
    let dataset = scene.path("dataset");
    data::random_file(&dataset, 2, BYTES);
    let [mut one_core, mut seed, mut ratio, mut cost] = [(); 4].map(|()| Samples::default());
    for _ in 0..runs {
        let core_rate = one_core_rate();
        let options = ["seed", "--json", "--rehash", "--listen", "127.0.0.1"];
        let seeder = scene.dft("seeder").args(options).arg(&dataset).start();
        let hashed = seeder.wait_for("hashed");
        let seconds = hashed.value["seconds"].as_f64().expect("it says how long it took");
        cost.add(seeder.cpu_seconds() / (BYTES >> 30) as f64);
        let rate = BYTES as f64 / 1e9 / seconds;
        one_core.add(core_rate);
        seed.add(rate);
        ratio.add(rate / (core_rate * cores() as f64));
    }
    // What others do on the machine changes a rate, but hardly what a gibibyte costs.
    let mut table = Table::new([
        "cores",
        "GB/s one core, SHA-256 alone",
        "GB/s dft seed",
        "x cores x one core",
        "target",
        "CPU s/GiB SHA-256 alone",
        "CPU s/GiB dft seed",
    ]);
    table.row([
        cores().to_string(),
        one_core.show(2),
        seed.show(2),
        ratio.show(2),
        ">= 0.9".to_owned(),
        format!("{:.2}", (1u64 << 30) as f64 / 1e9 / one_core.median()),
        cost.show(2),
    ]);
    vec![table]
}

fn one_core_rate() -> f64 {
    let mut buffer = vec![0; 1 << 20];
    Random::new(1).fill(&mut buffer);
    let started = Instant::now();
    let mut hasher = Sha256::new();
    for _ in 0..CALIBRATION_ROUNDS {
        hasher.update(&buffer);
    }
    std::hint::black_box(hasher.finalize());
    f64::from(CALIBRATION_ROUNDS) * buffer.len() as f64 / 1e9 / started.elapsed().as_secs_f64()
}
