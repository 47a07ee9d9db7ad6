//! Manifests that are on their way: blocks that wait for their `Put`.
//!
//! They lie in files without a name, which vanish with the process, so that no memory is spent
//! on them. Every count has a quota; a manifest that gets no further block expires.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::MANIFEST_LEN_MAX;
use dft_protocol::time::Instant;
use thiserror::Error;

/// Most bytes of manifests on their way in all: eight of the largest.
pub const STAGED_BYTES_MAX: u64 = 512 << 20;
/// Most manifests on their way from one identity: a client sends one, and may have given up one.
pub const STAGED_PER_IDENTITY_MAX: usize = 2;
/// Most manifests on their way in all: bounds the open files.
pub const STAGED_MAX: usize = 128;
/// How long a manifest waits for its next block: a client sends them one after the other.
pub const STAGED_TTL: Duration = Duration::from_secs(60);

/// Why a block was not taken.
#[derive(Debug, Error)]
pub enum StagingError {
    /// Longer than a manifest may be, or than it was announced.
    #[error("a manifest has at most {} MiB, and the length that was announced", MANIFEST_LEN_MAX >> 20)]
    Length,
    /// Not the block that is next.
    #[error("a block is out of order: begin anew")]
    Order,
    /// More than a quota allows.
    #[error("too many manifests are on their way: try again later")]
    Quota,
    /// The disk refused.
    #[error("the tracker cannot keep the manifest: {0}")]
    Io(#[from] std::io::Error),
}

struct Staged {
    file: File,
    len: u64,
    have: u64,
    /// Where the last block that was taken begins.
    last: u64,
    touched: Instant,
}

/// All manifests that are on their way.
pub struct Staging {
    directory: PathBuf,
    staged: HashMap<(PeerId, ManifestId), Staged>,
    bytes: u64,
}

impl Staging {
    /// None, with files below `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, staged: HashMap::new(), bytes: 0 }
    }

    /// Takes the block at `offset` of the manifest `id`, which has `len` bytes, from `peer`.
    pub fn take(
        &mut self,
        (peer, id): (PeerId, ManifestId),
        (len, offset): (u32, u32),
        block: &[u8],
        now: Instant,
    ) -> Result<(), StagingError> {
        self.expire(now);
        let (len, offset) = (u64::from(len), u64::from(offset));
        if offset == 0 {
            self.drop_one(peer, id);
            self.open(peer, id, len, now)?;
        }
        let staged = self.staged.get_mut(&(peer, id)).ok_or(StagingError::Order)?;
        // Lossless: a block is short.
        let block_len = block.len() as u64;
        if staged.len != len || offset + block_len > len {
            return Err(StagingError::Length);
        }
        if offset == staged.last && offset + block_len == staged.have {
            // The answer to it was lost.
            staged.touched = now;
            return Ok(());
        }
        if staged.have != offset {
            return Err(StagingError::Order);
        }
        if let Err(error) = staged.file.write_all(block) {
            self.drop_one(peer, id);
            return Err(error.into());
        }
        staged.last = offset;
        staged.have += block_len;
        staged.touched = now;
        Ok(())
    }

