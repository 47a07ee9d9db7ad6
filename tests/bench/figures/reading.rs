//! What is read while it is fetched: how soon its first byte is there, how fast the rest, and the memory.

use std::path::Path;

use crate::lab::process::Process;
use crate::lab::scene::Scene;
use crate::lab::{Lab, data};
use crate::table::{Samples, Table};

const MBIT: u32 = 200;
const BYTES: u64 = 256 << 20;

/// One byte out of the middle of a file, and all of it, of one holder.
pub fn measure(runs: usize) -> Vec<Table> {
    match Lab::available().and_then(|()| Lab::hosts(2).rate_mbit(MBIT).start()) {
        Ok(lab) => vec![measure_in(&lab, runs)],
        Err(reason) => {
            println!("SKIPPED: {reason}\n");
            Vec::new()
        }
    }
}

fn measure_in(lab: &Lab, runs: usize) -> Table {
    let scene = Scene::in_memory();
    let tree = scene.new_directory("tree");
    data::random_file(&tree.join("big"), 1, BYTES);
    data::random_file(&tree.join("small"), 2, 1000);
    let daemon = |host: usize, more: &[&str]| -> Process {
        let dft = scene.dft_on(lab.host(host), &format!("n{host}")).args(["daemon", "--json"]);
        let process = dft.args(more).start();
        process.wait_for("ready");
        process
    };
    let (_holder, mut reader) = (daemon(0, &["--embed-tracker", "--open"]), daemon(1, &[]));
    let put = scene.dft_on(lab.host(0), "n0").args(["put", "--compress", "off"]).arg(&tree);
    put.run().expect_code(0);
    let before = reader.sample_memory();
    let (mut byte, mut all) = (Samples::default(), Samples::default());
    let bound = BYTES as f64 * 8.0 / (f64::from(MBIT) * 1e6);
    for run in 0..runs {
        let middle = format!("{}-{}", BYTES / 2, BYTES / 2 + 1);
        let cat = scene.dft_on(lab.host(1), "n1").args(["cat", "tree", "big", "--range", &middle]);
        byte.add(cat.run().expect_code(0).elapsed.as_secs_f64() * 1e3);
        let copy = scene.path(&format!("copy {run}"));
        let append = scene.dft_on(lab.host(1), "n1").args(["append", "tree", "--path", "big", "--json"]);
        all.add(append.arg(&copy).run().expect_code(0).elapsed.as_secs_f64() / bound);
        assert!(is_same(&copy, &tree.join("big")), "what was read is what was put");
        std::fs::remove_file(&copy).expect("the copy is ours");
    }
    let mut table = Table::new([
        "of 256 MiB at 200 Mbit/s, of which one node has a copy",
        "ms from process start to exit",
        "x the bound",
        "MiB more in the daemon",
        "target",
    ]);
    let nothing = || "-".to_owned();
    table.row(["a byte of the middle".to_owned(), byte.show(0), nothing(), nothing(), "< 500 ms".to_owned()]);
    let more = (reader.sample_memory() - before) as f64 / 1024.0;
    let more = format!("{more:.0}");
    table.row(["all of it, in order".to_owned(), nothing(), all.show(3), more, "< 1.15".to_owned()]);
    table
}

fn is_same(one: &Path, other: &Path) -> bool {
    let read = |path: &Path| std::fs::read(path).expect("it can be read");
    read(one) == read(other)
}
