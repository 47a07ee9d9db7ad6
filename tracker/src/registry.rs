//! Who announced which manifest, until when: the pure core of the tracker.
//!
//! No IO and no clock: time comes in as an argument, randomness as a generator. Every count that
//! a remote can drive up has a quota, and what is refused changes nothing.
//!
//! Where to start reading: [`Registry::announce`], then [`Registry::peers`].

mod shelves;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::time::Duration;

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::time::Instant;
use dft_protocol::wire::Site;
use rand::Rng;
use rand::seq::SliceRandom;
use thiserror::Error;

use shelves::Shelves;
pub use shelves::{SHELVED_MAX, SHELVED_PER_IP_MAX, ShelfChange, Tally};

/// How often a peer announces itself: short enough that a new peer is known to the others
/// within seconds of their next turn, long enough that 10,000 peers are 333 requests a second.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a record lives after an announcement: three intervals, so that two lost
/// announcements don't lose the peer, and a little for the way.
pub const RECORD_TTL: Duration = Duration::from_secs(100);
/// Most addresses of one record: a workstation has few interfaces, and each address is one that
/// every other peer may dial.
pub const ADDRS_PER_RECORD_MAX: usize = 8;
/// Most manifests with at least one peer: a small network shares hundreds.
pub const MANIFESTS_MAX: usize = 16_384;
/// Most peers of one manifest: 512 are planned for, 10,000 are tried; a sample is drawn from them
/// on every announcement.
pub const PEERS_PER_MANIFEST_MAX: usize = 12_000;
/// Most records in all: bounds the memory, at about 600 bytes each, to 40 MiB.
pub const RECORDS_MAX: usize = 65_536;
/// Most manifests of one identity: a seeder announces one, a node all datasets of its store.
pub const MANIFESTS_PER_IDENTITY_MAX: usize = 4_096;
/// Most records from one observed IP address: a cluster of 512 peers behind one address fits
/// four times over, and no single host can fill the registry.
pub const RECORDS_PER_IP_MAX: usize = 2_048;
/// Addresses where one peer takes links: at most [`ADDRS_PER_RECORD_MAX`], each of which could be
/// dialled (a port, one host, no scope).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkAddrs(Vec<SocketAddr>);

impl LinkAddrs {
    /// The addresses of a peer that was seen at `observed` and takes links on `link_port`, and
    /// that claims `claimed` as well: the observed one first, the rest as far as they could be
    /// dialled and there is room. Loopback is believed only from loopback.
    pub fn of_announcement(observed: IpAddr, link_port: u16, claimed: &[SocketAddr]) -> Self {
        let observed = SocketAddr::new(observed.to_canonical(), link_port);
        let mut addrs = Vec::new();
        for addr in std::iter::once(observed).chain(claimed.iter().map(canonical)) {
            let believed = !addr.ip().is_loopback() || observed.ip().is_loopback();
            if addrs.len() < ADDRS_PER_RECORD_MAX && believed && is_dialable(&addr) && !addrs.contains(&addr)
            {
                addrs.push(addr);
            }
        }
        Self(addrs)
    }

    /// `addrs`; `None` where there are too many, one is listed twice, or one could not be dialled.
    pub fn new(addrs: Vec<SocketAddr>) -> Option<Self> {
        let distinct = addrs.iter().enumerate().all(|(index, addr)| !addrs[..index].contains(addr));
        let valid = addrs.len() <= ADDRS_PER_RECORD_MAX
            && distinct
            && addrs.iter().all(|addr| is_dialable(addr) && canonical(addr) == *addr);
        valid.then_some(Self(addrs))
    }

    /// The addresses, the most likely one first.
    pub fn as_slice(&self) -> &[SocketAddr] {
        &self.0
    }
}

fn canonical(addr: &SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Whether another host could connect to `addr`: link-local IPv6 needs a scope, which only its
/// own host knows.
fn is_dialable(addr: &SocketAddr) -> bool {
    let one_host = match addr.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    };
    one_host && addr.port() != 0
}

