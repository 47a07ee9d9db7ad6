//! Shelves: what a node holds in full and at rest, told as one set in place of one record each.
//!
//! A shelf lives as a whole, and a node that says «as before» keeps all of it alive by one message of
//! some hundred bytes. What both ends believe to be on it is compared by number and digest; where they differ,
//! the node tells all of it anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::time::Instant;

use super::{QuotaError, Record, count_by};

/// Most datasets on all shelves: bounds the memory.
pub const SHELVED_MAX: usize = 1 << 20;
/// Most datasets on the shelves of one observed IP address: more than a node with 100,000 needs, and no
/// single host can fill the room of all.
pub const SHELVED_PER_IP_MAX: usize = 1 << 18;
/// Most shelves: as many as the catalogue's directory has nodes.
const SHELVES_MAX: usize = 4_096;
/// Most shelves of one observed IP address: users of one host have one each.
const SHELVES_PER_IP_MAX: usize = 512;

/// How many datasets there are, and which, as far as a sum tells.
///
/// The sum finds what went wrong between a node and its tracker. Nobody gains anything by forging it:
/// what it stands for concerns its own node alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// How many.
    pub count: u32,
    /// The first 8 bytes of all ids, combined by exclusive or.
    pub digest: u64,
}

impl Tally {
    /// One more.
    pub fn add(&mut self, manifest: ManifestId) {
        self.count += 1;
        self.digest ^= head_of(manifest);
    }

    /// One less, which was counted before.
    pub fn remove(&mut self, manifest: ManifestId) {
        self.count -= 1;
        self.digest ^= head_of(manifest);
    }
}

fn head_of(manifest: ManifestId) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&manifest.as_bytes()[..8]);
    u64::from_be_bytes(head)
}

/// What changes on a shelf.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShelfChange {
    /// What the node believes to be there; the change is not made where that is wrong.
    pub before: Tally,
    /// Whatever was there is gone first; then nothing is believed.
    pub anew: bool,
    /// What comes.
    pub added: Vec<ManifestId>,
    /// What goes.
    pub removed: Vec<ManifestId>,
}

/// Who has a dataset on its shelf. Most are on one.
enum Owners {
    One(u32),
    // In order.
    Many(Vec<u32>),
}

impl Owners {
    fn as_slice(&self) -> &[u32] {
        match self {
            Owners::One(shelf) => std::slice::from_ref(shelf),
            Owners::Many(shelves) => shelves,
        }
    }
}

struct Shelf {
    peer: PeerId,
    record: Record,
    expires: Instant,
    manifests: BTreeSet<ManifestId>,
    tally: Tally,
}

/// All shelves that have not expired.
#[derive(Default)]
pub(super) struct Shelves {
    numbers: HashMap<PeerId, u32>,
    shelves: BTreeMap<u32, Shelf>,
    next: u32,
    owners: HashMap<ManifestId, Owners>,
    expiry: BTreeSet<(Instant, u32)>,
    // Datasets, and shelves.
    of_ip: HashMap<IpAddr, usize>,
    shelves_of_ip: HashMap<IpAddr, usize>,
    count: usize,
}

