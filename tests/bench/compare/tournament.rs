//! Peers take turns: in every round each plays once, so that whatever else the machine does hits
//! them all alike.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::check::Fingerprint;
use crate::field::run;
use crate::lab::{Lab, scene, tool};
use crate::options::Options;
use crate::peers::{self, Peer};
use crate::record::Record;
use crate::scenario::Scenario;
use crate::trial::{Play, Trial};
use crate::{install, machine, render};

/// Where the datasets lie: a file system in memory that only this program sees.
const DATASETS: &str = "/mnt";
/// Who is expected to take more seconds than this, plays once.
const LONG_S: f64 = 45.0;
/// A trial is stopped when it took so many times what was expected, and some seconds.
const PATIENCE_FACTOR: f64 = 3.0;
const PATIENCE_S: f64 = 15.0;
/// What getting ready and checking the copies may take beyond that.
const OVERHEAD_MAX: Duration = Duration::from_secs(120);
/// How fast an unshaped network is guessed to be, in bytes of all receivers per second, and what
/// the start of processes takes: for the estimate alone.
const GUESSED_BYTES_PER_S: f64 = 1.3e9;
const GUESSED_START_S: f64 = 0.5;
/// How often one looks whether a trial has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Plays all that was asked for.
pub fn play(options: &Options) -> Result<Record, String> {
    Lab::available()?;
    run(tool("mount").args(["-t", "tmpfs", "-o", "size=90%,mode=755", "datasets", DATASETS]))?;
    let dft = options.dft.clone().unwrap_or_else(|| PathBuf::from(scene::DFT));
    let mut record = match &options.json {
        Some(path) => Record::read(path)?,
        None => Record::default(),
    };
    record.machine = machine::describe();
    record.cores = machine::cores();
    record.congestion_control =
        options.congestion_control.map_or_else(machine::congestion_control, str::to_owned);
    record.dft = run(Command::new(&dft).arg("--version"))?.trim().to_owned();
    let total: f64 = options.scenarios.iter().map(|scenario| estimate_s(scenario, options)).sum();
    println!("{}; hosts use {}\n", record.machine, record.congestion_control);
    println!("This takes about {:.0} minutes.\n", (total / 60.0).ceil());
    for scenario in &options.scenarios {
        play_scenario(scenario, options, &dft, &mut record)?;
        let cores = record.cores;
        println!("\n{}", render::scenario_markdown(scenario, record.played(scenario), cores));
    }
    Ok(record)
}

fn play_scenario(
    scenario: &Scenario,
    options: &Options,
    dft: &Path,
    record: &mut Record,
) -> Result<(), String> {
    println!("## {}: {}", scenario.name, scenario.about);
    let dataset = Path::new(DATASETS).join(scenario.dataset.name());
    if !dataset.exists() {
        scenario.dataset.make(&dataset);
    }
    let fingerprint = Fingerprint::of(&dataset);
    let mut players = Vec::new();
    for peer in options.players(scenario) {
        let row = record.played(scenario).row(peer.name());
        (row.at, row.absent, row.trials) = (machine::now(), absent(peer, scenario), Vec::new());
        match &row.absent {
            Some(why) => println!("{:15} does not play: {why}", peer.name()),
            None => players.push(peer),
        }
    }
    for round in 0..options.runs.unwrap_or(scenario.runs) {
        for &peer in &players {
            let played = record.played(scenario);
            let earlier = &played.row(peer.name()).trials;
            // Who failed once has shown what there is to see.
            let failed = earlier.iter().any(|trial| trial.problem.is_some());
            if failed || round >= rounds(peer, scenario, options) {
                continue;
            }
            print!("{:15} ", peer.name());
            let _ = std::io::stdout().flush();
            let run = format!("{}-{}-{}", scenario.name, peer.name(), round + 1);
            let play = Play {
                scenario: scenario.name.to_owned(),
                peer: peer.name().to_owned(),
                dataset: dataset.clone(),
                fingerprint: fingerprint.clone(),
                dft: dft.to_owned(),
                traces: options.traces.as_ref().map(|directory| directory.join(run)),
                limit_s: PATIENCE_FACTOR * expected_s(peer, scenario) + PATIENCE_S,
                addresses: Vec::new(),
            };
            let trial = play_once(scenario, options, play).unwrap_or_else(Trial::failed);
            println!("{}", in_a_line(&trial));
            played.row(peer.name()).trials.push(trial);
            // Whatever ends it early, what was measured is kept.
            if let Some(path) = &options.json {
                record.write(path)?;
            }
        }
    }
    Ok(())
}

