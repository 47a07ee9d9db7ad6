//! What must hold in a [`World`] at every moment, seen from outside of the swarms.
//!
//! The ledger keeps what each end of a link was asked and told, as it arrived there. Only honest
//! hosts are held to the rules.

use std::collections::{BTreeMap, BTreeSet};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::id::PeerId;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{LinkId, REQUESTS_PER_LINK_MAX};
use dft_protocol::time::{Duration, Instant};
use dft_protocol::wire::{Message, RejectReason};

use super::{Conduct, Host, World};

/// No piece is asked of a second peer sooner.
const LATE_MIN: Duration = Duration::from_millis(100);

/// What happened at one end of a link.
#[derive(Debug)]
struct Page {
    /// The pieces that the other end announced.
    told: PieceSet,
    /// The requests that this end made and that wait, with their time; true: taken back.
    asked: BTreeMap<PieceIndex, (Instant, bool)>,
    /// The requests that arrived here and wait for their answer.
    wanted: BTreeSet<PieceIndex>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Totals {
    verified: u64,
    sent: u64,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pages: BTreeMap<LinkId, Page>,
    totals: BTreeMap<usize, Totals>,
    /// Hosts whose swarm took an event since the last check.
    pub(super) touched: BTreeSet<usize>,
}

impl Ledger {
    pub(super) fn started(&mut self, host: usize) {
        self.totals.insert(host, Totals::default());
    }

    pub(super) fn connected(&mut self, ours: LinkId, theirs: LinkId, piece_count: usize) {
        for link in [ours, theirs] {
            let told = PieceSet::empty(piece_count);
            self.pages.insert(link, Page { told, asked: BTreeMap::new(), wanted: BTreeSet::new() });
        }
    }

    pub(super) fn verified(&mut self, host: usize, len: u32) {
        self.totals.entry(host).or_default().verified += u64::from(len);
    }

    pub(super) fn sent(&mut self, host: usize, len: u32) {
        self.totals.entry(host).or_default().sent += u64::from(len);
    }

    fn page(&mut self, link: LinkId) -> &mut Page {
        self.pages.get_mut(&link).expect("a link has a page from its start on")
    }

    /// A message arrived at this end.
    pub(super) fn heard(&mut self, link: LinkId, message: &Message) {
        let page = self.page(link);
        match message {
            Message::Bitfield(set) => page.told = set.clone(),
            Message::Have(list) => list.pieces().iter().for_each(|piece| {
                page.told.insert(*piece);
            }),
            Message::Lost(list) => list.pieces().iter().for_each(|piece| {
                page.told.remove(*piece);
            }),
            Message::Request(list) => page.wanted.extend(list.pieces()),
            Message::Reject(piece, _) => {
                page.asked.remove(piece);
            }
            _ => {}
        }
    }

    /// All data of a piece arrived: whether its request was taken back; `None` where there was
    /// no request.
    pub(super) fn answered(&mut self, link: LinkId, piece: PieceIndex) -> Option<bool> {
        self.page(link).asked.remove(&piece).map(|(_, cancelled)| cancelled)
    }

    /// A piece that was to be sent could not be read: its request waits for a reject.
    pub(super) fn unreadable(&mut self, link: LinkId, piece: PieceIndex) {
        self.page(link).wanted.insert(piece);
    }
}

impl World {
    /// Checks all swarms that took an event since the last time.
    pub fn check(&mut self) {
        for host in std::mem::take(&mut self.ledger.touched) {
            let place = &self.hosts[host];
            let Some(swarm) = &place.swarm else {
                continue;
            };
            swarm.check_invariants();
            if place.plan.conduct != Conduct::Honest {
                continue;
            }
            let stats = swarm.stats();
            let totals = self.ledger.totals[&host];
            assert_eq!(stats.from_seeders + stats.from_peers, totals.verified, "verified bytes are counted");
            assert_eq!(stats.sent, totals.sent, "sent bytes are counted");
            assert_eq!(stats.links, place.links.len(), "a swarm knows the links that its driver has");
        }
    }

