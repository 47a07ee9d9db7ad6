//! One dataset whose peers are looked for: what is known of it, and when to ask whom.

use std::collections::BTreeMap;

use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use crate::net::discovery::Dataset;
use crate::net::discovery::lan::{ADDRS_PER_CANDIDATE_MAX, CANDIDATES_MAX, Lan};
use crate::net::discovery::trackers::Trackers;

/// One dataset of this process.
pub(super) struct Followed {
    pub(super) complete: bool,
    /// From when on the peers of the LAN are asked; `None`: they are answered only.
    asks_lan_from: Option<Instant>,
    pub(super) trackers: Trackers,
    pub(super) lan: Lan,
    pub(super) embedded: EmbeddedTurn,
    /// It is not here any more: trackers that may count it here are told, until this time.
    pub(super) leaving: Option<Instant>,
}

/// When the embedded tracker is asked about a dataset.
pub(super) struct EmbeddedTurn {
    pub(super) due: Instant,
    pub(super) answers: usize,
    pub(super) asked: bool,
    /// Something about us changed since it was asked.
    pub(super) news: bool,
}

impl Followed {
    pub(super) fn new(dataset: Dataset, trackers: &[Multiaddr], own: PeerId, now: Instant) -> Self {
        let addrs = trackers.iter().cloned().chain(dataset.trackers).collect();
        let begins = now + dataset.quiet_for;
        Self {
            complete: dataset.complete,
            asks_lan_from: dataset.asks_lan_in.map(|pause| begins + pause),
            trackers: Trackers::new(addrs, own, rand::random(), begins),
            lan: Lan::new(now),
            embedded: EmbeddedTurn { due: now, answers: 0, asked: false, news: false },
            leaving: None,
        }
    }

    /// Whether this process has it, or looks for it.
    pub(super) fn is_here(&self) -> bool {
        self.leaving.is_none()
    }

    /// It is not here any more: every tracker is to hear of that, also one to which an earlier
    /// process of this node announced it. After `until`, no record of it can stand anywhere.
    pub(super) fn leave(&mut self, now: Instant, until: Instant) {
        self.leaving = Some(until);
        self.asks_lan_from = None;
        self.trackers.leave(now);
    }

    /// Whether nothing is to be done for it any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.leaving.is_some_and(|until| until <= now || self.trackers.all_left())
    }

    /// Whoever is on the LAN is not asked before `from`, unless that began already, and without hurry.
    pub(super) fn ask_lan_later(&mut self, from: Instant, now: Instant) {
        self.lan.take_time();
        self.asks_lan_from = self.asks_lan_from.map(|at| if at > now { at.max(from) } else { at });
    }

    /// Whom on the LAN to ask next.
    pub(super) fn next_to_ask(&mut self, now: Instant) -> Option<(PeerId, Vec<Multiaddr>)> {
        if self.asks_lan_from.is_some_and(|from| from <= now) { self.lan.next_to_ask(now) } else { None }
    }

    /// When something is due, unless a report comes first.
    pub(super) fn poll_timeout(&self, embedded: bool) -> Option<Instant> {
        let embedded = (embedded && self.is_here() && !self.embedded.asked).then_some(self.embedded.due);
        let lan = self.asks_lan_from.and_then(|from| Some(self.lan.poll_timeout()?.max(from)));
        [embedded, self.trackers.poll_timeout(), lan, self.leaving].into_iter().flatten().min()
    }

    /// Something about us changed: every tracker is to hear of it.
    pub(super) fn announce_now(&mut self, now: Instant) {
        self.trackers.announce_now(now);
        self.embedded.due = now;
        self.embedded.news = self.embedded.asked;
    }
}

/// Whom mDNS knows: as many as one dataset has candidates.
#[derive(Default)]
pub(super) struct Heard(BTreeMap<PeerId, Vec<Multiaddr>>);

impl Heard {
    pub(super) fn add(&mut self, peer: PeerId, addr: &Multiaddr) {
        if self.0.len() >= CANDIDATES_MAX && !self.0.contains_key(&peer) {
            return;
        }
        let addrs = self.0.entry(peer).or_default();
        if !addrs.contains(addr) {
            if addrs.len() >= ADDRS_PER_CANDIDATE_MAX {
                addrs.remove(0);
            }
            addrs.push(addr.clone());
        }
    }

    pub(super) fn expire(&mut self, peer: &PeerId, addr: &Multiaddr) {
        if let Some(addrs) = self.0.get_mut(peer) {
            addrs.retain(|known| known != addr);
            if addrs.is_empty() {
                self.0.remove(peer);
            }
        }
    }

    /// What is known may be an invention.
    pub(super) fn forget_all(&mut self) {
        self.0.clear();
    }

    /// Tells a dataset that was added late.
    pub(super) fn tell(&self, followed: &mut Followed, now: Instant) {
        for (peer, addrs) in &self.0 {
            for addr in addrs {
                followed.lan.heard_of(*peer, addr.clone(), now);
            }
        }
    }
}
