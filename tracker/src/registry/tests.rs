//! What the registry takes, refuses, forgets and names.

use std::collections::BTreeSet as Set;

use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::*;

pub(in crate::registry) fn manifest(number: usize) -> ManifestId {
    ManifestId::of_info(&number.to_be_bytes())
}

pub(in crate::registry) fn peer(number: usize) -> PeerId {
    PeerId::from_bytes(&number.to_be_bytes()).expect("8 bytes")
}

pub(in crate::registry) fn at(seconds: u64) -> Instant {
    Instant::START + Duration::from_secs(seconds)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

pub(in crate::registry) fn record(observed: &str, claimed: &[&str], site: Option<&str>) -> Record {
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
    assert_eq!(LinkAddrs::of_announcement(ip("10.0.0.1"), 7, &many).as_slice().len(), ADDRS_PER_RECORD_MAX);
    assert!(LinkAddrs::new(many).is_none());
}

#[test]
fn near_peers_come_first() {
    // asker, its site, the announced (observed, claimed, site); the numbers of the near ones
    type Case<'a> = (&'a str, Option<&'a str>, &'a [(&'a str, &'a [&'a str], Option<&'a str>)], &'a [usize]);
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
    let announced = [(1, record("127.0.0.1", &["10.0.0.1:7"], None)), (2, record("127.0.0.1", &[], None))];
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
    assert!(registry.manifests.is_empty() && registry.of_identity.is_empty() && registry.of_ip.is_empty());
}

#[test]
fn leaving_leaves_no_trace() {
    let mut registry = Registry::default();
    registry.announce(manifest(0), peer(1), record("10.0.0.1", &[], None), at(1)).expect("within the quotas");
    assert!(!registry.leave(manifest(0), peer(2)));
    assert!(!registry.leave(manifest(1), peer(1)));
    assert!(registry.leave(manifest(0), peer(1)));
    assert!(!registry.leave(manifest(0), peer(1)));
    assert!(registry.manifests.is_empty() && registry.of_identity.is_empty() && registry.of_ip.is_empty());
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
