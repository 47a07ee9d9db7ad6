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
    /// Connect to whichever of `addrs` is fastest, where `identity` must answer.
    DialKnown { tracker: usize, identity: PeerId, addrs: Vec<Multiaddr> },
    /// Connect to `addr`, whoever answers there.
    Dial { tracker: usize, addr: Multiaddr },
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
    /// It knows that the dataset is not here any more.
    Left,
}

struct Tracker {
    /// As it was configured.
    addr: Multiaddr,
    /// Further addresses of the same identity: a seeder names its tracker once per interface.
    alternatives: Vec<Multiaddr>,
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
    /// Something about us changed since the announcement that is on its way was made.
    news: bool,
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
        let mut trackers = Self { trackers: Vec::new(), rng: SmallRng::seed_from_u64(seed) };
        for addr in addrs {
            trackers.add(addr, own, now);
        }
        trackers
    }

    /// Announces to `addr` as well, where there is room.
    pub(super) fn add(&mut self, addr: Multiaddr, own: PeerId, now: Instant) {
        let tracker = Tracker::new(addr, own, now);
        if let Some(known) = self.trackers.iter_mut().find(|known| known.is_same(&tracker)) {
            known.add_alternative(tracker.addr);
        } else if self.trackers.len() < TRACKERS_MAX {
            self.trackers.push(tracker);
        }
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

    /// Whether a step of `tracker` was handed out, and nothing was reported back since. What was
    /// asked for before the dataset was taken on anew belongs nowhere.
    pub(super) fn is_under_way(&self, tracker: usize) -> bool {
        let tracker = self.trackers.get(tracker);
        tracker.is_some_and(|tracker| matches!(tracker.phase, Phase::Resolving | Phase::Stepping))
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
        let pause = if std::mem::take(&mut tracker.news) {
            Duration::ZERO
        } else {
            FIRST_PAUSES.get(tracker.answers).copied().unwrap_or(interval.mul_f64(jitter))
        };
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
        tracker.news = false;
        tracker.phase = Phase::Waiting;
        tracker.tried += 1;
        // With a known identity, all addresses were tried at once.
        if tracker.identity.is_none() && tracker.tried < tracker.resolved.len() {
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

    /// The dataset is not here any more: the next step is to say so, to each tracker.
    pub(super) fn leave(&mut self, now: Instant) {
        for tracker in &mut self.trackers {
            match tracker.phase {
                Phase::Left => tracker.phase = Phase::Waiting,
                Phase::Waiting if tracker.failures == 0 => {}
                _ => continue,
            }
            tracker.due = now;
        }
    }

    /// `tracker` knows that the dataset is not here any more.
    pub(super) fn left(&mut self, tracker: usize) {
        self.trackers[tracker].phase = Phase::Left;
    }

    /// Whether no tracker has to hear any more that the dataset is not here. One may be found yet
    /// where none is known.
    pub(super) fn all_left(&self) -> bool {
        let over = |tracker: &Tracker| matches!(tracker.phase, Phase::Own | Phase::Left);
        !self.trackers.is_empty() && self.trackers.iter().all(over)
    }

    /// Something about us changed: announce to every tracker that is up.
    pub(super) fn announce_now(&mut self, now: Instant) {
        for tracker in &mut self.trackers {
            match tracker.phase {
                Phase::Waiting if tracker.up == Some(true) => tracker.due = now,
                Phase::Asked(_) => tracker.news = true,
                _ => {}
            }
        }
    }

    /// Who took the last announcement to the tracker that was configured with `addr`.
    pub(super) fn peer_at(&self, addr: &Multiaddr) -> Option<PeerId> {
        let up = self.trackers.iter().filter(|tracker| tracker.up == Some(true));
        up.filter(|tracker| tracker.addr == *addr).find_map(|tracker| tracker.peer)
    }

    /// The dial that is under way to the tracker that was configured with `addr`.
    pub(super) fn dial_of(&self, addr: &Multiaddr) -> Option<ConnectionId> {
        self.trackers.iter().filter(|tracker| tracker.addr == *addr).find_map(|tracker| match tracker.phase {
            Phase::Dialing(connection) => Some(connection),
            _ => None,
        })
    }

    /// Who took an announcement last, and where it can be dialled.
    pub(super) fn up(&self) -> impl Iterator<Item = (PeerId, Vec<Multiaddr>)> + '_ {
        let up = self.trackers.iter().filter(|tracker| tracker.up == Some(true));
        up.filter_map(|tracker| Some((tracker.peer?, tracker.resolved.clone())))
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
            alternatives: Vec::new(),
            identity,
            peer: None,
            resolved: Vec::new(),
            tried: 0,
            phase,
            due: now,
            answers: 0,
            failures: 0,
            news: false,
            up: None,
        };
        tracker.forget_lookup();
        tracker
    }

    /// The addresses that are known without a lookup.
    fn forget_lookup(&mut self) {
        self.resolved = match self.host() {
            Some(_) => Vec::new(),
            None => std::iter::once(&self.addr).chain(&self.alternatives).map(without_identity).collect(),
        };
    }

    /// Whether `other` is another address of this tracker, or the same once more.
    fn is_same(&self, other: &Tracker) -> bool {
        let same_identity = self.identity.is_some() && self.identity == other.identity;
        self.addr == other.addr || same_identity && self.host().is_none() && other.host().is_none()
    }

    fn add_alternative(&mut self, addr: Multiaddr) {
        let known = addr == self.addr || self.alternatives.contains(&addr);
        if !known && self.alternatives.len() + 1 < ADDRS_PER_TRACKER_MAX {
            self.alternatives.push(addr);
            self.forget_lookup();
        }
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
        if let (Some((host, port)), true) = (self.host(), self.resolved.is_empty()) {
            self.phase = Phase::Resolving;
            return Step::Resolve { tracker: number, host, port };
        }
        self.phase = Phase::Stepping;
        match self.identity {
            Some(identity) => Step::DialKnown { tracker: number, identity, addrs: self.resolved.clone() },
            // Never empty here: without a host name, the configured address is in it.
            None => Step::Dial { tracker: number, addr: self.resolved[0].clone() },
        }
    }
}

