//! The secret of a private cluster: who has it takes part, others learn nothing.
//!
//! On links each end proves that it has the secret, before anything else is said, by an HMAC that
//! holds for this one connection and role ([`Secret::prove`]). Beneath libp2p (trackers, questions on
//! the LAN) a key that follows from it encrypts everything ([`Secret::network_key`]).
//!
//! Invariant: the secret itself never leaves this module but for the file that holds it; it is
//! neither printed nor logged nor given on a command line.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::failure::{Failure, Kind};

/// Bytes of a secret, and of a proof.
pub const SECRET_LEN: usize = 32;
/// What the first line of its file says.
const HEADER: &str = "dft secret 1";
/// Longest file that can hold one.
const FILE_LEN_MAX: u64 = 256;
/// For this user alone.
const MODE: u32 = 0o600;

/// What all members of a cluster know, and nobody else.
#[derive(Clone)]
pub struct Secret([u8; SECRET_LEN]);

/// Which end of a link proves something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prover {
    /// The end that connected.
    Dialler,
    /// The end that accepted.
    Listener,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// A new one.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// Writes a new file that holds it, readable for this user alone. A file that exists stays as
    /// it is.
    pub fn write_new(&self, path: &Path) -> Result<(), Failure> {
        let create = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
            file.write_all(self.to_text().as_bytes())?;
            file.sync_all()
        };
        create().map_err(|error| {
            let failure = Failure::given("write", path, &error);
            match error.kind() {
                std::io::ErrorKind::AlreadyExists => failure.hint(
                    "who has the old one could no longer take part; remove it first, or name another file",
                ),
                _ => failure,
            }
        })
    }

    /// Reads the file that holds it. Others must not be able to.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let usage = |text: String| Failure::new(Kind::Usage, text);
        let cannot = |error: std::io::Error| {
            usage(format!("cannot read the secret {}: {error}", path.display()))
                .hint("dft secret new FILE makes one; copy it to every machine that is to take part")
        };
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if metadata.mode() & 0o077 != 0 {
            return Err(usage(format!("others on this machine can read the secret {}", path.display()))
                .hint(format!("make it yours alone: chmod 600 {}", path.display())));
        }
        let mut text = String::new();
        file.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(cannot)?;
        Self::parse(&text).ok_or_else(|| {
            usage(format!("{} holds no secret", path.display())).hint("dft secret new FILE makes one")
        })
    }

    fn to_text(&self) -> String {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{HEADER}\n{digits}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(HEADER)?.trim();
        if digits.len() != 2 * SECRET_LEN || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut secret = [0; SECRET_LEN];
        for (index, byte) in secret.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Self(secret))
    }

    fn mac(&self, label: &str, what: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.chain_update(label.as_bytes()).chain_update(what)
    }

    fn link_mac(&self, prover: Prover, binding: &[u8; 32]) -> Hmac<Sha256> {
        let label = match prover {
            Prover::Dialler => "dft secret 1 dialler ",
            Prover::Listener => "dft secret 1 listener ",
        };
        self.mac(label, binding)
    }

    /// Proves to the other end of the connection that `binding` stands for, and to nobody else, that
    /// this end has the secret.
    pub fn prove(&self, prover: Prover, binding: &[u8; 32]) -> [u8; SECRET_LEN] {
        self.link_mac(prover, binding).finalize().into_bytes().into()
    }

    /// Whether the other end's proof is right. Takes as long for one wrong proof as for another.
    pub fn is_proven(&self, prover: Prover, binding: &[u8; 32], proof: &[u8; SECRET_LEN]) -> bool {
        self.link_mac(prover, binding).verify_slice(proof).is_ok()
    }

    /// The key under which the members of this cluster speak libp2p.
    pub fn network_key(&self) -> [u8; SECRET_LEN] {
        self.mac("dft secret 1 libp2p", &[]).finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_its_file_and_damaged_ones_are_none() {
        let secret = Secret::generate();
        let text = secret.to_text();
        assert_eq!(Secret::parse(&text).map(|read| read.0), Some(secret.0));
        for damaged in [&text[1..], &text[..text.len() - 3], &text.replace('\n', "\n0"), "dft secret 1\n", ""]
        {
            assert!(Secret::parse(damaged).is_none(), "{damaged:?}");
        }
        assert!(Secret::parse(&format!("{HEADER}\n{}\n", "é".repeat(32))).is_none());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn a_proof_holds_for_one_secret_one_connection_and_one_end() {
        let (secret, other) = (Secret::generate(), Secret::generate());
        let proof = secret.prove(Prover::Dialler, &[1; 32]);
        assert!(secret.is_proven(Prover::Dialler, &[1; 32], &proof));
        assert!(!secret.is_proven(Prover::Listener, &[1; 32], &proof), "not reflected");
        assert!(!secret.is_proven(Prover::Dialler, &[2; 32], &proof), "not elsewhere");
        assert!(!other.is_proven(Prover::Dialler, &[1; 32], &proof));
        assert_ne!(secret.network_key(), secret.0);
    }
}
