//! The last steps of a fetch: attributes, durability, the final name.
//!
//! Each step can be the last one before a crash. Until the rename the part directory holds all,
//! and the next fetch repeats these steps; from the rename on the final name holds all, and the
//! next fetch finds it complete.

use std::fs::File;
use std::io;
use std::sync::Arc;

use dft_protocol::manifest::Entry;
use dft_protocol::path::SafePath;
use dft_protocol::piece_set::PieceSet;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::assembly::{Assembly, SYNC_EACH_MAX, open_own};
use super::disk::{self, IfExists};
use super::error::StorageError;
use super::part::{DATA, OLD, Record, remove_all};
use super::scan::Source;
use super::tree::{Attributes, Identity, Kind, Tree, resolve};

/// Owner's bits without which a directory can be neither filled nor renamed.
const OWNER_ALL: u16 = 0o700;
const OWNER_WRITE: u16 = 0o200;

/// What may be replaced under the final name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Replace {
    Nothing,
    /// The tree that this one grew from. The record must still say that the final name holds a part.
    Grown,
    Anything,
}

impl Assembly {
    /// Makes the tree what the final name is to hold, durably. Returns where each entry lies.
    pub(super) fn complete(&self) -> Result<Vec<Source>, StorageError> {
        if !self.selection.is_all() {
            self.reduce()?;
        }
        self.apply_attributes()
    }

    /// Removes what was not selected, and writes down what is left.
    fn reduce(&self) -> Result<(), StorageError> {
        self.reduced.store(true, std::sync::atomic::Ordering::Release);
        let entries = &self.manifest.info().entries;
        remove_all(&self.tree, &mut |found| {
            let index = entries.binary_search_by(|entry| entry.path().cmp(&found.path));
            index.is_ok_and(|index| self.selection.contains(index))
        })?;
        self.part.write_record(&Record::Durable {
            manifest: self.manifest.id(),
            pieces: self.selection.whole_pieces(&self.manifest).to_bytes(),
            kept: Some(self.selection.to_bytes()),
        })
    }

    /// Gives all entries their modes and times, and makes them durable. Returns where each lies.
    ///
    /// The root, where it is a directory that its owner may not write, keeps the right to be
    /// renamed: see [`restrict_root`].
    fn apply_attributes(&self) -> Result<Vec<Source>, StorageError> {
        let entries = &self.manifest.info().entries;
        let few = entries.len() <= SYNC_EACH_MAX;
        let mut sources = vec![Source::new(Identity::default()); entries.len()];
        self.open_up_directories()?;
        let selected = || entries.iter().enumerate().filter(|(index, _)| self.selection.contains(*index));
        for (index, entry) in selected().filter(|(_, entry)| matches!(entry, Entry::File { .. })) {
            let identity = match self.finished.identity(index) {
                Some(identity) => identity,
                None => self.apply_to(index, entry, few)?,
            };
            sources[index] = Source::new(identity);
        }
        // Backwards is deepest first: a directory is closed once its content is done.
        let directories: Vec<_> =
            selected().filter(|(_, entry)| matches!(entry, Entry::Directory { .. })).collect();
        for (index, entry) in directories.into_iter().rev() {
            self.apply_to(index, entry, few)?;
        }
        if few { disk::sync_all(&self.part.directory) } else { disk::sync_filesystem(&self.part.directory) }
            .map_err(StorageError::at("sync", &self.part.path))?;
        Ok(sources)
    }

    /// Directories that an earlier attempt closed are opened up again, from the root down.
    fn open_up_directories(&self) -> Result<(), StorageError> {
        for (index, entry) in self.manifest.info().entries.iter().enumerate() {
            if !self.selection.contains(index) {
                continue;
            }
            let Entry::Directory { path, mode, .. } = entry else { continue };
            if mode & OWNER_ALL == OWNER_ALL {
                continue;
            }
            let open_up = || -> io::Result<()> {
                let (parent, name) = self.tree.parents().of(path)?;
                match Attributes::at(&parent, &name)? {
                    Some(there) if there.mode & OWNER_ALL != OWNER_ALL => {
                        disk::set_mode_by_name(&parent, &name, OWNER_ALL)
                    }
                    _ => Ok(()),
                }
            };
            open_up().map_err(StorageError::at("set the mode of", &self.tree.shown(path)))?;
        }
        Ok(())
    }

    fn apply_to(&self, index: usize, entry: &Entry, sync: bool) -> Result<Identity, StorageError> {
        let (Entry::File { path, mode, mtime, .. } | Entry::Directory { path, mode, mtime }) = entry else {
            return Ok(Identity::default());
        };
        let mode = if path.is_root() && is_restricted(entry) { mode | OWNER_ALL } else { *mode };
        let apply = || -> io::Result<Identity> {
            let file = match self.files.open_file(index) {
                Some(file) => file,
                None => Arc::new(open_own(&self.tree, path, OFlags::RDONLY)?),
            };
            disk::set_mode(&*file, mode)?;
            disk::set_mtime(&*file, *mtime)?;
            if sync {
                disk::sync_all(&file)?;
            }
            Ok(Attributes::of(&file)?.identity)
        };
        apply().map_err(StorageError::at("set mode and time of", &self.tree.shown(path)))
    }