fn without_identity(addr: &Multiaddr) -> Multiaddr {
    addr.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWGLLz1Jj4W2V8syJY1q6S3FSMzgLXDEaBoMEwNvvWmPDu";

    /// Trackers at the addresses of `list`, and when they were made.
    fn trackers(list: &[&str], own: PeerId) -> (Trackers, Instant) {
        let addrs = list.iter().map(|addr| addr.parse().expect("a multiaddress")).collect();
        let start = Instant::now();
        (Trackers::new(addrs, own, 1, start), start)
    }

    /// Only a behaviour makes request ids.
    fn request_id() -> OutboundRequestId {
        let manifest = dft_protocol::id::ManifestId::from_bytes([1; 32]);
        let request = dft_tracker::protocol::Request::Leave { manifest };
        dft_tracker::server::tracker_behaviour(libp2p::request_response::ProtocolSupport::Outbound)
            .send_request(&PeerId::random(), request)
    }

    /// The pause until the next step, which is a dial, in seconds; the dial is taken on.
    fn next_dial(trackers: &mut Trackers, now: &mut Instant) -> f64 {
        let due = trackers.poll_timeout().expect("a step").max(*now);
        let pause = due - *now;
        *now = due;
        assert!(matches!(trackers.poll_step(due), Some(Step::Dial { .. })));
        trackers.dial_started(0, ConnectionId::new_unchecked(1));
        assert_eq!(trackers.poll_step(due), None, "one thing at a time");
        pause.as_secs_f64()
    }

    #[test]
    fn a_dead_tracker_is_tried_less_and_less_and_told_once() {
        let (mut trackers, mut now) = trackers(&["/ip4/10.0.0.1/tcp/9"], PeerId::random());
        let mut pauses = Vec::new();
        let mut told = 0;
        for _ in 0..12 {
            pauses.push(next_dial(&mut trackers, &mut now));
            told += usize::from(trackers.failed(0, "refused".into(), now).is_some());
        }
        assert_eq!(told, 1);
        let limits = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0, 60.0];
        for (pause, limit) in pauses.iter().zip(limits) {
            assert!(*pause <= limit && *pause >= limit / 2.0, "{pauses:?}");
        }
    }

    #[test]
    fn announcements_come_quickly_first_and_then_at_the_interval() {
        // what the tracker asks for, the least and the most that is granted, in seconds
        for (interval, least, most) in [(30, 27.0, 30.0), (0, 4.5, 5.0), (u32::MAX, 540.0, 600.0)] {
            let (mut trackers, mut now) = trackers(&["/ip4/10.0.0.1/tcp/9"], PeerId::random());
            let peer = PeerId::random();
            next_dial(&mut trackers, &mut now);
            trackers.connected(0, peer, now);
            let mut pauses = Vec::new();
            for round in 0..5 {
                let due = trackers.poll_timeout().expect("a step");
                pauses.push((due - now).as_secs_f64());
                now = due;
                assert_eq!(trackers.poll_step(now), Some(Step::Announce { tracker: 0, peer }));
                let change = trackers.answered(0, interval, now);
                assert_eq!(change.is_some(), round == 0);
            }
            assert_eq!(pauses[..3], [0.0, 1.0, 2.0]);
            assert!(pauses[3..].iter().all(|pause| (least..=most).contains(pause)), "{pauses:?}");
        }
    }

    #[test]
    fn news_are_announced_at_once() {
        let (mut trackers, mut now) = trackers(&["/ip4/10.0.0.1/tcp/9"], PeerId::random());
        trackers.announce_now(now);
        next_dial(&mut trackers, &mut now);
        trackers.connected(0, PeerId::random(), now);
        trackers.poll_step(now);
        trackers.answered(0, 30, now);
        assert_ne!(trackers.poll_timeout(), Some(now));
        trackers.announce_now(now);
        assert_eq!(trackers.poll_timeout(), Some(now));
        // The same while an announcement is on its way.
        trackers.poll_step(now);
        trackers.announced(0, request_id());
        trackers.announce_now(now);
        assert_eq!(trackers.poll_timeout(), None);
        trackers.answered(0, 30, now);
        assert_eq!(trackers.poll_timeout(), Some(now));
        trackers.poll_step(now);
        trackers.answered(0, 30, now);
        assert_ne!(trackers.poll_timeout(), Some(now));
    }

    #[test]
    fn each_address_of_a_name_is_tried_before_a_pause() {
        let (mut trackers, now) = trackers(&["/dns4/host/tcp/9"], PeerId::random());
        let resolve = Step::Resolve { tracker: 0, host: "host".into(), port: 9 };
        assert_eq!(trackers.poll_step(now).as_ref(), Some(&resolve));
        let found = ["10.0.0.1:9", "[fd00::1]:9", "10.0.0.2:9"].map(|addr| addr.parse().expect("an address"));
        assert_eq!(trackers.resolved(0, &found, now), None);
        let mut dialled = Vec::new();
        while let Some(Step::Dial { addr, .. }) = trackers.poll_step(now) {
            dialled.push(addr.to_string());
            trackers.failed(0, "refused".into(), now);
        }
        assert_eq!(dialled, ["/ip4/10.0.0.1/tcp/9", "/ip4/10.0.0.2/tcp/9"]);
        let due = trackers.poll_timeout().expect("a step");
        assert!(due > now);
        assert_eq!(trackers.poll_step(due), Some(resolve), "the name is looked up again");
        assert_eq!(trackers.resolved(0, &[], due), None, "down was told already");
    }

    #[test]
    fn nobody_asks_itself() {
        let own: PeerId = PEER.parse().expect("a PeerId");
        let (mut trackers, now) = trackers(&[&format!("/ip4/10.0.0.1/tcp/9/p2p/{PEER}")], own);
        assert_eq!((trackers.poll_step(now), trackers.poll_timeout()), (None, None));
    }

    #[test]
    fn addresses_of_one_identity_are_dialled_at_once() {
        let identity: PeerId = PEER.parse().expect("a PeerId");
        let list: Vec<String> =
            (0..20).map(|host| format!("/ip4/10.0.0.{}/tcp/9/p2p/{PEER}", host / 2)).collect();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        let (mut trackers, now) = trackers(&list, PeerId::random());
        let Some(Step::DialKnown { tracker: 0, identity: dialled, addrs }) = trackers.poll_step(now) else {
            panic!("no dial");
        };
        assert_eq!((dialled, addrs.len()), (identity, ADDRS_PER_TRACKER_MAX));
        assert_eq!(addrs[1].to_string(), "/ip4/10.0.0.1/tcp/9");
        assert_eq!(trackers.poll_step(now), None);
        assert!(trackers.failed(0, "refused".into(), now).is_some());
        assert_eq!(trackers.poll_step(now), None, "a pause");
    }

    #[test]
    fn trackers_are_few_and_distinct() {
        let list: Vec<String> = (0..100).map(|host| format!("/ip4/10.0.0.{}/tcp/9", host / 2)).collect();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        let (mut trackers, now) = trackers(&list, PeerId::random());
        let steps = std::iter::from_fn(|| trackers.poll_step(now)).count();
        assert_eq!(steps, TRACKERS_MAX);
    }

    #[test]
    fn a_broken_connection_is_noticed_before_the_next_turn() {
        let (mut trackers, now) = trackers(&["/ip4/10.0.0.1/tcp/9"], PeerId::random());
        let peer = PeerId::random();
        let mut at = now;
        next_dial(&mut trackers, &mut at);
        trackers.connected(0, peer, at);
        for _ in 0..3 {
            trackers.poll_step(at);
            trackers.answered(0, 30, at);
            at = trackers.poll_timeout().expect("the next announcement");
        }
        let broken = at - Duration::from_secs(20);
        trackers.disconnected(peer, broken);
        let due = trackers.poll_timeout().expect("a step");
        assert!(due - broken <= BACKOFF_MIN);
        assert!(matches!(trackers.poll_step(due), Some(Step::Dial { .. })));
    }
}