    /// Links between honest hosts.
    fn honest_links(&self) -> impl Iterator<Item = (usize, &LinkId)> {
        let honest = |host: &Host| host.plan.conduct == Conduct::Honest;
        let peers: BTreeSet<PeerId> =
            self.hosts.iter().filter(|host| honest(host)).map(|host| host.peer).collect();
        let hosts = self.hosts.iter().enumerate().filter(move |(_, host)| honest(host));
        hosts.flat_map(move |(number, host)| {
            let links = host.links.iter().filter(|(_, peer)| peers.contains(peer));
            links.map(|(link, _)| (number, link)).collect::<Vec<_>>()
        })
    }

    /// How many requests of `host` wait for their answer.
    pub fn waiting(&self, host: usize) -> usize {
        self.hosts[host].links.keys().map(|link| self.ledger.pages[link].asked.len()).sum()
    }

    /// Whether no honest host waits for another.
    pub fn is_quiet(&self) -> bool {
        self.honest_links().all(|(_, link)| self.ledger.pages[link].asked.is_empty())
    }

    /// Once all is quiet: no request is open, and no two hosts have two links.
    pub fn check_quiet(&self) {
        for (host, place) in self.hosts.iter().enumerate() {
            let peers: BTreeSet<_> = place.links.values().collect();
            assert_eq!(peers.len(), place.links.len(), "host {host} has one link to each peer");
        }
        for (host, link) in self.honest_links() {
            let page = &self.ledger.pages[link];
            assert!(page.asked.is_empty(), "host {host} waits for nothing on {link:?}: {page:?}");
            assert!(page.wanted.is_empty(), "host {host} owes no answer on {link:?}: {page:?}");
        }
    }

    /// Holds a message that `host` sends to the rules.
    pub(super) fn check_message(&mut self, host: usize, link: LinkId, message: &Message) {
        let place = &self.hosts[host];
        let honest = place.plan.conduct == Conduct::Honest;
        let have = place.swarm.as_ref().expect("who sends is up").have();
        match message {
            Message::Bitfield(set) => {
                assert!(!honest || set.count_common(have) == set.count(), "what is announced is verified");
            }
            Message::Have(list) => {
                let verified = list.pieces().iter().all(|piece| have.contains(*piece));
                assert!(!honest || verified, "what is announced is verified");
            }
            Message::Request(list) => list.pieces().iter().for_each(|piece| {
                self.check_request(host, link, *piece);
            }),
            Message::Cancel(list) => list.pieces().iter().for_each(|piece| {
                if let Some((_, cancelled)) = self.ledger.page(link).asked.get_mut(piece) {
                    *cancelled = true;
                }
            }),
            Message::Reject(piece, reason) => {
                let waited = self.ledger.page(link).wanted.remove(piece);
                assert!(!honest || waited, "a reject answers a request that waits");
                assert!(!honest || *reason != RejectReason::Missing || !have.contains(*piece));
            }
            _ => {}
        }
    }

    fn check_request(&mut self, host: usize, link: LinkId, piece: PieceIndex) {
        let now = self.now;
        let place = &self.hosts[host];
        let honest = place.plan.conduct == Conduct::Honest;
        let elsewhere = place.links.keys().filter(|other| **other != link);
        let elsewhere: Vec<Instant> = elsewhere
            .filter_map(|other| self.ledger.pages[other].asked.get(&piece))
            .filter_map(|(since, cancelled)| (!cancelled).then_some(*since))
            .collect();
        let page = self.ledger.page(link);
        if honest {
            assert!(page.told.contains(piece), "host {host} asks for {piece}, which was announced");
            assert!(!page.asked.contains_key(&piece), "host {host} asks for {piece} once");
            assert!(page.asked.len() < REQUESTS_PER_LINK_MAX / 2, "requests of a link are bounded");
            assert!(elsewhere.len() < 2, "host {host} asks at most two peers for {piece}");
            let late = elsewhere.iter().all(|since| now.since(*since) >= LATE_MIN);
            assert!(late, "host {host} asks a second peer only for a late piece");
        }
        page.asked.insert(piece, (now, false));
    }

    /// Holds the upload of a piece to the rules.
    pub(super) fn check_upload(&mut self, host: usize, link: LinkId, piece: PieceIndex) {
        let waited = self.ledger.page(link).wanted.remove(&piece);
        let place = &self.hosts[host];
        if place.plan.conduct == Conduct::Honest {
            assert!(waited, "host {host} sends {piece}, which was asked for");
            let have = place.swarm.as_ref().expect("who sends is up").have();
            assert!(have.contains(piece), "host {host} sends {piece}, which it has");
        }
    }
}
