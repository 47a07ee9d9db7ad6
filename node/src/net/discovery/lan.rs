//! Which of the peers that mDNS found to ask next: a pure table.
//!
//! Whoever is on the LAN can make mDNS report any number of peers. So candidates are bounded, and
//! who would be asked last gives way; few are asked at a time, at a bounded rate; and once enough
//! peers serve the dataset no more are asked.
//!
//! Each candidate is in one [`State`], and in the queue of that state.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

/// Most candidates: two clusters of 512 hosts on one LAN.
pub(super) const CANDIDATES_MAX: usize = 1024;
/// Most addresses of one candidate: a host has few interfaces on one LAN.
pub(super) const ADDRS_PER_CANDIDATE_MAX: usize = 4;
/// Most peers that are asked at a time.
pub(super) const ASKED_MAX: usize = 16;
/// Most peers that are kept for serving the dataset: more than a swarm's links to them.
pub(super) const SERVING_MAX: usize = 64;
/// Questions that may be asked at once after a pause …
pub(super) const QUESTIONS_BURST: u32 = 32;
/// … and one more per this time: 50 a second, each a TLS handshake of about 1 ms.
pub(super) const QUESTION_EVERY: Duration = Duration::from_millis(20);
/// … or one per this time where links stand: then others are told of by these, and only who is on no peer's
/// list is still to be found. All nodes of a swarm get there at the same time, and each asks each.
pub(super) const UNHURRIED_EVERY: Duration = Duration::from_millis(500);
/// When a peer that serves the dataset is asked again, so that a lost link is found again.
pub(super) const ASK_SERVING_AGAIN: Duration = Duration::from_secs(60);
/// When a peer that answered otherwise is asked again: it may be about to start.
pub(super) const ASK_OTHERS_AGAIN: Duration = Duration::from_secs(120);
/// When a peer that could not be asked is asked again.
pub(super) const ASK_FAILED_AGAIN: Duration = Duration::from_secs(10);

/// When a candidate's turn comes: those that asked us first, then by time, then by arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Turn {
    /// Only mDNS told of it: it may be an invention.
    hearsay: bool,
    due: Instant,
    arrival: u64,
    peer: PeerId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// In `waiting`.
    Waiting(Turn),
    /// A question is on its way.
    Asked,
    /// Serves the dataset; in `serving`, to be asked again.
    Serves(Turn),
}

struct Candidate {
    addrs: Vec<Multiaddr>,
    arrival: u64,
    state: State,
}

/// The peers that mDNS found, and those that asked us.
pub(super) struct Lan {
    candidates: HashMap<PeerId, Candidate>,
    waiting: BTreeSet<Turn>,
    serving: BTreeSet<Turn>,
    arrivals: u64,
    // Questions that may be asked at once, at most so many, and one more per this time.
    burst: u32,
    every: Duration,
    // Those that are left, and since when that number holds.
    allowance: u32,
    allowance_since: Instant,
}

