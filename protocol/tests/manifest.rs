//! The manifest's bytes as a promise: what is encoded decodes to the same, and no other bytes
//! are accepted.

use std::collections::BTreeMap;

use dft_protocol::geometry::{PIECE_COUNT_MAX, PieceSize, PieceSizeError};
use dft_protocol::id::{PeerId, PieceHash};
use dft_protocol::layout::{Layout, PackCutter};
use dft_protocol::manifest::{
    Entry, Hints, Info, MANIFEST_LEN_MAX, Manifest, ManifestError, Mtime, PeerAddr, SEEDER_COUNT_MAX,
    TRACKER_COUNT_MAX,
};
use dft_protocol::path::{Name, PathError, SafePath, SymlinkTarget};
use proptest::prelude::*;

// Valid manifests of any shape.

fn name() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 1..12).prop_map(|mut name| {
        name.iter_mut().filter(|byte| matches!(byte, 0 | b'/' | b'.')).for_each(|byte| *byte = b'_');
        name
    })
}

#[derive(Clone, Debug)]
enum Node {
    File(u64, u16, (i64, u32)),
    Directory(u16, (i64, u32), BTreeMap<Vec<u8>, Node>),
    Symlink(Vec<u8>),
}

fn node() -> impl Strategy<Value = Node> {
    let mode = || 0u16..=0o777;
    let time = || (any::<i64>(), 0u32..1_000_000_000);
    let size = prop_oneof![Just(0), 1u64..4096, 4096u64..40_000];
    let leaf = prop_oneof![
        3 => (size, mode(), time()).prop_map(|(size, mode, time)| Node::File(size, mode, time)),
        1 => name().prop_map(Node::Symlink),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        (mode(), time(), proptest::collection::btree_map(name(), inner, 0..6))
            .prop_map(|(mode, time, children)| Node::Directory(mode, time, children))
    })
}

fn flatten(path: SafePath, node: &Node, entries: &mut Vec<Entry>) {
    let mtime = |(seconds, nanoseconds)| Mtime { seconds, nanoseconds };
    match node {
        Node::File(size, mode, time) => {
            entries.push(Entry::File { path, size: *size, mode: *mode, mtime: mtime(*time) });
        }
        Node::Symlink(target) => {
            let target = SymlinkTarget::new(&path, target.clone()).unwrap();
            entries.push(Entry::Symlink { path, target });
        }
        Node::Directory(mode, time, children) => {
            entries.push(Entry::Directory { path: path.clone(), mode: *mode, mtime: mtime(*time) });
            for (name, child) in children {
                flatten(path.join(&Name::new(name.clone()).unwrap()).unwrap(), child, entries);
            }
        }
    }
}

fn info() -> impl Strategy<Value = Info> {
    let root = node().prop_filter("the root is no symlink", |node| !matches!(node, Node::Symlink(_)));
    (name(), root, any::<[u8; 32]>()).prop_map(|(name, root, hash)| {
        let mut entries = Vec::new();
        flatten(SafePath::root(), &root, &mut entries);
        let piece_size = PieceSize::new(4096).unwrap();
        let mut cutter = PackCutter::new(piece_size);
        for entry in entries.iter().filter(|entry| (1..4096).contains(&entry.size())) {
            cutter.push(entry.path(), u32::try_from(entry.size()).unwrap());
        }
        let packs = cutter.finish();
        let layout = Layout::new(&entries, piece_size, &packs).unwrap();
        let hashes = vec![PieceHash::from_bytes(hash); layout.geometry().piece_count()];
        Info { name: Name::new(name).unwrap(), piece_size, entries, packs, hashes }
    })
}

fn hints() -> impl Strategy<Value = Hints> {
    let peer = proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=64));
    let seeder =
        (peer, any::<[u8; 16]>(), any::<bool>(), any::<u16>()).prop_map(|(peer, ip, is_v6, port)| {
            let ip: std::net::IpAddr = if is_v6 { ip.into() } else { [ip[0], ip[1], ip[2], ip[3]].into() };
            PeerAddr { peer: peer.map(|peer| PeerId::from_bytes(&peer).unwrap()), addr: (ip, port).into() }
        });
    let trackers = proptest::collection::vec("[!-~]{0,40}", 0..4);
    (proptest::collection::vec(seeder, 0..5), trackers)
        .prop_map(|(seeders, trackers)| Hints { seeders, trackers })
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(info in info(), hints in hints()) {
        let manifest = Manifest::new(info.clone(), hints.clone()).unwrap();
        let bytes = manifest.encode();
        let decoded = Manifest::decode(&bytes).unwrap();
        prop_assert_eq!(decoded.info(), &info);
        prop_assert_eq!(decoded.hints(), &hints);
        prop_assert_eq!(decoded.id(), manifest.id());
        prop_assert_eq!(decoded.encode(), bytes);
        let elsewhere = decoded.with_hints(Hints::default()).unwrap();
        prop_assert_eq!(elsewhere.id(), manifest.id(), "hints are not part of the id");
    }

    #[test]
    fn each_prefix_and_each_longer_text_is_refused(info in info()) {
        let mut bytes = Manifest::new(info, Hints::default()).unwrap().encode();
        for length in 0..bytes.len() {
            prop_assert!(Manifest::decode(&bytes[..length]).is_err(), "{length} bytes are a manifest");
        }
        bytes.push(0);
        prop_assert!(Manifest::decode(&bytes).is_err());
    }

    #[test]
    fn noise_is_no_manifest(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::decode(&bytes).is_err());
    }
}

