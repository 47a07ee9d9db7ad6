//! What breaks in a lab's network: hosts cut off, cables pulled, one-way silence, lost packets.
//!
//! Invariant: the packet filter inside the lab is always exactly what [`Faults`] says; each change
//! writes the whole of it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{MutexGuard, PoisonError};

use super::{Host, Lab};

/// The faults that the switch's packet filter imitates.
#[derive(Default)]
pub struct Faults {
    /// From which host to which nothing passes.
    silenced: BTreeSet<(usize, usize)>,
    /// How many of 100 packets to and from a host are lost.
    loss_percent: BTreeMap<usize, u32>,
}

impl Faults {
    fn ruleset(&self) -> String {
        let mut rules = String::new();
        for (from, to) in &self.silenced {
            let _ = writeln!(rules, "iifname v{from} oifname v{to} drop");
        }
        for (host, percent) in &self.loss_percent {
            // The filter refuses to compare with 100, which is always true.
            let dice =
                if *percent < 100 { format!("numgen random mod 100 < {percent}") } else { String::new() };
            let _ = writeln!(rules, "iifname v{host} {dice} drop\noifname v{host} {dice} drop");
        }
        format!(
            "table bridge faults\ndelete table bridge faults\ntable bridge faults {{\nchain forward {{\n\
             type filter hook forward priority 0\n{rules}}}\n}}\n"
        )
    }
}

impl Host<'_> {
    /// Takes the host's cable out of the switch; the host itself sees its link up.
    pub fn partition(&self) {
        self.lab.run(&format!("ip link set v{} nomaster", self.index));
    }

    /// Ends [`Host::partition`].
    pub fn heal(&self) {
        let site = self.lab.places[self.index].site;
        self.lab.run(&format!("ip link set v{} master br{site}", self.index));
    }

    /// The host's interface goes down, as when its own cable is pulled.
    pub fn link_down(&self) {
        self.lab.run(&format!("ip link set v{} down", self.index));
    }

    /// Ends [`Host::link_down`].
    pub fn link_up(&self) {
        self.lab.run(&format!("ip link set v{} up", self.index));
    }

    /// Nothing from this host reaches `other`; what `other` sends still arrives here.
    pub fn silence_toward(&self, other: Host<'_>) {
        self.lab.faults().silenced.insert((self.index, other.index));
        self.lab.apply_faults();
    }

    /// Ends [`Host::silence_toward`].
    pub fn speak_toward(&self, other: Host<'_>) {
        self.lab.faults().silenced.remove(&(self.index, other.index));
        self.lab.apply_faults();
    }

    /// Loses this many of 100 packets to and from the host; 0 ends it. Offloads are switched off,
    /// so that a lost packet is one of the wire's size.
    pub fn lose_percent(&self, percent: u32) {
        let mut faults = self.lab.faults();
        match percent {
            0 => faults.loss_percent.remove(&self.index),
            _ => faults.loss_percent.insert(self.index, percent),
        };
        drop(faults);
        let (host, index) = (self.name(), self.index);
        self.lab.run(&format!(
            "ip netns exec {host} ethtool -K eth0 tso off gso off gro off\n\
             ethtool -K v{index} tso off gso off gro off"
        ));
        self.lab.apply_faults();
    }
}

impl Lab {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_faults(&self) {
        let ruleset = self.faults().ruleset();
        self.run(&format!("nft -f - <<'END'\n{ruleset}END"));
    }
}
