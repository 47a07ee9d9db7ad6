//! What a world is made of: the terms that hold for all, and the plan of each host.

use dft_protocol::piece_set::PieceSet;
use dft_protocol::time::Duration;

/// Bytes per second of a link of `megabits` Mbit/s.
pub const fn mbit(megabits: u64) -> u64 {
    megabits * 1_000_000 / 8
}

/// A rate that never limits anything, in bytes per second.
pub const UNLIMITED: u64 = u64::MAX;

/// What is the same for every host.
#[derive(Clone, Debug)]
pub struct Terms {
    /// From any host to any other, one way, on top of the hosts' own latencies.
    pub latency: Duration,
    /// How long hashing a piece takes.
    pub hash_delay: Duration,
    /// From the first piece that is verified and not durable until all such pieces are, in one flush.
    pub durable_delay: Duration,
    /// Bytes that one direction of a link takes before they are read at the other end.
    pub socket_buffer: u64,
    /// Of these, bytes that may wait to be sent (`TCP_NOTSENT_LOWAT`).
    pub unsent_max: u64,
    /// How long what has been sent may wait before a wire to a host, or a trunk, as in the queue of a
    /// switch; then its senders wait. `None`: as long as it likes.
    pub queue_max: Option<Duration>,
    /// Bytes that are on the wire as one.
    pub chunk: u64,
    /// Bytes on the wire for each byte that a link carries: headers of TCP, IP, Ethernet and TLS.
    pub overhead: f64,
    /// Uploads that run at once.
    pub upload_slots: usize,
    /// What the processors can do; `None`: everything at once.
    pub cpu: Option<Cpu>,
    /// All invariants of the swarms are checked after every so many events (0: never). The rules
    /// of the ledger are checked at every event.
    pub check_every: u64,
    /// Every message goes over the wire as bytes, and must come out as what it was.
    pub encode: bool,
    /// How many of the last events of each host are kept for whoever reads a failure.
    pub remember: usize,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(100),
            hash_delay: Duration::from_millis(1),
            durable_delay: Duration::from_millis(200),
            socket_buffer: 256 << 10,
            unsent_max: 32 << 10,
            queue_max: None,
            chunk: 16 << 10,
            overhead: 1.0,
            upload_slots: 2,
            cpu: None,
            check_every: 1,
            encode: true,
            remember: 0,
        }
    }
}

/// Processor time, where it is scarce: a laboratory of namespaces shares one machine.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// Cores that all hosts share.
    pub cores: usize,
    /// What a message costs, both ends together.
    pub message: Duration,
    /// What a MiB of pieces costs, both ends together.
    pub mebibyte: Duration,
    /// What opening a link costs, both ends together.
    pub link: Duration,
}

/// How a host behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduct {
    /// By the rules.
    Honest,
    /// Every n-th piece that it sends is corrupt.
    Corrupting(u64),
    /// Announces everything and rejects every request.
    Rejecting,
    /// Takes requests, sends keep-alives, and never answers.
    Unanswering,
    /// Says nothing at all once a link is up.
    Silent,
    /// Asks for everything, twice.
    Flooding,
    /// Requests pieces, and never reads what arrives.
    Stuck,
    /// Closes each link soon after it came up.
    Flapping,
}

/// A host as it is set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes per second that it sends.
    pub up: u64,
    /// Bytes per second that it receives.
    pub down: u64,
    /// Bytes per second that its disk reads and writes.
    pub disk: u64,
    /// Its part of the latency of each of its links, one way.
    pub latency: Duration,
    /// At which site it is.
    pub site: usize,
    /// What it has at the start.
    pub have: PieceSet,
    /// Whether it fetches.
    pub download: bool,
    /// How it behaves.
    pub conduct: Conduct,
    /// Which of the world's datasets it serves or fetches.
    pub dataset: usize,
    /// The host with which it shares its machine: wires, disk and address.
    pub shares: Option<usize>,
}

impl Plan {
    /// A host of dataset 0 that sends and receives at `rate` bytes per second and fetches what it
    /// lacks, which is what `have` lacks.
    pub fn new(rate: u64, have: PieceSet) -> Self {
        Self {
            up: rate,
            down: rate,
            disk: UNLIMITED,
            latency: Duration::ZERO,
            site: 0,
            download: !have.is_full(),
            have,
            conduct: Conduct::Honest,
            dataset: 0,
            shares: None,
        }
    }
}
