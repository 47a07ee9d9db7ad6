//! What a tracker is asked and what it answers: `/dft/tracker/1`.
//!
//! Each message is one CBOR array `[kind, …]`; kinds that are not listed here are refused, so
//! that later ones can be added beside them. A message that exists is valid:
//! the only ways to one are the constructors here and [`Message::decode`], which uses them.
//!
//! ```text
//! request  = [0, manifest, link_port, addrs, complete, site / null, want]   announce
//!          / [1, manifest]                                                  leave
//!          / [2, link_port, addrs, site / null, tally / null, added, removed]  shelve
//! response = [0, interval_s, [* [peer, addrs, complete, site / null]]]      peers
//!          / [1]                                                            done
//!          / [2, reason]                                                    refused
//!          / [3, interval_s, count, digest]                                 shelved
//! addrs    = [* bytes]  of 6 (IPv4) or 18 (IPv6): address, then port, both big-endian
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dft_protocol::id::{DIGEST_LEN, ManifestId, PeerId};
use dft_protocol::wire::Site;
use libp2p::StreamProtocol;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::codec::{Message, MessageCodec, MessageError, decode_canonical, to_cbor};
use crate::registry::{ADDRS_PER_RECORD_MAX, FoundPeer, LinkAddrs, ShelfChange, Tally};

/// The libp2p name of the protocol.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/dft/tracker/1");
/// Most peers of one answer: a peer keeps fewer links, and 256 records stay far below
/// [`Response`]'s length limit.
pub const PEERS_PER_RESPONSE_MAX: u16 = 256;
/// Most datasets that come to a shelf, and that go, in one request: 2 times 24 KiB.
pub const SHELVED_PER_REQUEST_MAX: usize = 768;
/// Longest reason of a refusal, in bytes: one line for a person.
pub const REASON_LEN_MAX: usize = 256;
/// The announce interval that a client accepts is at least this, so that a tracker cannot make
/// its peers storm it, in seconds.
pub const INTERVAL_S_MIN: u32 = 5;
/// … and at most this, so that a tracker cannot silence its peers, in seconds.
pub const INTERVAL_S_MAX: u32 = 600;

/// The codec of the protocol.
pub type TrackerCodec = MessageCodec<Request, Response>;

/// «I have (parts of) this manifest; who else?»
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announce {
    /// The dataset.
    pub manifest: ManifestId,
    /// The port where the asker takes links; 0 where it takes none and only asks.
    pub link_port: u16,
    /// Addresses of its interfaces, with the link port.
    pub addrs: LinkAddrs,
    /// Whether it has every piece.
    pub complete: bool,
    /// Its site label.
    pub site: Option<Site>,
    /// The most peers that it wants to hear of.
    pub want: u16,
}

/// «These datasets I have in full and at rest, beside those that you know of.»
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shelve {
    /// The port where the asker takes links; never 0.
    pub link_port: u16,
    /// Addresses of its interfaces, with the link port.
    pub addrs: LinkAddrs,
    /// Its site label.
    pub site: Option<Site>,
    /// What comes and goes: at most [`SHELVED_PER_REQUEST_MAX`] each.
    pub change: ShelfChange,
}

/// What is asked of a tracker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Take or renew the asker's record, and name other peers.
    Announce(Announce),
    /// Forget the asker's record.
    Leave {
        /// The dataset.
        manifest: ManifestId,
    },
    /// Change the asker's shelf, and keep all of it alive. An older tracker hangs up on it.
    Shelve(Box<Shelve>),
}

/// What a tracker answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// The announcement is taken, and durable.
    Peers {
        /// When to announce again, in seconds; clients clamp it into
        /// [`INTERVAL_S_MIN`] … [`INTERVAL_S_MAX`].
        interval_s: u32,
        /// Other peers of the manifest, at most [`PEERS_PER_RESPONSE_MAX`].
        peers: Vec<FoundPeer>,
    },
    /// What is on the asker's shelf; durable. Where that is not what it should be, the change was not
    /// made.
    Shelved {
        /// When to say so again, in seconds; clients clamp it.
        interval_s: u32,
        /// What is there.
        there: Tally,
    },
    /// Done.
    Done,
    /// Not done.
    Refused(Reason),
}

