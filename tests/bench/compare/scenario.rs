//! What is measured, and how fast it could be at best.
//!
//! The bound of a shaped scenario is what no program can beat, whatever it does: everyone who
//! receives needs the whole dataset through its own downlink, the source must let it out once, and
//! what all receive together must have left someone's uplink. It counts bytes of the dataset alone:
//! the headers of Ethernet, IP and TCP make 1.045 times that.
//!
//! Where nothing is shaped the processor is the bound: see [`Scenario::bound_s`].

use std::path::Path;

use crate::lab::data;
use crate::lab::{Lab, LabBuilder};

const MIB: u64 = 1 << 20;
/// Many tiny files: of 0 to 8 KiB, together 82 MB.
const TINY_FILES: usize = 20_000;
const TINY_BYTES: u64 = 82_000_000;

/// The dataset of a scenario.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dataset {
    /// One file of so many random bytes.
    File(u64),
    /// [`TINY_FILES`] files.
    TinyFiles,
}

impl Dataset {
    /// The bytes of all of its files.
    pub fn bytes(self) -> u64 {
        match self {
            Self::File(bytes) => bytes,
            Self::TinyFiles => TINY_BYTES,
        }
    }

    /// A name that only this dataset has.
    pub fn name(self) -> String {
        match self {
            Self::File(bytes) => format!("file-{bytes}"),
            Self::TinyFiles => format!("files-{TINY_FILES}"),
        }
    }

    /// Makes it.
    pub fn make(self, path: &Path) {
        match self {
            Self::File(bytes) => data::random_file(path, 3, bytes),
            Self::TinyFiles => {
                data::tiny_files(path, 3, TINY_FILES, Some(TINY_BYTES));
            }
        }
    }
}

/// What is special about a scenario.
#[derive(Clone, Copy, PartialEq)]
pub enum Twist {
    /// Nothing: all start at once and stay.
    None,
    /// One receiver's host is killed when it has half of the dataset.
    Kill,
    /// The receivers start one after another, the last so many seconds after the first.
    Stagger(f64),
    /// What a user starts for this one dataset is started within the time that is measured.
    StartsIncluded,
}

/// One of the things to compare.
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// How many receive; the source is one host more.
    pub receivers: usize,
    /// What each of them is to have.
    pub dataset: Dataset,
    /// The rates of the hosts in Mbit/s, from the source on and from the start again; none where
    /// nothing is shaped.
    pub rates_mbit: &'static [u32],
    /// The rate of the trunk in Mbit/s, where half of the hosts stand on a second site.
    pub trunk_mbit: Option<u32>,
    /// What is special.
    pub twist: Twist,
    /// Who takes part where the command line doesn't say; all where it is empty.
    pub peers: &'static [&'static str],
    /// How often each takes part where the command line doesn't say.
    pub runs: usize,
}

const PLAIN: Scenario = Scenario {
    name: "",
    about: "",
    receivers: 10,
    dataset: Dataset::File(64 * MIB),
    rates_mbit: &[50],
    trunk_mbit: None,
    twist: Twist::None,
    peers: &[],
    runs: 3,
};

/// Receivers that each start by themselves and help one another.
const SWARMS: &[&str] = &["dft", "dft-plain", "aria2", "libtorrent"];
/// Those, and who else doesn't send everything from the source to each receiver.
const RELAYS: &[&str] = &["dft", "dft-plain", "nc", "udpcast", "taktuk-chain", "aria2", "libtorrent"];
/// What a tree of tiny files is compared with: the same bytes in one file.
const DFT_ALONE: &[&str] = &["dft", "dft-plain", "floor"];

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "A", about: "10 receivers at 50 Mbit/s, 64 MiB", ..PLAIN },
    Scenario {
        name: "B",
        about: "10 receivers at 200 Mbit/s, 256 MiB",
        dataset: Dataset::File(256 * MIB),
        rates_mbit: &[200],
        ..PLAIN
    },
    Scenario {
        name: "C",
        about: "4 receivers, unshaped, 1 GiB",
        receivers: 4,
        dataset: Dataset::File(1024 * MIB),
        rates_mbit: &[],
        ..PLAIN
    },
    Scenario {
        name: "D",
        about: "1 receiver, unshaped, 1 GiB",
        receivers: 1,
        dataset: Dataset::File(1024 * MIB),
        rates_mbit: &[],
        ..PLAIN
    },
    Scenario {
        name: "E50",
        about: "10 receivers at 50 Mbit/s, 20,000 files of 0-8 KiB (82 MB)",
        dataset: Dataset::TinyFiles,
        ..PLAIN
    },
    Scenario {
        name: "E50-one",
        about: "the same bytes in one file",
        dataset: Dataset::File(TINY_BYTES),
        peers: DFT_ALONE,
        ..PLAIN
    },
    Scenario {
        name: "E200",
        about: "10 receivers at 200 Mbit/s, 20,000 files of 0-8 KiB (82 MB)",
        dataset: Dataset::TinyFiles,
        rates_mbit: &[200],
        ..PLAIN
    },
    Scenario {
        name: "E200-one",
        about: "the same bytes in one file",
        dataset: Dataset::File(TINY_BYTES),
        rates_mbit: &[200],
        peers: DFT_ALONE,
        ..PLAIN
    },
    Scenario {
        name: "E-unshaped",
        about: "4 receivers, unshaped, 20,000 files of 0-8 KiB (82 MB)",
        receivers: 4,
        dataset: Dataset::TinyFiles,
        rates_mbit: &[],
        ..PLAIN
    },
    Scenario {
        name: "E-unshaped-one",
        about: "the same bytes in one file",
        receivers: 4,
        dataset: Dataset::File(TINY_BYTES),
        rates_mbit: &[],
        peers: DFT_ALONE,
        ..PLAIN
    },
    Scenario {
        name: "F",
        about: "as A, one receiver killed with SIGKILL half-way",
        twist: Twist::Kill,
        peers: RELAYS,
        ..PLAIN
    },
    Scenario {
        name: "G",
        about: "as A, receivers start 0-5 s apart",
        twist: Twist::Stagger(5.0),
        peers: SWARMS,
        ..PLAIN
    },
    Scenario {
        name: "H",
        about: "64 MiB; 6 hosts at 50 Mbit/s, the source among them, and 5 at 20 Mbit/s",
        rates_mbit: &[50, 20],
        peers: RELAYS,
        ..PLAIN
    },
    Scenario {
        name: "I",
        about: "two sites of 5 hosts at 200 Mbit/s, a trunk of 100 Mbit/s, 256 MiB",
        receivers: 9,
        dataset: Dataset::File(256 * MIB),
        rates_mbit: &[200],
        trunk_mbit: Some(100),
        peers: &["dft", "dft-plain", "nc", "aria2", "libtorrent"],
        ..PLAIN
    },
    Scenario {
        name: "J",
        about: "16 receivers, unshaped, one file of 4 KiB, starts included",
        receivers: 16,
        dataset: Dataset::File(4096),
        rates_mbit: &[],
        twist: Twist::StartsIncluded,
        runs: 5,
        ..PLAIN
    },
    Scenario {
        name: "K",
        about: "32 receivers at 20 Mbit/s, 64 MiB",
        receivers: 32,
        rates_mbit: &[20],
        peers: RELAYS,
        ..PLAIN
    },
    Scenario {
        name: "smoke",
        about: "3 receivers at 100 Mbit/s, 4 MiB: whether all of this works",
        receivers: 3,
        dataset: Dataset::File(4 * MIB),
        rates_mbit: &[100],
        peers: &["dft", "nc"],
        runs: 1,
        ..PLAIN
    },
];

