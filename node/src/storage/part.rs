//! The part directory: `.NAME.dft-part` beside the final name, for all that is not complete.
//!
//! It holds `data` (the tree that is being assembled), `record` (which pieces are durable) and
//! `lock`, held by the one fetch at work. Whoever opens it later trusts it only as far as the
//! record goes, and the record says of which manifest it is.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::{Entry, Manifest};
use dft_protocol::path::{NAME_LEN_MAX, Name, SafePath};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

use super::disk;
use super::error::StorageError;
use super::tree::{Attributes, Kind, Tree, is_missing, resolve};
use super::walk::{Descend, walk};

const PREFIX: &[u8] = b".";
const SUFFIX: &[u8] = b".dft-part";
/// Hexadecimal digits that stand for a name that is too long to be part of another.
const SHORT_NAME_LEN: usize = 32;
/// The tree that is being assembled.
pub(super) const DATA: &[u8] = b"data";
/// What the final name held before, while it is being replaced.
pub(super) const OLD: &[u8] = b"old";
const RECORD: &[u8] = b"record";
const RECORD_TEMPORARY: &[u8] = b"record.new";
const LOCK: &[u8] = b"lock";
/// Largest record that is read: the bits of the most pieces and a little more.
const RECORD_LEN_MAX: u64 = 512 * 1024;

/// Whether a name is one of a part directory, also on a filesystem that folds case.
pub(super) fn is_part_name(name: &[u8]) -> bool {
    let Some(stem) = name.len().checked_sub(SUFFIX.len()) else { return false };
    stem > PREFIX.len() && name.starts_with(PREFIX) && name[stem..].eq_ignore_ascii_case(SUFFIX)
}

/// Refuses a dataset that holds a part directory: whoever made it could have written a record
/// that a later fetch would trust.
pub(super) fn check_names(manifest: &Manifest) -> Result<(), StorageError> {
    for entry in &manifest.info().entries {
        if let Entry::Directory { path, .. } = entry {
            let name = path.components().last().unwrap_or(manifest.info().name.as_bytes());
            if is_part_name(name) {
                let path = PathBuf::from(std::ffi::OsStr::from_bytes(name));
                return Err(StorageError::ReservedName { path });
            }
        }
    }
    Ok(())
}

fn part_name(name: &Name) -> Vec<u8> {
    if PREFIX.len() + name.as_bytes().len() + SUFFIX.len() <= NAME_LEN_MAX {
        return [PREFIX, name.as_bytes(), SUFFIX].concat();
    }
    let mut short = ManifestId::of_info(name.as_bytes()).to_string();
    short.truncate(SHORT_NAME_LEN);
    [PREFIX, short.as_bytes(), SUFFIX].concat()
}

/// The locked part directory of one fetch. The lock goes with the handle, however the process
/// ends.
pub(super) struct Part {
    /// The directory of the final name.
    pub(super) target: Arc<File>,
    /// The part directory itself.
    pub(super) directory: Arc<File>,
    /// Where it is, for messages.
    pub(super) path: PathBuf,
    name: Vec<u8>,
    _lock: File,
    /// This fetch made it: nothing of value is in it yet.
    pub(super) is_new: bool,
}

