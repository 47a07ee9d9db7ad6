//! One peer plays one scenario once, in a process of its own.
//!
//! The process is the first of its namespaces (`Lab::isolated_command`): it prepares, starts the
//! clock, waits for everyone or for the limit, reads the counters, kills what is left, and only then
//! looks at the copies, so that nothing can repair them. Where to start: [`play`].

use std::io::Read;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::account;
use crate::check::Fingerprint;
use crate::field::{Field, Problem, Report};
use crate::peers::{self, Peer};
use crate::scenario::{SCENARIOS, Scenario, Twist};

/// How often one looks whether it is time to start or kill someone.
const TICK: Duration = Duration::from_millis(20);
/// How often the memory of all processes is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Of what share of the dataset the victim dies.
const KILL_AT: f64 = 0.5;

/// What to play.
#[derive(Clone, Serialize, Deserialize)]
pub struct Play {
    /// The name of the scenario.
    pub scenario: String,
    /// The name of the peer.
    pub peer: String,
    /// What everyone is to have.
    pub dataset: PathBuf,
    /// The dataset in short.
    pub fingerprint: Fingerprint,
    /// The `dft` to measure.
    pub dft: PathBuf,
    /// Where each dft writes its trace, if that is wanted.
    pub traces: Option<PathBuf>,
    /// Seconds after which it is stopped.
    pub limit_s: f64,
    /// The hosts, the source first.
    pub addresses: Vec<Ipv4Addr>,
}

/// One receiver.
#[derive(Clone, Serialize, Deserialize)]
pub struct Received {
    /// When it was started, in seconds of the clock.
    pub start_s: f64,
    /// When it was done, as far as it said so.
    pub end_s: Option<f64>,
    /// Whether its copy is the dataset.
    pub correct: bool,
}

/// What one play measured.
#[derive(Clone, Serialize, Deserialize)]
pub struct Trial {
    /// Seconds from the first start until the last one was done; none where someone was not.
    pub seconds: Option<f64>,
    /// The receivers but for the victim.
    pub received: Vec<Received>,
    /// Seconds and CPU seconds that a user waits before anyone can begin: hashing and the like.
    pub prepare_s: f64,
    /// See `prepare_s`.
    pub prepare_cpu_s: f64,
    /// CPU seconds of all processes from the first start on.
    pub cpu_s: f64,
    /// What the source's host sent, in bytes of the dataset.
    pub copies_sent: f64,
    /// What crossed the trunk away from the source's site, in bytes of the dataset.
    pub trunk_copies: Option<f64>,
    /// The most memory that one process had, in MiB.
    pub peak_mib: f64,
    /// What went wrong, if anything.
    pub problem: Option<String>,
}

impl Trial {
    /// Nothing was measured.
    pub fn failed(problem: String) -> Self {
        Self {
            seconds: None,
            received: Vec::new(),
            prepare_s: 0.0,
            prepare_cpu_s: 0.0,
            cpu_s: 0.0,
            copies_sent: 0.0,
            trunk_copies: None,
            peak_mib: 0.0,
            problem: Some(problem),
        }
    }

    /// How many have a correct copy and said so.
    pub fn complete(&self) -> usize {
        self.received.iter().filter(|received| received.correct && received.end_s.is_some()).count()
    }
}

/// The program of the trial: what to play comes on standard input, what was measured goes to
/// standard output, as JSON.
pub fn main() {
    let mut input = String::new();
    let read = std::io::stdin().read_to_string(&mut input);
    assert!(read.is_ok(), "the comparison writes to its trial");
    let play: Play = serde_json::from_str(&input).expect("the comparison says what to play");
    let trial = self::play(&play).unwrap_or_else(Trial::failed);
    println!("{}", serde_json::to_string(&trial).expect("numbers and texts can be written"));
}

fn play(play: &Play) -> Result<Trial, Problem> {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == play.scenario);
    let scenario = scenario.ok_or("no such scenario")?;
    let peer = peers::find(&play.peer).ok_or("no such peer")?;
    let field = Field::new(scenario, play)?;
    peer.stand(&field)?;
    let limit = Duration::from_secs_f64(play.limit_s);
    let (before, cpu_before) = (Instant::now(), account::cpu_seconds());
    let included = scenario.twist == Twist::StartsIncluded;
    if !included {
        peer.prepare(&field)?;
    }
    let prepare_s = before.elapsed().as_secs_f64();
    let (cpu, sent, crossed) = (account::cpu_seconds(), field.sent_bytes(0), field.trunk_bytes_into(1));

    let mut stage = Stage::new(&field, peer);
    if included {
        peer.prepare(&field)?;
    }
    let problem = stage.run(limit);
    let cpu_s = account::cpu_seconds() - cpu;
    let bytes = scenario.dataset.bytes() as f64;
    let copies = |after: u64, before: u64| (after - before) as f64 / bytes;
    let copies_sent = copies(field.sent_bytes(0), sent);
    let trunk_copies = scenario.trunk_mbit.map(|_| copies(field.trunk_bytes_into(1), crossed));
    account::processes().into_iter().for_each(account::kill);

    let (received, wrong) = stage.received(&play.fingerprint);
    Ok(Trial {
        seconds: if problem.is_none() && wrong.is_none() { stage.last_end_s() } else { None },
        received,
        prepare_s,
        prepare_cpu_s: cpu - cpu_before,
        cpu_s,
        copies_sent,
        trunk_copies,
        peak_mib: stage.peak_mib,
        problem: problem.or(wrong),
    })
}