impl Scenario {
    /// The rate of a host in Mbit/s; the source is host 0.
    pub fn rate_mbit(&self, host: usize) -> Option<u32> {
        (!self.rates_mbit.is_empty()).then(|| self.rates_mbit[host % self.rates_mbit.len()])
    }

    /// The site on which a host stands.
    pub fn site(&self, host: usize) -> usize {
        let hosts = self.receivers + 1;
        usize::from(self.trunk_mbit.is_some() && host >= hosts.div_ceil(2))
    }

    /// Who is killed: one in the middle, so that a chain has someone on either side of it.
    pub fn victim(&self) -> Option<usize> {
        (self.twist == Twist::Kill).then(|| self.receivers.div_ceil(2))
    }

    /// When a receiver (from 1) is started, in seconds after the first.
    pub fn start_s(&self, receiver: usize) -> f64 {
        match self.twist {
            Twist::Stagger(span) => span * (receiver - 1) as f64 / (self.receivers - 1).max(1) as f64,
            _ => 0.0,
        }
    }

    /// The laboratory in which it happens.
    pub fn lab(&self) -> LabBuilder {
        let hosts = self.receivers + 1;
        let lab = match self.trunk_mbit {
            Some(rate) => Lab::hosts(hosts.div_ceil(2)).second_site(hosts / 2, rate),
            None => Lab::hosts(hosts),
        };
        lab.rates_mbit(self.rates_mbit.iter().copied())
    }

    /// Seconds within which nobody can have given the dataset to everyone; none where no rate is
    /// limited, since then it is the processor that counts.
    ///
    /// max(size / the source's uplink, size / the slowest downlink, size / the trunk, receivers x
    /// size / the sum of all uplinks)
    pub fn network_bound_s(&self) -> Option<f64> {
        let bits = self.dataset.bytes() as f64 * 8.0;
        let rates: Vec<f64> =
            (0..=self.receivers).filter_map(|host| self.rate_mbit(host)).map(f64::from).collect();
        let source = *rates.first()?;
        let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let trunk = self.trunk_mbit.map_or(f64::INFINITY, f64::from);
        let together = rates.iter().sum::<f64>() / self.receivers as f64;
        Some(bits / 1e6 / source.min(slowest).min(trunk).min(together))
    }

    /// Seconds after its own start within which nobody can have given the dataset to this receiver
    /// (from 1): as above, but for its own downlink alone. In a scenario whose hosts have unequal
    /// rates, every class of hosts is held against this.
    pub fn own_bound_s(&self, receiver: usize) -> Option<f64> {
        let bits = self.dataset.bytes() as f64 * 8.0;
        let path = self.rate_mbit(0)?.min(self.rate_mbit(receiver)?);
        let trunk = if self.site(receiver) == 0 { None } else { self.trunk_mbit };
        Some(bits / 1e6 / f64::from(trunk.map_or(path, |trunk| trunk.min(path))))
    }

    /// The bound that a row is held against: of the network where that is shaped; otherwise the CPU
    /// time that cannot be left out (what the floor took in the same run), spread over all cores.
    pub fn bound_s(&self, floor_cpu_s: Option<f64>, cores: usize) -> Option<f64> {
        self.network_bound_s().or_else(|| Some(floor_cpu_s? / cores as f64))
    }
}
