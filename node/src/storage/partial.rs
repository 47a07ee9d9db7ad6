//! A tree under its final name that holds a selection of its dataset: recognized, and grown when a
//! later fetch wants more.
//!
//! When a fetch of a selection finishes, its part directory stays beside the tree, with a record
//! that says so, and no data. Only with that record is a tree taken for one of ours that is not
//! complete, and only where everything in it is what the manifest says: a tree that a person made
//! or changed is never replaced.
//!
//! While it grows it keeps its final name, and nobody writes to what it holds: its files get a second
//! name in the part directory, where the fetch goes on from them. Files that would be written again,
//! since their pack is not whole, are not among them. At the end the two trees change places. Where a
//! filesystem knows no hard links, these files are fetched again.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use dft_protocol::manifest::{Entry, Manifest};
use dft_protocol::path::SafePath;
use dft_protocol::piece_set::PieceSet;
use rustix::io::Errno;

use super::disk;
use super::error::StorageError;
use super::finish::repair;
use super::part::{Part, Record};
use super::resume::{CheckProgress, sweep};
use super::scan::Source;
use super::selection::Selection;
use super::tree::{Attributes, Tree};
use super::verify::{Depth, Difference, compare};

/// A tree that holds a part of its dataset.
pub(super) struct Partial {
    part: Part,
    /// What it holds.
    pub(super) there: Selection,
    /// Where each entry lies that it holds.
    pub(super) sources: Vec<Source>,
    /// The pieces that the record names: those of the tree, and of a fetch that was to add to it.
    recorded: PieceSet,
    /// What has another mode or time than it should.
    stale: Vec<SafePath>,
}

impl Partial {
    /// The partial tree under the final name; `None` where what is there is none.
    pub(super) fn find(
        manifest: &Manifest,
        handle: &Arc<File>,
        directory: &Path,
        tree: &Tree,
        progress: &dyn Fn(CheckProgress),
    ) -> Result<Option<Self>, StorageError> {
        if !Part::exists(handle, directory, &manifest.info().name)? {
            return Ok(None);
        }
        let Some(part) = Part::lock(handle, directory, &manifest.info().name)? else { return Ok(None) };
        let recorded = match part.read_record()? {
            Record::Durable { manifest: id, kept: Some(_), pieces } if id == manifest.id() => pieces,
            _ => return Ok(None),
        };
        let piece_count = manifest.geometry().piece_count();
        let recorded = PieceSet::from_bytes(&recorded, piece_count);
        let recorded = recorded.unwrap_or_else(|| PieceSet::empty(piece_count));
        let total = manifest.total_bytes();
        let comparison =
            compare(manifest, tree, Depth::All, &mut |checked| progress(CheckProgress { checked, total }))?;
        let (mut there, mut stale) = (Selection::all(manifest), Vec::new());
        for difference in &comparison.differences {
            match difference {
                Difference::Missing { path } => there.remove(manifest, path),
                // The files of a pack that is not whole are compared by size and time alone.
                difference if !difference.is_content() && !comparison.is_doubtful(difference) => {
                    stale.extend(difference.attributes_of().cloned());
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(Self { part, there, sources: comparison.sources, recorded, stale }))
    }

    /// Whether all of `selection` is there.
    pub(super) fn holds(&self, selection: &Selection) -> bool {
        self.there.includes(selection)
    }

    /// Makes what it holds the data of its part directory as well; the tree stays as it is. Returns
    /// the pieces that are there by that, where the files got their names.
    pub(super) fn into_growing(
        mut self,
        manifest: &Manifest,
        tree: &Tree,
    ) -> Result<(Part, PieceSet), StorageError> {
        let entries = &manifest.info().entries;
        for path in &self.stale {
            if let Ok(index) = entries.binary_search_by(|entry| entry.path().cmp(path)) {
                // Where this is not allowed, the copy is right in the end.
                let _ = repair(tree, &entries[index]);
            }
        }
        let data = self.part.data();
        if !self.part.has_data()? {
            // It is of the tree itself; from here on it is of what is put together.
            self.recorded = PieceSet::empty(manifest.geometry().piece_count());
        }
        let (id, pieces, kept) = (manifest.id(), self.recorded.to_bytes(), Some(self.there.to_bytes()));
        self.part.write_record(&Record::Durable { manifest: id, pieces, kept })?;
        sweep(manifest, &data)?;
        let whole = self.there.whole_pieces(manifest);
        self.link(manifest, tree, &data, &whole)?;
        Ok((self.part, whole))
    }

    /// Gives the files whose pieces are all there a name in `data`, and makes their directories.
    fn link(
        &self,
        manifest: &Manifest,
        tree: &Tree,
        data: &Tree,
        whole: &PieceSet,
    ) -> Result<(), StorageError> {
        let settled = self.there.settled(manifest, whole);
        let (mut from, mut to) = (tree.parents(), data.parents());
        for (entry, settled) in manifest.info().entries.iter().zip(settled) {
            let is_wanted = match entry {
                Entry::Directory { .. } => true,
                Entry::File { size, .. } => settled && *size > 0,
                Entry::Symlink { .. } => false,
            };
            if !is_wanted {
                continue;
            }
            let mut link = || -> io::Result<()> {
                let (parent, name) = to.of(entry.path())?;
                match entry {
                    Entry::Directory { .. } => made_or_there(disk::make_directory(&parent, &name)),
                    _ => {
                        let (from, called) = from.of(entry.path())?;
                        link_file((&from, &called), (&parent, &name))
                    }
                }
            };
            link().map_err(StorageError::at("link", &tree.shown(entry.path())))?;
        }
        Ok(())
    }
}

fn made_or_there(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Another name for a file, in place of what has it; none where the filesystem has no such thing.
fn link_file(from: (&File, &[u8]), to: (&File, &[u8])) -> io::Result<()> {
    const CANNOT: [Errno; 5] = [Errno::PERM, Errno::OPNOTSUPP, Errno::MLINK, Errno::NOSYS, Errno::XDEV];
    let there = Attributes::at(to.0, to.1)?.map(|there| there.identity.inode);
    if let Some(there) = there {
        if Attributes::at(from.0, from.1)?.is_some_and(|from| from.identity.inode == there) {
            return Ok(());
        }
        disk::remove_file(to.0, to.1)?;
    }
    match disk::hard_link(from, to) {
        Err(error) if CANNOT.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) => Ok(()),
        linked => linked,
    }
}

/// Whether what has the final name is still as it was found: nothing in it was changed or added.
/// What was removed from it comes back with the tree that replaces it.
pub(super) fn is_untouched(manifest: &Manifest, tree: &Tree) -> Result<bool, StorageError> {
    let comparison = compare(manifest, tree, Depth::First, &mut |_| {})?;
    let entries = &manifest.info().entries;
    let is_directory = |path: &SafePath| {
        let index = entries.binary_search_by(|entry| entry.path().cmp(path));
        index.is_ok_and(|index| matches!(entries[index], Entry::Directory { .. }))
    };
    Ok(comparison.differences.iter().all(|difference| match difference {
        Difference::Missing { .. } | Difference::Mode { .. } => true,
        Difference::Mtime { path, .. } => is_directory(path),
        _ => false,
    }))
}