impl Shelves {
    /// Makes a change, and keeps the shelf alive until `expires`; what is on it then, and whether the
    /// change was made.
    pub(super) fn change(
        &mut self,
        peer: PeerId,
        record: &Record,
        change: &ShelfChange,
        expires: Instant,
    ) -> Result<(Tally, bool), QuotaError> {
        let before = self.tally(peer);
        if !change.anew && before != change.before {
            return Ok((before, false));
        }
        let (observed, others) = (record.observed, self.count - usize::try_from(before.count).unwrap_or(0));
        let kept = if change.anew { 0 } else { usize::try_from(before.count).unwrap_or(0) };
        let here = self.of_ip.get(&observed).copied().unwrap_or(0);
        let own_here = if self.observed(peer) == Some(observed) { before.count } else { 0 };
        let here = here - usize::try_from(own_here).unwrap_or(0);
        let wanted = kept + change.added.len();
        if !change.added.is_empty() && here + wanted > SHELVED_PER_IP_MAX {
            return Err(QuotaError::ShelvedOfIp);
        }
        let full = others + wanted > SHELVED_MAX;
        if !change.added.is_empty() && (full || !self.has_room(peer, observed)) {
            return Err(QuotaError::Shelved);
        }
        if change.anew {
            self.clear(peer);
        }
        if change.added.is_empty() && !self.numbers.contains_key(&peer) {
            return Ok((Tally::default(), true));
        }
        let number = self.renew(peer, record, expires);
        for manifest in &change.removed {
            self.take_off(number, *manifest);
        }
        for manifest in &change.added {
            self.put_on(number, *manifest);
        }
        let tally = self.tally(peer);
        if tally.count == 0 {
            self.clear(peer);
        }
        Ok((tally, true))
    }

    fn has_room(&self, peer: PeerId, observed: IpAddr) -> bool {
        let here = self.shelves_of_ip.get(&observed).copied().unwrap_or(0);
        self.numbers.contains_key(&peer) || (self.shelves.len() < SHELVES_MAX && here < SHELVES_PER_IP_MAX)
    }

    /// What is on the shelf of `peer`.
    pub(super) fn tally(&self, peer: PeerId) -> Tally {
        self.shelf(peer).map_or_else(Tally::default, |shelf| shelf.tally)
    }

    fn observed(&self, peer: PeerId) -> Option<IpAddr> {
        self.shelf(peer).map(|shelf| shelf.record.observed)
    }

    /// What holds for all that is on the shelf of `peer`.
    pub(super) fn record(&self, peer: PeerId) -> Option<&Record> {
        self.shelf(peer).map(|shelf| &shelf.record)
    }

    fn shelf(&self, peer: PeerId) -> Option<&Shelf> {
        self.shelves.get(self.numbers.get(&peer)?)
    }

    /// The shelf of `peer`, with what holds for all on it from now on.
    fn renew(&mut self, peer: PeerId, record: &Record, expires: Instant) -> u32 {
        let number = *self.numbers.entry(peer).or_insert(self.next);
        if number == self.next {
            self.next = self.next.wrapping_add(1);
            while self.shelves.contains_key(&self.next) {
                self.next = self.next.wrapping_add(1);
            }
        }
        let new = || Shelf {
            peer,
            record: record.clone(),
            expires,
            manifests: BTreeSet::new(),
            tally: Tally::default(),
        };
        if let Some(shelf) = self.shelves.get(&number) {
            count_by(&mut self.shelves_of_ip, shelf.record.observed, |there| there - 1);
        }
        count_by(&mut self.shelves_of_ip, record.observed, |there| there + 1);
        let shelf = self.shelves.entry(number).or_insert_with(new);
        self.expiry.remove(&(shelf.expires, number));
        self.expiry.insert((expires, number));
        let count = shelf.manifests.len();
        count_by(&mut self.of_ip, shelf.record.observed, |there| there - count);
        count_by(&mut self.of_ip, record.observed, |there| there + count);
        (shelf.record, shelf.expires) = (record.clone(), expires);
        number
    }

    fn put_on(&mut self, number: u32, manifest: ManifestId) {
        let Some(shelf) = self.shelves.get_mut(&number) else { return };
        if !shelf.manifests.insert(manifest) {
            return;
        }
        shelf.tally.add(manifest);
        self.count += 1;
        count_by(&mut self.of_ip, shelf.record.observed, |there| there + 1);
        match self.owners.get_mut(&manifest) {
            None => drop(self.owners.insert(manifest, Owners::One(number))),
            Some(Owners::Many(shelves)) => {
                let place = shelves.partition_point(|other| *other < number);
                shelves.insert(place, number);
            }
            Some(owners @ Owners::One(_)) => {
                let mut both = owners.as_slice().to_vec();
                both.push(number);
                both.sort_unstable();
                *owners = Owners::Many(both);
            }
        }
    }