// Bytes made by hand.

/// A CBOR item.
#[derive(Clone)]
enum Item {
    Number(i128),
    Bytes(Vec<u8>),
    Text(&'static str),
    List(Vec<Item>),
    Map(Vec<(Item, Item)>),
    Null,
    Raw(Vec<u8>),
}

use Item::{List, Map, Null, Number, Raw, Text};

fn bytes(bytes: impl Into<Vec<u8>>) -> Item {
    Item::Bytes(bytes.into())
}

/// Major type and argument in the shortest form (RFC 8949 §4.2.1).
fn head(major: u8, argument: u64) -> Vec<u8> {
    let head = |low: u8, rest: &[u8]| [&[major << 5 | low], rest].concat();
    let be = argument.to_be_bytes();
    match argument {
        0..=23 => head(be[7], &[]),
        24..=0xff => head(24, &be[7..]),
        0x100..=0xffff => head(25, &be[6..]),
        0x1_0000..=0xffff_ffff => head(26, &be[4..]),
        _ => head(27, &be),
    }
}

impl Item {
    fn encode(&self) -> Vec<u8> {
        let length = |length: usize| u64::try_from(length).unwrap();
        match self {
            Number(number @ 0..) => head(0, u64::try_from(*number).unwrap()),
            Number(number) => head(1, u64::try_from(-1 - *number).unwrap()),
            Item::Bytes(bytes) => [head(2, length(bytes.len())), bytes.clone()].concat(),
            Text(text) => [head(3, length(text.len())), text.as_bytes().to_vec()].concat(),
            List(items) => {
                items.iter().fold(head(4, length(items.len())), |bytes, item| [bytes, item.encode()].concat())
            }
            Map(pairs) => pairs.iter().fold(head(5, length(pairs.len())), |bytes, (key, value)| {
                [bytes, key.encode(), value.encode()].concat()
            }),
            Null => vec![0xf6],
            Raw(bytes) => bytes.clone(),
        }
    }
}

/// The parts of a manifest, each replaceable by anything.
#[derive(Clone)]
struct Parts {
    version: Item,
    name: Item,
    packs: Item,
    hashes: Item,
    entries: Vec<Item>,
    piece_size: Item,
    seeders: Item,
    trackers: Item,
}

fn directory(path: &str) -> Item {
    List(vec![Number(1), bytes(path), Number(0o755), Number(0), Number(0)])
}

fn file(path: &str, size: i128, mode: i128, nanoseconds: i128) -> Item {
    List(vec![Number(0), bytes(path), Number(size), Number(mode), Number(-5), Number(nanoseconds)])
}

fn symlink(path: &str, target: &str) -> Item {
    List(vec![Number(2), bytes(path), bytes(target)])
}

impl Parts {
    /// A directory with a small file, a file of two pieces and a link.
    fn valid() -> Self {
        Self {
            version: Number(1),
            name: bytes("data"),
            packs: List(vec![Number(1)]),
            hashes: bytes([7; 3 * 32]),
            entries: vec![
                directory(""),
                file("a", 5, 0o644, 1),
                file("b", 4097, 0o600, 999_999_999),
                symlink("link", "a"),
            ],
            piece_size: Number(4096),
            seeders: List(vec![List(vec![Null, Text("127.0.0.1:80")])]),
            trackers: List(vec![Text("/ip4/127.0.0.1/tcp/1")]),
        }
    }

    fn info(&self) -> Vec<(Item, Item)> {
        vec![
            (Text("name"), self.name.clone()),
            (Text("packs"), self.packs.clone()),
            (Text("hashes"), self.hashes.clone()),
            (Text("entries"), List(self.entries.clone())),
            (Text("piece_size"), self.piece_size.clone()),
        ]
    }

