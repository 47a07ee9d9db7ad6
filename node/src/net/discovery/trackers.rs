//! When to announce to which tracker: a pure schedule, one state per tracker.
//!
//! [`Trackers::poll_step`] says what to do; the loop does it and reports back with `resolved`,
//! `connected`, `answered` or `failed`. A tracker that fails is tried again after a jittered,
//! doubling pause; a change between up and down is told once.

use std::net::SocketAddr;
use std::time::Duration;

use dft_tracker::address::{peer_id_from_libp2p, to_multiaddr};
use dft_tracker::protocol::{INTERVAL_S_MAX, INTERVAL_S_MIN};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

/// Most trackers of one process: those of a manifest (16) and as many from the command line.
pub(super) const TRACKERS_MAX: usize = 32;
/// Most addresses of one host name that are tried.
pub(super) const ADDRS_PER_TRACKER_MAX: usize = 8;
/// The pauses after the first announcements. Peers often start together, and each learns only of
/// those that came before it.
const FIRST_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// The pause after the first failure …
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// … and the longest: a tracker that is back is used within a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What the loop is to do for tracker number `tracker`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Look up the addresses of `host`.
    Resolve { tracker: usize, host: String, port: u16 },
    /// Connect to `addr`; it must be `identity` where that is known.
    Dial { tracker: usize, identity: Option<PeerId>, addr: Multiaddr },
    /// Announce over a connection to `peer`, or dial where there is none any more.
    Announce { tracker: usize, peer: PeerId },
}

/// A tracker's change between up and down.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Up(Multiaddr),
    Down { addr: Multiaddr, reason: String },
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Until `due`.
    Waiting,
    Resolving,
    Dialing(ConnectionId),
    /// A step was handed out and not reported back yet.
    Stepping,
    Asked(OutboundRequestId),
    /// It is this process: there is nobody to ask.
    Own,
}

struct Tracker {
    /// As it was configured.
    addr: Multiaddr,
    identity: Option<PeerId>,
    /// Who answered last.
    peer: Option<PeerId>,
    /// What the address stands for, the one to try next first; empty until resolved.
    resolved: Vec<Multiaddr>,
    /// How many of these failed in this round.
    tried: usize,
    phase: Phase,
    due: Instant,
    answers: usize,
    failures: u32,
    /// What was told last.
    up: Option<bool>,
}

/// All trackers of a process.
pub(super) struct Trackers {
    trackers: Vec<Tracker>,
    rng: SmallRng,
}

impl Trackers {
    /// Announces to each of `addrs` from `now` on, as far as [`TRACKERS_MAX`] reaches.
    pub(super) fn new(addrs: Vec<Multiaddr>, own: PeerId, seed: u64, now: Instant) -> Self {
        let mut trackers: Vec<Tracker> = Vec::new();
        for addr in addrs {
            if trackers.len() < TRACKERS_MAX && !trackers.iter().any(|known| known.addr == addr) {
                trackers.push(Tracker::new(addr, own, now));
            }
        }
        Self { trackers, rng: SmallRng::seed_from_u64(seed) }
    }

    /// The next thing to do; `None` while nothing is due.
    pub(super) fn poll_step(&mut self, now: Instant) -> Option<Step> {
        let (number, tracker) = self
            .trackers
            .iter_mut()
            .enumerate()
            .find(|(_, tracker)| tracker.phase == Phase::Waiting && tracker.due <= now)?;
        Some(tracker.next_step(number))
    }

