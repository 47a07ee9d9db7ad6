//! What very many small datasets cost the daemon that holds them.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::lab::process::Process;
use crate::lab::scene::{Dft, Scene};
use crate::lab::{Lab, data};
use crate::table::{Samples, Table};

/// How many it holds when it is measured.
const COUNTS: [usize; 2] = [5_000, 20_000];
const LEN: u64 = 200;
/// Commands that put at a time, and how many datasets each puts.
const WRITERS: usize = 8;
const PUTS_PER_COMMAND: usize = 500;
const FILES_PER_DIRECTORY: usize = 1_000;
/// How long one of these commands may take.
const COMMAND_MAX: Duration = Duration::from_secs(600);
/// Until what was put is at rest, and the tracker knows of it.
const SETTLE: Duration = Duration::from_secs(20);
/// So long it is watched while nobody wants anything.
const IDLE: Duration = Duration::from_secs(60);

/// Puts, a start after a kill, memory, CPU time, and how soon another node has one of them.
pub fn measure(runs: usize) -> Vec<Table> {
    match Lab::available().and_then(|()| Lab::hosts(2).start()) {
        Ok(lab) => vec![measure_in(&lab, runs)],
        Err(reason) => {
            println!("SKIPPED: {reason}\n");
            Vec::new()
        }
    }
}

fn measure_in(lab: &Lab, runs: usize) -> Table {
    let scene = Scene::new();
    let tracker = scene
        .dft_on(lab.host(0), "tracker")
        .args(["tracker", "--open", "--json", "--state", "state"])
        .start();
    let addr = tracker.wait_for("listening").texts("addrs").remove(0);
    let daemon = |host: usize| {
        let daemon = dft(&scene, lab, host).args(["daemon", "--json", "--tracker", &addr]).start();
        daemon.wait_for("ready");
        daemon
    };
    let mut holder = daemon(0);
    let _getter = daemon(1);
    let mut table = Table::new([
        "datasets of one daemon",
        "puts a second",
        "s from its start after kill -9 to the first answer",
        "MiB of the daemon",
        "MiB of the tracker",
        "CPU s a minute, idle, daemon",
        "CPU s a minute, idle, tracker",
        "s of ls -l, all of them, at another node",
        "s until another node has one",
        "s, found by mDNS alone",
    ]);
    let mut held = 0;
    for count in COUNTS {
        let started = Instant::now();
        put(&scene, lab, held..count);
        let rate = (count - held) as f64 / started.elapsed().as_secs_f64();
        held = count;
        holder.kill9();
        let started = Instant::now();
        holder = daemon(0);
        dft(&scene, lab, 0).arg("limit").run().expect_code(0);
        let ready = started.elapsed().as_secs_f64();
        std::thread::sleep(SETTLE);
        let used = (holder.cpu_seconds(), tracker.cpu_seconds());
        std::thread::sleep(IDLE);
        let minutes = IDLE.as_secs_f64() / 60.0;
        let idle = (holder.cpu_seconds() - used.0, tracker.cpu_seconds() - used.1);
        let mut listed = Samples::default();
        for _ in 0..runs {
            listed.add(dft(&scene, lab, 1).args(["ls", "-l"]).run().expect_code(0).elapsed.as_secs_f64());
        }
        let (mut got, mut found) = (Samples::default(), Samples::default());
        for run in 0..runs {
            // None of them was asked for before.
            let number = (run + 1) * (count / (runs + 1)) + run;
            got.add(get(&scene, lab, number));
            found.add(fetch_by_mdns(&scene, lab, number + 1));
        }
        table.row([
            count.to_string(),
            format!("{rate:.0}"),
            format!("{ready:.2}"),
            format!("{:.0}", memory_mib(&holder)),
            format!("{:.0}", memory_mib(&tracker)),
            format!("{:.2}", idle.0 / minutes),
            format!("{:.2}", idle.1 / minutes),
            listed.show(2),
            got.show(2),
            found.show(2),
        ]);
        println!("{count} datasets were held");
    }
    table
}

fn dft(scene: &Scene, lab: &Lab, host: usize) -> Dft {
    scene.dft_on(lab.host(host), &format!("n{host}"))
}

fn name(number: usize) -> String {
    format!("{:03}/{number:06}", number / FILES_PER_DIRECTORY)
}

/// The first host puts these, some at a time.
fn put(scene: &Scene, lab: &Lab, numbers: std::ops::Range<usize>) {
    let numbers: Vec<usize> = numbers.collect();
    let directory = dft(scene, lab, 0).directory().to_owned();
    for number in &numbers {
        let file = directory.join(name(*number));
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("it is writable");
        data::random_file(&file, *number as u64 + 1, LEN);
    }
    let mut commands = numbers.chunks(PUTS_PER_COMMAND).map(|numbers| {
        let puts: Vec<String> =
            numbers.iter().map(|number| format!("put {0} --name {0} --json", name(*number))).collect();
        dft(scene, lab, 0).args(["-c", &puts.join(", ")]).start()
    });
    let mut running: Vec<Process> = Vec::new();
    loop {
        let Some(command) = commands.next() else { break };
        running.push(command);
        if running.len() >= WRITERS {
            running.remove(0).wait_exit_within(COMMAND_MAX).expect_code(0);
        }
    }
    for command in running {
        command.wait_exit_within(COMMAND_MAX).expect_code(0);
    }
}

/// The second host gets one; the seconds of that.
fn get(scene: &Scene, lab: &Lab, number: usize) -> f64 {
    let got = dft(scene, lab, 1).args(["get", &name(number), "--json"]).run().expect_code(0);
    got.event("got").value["seconds"].as_f64().expect("a number")
}

/// A command of the second host fetches one of which it knows the manifest alone; its seconds.
fn fetch_by_mdns(scene: &Scene, lab: &Lab, number: usize) -> f64 {
    let listed = dft(scene, lab, 1).args(["ls", &name(number), "--json"]).run().expect_code(0);
    let store = dft(scene, lab, 0).directory().with_extension("state").join("data/dft");
    let host = std::fs::read_dir(&store).expect("a store").next().expect("of a host").expect("it is there");
    let manifest = host.path().join("datasets").join(listed.event("listed").text("id")).join("manifest.dft");
    let fetch = scene.dft_on(lab.host(1), &format!("fetch {number}")).args(["fetch", "--json"]);
    fetch.arg(&manifest).run().expect_code(0).elapsed.as_secs_f64()
}

/// What a process has in memory.
fn memory_mib(process: &Process) -> f64 {
    let path = format!("/proc/{}/status", process.id());
    let status = std::fs::read_to_string(Path::new(&path)).expect("it runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    resident.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}
