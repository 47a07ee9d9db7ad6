//! `/dft/node/1`: what one daemon asks another.
//!
//! Who it is and where the catalogue is; to fetch a dataset that the catalogue names; which pieces
//! of a dataset it has. Framing and canonical form are those of [`dft_tracker::codec`].
//!
//! ```text
//! request  = [0, "", h''] / [1, dataset name, manifest] / [2, "", manifest]
//! response = [0, node name, [* tracker], []] / [1, "", [], []] / [2, "", [], []]
//!          / [3, reason, [], []] / [4, "", [], [* [first piece, last piece]]]
//! ```

use dft_protocol::id::ManifestId;
use dft_tracker::catalogue::name::fools_a_terminal;
use dft_tracker::codec::{Message, MessageCodec, MessageError, decode_canonical, to_cbor};
use dft_tracker::protocol::manifest_id_from_cbor;
use libp2p::StreamProtocol;
use serde_bytes::ByteBuf;

/// The libp2p name of the protocol.
pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/dft/node/1");
/// Longest name of a dataset or node, and longest reason, in bytes.
pub(super) const TEXT_LEN_MAX: usize = 1024;
/// Most addresses of trackers that a node names: a few interfaces of one or two trackers.
pub const TRACKERS_MAX: usize = 8;
/// Most runs of pieces that an answer tells of; a set with more is told as far as they reach.
pub const RUNS_MAX: usize = 4096;

/// The codec of the protocol.
pub(super) type NodeCodec = MessageCodec<NodeRequest, NodeResponse>;

/// What a node is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeRequest {
    /// Who are you, and where is the catalogue?
    Hello,
    /// Fetch this dataset, which the catalogue knows under this name.
    Fetch {
        /// Its name.
        name: String,
        /// What it has to be.
        manifest: ManifestId,
    },
    /// Which pieces of it do you have?
    Pieces {
        /// The dataset.
        manifest: ManifestId,
    },
}

/// What a node answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeResponse {
    /// To [`NodeRequest::Hello`].
    Node {
        /// The name of the host.
        name: String,
        /// Where the catalogue is, as far as this node knows; each a multiaddress.
        trackers: Vec<String>,
    },
    /// The fetch begins, or is under way.
    Accepted,
    /// The dataset is here already.
    Complete,
    /// It will not.
    Refused {
        /// Why.
        reason: String,
    },
    /// To [`NodeRequest::Pieces`]: runs of pieces, first and last of each.
    Pieces(Vec<(u32, u32)>),
}

impl NodeResponse {
    /// A refusal, its reason cut where it is too long.
    pub fn refused(reason: impl Into<String>) -> Self {
        // A message may have several lines.
        let shown = |letter: char| if fools_a_terminal(letter) { ' ' } else { letter };
        let mut reason: String = reason.into().chars().map(shown).collect();
        while reason.len() > TEXT_LEN_MAX {
            reason.pop();
        }
        Self::Refused { reason }
    }
}

type RequestWire = (u8, String, ByteBuf);
type ResponseWire = (u8, String, Vec<String>, Vec<(u32, u32)>);

impl Message for NodeRequest {
    const LEN_MAX: usize = 2048;

    fn encode(&self) -> Vec<u8> {
        let bytes = |manifest: &ManifestId| ByteBuf::from(manifest.as_bytes());
        let wire: RequestWire = match self {
            Self::Hello => (0, String::new(), ByteBuf::new()),
            Self::Fetch { name, manifest } => (1, name.clone(), bytes(manifest)),
            Self::Pieces { manifest } => (2, String::new(), bytes(manifest)),
        };
        to_cbor(&wire)
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        decode_canonical::<Self, RequestWire>(bytes)
    }
}

impl Message for NodeResponse {
    /// 4,096 runs need 46 KB.
    const LEN_MAX: usize = 64 * 1024;

    fn encode(&self) -> Vec<u8> {
        let text = String::new;
        let wire: ResponseWire = match self {
            Self::Node { name, trackers } => (0, name.clone(), trackers.clone(), Vec::new()),
            Self::Accepted => (1, text(), Vec::new(), Vec::new()),
            Self::Complete => (2, text(), Vec::new(), Vec::new()),
            Self::Refused { reason } => (3, reason.clone(), Vec::new(), Vec::new()),
            Self::Pieces(runs) => (4, text(), Vec::new(), runs.clone()),
        };
        to_cbor(&wire)
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        decode_canonical::<Self, ResponseWire>(bytes)
    }
}

/// Nothing where the schema has nothing: what is dropped would not be written again. All of it may
/// be shown to a person.
fn check_text(text: &str) -> Result<(), MessageError> {
    if text.len() > TEXT_LEN_MAX {
        return Err(MessageError::Invalid("a text is too long"));
    }
    if text.chars().any(fools_a_terminal) {
        return Err(MessageError::Invalid("a text holds characters that fool a terminal"));
    }
    Ok(())
}

