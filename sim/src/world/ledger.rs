//! What must hold in a [`World`] at every moment, seen from outside of the swarms.
//!
//! The ledger keeps what each end of a link was asked and told, as it arrived there, and which
//! pieces really came whole to each host. Only honest hosts are held to the rules.
//!
//! # The rules
//!
//! - A piece counts, is announced and is sent only where its right bytes are on that host.
//! - Only announced pieces are requested; each once on a link, of one peer, and of a second one only
//!   when it is late. Requests of a link are bounded.
//! - A piece that was asked for twice comes twice only where one request was taken back.
//! - An answer answers a request that waits; each request is answered in the end.
//! - Honest hosts don't ban each other, nor take each other for dead, while the network is whole.
//! - What the swarms count is what happened.

use std::collections::BTreeSet;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::id::PeerId;
use dft_protocol::piece_map::PieceMap;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{DisconnectReason, LinkId, PieceState, REQUESTS_PER_LINK_MAX, Violation};
use dft_protocol::time::{Duration, Instant};
use dft_protocol::wire::{Message, RejectReason};

use super::network::Network;
use super::{Conduct, Host, World};

/// No piece is asked of a second peer sooner.
const LATE_MIN: Duration = Duration::from_millis(100);

/// Hosts with slower wires, in bytes per second, are of no use to others, and may be taken for dead.
const RATE_MIN: u64 = 64 * 1024;

/// Pieces up to this length come in time at every rate that is of use.
const QUICK_PIECE: u32 = 64 << 10;

/// What happened at one end of a link.
#[derive(Debug)]
struct Page {
    /// The pieces that the other end announced.
    told: PieceSet,
    /// The requests that this end made and that wait, with their time; true: taken back.
    asked: PieceMap<(Instant, bool)>,
    /// The requests that arrived here and wait for their answer: how many of each piece. (A hostile
    /// peer asks twice.)
    wanted: PieceMap<u32>,
}

impl Page {
    fn new(piece_count: usize) -> Self {
        let told = PieceSet::empty(piece_count);
        Self { told, asked: PieceMap::default(), wanted: PieceMap::default() }
    }

    /// A request that arrived here is answered; false where none waits.
    fn answer(&mut self, piece: PieceIndex) -> bool {
        match self.wanted.get_mut(piece) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => drop(self.wanted.remove(piece)),
            None => return false,
        }
        true
    }
}

/// What one host did.
#[derive(Debug)]
struct Account {
    verified: u64,
    sent: u64,
    /// Its disk holds the right bytes of these, or held them.
    right: PieceSet,
    /// The latest bytes of these were wrong.
    wrong: BTreeSet<PieceIndex>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By the number of the link end.
    pages: Vec<Page>,
    accounts: Vec<Option<Account>>,
    /// Hosts whose swarm took an event since the last check.
    touched: Vec<bool>,
    /// The network was not whole at some time: silence is nobody's fault.
    pub(super) was_separated: bool,
}

fn slot(link: LinkId) -> usize {
    usize::try_from(link.0).expect("there are fewer links than addresses")
}

impl Ledger {
    pub(super) fn started(&mut self, host: usize, have: &PieceSet) {
        let right = have.clone();
        if self.accounts.len() <= host {
            self.accounts.resize_with(host + 1, || None);
        }
        self.accounts[host] = Some(Account { verified: 0, sent: 0, right, wrong: BTreeSet::new() });
    }

    /// Both ends of a new link get an empty page.
    pub(super) fn connected(&mut self, dialling: LinkId, piece_count: usize) {
        assert_eq!(self.pages.len(), slot(dialling), "links are numbered in the order in which they open");
        self.pages.push(Page::new(piece_count));
        self.pages.push(Page::new(piece_count));
    }

    /// This end of a link is gone: nobody will ask for its page.
    pub(super) fn closed(&mut self, link: LinkId) {
        self.pages[slot(link)] = Page::new(0);
    }

    pub(super) fn touched(&mut self, host: usize) {
        if self.touched.len() <= host {
            self.touched.resize(host + 1, false);
        }
        self.touched[host] = true;
    }

    fn account(&mut self, host: usize) -> &mut Account {
        self.accounts[host].as_mut().expect("a host that was started has an account")
    }

    pub(super) fn sent(&mut self, host: usize, len: u32) {
        self.account(host).sent += u64::from(len);
    }

    /// All bytes of a piece came to `host`, and were right or not.
    pub(super) fn arrived(&mut self, host: usize, piece: PieceIndex, right: bool) {
        let account = self.account(host);
        if right {
            account.right.insert(piece);
            account.wrong.remove(&piece);
        } else if !account.right.contains(piece) {
            account.wrong.insert(piece);
        }
    }

    fn page(&mut self, link: LinkId) -> &mut Page {
        &mut self.pages[slot(link)]
    }

