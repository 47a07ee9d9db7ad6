//! Many at once over names: a crowd that gets one small file in the same moment, and one command
//! that gets many small files.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::lab::process::{Outcome, Process};
use crate::lab::scene::{Dft, Scene};
use crate::lab::{Lab, data};
use crate::table::{Samples, Table};

const CROWD: usize = 100;
/// The nodes share hosts: the kernel knows 1,024 neighbours in all its namespaces together.
const HOSTS: usize = 10;
const FILES: usize = 100;
const LEN: u64 = 4096;
/// How long a hundred daemons may take to start on a few cores.
const START_MAX: Duration = Duration::from_secs(300);

/// A crowd, and many files.
pub fn measure(runs: usize) -> Vec<Table> {
    match Lab::available().and_then(|()| Lab::hosts(HOSTS).start()) {
        Ok(lab) => measure_in(&lab, runs),
        Err(reason) => {
            println!("SKIPPED: {reason}\n");
            Vec::new()
        }
    }
}

fn measure_in(lab: &Lab, runs: usize) -> Vec<Table> {
    let scene = Scene::new();
    let first = daemon(&scene, lab, 0, &["--embed-tracker", "--open"]);
    first.wait_for("ready");
    let mut daemons = vec![first];
    // A few at a time: what is measured is not their start.
    for nodes in (1..=CROWD).collect::<Vec<_>>().chunks(10) {
        let started: Vec<Process> = nodes.iter().map(|node| daemon(&scene, lab, *node, &[])).collect();
        for process in started {
            process.wait_within(START_MAX, "ready", |event| event.name() == "ready");
            daemons.push(process);
        }
    }
    // Each knows the catalogue before the crowd begins.
    for node in 0..=CROWD {
        run(&scene, lab, node, &["ls"]);
    }
    let mut crowd = Table::new([
        "nodes that get 4 KiB at once",
        "s of a get, median of the nodes",
        "s of the slowest",
        "s from the first command's start to the last one's end",
        "CPU s of all daemons",
        "copies that the origin sent",
        "target",
    ]);
    let (mut typical, mut slowest) = (Samples::default(), Samples::default());
    let (mut whole, mut cpu, mut copies) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..runs {
        let Crowd { seconds, elapsed, cpu_seconds, sent } = crowd_gets(&scene, lab, &daemons, round);
        cpu.add(cpu_seconds);
        typical.add(seconds.median());
        slowest.add(seconds.largest());
        whole.add(elapsed.as_secs_f64());
        copies.add(sent as f64 / LEN as f64);
    }
    crowd.row([
        CROWD.to_string(),
        typical.show(2),
        slowest.show(2),
        whole.show(2),
        cpu.show(1),
        copies.show(0),
        "5 copies".to_owned(),
    ]);
    let mut many = Table::new([
        "files of 4 KiB that one command gets",
        "s of the command",
        "ms a file",
        "CPU s of all daemons",
    ]);
    let (mut samples, mut each, mut cpu) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..runs {
        put_many(&scene, lab, round);
        let used = cpu_seconds(&daemons);
        let seconds = many_are_got(&scene, lab, round);
        cpu.add(cpu_seconds(&daemons) - used);
        samples.add(seconds);
        each.add(seconds * 1e3 / FILES as f64);
    }
    many.row([FILES.to_string(), samples.show(2), each.show(1), cpu.show(1)]);
    vec![crowd, many]
}

/// `dft` as the user of a node has it.
fn dft(scene: &Scene, lab: &Lab, node: usize) -> Dft {
    scene.dft_on(lab.host(node % HOSTS), &format!("n{node}"))
}

fn daemon(scene: &Scene, lab: &Lab, node: usize, more: &[&str]) -> Process {
    dft(scene, lab, node).args(["daemon", "--json", "--name", &format!("n{node}")]).args(more).start()
}

fn run(scene: &Scene, lab: &Lab, node: usize, verb: &[&str]) -> Outcome {
    dft(scene, lab, node).args(verb).arg("--json").run().expect_code(0)
}

/// CPU time of all daemons so far: it tells what a crowd costs on a busy machine, too.
fn cpu_seconds(daemons: &[Process]) -> f64 {
    daemons.iter().map(Process::cpu_seconds).sum()
}

/// How a crowd fared.
struct Crowd {
    /// Of each get, from when its daemon was asked.
    seconds: Samples,
    /// Of all of them together, with the processes of the commands.
    elapsed: Duration,
    /// Of all daemons, until then.
    cpu_seconds: f64,
    /// Bytes that left the origin.
    sent: u64,
}

/// All nodes but the first get the same file.
fn crowd_gets(scene: &Scene, lab: &Lab, daemons: &[Process], round: usize) -> Crowd {
    let name = format!("settings-{round}");
    let file = scene.path(&name);
    data::random_file(&file, round as u64, LEN);
    run(scene, lab, 0, &["put", path(&file), "--name", &name]);
    let begin = |node| dft(scene, lab, node).args(["get", &name, "--json"]).start();
    let (started, used) = (Instant::now(), cpu_seconds(daemons));
    let gets: Vec<Process> = (1..=CROWD).map(begin).collect();
    let mut seconds = Samples::default();
    for get in gets {
        let got = get.wait_exit_within(START_MAX).expect_code(0);
        seconds.add(got.event("got").value["seconds"].as_f64().expect("a number"));
    }
    let (elapsed, cpu_seconds) = (started.elapsed(), cpu_seconds(daemons) - used);
    Crowd { seconds, elapsed, cpu_seconds, sent: sent_bytes(scene, lab, &name) }
}

/// What the first node has sent of a dataset, once nobody is linked to it for that any more: until
/// then its count may be a moment old.
fn sent_bytes(scene: &Scene, lab: &Lab, name: &str) -> u64 {
    let deadline = Instant::now() + START_MAX;
    loop {
        let status = run(scene, lab, 0, &["status"]).events;
        let held = status.iter().find(|event| event.name() == "held" && event.text("name") == name);
        let held = held.expect("it holds it");
        if held.number("peers") == 0 || Instant::now() >= deadline {
            return held.number("sent_bytes");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The first node puts many small files.
fn put_many(scene: &Scene, lab: &Lab, round: usize) {
    let directory = scene.new_directory(&format!("files {round}"));
    for number in 0..FILES {
        let file = directory.join(format!("file-{number}"));
        data::random_file(&file, (1 + round * FILES + number) as u64, LEN);
        run(scene, lab, 0, &["put", path(&file), "--name", &format!("many-{round}/file-{number}")]);
    }
}

/// The second node gets what the first has put; the seconds of that command.
fn many_are_got(scene: &Scene, lab: &Lab, round: usize) -> f64 {
    let into = scene.new_directory(&format!("into {round}"));
    let got = run(scene, lab, 1, &["get", &format!("many-{round}/*"), "-o", path(&into)]);
    assert_eq!(got.events.iter().filter(|event| event.name() == "got").count(), FILES);
    got.elapsed.as_secs_f64()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of a bench is UTF-8")
}
