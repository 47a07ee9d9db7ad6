//! Messages as bytes: what is written is read, and nothing else is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dft_protocol::geometry::Geometry;
use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::PeerAddr;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::wire::{
    DATA_LEN_MAX, FRAME_HEADER_LEN, FRAME_LEN_MAX, HELLO_LEN_MAX, Hello, LIST_LEN_MAX, Message, Opening,
    PEERS_LEN_MAX, PieceList, Refusal, RejectReason, SITE_LEN_MAX, Site, WireError, frame,
};
use proptest::prelude::*;

const PIECE_COUNT: u32 = 1500;
/// The last one, which may come packed.
const SHORT_PIECE_LEN: u32 = 1000;
const PIECE_LEN: u32 = 3 * 1024 * 1024;

fn geometry() -> Geometry {
    let mut lens = vec![PIECE_LEN; usize::try_from(PIECE_COUNT).unwrap()];
    lens.pop();
    lens.push(SHORT_PIECE_LEN);
    Geometry::new(lens).unwrap()
}

fn decode(body: &[u8]) -> Result<Message, WireError> {
    Message::decode(body, &geometry())
}

// ---- any message ----

fn any_list() -> impl Strategy<Value = PieceList> {
    prop::collection::vec(0..PIECE_COUNT, 1..=20).prop_map(|indices| {
        let geometry = geometry();
        PieceList::new(indices.into_iter().map(|index| geometry.piece(index.into()).unwrap()).collect())
            .unwrap()
    })
}

fn any_addr() -> impl Strategy<Value = PeerAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        any::<[u8; 16]>().prop_map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
    ];
    let peer = prop::option::of(prop::collection::vec(any::<u8>(), 1..=64));
    (ip, any::<u16>(), peer).prop_map(|(ip, port, peer)| PeerAddr {
        peer: peer.map(|bytes| PeerId::from_bytes(&bytes).unwrap()),
        addr: SocketAddr::new(ip, port),
    })
}