/// The time from the first start to the last end.
struct Stage<'field> {
    field: &'field Field,
    scenario: &'static Scenario,
    peer: &'static dyn Peer,
    clock: Instant,
    /// Of each receiver, from 1 (and the sender at 0): when it was started, and when it was done.
    starts: Vec<Option<f64>>,
    ends: Vec<Option<f64>>,
    /// Who still runs a process whose end counts.
    pending: Vec<bool>,
    victim: Option<usize>,
    killed: bool,
    peak_mib: f64,
    failure: Option<Problem>,
}

impl<'field> Stage<'field> {
    fn new(field: &'field Field, peer: &'static dyn Peer) -> Self {
        let scenario = field.scenario;
        let parts = scenario.receivers + 1;
        Self {
            field,
            scenario,
            peer,
            clock: Instant::now(),
            starts: vec![None; parts],
            ends: vec![None; parts],
            pending: vec![false; parts],
            victim: scenario.victim(),
            killed: false,
            peak_mib: 0.0,
            failure: None,
        }
    }

    /// Starts everyone and waits for everyone; returns what went wrong.
    fn run(&mut self, limit: Duration) -> Option<Problem> {
        let mut waiting: Vec<usize> = self.field.receivers().collect();
        if self.peer.last_receiver_first() {
            waiting.reverse();
        }
        waiting.reverse();
        let (mut sent, mut sampled) = (false, Instant::now());
        loop {
            while let Some(&next) = waiting.last()
                && self.clock.elapsed().as_secs_f64() >= self.scenario.start_s(next)
            {
                waiting.pop();
                if let Err(problem) = self.start(next) {
                    return Some(problem);
                }
            }
            if waiting.is_empty() && !sent {
                sent = true;
                match self.peer.send(self.field) {
                    Ok(sends) => self.pending[0] = sends,
                    Err(problem) => return Some(problem),
                }
            }
            self.kill_when_due();
            if sampled.elapsed() >= SAMPLE_INTERVAL {
                self.peak_mib = self.peak_mib.max(account::largest_process_mib());
                sampled = Instant::now();
            }
            match self.field.reports.recv_timeout(TICK) {
                Ok(report) => self.take(report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Some("no process is left".to_owned()),
            }
            if sent && self.pending.iter().all(|pending| !pending) {
                self.peak_mib = self.peak_mib.max(account::largest_process_mib());
                return self.failure.take();
            }
            if self.clock.elapsed() > limit {
                let problem = format!("stopped after {:.0} s", limit.as_secs_f64());
                return Some(
                    self.failure.take().map_or(problem.clone(), |failure| format!("{problem}; {failure}")),
                );
            }
        }
    }

    fn start(&mut self, receiver: usize) -> Result<(), Problem> {
        self.starts[receiver] = Some(self.clock.elapsed().as_secs_f64());
        self.pending[receiver] = self.peer.receive(self.field, receiver)?;
        Ok(())
    }

    fn kill_when_due(&mut self) {
        let Some(victim) = self.victim.filter(|_| !self.killed) else { return };
        let due = self.scenario.dataset.bytes() as f64 * KILL_AT;
        if self.field.received_bytes(victim) as f64 >= due {
            self.killed = true;
            self.field.kill_host(victim);
            self.pending[victim] = false;
        }
    }

    /// The first report of a process counts: one that is done may be killed later.
    fn take(&mut self, report: Report) {
        let Report { of, at, result } = report;
        if !self.pending[of] || (self.killed && self.victim == Some(of)) {
            return;
        }
        self.pending[of] = false;
        match result {
            Ok(()) => self.ends[of] = Some((at - self.clock).as_secs_f64()),
            Err(problem) => {
                let who = if of == 0 { "the sender".to_owned() } else { format!("receiver {of}") };
                self.failure.get_or_insert(format!("{who}: {problem}"));
            }
        }
    }

    /// When a receiver was done: by its own process, or by the sender's where it has none.
    fn end_s(&self, receiver: usize) -> Option<f64> {
        if self.peer.receivers_report() { self.ends[receiver] } else { self.ends[0] }
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        self.field.receivers().filter(|&receiver| self.victim != Some(receiver))
    }

    fn last_end_s(&self) -> Option<f64> {
        let last = |last: Option<f64>, end: Option<f64>| Some(last?.max(end?));
        self.others().map(|receiver| self.end_s(receiver)).fold(Some(0.0), last)
    }

    /// What each receiver got, and what is wrong with the first copy that isn't the dataset.
    fn received(&self, dataset: &Fingerprint) -> (Vec<Received>, Option<Problem>) {
        let mut wrong = None;
        let check = |receiver: usize| {
            let difference = Fingerprint::of(&self.field.copy(receiver)).differs_from(dataset);
            let correct = difference.is_none();
            if let Some(difference) = difference {
                wrong.get_or_insert(format!("copy {receiver}: {difference}"));
            }
            Received { start_s: self.starts[receiver].unwrap_or(0.0), end_s: self.end_s(receiver), correct }
        };
        let received = self.others().map(check).collect();
        (received, wrong)
    }
}
