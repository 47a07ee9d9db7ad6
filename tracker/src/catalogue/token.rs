//! Who may write: the token of a tracker, and how its holder proves to have it.
//!
//! The token is 32 random bytes in a file of mode 600 (64 hexadecimal digits). It never travels:
//! the tracker gives each connection a nonce, and the holder answers with an HMAC-SHA256 over the
//! nonce and both identities of the connection, which TLS has proven. So a proof is worth nothing
//! on another connection, at another tracker, or to another peer.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;

use dft_protocol::id::PeerId;
use hmac::{Hmac, KeyInit, Mac};
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::Sha256;
use thiserror::Error;

/// Length of a token, in bytes.
pub const TOKEN_LEN: usize = 32;
/// Length of a nonce, in bytes.
pub const NONCE_LEN: usize = 32;
/// Length of a proof, in bytes.
pub const PROOF_LEN: usize = 32;
/// Longest token file that is read, in bytes: 64 digits and white space around them.
const TOKEN_FILE_LEN_MAX: u64 = 256;
/// Keeps these proofs apart from those of anything else that may use the same key.
const CONTEXT: &[u8] = b"dft catalogue write 1";

/// A tracker's challenge to one connection.
pub type Nonce = [u8; NONCE_LEN];
/// The answer to a challenge.
pub type Proof = [u8; PROOF_LEN];

/// Why there is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// Others can read the file.
    #[error("others on this machine can read {path}: chmod 600 {path}")]
    Readable {
        /// The file.
        path: String,
    },
    /// Not 64 hexadecimal digits.
    #[error("a token is 64 hexadecimal digits")]
    Malformed,
}

/// The right to write into a catalogue.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; TOKEN_LEN]);

impl Token {
    /// A new token, from the system's randomness.
    pub fn random() -> io::Result<Self> {
        random_bytes().map(Self)
    }

    /// The token in the file at `path`.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let io = |error| TokenError::Io { path: path.display().to_string(), error };
        let metadata = fs::metadata(path).map_err(io)?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(TokenError::Readable { path: path.display().to_string() });
        }
        if metadata.len() > TOKEN_FILE_LEN_MAX {
            return Err(TokenError::Malformed);
        }
        fs::read_to_string(path).map_err(io)?.trim().parse()
    }

    /// As it is written into a file: 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The proof for `challenge`.
    pub fn prove(&self, challenge: &Challenge<'_>) -> Proof {
        self.mac(challenge).finalize().into_bytes().into()
    }

    /// Whether `proof` answers `challenge`; takes the same time whatever is wrong with it.
    pub fn accepts(&self, challenge: &Challenge<'_>, proof: &Proof) -> bool {
        self.mac(challenge).verify_slice(proof).is_ok()
    }

    fn mac(&self, challenge: &Challenge<'_>) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length is taken");
        mac.update(CONTEXT);
        mac.update(challenge.nonce);
        for peer in [challenge.client, challenge.tracker] {
            let bytes = peer.as_bytes();
            mac.update(&[u8::try_from(bytes.len()).expect("a peer id has at most 64 bytes")]);
            mac.update(bytes);
        }
        mac.update(&challenge.epoch.to_be_bytes());
        mac
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let digits = text.as_bytes();
        if digits.len() != 2 * TOKEN_LEN {
            return Err(TokenError::Malformed);
        }
        let digit = |byte: u8| {
            let value = char::from(byte).to_digit(16).ok_or(TokenError::Malformed)?;
            u8::try_from(value).map_err(|_| TokenError::Malformed)
        };
        let mut bytes = [0; TOKEN_LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

/// What a proof is about.
#[derive(Debug, Clone, Copy)]
pub struct Challenge<'a> {
    /// The tracker's, for one connection and one attempt.
    pub nonce: &'a Nonce,
    /// Who proves.
    pub client: PeerId,
    /// To whom.
    pub tracker: PeerId,
    /// The highest epoch that the client has heard of.
    pub epoch: u64,
}

/// As many random bytes, from the system.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes(&[number; 38]).expect("38 bytes")
    }

    #[test]
    fn a_proof_is_good_for_one_nonce_and_pair_only() {
        let token = Token([7; TOKEN_LEN]);
        let challenge = Challenge { nonce: &[1; NONCE_LEN], client: peer(1), tracker: peer(2), epoch: 3 };
        let proof = token.prove(&challenge);
        assert!(token.accepts(&challenge, &proof));
        let others = [
            Challenge { nonce: &[2; NONCE_LEN], ..challenge },
            Challenge { client: peer(3), ..challenge },
            Challenge { tracker: peer(3), ..challenge },
            Challenge { client: peer(2), tracker: peer(1), ..challenge },
            Challenge { epoch: 4, ..challenge },
        ];
        for other in others {
            assert!(!token.accepts(&other, &proof), "{other:?}");
        }
        assert!(!Token([8; TOKEN_LEN]).accepts(&challenge, &proof));
    }

    #[test]
    fn a_token_survives_its_file_and_is_never_printed() {
        let token = Token::random().expect("randomness");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        fs::write(&path, format!("{}\n", token.to_hex())).expect("write");
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        for readable in [0o644, 0o640, 0o604] {
            mode(readable);
            assert!(matches!(Token::read(&path), Err(TokenError::Readable { .. })), "{readable:o}");
        }
        mode(0o600);
        assert_eq!(Token::read(&path).expect("read"), token);
        assert_eq!(format!("{token:?}"), "Token(…)");
        for text in ["", "xy", &"0".repeat(63), &"é".repeat(32), &"0".repeat(1000)] {
            fs::write(&path, text).expect("write");
            assert!(matches!(Token::read(&path), Err(TokenError::Malformed)), "{text}");
        }
    }
}