    fn take_off(&mut self, number: u32, manifest: ManifestId) {
        let Some(shelf) = self.shelves.get_mut(&number) else { return };
        if !shelf.manifests.remove(&manifest) {
            return;
        }
        shelf.tally.remove(manifest);
        self.count -= 1;
        count_by(&mut self.of_ip, shelf.record.observed, |there| there - 1);
        match self.owners.get_mut(&manifest) {
            Some(Owners::Many(shelves)) if shelves.len() > 1 => shelves.retain(|other| *other != number),
            _ => drop(self.owners.remove(&manifest)),
        }
    }

    /// Removes the shelf of `peer`.
    pub(super) fn clear(&mut self, peer: PeerId) {
        let Some(&number) = self.numbers.get(&peer) else { return };
        let manifests = self.shelves.get(&number).map(|shelf| shelf.manifests.clone()).unwrap_or_default();
        for manifest in manifests {
            self.take_off(number, manifest);
        }
        self.numbers.remove(&peer);
        if let Some(shelf) = self.shelves.remove(&number) {
            self.expiry.remove(&(shelf.expires, number));
            count_by(&mut self.shelves_of_ip, shelf.record.observed, |there| there - 1);
        }
    }

    /// Removes every shelf.
    pub(super) fn clear_all(&mut self) {
        *self = Self::default();
    }

