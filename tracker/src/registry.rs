//! Who announced which manifest, until when: the pure core of the tracker.
//!
//! No IO and no clock: time comes in as an argument, randomness as a generator. Every count that
//! a remote can drive up has a quota, and what is refused changes nothing.
//!
//! Where to start reading: [`Registry::announce`], then [`Registry::peers`].

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

    /// When the next record expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiry.first().map(|(expires, ..)| *expires)
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
        let Some(peers) = self.manifests.get(&manifest) else { return Vec::new() };
        let mut near = Vec::new();
        let mut far = Vec::new();
        for (peer, kept) in peers {
            let record = &kept.record;
            if *peer == asker.peer || addrs_for(record, asker.observed).next().is_none() {
                continue;
            }
            if is_near(record, &asker) { near.push((*peer, record)) } else { far.push((*peer, record)) }
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
        let Some(peers) = self.manifests.get(&manifest) else { return (Vec::new(), false) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = peers.range((from, Bound::Unbounded)).map(|(peer, Kept { record, .. })| FoundPeer {
            peer: *peer,
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
fn count_down<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet as Set;

    use rand::SeedableRng;
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    fn manifest(number: usize) -> ManifestId {
        ManifestId::of_info(&number.to_be_bytes())
    }

    fn peer(number: usize) -> PeerId {
        PeerId::from_bytes(&number.to_be_bytes()).expect("8 bytes")
    }

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an IP address")
    }

    fn record(observed: &str, claimed: &[&str], site: Option<&str>) -> Record {
        let claimed: Vec<SocketAddr> =
            claimed.iter().map(|addr| addr.parse().expect("a socket address")).collect();
        Record {
            observed: ip(observed),
            addrs: LinkAddrs::of_announcement(ip(observed), 7, &claimed),
            complete: false,
            site: site.and_then(Site::new),
        }
    }

    /// What peer 0, seen at `observed`, is told of manifest 0: number and first address.
    fn found(registry: &Registry, observed: &str, site: Option<&str>, max: usize) -> Vec<(PeerId, String)> {
        let site = site.and_then(Site::new);
        let asker = Asker { peer: peer(0), observed: ip(observed), site: site.as_ref() };
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        registry
            .peers(manifest(0), asker, max, &mut rng)
            .into_iter()
            .map(|found| (found.peer, found.addrs.as_slice()[0].to_string()))
            .collect()
    }

    #[test]
    fn addresses_that_could_not_be_dialled_are_not_believed() {
        // observed address, claimed addresses, what is kept
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("10.0.0.1", &[], &["10.0.0.1:7"]),
            ("10.0.0.1", &["10.0.0.1:7", "10.1.0.1:7"], &["10.0.0.1:7", "10.1.0.1:7"]),
            ("10.0.0.1", &["127.0.0.1:7", "[::1]:7"], &["10.0.0.1:7"]),
            ("127.0.0.1", &["127.0.0.1:7", "10.0.0.1:7"], &["127.0.0.1:7", "10.0.0.1:7"]),
            ("10.0.0.1", &["0.0.0.0:7", "224.0.0.1:7", "255.255.255.255:7", "10.0.0.2:0"], &["10.0.0.1:7"]),
            ("10.0.0.1", &["[fe80::1]:7", "[fd00::1]:7"], &["10.0.0.1:7", "[fd00::1]:7"]),
            ("::ffff:10.0.0.1", &["[::ffff:10.0.0.1]:7"], &["10.0.0.1:7"]),
        ];
        for (observed, claimed, kept) in cases {
            let kept: Vec<SocketAddr> = kept.iter().map(|addr| addr.parse().expect("an address")).collect();
            assert_eq!(record(observed, claimed, None).addrs.as_slice(), kept, "{observed} {claimed:?}");
        }
        let many: Vec<SocketAddr> = (1..=20).map(|host| SocketAddr::from(([10, 0, 0, host], 7))).collect();
        assert_eq!(
            LinkAddrs::of_announcement(ip("10.0.0.1"), 7, &many).as_slice().len(),
            ADDRS_PER_RECORD_MAX
        );
        assert!(LinkAddrs::new(many).is_none());
    }

    #[test]
    fn near_peers_come_first() {
        // asker, its site, the announced (observed, claimed, site); the numbers of the near ones
        type Case<'a> =
            (&'a str, Option<&'a str>, &'a [(&'a str, &'a [&'a str], Option<&'a str>)], &'a [usize]);
        let cases: &[Case<'_>] = &[
            ("10.0.0.9", None, &[("10.0.1.1", &[], None), ("10.0.0.1", &[], None)], &[2]),
            ("10.0.0.9", None, &[("10.0.1.1", &["10.0.0.1:7"], None), ("10.0.2.1", &[], None)], &[1]),
            ("10.0.0.9", Some("A"), &[("10.0.1.1", &[], Some("B")), ("10.0.2.1", &[], Some("A"))], &[2]),
            ("10.0.0.9", None, &[("10.0.1.1", &[], None)], &[]),
            ("fd00::9", None, &[("fd00:0:0:1::1", &[], None), ("fd00::1", &[], None)], &[2]),
            ("127.0.0.1", None, &[("10.0.1.1", &[], None), ("127.0.0.1", &[], None)], &[2]),
        ];
        for (asker, site, announced, near) in cases {
            let mut registry = Registry::default();
            for (index, (observed, claimed, site)) in announced.iter().enumerate() {
                registry
                    .announce(manifest(0), peer(index + 1), record(observed, claimed, *site), at(1))
                    .expect("within the quotas");
            }
            let all = found(&registry, asker, *site, 10);
            assert_eq!(all.len(), announced.len());
            let first: Set<PeerId> = all.iter().take(near.len()).map(|(peer, _)| *peer).collect();
            assert_eq!(first, near.iter().map(|number| peer(*number)).collect(), "{asker} {announced:?}");
            assert_eq!(found(&registry, asker, *site, 1), all[..1]);
        }
    }

    #[test]
    fn loopback_addresses_are_for_loopback_only() {
        let mut registry = Registry::default();
        let announced =
            [(1, record("127.0.0.1", &["10.0.0.1:7"], None)), (2, record("127.0.0.1", &[], None))];
        for (number, record) in announced {
            registry.announce(manifest(0), peer(number), record, at(1)).expect("within the quotas");
        }
        assert_eq!(found(&registry, "10.0.0.9", None, 10), [(peer(1), "10.0.0.1:7".into())]);
        let local: Set<_> = found(&registry, "127.0.0.1", None, 10).into_iter().collect();
        assert_eq!(local, Set::from([(peer(1), "127.0.0.1:7".into()), (peer(2), "127.0.0.1:7".into())]));
    }

    #[test]
    fn a_sample_is_random_distinct_and_without_the_asker() {
        let mut registry = Registry::default();
        for number in 0..50 {
            registry
                .announce(manifest(0), peer(number), record("10.0.0.1", &[], None), at(1))
                .expect("within the quotas");
        }
        let asker = Asker { peer: peer(0), observed: ip("10.0.0.9"), site: None };
        let sample = |seed| -> Set<PeerId> {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            let sample = registry.peers(manifest(0), asker, 10, &mut rng);
            assert_eq!(sample.len(), 10);
            sample.into_iter().map(|found| found.peer).collect()
        };
        let samples: Vec<Set<PeerId>> = (0..50).map(sample).collect();
        assert!(samples.iter().all(|sample| sample.len() == 10 && !sample.contains(&peer(0))));
        let seen: Set<PeerId> = samples.iter().flatten().copied().collect();
        assert_eq!(seen.len(), 49, "every other peer turns up in one of 50 samples");
        assert_eq!(sample(7), sample(7));
    }

    #[test]
    fn records_expire_unless_renewed() {
        let mut registry = Registry::default();
        for (number, expires) in [(1, 10), (2, 20), (1, 30)] {
            registry
                .announce(manifest(0), peer(number), record("10.0.0.1", &[], None), at(expires))
                .expect("within the quotas");
        }
        assert_eq!(registry.next_expiry(), Some(at(20)));
        assert_eq!(registry.expire(at(19)), []);
        assert_eq!(registry.expire(at(25)), [(manifest(0), peer(2))]);
        assert_eq!(registry.expire(at(30)), [(manifest(0), peer(1))]);
        assert_eq!((registry.record_count(), registry.next_expiry()), (0, None));
        assert!(
            registry.manifests.is_empty() && registry.of_identity.is_empty() && registry.of_ip.is_empty()
        );
    }

    #[test]
    fn leaving_leaves_no_trace() {
        let mut registry = Registry::default();
        registry
            .announce(manifest(0), peer(1), record("10.0.0.1", &[], None), at(1))
            .expect("within the quotas");
        assert!(!registry.leave(manifest(0), peer(2)));
        assert!(!registry.leave(manifest(1), peer(1)));
        assert!(registry.leave(manifest(0), peer(1)));
        assert!(!registry.leave(manifest(0), peer(1)));
        assert!(
            registry.manifests.is_empty() && registry.of_identity.is_empty() && registry.of_ip.is_empty()
        );
        assert!(registry.expiry.is_empty());
    }

    /// Announces number after number until a quota is used up: after how many, and which.
    fn fill(key: impl Fn(usize) -> (usize, usize, [u8; 4])) -> (usize, QuotaError, Registry) {
        let mut registry = Registry::default();
        let mut number = 0;
        loop {
            let (of_manifest, of_peer, observed) = key(number);
            let observed = IpAddr::from(observed);
            let addrs = LinkAddrs::of_announcement(observed, 7, &[]);
            let record = Record { observed, addrs, complete: false, site: None };
            match registry.announce(manifest(of_manifest), peer(of_peer), record, at(1)) {
                Ok(()) => number += 1,
                Err(quota) => return (number, quota, registry),
            }
        }
    }

    fn own_ip(number: usize) -> [u8; 4] {
        u32::try_from(number).expect("few hosts").to_be_bytes()
    }

    #[test]
    fn quotas_end_what_a_remote_can_fill() {
        let (count, quota, registry) = fill(|number| (number, 1, own_ip(number)));
        assert_eq!((count, quota), (MANIFESTS_PER_IDENTITY_MAX, QuotaError::ManifestsOfIdentity));
        assert_eq!(registry.record_count(), count);
        let (count, quota, _) = fill(|number| (number % 64, number, [10, 0, 0, 1]));
        assert_eq!((count, quota), (RECORDS_PER_IP_MAX, QuotaError::RecordsOfIp));
        let (count, quota, _) = fill(|number| (0, number, own_ip(number)));
        assert_eq!((count, quota), (PEERS_PER_MANIFEST_MAX, QuotaError::PeersOfManifest));
        let (count, quota, _) = fill(|number| (number, number, own_ip(number)));
        assert_eq!((count, quota), (MANIFESTS_MAX, QuotaError::Manifests));
        let (count, quota, mut registry) = fill(|number| (number % 16_000, number, own_ip(number)));
        assert_eq!((count, quota), (RECORDS_MAX, QuotaError::Records));
        // Who is in may stay, and makes room by leaving.
        let record = record("10.0.0.1", &[], None);
        assert_eq!(registry.announce(manifest(1), peer(1), record.clone(), at(2)), Ok(()));
        assert!(registry.leave(manifest(1), peer(1)));
        assert_eq!(registry.announce(manifest(1), peer(usize::MAX), record, at(2)), Ok(()));
    }
}
