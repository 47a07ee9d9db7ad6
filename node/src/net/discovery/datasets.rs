//! `/dft/datasets/1`: «which of these manifests do you serve, and on which link port?»
//!
//! Asked of every peer that mDNS found. Framing and canonical form are those of
//! [`dft_tracker::codec`].
//!
//! ```text
//! request  = [0, [* manifest]]
//! response = [0, [* [manifest, link_port, complete]]]
//! ```

use dft_protocol::id::ManifestId;
use dft_tracker::codec::{Message, MessageCodec, MessageError, decode_canonical, to_cbor};
use dft_tracker::protocol::manifest_id_from_cbor;
use libp2p::StreamProtocol;
use serde_bytes::ByteBuf;

/// The libp2p name of the protocol.
pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/dft/datasets/1");
/// Most manifests of one question, and of its answer: whoever looks for more asks again.
pub(super) const MANIFESTS_PER_QUESTION_MAX: usize = 16;

/// The codec of the protocol.
pub(super) type DatasetsCodec = MessageCodec<Question, Answer>;

/// The manifests that are asked for: at most [`MANIFESTS_PER_QUESTION_MAX`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Question(Vec<ManifestId>);

impl Question {
    /// Asks for these manifests, as far as [`MANIFESTS_PER_QUESTION_MAX`] reaches.
    pub(super) fn about(mut manifests: Vec<ManifestId>) -> Self {
        manifests.truncate(MANIFESTS_PER_QUESTION_MAX);
        Self(manifests)
    }

    /// What it asks for.
    pub(super) fn manifests(&self) -> &[ManifestId] {
        &self.0
    }
}

/// One dataset that a peer serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Served {
    /// The dataset.
    pub(super) manifest: ManifestId,
    /// Where the peer takes links for it; never 0.
    pub(super) link_port: u16,
    /// Whether the peer has every piece.
    pub(super) complete: bool,
}

/// What a peer serves of what it was asked for: at most [`MANIFESTS_PER_QUESTION_MAX`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer(Vec<Served>);

impl Answer {
    /// Serves `served`, as far as links are taken for it and [`MANIFESTS_PER_QUESTION_MAX`]
    /// reaches.
    pub(super) fn new(served: impl IntoIterator<Item = Served>) -> Self {
        let taken = served.into_iter().filter(|served| served.link_port != 0);
        Self(taken.take(MANIFESTS_PER_QUESTION_MAX).collect())
    }

    /// What it says about `manifest`.
    pub(super) fn about(&self, manifest: ManifestId) -> Option<Served> {
        self.0.iter().copied().find(|served| served.manifest == manifest)
    }
}

impl Message for Question {
    /// 16 manifests need 550 bytes.
    const LEN_MAX: usize = 1024;

    fn encode(&self) -> Vec<u8> {
        to_cbor(&(KIND_BY_ID, self.0.iter().map(to_bytes).collect::<Vec<_>>()))
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        decode_canonical::<Self, (u8, Vec<ByteBuf>)>(bytes)
    }
}

impl Message for Answer {
    /// 16 datasets need 640 bytes.
    const LEN_MAX: usize = 1024;

    fn encode(&self) -> Vec<u8> {
        let served = |served: &Served| (to_bytes(&served.manifest), served.link_port, served.complete);
        to_cbor(&(KIND_BY_ID, self.0.iter().map(served).collect::<Vec<_>>()))
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        decode_canonical::<Self, (u8, Vec<(ByteBuf, u16, bool)>)>(bytes)
    }
}

const KIND_BY_ID: u8 = 0;

fn to_bytes(manifest: &ManifestId) -> ByteBuf {
    ByteBuf::from(manifest.as_bytes())
}

fn check(kind: u8, manifests: usize) -> Result<(), MessageError> {
    if kind != KIND_BY_ID {
        return Err(MessageError::Invalid("a message of no known kind"));
    }
    if manifests > MANIFESTS_PER_QUESTION_MAX {
        return Err(MessageError::Invalid("too many manifests"));
    }
    Ok(())
}

impl TryFrom<(u8, Vec<ByteBuf>)> for Question {
    type Error = MessageError;

    fn try_from((kind, manifests): (u8, Vec<ByteBuf>)) -> Result<Self, MessageError> {
        check(kind, manifests.len())?;
        Ok(Self(manifests.iter().map(|id| manifest_id_from_cbor(id)).collect::<Result<_, _>>()?))
    }
}

impl TryFrom<(u8, Vec<(ByteBuf, u16, bool)>)> for Answer {
    type Error = MessageError;

    fn try_from((kind, datasets): (u8, Vec<(ByteBuf, u16, bool)>)) -> Result<Self, MessageError> {
        check(kind, datasets.len())?;
        let served = |(manifest, link_port, complete): (ByteBuf, u16, bool)| {
            if link_port == 0 {
                return Err(MessageError::Invalid("a link port is 0"));
            }
            Ok(Served { manifest: manifest_id_from_cbor(&manifest)?, link_port, complete })
        };
        Ok(Self(datasets.into_iter().map(served).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(number: u8) -> ManifestId {
        ManifestId::from_bytes([number; 32])
    }

    fn served(number: u8) -> Served {
        Served { manifest: manifest(number), link_port: 4711, complete: number.is_multiple_of(2) }
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
        survives_damage(&Question(vec![]));
        survives_damage(&Question::about(vec![manifest(1)]));
        survives_damage(&Question((0..16).map(manifest).collect()));
        survives_damage(&Answer::new([]));
        survives_damage(&Answer((0..16).map(served).collect()));
    }

    #[test]
    fn what_is_not_valid_is_refused() {
        let too_many = Question((0..17).map(manifest).collect());
        assert_eq!(Question::decode(&too_many.encode()), Err(MessageError::Invalid("too many manifests")));
        let no_port = Answer(vec![Served { link_port: 0, ..served(1) }]);
        assert_eq!(Answer::decode(&no_port.encode()), Err(MessageError::Invalid("a link port is 0")));
        assert_eq!(Answer::new([Served { link_port: 0, ..served(1) }]), Answer::new([]));
        assert_eq!(
            Question::decode(&[0x82, 0x01, 0x80]),
            Err(MessageError::Invalid("a message of no known kind"))
        );
        assert!(Question::decode(&[0x81; Question::LEN_MAX]).is_err(), "deep nesting");
    }

    #[test]
    fn an_answer_is_about_what_was_asked() {
        let answer = Answer(vec![served(1), served(2)]);
        assert_eq!(answer.about(manifest(2)), Some(served(2)));
        assert_eq!(answer.about(manifest(3)), None);
        let asked: Vec<ManifestId> = (0..20).map(manifest).collect();
        assert_eq!(Question::about(asked.clone()).manifests(), &asked[..MANIFESTS_PER_QUESTION_MAX]);
    }
}
