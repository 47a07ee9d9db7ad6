//! Whom dft is compared with: one small adapter for each program.
//!
//! To add one, write its file here and name it in [`PEERS`]: how it is got ready, how one receiver
//! starts, and where the source begins to send if the receivers don't ask. What is listened on,
//! written and configured lies on the [`Field`]; all of it ends with the trial.

mod aria2;
mod chain;
mod dft;
mod floor;
mod libtorrent;
mod nfs;
mod rsync;
mod scp;
mod ssh;
mod taktuk;
mod torrent;
mod udpcast;

pub use floor::main as floor_main;

use crate::field::{Field, Problem};
use crate::scenario::{Scenario, Twist};

/// A program, or the absolute path of a file, and Debian's package that has it.
pub type Need = (&'static str, &'static str);

/// Something that gives a dataset to receivers.
pub trait Peer: Sync {
    /// What it is called on the command line and in the table.
    fn name(&self) -> &'static str;

    /// What it is, in a few words.
    fn about(&self) -> &'static str;

    /// What must be installed.
    fn needs(&self) -> &'static [Need] {
        &[]
    }

    /// Whether it does what the kernel allows to the machine's root alone.
    fn needs_machine_root(&self) -> bool {
        false
    }

    /// Why it cannot play a scenario, if it cannot.
    fn refuses(&self, scenario: &Scenario) -> Option<&'static str> {
        let staggered = matches!(scenario.twist, Twist::Stagger(_));
        (staggered && !self.receivers_report_alone()).then_some("all of its receivers start at once")
    }

    /// About how many times the bound it takes: for the estimate and the limit of time.
    fn expected_x_bound(&self, _scenario: &Scenario) -> f64 {
        2.0
    }

    /// Starts what a machine runs anyway: a server that exports, a tracker.
    fn stand(&self, _field: &Field) -> Result<(), Problem> {
        Ok(())
    }

    /// Does what a user does at the source for this one dataset.
    fn prepare(&self, _field: &Field) -> Result<(), Problem> {
        Ok(())
    }

    /// Starts a receiver, by [`Field::start`]; false where there is nothing to start.
    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem>;

    /// Starts to send, by [`Field::start`], when all receivers were started; false where receivers
    /// ask for what they want.
    fn send(&self, _field: &Field) -> Result<bool, Problem> {
        Ok(false)
    }

    /// Whether a receiver's own process says that it is done; otherwise the sender's does.
    fn receivers_report(&self) -> bool {
        true
    }

    /// Whether receivers can start at different times.
    fn receivers_report_alone(&self) -> bool {
        false
    }

    /// Whether each receiver must be there before the one in front of it starts.
    fn last_receiver_first(&self) -> bool {
        false
    }
}

/// All of them, in the order in which they take turns.
pub const PEERS: &[&dyn Peer] = &[
    &floor::Floor,
    &dft::Dft { encryption: true },
    &dft::Dft { encryption: false },
    &chain::Chain { program: chain::Program::Nc },
    &chain::Chain { program: chain::Program::Mbuffer },
    &udpcast::Udpcast,
    &taktuk::Taktuk { chain: true },
    &taktuk::Taktuk { chain: false },
    &nfs::Nfs,
    &rsync::Rsync { over_ssh: false },
    &rsync::Rsync { over_ssh: true },
    &scp::Scp,
    &aria2::Aria2,
    &libtorrent::Libtorrent,
];

/// The one with this name.
pub fn find(name: &str) -> Option<&'static dyn Peer> {
    PEERS.iter().find(|peer| peer.name() == name).copied()
}

/// About how many times the bound it takes when the source sends to each receiver by itself.
fn star_x_bound(scenario: &Scenario) -> f64 {
    if scenario.rates_mbit.is_empty() { 1.5 } else { scenario.receivers as f64 * 1.05 }
}
