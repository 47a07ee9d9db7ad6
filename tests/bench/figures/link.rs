//! One seeder and one fetcher on loopback, their data in memory: what a gibibyte costs.

use crate::lab::data;
use crate::lab::scene::Scene;
use crate::table::{Samples, Table};

const BYTES: u64 = 1 << 30;

/// With and without encryption.
pub fn measure(runs: usize) -> Vec<Table> {
    let mut table = Table::new([
        "encryption",
        "GB/s while fetching",
        "seconds from start to complete",
        "CPU s/GiB seeder",
        "CPU s/GiB fetcher",
        "CPU s/GiB both ends",
        "target",
    ]);
    let scene = Scene::in_memory();
    let dataset = scene.path("dataset");
    data::random_file(&dataset, 1, BYTES);
    for (encryption, target) in [("off", "<= 2.0"), ("on", "<= 2.8")] {
        let [mut rate, mut seconds, mut seeding, mut fetching, mut both] =
            [(); 5].map(|()| Samples::default());
        for run in 0..runs {
            let common = ["--json", "--listen", "127.0.0.1", "--encryption", encryption];
            let seeder = scene.dft("seeder").arg("seed").args(common).arg(&dataset).start();
            let manifest = scene.path("seeder").join(seeder.wait_for("seeding").text("manifest"));
            let before = seeder.cpu_seconds();
            let name = format!("fetcher {encryption} {run}");
            let fetcher = scene.dft(&name).arg("fetch").args(common).arg(&manifest).start();
            let (first, last) = (fetcher.wait_for("fetching").at, fetcher.wait_for("complete").at);
            rate.add(BYTES as f64 / 1e9 / (last - first).as_secs_f64());
            seconds.add((last - fetcher.started()).as_secs_f64());
            let fetched = fetcher.wait().expect_code(0).cost.cpu_seconds;
            let seeded = seeder.cpu_seconds() - before;
            seeding.add(seeded);
            fetching.add(fetched);
            both.add(seeded + fetched);
            std::fs::remove_dir_all(scene.path(&name)).expect("the copy is ours");
        }
        table.row([
            encryption.to_owned(),
            rate.show(2),
            seconds.show(2),
            seeding.show(2),
            fetching.show(2),
            both.show(2),
            target.to_owned(),
        ]);
    }
    vec![table]
}