fn any_set() -> impl Strategy<Value = PieceSet> {
    prop::collection::vec(0..PIECE_COUNT, 0..50).prop_map(|indices| {
        let geometry = geometry();
        let mut set = PieceSet::empty(geometry.piece_count());
        indices.into_iter().for_each(|index| {
            set.insert(geometry.piece(index.into()).unwrap());
        });
        set
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let piece = (0..PIECE_COUNT - 1).prop_map(|index| geometry().piece(index.into()).unwrap());
    let reason =
        prop_oneof![Just(RejectReason::Missing), Just(RejectReason::Cancelled), Just(RejectReason::Busy)];
    let data = (piece.clone(), 0..PIECE_LEN, 1..=DATA_LEN_MAX)
        .prop_map(|(piece, offset, len)| Message::Data { piece, offset, len: len.min(PIECE_LEN - offset) });
    let packed =
        (1..SHORT_PIECE_LEN, 0..SHORT_PIECE_LEN, 1..SHORT_PIECE_LEN).prop_map(|(total, offset, len)| {
            let piece = geometry().piece(u64::from(PIECE_COUNT) - 1).unwrap();
            let offset = offset.min(total - 1);
            Message::Packed { piece, offset, len: len.min(total - offset), total }
        });
    prop_oneof![
        any_set().prop_map(Message::Bitfield),
        any_set().prop_map(Message::Wanted),
        any_list().prop_map(Message::Have),
        any_list().prop_map(Message::Lost),
        any_list().prop_map(Message::Request),
        any_list().prop_map(Message::Cancel),
        (piece.clone(), reason).prop_map(|(piece, reason)| Message::Reject(piece, reason)),
        data,
        packed,
        piece.prop_map(Message::Corrupt),
        prop::collection::vec(any_addr(), 1..=5).prop_map(Message::Peers),
        Just(Message::KeepAlive),
        Just(Message::Idle),
    ]
}

fn any_opening() -> impl Strategy<Value = Opening> {
    let site = prop::option::of("[!-~]{1,64}".prop_map(|text| Site::new(text).unwrap()));
    let hello = (1..=2u8, any::<[u8; 32]>(), any::<bool>(), any::<u16>(), site).prop_map(
        |(version, manifest, complete, listen_port, site)| {
            let manifest = ManifestId::from_bytes(manifest);
            Opening::Hello(Hello { version, manifest, complete, listen_port, site })
        },
    );
    let refusal = prop_oneof![
        Just(Refusal::UnknownManifest),
        Just(Refusal::Oneself),
        Just(Refusal::EncryptionRequired),
        Just(Refusal::EncryptionOff),
        Just(Refusal::SecretRequired),
        Just(Refusal::SecretWrong),
        Just(Refusal::SecretUnknown),
    ];
    prop_oneof![hello, refusal.prop_map(Opening::Refused), any::<[u8; 32]>().prop_map(Opening::Proof)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_message_survives_its_bytes(message in any_message()) {
        prop_assert_eq!(decode(&message.encode()), Ok(message));
    }

    #[test]
    fn an_opening_survives_its_bytes(opening in any_opening()) {
        let body = opening.encode();
        prop_assert!(body.len() <= HELLO_LEN_MAX);
        prop_assert_eq!(Opening::decode(&body), Ok(opening));
    }

    #[test]
    fn prefixes_and_longer_bodies_are_refused(message in any_message(), opening in any_opening()) {
        let body = message.encode();
        for len in 0..body.len() {
            prop_assert!(decode(&body[..len]).is_err(), "{} of {} bytes", len, body.len());
        }
        prop_assert!(decode(&[&body[..], &[0]].concat()).is_err());
        let body = opening.encode();
        for len in 0..body.len() {
            prop_assert!(Opening::decode(&body[..len]).is_err(), "{} of {} bytes", len, body.len());
        }
        prop_assert!(Opening::decode(&[&body[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_flipped_bit_is_refused_or_says_exactly_what_it_is(message in any_message(), opening in any_opening()) {
        each_bit_flip(&message.encode(), |body| {
            if let Ok(other) = decode(body) {
                assert_eq!(other.encode(), body);
            }
        });
        each_bit_flip(&opening.encode(), |body| {
            if let Ok(other) = Opening::decode(body) {
                assert_eq!(other.encode(), body);
            }
        });
    }

    #[test]
    fn any_bytes_are_refused_or_a_message(body in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(message) = decode(&body) {
            prop_assert_eq!(&message.encode(), &body);
        }
        if let Ok(opening) = Opening::decode(&body) {
            prop_assert_eq!(&opening.encode(), &body);
        }
    }
}

fn each_bit_flip(body: &[u8], check: impl Fn(&[u8])) {
    let mut flipped = body.to_vec();
    for bit in 0..body.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        check(&flipped);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

// ---- bodies by hand ----

/// The bytes that a picture in hexadecimal stands for.
fn hex(picture: &str) -> Vec<u8> {
    let digits: Vec<u8> = picture.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[test]
fn bodies_that_are_no_message_are_refused_with_the_reason() {
    use WireError::{Malformed, NotCanonical, OutOfRange, Size};
    let cases = [
        ("", Malformed, "nothing"),
        ("82", Malformed, "only the array"),
        ("81 0d", Malformed, "an unknown kind"),
        ("81 00", Malformed, "a hello is no message of an open link"),
        ("82 02 80", Size, "an empty list"),
        ("82 02 81 19 05dc", OutOfRange, "piece 1,500 of 1,500"),
        ("82 02 81 1b ffffffffffffffff", Malformed, "a piece of 64 bits"),
        ("82 02 81 20", Malformed, "a negative piece"),
        ("82 02 81 f5", Malformed, "a truth value for a piece"),
        ("82 02 81 18 05", NotCanonical, "a long form of 5"),
        ("82 02 9f 05 ff", NotCanonical, "a list of indefinite length"),
        ("9f 02 81 05 ff", NotCanonical, "an array of indefinite length"),
        ("83 02 81 05 05", Malformed, "a field too many"),
        ("81 02", Malformed, "a field too few"),
        ("98 02 02 81 05", NotCanonical, "a long form of the array's length"),
        ("82 01 40", Size, "a bitfield without bytes"),
        ("82 01 80", Size, "a list for a bitfield"),
        ("83 06 05 03", Malformed, "an unknown reason"),
        ("83 06 19 05dc 00", OutOfRange, "a reject of no piece"),
        ("84 07 05 00 00", Size, "no data"),
        ("84 07 05 00 1a 00100001", Size, "more data than one message carries"),
        ("84 07 05 1a 002fffff 02", OutOfRange, "data behind the end of its piece"),
        ("84 07 05 1a ffffffff 01", OutOfRange, "an offset that overflows"),
        ("84 07 19 05dc 00 01", OutOfRange, "data of no piece"),
        ("82 08 19 05dc", OutOfRange, "a corrupt piece that does not exist"),
        ("82 09 80", Size, "no addresses"),
        ("82 09 81 82 f6 63 787878", Malformed, "an address that is none"),
        ("82 09 81 82 40 69 312e322e332e343a35", Size, "an empty peer"),
        ("82 09 81 82 f6 6a 312e322e332e343a3035", NotCanonical, "a port with a zero before it"),
        ("82 0a 00", Malformed, "a keep-alive that says something"),
        ("85 0d 00 00 01 02", Size, "the packed form of a piece above 1 MiB"),
        ("85 0d 19 05db 00 01 19 03e8", Size, "a packed form as long as its piece"),
        ("85 0d 19 05db 00 00 02", Size, "no payload"),
        ("85 0d 19 05db 02 01 02", OutOfRange, "behind the packed form"),
        ("85 0d 19 05dc 00 01 02", OutOfRange, "piece 1,500 of 1,500, packed"),
        ("82 0f 00", Malformed, "an idle that says something"),
        ("c1 81 0a", Malformed, "a tag"),
    ];
    for (picture, expected, what) in cases {
        assert_eq!(decode(&hex(picture)), Err(expected), "{what}: {picture}");
    }
}

#[test]
fn openings_that_break_the_rules_are_refused_with_the_reason() {
    let id = "5820".to_owned() + &"07".repeat(32);
    let cases = [
        (format!("86 00 03 {id} f4 00 f6"), WireError::Version(3), "another version"),
        (format!("86 00 01 581f {} f4 00 f6", "07".repeat(31)), WireError::Size, "a short id"),
        (format!("86 00 01 {id} f4 1a00010000 f6"), WireError::Malformed, "a port above 65,535"),
        (format!("86 00 01 {id} f4 00 60"), WireError::Size, "an empty site"),
        (format!("86 00 01 {id} f4 00 61 20"), WireError::Size, "a site of one space"),
        (
            format!("86 00 01 {id} f4 00 7841 {}", "61".repeat(SITE_LEN_MAX + 1)),
            WireError::Size,
            "a long site",
        ),
        (format!("86 00 01 {id} 01 00 f6"), WireError::Malformed, "a number for a truth value"),
        ("82 0b 09".to_owned(), WireError::Malformed, "an unknown refusal"),
        ("81 0a".to_owned(), WireError::Malformed, "a message of an open link"),
    ];
    for (picture, expected, what) in cases {
        assert_eq!(Opening::decode(&hex(&picture)), Err(expected), "{what}: {picture}");
    }
}

#[test]
fn lists_have_a_longest_length() {
    let list = |len: usize| {
        [&hex("82 02 99")[..], &u16::try_from(len).unwrap().to_be_bytes(), &vec![5; len]].concat()
    };
    assert!(decode(&list(LIST_LEN_MAX)).is_ok());
    assert_eq!(decode(&list(LIST_LEN_MAX + 1)), Err(WireError::Size));
    let addr = PeerAddr { peer: None, addr: SocketAddr::from(([10, 0, 0, 1], 1)) };
    assert!(decode(&Message::Peers(vec![addr; PEERS_LEN_MAX]).encode()).is_ok());
    assert_eq!(decode(&Message::Peers(vec![addr; PEERS_LEN_MAX + 1]).encode()), Err(WireError::Size));
    assert_eq!(PieceList::new(Vec::new()), None);
}

/// A declared length costs nothing until its bytes are there: a gibibyte of memory per case would
/// not pass unseen, 2^63 bytes not at all.
#[test]
fn huge_declared_lengths_are_refused() {
    for length in ["1a 40000000", "1b 7fffffffffffffff", "1b ffffffffffffffff"] {
        for (kind, major) in [("02", "8"), ("09", "8"), ("01", "4"), ("01", "6"), ("01", "8")] {
            let body = hex(&format!("82 {kind} {}", head(major, length)));
            assert!(decode(&body).is_err());
        }
    }
    // Arrays in arrays: bounded by the parser's depth, not by the stack.
    assert!(decode(&[&hex("82 02")[..], &vec![0x81; 100_000]].concat()).is_err());
    assert!(Opening::decode(&[&hex("86 00")[..], &vec![0x81; 100_000]].concat()).is_err());
}

/// The head of a CBOR item: its major type as the high digit of the first byte, and its length.
fn head(major: &str, length: &str) -> String {
    let high = u8::from_str_radix(major, 16).unwrap() << 4;
    let (low, rest) = length.split_once(' ').unwrap();
    format!("{:02x} {rest}", high | u8::from_str_radix(low, 16).unwrap())
}

#[test]
fn frames_carry_their_length() {
    assert_eq!(frame(&[1, 2, 3]), [0, 0, 0, 3, 1, 2, 3]);
    let largest = PieceSet::full(dft_protocol::geometry::PIECE_COUNT_MAX);
    let body = Message::Bitfield(largest).encode();
    assert!(body.len() <= FRAME_LEN_MAX && body.len() + 64 > FRAME_LEN_MAX);
    assert_eq!(frame(&body).len(), FRAME_HEADER_LEN + body.len());
}