    /// The whole manifest `id` of `peer`, where every block is here. It is forgotten here.
    pub fn finish(&mut self, peer: PeerId, id: ManifestId) -> Result<Option<Vec<u8>>, StagingError> {
        let complete = self.staged.get(&(peer, id)).is_some_and(|staged| staged.have == staged.len);
        if !complete {
            return Ok(None);
        }
        let Some(mut staged) = self.drop_one(peer, id) else { return Ok(None) };
        let mut bytes = Vec::new();
        staged.file.seek(SeekFrom::Start(0))?;
        staged.file.take(staged.len).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Forgets all that `peer` has sent.
    pub fn forget(&mut self, peer: PeerId) {
        let ids: Vec<_> = self.staged.keys().filter(|(other, _)| *other == peer).map(|(_, id)| *id).collect();
        for id in ids {
            self.drop_one(peer, id);
        }
    }

    /// Forgets what got no block for [`STAGED_TTL`].
    pub fn expire(&mut self, now: Instant) {
        let expired: Vec<_> = self
            .staged
            .iter()
            .filter(|(_, staged)| now.since(staged.touched) >= STAGED_TTL)
            .map(|(key, _)| *key)
            .collect();
        for (peer, id) in expired {
            self.drop_one(peer, id);
        }
    }

    fn open(&mut self, peer: PeerId, id: ManifestId, len: u64, now: Instant) -> Result<(), StagingError> {
        // Lossless: the limit is 64 MiB.
        if len == 0 || len > MANIFEST_LEN_MAX as u64 {
            return Err(StagingError::Length);
        }
        let of_peer = self.staged.keys().filter(|(other, _)| *other == peer).count();
        let full = self.staged.len() >= STAGED_MAX
            || of_peer >= STAGED_PER_IDENTITY_MAX
            || self.bytes + len > STAGED_BYTES_MAX;
        if full {
            return Err(StagingError::Quota);
        }
        let file = tempfile::tempfile_in(&self.directory)?;
        self.bytes += len;
        self.staged.insert((peer, id), Staged { file, len, have: 0, last: u64::MAX, touched: now });
        Ok(())
    }

    fn drop_one(&mut self, peer: PeerId, id: ManifestId) -> Option<Staged> {
        let staged = self.staged.remove(&(peer, id))?;
        self.bytes -= staged.len;
        Some(staged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(peer: u8, id: u8) -> (PeerId, ManifestId) {
        (PeerId::from_bytes(&[peer; 38]).expect("38 bytes"), ManifestId::from_bytes([id; 32]))
    }

    fn staging() -> (tempfile::TempDir, Staging) {
        let directory = tempfile::tempdir().expect("a directory");
        let staging = Staging::new(directory.path().to_owned());
        (directory, staging)
    }

    const NOW: Instant = Instant::START;

    #[test]
    fn blocks_become_the_manifest_again() {
        let (directory, mut staging) = staging();
        let one = key(1, 1);
        staging.take(one, (5, 0), b"ab", NOW).expect("taken");
        assert!(staging.finish(one.0, one.1).expect("no error").is_none(), "it is not complete");
        assert!(matches!(staging.take(one, (5, 3), b"de", NOW), Err(StagingError::Order)));
        assert!(matches!(staging.take(one, (5, 2), b"cdef", NOW), Err(StagingError::Length)));
        assert!(matches!(staging.take(one, (6, 2), b"c", NOW), Err(StagingError::Length)));
        assert!(matches!(staging.take(key(2, 1), (5, 2), b"c", NOW), Err(StagingError::Order)));
        staging.take(one, (5, 2), b"c", NOW).expect("taken");
        staging.take(one, (5, 2), b"c", NOW).expect("taken again, since its answer was lost");
        assert!(matches!(staging.take(one, (5, 2), b"cd", NOW), Err(StagingError::Order)));
        staging.take(one, (5, 3), b"de", NOW).expect("taken");
        assert_eq!(staging.finish(one.0, one.1).expect("no error").as_deref(), Some(&b"abcde"[..]));
        assert!(staging.finish(one.0, one.1).expect("no error").is_none(), "it is handed out once");
        assert_eq!(staging.bytes, 0);
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn quotas_bound_what_is_on_its_way_until_it_expires() {
        let (_directory, mut staging) = staging();
        let len = u32::try_from(MANIFEST_LEN_MAX).expect("64 MiB");
        for length in [0, len + 1] {
            assert!(matches!(staging.take(key(1, 1), (length, 0), b"a", NOW), Err(StagingError::Length)));
        }
        for id in 1..=2 {
            staging.take(key(1, id), (len, 0), b"a", NOW).expect("taken");
        }
        assert!(matches!(staging.take(key(1, 3), (len, 0), b"a", NOW), Err(StagingError::Quota)));
        staging.take(key(1, 2), (len, 0), b"a", NOW).expect("the same one, anew");
        for peer in 2..=4 {
            for id in 1..=2 {
                staging.take(key(peer, id), (len, 0), b"a", NOW).expect("taken");
            }
        }
        assert!(matches!(staging.take(key(5, 1), (1, 0), b"a", NOW), Err(StagingError::Quota)));
        staging.forget(key(4, 1).0);
        staging.take(key(5, 1), (1, 0), b"a", NOW).expect("there is room again");
        staging.take(key(6, 1), (len, 0), b"a", NOW + STAGED_TTL).expect("all others expired");
        assert_eq!(staging.staged.len(), 1);
    }
}
