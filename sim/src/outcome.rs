//! What a run gave, beside the bound that no program can beat.

use std::fmt;

use crate::scenarios::{Goal, Setup};
use crate::world::{Conduct, Record, World};

/// What a run gave.
#[derive(Debug)]
pub struct Outcome {
    /// Seconds from the start of the world until the last host finished.
    pub last_s: f64,
    /// The bound, in seconds.
    pub bound_s: f64,
    /// Of all hosts that fetch: the largest time from start to finish over what the host's own wires
    /// allow at best.
    pub worst_over_own: f64,
    /// When each host finished, in seconds from the start of the world, in order.
    pub finished_s: Vec<f64>,
    /// Bytes sent by hosts that were complete from the start, in copies of the data.
    pub seeder_copies: f64,
    /// Bytes over trunks, in copies of the data.
    pub trunk_copies: f64,
    /// Bytes that came in vain, over bytes that came.
    pub wasted: f64,
    /// Bytes on all wires, headers and messages included, over bytes verified.
    pub wire_bytes: f64,
    /// Bytes on the wire for each byte that a link carries.
    pub overhead: f64,
    /// How much happened.
    pub events: u64,
    /// Two runs are the same where theirs are.
    pub trace: u64,
    /// Counts over time.
    pub record: Record,
    /// Bytes of all datasets together.
    pub total_bytes: u64,
    /// Bytes that all hosts together lacked at the start.
    pub needed_bytes: u64,
    /// What the sum of all uplinks carries, in bytes per second.
    pub uplinks: u64,
    /// What was promised, and whether it was kept.
    pub goals: Vec<(Goal, f64, bool)>,
}

#[allow(clippy::cast_precision_loss, reason = "ratios need no 53 bits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl Setup {
    /// Runs to the end, and measures.
    ///
    /// # Panics
    /// Where a rule is broken, or somebody does not finish.
    pub fn run(mut self) -> Outcome {
        self.run_through();
        self.outcome()
    }

    /// Runs to the end. The world stays, for whoever wants to know how a run failed.
    pub(crate) fn run_through(&mut self) {
        let hosts = self.fetching();
        self.world.run_until_complete(&hosts, self.deadline);
    }

    /// The honest hosts that fetch and are meant to finish.
    fn fetching(&self) -> Vec<usize> {
        let hosts = self.world.hosts.iter().enumerate();
        let fetching = hosts.filter(|(number, host)| {
            host.plan.download && host.plan.conduct == Conduct::Honest && !self.leave.contains(number)
        });
        fetching.map(|(number, _)| number).collect()
    }

    fn outcome(self) -> Outcome {
        let fetching = self.fetching();
        let world = self.world;
        let total_bytes = world.datasets.iter().map(|geometry| geometry.total_bytes()).sum();
        let finished = fetching.iter().filter_map(|host| world.hosts[*host].finished_at);
        let mut finished_s: Vec<f64> =
            finished.map(|at| at.since(dft_protocol::time::Instant::START).as_secs_f64()).collect();
        finished_s.sort_by(f64::total_cmp);
        let over_own =
            fetching.iter().filter_map(|host| Some(world.seconds(*host)? / own_bound_s(&world, *host)));
        let wasted: u64 = world.hosts.iter().map(|host| host.wasted).sum();
        let total = world.record.total;
        let mut outcome = Outcome {
            last_s: finished_s.last().copied().unwrap_or_default(),
            bound_s: self.bound_s,
            worst_over_own: over_own.fold(0.0, f64::max),
            finished_s,
            seeder_copies: ratio(total.seeded, total_bytes),
            trunk_copies: ratio(total.crossed, total_bytes),
            wasted: ratio(wasted, wasted + total.verified),
            wire_bytes: ratio(total.carried, total.verified),
            overhead: world.terms.overhead,
            events: world.events,
            trace: world.record.trace,
            total_bytes,
            needed_bytes: fetching.iter().map(|host| lacking_bytes(&world, *host)).sum(),
            uplinks: world
                .hosts
                .iter()
                .filter(|host| host.plan.shares.is_none())
                .map(|host| host.plan.up)
                .sum(),
            record: world.record,
            goals: Vec::new(),
        };
        outcome.goals =
            self.goals.iter().map(|goal| (*goal, goal.of(&outcome), goal.is_kept(&outcome))).collect();
        outcome
    }
}

/// What the wires of a host allow at best: its dataset at the rate of its downlink.
fn own_bound_s(world: &World, host: usize) -> f64 {
    let plan = &world.hosts[host].plan;
    ratio(world.datasets[plan.dataset].total_bytes(), plan.down)
}

fn lacking_bytes(world: &World, host: usize) -> u64 {
    let plan = &world.hosts[host].plan;
    let geometry = &world.datasets[plan.dataset];
    let here: u64 = plan.have.iter().map(|piece| u64::from(geometry.piece_len(piece))).sum();
    geometry.total_bytes() - here
}

impl Outcome {
    /// When the last host finished, as a multiple of the bound.
    pub fn over_bound(&self) -> f64 {
        self.last_s / self.bound_s
    }

    /// Whether every goal was reached.
    pub fn is_good(&self) -> bool {
        self.goals.iter().all(|(_, _, kept)| *kept)
    }

    fn percentile(&self, percent: usize) -> f64 {
        let last = self.finished_s.len().saturating_sub(1);
        self.finished_s.get(last * percent / 100).copied().unwrap_or_default()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bound           {:8.3} s", self.bound_s)?;
        writeln!(
            f,
            "median finished {:8.3} s  {:.3} x",
            self.percentile(50),
            self.percentile(50) / self.bound_s
        )?;
        writeln!(
            f,
            "last finished   {:8.3} s  {:.3} x   of {}",
            self.last_s,
            self.over_bound(),
            self.finished_s.len()
        )?;
        writeln!(f, "slowest, over what its own wires allow  {:.3} x", self.worst_over_own)?;
        writeln!(f, "seeders sent    {:8.3} copies", self.seeder_copies)?;
        if self.trunk_copies > 0.0 {
            writeln!(f, "trunks carried  {:8.3} copies", self.trunk_copies)?;
        }
        writeln!(f, "came in vain    {:8.3} %", 100.0 * self.wasted)?;
        writeln!(f, "on the wires    {:8.3} bytes for each that counts", self.wire_bytes)?;
        writeln!(f, "events          {:8}    trace {:016x}", self.events, self.trace)?;
        for (goal, value, kept) in &self.goals {
            writeln!(f, "goal: {goal}: {value:.3}  {}", if *kept { "reached" } else { "MISSED" })?;
        }
        Ok(())
    }
}