impl Lan {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            candidates: HashMap::new(),
            waiting: BTreeSet::new(),
            serving: BTreeSet::new(),
            arrivals: 0,
            burst: QUESTIONS_BURST,
            every: QUESTION_EVERY,
            allowance: QUESTIONS_BURST,
            allowance_since: now,
        }
    }

    /// There is no hurry any more: one question at a time.
    pub(super) fn take_time(&mut self) {
        (self.burst, self.every) = (1, UNHURRIED_EVERY);
        self.allowance = self.allowance.min(self.burst);
    }

    /// mDNS told of a peer at `addr`.
    pub(super) fn heard_of(&mut self, peer: PeerId, addr: Multiaddr, now: Instant) {
        self.add(peer, true, now);
        let Some(candidate) = self.candidates.get_mut(&peer) else { return };
        if !candidate.addrs.contains(&addr) {
            if candidate.addrs.len() >= ADDRS_PER_CANDIDATE_MAX {
                candidate.addrs.remove(0);
            }
            candidate.addrs.push(addr);
        }
    }

    /// A connected peer asked us for the dataset: it is likely to serve it as well, so its turn
    /// is now.
    pub(super) fn asked_by(&mut self, peer: PeerId, now: Instant) {
        self.add(peer, false, now);
        if let Some(Candidate { state: State::Waiting(turn), .. }) = self.candidates.get(&peer) {
            let turn = Turn { hearsay: false, due: now, ..*turn };
            self.change(&peer, State::Waiting(turn));
        }
    }

    /// mDNS no longer knows the peer at `addr`.
    pub(super) fn expired(&mut self, peer: &PeerId, addr: &Multiaddr) {
        let Some(candidate) = self.candidates.get_mut(peer) else { return };
        candidate.addrs.retain(|known| known != addr);
        if candidate.addrs.is_empty() && candidate.state != State::Asked {
            self.remove(peer);
        }
    }

    /// The next peer to ask, and where; it counts as asked. `None` where nobody is due, enough
    /// are asked, or the rate is used up.
    pub(super) fn next_to_ask(&mut self, now: Instant) -> Option<(PeerId, Vec<Multiaddr>)> {
        self.refill(now);
        if self.allowance == 0 || self.asked_count() >= ASKED_MAX {
            return None;
        }
        let turn = self.next_turn().filter(|turn| turn.due <= now)?;
        self.change(&turn.peer, State::Asked);
        self.allowance -= 1;
        Some((turn.peer, self.candidates.get(&turn.peer)?.addrs.clone()))
    }

    /// The peer answered.
    pub(super) fn answered(&mut self, peer: &PeerId, serves: bool, now: Instant) {
        let serves = serves && !self.has_enough();
        self.settle(peer, serves, now + if serves { ASK_SERVING_AGAIN } else { ASK_OTHERS_AGAIN });
    }

    /// The peer could not be asked.
    pub(super) fn failed(&mut self, peer: &PeerId, now: Instant) {
        self.settle(peer, false, now + ASK_FAILED_AGAIN);
    }

    /// When [`Lan::next_to_ask`] has something to say, unless an answer comes first.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.asked_count() >= ASKED_MAX {
            return None;
        }
        let due = self.next_turn()?.due;
        if self.allowance > 0 { Some(due) } else { Some(due.max(self.allowance_since + self.every)) }
    }

    /// The turn that comes next; while enough peers serve the dataset, only one of theirs.
    fn next_turn(&self) -> Option<Turn> {
        let waiting = self.waiting.first().filter(|_| !self.has_enough());
        waiting.into_iter().chain(self.serving.first()).min().copied()
    }

    /// Makes `peer` a candidate, where it is none yet and there is room or one that would be
    /// asked later.
    fn add(&mut self, peer: PeerId, hearsay: bool, now: Instant) {
        if self.candidates.contains_key(&peer) {
            return;
        }
        let turn = Turn { hearsay, due: now, arrival: self.arrivals, peer };
        if self.candidates.len() >= CANDIDATES_MAX {
            match self.waiting.last().copied().filter(|last| turn < *last) {
                Some(last) => self.remove(&last.peer),
                None => return,
            }
        }
        self.arrivals += 1;
        self.waiting.insert(turn);
        let candidate = Candidate { addrs: Vec::new(), arrival: turn.arrival, state: State::Waiting(turn) };
        self.candidates.insert(peer, candidate);
    }

    fn settle(&mut self, peer: &PeerId, serves: bool, due: Instant) {
        let Some(candidate) = self.candidates.get(peer) else { return };
        // A peer that came to us and that mDNS doesn't know cannot be asked again.
        if candidate.addrs.is_empty() {
            return self.remove(peer);
        }
        let turn = Turn { hearsay: true, due, arrival: candidate.arrival, peer: *peer };
        self.change(peer, if serves { State::Serves(turn) } else { State::Waiting(turn) });
    }

    /// The one place where a candidate goes from one state, and its queue, to another.
    fn change(&mut self, peer: &PeerId, to: State) {
        let Some(candidate) = self.candidates.get_mut(peer) else { return };
        match std::mem::replace(&mut candidate.state, to) {
            State::Waiting(turn) => self.waiting.remove(&turn),
            State::Serves(turn) => self.serving.remove(&turn),
            State::Asked => false,
        };
        match to {
            State::Waiting(turn) => self.waiting.insert(turn),
            State::Serves(turn) => self.serving.insert(turn),
            State::Asked => false,
        };
    }

    fn remove(&mut self, peer: &PeerId) {
        self.change(peer, State::Asked);
        self.candidates.remove(peer);
    }

    fn refill(&mut self, now: Instant) {
        let questions = now.duration_since(self.allowance_since).as_nanos() / self.every.as_nanos();
        let questions = u32::try_from(questions).unwrap_or(u32::MAX);
        self.allowance_since += self.every.saturating_mul(questions);
        self.allowance = self.allowance.saturating_add(questions).min(self.burst);
    }

    fn asked_count(&self) -> usize {
        self.candidates.len() - self.waiting.len() - self.serving.len()
    }

    fn has_enough(&self) -> bool {
        self.serving.len() >= SERVING_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(number: usize) -> Multiaddr {
        format!("/ip4/10.0.{}.{}/tcp/9", number / 250, number % 250).parse().expect("a multiaddress")
    }

    /// Asks whoever may be asked at `now`.
    fn ask_all(lan: &mut Lan, now: Instant) -> Vec<PeerId> {
        std::iter::from_fn(|| lan.next_to_ask(now)).map(|(peer, _)| peer).collect()
    }

    #[test]
    fn a_flood_is_bounded_in_memory_and_in_rate() {
        let start = Instant::now();
        let mut lan = Lan::new(start);
        for number in 0..3 * CANDIDATES_MAX {
            lan.heard_of(PeerId::random(), addr(number), start);
        }
        assert_eq!(lan.candidates.len(), CANDIDATES_MAX);
        let burst = usize::try_from(QUESTIONS_BURST).expect("few");
        let mut asked = 0;
        let second = Duration::from_secs(1);
        let mut now = start;
        while now < start + second {
            for peer in ask_all(&mut lan, now) {
                asked += 1;
                lan.failed(&peer, now);
            }
            let due = lan.poll_timeout().expect("somebody is waiting");
            assert!(due > now || asked < burst, "the loop may sleep");
            now = due;
        }
        let per_second = usize::try_from(second.as_nanos() / QUESTION_EVERY.as_nanos()).expect("few");
        assert!((per_second..=per_second + burst).contains(&asked), "{asked}");
    }

    #[test]
    fn without_hurry_one_after_the_other_is_asked() {
        let start = Instant::now();
        let mut lan = Lan::new(start);
        for number in 0..100 {
            lan.heard_of(PeerId::random(), addr(number), start);
        }
        lan.take_time();
        let mut asked = 0;
        for second in 0..10 {
            let now = start + Duration::from_secs(1) * second;
            // What was not asked in time is not made up for.
            let peers = ask_all(&mut lan, now);
            assert!(peers.len() <= 1, "{peers:?}");
            peers.iter().for_each(|peer| lan.answered(peer, false, now));
            asked += peers.len();
        }
        assert_eq!(asked, 10);
        let due = lan.poll_timeout().expect("somebody is waiting");
        assert_eq!(due, start + Duration::from_secs(9) + UNHURRIED_EVERY);
    }

    #[test]
    fn few_are_asked_at_a_time() {
        let now = Instant::now();
        let mut lan = Lan::new(now);
        for number in 0..100 {
            lan.heard_of(PeerId::random(), addr(number), now);
        }
        let asked = ask_all(&mut lan, now);
        assert_eq!((asked.len(), lan.poll_timeout()), (ASKED_MAX, None));
        lan.answered(&asked[0], false, now);
        assert_eq!(ask_all(&mut lan, now).len(), 1);
    }

    #[test]
    fn who_serves_is_kept_in_a_flood_and_asked_again() {
        let now = Instant::now();
        let mut lan = Lan::new(now);
        let serves = PeerId::random();
        lan.heard_of(serves, addr(1), now);
        assert_eq!(ask_all(&mut lan, now), [serves]);
        lan.answered(&serves, true, now);
        for number in 0..2 * CANDIDATES_MAX {
            lan.heard_of(PeerId::random(), addr(number), now);
        }
        let later = now + ASK_SERVING_AGAIN;
        let mut asked = Vec::new();
        for round in 0..1000 {
            let turn = ask_all(&mut lan, later + QUESTION_EVERY * round);
            for peer in &turn {
                lan.failed(peer, later + ASK_SERVING_AGAIN);
            }
            asked.extend(turn);
        }
        assert!(asked.contains(&serves));
    }

    #[test]
    fn enough_serving_peers_end_the_questions() {
        let now = Instant::now();
        let mut lan = Lan::new(now);
        for number in 0..SERVING_MAX + 50 {
            lan.heard_of(PeerId::random(), addr(number), now);
        }
        let mut served = 0;
        for round in 0..200 {
            let now = now + QUESTION_EVERY * round;
            for peer in ask_all(&mut lan, now) {
                lan.answered(&peer, true, now);
                served += 1;
            }
        }
        // Those that were on their way when enough had answered may come on top.
        assert!((SERVING_MAX..SERVING_MAX + ASKED_MAX).contains(&served), "{served}");
        assert_eq!(lan.serving.len(), SERVING_MAX);
    }

    #[test]
    fn a_peer_that_asks_goes_before_a_flood() {
        let now = Instant::now();
        let mut lan = Lan::new(now);
        for number in 0..CANDIDATES_MAX {
            lan.heard_of(PeerId::random(), addr(number), now);
        }
        let asks = PeerId::random();
        let later = now + QUESTION_EVERY;
        lan.asked_by(asks, later);
        for number in 0..CANDIDATES_MAX {
            lan.heard_of(PeerId::random(), addr(number), later);
        }
        assert_eq!(lan.next_to_ask(later).map(|(peer, _)| peer), Some(asks));
    }

    #[test]
    fn a_peer_that_asks_is_asked_and_then_forgotten() {
        let now = Instant::now();
        let mut lan = Lan::new(now);
        let peer = PeerId::random();
        lan.asked_by(peer, now);
        assert_eq!(lan.next_to_ask(now), Some((peer, vec![])));
        lan.asked_by(peer, now);
        assert_eq!(lan.next_to_ask(now), None, "a question is on its way");
        lan.answered(&peer, true, now);
        assert!(lan.candidates.is_empty(), "without an address it cannot be asked again");
    }

    #[test]
    fn addresses_come_and_go() {
        let now = Instant::now();
        let mut lan = Lan::new(now);
        let peer = PeerId::random();
        for number in [1, 1, 2, 3, 4, 5] {
            lan.heard_of(peer, addr(number), now);
        }
        let kept: Vec<Multiaddr> = [2, 3, 4, 5].map(addr).to_vec();
        assert_eq!(lan.next_to_ask(now), Some((peer, kept.clone())));
        lan.failed(&peer, now);
        for addr in &kept {
            lan.expired(&peer, addr);
        }
        assert!(lan.candidates.is_empty());
        assert_eq!(lan.poll_timeout(), None);
    }
}
