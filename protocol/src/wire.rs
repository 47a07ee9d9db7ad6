//! What peers say to each other on a link, and how it is written.
//!
//! A link is an ordered, authenticated byte stream between two peers for one manifest. Each
//! message is a frame: its length in 4 bytes, big-endian, then a canonical CBOR array whose first
//! element is the kind. [`Data`](Message::Data) is followed by its payload, which is not part of
//! the frame. Each end opens with a [`Hello`]; docs/PROTOCOL.md tells the whole conversation.
//!
//! Bytes become a message in one place, [`Message::decode`], against the manifest's
//! [`Geometry`]: a message that exists names only pieces that exist, and its lists are within
//! their limits. What does not re-encode to the same bytes is refused.

use std::net::SocketAddr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use thiserror::Error;

use crate::geometry::{Geometry, PIECE_COUNT_MAX, PieceIndex};
use crate::id::{DIGEST_LEN, ManifestId, PeerId};
use crate::manifest::PeerAddr;
use crate::piece_set::PieceSet;

/// The version of the peer protocol.
pub const PROTOCOL_VERSION: u8 = 2;
/// The oldest version that is spoken: without [`Message::Wanted`] and
/// [`Message::Packed`].
pub const PROTOCOL_VERSION_MIN: u8 = 1;
/// Bytes of the length that opens each frame.
pub const FRAME_HEADER_LEN: usize = 4;
/// Longest frame, without its header: a bitfield of the largest manifest and a little more.
pub const FRAME_LEN_MAX: usize = PIECE_COUNT_MAX / 8 + 64;
/// Longest frame before the manifest is agreed on: a hello or a refusal.
pub const HELLO_LEN_MAX: usize = 1024;
/// Most pieces that one message lists: a frame stays below 5 KiB.
pub const LIST_LEN_MAX: usize = 1024;
/// Most addresses that one message passes on.
pub const PEERS_LEN_MAX: usize = 64;
/// Longest payload of one data message, in bytes: a buffer of this size fits the second-level
/// cache, and a control message waits for no more than this.
pub const DATA_LEN_MAX: u32 = 1024 * 1024;
/// Bytes of the proof of a secret: an HMAC-SHA256.
pub const PROOF_LEN: usize = 32;
/// Longest site label, in bytes.
pub const SITE_LEN_MAX: usize = 64;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// Not CBOR, not a known kind, or not the fields of its kind.
    #[error("a message does not follow the schema")]
    Malformed,
    /// It reads well, but would be written with other bytes.
    #[error("a message is not in canonical form")]
    NotCanonical,
    /// A piece index is not below the piece count, or a data range leaves its piece.
    #[error("a message names a piece or range that does not exist")]
    OutOfRange,
    /// A list is empty or too long, a text too long, a bitfield of the wrong size.
    #[error("a message has a field of a wrong size")]
    Size,
    /// A version that this program does not speak.
    #[error("the peer speaks protocol version {0}, this program version {PROTOCOL_VERSION}")]
    Version(u64),
}

/// The first message of each end: who talks about what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The version that is spoken on this link, from [`PROTOCOL_VERSION_MIN`] to
    /// [`PROTOCOL_VERSION`]: the dialler names its own, the listener answers with one that is no
    /// higher.
    pub version: u8,
    /// The dataset that this link is for.
    pub manifest: ManifestId,
    /// Whether the sender has every piece.
    pub complete: bool,
    /// The TCP port at which the sender takes links; 0 where it takes none.
    pub listen_port: u16,
    /// A label of the place where the sender runs: peers of one site prefer each other.
    pub site: Option<Site>,
}

/// The label of a site: 1 to [`SITE_LEN_MAX`] printable ASCII characters without spaces.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Site(String);

impl Site {
    /// The label `text`; `None` where it breaks the rule.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let valid =
            (1..=SITE_LEN_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        valid.then_some(Self(text))
    }

    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The answer to a hello that is not welcome; the link ends with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The manifest is not served here.
    UnknownManifest,
    /// The other end of this link is this very peer.
    Oneself,
    /// This end wants links with TLS only.
    EncryptionRequired,
    /// This end takes plaintext links only.
    EncryptionOff,
    /// This end speaks to those only who prove that they have its cluster's secret.
    SecretRequired,
    /// The proof does not hold: the two ends have different secrets.
    SecretWrong,
    /// This end has no secret.
    SecretUnknown,
}

impl Refusal {
    const ALL: [Refusal; 7] = [
        Refusal::UnknownManifest,
        Refusal::Oneself,
        Refusal::EncryptionRequired,
        Refusal::EncryptionOff,
        Refusal::SecretRequired,
        Refusal::SecretWrong,
        Refusal::SecretUnknown,
    ];

