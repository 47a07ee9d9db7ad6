//! Damaged messages are refused, or are others.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::catalogue::node::{ControlAddr, HostName, Version};
use crate::codec::{Message, MessageError, to_cbor};
use crate::protocol::tests::{addrs, manifest, survives_damage};

fn name() -> impl Strategy<Value = DatasetName> {
    "[a-zä]{1,8}(/[a-z. ]{3,6}x)?".prop_map(|text| DatasetName::new(&text).expect("a name"))
}

fn peer() -> impl Strategy<Value = PeerId> {
    vec(any::<u8>(), 1..=64).prop_map(|bytes| PeerId::from_bytes(&bytes).expect("1 to 64 bytes"))
}

fn block() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn record() -> impl Strategy<Value = Record> {
    (name(), manifest(), any::<(u64, u32, u32)>(), 0..=wire::CREATED_MAX, peer()).prop_map(
        |(name, id, (size, pieces, entries), created, owner)| Record {
            name,
            id,
            size,
            pieces,
            entries,
            created,
            owner,
        },
    )
}

fn node() -> impl Strategy<Value = NodeRecord> {
    let texts = ("[a-z]{1,9}", vec("/[a-z0-9]{1,9}", 0..3), "[0-9.]{1,5}");
    (texts, addrs(), any::<(u64, u64, u32, u64, u64)>()).prop_map(
        |((host, control, version), links, (quota_bytes, used_bytes, datasets, up_rate, down_rate))| {
            NodeRecord {
                host: HostName::new(&host).expect("a host name"),
                control: control.iter().map(|addr| ControlAddr::new(addr).expect("an address")).collect(),
                links,
                quota_bytes,
                used_bytes,
                datasets,
                up_rate,
                down_rate,
                version: Version::new(&version).expect("a version"),
            }
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let what = prop_oneof![
        record().prop_map(Changed::Put),
        record().prop_map(Changed::Removed),
        name().prop_map(Changed::Forgotten),
    ];
    (any::<u64>(), what).prop_map(|(sequence, what)| Change { sequence, what })
}

fn request() -> impl Strategy<Value = Request> {
    let pattern = "[a-c*?/]{0,9}".prop_map(|text| Pattern::new(&text).expect("a pattern"));
    prop_oneof![
        Just(Request::Hello),
        (any::<[u8; 32]>(), 0..=EPOCH_MAX).prop_map(|(proof, epoch)| Request::Prove { proof, epoch }),
        (manifest(), any::<(u32, u32)>(), block()).prop_map(|(id, (len, offset), bytes)| Request::Stage {
            id,
            len,
            offset,
            bytes
        }),
        (name(), manifest(), of(block())).prop_map(|(name, id, manifest)| Request::Put {
            name,
            id,
            manifest
        }),
        (name(), any::<bool>()).prop_map(|(name, manifest)| Request::Get { name, manifest }),
        (manifest(), any::<u32>()).prop_map(|(id, offset)| Request::Block { id, offset }),
        (pattern, of(name())).prop_map(|(pattern, after)| Request::List { pattern, after }),
        (name(), manifest(), any::<bool>()).prop_map(|(name, id, forget)| Request::Remove {
            name,
            id,
            forget
        }),
        node().prop_map(|node| Request::AnnounceNode(Box::new(node))),
        Just(Request::LeaveNode),
        of(peer()).prop_map(|after| Request::Nodes { after }),
        (manifest(), of(peer())).prop_map(|(id, after)| Request::Holders { id, after }),
        any::<u64>().prop_map(|since| Request::Changes { since }),
        vec(manifest(), 0..3).prop_map(Request::ManyHolders),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    let hello = (any::<([u8; 16], u64, bool, bool, [u8; 32])>(), 0..=EPOCH_MAX).prop_map(
        |((catalogue, sequence, leads, open, nonce), epoch)| Hello {
            catalogue,
            epoch,
            sequence,
            leads,
            open,
            nonce,
        },
    );
    let found = (peer(), any::<IpAddr>(), node(), any::<u32>())
        .prop_map(|(peer, ip, record, age_s)| FoundNode { peer, observed: canonical(ip), record, age_s });
    let holder = (peer(), addrs(), any::<bool>(), of("[a-z]{1,9}"))
        .prop_map(|(peer, addrs, complete, host)| Holder {
            peer,
            addrs,
            complete,
            host: host.map(|host| HostName::new(&host).expect("a host name")),
        })
        .boxed();
    let list =
        (vec(holder.clone(), 0..3), any::<bool>()).prop_map(|(holders, more)| HolderList { holders, more });
    let small = prop_oneof![
        Just(Response::Done),
        ".{0,300}".prop_map(|text| Response::Refused(Reason::new(&text))),
        Just(Response::Unproven),
        of("[a-z/]{0,20}").prop_map(Response::NotLeader),
        (manifest(), any::<bool>()).prop_map(|(id, removed)| Response::Taken { id, removed }),
        Just(Response::Wanted),
        any::<bool>().prop_map(|created| Response::Stored { created }),
        Just(Response::Missing),
        block().prop_map(Response::Block),
        any::<bool>().prop_map(|removed| Response::Removed { removed }),
    ];
    prop_oneof![
        hello.prop_map(Response::Hello),
        small,
        (record(), any::<u32>(), block()).prop_map(|(record, len, block)| Response::Found {
            record,
            len,
            block
        }),
        (vec(record(), 0..3), of(name())).prop_map(|(records, next)| Response::Records { records, next }),
        (vec(found, 0..2), any::<bool>()).prop_map(|(nodes, more)| Response::Nodes { nodes, more }),
        (vec(holder, 0..3), of(peer())).prop_map(|(holders, next)| Response::Holders { holders, next }),
        vec(list, 0..3).prop_map(Response::ManyHolders),
        (any::<bool>(), vec(change(), 0..3), any::<u64>())
            .prop_map(|(too_old, changes, sequence)| Response::Changes { too_old, changes, sequence }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_requests_are_refused_or_others(request in request()) {
        survives_damage(&request);
    }

    #[test]
    fn damaged_responses_are_refused_or_others(response in response()) {
        survives_damage(&response);
    }

    #[test]
    fn noise_is_no_message(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode(), bytes.clone());
        }
        if let Ok(response) = Response::decode(&bytes) {
            prop_assert_eq!(response.encode(), bytes);
        }
    }
}

#[test]
fn what_breaks_a_limit_is_refused() {
    let id = serde_bytes::Bytes::new(&[7; 32]);
    let long_block = vec![0; BLOCK_LEN_MAX + 1];
    let cases: &[(&str, Vec<u8>)] = &[
        ("an unknown kind", to_cbor(&(99,))),
        ("a kind too much", to_cbor(&(0, 0))),
        ("no kind", to_cbor(&[0_u8; 0])),
        ("a map", to_cbor(&std::collections::BTreeMap::from([(0, 1)]))),
        ("an epoch too high", to_cbor(&(1, id, EPOCH_MAX + 1))),
        ("a proof too short", to_cbor(&(1, serde_bytes::Bytes::new(&[7; 31]), 0))),
        ("an id too short", to_cbor(&(5, serde_bytes::Bytes::new(&[7; 31]), 0))),
        ("a length below 0", to_cbor(&(5, id, -1))),
        ("a length of 33 bits", to_cbor(&(5, id, 1_u64 << 32))),
        ("a name with dots", to_cbor(&(4, "a/../b", false))),
        ("an empty name", to_cbor(&(4, "", false))),
        ("a name with a line break", to_cbor(&(4, "a\nb", false))),
        ("a name too long", to_cbor(&(4, "n".repeat(256), false))),
        ("a pattern that is none", to_cbor(&(6, "[", None::<&str>))),
        ("a peer too long", to_cbor(&(10, Some(serde_bytes::Bytes::new(&[7; 65]))))),
        ("a block too long", to_cbor(&(2, id, 1, 0, serde_bytes::Bytes::new(&long_block)))),
    ];
    for (case, bytes) in cases {
        let error = Request::decode(bytes).expect_err(case);
        assert!(matches!(error, MessageError::Malformed(_) | MessageError::NotCanonical), "{case}: {error}");
    }
    let huge = vec![0; REQUEST_LEN_MAX + 1];
    assert!(matches!(Request::decode(&huge), Err(MessageError::TooLong { .. })));
}

#[test]
fn a_record_from_beyond_the_year_9999_is_refused() {
    let name = DatasetName::new("a").expect("a name");
    let (id, owner) = (ManifestId::from_bytes([7; 32]), PeerId::from_bytes(&[7]).expect("1 byte"));
    let records = |created| {
        let record = Record { name: name.clone(), id, size: 1, pieces: 1, entries: 1, created, owner };
        Response::Records { records: vec![record], next: None }
    };
    let last = records(wire::CREATED_MAX);
    assert_eq!(Response::decode(&last.encode()), Ok(last));
    assert!(Response::decode(&records(wire::CREATED_MAX + 1).encode()).is_err());
}

#[test]
fn the_longest_messages_fit() {
    let name = DatasetName::new(&"n".repeat(255)).expect("a name");
    let id = ManifestId::from_bytes([7; 32]);
    let put = Request::Put { name: name.clone(), id, manifest: Some(vec![7; BLOCK_LEN_MAX]) };
    let bytes = vec![7; BLOCK_LEN_MAX];
    let stage = Request::Stage { id, len: u32::MAX, offset: u32::MAX, bytes: bytes.clone() };
    for request in [put, stage] {
        assert!(request.encode().len() <= REQUEST_LEN_MAX);
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    let owner = PeerId::from_bytes(&[7; 64]).expect("64 bytes");
    let most = u64::MAX;
    let record = Record { name, id, size: most, pieces: u32::MAX, entries: u32::MAX, created: most, owner };
    let found = Response::Found { record: record.clone(), len: u32::MAX, block: bytes };
    assert!(found.encode().len() <= RESPONSE_LEN_MAX);
    // A page is closed by an estimate: it is never below what is written.
    let one = |records: Vec<Record>| Response::Records { records, next: None }.encode().len();
    assert!(one(vec![record.clone()]) - one(vec![]) <= wire::wire_len(&record));
}
