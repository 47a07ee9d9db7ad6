//! The address book: where peers may be found, and when to dial which.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_xoshiro::Xoshiro256StarStar;

use crate::id::PeerId;
use crate::manifest::PeerAddr;
use crate::time::{Duration, Instant};

/// Most addresses that are remembered: some times as many as links; anybody can make up addresses.
const ADDRESSES_MAX: usize = 512;
/// Most dials under way at once.
const DIALS_MAX: usize = 16;
/// Of these, dials that began a moment ago. When all start at once, two ends dial each other less often,
/// and the first links carry data before the last ones are opened.
const FRESH_DIALS_MAX: usize = 2;
/// The length of that moment: whoever does not answer by then holds up nobody.
const FRESH_FOR: Duration = Duration::from_millis(250);
/// The wait after the first failed dial; it doubles with each further one.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest wait between two dials of an address.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The wait before an address is dialled again where that looks pointless.
const RETRY_HOPELESS: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Contact {
    peer: Option<PeerId>,
    /// Since when it is being dialled.
    dialling: Option<Instant>,
    failures: u32,
    retry_at: Instant,
}

/// Known addresses and how dialling them went.
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    contacts: BTreeMap<SocketAddr, Contact>,
    dialling: usize,
}

impl AddressBook {
    /// Remembers an address; where the book is full, in the place of one that failed.
    pub(super) fn add(&mut self, found: PeerAddr, now: Instant) {
        if found.addr.port() == 0 || found.addr.ip().is_unspecified() || found.addr.ip().is_multicast() {
            return;
        }
        if let Some(contact) = self.contacts.get_mut(&found.addr) {
            // What was learned first stays: nobody can put a name to an address that keeps it from
            // being dialled.
            contact.peer = contact.peer.or(found.peer);
            return;
        }
        if self.contacts.len() >= ADDRESSES_MAX {
            let worst = self
                .contacts
                .iter()
                .filter(|(_, contact)| contact.dialling.is_none() && contact.failures > 0);
            let Some(worst) = worst.max_by_key(|(_, contact)| contact.failures).map(|(addr, _)| *addr) else {
                return;
            };
            self.contacts.remove(&worst);
        }
        let contact = Contact { peer: found.peer, dialling: None, failures: 0, retry_at: now };
        self.contacts.insert(found.addr, contact);
    }

    /// Chooses addresses to dial: at random among those that are due, up to `wanted`. Of a peer
    /// that has several, one at a time, and IPv4 first: its headers are shorter.
    pub(super) fn dial(
        &mut self,
        wanted: usize,
        skip: &BTreeSet<PeerId>,
        linked: &BTreeSet<SocketAddr>,
        now: Instant,
        rng: &mut Xoshiro256StarStar,
    ) -> Vec<PeerAddr> {
        if self.dialling >= DIALS_MAX {
            return Vec::new();
        }
        let began = self.contacts.values().filter_map(|contact| contact.dialling);
        let fresh = began.filter(|since| now.since(*since) < FRESH_FOR).count();
        let room = wanted.min(DIALS_MAX - self.dialling).min(FRESH_DIALS_MAX.saturating_sub(fresh));
        if room == 0 {
            return Vec::new();
        }
        let mut due: Vec<PeerAddr> = (self.contacts.iter())
            .filter(|(addr, contact)| {
                contact.dialling.is_none()
                    && contact.retry_at <= now
                    && !linked.contains(addr)
                    && !contact.peer.is_some_and(|peer| skip.contains(&peer))
            })
            .map(|(addr, contact)| PeerAddr { peer: contact.peer, addr: *addr })
            .collect();
        due.shuffle(rng);
        due.sort_by_key(|chosen| chosen.addr.is_ipv6());
        let dialling = self.contacts.values().filter(|contact| contact.dialling.is_some());
        let mut dialled: BTreeSet<PeerId> = dialling.filter_map(|contact| contact.peer).collect();
        due.retain(|chosen| chosen.peer.is_none_or(|peer| dialled.insert(peer)));
        due.truncate(room);
        for chosen in &due {
            if let Some(contact) = self.contacts.get_mut(&chosen.addr) {
                contact.dialling = Some(now);
                self.dialling += 1;
            }
        }
        due
    }

    /// Whether a dial is under way.
    pub(super) const fn is_dialling(&self) -> bool {
        self.dialling > 0
    }

