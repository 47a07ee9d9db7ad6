//! Ten receivers on shaped hosts, all started at once: how close dft comes to what the network
//! allows, and how often the seeder sends each byte.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::lab::Lab;
use crate::lab::data;
use crate::lab::process::Process;
use crate::lab::scene::{Dft, Scene};
use crate::lab::tree::assert_same;
use crate::table::{Samples, Table};

const RECEIVERS: usize = 10;
const RATE_MBIT: u32 = 50;
const BYTES: u64 = 64 << 20;
const TINY_FILES: usize = 20_000;
/// Where the traces of all runs go, a directory each; nowhere if it is not set.
const TRACE_DIRECTORY: &str = "DFT_TRACE_DIR";

/// One file.
pub fn one_file(runs: usize) -> Vec<Table> {
    measure(runs, "one file", |path| data::random_file(path, 64, BYTES))
}

/// The same bytes in many files.
pub fn tiny_files(runs: usize) -> Vec<Table> {
    measure(runs, "20,000 files", |path| {
        data::tiny_files(path, 64, TINY_FILES, Some(BYTES));
    })
}

/// What all runs measured.
#[derive(Default)]
struct Measured {
    seconds: Samples,
    copies: Samples,
    cpu_seconds: Samples,
    seeder_mib: Samples,
    fetcher_mib: Samples,
}

fn measure(runs: usize, what: &str, make: impl Fn(&Path)) -> Vec<Table> {
    // Everyone must send and receive all of it once, at the rate of one link; the 10 copies
    // together need less, since 11 hosts send.
    let bound = BYTES as f64 * 8.0 / (f64::from(RATE_MBIT) * 1e6);
    let mut table = Table::new([
        "dataset",
        "TCP",
        "seconds until all have it",
        "x bound",
        "copies sent by the seeder's host",
        "CPU s, all processes",
        "peak MiB seeder / fetcher",
    ]);
    for congestion_control in ["bbr", "cubic"] {
        let mut measured = Measured::default();
        for _ in 0..runs {
            let lab = Lab::hosts(RECEIVERS + 1).rate_mbit(RATE_MBIT).congestion_control(congestion_control);
            match Lab::available().and_then(|()| lab.start()) {
                Ok(lab) => run(&lab, &make, &mut measured),
                Err(reason) => {
                    println!("SKIPPED with {congestion_control}: {reason}\n");
                    break;
                }
            }
        }
        table.row([
            what.to_owned(),
            congestion_control.to_owned(),
            measured.seconds.show(1),
            format!("{:.2} (bound {bound:.1} s)", measured.seconds.median() / bound),
            measured.copies.show(2),
            measured.cpu_seconds.show(1),
            format!("{:.0} / {:.0}", measured.seeder_mib.largest(), measured.fetcher_mib.largest()),
        ]);
    }
    vec![table]
}

fn run(lab: &Lab, make: &impl Fn(&Path), measured: &mut Measured) {
    let scene = Scene::in_memory();
    let dataset = scene.path("dataset");
    make(&dataset);
    let traces = trace_directory(lab);
    let seeder = scene.dft_on(lab.host(0), "seeder").args(["seed", "--json"]).arg(&dataset);
    let mut seeder = traced(seeder, traces.as_deref(), "seeder").start();
    let manifest = scene.path("seeder").join(seeder.wait_for("seeding").text("manifest"));
    let (sent_before, hashing) = (lab.host(0).sent_bytes(), seeder.cpu_seconds());

    let started = Instant::now();
    let start = |host: usize| {
        let fetcher = scene.dft_on(lab.host(host), &format!("fetcher {host}"));
        let fetcher = fetcher.args(["fetch", "--json"]).arg(&manifest);
        traced(fetcher, traces.as_deref(), &format!("fetcher-{host}")).start()
    };
    let mut fetchers: Vec<Process> = (1..=RECEIVERS).map(start).collect();
    let ends = fetchers.iter_mut().map(|fetcher| {
        let end = fetcher.wait_for("complete").at;
        fetcher.sample_memory();
        end
    });
    let end = ends.max().expect("there are receivers");
    measured.seconds.add((end - started).as_secs_f64());
    measured.copies.add((lab.host(0).sent_bytes() - sent_before) as f64 / BYTES as f64);

    let mut cpu_seconds = seeder.cpu_seconds() - hashing;
    for (fetcher, host) in fetchers.into_iter().zip(1..) {
        let outcome = fetcher.wait().expect_code(0);
        cpu_seconds += outcome.cost.cpu_seconds;
        measured.fetcher_mib.add(outcome.cost.peak_memory_kib as f64 / 1024.0);
        assert_same(&dataset, &scene.path(&format!("fetcher {host}")).join("dataset"));
    }
    measured.cpu_seconds.add(cpu_seconds);
    measured.seeder_mib.add(seeder.sample_memory() as f64 / 1024.0);
}

/// A new directory for the traces of one run, where they are wanted.
fn trace_directory(lab: &Lab) -> Option<PathBuf> {
    let parent = PathBuf::from(std::env::var_os(TRACE_DIRECTORY)?);
    let name = |run: usize| parent.join(format!("{}-{run}", lab.congestion_control()));
    let directory = (1..).map(name).find(|path| !path.exists())?;
    std::fs::create_dir_all(&directory).expect("the directory for traces can be made");
    Some(directory)
}

fn traced(command: Dft, directory: Option<&Path>, name: &str) -> Dft {
    match directory {
        Some(directory) => command.arg("--trace").arg(directory.join(name).with_extension("trace")),
        None => command,
    }
}