/// What a peer told about itself for one manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where the announcement came from.
    pub observed: IpAddr,
    /// Where the peer takes links.
    pub addrs: LinkAddrs,
    /// Whether it has every piece.
    pub complete: bool,
    /// Its site label.
    pub site: Option<Site>,
}

/// Who asks for peers, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The asker: never part of the answer.
    pub peer: PeerId,
    /// Where it was seen.
    pub observed: IpAddr,
    /// Its site label.
    pub site: Option<&'a Site>,
}

/// One peer of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundPeer {
    /// Who it is.
    pub peer: PeerId,
    /// Where it takes links; never empty in an answer of the registry.
    pub addrs: LinkAddrs,
    /// Whether it has every piece.
    pub complete: bool,
    /// Its site label.
    pub site: Option<Site>,
}

/// A quota is used up: the announcement was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QuotaError {
    /// More than [`MANIFESTS_MAX`] manifests.
    #[error("the tracker already knows {MANIFESTS_MAX} manifests")]
    Manifests,
    /// More than [`PEERS_PER_MANIFEST_MAX`] peers.
    #[error("the manifest already has {PEERS_PER_MANIFEST_MAX} peers")]
    PeersOfManifest,
    /// More than [`RECORDS_MAX`] records.
    #[error("the tracker already keeps {RECORDS_MAX} records")]
    Records,
    /// More than [`MANIFESTS_PER_IDENTITY_MAX`] manifests of one peer.
    #[error("this identity already announced {MANIFESTS_PER_IDENTITY_MAX} manifests")]
    ManifestsOfIdentity,
    /// More than [`RECORDS_PER_IP_MAX`] records from one address.
    #[error("this IP address already announced {RECORDS_PER_IP_MAX} records")]
    RecordsOfIp,
    /// More than [`SHELVED_MAX`] datasets on shelves, or too many shelves.
    #[error("the tracker already keeps {SHELVED_MAX} datasets at rest, or as many shelves as it can")]
    Shelved,
    /// More than [`SHELVED_PER_IP_MAX`] datasets on the shelves of one address.
    #[error("this IP address already has {SHELVED_PER_IP_MAX} datasets at rest")]
    ShelvedOfIp,
}

struct Kept {
    record: Record,
    expires: Instant,
}

/// All records that have not expired.
#[derive(Default)]
pub struct Registry {
    // Ordered, so that a sample depends on nothing but the records and the generator.
    manifests: HashMap<ManifestId, BTreeMap<PeerId, Kept>>,
    expiry: BTreeSet<(Instant, ManifestId, PeerId)>,
    of_identity: HashMap<PeerId, usize>,
    of_ip: HashMap<IpAddr, usize>,
    shelves: Shelves,
}

impl Registry {
    /// Takes or renews the record of `peer` for `manifest`, to live until `expires`.
    pub fn announce(
        &mut self,
        manifest: ManifestId,
        peer: PeerId,
        record: Record,
        expires: Instant,
    ) -> Result<(), QuotaError> {
        self.check_quotas(manifest, peer, record.observed)?;
        self.leave(manifest, peer);
        *self.of_identity.entry(peer).or_default() += 1;
        *self.of_ip.entry(record.observed).or_default() += 1;
        self.expiry.insert((expires, manifest, peer));
        self.manifests.entry(manifest).or_default().insert(peer, Kept { record, expires });
        Ok(())
    }

    /// Forgets the record of `peer` for `manifest`; whether there was one.
    pub fn leave(&mut self, manifest: ManifestId, peer: PeerId) -> bool {
        let Some(peers) = self.manifests.get_mut(&manifest) else { return false };
        let Some(kept) = peers.remove(&peer) else { return false };
        if peers.is_empty() {
            self.manifests.remove(&manifest);
        }
        self.expiry.remove(&(kept.expires, manifest, peer));
        count_down(&mut self.of_identity, &peer);
        count_down(&mut self.of_ip, &kept.record.observed);
        true
    }

