//! Identifiers: of a manifest, of a peer, and the hash of a piece.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// Length of a SHA-256 digest, in bytes.
pub const DIGEST_LEN: usize = 32;
/// Longest peer identity that is accepted, in bytes (an Ed25519 libp2p PeerId has 38).
pub const PEER_ID_LEN_MAX: usize = 64;

/// The identity of a dataset: the SHA-256 of the canonical bytes of its manifest's `info`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestId([u8; DIGEST_LEN]);

impl ManifestId {
    /// The id whose digest is `bytes`.
    pub const fn from_bytes(bytes: [u8; DIGEST_LEN]) -> Self {
        Self(bytes)
    }

    /// The id of the manifest whose canonical `info` is `info`.
    pub fn of_info(info: &[u8]) -> Self {
        Self(Sha256::digest(info).into())
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0
    }

    /// The first 12 hexadecimal digits: enough for a person to tell datasets apart.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for ManifestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for ManifestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManifestId({self})")
    }
}

/// A string is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a manifest id is 64 hexadecimal digits")]
pub struct ParseManifestIdError;

impl FromStr for ManifestId {
    type Err = ParseManifestIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 2 * DIGEST_LEN {
            return Err(ParseManifestIdError);
        }
        let mut bytes = [0; DIGEST_LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn hex_digit(digit: u8) -> Result<u8, ParseManifestIdError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(ParseManifestIdError),
    }
}

/// What a piece must hash to.
///
/// A piece of nothing but zero bytes is never sent: its hash is written as 32 zero bytes
/// ([`PieceHash::ZEROS`]), a value that no input of SHA-256 is known to have.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PieceHash([u8; DIGEST_LEN]);

impl PieceHash {
    /// Stands for a piece in which every byte is zero, whatever its length.
    pub const ZEROS: PieceHash = PieceHash([0; DIGEST_LEN]);

    /// The hash whose bytes are `bytes`.
    pub const fn from_bytes(bytes: [u8; DIGEST_LEN]) -> Self {
        Self(bytes)
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0
    }

    /// Whether this stands for a piece of zero bytes.
    pub fn is_zeros(&self) -> bool {
        *self == Self::ZEROS
    }
}

impl fmt::Debug for PieceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// Who a peer is: the bytes of its libp2p PeerId, opaque here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    // Padded with zeros behind `len`, so that the derived comparisons are those of the bytes.
    bytes: [u8; PEER_ID_LEN_MAX],
    len: u8,
}

impl PeerId {
    /// The identity with these bytes; `None` where they are empty or more than
    /// [`PEER_ID_LEN_MAX`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || bytes.len() > PEER_ID_LEN_MAX {
            return None;
        }
        let mut padded = [0; PEER_ID_LEN_MAX];
        padded[..bytes.len()].copy_from_slice(bytes);
        let len = u8::try_from(bytes.len()).ok()?;
        Some(Self { bytes: padded, len })
    }

    /// The identity's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for PeerId {
    /// The last 8 bytes in hexadecimal: the first ones only say which kind of key it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.as_bytes();
        write_hex(f, &bytes[bytes.len().saturating_sub(8)..])
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_id_survives_its_text() {
        let id = ManifestId::of_info(b"info");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("abc".parse::<ManifestId>(), Err(ParseManifestIdError));
        assert_eq!("g".repeat(64).parse::<ManifestId>(), Err(ParseManifestIdError));
    }

    #[test]
    fn peer_id_has_bounds() {
        assert!(PeerId::from_bytes(&[]).is_none());
        assert!(PeerId::from_bytes(&[1; PEER_ID_LEN_MAX + 1]).is_none());
        assert_eq!(PeerId::from_bytes(&[1, 2]).map(|id| id.as_bytes().to_vec()), Some(vec![1, 2]));
    }
}