    fn code(self) -> u8 {
        match self {
            Refusal::UnknownManifest => 0,
            Refusal::Oneself => 3,
            Refusal::EncryptionRequired => 4,
            Refusal::EncryptionOff => 5,
            Refusal::SecretRequired => 6,
            Refusal::SecretWrong => 7,
            Refusal::SecretUnknown => 8,
        }
    }

    /// What it means, for a person.
    pub const fn describe(self) -> &'static str {
        match self {
            Refusal::UnknownManifest => "it does not serve this dataset",
            Refusal::Oneself => "it is this very process",
            Refusal::EncryptionRequired => "it wants encryption, which is off here",
            Refusal::EncryptionOff => "its encryption is off",
            Refusal::SecretRequired => "it belongs to a cluster with a secret, and there is none here",
            Refusal::SecretWrong => "its cluster has another secret",
            Refusal::SecretUnknown => "it has no secret",
        }
    }
}

/// The opening of a link, in one direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opening {
    /// Welcome.
    Hello(Hello),
    /// Not welcome.
    Refused(Refusal),
    /// In front of the hello, where there is a secret: the proof that this end has it.
    Proof([u8; PROOF_LEN]),
}

/// Why a request is not answered with data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectReason {
    /// The piece is not here, or not any more.
    Missing,
    /// The request was cancelled before it was served.
    Cancelled,
    /// Too many requests wait.
    Busy,
}

/// A message of an open link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// All pieces that may be requested from the sender; replaces what was said before.
    Bitfield(PieceSet),
    /// More pieces that may be requested from the sender.
    Have(PieceList),
    /// Pieces that may no longer be requested from the sender.
    Lost(PieceList),
    /// Asks for whole pieces. Each is answered once: with all its data, or with a reject.
    Request(PieceList),
    /// Takes requests back. The answer to each may still be its data.
    Cancel(PieceList),
    /// The request for this piece will not be answered with (more) data.
    Reject(PieceIndex, RejectReason),
    /// The header of `len` bytes of `piece` from `offset` on, which follow the frame. The data
    /// of a piece comes in order, and is not mixed with that of another piece.
    Data {
        /// The piece.
        piece: PieceIndex,
        /// Offset in the piece, in bytes.
        offset: u32,
        /// Length of the payload: 1 to [`DATA_LEN_MAX`].
        len: u32,
    },
    /// The header of `len` bytes, from `offset` on, of the packed form of `piece`: a zstd frame
    /// (RFC 8878) of `total` bytes that holds the whole piece. They follow the frame, in order.
    /// Only for pieces of up to [`DATA_LEN_MAX`], and only where it is shorter than the piece.
    /// Since version 2.
    Packed {
        /// The piece.
        piece: PieceIndex,
        /// Offset in the packed form, in bytes.
        offset: u32,
        /// Length of the payload: at least 1.
        len: u32,
        /// Length of the packed form: less than the piece's.
        total: u32,
    },
    /// The piece that was received has the wrong hash: whoever sent it may want to check it.
    Corrupt(PieceIndex),
    /// Addresses of other peers of this manifest.
    Peers(Vec<PeerAddr>),
    /// Nothing to say, still there.
    KeepAlive,
    /// The sender wants these pieces and no others; before it says so, it wants all. Since
    /// version 2.
    Wanted(PieceSet),
    /// The sender has little to send: what it has is best asked of it. Since version 2.
    Idle,
}

/// 1 to [`LIST_LEN_MAX`] pieces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PieceList(Vec<PieceIndex>);

impl PieceList {
    /// The list of these pieces; `None` where it is empty or too long.
    pub fn new(pieces: Vec<PieceIndex>) -> Option<Self> {
        (1..=LIST_LEN_MAX).contains(&pieces.len()).then_some(Self(pieces))
    }

    /// The list of just `piece`.
    pub fn one(piece: PieceIndex) -> Self {
        Self(vec![piece])
    }

    /// As many lists as `pieces` need.
    pub fn split(pieces: &[PieceIndex]) -> impl Iterator<Item = Self> + '_ {
        pieces.chunks(LIST_LEN_MAX).map(|chunk| Self(chunk.to_vec()))
    }

    /// The pieces.
    pub fn pieces(&self) -> &[PieceIndex] {
        &self.0
    }
}

const KIND_HELLO: u8 = 0;
const KIND_BITFIELD: u8 = 1;
const KIND_HAVE: u8 = 2;
const KIND_LOST: u8 = 3;
const KIND_REQUEST: u8 = 4;
const KIND_CANCEL: u8 = 5;
const KIND_REJECT: u8 = 6;
const KIND_DATA: u8 = 7;
const KIND_CORRUPT: u8 = 8;
const KIND_PEERS: u8 = 9;
const KIND_KEEP_ALIVE: u8 = 10;
const KIND_REFUSED: u8 = 11;
const KIND_WANTED: u8 = 12;
const KIND_PACKED: u8 = 13;
const KIND_PROOF: u8 = 14;
const KIND_IDLE: u8 = 15;

