//! What was hashed before: seeding again what has not changed starts at once.
//!
//! A file counts as unchanged where its [`Identity`] (device, inode, size, mtime, ctime) is the
//! same, which is how rsync, make and git see it. A damaged cache is as good as none.

use std::io;
use std::path::Path;
use std::time::Duration;

use dft_protocol::manifest::{Entry, Hints, Info, Manifest, Mtime};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

use super::disk;
use super::error::StorageError;
use super::scan::{Scan, scan_of};
use super::tree::{Identity, open_directory};

const FILE_NAME: &[u8] = b"seed-cache";
/// A file that was changed less than this before the scan may have been changed once more
/// without a trace: filesystem times move in ticks (10 ms at most on Linux; NFS servers' more).
const TICK: Duration = Duration::from_millis(100);

/// The hashes of one dataset, and in which state its files were.
#[derive(Debug)]
pub struct SeedCache {
    info: Info,
    /// Of each entry.
    identities: Vec<Identity>,
}

/// As it is written: the bytes of a manifest without hints, and the identities.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheCbor {
    sum: ByteBuf,
    manifest: ByteBuf,
    identities: Vec<IdentityCbor>,
}

type TimeCbor = (i64, u32);
type IdentityCbor = (u64, u64, u64, TimeCbor, TimeCbor);

impl SeedCache {
    /// Remembers that hashing `scan` gave `info`; `None` where a file was changed so shortly
    /// before the scan that a later change could go unnoticed.
    pub fn new(scan: &Scan, info: &Info) -> Option<Self> {
        let since_epoch = scan.started.duration_since(std::time::UNIX_EPOCH).ok()?;
        let settled = since_epoch.checked_sub(TICK)?;
        let settled =
            Mtime { seconds: i64::try_from(settled.as_secs()).ok()?, nanoseconds: settled.subsec_nanos() };
        let identities: Vec<_> = scan.sources.iter().map(|source| source.identity).collect();
        let files = scan.entries.iter().zip(&identities).filter(|(entry, _)| is_file(entry));
        for (_, identity) in files {
            if identity.ctime > settled {
                return None;
            }
        }
        Some(Self { info: info.clone(), identities })
    }

    /// Whether there is one in `directory`.
    pub fn is_in(directory: &Path) -> bool {
        use std::os::unix::ffi::OsStrExt;
        directory.join(std::ffi::OsStr::from_bytes(FILE_NAME)).exists()
    }

    /// What [`store`](Self::store) wrote into `directory`; `None` where there is nothing that
    /// can be used.
    pub fn load(directory: &Path) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt;
        let bytes = std::fs::read(directory.join(std::ffi::OsStr::from_bytes(FILE_NAME))).ok()?;
        let cache: CacheCbor = serde_cbor::from_slice(&bytes).ok()?;
        if checksum(&cache.manifest, &cache.identities) != *cache.sum {
            return None;
        }
        let info = Manifest::decode(&cache.manifest).ok()?.info().clone();
        let time = |(seconds, nanoseconds): TimeCbor| Mtime { seconds, nanoseconds };
        let identities: Vec<_> = cache
            .identities
            .into_iter()
            .map(|(device, inode, size, mtime, ctime)| Identity {
                device,
                inode,
                size,
                mtime: time(mtime),
                ctime: time(ctime),
            })
            .collect();
        (identities.len() == info.entries.len()).then_some(Self { info, identities })
    }

    /// What was hashed, as it lay at `path` then.
    pub fn as_it_was(&self, path: &Path) -> Result<Scan, StorageError> {
        scan_of(path, &self.info.name, &self.info.entries, &self.identities)
    }

    /// What was hashed.
    pub const fn info(&self) -> &Info {
        &self.info
    }

    /// Writes it into `directory`, which must exist, in place of an older one.
    pub fn store(&self, directory: &Path) -> Result<(), StorageError> {
        let manifest = Manifest::new(self.info.clone(), Hints::default())?.encode();
        let time = |time: Mtime| (time.seconds, time.nanoseconds);
        let identities: Vec<IdentityCbor> = self
            .identities
            .iter()
            .map(|identity| {
                (identity.device, identity.inode, identity.size, time(identity.mtime), time(identity.ctime))
            })
            .collect();
        let sum = ByteBuf::from(checksum(&manifest, &identities));
        let cache = CacheCbor { sum, manifest: ByteBuf::from(manifest), identities };
        let bytes = serde_cbor::to_vec(&cache).map_err(io::Error::other);
        bytes
            .and_then(|bytes| disk::replace_file(&open_directory(directory)?, FILE_NAME, &bytes))
            .map_err(StorageError::at("write the cache in", directory))
    }

    /// Removes it from `directory`, so that whoever looks there next hashes; that it is not there is fine.
    pub fn remove(directory: &Path) -> Result<(), StorageError> {
        open_directory(directory)
            .and_then(|directory| disk::remove_file(&directory, FILE_NAME))
            .map_err(StorageError::at("remove the cache in", directory))
    }

    /// What hashing `scan` would give, where no file has changed. Directories, links and the
    /// dataset's name are those of the scan: they need no hashing. The piece size is the one it
    /// was hashed with.
    pub fn matches(&self, scan: &Scan) -> Option<Info> {
        fn files<'a>(
            entries: &'a [Entry],
            identities: impl Iterator<Item = Identity> + 'a,
        ) -> impl Iterator<Item = (&'a Entry, Identity)> + 'a {
            entries.iter().zip(identities).filter(|(entry, _)| is_file(entry))
        }
        let before = files(&self.info.entries, self.identities.iter().copied());
        let after = files(&scan.entries, scan.sources.iter().map(|source| source.identity));
        before.eq(after).then(|| Info {
            name: scan.name.clone(),
            entries: scan.entries.clone(),
            ..self.info.clone()
        })
    }
}

const fn is_file(entry: &Entry) -> bool {
    matches!(entry, Entry::File { .. })
}

fn checksum(manifest: &[u8], identities: &[IdentityCbor]) -> Vec<u8> {
    let mut hasher = Sha256::new().chain_update(manifest);
    for (device, inode, size, mtime, ctime) in identities {
        for number in [*device, *inode, *size, mtime.1.into(), ctime.1.into()] {
            hasher.update(number.to_le_bytes());
        }
        hasher.update(mtime.0.to_le_bytes());
        hasher.update(ctime.0.to_le_bytes());
    }
    hasher.finalize().to_vec()
}