    /// A message arrived at this end.
    fn heard(&mut self, link: LinkId, message: &Message) {
        let page = self.page(link);
        match message {
            Message::Bitfield(set) => page.told = set.clone(),
            Message::Have(list) => list.pieces().iter().for_each(|piece| {
                page.told.insert(*piece);
            }),
            Message::Lost(list) => list.pieces().iter().for_each(|piece| {
                page.told.remove(*piece);
            }),
            Message::Request(list) => {
                for piece in list.pieces() {
                    match page.wanted.get_mut(*piece) {
                        Some(count) => *count += 1,
                        None => drop(page.wanted.insert(*piece, 1)),
                    }
                }
            }
            Message::Reject(piece, _) => {
                page.asked.remove(*piece);
            }
            _ => {}
        }
    }
}

impl World {
    fn is_honest(&self, host: usize) -> bool {
        self.hosts[host].plan.conduct == Conduct::Honest
    }

    /// Checks all swarms that took an event since the last time.
    pub fn check(&mut self) {
        let touched = std::mem::take(&mut self.ledger.touched);
        for (host, _) in touched.into_iter().enumerate().filter(|(_, touched)| *touched) {
            let place = &self.hosts[host];
            let Some(swarm) = &place.swarm else {
                continue;
            };
            self.acting = Some(host);
            swarm.check_invariants();
            if place.plan.conduct != Conduct::Honest {
                continue;
            }
            let stats = swarm.stats();
            let links = place.links.len();
            let account = self.ledger.account(host);
            assert_eq!(stats.from_seeders + stats.from_peers, account.verified, "verified bytes are counted");
            assert_eq!(stats.sent, account.sent, "sent bytes are counted");
            assert_eq!(stats.links, links, "a swarm knows the links that its driver has");
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
        self.hosts[host].links.keys().map(|link| self.ledger.pages[slot(*link)].asked.len()).sum()
    }

    /// Whether no honest host waits for another.
    pub fn is_quiet(&self) -> bool {
        self.honest_links().all(|(_, link)| self.ledger.pages[slot(*link)].asked.is_empty())
    }

    /// Once all is quiet: no request is open, and no two hosts have two links.
    ///
    /// # Panics
    /// Where that is not so.
    pub fn check_quiet(&mut self) {
        for (host, place) in self.hosts.iter().enumerate() {
            self.acting = Some(host);
            let peers: BTreeSet<_> = place.links.values().collect();
            assert_eq!(peers.len(), place.links.len(), "host {host} has one link to each peer");
        }
        let mut acting = None;
        for (host, link) in self.honest_links() {
            let page = &self.ledger.pages[slot(*link)];
            if !page.asked.is_empty() || !page.wanted.is_empty() {
                acting = Some((host, *link, format!("asked {:?}, wanted {:?}", page.asked, page.wanted)));
            }
        }
        if let Some((host, link, page)) = acting {
            self.acting = Some(host);
            panic!("host {host} waits for nothing, and owes no answer, on {link:?}: {page}");
        }
    }

    /// Holds a message that `host` sends to the rules.
    pub(super) fn check_message(&mut self, host: usize, link: LinkId, message: &Message) {
        let honest = self.is_honest(host);
        match message {
            Message::Bitfield(set) if honest => {
                let right = &self.ledger.account(host).right;
                assert_eq!(set.count_common(right), set.count(), "host {host} announces what it has");
                let have = self.hosts[host].swarm.as_ref().expect("who sends is up").have();
                assert_eq!(set.count_common(have), set.count(), "host {host} announces what is verified");
            }
            Message::Have(list) if honest => {
                let have = self.hosts[host].swarm.as_ref().expect("who sends is up").have();
                let verified = list.pieces().iter().all(|piece| have.contains(*piece));
                assert!(verified, "host {host} announces what is verified: {list:?}");
                let right = &self.ledger.account(host).right;
                assert!(list.pieces().iter().all(|piece| right.contains(*piece)), "and what it has");
            }
            Message::Request(list) => list.pieces().iter().for_each(|piece| {
                self.check_request(host, link, *piece);
            }),
            Message::Cancel(list) => list.pieces().iter().for_each(|piece| {
                if let Some((_, cancelled)) = self.ledger.page(link).asked.get_mut(*piece) {
                    *cancelled = true;
                }
            }),
            Message::Reject(piece, reason) => {
                let waited = self.ledger.page(link).answer(*piece);
                assert!(!honest || waited, "a reject of host {host} answers a request that waits");
                let have = self.hosts[host].swarm.as_ref().expect("who sends is up").have();
                let missing = *reason == RejectReason::Missing;
                let lies = missing && have.contains(*piece);
                assert!(!honest || !lies, "host {host} says that it lacks {piece}, and has it");
            }
            _ => {}
        }
    }

    /// Holds a message that arrived at this end to the rules, and takes note of it.
    pub(super) fn hear(&mut self, link: LinkId, message: &Message) {
        if let Message::Reject(piece, RejectReason::Missing) = message {
            let sender = self.network.host_of(Network::other_end(link));
            self.acting = Some(sender);
            let told = self.ledger.page(link).told.contains(*piece);
            let honest = self.is_honest(sender);
            assert!(!honest || !told, "host {sender} takes {piece} back before it says that it lacks it");
        }
        self.ledger.heard(link, message);
    }

    fn check_request(&mut self, host: usize, link: LinkId, piece: PieceIndex) {
        let now = self.now;
        if self.is_honest(host) {
            let page = &self.ledger.pages[slot(link)];
            assert!(page.told.contains(piece), "host {host} asks for {piece}, which was announced");
            assert!(!page.asked.contains(piece), "host {host} asks for {piece} once");
            assert!(page.asked.len() < REQUESTS_PER_LINK_MAX / 2, "requests of a link are bounded");
            self.check_second_source(host, link, piece);
        }
        self.ledger.page(link).asked.insert(piece, (now, false));
    }

    /// A piece is asked of a second peer only when it is late, and never of a third.
    fn check_second_source(&self, host: usize, link: LinkId, piece: PieceIndex) {
        let swarm = self.hosts[host].swarm.as_ref().expect("who asks is up");
        // Where the swarm says that it asked one peer, no other page need be read.
        if let PieceState::Requested { first, second: None, .. } = swarm.piece_state(piece)
            && first == link
            && self.terms.check_every == 0
        {
            return;
        }
        let elsewhere = self.hosts[host].links.keys().filter(|other| **other != link);
        let elsewhere: Vec<Instant> = elsewhere
            .filter_map(|other| self.ledger.pages[slot(*other)].asked.get(piece))
            .filter_map(|(since, cancelled)| (!cancelled).then_some(*since))
            .collect();
        assert!(elsewhere.len() < 2, "host {host} asks at most two peers for {piece}");
        let late = elsewhere.iter().all(|since| self.now.since(*since) >= LATE_MIN);
        assert!(late, "host {host} asks a second peer only for a late piece: {piece}");
    }

    /// Holds the upload of a piece to the rules.
    pub(super) fn check_upload(&mut self, host: usize, link: LinkId, piece: PieceIndex) {
        let waited = self.ledger.page(link).answer(piece);
        if self.is_honest(host) {
            assert!(waited, "host {host} sends {piece}, which was asked for");
            let have = self.hosts[host].swarm.as_ref().expect("who sends is up").have();
            assert!(have.contains(piece), "host {host} sends {piece}, which it has");
            assert!(self.ledger.account(host).right.contains(piece), "host {host} sends right bytes");
        }
    }

    /// All data of a piece arrived: whether its request was taken back; `None` where there was no
    /// request.
    pub(super) fn answered(&mut self, host: usize, link: LinkId, piece: PieceIndex) -> Option<bool> {
        let (_, cancelled) = self.ledger.page(link).asked.remove(piece)?;
        if self.is_honest(host) && !cancelled {
            let here = self.hosts[host].swarm.as_ref().is_some_and(|swarm| swarm.have().contains(piece));
            assert!(!here, "host {host} gets {piece} twice: a second request is taken back");
        }
        Some(cancelled)
    }

    /// A piece counts at `host`.
    pub(super) fn check_verified(&mut self, host: usize, piece: PieceIndex, len: u32) {
        let honest = self.is_honest(host);
        let account = self.ledger.account(host);
        account.verified += u64::from(len);
        let right = account.right.contains(piece) && !account.wrong.contains(&piece);
        assert!(!honest || right, "host {host} counts {piece}, of which it has the right bytes");
    }

    /// Holds the end of a link to the rules.
    pub(super) fn check_disconnect(&mut self, host: usize, other: usize, reason: DisconnectReason) {
        if !self.is_honest(host) || !self.is_honest(other) || self.ledger.was_separated {
            return;
        }
        let plans = [&self.hosts[host].plan, &self.hosts[other].plan];
        if plans.iter().any(|plan| plan.up.min(plan.down) < RATE_MIN) {
            return;
        }
        let unfair = match reason {
            // Whoever waits for many long pieces may wait longer than anybody's patience.
            DisconnectReason::Violation(Violation::Unresponsive) => {
                self.geometry_of(host).piece_len_max() <= QUICK_PIECE
            }
            DisconnectReason::Violation(_) => true,
            DisconnectReason::Silent => true,
            DisconnectReason::Duplicate
            | DisconnectReason::Full
            | DisconnectReason::Oneself
            | DisconnectReason::Done => false,
        };
        assert!(!unfair, "host {host} closes the link to host {other}, which is honest: {reason:?}");
    }
}