impl Part {
    /// Makes or opens the part directory for `name`, and locks it. `None` where another fetch
    /// removed it meanwhile: try again.
    pub(super) fn lock(
        target: &Arc<File>,
        target_path: &Path,
        name: &Name,
    ) -> Result<Option<Self>, StorageError> {
        let name = part_name(name);
        let path = target_path.join(std::ffi::OsStr::from_bytes(&name));
        let is_new = match disk::make_directory(target, &name) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(StorageError::new("create", path, error)),
        };
        let locked = Self::lock_existing(target, path, name.clone(), is_new);
        if is_new && !matches!(locked, Ok(Some(_))) {
            // Fails where another fetch is using it by now, and that is right.
            let _ = disk::remove_directory(target, &name);
        }
        locked
    }

    /// Whether there is a tree that is being assembled.
    pub(super) fn has_data(&self) -> Result<bool, StorageError> {
        let there = Attributes::at(&*self.directory, DATA);
        Ok(there.map_err(StorageError::at("look at", &self.path))?.is_some())
    }

    /// Whether something has the name of the part directory for `name`.
    pub(super) fn exists(target: &Arc<File>, target_path: &Path, name: &Name) -> Result<bool, StorageError> {
        let there = Attributes::at(&**target, &part_name(name));
        Ok(there.map_err(StorageError::at("look at", target_path))?.is_some())
    }

    /// Removes what a fetch of this manifest left that died right after its last rename. Where
    /// another fetch is at work, or the data are of another manifest, it stays.
    pub(super) fn remove_leftovers(
        target: &Arc<File>,
        target_path: &Path,
        manifest: &Manifest,
    ) -> Result<(), StorageError> {
        let name = &manifest.info().name;
        if !Self::exists(target, target_path, name)? {
            return Ok(());
        }
        let part = match Self::lock(target, target_path, name) {
            Ok(Some(part)) => part,
            Ok(None) | Err(StorageError::Busy { .. } | StorageError::ForeignPart { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match part.read_record()? {
            Record::Durable { manifest: id, .. } if id != manifest.id() => Ok(()),
            _ => part.remove(),
        }
    }

    fn lock_existing(
        target: &Arc<File>,
        path: PathBuf,
        name: Vec<u8>,
        is_new: bool,
    ) -> Result<Option<Self>, StorageError> {
        let foreign = || StorageError::ForeignPart { path: path.clone() };
        let directory = match resolve(target, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(directory) => File::from(directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if is_missing(&error) => return Err(foreign()),
            Err(error) => return Err(StorageError::new("open", path, error)),
        };
        let attributes = Attributes::of(&directory).map_err(StorageError::at("look at", &path))?;
        if attributes.owner != rustix::process::geteuid().as_raw() || attributes.mode & 0o022 != 0 {
            return Err(foreign());
        }
        let lock = match disk::open_or_create(&directory, LOCK) {
            Ok(lock) => lock,
            // Removed between the two calls.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::new("create", path.join("lock"), error)),
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StorageError::Busy { path }),
            Err(errno) => return Err(StorageError::new("lock", path.join("lock"), errno.into())),
        }
        // Whoever finishes removes lock and directory under the lock: is it still the same?
        let same = |directory: &File, name: &[u8], file: &File| -> io::Result<bool> {
            let there = Attributes::at(directory, name)?.map(|attributes| attributes.identity.inode);
            Ok(there == Some(Attributes::of(file)?.identity.inode))
        };
        let current = same(target, &name, &directory).and_then(|is| Ok(is && same(&directory, LOCK, &lock)?));
        if !current.map_err(StorageError::at("look at", &path))? {
            return Ok(None);
        }
        let (target, directory) = (target.clone(), Arc::new(directory));
        Ok(Some(Self { target, directory, path, name, _lock: lock, is_new }))
    }

    /// Whether names that differ in case only are one name here.
    pub(super) fn folds_case(&self) -> Result<bool, StorageError> {
        let other_case = Attributes::at(&*self.directory, &LOCK.to_ascii_uppercase());
        Ok(other_case.map_err(StorageError::at("look at", &self.path))?.is_some())
    }

    /// The tree that is being assembled.
    pub(super) fn data(&self) -> Tree {
        Tree::new(self.directory.clone(), DATA, &self.path)
    }

    /// What the record says; `Damaged` where there is none that can be read.
    pub(super) fn read_record(&self) -> Result<Record, StorageError> {
        let path = self.path.join("record");
        let file = match resolve(&*self.directory, RECORD, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(error) if is_missing(&error) => return Ok(Record::Damaged),
            Err(error) => return Err(StorageError::new("read", path, error)),
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, RECORD_LEN_MAX + 1), &mut bytes)
            .map_err(StorageError::at("read", &path))?;
        Ok(Record::decode(&bytes))
    }

    /// Writes down that these pieces are durable. They must be.
    pub(super) fn write_record(&self, record: &Record) -> Result<(), StorageError> {
        disk::replace_file(&self.directory, RECORD, &record.encode())
            .map_err(StorageError::at("write", &self.path.join("record")))
    }

    /// From here on nothing in this directory is trusted without hashing it.
    pub(super) fn remove_record(&self) -> Result<(), StorageError> {
        disk::remove_file(&*self.directory, RECORD)
            .and_then(|()| disk::sync_all(&self.directory))
            .map_err(StorageError::at("remove", &self.path.join("record")))
    }

    /// Removes what was assembled, so that a fetch begins anew.
    pub(super) fn clear(&self) -> Result<(), StorageError> {
        self.remove_record()?;
        self.remove_tree(DATA)?;
        self.remove_tree(OLD)
    }

    /// Removes the directory and all in it, the lock last.
    pub(super) fn remove(&self) -> Result<(), StorageError> {
        self.remove_tree(DATA)?;
        self.remove_tree(OLD)?;
        for name in [RECORD, RECORD_TEMPORARY, LOCK] {
            disk::remove_file(&*self.directory, name).map_err(StorageError::at("empty", &self.path))?;
        }
        disk::remove_directory(&*self.target, &self.name).map_err(StorageError::at("remove", &self.path))
    }

    /// Removes what the final name held before.
    pub(super) fn clear_old(&self) -> Result<(), StorageError> {
        self.remove_tree(DATA)?;
        self.remove_tree(OLD)
    }

    fn remove_tree(&self, name: &[u8]) -> Result<(), StorageError> {
        remove_all(&Tree::new(self.directory.clone(), name, &self.path), &mut |_| false)
    }
}

/// Removes what lies in a tree in a directory of ours, but for the paths that `keep` names (a
/// directory must be kept with what is kept in it). Directories that forbid it are opened up.
pub(super) fn remove_all(
    tree: &Tree,
    keep: &mut dyn FnMut(&super::walk::Found) -> bool,
) -> Result<(), StorageError> {
    let mut doomed: Vec<(SafePath, Kind)> = Vec::new();
    walk(tree, &mut |found| {
        if found.attributes.kind == Kind::Directory && found.attributes.mode & 0o700 != 0o700 {
            disk::set_mode_by_name(&found.parent, &found.name, 0o700)
                .map_err(StorageError::at("open up", &tree.shown(&found.path)))?;
        }
        if !keep(found) {
            doomed.push((found.path.clone(), found.attributes.kind));
        }
        Ok(Descend::Into)
    })?;
    let mut parents = tree.parents();
    for (path, kind) in doomed.iter().rev() {
        let removed = parents.of(path).and_then(|(parent, name)| match kind {
            Kind::Directory => disk::remove_directory(&parent, &name),
            _ => disk::remove_file(&parent, &name),
        });
        removed.map_err(StorageError::at("remove", &tree.shown(path)))?;
    }
    Ok(())
}

/// The resume record: canonical CBOR with a checksum over the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    /// Not there, or not to be trusted: hash what there is.
    Damaged,
    /// These pieces of this manifest are durable, as wire bytes of a [`PieceSet`].
    /// `kept`: what the tree held when it had its final name last, or was about to get it, where
    /// that is not the whole dataset; as bytes of a [`Selection`](super::selection::Selection).
    Durable { manifest: ManifestId, pieces: Vec<u8>, kept: Option<Vec<u8>> },
}