    /// Gives the tree its final name. What had that name is in the part directory afterwards, where it
    /// may be replaced.
    pub(super) fn place(&self, name: &[u8], target: &Tree, replace: Replace) -> Result<(), StorageError> {
        let shown = target.shown(&SafePath::root());
        let (from, to) = ((&*self.part.directory, DATA), (&*self.part.target, name));
        let there = Attributes::at(to.0, name).map_err(StorageError::at("look at", &shown))?;
        if let Some(there) = there.filter(|_| replace != Replace::Nothing) {
            // What is called `data` afterwards is the old content.
            match replace {
                Replace::Grown => self.part.write_record(&self.record_of_grown())?,
                _ => self.part.remove_record()?,
            }
            make_movable(to, there).map_err(StorageError::at("open up", &shown))?;
            return match disk::rename(from, to, IfExists::Exchange) {
                Err(error) if is_unsupported(&error) => self.place_in_two_steps(from, to),
                result => result,
            }
            .map_err(StorageError::at("replace", &shown));
        }
        disk::rename(from, to, IfExists::Fail).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StorageError::Exists { path: shown },
            _ => StorageError::new("rename to", shown, error),
        })
    }

    /// Says what the final name holds, and trusts nothing that is called `data`.
    fn record_of_grown(&self) -> Record {
        let pieces = PieceSet::empty(self.manifest.geometry().piece_count()).to_bytes();
        Record::Durable { manifest: self.manifest.id(), pieces, kept: Some(self.selection.to_bytes()) }
    }

    /// For filesystems that cannot exchange two names: there is a moment without either.
    fn place_in_two_steps(&self, from: (&File, &[u8]), to: (&File, &[u8])) -> io::Result<()> {
        disk::rename(to, (&self.part.directory, OLD), IfExists::Fail)?;
        disk::rename(from, to, IfExists::Fail)
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Renaming a directory into another one changes its `..`, for which its owner needs the right
/// to write.
pub(super) fn make_movable((parent, name): (&File, &[u8]), there: Attributes) -> io::Result<()> {
    if there.kind != Kind::Directory || there.mode & OWNER_WRITE != 0 {
        return Ok(());
    }
    let directory = File::from(resolve(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?);
    disk::set_mode(&directory, there.mode | OWNER_WRITE)
}

/// Whether the root gets its mode only under its final name.
fn is_restricted(root: &Entry) -> bool {
    matches!(root, Entry::Directory { mode, .. } if mode & OWNER_ALL != OWNER_ALL)
}

/// Gives a root its mode that could not be renamed with it.
pub(super) fn restrict_root(root: &Entry, target: &Tree) -> Result<(), StorageError> {
    let Entry::Directory { path, mode, mtime } = root else { return Ok(()) };
    if !is_restricted(root) {
        return Ok(());
    }
    let restrict = || -> io::Result<()> {
        let directory = target.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        disk::set_mode(&directory, *mode)?;
        disk::set_mtime(&directory, *mtime)?;
        disk::sync_all(&directory)
    };
    restrict().map_err(StorageError::at("set the mode of", &target.shown(path)))
}

/// Where a placed tree lies, for what a rename changed: the ctime of a root that is a file.
pub(super) fn refresh_root(sources: &mut [Source], directory: &Arc<File>, name: &[u8]) -> io::Result<()> {
    if let (Some(there), Some(root)) = (Attributes::at(&**directory, name)?, sources.first_mut()) {
        *root = Source::new(there.identity);
    }
    Ok(())
}

/// The same for files that lost another name: their ctime. What cannot be looked at stays as it is.
pub(super) fn refresh_linked(sources: &mut [Source], entries: &[Entry], tree: &Tree) {
    let mut parents = tree.parents();
    for (source, entry) in sources.iter_mut().zip(entries) {
        // What was not selected has no source.
        if !matches!(entry, Entry::File { .. }) || source.identity == Identity::default() {
            continue;
        }
        let looked = parents.of(entry.path()).and_then(|(parent, name)| Attributes::at(&parent, &name));
        let there = looked.ok().flatten().map(|there| there.identity);
        let as_before = Identity { ctime: there.unwrap_or_default().ctime, ..source.identity };
        if there == Some(as_before) {
            *source = Source::new(as_before);
        }
    }
}

/// Sets mode and time of an entry that is complete but for these.
pub(super) fn repair(tree: &Tree, entry: &Entry) -> io::Result<Attributes> {
    let file = tree.open(entry.path(), OFlags::RDONLY | OFlags::NONBLOCK)?;
    if let Entry::File { mode, mtime, .. } | Entry::Directory { mode, mtime, .. } = entry {
        disk::set_mode(&file, *mode)?;
        disk::set_mtime(&file, *mtime)?;
    }
    Attributes::of(&file)
}
