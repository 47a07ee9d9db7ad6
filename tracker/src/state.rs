//! The directory where a tracker keeps what outlives it: its identity, its last port, its
//! database.
//!
//! A [`StateDir`] that exists holds the lock: there is one tracker per directory.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;
use thiserror::Error;

use crate::catalogue::token::{Token, TokenError};

/// Longest identity file that is read, in bytes: an Ed25519 key in protobuf has 68.
const IDENTITY_LEN_MAX: u64 = 4096;

/// Why a state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another tracker holds the lock.
    #[error("another tracker uses the state directory {}", .0.display())]
    InUse(PathBuf),
    /// The identity file holds no key.
    #[error("{} holds no identity (remove it to get a new one)", .0.display())]
    Identity(PathBuf),
    /// Others can read the token file.
    #[error("others on this machine can read {} (make it yours alone: chmod 600)", .0.display())]
    TokenReadable(PathBuf),
    /// The token file holds no token.
    #[error("{} holds no token (remove it to get a new one)", .0.display())]
    Token(PathBuf),
    /// The disk refused.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it refused with.
        error: io::Error,
    },
}

/// A tracker's state directory, locked.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    // Holds the lock as long as it lives; the kernel releases it when the process dies.
    _lock: File,
}

impl StateDir {
    /// Locks the directory at `path`, which is made (mode 700) where it is missing.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| StateError::Io { path, error }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(StateError::Io { path: lock_path, error }),
        }
    }

    /// Where the database lies.
    pub fn database(&self) -> PathBuf {
        self.path.join("tracker.redb")
    }

    /// Where the catalogue's database lies.
    pub fn catalogue(&self) -> PathBuf {
        self.path.join("catalogue.redb")
    }

    /// Where the token lies.
    pub fn token_path(&self) -> PathBuf {
        self.path.join("token")
    }

    /// The token kept here (mode 600): who has it may write into the catalogue. A new one where
    /// there is none yet.
    pub fn token(&self) -> Result<Token, StateError> {
        let path = self.token_path();
        let io = |error| StateError::Io { path: path.clone(), error };
        match Token::read(&path) {
            Ok(token) => Ok(token),
            Err(TokenError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                let token = Token::random().map_err(io)?;
                self.replace("token", format!("{}\n", token.to_hex()).as_bytes())?;
                Ok(token)
            }
            Err(TokenError::Io { error, .. }) => Err(io(error)),
            Err(TokenError::Readable { .. }) => Err(StateError::TokenReadable(path)),
            Err(TokenError::Malformed) => Err(StateError::Token(path)),
        }
    }

    /// The token kept here; where there is none, one that nobody has, and that is not kept: what an
    /// open catalogue asks nobody for.
    pub fn token_if_any(&self) -> Result<Token, StateError> {
        let path = self.token_path();
        if path.exists() {
            return self.token();
        }
        Token::random().map_err(|error| StateError::Io { path, error })
    }

    /// The identity kept here; a new one where there is none yet.
    pub fn identity(&self) -> Result<Keypair, StateError> {
        let path = self.path.join("identity");
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() <= IDENTITY_LEN_MAX => {
                let bytes = fs::read(&path).map_err(|error| StateError::Io { path: path.clone(), error })?;
                Keypair::from_protobuf_encoding(&bytes).map_err(|_| StateError::Identity(path))
            }
            Ok(_) => Err(StateError::Identity(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Keypair::generate_ed25519();
                let bytes = identity.to_protobuf_encoding().map_err(|_| StateError::Identity(path))?;
                self.replace("identity", &bytes)?;
                Ok(identity)
            }
            Err(error) => Err(StateError::Io { path, error }),
        }
    }

    /// The port that was used last, where one is remembered.
    pub fn last_port(&self) -> Option<u16> {
        let text = fs::read_to_string(self.path.join("port")).ok()?;
        text.trim().parse().ok().filter(|port| *port != 0)
    }

    /// Remembers `port` for the next start.
    pub fn remember_port(&self, port: u16) -> Result<(), StateError> {
        if self.last_port() == Some(port) {
            return Ok(());
        }
        self.replace("port", format!("{port}\n").as_bytes())
    }

    /// Writes a file (mode 600) such that a power cut leaves the old or the new content.
    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| StateError::Io { path: path.clone(), error })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn identity_and_port_outlive_the_tracker() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b");
        let state = StateDir::open(&path).expect("open");
        assert_eq!(state.last_port(), None);
        let identity = state.identity().expect("a new identity").public();
        state.remember_port(4711).expect("remember");
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("identity"))), (0o700, 0o600));
        drop(state);
        let state = StateDir::open(&path).expect("open again");
        assert_eq!(state.identity().expect("the same identity").public(), identity);
        assert_eq!(state.last_port(), Some(4711));
    }

    #[test]
    fn a_second_tracker_is_told_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = StateDir::open(directory.path()).expect("open");
        assert!(matches!(StateDir::open(directory.path()), Err(StateError::InUse(_))));
        drop(first);
        assert!(StateDir::open(directory.path()).is_ok());
    }

    #[test]
    fn a_broken_identity_is_never_replaced_silently() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(directory.path()).expect("open");
        for content in [vec![], vec![8, 1], vec![0; 5000]] {
            fs::write(directory.path().join("identity"), &content).expect("write");
            assert!(matches!(state.identity(), Err(StateError::Identity(_))), "{} bytes", content.len());
        }
        fs::write(directory.path().join("port"), "no number").expect("write");
        assert_eq!(state.last_port(), None);
    }
}