/// As it is written; the keys are in canonical order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordCbor {
    sum: ByteBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<ByteBuf>,
    pieces: ByteBuf,
    manifest: ByteBuf,
}

impl RecordCbor {
    fn new(manifest: &[u8], pieces: &[u8], kept: Option<&[u8]>) -> Self {
        // The pieces' length follows from the manifest: nothing can move from one part to the other.
        let sum = Sha256::new().chain_update(manifest).chain_update(pieces);
        let sum = sum.chain_update(kept.unwrap_or_default()).finalize();
        let bytes = |bytes: &[u8]| ByteBuf::from(bytes);
        Self { sum: bytes(&sum), kept: kept.map(bytes), pieces: bytes(pieces), manifest: bytes(manifest) }
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_cbor::to_vec(self).expect("a record always encodes")
    }
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Damaged => Vec::new(),
            Self::Durable { manifest, pieces, kept } => {
                RecordCbor::new(manifest.as_bytes(), pieces, kept.as_deref()).to_bytes()
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        let Ok(record) = serde_cbor::from_slice::<RecordCbor>(bytes) else { return Self::Damaged };
        let Ok(manifest) = <[u8; 32]>::try_from(&record.manifest[..]) else { return Self::Damaged };
        // Checksum and canonical form at once.
        let kept = record.kept.map(ByteBuf::into_vec);
        if RecordCbor::new(&manifest, &record.pieces, kept.as_deref()).to_bytes() != bytes {
            return Self::Damaged;
        }
        let (manifest, pieces) = (ManifestId::from_bytes(manifest), record.pieces.into_vec());
        Self::Durable { manifest, pieces, kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dft_protocol::geometry::Geometry;
    use dft_protocol::piece_set::PieceSet;

    #[test]
    fn no_damaged_record_is_trusted() {
        let geometry = Geometry::new(vec![1; 20]).unwrap();
        let mut durable = PieceSet::empty(20);
        geometry.pieces().step_by(3).for_each(|piece| assert!(durable.insert(piece)));
        let manifest = ManifestId::of_info(b"info");
        for kept in [None, Some(vec![5, 1])] {
            let whole = Record::Durable { manifest, pieces: durable.to_bytes(), kept };
            let bytes = whole.encode();
            assert_eq!(Record::decode(&bytes), whole);
            for length in 0..bytes.len() {
                assert_eq!(Record::decode(&bytes[..length]), Record::Damaged);
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Record::decode(&flipped), Record::Damaged, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_long_name_still_has_a_part_directory() {
        for length in [1, 245, 246, 255] {
            let part = part_name(&Name::new(vec![b'n'; length]).unwrap());
            assert!(is_part_name(&part));
            assert!(part.len() <= NAME_LEN_MAX, "{length} bytes become {}", part.len());
        }
    }
}
