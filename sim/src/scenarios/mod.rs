//! What is run by name: each scenario is one small file of this folder, and builds a world from a
//! seed.

mod churn;
mod cluster_512;
mod flash_crowd;
mod flat_10000;
mod hostile;
mod lan_10;
mod lan_10_lab;
mod lan_32_lab;
mod many_datasets;
mod mixed_rates;
mod seeder_leaves;
mod silent;
mod staggered_lab;
mod thin_trunk;
mod trickle;
mod two_sites;
mod two_sites_lab;
mod unequal_lab;

use std::fmt;

use dft_protocol::time::{Duration, Instant};

use crate::outcome::Outcome;
use crate::world::{Cpu, Terms, World};

/// Something that can be run by its name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it is about, in a line.
    pub about: &'static str,
    /// It takes minutes.
    pub slow: bool,
    /// Builds it from a seed.
    pub build: fn(u64) -> Setup,
}

/// All scenarios.
pub const ALL: [Scenario; 18] = [
    lan_10::SCENARIO,
    lan_10_lab::SCENARIO,
    lan_32_lab::SCENARIO,
    cluster_512::SCENARIO,
    flat_10000::SCENARIO,
    two_sites::SCENARIO,
    two_sites_lab::SCENARIO,
    thin_trunk::SCENARIO,
    mixed_rates::SCENARIO,
    unequal_lab::SCENARIO,
    flash_crowd::SCENARIO,
    staggered_lab::SCENARIO,
    trickle::SCENARIO,
    seeder_leaves::SCENARIO,
    churn::SCENARIO,
    hostile::SCENARIO,
    silent::SCENARIO,
    many_datasets::SCENARIO,
];

/// The scenario of this name.
pub fn find(name: &str) -> Option<Scenario> {
    ALL.into_iter().find(|scenario| scenario.name == name)
}

/// A world, and what is expected of it.
#[derive(Debug)]
pub struct Setup {
    /// The world, before anything has happened.
    pub world: World,
    /// Everybody has to finish before this.
    pub deadline: Duration,
    /// The time that no program can beat, in seconds.
    pub bound_s: f64,
    /// Hosts that leave for good, and need not finish.
    pub leave: Vec<usize>,
    /// What is promised.
    pub goals: Vec<Goal>,
}

/// What a scenario promises.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The last host finishes within so many times the bound.
    Last(f64),
    /// Each host finishes within so many times what its own wires allow.
    Own(f64),
    /// Those who were complete from the start send at most so many copies.
    SeederCopies(f64),
    /// Trunks carry at most so many copies.
    TrunkCopies(f64),
}

impl Goal {
    /// What a run gave.
    pub(crate) fn of(self, outcome: &Outcome) -> f64 {
        match self {
            Goal::Last(_) => outcome.over_bound(),
            Goal::Own(_) => outcome.worst_over_own,
            Goal::SeederCopies(_) => outcome.seeder_copies,
            Goal::TrunkCopies(_) => outcome.trunk_copies,
        }
    }

    pub(crate) fn is_kept(self, outcome: &Outcome) -> bool {
        let (Goal::Last(most) | Goal::Own(most) | Goal::SeederCopies(most) | Goal::TrunkCopies(most)) = self;
        self.of(outcome) <= most
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::Last(most) => write!(f, "the last host within {most} x the bound"),
            Goal::Own(most) => write!(f, "each host within {most} x what its wires allow"),
            Goal::SeederCopies(most) => write!(f, "seeders send at most {most} copies"),
            Goal::TrunkCopies(most) => write!(f, "trunks carry at most {most} copies"),
        }
    }
}

const MIB: u32 = 1 << 20;
const KIB: u32 = 1 << 10;

/// Terms for a world of many hosts, with sockets as `dft` has them: a quarter of a piece unsent, at least
/// 16 and at most 64 KiB. The invariants of all swarms would take longer than all the rest.
fn large(piece: u32) -> Terms {
    Terms {
        check_every: 0,
        encode: false,
        chunk: u64::from(piece / 4).max(16 << 10),
        unsent_max: u64::from(piece / 4).clamp(16 << 10, 64 << 10),
        socket_buffer: 1 << 20,
        ..Terms::default()
    }
}

/// Terms of the laboratory of namespaces: headers on every wire, and one machine of two cores for all.
/// What a message and a link cost are estimates; a MiB costs what PERFORMANCE.md names.
fn lab(piece: u32) -> Terms {
    let cpu = Cpu {
        cores: 2,
        message: Duration::from_micros(20),
        mebibyte: Duration::from_micros(2_500),
        link: Duration::from_millis(3),
    };
    Terms { overhead: 1.045, cpu: Some(cpu), queue_max: Some(Duration::from_millis(50)), ..large(piece) }
}

/// The instant so many seconds after the start.
fn at(seconds: f64) -> Instant {
    Instant::START + Duration::from_secs_f64(seconds)
}

/// `count` pieces of `len` bytes.
fn pieces(count: usize, len: u32) -> Vec<u32> {
    vec![len; count]
}

/// Seconds that `bytes` take at `rate` bytes per second.
#[allow(clippy::cast_precision_loss, reason = "seconds need no 53 bits")]
fn seconds(bytes: u64, rate: u64) -> f64 {
    bytes as f64 / rate as f64
}

/// The bound for one seeder and `receivers` others with wires of one rate: of the three limits,
/// size / uplink is the largest.
fn equal_bound_s(world: &World, rate: u64) -> f64 {
    seconds(world.datasets[0].total_bytes(), rate)
}