    /// Forgets every record that expires at `now` or earlier, and returns whose they were.
    pub fn expire(&mut self, now: Instant) -> Vec<(ManifestId, PeerId)> {
        let mut expired = Vec::new();
        while let Some(&(expires, manifest, peer)) = self.expiry.first() {
            if expires > now {
                break;
            }
            self.leave(manifest, peer);
            expired.push((manifest, peer));
        }
        expired
    }

    /// When the next record or shelf expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        let record = self.expiry.first().map(|(expires, ..)| *expires);
        record.into_iter().chain(self.shelves.next_expiry()).min()
    }

    /// Changes what `peer` has on its shelf, and keeps all of that alive until `expires`; what is there
    /// then, and whether the change was made. An observed address may have [`SHELVED_PER_IP_MAX`].
    pub fn shelve(
        &mut self,
        peer: PeerId,
        record: &Record,
        change: &ShelfChange,
        expires: Instant,
    ) -> Result<(Tally, bool), QuotaError> {
        self.shelves.change(peer, record, change, expires)
    }

    /// Forgets the shelves that expire at `now` or earlier, and returns whose they were.
    pub fn expire_shelves(&mut self, now: Instant) -> Vec<PeerId> {
        self.shelves.expire(now)
    }

    /// Forgets every shelf: their nodes tell of all that is on them anew.
    pub fn forget_shelves(&mut self) {
        self.shelves.clear_all();
    }

    /// What holds for all that is on the shelf of `peer`.
    pub fn shelf_record(&self, peer: PeerId) -> Option<&Record> {
        self.shelves.record(peer)
    }

    /// All that is known of who has `manifest`, in the order of the peers' ids. What is on the shelf of a
    /// peer counts, whatever a record of its own says, which stands there from before.
    fn known(&self, manifest: ManifestId, after: Option<PeerId>) -> impl Iterator<Item = (PeerId, &Record)> {
        let mut shelved: Vec<(PeerId, &Record)> = self.shelves.owners(manifest).collect();
        shelved.retain(|(peer, _)| after.is_none_or(|after| *peer > after));
        shelved.sort_unstable_by_key(|(peer, _)| *peer);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let own = self.manifests.get(&manifest).into_iter();
        let own = own.flat_map(move |own| own.range((from, Bound::Unbounded)));
        let mut own = own.map(|(peer, kept)| (*peer, &kept.record)).peekable();
        let mut shelved = shelved.into_iter().peekable();
        std::iter::from_fn(move || match (own.peek(), shelved.peek()) {
            (Some((one, _)), Some((other, _))) if other <= one => {
                own.next_if(|(one, _)| one == other);
                shelved.next()
            }
            (Some(_), _) => own.next(),
            (None, _) => shelved.next(),
        })
    }

    /// The record of `peer` for `manifest`.
    pub fn record(&self, manifest: ManifestId, peer: PeerId) -> Option<&Record> {
        Some(&self.manifests.get(&manifest)?.get(&peer)?.record)
    }

    /// How many records there are.
    pub fn record_count(&self) -> usize {
        self.expiry.len()
    }

    /// A random sample of at most `max` peers of `manifest`, those near the asker first.
    ///
    /// Near is who has the asker's site label, or an address in its subnet (/24 of IPv4, /64 of
    /// IPv6). Loopback addresses are only for askers that came over loopback.
    pub fn peers(
        &self,
        manifest: ManifestId,
        asker: Asker<'_>,
        max: usize,
        rng: &mut impl Rng,
    ) -> Vec<FoundPeer> {
        let mut near = Vec::new();
        let mut far = Vec::new();
        for (peer, record) in self.known(manifest, None) {
            if peer == asker.peer || addrs_for(record, asker.observed).next().is_none() {
                continue;
            }
            if is_near(record, &asker) { near.push((peer, record)) } else { far.push((peer, record)) }
        }
        let near_count = near.len().min(max);
        let far_count = far.len().min(max - near_count);
        let (near, _) = near.partial_shuffle(rng, near_count);
        let (far, _) = far.partial_shuffle(rng, far_count);
        near.iter()
            .chain(far.iter())
            .map(|(peer, record)| FoundPeer {
                peer: *peer,
                addrs: LinkAddrs(addrs_for(record, asker.observed).collect()),
                complete: record.complete,
                site: record.site.clone(),
            })
            .collect()
    }

    /// The peers of `manifest` behind `after` in the order of their ids, at most `max`, with the
    /// addresses that an asker at `observed` may use; and whether there are more.
    pub fn holders(
        &self,
        manifest: ManifestId,
        observed: IpAddr,
        after: Option<PeerId>,
        max: usize,
    ) -> (Vec<FoundPeer>, bool) {
        let mut found = self.known(manifest, after).map(|(peer, record)| FoundPeer {
            peer,
            addrs: LinkAddrs(addrs_for(record, observed).collect()),
            complete: record.complete,
            site: record.site.clone(),
        });
        let holders = found.by_ref().take(max).collect();
        (holders, found.next().is_some())
    }

    fn check_quotas(&self, manifest: ManifestId, peer: PeerId, observed: IpAddr) -> Result<(), QuotaError> {
        let old = self.record(manifest, peer);
        if old.is_none_or(|record| record.observed != observed)
            && self.of_ip.get(&observed).is_some_and(|records| *records >= RECORDS_PER_IP_MAX)
        {
            return Err(QuotaError::RecordsOfIp);
        }
        if old.is_some() {
            return Ok(());
        }
        if self.record_count() >= RECORDS_MAX {
            return Err(QuotaError::Records);
        }
        if self.of_identity.get(&peer).is_some_and(|manifests| *manifests >= MANIFESTS_PER_IDENTITY_MAX) {
            return Err(QuotaError::ManifestsOfIdentity);
        }
        match self.manifests.get(&manifest) {
            Some(peers) if peers.len() >= PEERS_PER_MANIFEST_MAX => Err(QuotaError::PeersOfManifest),
            None if self.manifests.len() >= MANIFESTS_MAX => Err(QuotaError::Manifests),
            _ => Ok(()),
        }
    }
}