    /// The earliest time at which an address is due that is not being dialled.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.contacts
            .values()
            .filter(|contact| contact.dialling.is_none())
            .map(|contact| contact.retry_at)
            .min()
    }

    /// A dial ended with a link to `peer`.
    pub(super) fn succeeded(&mut self, addr: SocketAddr, peer: PeerId) {
        self.ended(addr, |contact| {
            contact.peer = Some(peer);
            contact.failures = 0;
        });
    }

    /// A dial came to nothing.
    pub(super) fn failed(
        &mut self,
        addr: SocketAddr,
        hopeless: bool,
        now: Instant,
        rng: &mut Xoshiro256StarStar,
    ) {
        let jitter = rng.random_range(0.75..1.25);
        self.ended(addr, |contact| {
            contact.failures = contact.failures.saturating_add(1);
            let doubled = RETRY_MIN * 2u32.pow(contact.failures.saturating_sub(1).min(10));
            let wait = if hopeless { RETRY_HOPELESS } else { doubled.min(RETRY_MAX) };
            contact.retry_at = now + wait.mul_f64(jitter);
        });
    }

    /// A link to `addr` ended: it is not dialled at once.
    pub(super) fn link_ended(&mut self, addr: SocketAddr, wait: Duration, now: Instant) {
        if let Some(contact) = self.contacts.get_mut(&addr) {
            contact.retry_at = contact.retry_at.max(now + wait);
        }
    }

    /// Panics where the counts are wrong or out of bounds: a bug of this crate.
    pub(super) fn check_invariants(&self) {
        let dialling = self.contacts.values().filter(|contact| contact.dialling.is_some()).count();
        assert_eq!(self.dialling, dialling, "dials under way are counted");
        assert!(dialling <= DIALS_MAX, "dials under way are bounded");
        assert!(self.contacts.len() <= ADDRESSES_MAX, "addresses are bounded");
    }

    fn ended(&mut self, addr: SocketAddr, change: impl FnOnce(&mut Contact)) {
        if let Some(contact) = self.contacts.get_mut(&addr)
            && contact.dialling.is_some()
        {
            contact.dialling = None;
            self.dialling -= 1;
            change(contact);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn at(port: u16) -> PeerAddr {
        PeerAddr { peer: None, addr: SocketAddr::from(([10, 0, 0, 1], port)) }
    }

    #[test]
    fn a_dead_address_is_dialled_less_and_less_often() {
        let mut rng = Xoshiro256StarStar::seed_from_u64(1);
        let mut book = AddressBook::default();
        let (mut now, mut waits) = (Instant::START, Vec::new());
        book.add(at(1), now);
        for _ in 0..10 {
            assert_eq!(book.dial(5, &BTreeSet::new(), &BTreeSet::new(), now, &mut rng), [at(1)]);
            assert!(book.dial(5, &BTreeSet::new(), &BTreeSet::new(), now, &mut rng).is_empty());
            book.failed(at(1).addr, false, now, &mut rng);
            let due = book.next_due().unwrap();
            waits.push(due.since(now));
            now = due;
        }
        assert!(waits[0] < Duration::from_secs(1), "{waits:?}");
        assert!(waits[9] >= RETRY_MAX.mul_f64(0.75) && waits[9] <= RETRY_MAX.mul_f64(1.25), "{waits:?}");
    }

    #[test]
    fn made_up_addresses_fill_the_book_and_no_more() {
        let mut book = AddressBook::default();
        for port in 0..5000 {
            book.add(at(port), Instant::START);
        }
        assert_eq!(book.contacts.len(), ADDRESSES_MAX);
    }

    #[test]
    fn of_a_peer_with_several_addresses_one_is_dialled_at_a_time_and_ipv4_first() {
        let mut rng = Xoshiro256StarStar::seed_from_u64(1);
        let mut book = AddressBook::default();
        let peer = PeerId::from_bytes(&[1; 34]);
        let v4 = PeerAddr { peer, ..at(1) };
        let v6 = PeerAddr { peer, addr: "[::1]:1".parse().unwrap() };
        book.add(v6, Instant::START);
        book.add(v4, Instant::START);
        let dial = |book: &mut AddressBook, rng: &mut Xoshiro256StarStar| {
            book.dial(9, &BTreeSet::new(), &BTreeSet::new(), Instant::START, rng)
        };
        assert_eq!(dial(&mut book, &mut rng), [v4]);
        assert_eq!(dial(&mut book, &mut rng), []);
        book.failed(v4.addr, false, Instant::START, &mut rng);
        assert_eq!(dial(&mut book, &mut rng), [v6]);
    }

    #[test]
    fn only_so_many_dials_run_at_once() {
        let mut rng = Xoshiro256StarStar::seed_from_u64(1);
        let mut book = AddressBook::default();
        (1..100).for_each(|port| book.add(at(port), Instant::START));
        let mut dials = Vec::new();
        for moment in 0..100 {
            let now = Instant::START + FRESH_FOR * moment;
            let began = book.dial(100, &BTreeSet::new(), &BTreeSet::new(), now, &mut rng);
            assert!(began.len() <= FRESH_DIALS_MAX);
            dials.extend(began);
        }
        assert_eq!(dials.len(), DIALS_MAX);
    }
}