    /// When [`Trackers::poll_step`] has something to say, unless a report comes first.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.trackers.iter().filter(|tracker| tracker.phase == Phase::Waiting);
        waiting.map(|tracker| tracker.due).min()
    }

    /// Where the connection attempt `connection` belongs.
    pub(super) fn dialing(&self, connection: ConnectionId) -> Option<usize> {
        self.trackers.iter().position(|tracker| tracker.phase == Phase::Dialing(connection))
    }

    /// Where the request `request` belongs.
    pub(super) fn asked(&self, request: OutboundRequestId) -> Option<usize> {
        self.trackers.iter().position(|tracker| tracker.phase == Phase::Asked(request))
    }

    /// The configured address of `tracker`.
    pub(super) fn addr(&self, tracker: usize) -> &Multiaddr {
        &self.trackers[tracker].addr
    }

    /// The name lookup for `tracker` ended with `addrs`.
    pub(super) fn resolved(&mut self, tracker: usize, addrs: &[SocketAddr], now: Instant) -> Option<Change> {
        let wanted = |addr: &&SocketAddr| match self.trackers[tracker].addr.iter().next() {
            Some(Protocol::Dns4(_)) => addr.is_ipv4(),
            Some(Protocol::Dns6(_)) => addr.is_ipv6(),
            _ => true,
        };
        let addrs: Vec<Multiaddr> =
            addrs.iter().filter(wanted).take(ADDRS_PER_TRACKER_MAX).map(|addr| to_multiaddr(*addr)).collect();
        if addrs.is_empty() {
            return self.failed(tracker, "its name has no address".into(), now);
        }
        let tracker = &mut self.trackers[tracker];
        tracker.resolved = addrs;
        tracker.tried = 0;
        tracker.phase = Phase::Waiting;
        None
    }

    /// The dial of `tracker` started as `connection`.
    pub(super) fn dial_started(&mut self, tracker: usize, connection: ConnectionId) {
        self.trackers[tracker].phase = Phase::Dialing(connection);
    }

    /// `tracker` is connected, as `peer`: the next step is to announce.
    pub(super) fn connected(&mut self, tracker: usize, peer: PeerId, now: Instant) {
        let tracker = &mut self.trackers[tracker];
        tracker.peer = Some(peer);
        tracker.tried = 0;
        tracker.phase = Phase::Waiting;
        tracker.due = now;
    }

    /// There is no connection to `tracker` any more: the next step is to dial.
    pub(super) fn not_connected(&mut self, tracker: usize) {
        let tracker = &mut self.trackers[tracker];
        tracker.peer = None;
        tracker.phase = Phase::Waiting;
    }

    /// The announcement to `tracker` is on its way as `request`.
    pub(super) fn announced(&mut self, tracker: usize, request: OutboundRequestId) {
        self.trackers[tracker].phase = Phase::Asked(request);
    }

    /// `tracker` is this process.
    pub(super) fn is_own(&mut self, tracker: usize) {
        self.trackers[tracker].phase = Phase::Own;
    }

    /// `tracker` took the announcement, and wants the next one after `interval_s`.
    pub(super) fn answered(&mut self, tracker: usize, interval_s: u32, now: Instant) -> Option<Change> {
        let interval = Duration::from_secs(interval_s.clamp(INTERVAL_S_MIN, INTERVAL_S_MAX).into());
        let jitter = self.rng.random_range(0.9..=1.0);
        let tracker = &mut self.trackers[tracker];
        let pause = FIRST_PAUSES.get(tracker.answers).copied().unwrap_or(interval.mul_f64(jitter));
        tracker.answers += 1;
        tracker.failures = 0;
        tracker.phase = Phase::Waiting;
        tracker.due = now + pause;
        let was_up = tracker.up.replace(true);
        (was_up != Some(true)).then(|| Change::Up(tracker.addr.clone()))
    }

    /// `tracker` failed: its next address is tried at once, and after the last one there is a
    /// pause.
    pub(super) fn failed(&mut self, tracker: usize, reason: String, now: Instant) -> Option<Change> {
        let jitter = self.rng.random_range(0.5..=1.0);
        let tracker = &mut self.trackers[tracker];
        tracker.peer = None;
        tracker.phase = Phase::Waiting;
        tracker.tried += 1;
        if tracker.tried < tracker.resolved.len() {
            tracker.resolved.rotate_left(1);
            tracker.due = now;
            return None;
        }
        tracker.tried = 0;
        // A name is looked up again, as its host may have moved.
        tracker.forget_lookup();
        let backoff = BACKOFF_MIN * 2_u32.saturating_pow(tracker.failures.min(16));
        tracker.failures = tracker.failures.saturating_add(1);
        tracker.due = now + backoff.min(BACKOFF_MAX).mul_f64(jitter);
        let was_up = tracker.up.replace(false);
        (was_up != Some(false)).then(|| Change::Down { addr: tracker.addr.clone(), reason })
    }

    /// A connection to `peer` broke: whoever announced over it does so again soon, as its
    /// tracker may have restarted.
    pub(super) fn disconnected(&mut self, peer: PeerId, now: Instant) {
        for tracker in self.trackers.iter_mut().filter(|tracker| tracker.peer == Some(peer)) {
            tracker.peer = None;
            if tracker.phase == Phase::Waiting {
                let soon = now + BACKOFF_MIN.mul_f64(self.rng.random_range(0.1..=1.0));
                tracker.due = tracker.due.min(soon);
            }
        }
    }

    /// Something about us changed: announce to every tracker that is up.
    pub(super) fn announce_now(&mut self, now: Instant) {
        for tracker in &mut self.trackers {
            if tracker.phase == Phase::Waiting && tracker.up == Some(true) {
                tracker.due = now;
            }
        }
    }

    /// Who took an announcement last and is likely to be still connected.
    pub(super) fn up_peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.trackers.iter().filter(|tracker| tracker.up == Some(true)).filter_map(|tracker| tracker.peer)
    }
}

impl Tracker {
    fn new(addr: Multiaddr, own: PeerId, now: Instant) -> Self {
        let identity = addr.iter().find_map(|protocol| match protocol {
            Protocol::P2p(identity) => Some(identity),
            _ => None,
        });
        // Who cannot be answered cannot be asked either.
        let phase = match identity {
            Some(identity) if identity == own || peer_id_from_libp2p(&identity).is_none() => Phase::Own,
            _ => Phase::Waiting,
        };
        let mut tracker = Self {
            addr,
            identity,
            peer: None,
            resolved: Vec::new(),
            tried: 0,
            phase,
            due: now,
            answers: 0,
            failures: 0,
            up: None,
        };
        tracker.forget_lookup();
        tracker
    }

    /// The addresses that are known without a lookup.
    fn forget_lookup(&mut self) {
        self.resolved = match self.host() {
            Some(_) => Vec::new(),
            None => vec![self.addr.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()],
        };
    }

    /// The host name and port that are to be looked up.
    fn host(&self) -> Option<(String, u16)> {
        let mut parts = self.addr.iter();
        match (parts.next()?, parts.next()?) {
            (Protocol::Dns(host) | Protocol::Dns4(host) | Protocol::Dns6(host), Protocol::Tcp(port)) => {
                Some((host.into_owned(), port))
            }
            _ => None,
        }
    }

    fn next_step(&mut self, number: usize) -> Step {
        if let Some(peer) = self.peer {
            self.phase = Phase::Stepping;
            return Step::Announce { tracker: number, peer };
        }
        match (self.resolved.first(), self.host()) {
            (None, Some((host, port))) => {
                self.phase = Phase::Resolving;
                Step::Resolve { tracker: number, host, port }
            }
            (addr, _) => {
                self.phase = Phase::Stepping;
                let addr = addr.cloned().unwrap_or_else(|| self.addr.clone());
                Step::Dial { tracker: number, identity: self.identity, addr }
            }
        }
    }
}