/// The addresses of `record` that an asker at `observed` may use.
fn addrs_for(record: &Record, observed: IpAddr) -> impl Iterator<Item = SocketAddr> {
    let loopback = observed.is_loopback();
    record.addrs.as_slice().iter().filter(move |addr| loopback || !addr.ip().is_loopback()).copied()
}

fn is_near(record: &Record, asker: &Asker<'_>) -> bool {
    let same_label = asker.site.is_some() && record.site.as_ref() == asker.site;
    same_label
        || same_subnet(record.observed, asker.observed)
        || addrs_for(record, asker.observed).any(|addr| same_subnet(addr.ip(), asker.observed))
}

/// Whether two addresses share a /24 (IPv4) or a /64 (IPv6).
fn same_subnet(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one.octets()[..3] == other.octets()[..3],
        (IpAddr::V6(one), IpAddr::V6(other)) => one.octets()[..8] == other.octets()[..8],
        _ => false,
    }
}

/// One less for `key`; a count of zero is no entry.
fn count_down<K: Hash + Eq + Copy>(counts: &mut HashMap<K, usize>, key: &K) {
    count_by(counts, *key, |count| count - 1);
}

/// Changes the count of `key`; one of zero is no entry.
fn count_by<K: Hash + Eq + Copy>(counts: &mut HashMap<K, usize>, key: K, change: impl Fn(usize) -> usize) {
    let count = change(counts.get(&key).copied().unwrap_or(0));
    if count == 0 {
        counts.remove(&key);
    } else {
        counts.insert(key, count);
    }
}

#[cfg(test)]
mod tests;