type HelloCbor = (u8, u64, ByteBuf, bool, u16, Option<String>);
type PeerCbor = (Option<ByteBuf>, String);

impl Opening {
    /// The body of its frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Opening::Hello(hello) => {
                let site = hello.site.as_ref().map(|site| site.0.clone());
                let manifest = ByteBuf::from(*hello.manifest.as_bytes());
                let body: HelloCbor =
                    (KIND_HELLO, u64::from(hello.version), manifest, hello.complete, hello.listen_port, site);
                to_cbor(&body)
            }
            Opening::Refused(refusal) => to_cbor(&(KIND_REFUSED, refusal.code())),
            Opening::Proof(proof) => to_cbor(&(KIND_PROOF, ByteBuf::from(*proof))),
        }
    }

    /// The opening that the frame body `body` holds.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let opening = match kind(body)? {
            KIND_HELLO => {
                let (_, version, manifest, complete, listen_port, site): HelloCbor = from_cbor(body)?;
                let known = u8::try_from(version).ok();
                let known = known.filter(|it| (PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(it));
                let version = known.ok_or(WireError::Version(version))?;
                let manifest: [u8; DIGEST_LEN] =
                    manifest.into_vec().try_into().map_err(|_| WireError::Size)?;
                let site = match site {
                    Some(text) => Some(Site::new(text).ok_or(WireError::Size)?),
                    None => None,
                };
                let manifest = ManifestId::from_bytes(manifest);
                Opening::Hello(Hello { version, manifest, complete, listen_port, site })
            }
            KIND_PROOF => {
                let (_, proof): (u8, ByteBuf) = from_cbor(body)?;
                Opening::Proof(proof.into_vec().try_into().map_err(|_| WireError::Size)?)
            }
            KIND_REFUSED => {
                let (_, code): (u8, u8) = from_cbor(body)?;
                let known = Refusal::ALL.into_iter().find(|refusal| refusal.code() == code);
                Opening::Refused(known.ok_or(WireError::Malformed)?)
            }
            _ => return Err(WireError::Malformed),
        };
        if opening.encode() == body { Ok(opening) } else { Err(WireError::NotCanonical) }
    }
}