impl TryFrom<RequestWire> for NodeRequest {
    type Error = MessageError;

    fn try_from((kind, name, manifest): RequestWire) -> Result<Self, MessageError> {
        check_text(&name)?;
        match kind {
            0 => Ok(Self::Hello),
            1 => Ok(Self::Fetch { name, manifest: manifest_id_from_cbor(&manifest)? }),
            2 => Ok(Self::Pieces { manifest: manifest_id_from_cbor(&manifest)? }),
            _ => Err(MessageError::Invalid("a message of no known kind")),
        }
    }
}

impl TryFrom<ResponseWire> for NodeResponse {
    type Error = MessageError;

    fn try_from((kind, text, trackers, runs): ResponseWire) -> Result<Self, MessageError> {
        check_text(&text)?;
        trackers.iter().try_for_each(|tracker| check_text(tracker))?;
        if trackers.len() > TRACKERS_MAX {
            return Err(MessageError::Invalid("too many trackers"));
        }
        if runs.len() > RUNS_MAX {
            return Err(MessageError::Invalid("too many runs of pieces"));
        }
        if runs.iter().any(|(first, last)| first > last) {
            return Err(MessageError::Invalid("a run of pieces ends before it begins"));
        }
        match kind {
            0 => Ok(Self::Node { name: text, trackers }),
            1 => Ok(Self::Accepted),
            2 => Ok(Self::Complete),
            3 => Ok(Self::Refused { reason: text }),
            4 => Ok(Self::Pieces(runs)),
            _ => Err(MessageError::Invalid("a message of no known kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> ManifestId {
        ManifestId::from_bytes([7; 32])
    }

    /// Decodes to itself; every prefix and flipped bit is refused or is another message.
    fn survives_damage<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
        let bytes = message.encode();
        assert!(bytes.len() <= M::LEN_MAX);
        assert_eq!(M::decode(&bytes).as_ref(), Ok(message));
        for len in 0..bytes.len() {
            assert!(M::decode(&bytes[..len]).is_err(), "a prefix of {len} bytes");
        }
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = M::decode(&flipped) {
                assert_eq!(other.encode(), flipped, "bit {bit}");
            }
        }
    }

    #[test]
    fn damaged_messages_are_refused_or_others() {
        survives_damage(&NodeRequest::Hello);
        survives_damage(&NodeRequest::Fetch { name: "genome/v1".into(), manifest: manifest() });
        survives_damage(&NodeRequest::Pieces { manifest: manifest() });
        survives_damage(&NodeResponse::Node { name: "h1".into(), trackers: vec!["/ip4/10.0.0.1".into()] });
        survives_damage(&NodeResponse::Accepted);
        survives_damage(&NodeResponse::Complete);
        survives_damage(&NodeResponse::refused("no room"));
        survives_damage(&NodeResponse::Pieces(vec![(0, 5), (9, 9)]));
    }

    #[test]
    fn what_is_not_valid_is_refused() {
        let invalid = |why| Err(MessageError::Invalid(why));
        let runs = |runs| NodeResponse::decode(&NodeResponse::Pieces(runs).encode());
        assert_eq!(runs(vec![(5, 4)]), invalid("a run of pieces ends before it begins"));
        assert_eq!(runs(vec![(1, 1); RUNS_MAX + 1]), invalid("too many runs of pieces"));
        let long = NodeRequest::Fetch { name: "n".repeat(TEXT_LEN_MAX + 1), manifest: manifest() };
        assert_eq!(NodeRequest::decode(&long.encode()), Err(MessageError::Invalid("a text is too long")));
        let many =
            NodeResponse::Node { name: String::new(), trackers: vec![String::new(); TRACKERS_MAX + 1] };
        assert_eq!(NodeResponse::decode(&many.encode()), invalid("too many trackers"));
        for (text, is_safe) in [("no room", true), ("\u{1b}[2J", false), ("a\u{202e}b", false)] {
            let raw = NodeResponse::Refused { reason: text.into() };
            assert_eq!(NodeResponse::decode(&raw.encode()).is_ok(), is_safe, "{text:?}");
            let node = NodeResponse::Node { name: String::new(), trackers: vec![text.into()] };
            assert_eq!(NodeResponse::decode(&node.encode()).is_ok(), is_safe, "{text:?}");
        }
        let cleaned = NodeResponse::refused("two\nlines");
        assert_eq!(NodeResponse::decode(&cleaned.encode()).as_ref(), Ok(&cleaned), "one's own always arrive");
        assert!(NodeRequest::decode(&[0x81; NodeRequest::LEN_MAX]).is_err(), "deep nesting");
    }
}
