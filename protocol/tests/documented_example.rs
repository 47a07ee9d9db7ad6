//! The examples of docs/PROTOCOL.md are what this code writes and reads: each block that begins
//! with «```hex NAME» holds the bytes called NAME, with comments behind `#`.

use std::net::SocketAddr;

use dft_protocol::geometry::PieceSize;
use dft_protocol::id::{ManifestId, PeerId, PieceHash};
use dft_protocol::manifest::{Entry, Hints, Info, Manifest, Mtime, PeerAddr};
use dft_protocol::path::{Name, SafePath, SymlinkTarget};
use dft_protocol::piece_set::PieceSet;
use dft_protocol::wire::{self, Hello, Message, Opening, PieceList, Refusal, RejectReason, Site};
use sha2::{Digest, Sha256};

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");

/// The bytes of the block called `name`.
fn documented(name: &str) -> Vec<u8> {
    let fence = format!("```hex {name}\n");
    let (_, rest) = DOCUMENT.split_once(&fence).unwrap_or_else(|| panic!("there is no block {fence:?}"));
    let (block, _) = rest.split_once("```").expect("a block ends");
    let digits: Vec<u8> = block
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(|line| line.bytes().filter(u8::is_ascii_hexdigit))
        .collect();
    let byte = |pair: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("two digits");
    digits.chunks(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn assert_documented(name: &str, written: &[u8]) {
    assert_eq!(hex(&documented(name)), hex(written), "the block «{name}», and what the code writes");
}

const MTIME: Mtime = Mtime { seconds: 1_767_225_600, nanoseconds: 500_000_000 };

fn path(text: &str) -> SafePath {
    SafePath::new(text).expect("a safe path")
}

fn file(name: &str, size: u64) -> Entry {
    Entry::File { path: path(name), size, mode: 0o644, mtime: MTIME }
}

/// The dataset of the document: two small files in one pack, one of three pieces whose second is
/// all zeros, an empty file, and a symbolic link.
fn manifest() -> Manifest {
    let link = path("link");
    let target = SymlinkTarget::new(&link, "a.txt").expect("a target inside");
    let hash = |bytes: &[u8]| PieceHash::from_bytes(Sha256::digest(bytes).into());
    let info = Info {
        name: Name::new("demo").expect("a name"),
        piece_size: PieceSize::new(4096).expect("a piece size"),
        entries: vec![
            Entry::Directory { path: SafePath::root(), mode: 0o755, mtime: MTIME },
            file("a.txt", 6),
            file("big", 8197),
            file("c.txt", 6),
            file("empty", 0),
            Entry::Symlink { path: link, target },
        ],
        packs: vec![2],
        hashes: vec![hash(&[b'A'; 4096]), PieceHash::ZEROS, hash(b"tail\n"), hash(b"hello\nworld\n")],
    };
    let hints = Hints { seeders: vec![seeder()], trackers: vec!["/ip4/192.0.2.7/tcp/4712".into()] };
    Manifest::new(info, hints).expect("the documented manifest is valid")
}

fn seeder() -> PeerAddr {
    // An Ed25519 public key in libp2p's protobuf, in an identity multihash.
    let id = [&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20][..], &[7; 32]].concat();
    PeerAddr { peer: PeerId::from_bytes(&id), addr: SocketAddr::from(([192, 0, 2, 7], 4711)) }
}

#[test]
fn the_documented_manifest_is_what_is_written_and_read() {
    let manifest = manifest();
    assert_documented("manifest", &manifest.encode());
    assert_documented("id", manifest.id().as_bytes());
    let (plain, with_sum) = (documented("manifest"), manifest.encode_with_sum());
    assert_eq!(with_sum, [&[0xa4], &plain[1..6], &documented("sum")[..], &plain[6..]].concat());
    let read = Manifest::decode(&documented("manifest")).expect("the documented bytes are a manifest");
    assert_eq!((read.id(), read.info(), read.hints()), (manifest.id(), manifest.info(), manifest.hints()));
}

#[test]
fn the_documented_id_is_the_hash_of_the_documented_info() {
    let file = documented("manifest");
    // Behind the map's head, "dft" and 1, and "info".
    let info_start = 1 + 4 + 1 + 5;
    let hints = b"\x65hints";
    let info_end = file.windows(hints.len()).rposition(|window| window == hints).expect("there are hints");
    assert_eq!(ManifestId::of_info(&file[info_start..info_end]), manifest().id());
}

#[test]
fn the_documented_pieces_lie_where_the_layout_puts_them() {
    let manifest = manifest();
    let spans = manifest.geometry().pieces().map(|piece| {
        let spans = manifest.layout().spans(piece);
        spans.map(|span| (span.entry, span.offset, span.len)).collect::<Vec<_>>()
    });
    let expected =
        [vec![(2, 0, 4096)], vec![(2, 4096, 4096)], vec![(2, 8192, 5)], vec![(1, 0, 6), (3, 0, 6)]];
    assert_eq!(spans.collect::<Vec<_>>(), expected);
}

#[test]
fn the_documented_openings_are_what_is_written_and_read() {
    let hello = Hello {
        version: 2,
        manifest: manifest().id(),
        complete: true,
        listen_port: 4711,
        site: Site::new("paris"),
    };
    let openings =
        [("hello", Opening::Hello(hello)), ("refused", Opening::Refused(Refusal::UnknownManifest))];
    for (name, opening) in openings {
        assert_documented(name, &wire::frame(&opening.encode()));
        assert_eq!(Opening::decode(&documented(name)[wire::FRAME_HEADER_LEN..]), Ok(opening), "{name}");
    }
}

#[test]
fn the_documented_messages_are_what_is_written_and_read() {
    let manifest = manifest();
    let geometry = manifest.geometry();
    let pieces: Vec<_> = geometry.pieces().collect();
    let list = |indices: &[usize]| {
        PieceList::new(indices.iter().map(|&index| pieces[index]).collect()).expect("a short list")
    };
    let mut set = PieceSet::full(geometry.piece_count());
    set.remove(pieces[1]);
    let mut wanted = PieceSet::empty(geometry.piece_count());
    wanted.insert(pieces[3]);
    let messages = [
        ("bitfield", Message::Bitfield(set)),
        ("have", Message::Have(list(&[0, 3]))),
        ("lost", Message::Lost(list(&[2]))),
        ("request", Message::Request(list(&[3, 0]))),
        ("cancel", Message::Cancel(list(&[0]))),
        ("reject", Message::Reject(pieces[2], RejectReason::Busy)),
        ("data", Message::Data { piece: pieces[3], offset: 0, len: 12 }),
        ("corrupt", Message::Corrupt(pieces[0])),
        ("peers", Message::Peers(vec![PeerAddr { peer: None, ..seeder() }])),
        ("keep-alive", Message::KeepAlive),
        ("wanted", Message::Wanted(wanted)),
        ("packed", Message::Packed { piece: pieces[0], offset: 0, len: 19, total: 19 }),
        ("idle", Message::Idle),
    ];
    for (name, message) in messages {
        assert_documented(name, &wire::frame(&message.encode()));
        let body = &documented(name)[wire::FRAME_HEADER_LEN..];
        assert_eq!(Message::decode(body, geometry), Ok(message), "{name}");
    }
}