impl Message {
    /// The body of its frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Message::Bitfield(set) => to_cbor(&(KIND_BITFIELD, ByteBuf::from(set.to_bytes()))),
            Message::Have(list) => list.encode(KIND_HAVE),
            Message::Lost(list) => list.encode(KIND_LOST),
            Message::Request(list) => list.encode(KIND_REQUEST),
            Message::Cancel(list) => list.encode(KIND_CANCEL),
            Message::Reject(piece, reason) => to_cbor(&(KIND_REJECT, piece.to_u32(), *reason as u8)),
            Message::Data { piece, offset, len } => to_cbor(&(KIND_DATA, piece.to_u32(), offset, len)),
            Message::Packed { piece, offset, len, total } => {
                to_cbor(&(KIND_PACKED, piece.to_u32(), offset, len, total))
            }
            Message::Corrupt(piece) => to_cbor(&(KIND_CORRUPT, piece.to_u32())),
            Message::Peers(peers) => {
                let peer = |peer: &PeerAddr| -> PeerCbor {
                    (peer.peer.map(|id| ByteBuf::from(id.as_bytes())), peer.addr.to_string())
                };
                to_cbor(&(KIND_PEERS, peers.iter().map(peer).collect::<Vec<_>>()))
            }
            Message::KeepAlive => to_cbor(&(KIND_KEEP_ALIVE,)),
            Message::Wanted(set) => to_cbor(&(KIND_WANTED, ByteBuf::from(set.to_bytes()))),
            Message::Idle => to_cbor(&(KIND_IDLE,)),
        }
    }

    /// The message that the frame body `body` holds, on a link for a manifest of this geometry.
    pub fn decode(body: &[u8], geometry: &Geometry) -> Result<Self, WireError> {
        let piece = |index: u32| geometry.piece(u64::from(index)).ok_or(WireError::OutOfRange);
        let message = match kind(body)? {
            KIND_BITFIELD => {
                let (_, bytes): (u8, ByteBuf) = from_cbor(body)?;
                let set = PieceSet::from_bytes(&bytes, geometry.piece_count());
                Message::Bitfield(set.ok_or(WireError::Size)?)
            }
            KIND_WANTED => {
                let (_, bytes): (u8, ByteBuf) = from_cbor(body)?;
                let set = PieceSet::from_bytes(&bytes, geometry.piece_count());
                Message::Wanted(set.ok_or(WireError::Size)?)
            }
            KIND_HAVE => Message::Have(PieceList::decode(body, geometry)?),
            KIND_LOST => Message::Lost(PieceList::decode(body, geometry)?),
            KIND_REQUEST => Message::Request(PieceList::decode(body, geometry)?),
            KIND_CANCEL => Message::Cancel(PieceList::decode(body, geometry)?),
            KIND_REJECT => {
                let (_, index, reason): (u8, u32, u8) = from_cbor(body)?;
                let reasons = [RejectReason::Missing, RejectReason::Cancelled, RejectReason::Busy];
                let known = reasons.into_iter().find(|known| *known as u8 == reason);
                Message::Reject(piece(index)?, known.ok_or(WireError::Malformed)?)
            }
            KIND_DATA => {
                let (_, index, offset, len): (u8, u32, u32, u32) = from_cbor(body)?;
                let piece = piece(index)?;
                if len == 0 || len > DATA_LEN_MAX {
                    return Err(WireError::Size);
                }
                match offset.checked_add(len) {
                    Some(end) if end <= geometry.piece_len(piece) => Message::Data { piece, offset, len },
                    _ => return Err(WireError::OutOfRange),
                }
            }
            KIND_PACKED => {
                let (_, index, offset, len, total): (u8, u32, u32, u32, u32) = from_cbor(body)?;
                let piece = piece(index)?;
                let piece_len = geometry.piece_len(piece);
                if len == 0 || piece_len > DATA_LEN_MAX || total >= piece_len {
                    return Err(WireError::Size);
                }
                match offset.checked_add(len) {
                    Some(end) if end <= total => Message::Packed { piece, offset, len, total },
                    _ => return Err(WireError::OutOfRange),
                }
            }
            KIND_CORRUPT => {
                let (_, index): (u8, u32) = from_cbor(body)?;
                Message::Corrupt(piece(index)?)
            }
            KIND_PEERS => {
                let (_, peers): (u8, Vec<PeerCbor>) = from_cbor(body)?;
                if peers.is_empty() || peers.len() > PEERS_LEN_MAX {
                    return Err(WireError::Size);
                }
                Message::Peers(peers.into_iter().map(decode_peer).collect::<Result<_, _>>()?)
            }
            KIND_KEEP_ALIVE => {
                let (_,): (u8,) = from_cbor(body)?;
                Message::KeepAlive
            }
            KIND_IDLE => {
                let (_,): (u8,) = from_cbor(body)?;
                Message::Idle
            }
            _ => return Err(WireError::Malformed),
        };
        if message.encode() == body { Ok(message) } else { Err(WireError::NotCanonical) }
    }
}

impl PieceList {
    fn encode(&self, kind: u8) -> Vec<u8> {
        to_cbor(&(kind, self.0.iter().map(|piece| piece.to_u32()).collect::<Vec<_>>()))
    }

    fn decode(body: &[u8], geometry: &Geometry) -> Result<Self, WireError> {
        let (_, indices): (u8, Vec<u32>) = from_cbor(body)?;
        let pieces = indices.into_iter().map(|index| geometry.piece(u64::from(index)));
        let pieces = pieces.collect::<Option<Vec<_>>>().ok_or(WireError::OutOfRange)?;
        Self::new(pieces).ok_or(WireError::Size)
    }
}

fn decode_peer((peer, addr): PeerCbor) -> Result<PeerAddr, WireError> {
    let peer = match peer {
        Some(bytes) => Some(PeerId::from_bytes(&bytes).ok_or(WireError::Size)?),
        None => None,
    };
    let addr: SocketAddr = addr.parse().map_err(|_| WireError::Malformed)?;
    Ok(PeerAddr { peer, addr })
}

/// The frame of `body`: its length, then itself.
///
/// # Panics
/// Where `body` is longer than [`FRAME_LEN_MAX`], which no message of ours is.
pub fn frame(body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= FRAME_LEN_MAX, "every message fits a frame");
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(FRAME_HEADER_LEN + body.len());
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// The kind of a frame body, its array's first element; all kinds are below 24, so they are one
/// byte behind the array's one-byte header.
fn kind(body: &[u8]) -> Result<u8, WireError> {
    body.get(1).copied().ok_or(WireError::Malformed)
}

fn to_cbor(value: &impl Serialize) -> Vec<u8> {
    serde_cbor::to_vec(value).expect("a value of our own types always encodes to CBOR")
}

fn from_cbor<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    serde_cbor::from_slice(body).map_err(|_| WireError::Malformed)
}
