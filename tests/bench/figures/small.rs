//! How soon a tiny file is there: what a fetch costs beside its data.

use crate::lab::scene::Scene;
use crate::lab::{Lab, data, hints};
use crate::table::{Samples, Table};

const BYTES: u64 = 4096;

/// From a seeder that the manifest names, and from one that multicast finds.
pub fn measure(runs: usize) -> Vec<Table> {
    let mut table = Table::new(["seeder", "ms from process start to exit", "target"]);
    table.row(["named by the manifest, loopback".to_owned(), known_seeder(runs).show(0), "< 100".to_owned()]);
    match Lab::available().and_then(|()| Lab::hosts(2).start()) {
        Ok(lab) => {
            let samples = multicast_alone(&lab, runs);
            table.row(["found by mDNS alone, LAN".to_owned(), samples.show(0), "< 2000".to_owned()]);
        }
        Err(reason) => println!("SKIPPED mDNS: {reason}\n"),
    }
    vec![table]
}

fn known_seeder(runs: usize) -> Samples {
    let scene = Scene::new();
    let dataset = scene.path("dataset");
    data::random_file(&dataset, 1, BYTES);
    let common = ["--json", "--listen", "127.0.0.1"];
    let seeder = scene.dft("seeder").arg("seed").args(common).arg(&dataset).start();
    let manifest = scene.path("seeder").join(seeder.wait_for("seeding").text("manifest"));
    let mut samples = Samples::default();
    for run in 0..runs {
        let fetcher = scene.dft(&format!("fetcher {run}")).arg("fetch").args(common).arg(&manifest);
        samples.add(fetcher.run().expect_code(0).elapsed.as_secs_f64() * 1e3);
    }
    samples
}

fn multicast_alone(lab: &Lab, runs: usize) -> Samples {
    let scene = Scene::new();
    let dataset = scene.path("dataset");
    data::random_file(&dataset, 1, BYTES);
    let seeder = scene.dft_on(lab.host(0), "seeder").args(["seed", "--json"]).arg(&dataset).start();
    let manifest = scene.path("seeder").join(seeder.wait_for("seeding").text("manifest"));
    let manifest = hints::without_hints(&manifest, &scene.path("no hints"));
    let mut samples = Samples::default();
    for run in 0..runs {
        let fetcher = scene.dft_on(lab.host(1), &format!("fetcher {run}"));
        let outcome = fetcher.args(["fetch", "--json"]).arg(&manifest).run().expect_code(0);
        samples.add(outcome.elapsed.as_secs_f64() * 1e3);
    }
    samples
}