    fn hints(&self) -> Vec<(Item, Item)> {
        vec![(Text("seeders"), self.seeders.clone()), (Text("trackers"), self.trackers.clone())]
    }

    fn file(&self, info: Vec<(Item, Item)>, hints: Vec<(Item, Item)>) -> Vec<(Item, Item)> {
        vec![(Text("dft"), self.version.clone()), (Text("info"), Map(info)), (Text("hints"), Map(hints))]
    }

    fn encode(&self) -> Vec<u8> {
        Map(self.file(self.info(), self.hints())).encode()
    }
}

/// The error for these bytes, the text of `Malformed` left out: it is another library's.
fn error(bytes: &[u8]) -> Option<ManifestError> {
    match Manifest::decode(bytes) {
        Err(ManifestError::Malformed(_)) => Some(malformed()),
        result => result.err(),
    }
}

fn malformed() -> ManifestError {
    ManifestError::Malformed(String::new())
}

/// Changes a valid manifest and says what the error must be.
fn assert_refused(cases: Vec<(&str, ManifestError, Vec<u8>)>) {
    for (what, expected, bytes) in cases {
        assert_eq!(error(&bytes), Some(expected), "{what}");
    }
}

fn with(change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    let mut parts = Parts::valid();
    change(&mut parts);
    parts.encode()
}

#[test]
fn the_bytes_made_by_hand_are_a_manifest() {
    let encoded = Parts::valid().encode();
    let manifest = Manifest::decode(&encoded).unwrap();
    assert_eq!(manifest.encode(), encoded);
    assert_eq!(manifest.geometry().piece_count(), 3);
    assert_eq!(manifest.total_bytes(), 5 + 4097);
}

#[test]
fn each_flipped_bit_is_refused_or_means_itself() {
    let encoded = Parts::valid().encode();
    for bit in 0..encoded.len() * 8 {
        let mut flipped = encoded.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(manifest) = Manifest::decode(&flipped) {
            assert_eq!(manifest.encode(), flipped, "bit {bit}");
        }
    }
}

#[test]
fn with_a_checksum_each_flipped_bit_is_refused() {
    let manifest = Manifest::decode(&Parts::valid().encode()).unwrap();
    let encoded = manifest.encode_with_sum();
    let read = Manifest::decode(&encoded).unwrap();
    assert_eq!((read.id(), read.encode()), (manifest.id(), manifest.encode()));
    for bit in 0..encoded.len() * 8 {
        let mut flipped = encoded.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
    }
    // The last byte of a hash: another dataset, but for the checksum.
    let hashes = encoded.windows(6).position(|window| window == b"hashes").unwrap();
    let mut other = encoded;
    other[hashes + 6 + 2 + 31] ^= 1;
    assert_eq!(error(&other), Some(ManifestError::Damaged));
}

#[test]
fn only_the_canonical_form_is_accepted() {
    let valid = Parts::valid();
    let (info, hints) = (valid.info(), valid.hints());
    let file = |info: &[(Item, Item)], hints: &[(Item, Item)]| valid.file(info.to_vec(), hints.to_vec());
    let plain = file(&info, &hints);
    let map = |pairs: Vec<(Item, Item)>| Map(pairs).encode();
    let swapped = |pairs: &[(Item, Item)]| {
        let mut pairs = pairs.to_vec();
        pairs.swap(0, 1);
        pairs
    };
    let and = |pairs: &[(Item, Item)], key: Item| [pairs, &[(key, Number(0))]].concat();
    let twice = |pairs: &[(Item, Item)]| [pairs, &pairs[..1]].concat();
    let indefinite = |open: u8, items: &[Item]| {
        let content: Vec<u8> = items.iter().flat_map(Item::encode).collect();
        Raw([&[open], &content[..], &[0xff]].concat())
    };
    let canonical = ManifestError::NotCanonical;
    assert_refused(vec![
        ("trailing byte", malformed(), [valid.encode(), vec![0]].concat()),
        (
            "piece size in 8 bytes",
            canonical.clone(),
            with(|parts| {
                parts.piece_size = Raw(vec![0x1b, 0, 0, 0, 0, 0, 0, 0x10, 0]);
            }),
        ),
        ("version in 2 bytes", canonical.clone(), with(|parts| parts.version = Raw(vec![0x18, 1]))),
        ("length in 2 bytes", canonical.clone(), with(|parts| parts.name = Raw(b"\x58\x04data".to_vec()))),
        ("unknown key of the file", malformed(), map(and(&plain, Text("more")))),
        ("unknown key of info", malformed(), map(file(&and(&info, Text("more")), &hints))),
        ("unknown key of hints", malformed(), map(file(&info, &and(&hints, Text("more"))))),
        ("numbered key", canonical.clone(), {
            let mut hints = hints.clone();
            hints[0].0 = Number(0);
            map(file(&info, &hints))
        }),
        ("swapped keys of the file", canonical.clone(), map(swapped(&plain))),
        ("swapped keys of info", canonical.clone(), map(file(&swapped(&info), &hints))),
        ("swapped keys of hints", canonical.clone(), map(file(&info, &swapped(&hints)))),
        ("doubled key of the file", malformed(), map(twice(&plain))),
        ("doubled key of info", malformed(), map(file(&twice(&info), &hints))),
        ("doubled key of hints", malformed(), map(file(&info, &twice(&hints)))),
        ("missing hints", malformed(), map(plain[..2].to_vec())),
        ("missing hashes", malformed(), map(file(&[&info[..2], &info[3..]].concat(), &hints))),
        (
            "list of indefinite length",
            canonical.clone(),
            with(|parts| {
                parts.packs = indefinite(0x9f, &[Number(1)]);
            }),
        ),
        ("map of indefinite length", canonical.clone(), {
            let pairs: Vec<Item> =
                plain.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect();
            indefinite(0xbf, &pairs).encode()
        }),
        (
            "bytes of indefinite length",
            canonical.clone(),
            with(|parts| {
                parts.name = indefinite(0x5f, &[bytes("da"), bytes("ta")]);
            }),
        ),
        ("a tag", canonical.clone(), with(|parts| parts.version = Raw(vec![0xc1, 1]))),
        ("text for bytes", canonical, with(|parts| parts.name = Text("data"))),
        ("a float for a number", malformed(), with(|parts| parts.version = Raw(vec![0xf9, 0x3c, 0]))),
        ("null for a list", malformed(), with(|parts| parts.packs = Null)),
        ("a negative size", malformed(), with(|parts| parts.entries[1] = file_of(-1))),
        ("lists in lists in lists", malformed(), vec![0x81; 100_000]),
        (
            "the length of the universe",
            malformed(),
            with(|parts| {
                parts.hashes = Raw([&[0x5b][..], &[0xff; 8]].concat());
            }),
        ),
        ("nothing", malformed(), vec![]),
    ]);
}

fn file_of(size: i128) -> Item {
    file("a", size, 0o644, 1)
}

#[test]
fn what_a_fetch_could_not_create_safely_is_refused() {
    let path = |path: &str, error| ManifestError::Path { path: path.into(), error };
    let entry = |number: usize, entry: Item| with(|parts| parts.entries[number] = entry);
    let attributes = ManifestError::Attributes("a".into());
    let order = |path: &str| ManifestError::Order(path.into());
    let link = || ManifestError::Symlink("link".into());
    assert_refused(vec![
        ("dots", path("..", PathError::DotComponent), entry(1, file("..", 5, 0o644, 1))),
        ("dots inside", path("a/../b", PathError::DotComponent), entry(1, file("a/../b", 5, 0o644, 1))),
        ("absolute", path("/a", PathError::EmptyComponent), entry(1, file("/a", 5, 0o644, 1))),
        ("slash at the end", path("a/", PathError::EmptyComponent), entry(1, file("a/", 5, 0o644, 1))),
        ("NUL", path("a\\x00", PathError::ForbiddenByte), entry(1, file("a\0", 5, 0o644, 1))),
        ("long name", path(&"x".repeat(256), PathError::NameTooLong), {
            entry(1, file(&"x".repeat(256), 5, 0o644, 1))
        }),
        (
            "slash in the name",
            path("name", PathError::ForbiddenByte),
            with(|parts| parts.name = bytes("a/b")),
        ),
        ("dots as the name", path("name", PathError::DotComponent), with(|parts| parts.name = bytes(".."))),
        ("no name", path("name", PathError::EmptyComponent), with(|parts| parts.name = bytes(""))),
        ("link to /etc", link(), entry(3, symlink("link", "/etc"))),
        ("link above the root", link(), entry(3, symlink("link", "a/../../b"))),
        ("link to nothing", link(), entry(3, symlink("link", ""))),
        ("link as the root", ManifestError::Symlink(String::new()), entry(0, symlink("", "a"))),
        ("setuid", attributes.clone(), entry(1, file("a", 5, 0o4755, 1))),
        ("setgid", attributes.clone(), entry(1, file("a", 5, 0o2755, 1))),
        ("sticky", attributes.clone(), entry(1, file("a", 5, 0o1755, 1))),
        ("a whole second of nanoseconds", attributes.clone(), entry(1, file("a", 5, 0o644, 1_000_000_000))),
        ("an exabyte and a byte", attributes, entry(1, file_of((1 << 60) + 1))),
        ("two of one path", order("a"), entry(2, file("a", 4097, 0o644, 1))),
        ("descending paths", order("a"), with(|parts| parts.entries.swap(1, 2))),
        ("no directory above", ManifestError::Parent("c/d".into()), entry(3, symlink("c/d", "x"))),
        ("a file above", ManifestError::Parent("b/d".into()), entry(3, symlink("b/d", "x"))),
        ("no root", ManifestError::Root, with(|parts| drop(parts.entries.remove(0)))),
        ("no entry", ManifestError::Root, with(|parts| parts.entries.clear())),
        ("a device", malformed(), entry(1, List(vec![Number(3), bytes("a"), bytes("b")]))),
        ("a kind of another shape", malformed(), entry(1, List(vec![Number(0), bytes("a"), bytes("b")]))),
    ]);
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    let packs = |packs: &[i128]| {
        let packs = packs.iter().map(|&count| Number(count)).collect();
        with(|parts| parts.packs = List(packs))
    };
    let dont_fit = || ManifestError::PacksDontFit;
    let hashes = |count: usize| with(|parts| parts.hashes = bytes(vec![7; count * 32]));
    let count = |hashes| ManifestError::HashCount { hashes, pieces: 3 };
    let size = |bytes: i128| with(|parts| parts.piece_size = Number(bytes));
    let bad_size = |bytes| ManifestError::PieceSize(PieceSizeError(bytes));
    let seeder = || List(vec![Null, Text("127.0.0.1:80")]);
    let seeders = |item: Item| with(|parts| parts.seeders = List(vec![item]));
    assert_refused(vec![
        ("version 0", ManifestError::Version(0), with(|parts| parts.version = Number(0))),
        ("version 2", ManifestError::Version(2), with(|parts| parts.version = Number(2))),
        ("no pack", dont_fit(), packs(&[])),
        ("an empty pack", dont_fit(), packs(&[1, 0])),
        ("a pack of too many files", dont_fit(), packs(&[2])),
        ("one pack too many", dont_fit(), packs(&[1, 1])),
        ("packs that overflow", dont_fit(), packs(&[1, u32::MAX.into(), u32::MAX.into()])),
        ("a pack count above 32 bits", malformed(), packs(&[1 << 32])),
        (
            "a pack larger than a piece",
            dont_fit(),
            with(|parts| {
                parts.entries = vec![directory(""), file("a", 4000, 0, 0), file("b", 4000, 0, 0)];
                parts.packs = List(vec![Number(2)]);
            }),
        ),
        ("too many hashes", count(4), hashes(4)),
        ("too few hashes", count(2), hashes(2)),
        ("half a hash", malformed(), with(|parts| parts.hashes = bytes([7; 80]))),
        ("an odd piece size", bad_size(5000), size(5000)),
        ("a tiny piece size", bad_size(2048), size(2048)),
        ("a huge piece size", bad_size(1 << 40), size(1 << 40)),
        (
            "too many pieces",
            ManifestError::TooManyPieces,
            with(|parts| {
                parts.entries = vec![file("", 4096 * (PIECE_COUNT_MAX as i128 + 1), 0, 0)];
            }),
        ),
        (
            "too many seeders",
            ManifestError::Hints("too many seeders"),
            with(|parts| {
                parts.seeders = List(vec![seeder(); SEEDER_COUNT_MAX + 1]);
            }),
        ),
        (
            "too many trackers",
            ManifestError::Hints("too many trackers"),
            with(|parts| {
                parts.trackers = List(vec![Text("/x"); TRACKER_COUNT_MAX + 1]);
            }),
        ),
        (
            "a host name for an address",
            ManifestError::Hints("a seeder's address is not IP:PORT"),
            seeders(List(vec![Null, Text("localhost:80")])),
        ),
        (
            "a peer id without bytes",
            ManifestError::Hints("a seeder's id is too long"),
            seeders(List(vec![bytes(""), Text("127.0.0.1:80")])),
        ),
        (
            "another spelling of an address",
            ManifestError::NotCanonical,
            seeders(List(vec![Null, Text("[0:0:0:0:0:0:0:1]:80")])),
        ),
        (
            "an escape sequence for a tracker",
            ManifestError::Hints("a tracker's address is too long or not printable"),
            with(|parts| parts.trackers = List(vec![Text("\x1b[31m")])),
        ),
        ("64 MiB and a byte", ManifestError::TooLarge, vec![0; MANIFEST_LEN_MAX + 1]),
    ]);
}
