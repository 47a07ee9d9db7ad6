//! Which of the peers that mDNS found to ask next: a pure table.
//!
//! Whoever is on the LAN can make mDNS report any number of peers. So candidates are bounded and
//! the least recently heard of is given up first; few are asked at a time, at a bounded rate; and
//! once enough peers serve the dataset no more are asked.

use std::collections::HashMap;
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
/// When a peer that serves the dataset is asked again, so that a lost link is found again.
pub(super) const ASK_SERVING_AGAIN: Duration = Duration::from_secs(60);
/// When a peer that answered otherwise is asked again: it may be about to start.
pub(super) const ASK_OTHERS_AGAIN: Duration = Duration::from_secs(120);
/// When a peer that could not be asked is asked again.
pub(super) const ASK_FAILED_AGAIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// To be asked when due.
    Waiting,
    /// A question is on its way.
    Asked,
    /// Serves the dataset; to be asked again when due.
    Serves,
}

struct Candidate {
    addrs: Vec<Multiaddr>,
    state: State,
    due: Instant,
    // Larger is more recent.
    heard: u64,
}

/// The peers that mDNS found, and those that asked us.
pub(super) struct Lan {
    candidates: HashMap<PeerId, Candidate>,
    heard: u64,
    // Questions that may be asked at once, and since when that number holds.
    allowance: u32,
    allowance_since: Instant,
}

impl Lan {
    pub(super) fn new(now: Instant) -> Self {
        Self { candidates: HashMap::new(), heard: 0, allowance: QUESTIONS_BURST, allowance_since: now }
    }

    /// A peer was heard of at `addr`; `None` for one that is connected already.
    pub(super) fn heard_of(&mut self, peer: PeerId, addr: Option<Multiaddr>, now: Instant) {
        self.heard += 1;
        if !self.candidates.contains_key(&peer) && !self.make_room() {
            return;
        }
        let candidate = self.candidates.entry(peer).or_insert_with(|| Candidate {
            addrs: Vec::new(),
            state: State::Waiting,
            due: now,
            heard: 0,
        });
        candidate.heard = self.heard;
        if let Some(addr) = addr
            && !candidate.addrs.contains(&addr)
        {
            if candidate.addrs.len() >= ADDRS_PER_CANDIDATE_MAX {
                candidate.addrs.remove(0);
            }
            candidate.addrs.push(addr);
        }
    }

    /// A peer asked us for the dataset: it is likely to serve it as well, so its turn is now.
    pub(super) fn asked_by(&mut self, peer: PeerId, now: Instant) {
        self.heard_of(peer, None, now);
        if let Some(candidate) = self.candidates.get_mut(&peer)
            && candidate.state == State::Waiting
        {
            candidate.due = now;
        }
    }

    /// mDNS no longer knows the peer at `addr`.
    pub(super) fn expired(&mut self, peer: &PeerId, addr: &Multiaddr) {
        if let Some(candidate) = self.candidates.get_mut(peer) {
            candidate.addrs.retain(|known| known != addr);
            if candidate.addrs.is_empty() && candidate.state != State::Asked {
                self.candidates.remove(peer);
            }
        }
    }

    /// The next peer to ask, and where; it counts as asked. `None` where nobody is due, enough
    /// are asked, or the rate is used up.
    pub(super) fn next_to_ask(&mut self, now: Instant) -> Option<(PeerId, Vec<Multiaddr>)> {
        self.refill(now);
        if self.allowance == 0 || self.count(State::Asked) >= ASKED_MAX {
            return None;
        }
        let enough = self.has_enough();
        let (peer, candidate) = self
            .candidates
            .iter_mut()
            .filter(|(_, candidate)| candidate.due <= now && candidate.may_be_asked(enough))
            .min_by_key(|(_, candidate)| (candidate.due, candidate.heard))?;
        candidate.state = State::Asked;
        self.allowance -= 1;
        Some((*peer, candidate.addrs.clone()))
    }

    /// Whether a question to this peer is on its way.
    pub(super) fn is_asked(&self, peer: &PeerId) -> bool {
        self.candidates.get(peer).is_some_and(|candidate| candidate.state == State::Asked)
    }

    /// The peer answered.
    pub(super) fn answered(&mut self, peer: &PeerId, serves: bool, now: Instant) {
        let serves = serves && !self.has_enough();
        self.settle(
            peer,
            if serves { State::Serves } else { State::Waiting },
            now + if serves { ASK_SERVING_AGAIN } else { ASK_OTHERS_AGAIN },
        );
    }

    /// The peer could not be asked.
    pub(super) fn failed(&mut self, peer: &PeerId, now: Instant) {
        self.settle(peer, State::Waiting, now + ASK_FAILED_AGAIN);
    }

    /// When [`Lan::next_to_ask`] has something to say, unless an answer comes first.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.count(State::Asked) >= ASKED_MAX {
            return None;
        }
        let enough = self.has_enough();
        let due = self
            .candidates
            .values()
            .filter(|candidate| candidate.may_be_asked(enough))
            .map(|candidate| candidate.due)
            .min()?;
        if self.allowance > 0 { Some(due) } else { Some(due.max(self.allowance_since + QUESTION_EVERY)) }
    }

    fn settle(&mut self, peer: &PeerId, state: State, due: Instant) {
        if let Some(candidate) = self.candidates.get_mut(peer) {
            candidate.state = state;
            candidate.due = due;
            // A peer that came to us and that mDNS doesn't know cannot be asked again.
            if candidate.addrs.is_empty() {
                self.candidates.remove(peer);
            }
        }
    }

    fn make_room(&mut self) -> bool {
        if self.candidates.len() < CANDIDATES_MAX {
            return true;
        }
        let oldest = self
            .candidates
            .iter()
            .filter(|(_, candidate)| candidate.state == State::Waiting)
            .min_by_key(|(_, candidate)| candidate.heard)
            .map(|(peer, _)| *peer);
        oldest.is_some_and(|peer| self.candidates.remove(&peer).is_some())
    }

    fn refill(&mut self, now: Instant) {
        let questions = now.duration_since(self.allowance_since).as_nanos() / QUESTION_EVERY.as_nanos();
        let questions = u32::try_from(questions).unwrap_or(u32::MAX);
        self.allowance_since += QUESTION_EVERY * questions;
        self.allowance = self.allowance.saturating_add(questions).min(QUESTIONS_BURST);
    }

    fn count(&self, state: State) -> usize {
        self.candidates.values().filter(|candidate| candidate.state == state).count()
    }

    fn has_enough(&self) -> bool {
        self.count(State::Serves) >= SERVING_MAX
    }
}

impl Candidate {
    fn may_be_asked(&self, enough: bool) -> bool {
        match self.state {
            State::Waiting => !enough,
            State::Asked => false,
            State::Serves => true,
        }
    }
}