/// Why a tracker refuses: one printable line of at most [`REASON_LEN_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reason(Box<str>);

impl Reason {
    /// As much of `text` as is printable and fits.
    pub fn new(text: &str) -> Self {
        let mut reason = String::new();
        for letter in text.chars().filter(|letter| !letter.is_control()) {
            if reason.len() + letter.len_utf8() > REASON_LEN_MAX {
                break;
            }
            reason.push(letter);
        }
        Self(reason.into())
    }

    /// The reason.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Message for Request {
    /// An announcement needs about 400 bytes, the fullest change of a shelf 50,000.
    const LEN_MAX: usize = 64 * 1024;

    fn encode(&self) -> Vec<u8> {
        let bytes = |manifest: &ManifestId| ByteBuf::from(manifest.as_bytes());
        to_cbor(&match self {
            Request::Announce(announce) => RequestCbor::Announce(
                KIND_ANNOUNCE,
                bytes(&announce.manifest),
                announce.link_port,
                addrs_to_cbor(&announce.addrs),
                announce.complete,
                site_to_cbor(announce.site.as_ref()),
                announce.want,
            ),
            Request::Leave { manifest } => RequestCbor::Leave(KIND_LEAVE, bytes(manifest)),
            Request::Shelve(shelve) => {
                let Shelve { link_port, addrs, site, change } = &**shelve;
                let Tally { count, digest } = change.before;
                RequestCbor::Shelve(
                    KIND_SHELVE,
                    *link_port,
                    addrs_to_cbor(addrs),
                    site_to_cbor(site.as_ref()),
                    (!change.anew).then_some((count, digest)),
                    manifests_to_cbor(&change.added),
                    manifests_to_cbor(&change.removed),
                )
            }
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        decode_canonical::<Self, RequestCbor>(bytes)
    }
}

impl Message for Response {
    /// 256 peers with 8 addresses each need 80 KB; the rest is room for later kinds.
    const LEN_MAX: usize = 256 * 1024;

    fn encode(&self) -> Vec<u8> {
        let peer = |found: &FoundPeer| {
            PeerCbor(
                ByteBuf::from(found.peer.as_bytes()),
                addrs_to_cbor(&found.addrs),
                found.complete,
                site_to_cbor(found.site.as_ref()),
            )
        };
        to_cbor(&match self {
            Response::Peers { interval_s, peers } => {
                ResponseCbor::Peers(KIND_PEERS, *interval_s, peers.iter().map(peer).collect())
            }
            Response::Done => ResponseCbor::Done((KIND_DONE,)),
            Response::Shelved { interval_s, there } => {
                ResponseCbor::Shelved(KIND_SHELVED, *interval_s, there.count, there.digest)
            }
            Response::Refused(reason) => ResponseCbor::Refused(KIND_REFUSED, reason.as_str().to_owned()),
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        decode_canonical::<Self, ResponseCbor>(bytes)
    }
}

/// The id whose bytes are `bytes`.
pub fn manifest_id_from_cbor(bytes: &[u8]) -> Result<ManifestId, MessageError> {
    <[u8; DIGEST_LEN]>::try_from(bytes)
        .map(ManifestId::from_bytes)
        .map_err(|_| MessageError::Invalid("a manifest id has 32 bytes"))
}

const KIND_ANNOUNCE: u8 = 0;
const KIND_LEAVE: u8 = 1;
const KIND_SHELVE: u8 = 2;
const KIND_PEERS: u8 = 0;
const KIND_DONE: u8 = 1;
const KIND_REFUSED: u8 = 2;
const KIND_SHELVED: u8 = 3;

// The shapes as they are written. Only the conversions below turn them into messages.

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RequestCbor {
    Announce(u8, ByteBuf, u16, Vec<ByteBuf>, bool, Option<String>, u16),
    Shelve(u8, u16, Vec<ByteBuf>, Option<String>, Option<(u32, u64)>, ByteBuf, ByteBuf),
    Leave(u8, ByteBuf),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ResponseCbor {
    Peers(u8, u32, Vec<PeerCbor>),
    Shelved(u8, u32, u32, u64),
    Refused(u8, String),
    Done((u8,)),
}

#[derive(Serialize, Deserialize)]
struct PeerCbor(ByteBuf, Vec<ByteBuf>, bool, Option<String>);

impl TryFrom<RequestCbor> for Request {
    type Error = MessageError;

    fn try_from(request: RequestCbor) -> Result<Self, MessageError> {
        match request {
            RequestCbor::Announce(KIND_ANNOUNCE, manifest, link_port, addrs, complete, site, want) => {
                Ok(Request::Announce(Announce {
                    manifest: manifest_id_from_cbor(&manifest)?,
                    link_port,
                    addrs: addrs_from_cbor(&addrs)?,
                    complete,
                    site: site_from_cbor(site)?,
                    want,
                }))
            }
            RequestCbor::Leave(KIND_LEAVE, manifest) => {
                Ok(Request::Leave { manifest: manifest_id_from_cbor(&manifest)? })
            }
            RequestCbor::Shelve(KIND_SHELVE, link_port, addrs, site, before, added, removed) => {
                if link_port == 0 {
                    return Err(MessageError::Invalid("a link port is 0"));
                }
                let anew = before.is_none();
                let (count, digest) = before.unwrap_or_default();
                let (added, removed) = (manifests_from_cbor(&added)?, manifests_from_cbor(&removed)?);
                let change = ShelfChange { before: Tally { count, digest }, anew, added, removed };
                let (addrs, site) = (addrs_from_cbor(&addrs)?, site_from_cbor(site)?);
                Ok(Request::Shelve(Box::new(Shelve { link_port, addrs, site, change })))
            }
            _ => Err(MessageError::Invalid("a request of no known kind")),
        }
    }
}

impl TryFrom<ResponseCbor> for Response {
    type Error = MessageError;

    fn try_from(response: ResponseCbor) -> Result<Self, MessageError> {
        match response {
            ResponseCbor::Peers(KIND_PEERS, interval_s, peers) => {
                if peers.len() > usize::from(PEERS_PER_RESPONSE_MAX) {
                    return Err(MessageError::Invalid("too many peers"));
                }
                let peers = peers.into_iter().map(FoundPeer::try_from).collect::<Result<_, _>>()?;
                Ok(Response::Peers { interval_s, peers })
            }
            ResponseCbor::Done((KIND_DONE,)) => Ok(Response::Done),
            ResponseCbor::Shelved(KIND_SHELVED, interval_s, count, digest) => {
                Ok(Response::Shelved { interval_s, there: Tally { count, digest } })
            }
            ResponseCbor::Refused(KIND_REFUSED, reason) => Ok(Response::Refused(Reason::new(&reason))),
            _ => Err(MessageError::Invalid("a response of no known kind")),
        }
    }
}

impl TryFrom<PeerCbor> for FoundPeer {
    type Error = MessageError;

    fn try_from(PeerCbor(peer, addrs, complete, site): PeerCbor) -> Result<Self, MessageError> {
        Ok(Self {
            peer: PeerId::from_bytes(&peer)
                .ok_or(MessageError::Invalid("a peer's id is empty or too long"))?,
            addrs: addrs_from_cbor(&addrs)?,
            complete,
            site: site_from_cbor(site)?,
        })
    }
}

/// Ids one after the other: some hundred of them need no head each.
fn manifests_to_cbor(manifests: &[ManifestId]) -> ByteBuf {
    ByteBuf::from(manifests.iter().flat_map(ManifestId::as_bytes).copied().collect::<Vec<u8>>())
}

fn manifests_from_cbor(bytes: &[u8]) -> Result<Vec<ManifestId>, MessageError> {
    let (ids, rest) = bytes.as_chunks::<DIGEST_LEN>();
    if !rest.is_empty() || ids.len() > SHELVED_PER_REQUEST_MAX {
        return Err(MessageError::Invalid("too many manifests, or a part of an id"));
    }
    Ok(ids.iter().copied().map(ManifestId::from_bytes).collect())
}

pub(crate) fn site_to_cbor(site: Option<&Site>) -> Option<String> {
    site.map(|site| site.as_str().to_owned())
}

pub(crate) fn site_from_cbor(site: Option<String>) -> Result<Option<Site>, MessageError> {
    site.map(|text| Site::new(text).ok_or(MessageError::Invalid("a site label is not valid"))).transpose()
}

pub(crate) fn addrs_to_cbor(addrs: &LinkAddrs) -> Vec<ByteBuf> {
    addrs.as_slice().iter().map(addr_to_cbor).collect()
}

pub(crate) fn addrs_from_cbor(addrs: &[ByteBuf]) -> Result<LinkAddrs, MessageError> {
    if addrs.len() > ADDRS_PER_RECORD_MAX {
        return Err(MessageError::Invalid("too many addresses"));
    }
    let addrs = addrs.iter().map(|addr| addr_from_cbor(addr)).collect::<Result<_, _>>()?;
    LinkAddrs::new(addrs).ok_or(MessageError::Invalid("an address could not be dialled"))
}

fn addr_to_cbor(addr: &SocketAddr) -> ByteBuf {
    let mut bytes = match addr.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend(addr.port().to_be_bytes());
    ByteBuf::from(bytes)
}

fn addr_from_cbor(bytes: &[u8]) -> Result<SocketAddr, MessageError> {
    let (ip, port) = bytes.split_last_chunk::<2>().ok_or(MessageError::Invalid("an address is too short"))?;
    let ip = if let Ok(octets) = <[u8; 4]>::try_from(ip) {
        IpAddr::V4(Ipv4Addr::from(octets))
    } else if let Ok(octets) = <[u8; 16]>::try_from(ip) {
        IpAddr::V6(Ipv6Addr::from(octets))
    } else {
        return Err(MessageError::Invalid("an address has 6 or 18 bytes"));
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site() -> impl Strategy<Value = Option<Site>> {
        proptest::option::of("[!-~]{1,20}".prop_map(|text| Site::new(text).expect("a short label")))
    }

    pub(crate) fn addrs() -> impl Strategy<Value = LinkAddrs> {
        let addr = (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port));
        proptest::collection::vec(addr, 0..ADDRS_PER_RECORD_MAX)
            .prop_map(|addrs| LinkAddrs::new(addrs).unwrap_or_default())
    }

    pub(crate) fn manifest() -> impl Strategy<Value = ManifestId> {
        any::<[u8; 32]>().prop_map(ManifestId::from_bytes)
    }

    fn request() -> impl Strategy<Value = Request> {
        let announce = (manifest(), any::<u16>(), addrs(), any::<bool>(), site(), any::<u16>()).prop_map(
            |(manifest, link_port, addrs, complete, site, want)| {
                Request::Announce(Announce { manifest, link_port, addrs, complete, site, want })
            },
        );
        let manifests = || proptest::collection::vec(manifest(), 0..4);
        let before = proptest::option::of((any::<u32>(), any::<u64>()));
        let shelve = (1..u16::MAX, addrs(), site(), before, manifests(), manifests()).prop_map(
            |(link_port, addrs, site, before, added, removed)| {
                let (count, digest) = before.unwrap_or_default();
                let (before, anew) = (Tally { count, digest }, before.is_none());
                let change = ShelfChange { before, anew, added, removed };
                Request::Shelve(Box::new(Shelve { link_port, addrs, site, change }))
            },
        );
        prop_oneof![announce, manifest().prop_map(|manifest| Request::Leave { manifest }), shelve]
    }

    fn response() -> impl Strategy<Value = Response> {
        let peer = (proptest::collection::vec(any::<u8>(), 1..=64), addrs(), any::<bool>(), site()).prop_map(
            |(peer, addrs, complete, site)| FoundPeer {
                peer: PeerId::from_bytes(&peer).expect("1 to 64 bytes"),
                addrs,
                complete,
                site,
            },
        );
        prop_oneof![
            (any::<u32>(), proptest::collection::vec(peer, 0..4))
                .prop_map(|(interval_s, peers)| Response::Peers { interval_s, peers }),
            Just(Response::Done),
            (any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(interval_s, count, digest)| {
                Response::Shelved { interval_s, there: Tally { count, digest } }
            }),
            ".{0,300}".prop_map(|text| Response::Refused(Reason::new(&text))),
        ]
    }

    /// Decodes to itself; every prefix, extension and flipped bit is refused, or is another
    /// message with exactly these bytes.
    pub(crate) fn survives_damage<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
        let bytes = message.encode();
        assert_eq!(M::decode(&bytes).as_ref(), Ok(message));
        for len in 0..bytes.len() {
            assert!(M::decode(&bytes[..len]).is_err(), "a prefix of {len} bytes");
        }
        assert!(M::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = M::decode(&flipped) {
                assert_eq!(other.encode(), flipped, "bit {bit}");
                assert_ne!(other, *message, "bit {bit}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_requests_are_refused_or_others(request in request()) {
            survives_damage(&request);
        }

        #[test]
        fn damaged_responses_are_refused_or_others(response in response()) {
            survives_damage(&response);
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            if let Ok(response) = Response::decode(&bytes) {
                prop_assert_eq!(response.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_largest_messages_fit_their_limits() {
        let addr = |host: u8| SocketAddr::new(Ipv6Addr::from([host; 16]).into(), 65_535);
        let addrs = LinkAddrs::new((1..=8).map(addr).collect()).expect("8 addresses");
        let site = Site::new("s".repeat(64));
        let peer = FoundPeer {
            peer: PeerId::from_bytes(&[9; 64]).expect("64 bytes"),
            addrs: addrs.clone(),
            complete: true,
            site: site.clone(),
        };
        let peers = vec![peer; usize::from(PEERS_PER_RESPONSE_MAX)];
        let response = Response::Peers { interval_s: u32::MAX, peers };
        assert!(response.encode().len() <= Response::LEN_MAX / 2, "half of it is room");
        let manifest = ManifestId::from_bytes([1; 32]);
        let full = vec![manifest; SHELVED_PER_REQUEST_MAX];
        let change =
            ShelfChange { before: Tally::default(), anew: false, added: full.clone(), removed: full };
        let shelve = Shelve { link_port: 1, addrs: addrs.clone(), site: site.clone(), change };
        let shelve = Request::Shelve(Box::new(shelve)).encode();
        assert!(shelve.len() <= Request::LEN_MAX * 7 / 8, "{}", shelve.len());
        let announce = Announce { manifest, link_port: 1, addrs, complete: true, site, want: u16::MAX };
        assert!(Request::Announce(announce).encode().len() <= Request::LEN_MAX / 2, "half of it is room");
    }

    #[test]
    fn what_is_not_canonical_or_not_valid_is_refused() {
        let id = [7; 32];
        let leave = Request::Leave { manifest: ManifestId::from_bytes(id) }.encode();
        let with_id = |head: &[u8]| [head, &[0x58, 0x20], &id].concat();
        assert_eq!(leave, with_id(&[0x82, 0x01]));
        // A kind written with two bytes, an array of indefinite length, and an unknown kind.
        assert_eq!(Request::decode(&with_id(&[0x82, 0x18, 0x01])), Err(MessageError::NotCanonical));
        let indefinite = [with_id(&[0x9f, 0x01]), vec![0xff]].concat();
        assert!(Request::decode(&indefinite).is_err());
        assert_eq!(
            Request::decode(&with_id(&[0x82, 0x03])),
            Err(MessageError::Invalid("a request of no known kind"))
        );
        // Deep nesting costs a small error, not the stack.
        assert!(Request::decode(&vec![0x81; Request::LEN_MAX]).is_err());
        let too_long = vec![0; Request::LEN_MAX + 1];
        assert!(matches!(Request::decode(&too_long), Err(MessageError::TooLong { .. })));
    }
}