/// One peer, once, in a laboratory of its own: no cache and no counter of another trial is in it.
fn play_once(scenario: &Scenario, options: &Options, mut play: Play) -> Result<Trial, String> {
    let mut lab = scenario.lab();
    if let Some(name) = options.congestion_control {
        lab = lab.congestion_control(name);
    }
    if peers::find(&play.peer).is_some_and(|peer| peer.needs_machine_root()) {
        lab = lab.with_machine_root();
    }
    let lab = lab.start()?;
    play.addresses = (0..lab.host_count()).map(|host| lab.host(host).v4()).collect();
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = lab.isolated_command(&program);
    command.arg("trial").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let input = serde_json::to_vec(&play).map_err(|error| error.to_string())?;
    let written = child.stdin.take().expect("it was asked for").write_all(&input);
    written.map_err(|error| format!("the trial does not listen: {error}"))?;
    let deadline = Instant::now() + Duration::from_secs_f64(play.limit_s) + OVERHEAD_MAX;
    while child.try_wait().is_ok_and(|status| status.is_none()) {
        if Instant::now() > deadline {
            let _ = child.kill();
            return Err(format!("the trial had to be stopped {} s after its limit", OVERHEAD_MAX.as_secs()));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("the trial ended with {}: {}", output.status, stderr.trim())
    })
}

/// Why a peer does not play, if so.
fn absent(peer: &dyn Peer, scenario: &Scenario) -> Option<String> {
    if let Some(why) = peer.refuses(scenario) {
        return Some(format!("cannot: {why}"));
    }
    if peer.needs_machine_root() && !machine::is_root() {
        return Some("cannot: needs to be root of the machine".to_owned());
    }
    let missing = install::missing(peer);
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

/// How often a peer plays.
fn rounds(peer: &dyn Peer, scenario: &Scenario, options: &Options) -> usize {
    let rounds = options.runs.unwrap_or(scenario.runs);
    if expected_s(peer, scenario) > LONG_S { rounds.min(1) } else { rounds }
}

/// About how many seconds a trial takes, without getting ready for it.
fn expected_s(peer: &dyn Peer, scenario: &Scenario) -> f64 {
    peer.expected_x_bound(scenario)
        * scenario
            .network_bound_s()
            .unwrap_or_else(|| GUESSED_START_S + all_bytes(scenario) / GUESSED_BYTES_PER_S)
}

/// About how many seconds a scenario takes.
fn estimate_s(scenario: &Scenario, options: &Options) -> f64 {
    let checking_s = 1.0 + 2.0 * all_bytes(scenario) / GUESSED_BYTES_PER_S;
    let players = options.players(scenario).into_iter().filter(|peer| absent(*peer, scenario).is_none());
    players
        .map(|peer| rounds(peer, scenario, options) as f64 * (expected_s(peer, scenario) + checking_s))
        .sum()
}

fn all_bytes(scenario: &Scenario) -> f64 {
    scenario.dataset.bytes() as f64 * scenario.receivers as f64
}

fn in_a_line(trial: &Trial) -> String {
    let seconds = trial.seconds.map_or("  failed".to_owned(), |seconds| format!("{seconds:6.2} s"));
    let problem =
        trial.problem.as_ref().map_or(String::new(), |problem| format!(": {}", problem.replace('\n', " ")));
    let (cpu, copies, complete) = (trial.cpu_s, trial.copies_sent, trial.complete());
    format!("{seconds}, {cpu:6.2} CPU s, {copies:5.2} copies sent, {complete} complete{problem}")
}