    /// Removes the shelves that expire at `now` or earlier, and returns whose they were.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<PeerId> {
        let mut expired = Vec::new();
        while let Some(&(expires, number)) = self.expiry.first() {
            if expires > now {
                break;
            }
            let Some(peer) = self.shelves.get(&number).map(|shelf| shelf.peer) else { break };
            self.clear(peer);
            expired.push(peer);
        }
        expired
    }

    /// When the next shelf expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiry.first().map(|(expires, _)| *expires)
    }

    /// Who has `manifest` on its shelf.
    pub(super) fn owners(&self, manifest: ManifestId) -> impl Iterator<Item = (PeerId, &Record)> {
        let owners = self.owners.get(&manifest).map(Owners::as_slice).unwrap_or_default();
        owners.iter().filter_map(|number| self.shelves.get(number)).map(|shelf| (shelf.peer, &shelf.record))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{at, manifest, peer, record};
    use super::*;

    fn add(numbers: impl IntoIterator<Item = usize>, before: Tally) -> ShelfChange {
        ShelfChange { before, added: numbers.into_iter().map(manifest).collect(), ..ShelfChange::default() }
    }

    fn tally(numbers: impl IntoIterator<Item = usize>) -> Tally {
        let mut tally = Tally::default();
        numbers.into_iter().for_each(|number| tally.add(manifest(number)));
        tally
    }

    /// The numbers of the peers that have it.
    fn owners(shelves: &Shelves, number: usize) -> Vec<PeerId> {
        shelves.owners(manifest(number)).map(|(peer, _)| peer).collect()
    }

    #[test]
    fn a_change_is_made_where_both_know_what_was_there() {
        let mut shelves = Shelves::default();
        let here = record("10.0.0.1", &[], None);
        let change = |shelves: &mut Shelves, change: &ShelfChange| {
            shelves.change(peer(1), &here, change, at(100)).expect("there is room")
        };
        assert_eq!(change(&mut shelves, &add(0..3, Tally::default())), (tally(0..3), true));
        assert_eq!(change(&mut shelves, &add(3..4, Tally::default())), (tally(0..3), false), "it is wrong");
        let swap = ShelfChange { removed: vec![manifest(0)], ..add([3, 1], tally(0..3)) };
        assert_eq!(change(&mut shelves, &swap), (tally(1..4), true), "one that is there already counts once");
        assert_eq!(owners(&shelves, 0), []);
        assert_eq!(owners(&shelves, 3), [peer(1)]);
        let anew = ShelfChange { anew: true, ..add([9], tally(5..7)) };
        assert_eq!(change(&mut shelves, &anew), (tally([9]), true));
        assert_eq!((owners(&shelves, 3), owners(&shelves, 9)), (vec![], vec![peer(1)]));
        let leave = ShelfChange { anew: true, ..ShelfChange::default() };
        assert_eq!(change(&mut shelves, &leave), (Tally::default(), true));
        assert_eq!((shelves.count, shelves.of_ip.len(), shelves.owners.len()), (0, 0, 0));
        assert!(shelves.shelves_of_ip.is_empty());
        assert!(shelves.shelves.is_empty() && shelves.numbers.is_empty() && shelves.expiry.is_empty());
    }

    #[test]
    fn many_have_the_same_and_expire_one_by_one() {
        let mut shelves = Shelves::default();
        let here = record("10.0.0.1", &[], None);
        for number in 0..3 {
            let expires = at(100 + number as u64);
            shelves.change(peer(number), &here, &add(0..5, Tally::default()), expires).expect("room");
        }
        assert_eq!(owners(&shelves, 4).len(), 3);
        assert_eq!(shelves.next_expiry(), Some(at(100)));
        let keep = add([], tally(0..5));
        assert_eq!(shelves.change(peer(0), &here, &keep, at(200)).expect("room"), (tally(0..5), true));
        assert_eq!(shelves.expire(at(102) + Duration::from_secs(1)), [peer(1), peer(2)]);
        assert_eq!(owners(&shelves, 4), [peer(0)]);
    }

    #[test]
    fn no_host_fills_the_room_of_all_and_refusals_change_nothing() {
        let mut shelves = Shelves::default();
        let mut ids = 0..;
        let hosts = SHELVED_MAX / SHELVED_PER_IP_MAX;
        for host in 0..hosts {
            let here = record(&format!("10.0.0.{host}"), &[], None);
            let all = add(ids.by_ref().take(SHELVED_PER_IP_MAX), Tally::default());
            let (there, made) = shelves.change(peer(host), &here, &all, at(100)).expect("there is room");
            assert!(made);
            let more = add(ids.by_ref().take(1), there);
            assert_eq!(shelves.change(peer(host), &here, &more, at(100)), Err(QuotaError::ShelvedOfIp));
            let of_another = add(ids.by_ref().take(1), Tally::default());
            assert_eq!(shelves.change(peer(99), &here, &of_another, at(100)), Err(QuotaError::ShelvedOfIp));
            assert_eq!(shelves.change(peer(host), &here, &add([], there), at(100)), Ok((there, true)));
        }
        assert_eq!(shelves.count, SHELVED_MAX);
        let late = record("10.0.1.1", &[], None);
        let one = add(ids.by_ref().take(1), Tally::default());
        assert_eq!(shelves.change(peer(77), &late, &one, at(100)), Err(QuotaError::Shelved));
    }

    #[test]
    fn one_host_has_so_many_shelves_and_no_more() {
        let mut shelves = Shelves::default();
        let (here, there) = (record("10.0.0.1", &[], None), record("10.0.0.2", &[], None));
        let one = |number| add([number], Tally::default());
        for number in 0..SHELVES_PER_IP_MAX {
            assert!(shelves.change(peer(number), &here, &one(number), at(100)).is_ok());
        }
        let next = SHELVES_PER_IP_MAX;
        assert_eq!(shelves.change(peer(next), &here, &one(next), at(100)), Err(QuotaError::Shelved));
        assert!(shelves.change(peer(next), &there, &one(next), at(100)).is_ok(), "others have room");
        // One that moves makes room.
        assert!(shelves.change(peer(0), &there, &add([], tally([0])), at(100)).is_ok());
        assert!(shelves.change(peer(next + 1), &here, &one(next), at(100)).is_ok());
    }
}
