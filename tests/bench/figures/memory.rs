//! How much memory a large dataset takes, beyond what a tiny one takes.

use std::path::Path;

use crate::lab::data;
use crate::lab::scene::Scene;
use crate::table::{Samples, Table};

const BYTES: u64 = 20 << 30;
/// Blocks of real data in it: each makes a whole piece that is hashed and sent.
const ISLANDS: u64 = 160;
const BASELINE_BYTES: u64 = 4096;

/// Peaks of a seeder and of a fetcher.
pub fn measure(runs: usize) -> Vec<Table> {
    let scene = Scene::in_memory();
    let (tiny, large) = (scene.path("tiny.bin"), scene.path("large.img"));
    data::random_file(&tiny, 1, BASELINE_BYTES);
    data::sparse_file(&large, 1, BYTES, ISLANDS);
    let [mut seeding, mut fetching] = [(); 2].map(|()| Samples::default());
    let [mut seeding_tiny, mut fetching_tiny] = [(); 2].map(|()| Samples::default());
    for run in 0..runs {
        let (seeder, fetcher) = peaks(&scene, &tiny, &format!("tiny {run}"));
        seeding_tiny.add(seeder);
        fetching_tiny.add(fetcher);
        let (seeder, fetcher) = peaks(&scene, &large, &format!("large {run}"));
        seeding.add(seeder);
        fetching.add(fetcher);
    }
    let mut table = Table::new(["process", "peak MiB, 4 KiB", "peak MiB, 20 GiB sparse", "more", "target"]);
    for (process, tiny, large) in [("seed", seeding_tiny, seeding), ("fetch", fetching_tiny, fetching)] {
        let more = large.median() - tiny.median();
        table.row([
            process.to_owned(),
            tiny.show(1),
            large.show(1),
            format!("{more:.1} MiB"),
            "<= 64 MiB".to_owned(),
        ]);
    }
    vec![table]
}

/// The most memory that a seeder and a fetcher of this dataset held, in MiB.
fn peaks(scene: &Scene, dataset: &Path, name: &str) -> (f64, f64) {
    let common = ["--json", "--listen", "127.0.0.1"];
    let seeder_name = format!("{name} seeder");
    let mut seeder = scene.dft(&seeder_name).arg("seed").args(common).arg(dataset).start();
    let manifest = scene.path(&seeder_name).join(seeder.wait_for("seeding").text("manifest"));
    let fetcher_name = format!("{name} fetcher");
    let mut fetcher = scene.dft(&fetcher_name).arg("fetch").args(common).arg(&manifest).start();
    fetcher.wait_for("complete");
    let sampled = fetcher.sample_memory();
    let fetched = fetcher.wait().expect_code(0).cost.peak_memory_kib.max(sampled);
    std::fs::remove_dir_all(scene.path(&fetcher_name)).expect("the copy is ours");
    (seeder.sample_memory() as f64 / 1024.0, fetched as f64 / 1024.0)
}
