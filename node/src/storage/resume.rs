//! Opens a part directory: makes the tree that is to be filled, and finds out which pieces are
//! there already.
//!
//! A piece that the record names is trusted where its files have the right length; whatever
//! else has data on disk is hashed. So a kill loses at most the pieces that were in flight, and
//! a damaged record costs time, never content.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::id::PieceHash;
use dft_protocol::layout::Span;
use dft_protocol::manifest::{Entry, Manifest};
use dft_protocol::piece_set::PieceSet;
use rustix::fs::OFlags;

use super::assembly::{Aim, Assembly, Initial, open_own, open_sized};
use super::disk;
use super::error::StorageError;
use super::part::{Part, Record, remove_all};
use super::pieces::{Contents, Examine, PieceHasher, PieceReader, for_each_piece};
use super::selection::Selection;
use super::tree::{Attributes, Kind, Parents, Tree, is_missing};
use super::walk::Found;

/// How far the check of what is there already has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckProgress {
    /// Bytes checked.
    pub checked: u64,
    /// Bytes to check.
    pub total: u64,
}

/// Opens or fills a locked part directory. Where it was made for this and something fails,
/// nothing of it stays.
pub(super) fn open(
    manifest: Arc<Manifest>,
    place: Place<'_>,
    selection: &Selection,
    progress: &dyn Fn(CheckProgress),
) -> Result<Assembly, StorageError> {
    match prepare(&manifest, &place, selection, progress) {
        Ok((aim, initial)) => Assembly::new(manifest, place.part, aim, initial),
        Err(error) => {
            if place.part.is_new {
                // The first error is the one to report.
                let _ = place.part.remove();
            }
            Err(error)
        }
    }
}

/// Where a dataset is put together.
pub(super) struct Place<'a> {
    pub(super) part: Part,
    /// What another manifest left there may go.
    pub(super) force: bool,
    /// The directory of the final name.
    pub(super) target: &'a Path,
    /// Pieces that are durable as well, where their files are there: those of a tree that grows.
    pub(super) grown: Option<PieceSet>,
}

fn prepare(
    manifest: &Manifest,
    place: &Place<'_>,
    selection: &Selection,
    progress: &dyn Fn(CheckProgress),
) -> Result<(Aim, Initial), StorageError> {
    let Place { part, force, target, grown } = place;
    let piece_count = manifest.geometry().piece_count();
    let record = part.read_record()?;
    let mut kept = None;
    let recorded = match record {
        Record::Damaged => PieceSet::empty(piece_count),
        Record::Durable { manifest: id, pieces, kept: bytes } if id == manifest.id() => {
            kept = bytes.and_then(|bytes| Selection::from_bytes(manifest, &bytes));
            PieceSet::from_bytes(&pieces, piece_count).unwrap_or_else(|| PieceSet::empty(piece_count))
        }
        Record::Durable { .. } if *force => {
            part.clear()?;
            PieceSet::empty(piece_count)
        }
        Record::Durable { manifest: found, .. } => {
            return Err(StorageError::OtherManifest { path: part.path.clone(), found });
        }
    };
    let mut vouched = recorded.clone();
    for piece in grown.iter().flat_map(PieceSet::iter) {
        vouched.insert(piece);
    }
    let is_fresh = !part.has_data()?;
    // Whoever removed the tree that was kept does not want it back.
    let kept = kept.filter(|_| !is_fresh);
    let selection = kept.as_ref().map_or_else(|| selection.clone(), |kept| kept.union(selection));
    let aim = Aim { selection, kept };
    let tree = part.data();
    let Swept { mut files, allocated, linked } = sweep(manifest, &tree)?;
    check_space(manifest, &aim.selection, part, target, (allocated, is_fresh))?;
    let mut trusted = trusted(manifest, &vouched, &files);
    if !linked.is_empty() {
        remove_unsettled(manifest, &tree, &linked, &trusted, &mut files)?;
        trusted = self::trusted(manifest, &vouched, &files);
    }
    if trusted != recorded || trusted.is_empty() {
        // Before any file gets its length here: from then on a lost file looks like one that is
        // whole. And it says whose data this is going to be, before there is any.
        part.write_record(&aim.record(manifest, &trusted))?;
    }
    let make_all = part.folds_case()?;
    TreeMaker { manifest, selection: &aim.selection, tree: &tree, files: &files, is_fresh, make_all }
        .run()?;
    if is_fresh {
        return Ok((aim, blank(manifest)));
    }
    let initial = Checker { manifest, tree: &tree, trusted: &trusted, files: &files }.run(progress)?;
    Ok((aim, initial))
}

/// What there is of one file of the manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presence {
    Missing,
    WrongLength,
    FullLength,
}

pub(super) struct Swept {
    /// For each entry; those that are no files count as missing.
    files: Vec<Presence>,
    /// Bytes on disk.
    allocated: u64,
    /// Files that have another name, in the tree that is to grow.
    linked: Vec<usize>,
}

/// Removes what the manifest does not know.
pub(super) fn sweep(manifest: &Manifest, tree: &Tree) -> Result<Swept, StorageError> {
    let entries = &manifest.info().entries;
    let mut swept = Swept { files: vec![Presence::Missing; entries.len()], allocated: 0, linked: Vec::new() };
    remove_all(tree, &mut |found| {
        let index = entries.binary_search_by(|entry| entry.path().cmp(&found.path));
        let Some(index) = index.ok().filter(|&index| is_of_kind(&entries[index], found)) else {
            return false;
        };
        if let Entry::File { size, .. } = entries[index] {
            let full = found.attributes.identity.size == size;
            swept.files[index] = if full { Presence::FullLength } else { Presence::WrongLength };
            if found.attributes.is_linked {
                swept.linked.push(index);
            }
        }
        swept.allocated += found.attributes.allocated;
        true
    })?;
    Ok(swept)
}

/// Removes files with another name that would be written to: under that name they stay as they are.
fn remove_unsettled(
    manifest: &Manifest,
    tree: &Tree,
    linked: &[usize],
    trusted: &PieceSet,
    files: &mut [Presence],
) -> Result<(), StorageError> {
    let settled = Selection::all(manifest).settled(manifest, trusted);
    let mut parents = tree.parents();
    for &index in linked.iter().filter(|index| !settled[**index]) {
        let path = manifest.info().entries[index].path();
        parents
            .of(path)
            .and_then(|(parent, name)| disk::remove_file(&parent, &name))
            .map_err(StorageError::at("remove", &tree.shown(path)))?;
        files[index] = Presence::Missing;
    }
    Ok(())
}

/// The pieces of the record whose files are there in full length.
fn trusted(manifest: &Manifest, recorded: &PieceSet, files: &[Presence]) -> PieceSet {
    let mut trusted = recorded.clone();
    for piece in recorded.iter() {
        if manifest.layout().spans(piece).any(|span| files[span.entry] != Presence::FullLength) {
            trusted.remove(piece);
        }
    }
    trusted
}

fn is_of_kind(entry: &Entry, found: &Found) -> bool {
    match (entry, found.attributes.kind) {
        (Entry::File { .. }, Kind::File) | (Entry::Directory { .. }, Kind::Directory) => true,
        (Entry::Symlink { target, .. }, Kind::Symlink) => {
            rustix::fs::readlinkat(&found.parent, &found.name[..], Vec::new())
                .is_ok_and(|there| there.as_bytes() == target.as_bytes())
        }
        _ => false,
    }
}

/// A lower bound of what the dataset still needs, against what the filesystem has.
fn check_space(
    manifest: &Manifest,
    selection: &Selection,
    part: &Part,
    target: &Path,
    (allocated, is_fresh): (u64, bool),
) -> Result<(), StorageError> {
    let space = rustix::fs::fstatvfs(&*part.directory)
        .map_err(StorageError::at("ask for the free space of", target))?;
    let geometry = manifest.geometry();
    let wanted = selection.pieces(manifest);
    let to_store = wanted.iter().filter(|&piece| !manifest.hash(piece).is_zeros());
    let bytes: u64 = to_store.map(|piece| u64::from(geometry.piece_len(piece))).sum();
    let (needed, available) =
        (bytes.saturating_sub(allocated), space.f_bavail.saturating_mul(space.f_frsize));
    if needed > available {
        return Err(StorageError::NoSpace { needed, available, path: target.to_owned() });
    }
    let (needed, available) = (manifest.info().entries.len() as u64, space.f_favail);
    // Filesystems without a fixed number of inodes say that they have none at all.
    if is_fresh && space.f_files > 0 && needed > available {
        return Err(StorageError::NoInodes { needed, available, path: target.to_owned() });
    }
    Ok(())
}

/// Makes directories, symbolic links and those files that need no bytes: empty ones, large ones
/// as holes, small ones of zeros.
struct TreeMaker<'a> {
    manifest: &'a Manifest,
    selection: &'a Selection,
    tree: &'a Tree,
    files: &'a [Presence],
    /// Nothing was there before.
    is_fresh: bool,
    /// Make all files: the filesystem may take two of the names for one, and small files would
    /// not notice when they are written.
    make_all: bool,
}

impl TreeMaker<'_> {
    fn run(&self) -> Result<(), StorageError> {
        let zeros = small_files_of_zeros(self.manifest);
        let piece_len = u64::from(self.manifest.info().piece_size.bytes());
        let mut parents = self.tree.parents();
        for (index, entry) in self.manifest.info().entries.iter().enumerate() {
            let selected = self.selection.contains(index);
            // Directories are all made: a pack may hold files of any of them.
            if !selected && !matches!(entry, Entry::Directory { .. }) {
                continue;
            }
            let make_file = match entry {
                Entry::File { size, .. } => {
                    let is_sized = *size == 0 || *size >= piece_len || zeros.contains(&index);
                    self.files[index] != Presence::FullLength && (is_sized || self.make_all)
                }
                _ => false,
            };
            self.make(&mut parents, entry, make_file).map_err(|error| {
                let path = self.tree.shown(entry.path());
                match error.kind() {
                    // The name was made for another entry.
                    io::ErrorKind::AlreadyExists => StorageError::NameCollision { path },
                    _ => StorageError::new("create", path, error),
                }
            })?;
        }
        Ok(())
    }

    fn make(&self, parents: &mut Parents<'_>, entry: &Entry, make_file: bool) -> io::Result<()> {
        if matches!(entry, Entry::File { .. }) && !make_file {
            return Ok(());
        }
        let (parent, name) = parents.of(entry.path())?;
        let is_there = Attributes::at(&parent, &name)?.is_some();
        if is_there && self.is_fresh {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        match entry {
            Entry::Directory { .. } if !is_there => disk::make_directory(&parent, &name),
            Entry::Symlink { target, .. } if !is_there => {
                disk::make_symlink(target.as_bytes(), &parent, &name)
            }
            Entry::File { .. } => open_sized(self.tree, entry).map(drop),
            _ => Ok(()),
        }
    }
}

fn small_files_of_zeros(manifest: &Manifest) -> BTreeSet<usize> {
    let layout = manifest.layout();
    let packs = manifest.geometry().pieces().filter(|&piece| layout.is_pack(piece));
    let zeros = packs.filter(|&piece| manifest.hash(piece).is_zeros());
    zeros.flat_map(|piece| layout.spans(piece)).map(|span| span.entry).collect()
}

/// The state of a tree that was just made: zeros are there, all else is missing.
fn blank(manifest: &Manifest) -> Initial {
    let piece_count = manifest.geometry().piece_count();
    let mut durable = PieceSet::empty(piece_count);
    for piece in manifest.geometry().pieces() {
        if manifest.hash(piece).is_zeros() {
            durable.insert(piece);
        }
    }
    Initial { durable, blank: PieceSet::full(piece_count), right: BTreeSet::new() }
}

/// What the check found where a piece belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finding {
    /// The record names it.
    Trusted,
    /// It hashes right, but may not be durable.
    Right,
    /// Nothing but a hole, or no file.
    Blank,
    /// Something else.
    Wrong,
}

struct Checker<'a> {
    manifest: &'a Manifest,
    tree: &'a Tree,
    trusted: &'a PieceSet,
    files: &'a [Presence],
}

impl Checker<'_> {
    fn run(&self, progress: &dyn Fn(CheckProgress)) -> Result<Initial, StorageError> {
        let geometry = self.manifest.geometry();
        let pieces: Vec<_> = geometry.pieces().collect();
        let (mut checked, total) = (0, geometry.total_bytes());
        progress(CheckProgress { checked, total });
        let findings = for_each_piece(&pieces, (self.manifest.layout(), self), self, &mut |piece| {
            checked += u64::from(geometry.piece_len(piece));
            progress(CheckProgress { checked, total });
        })?;
        let empty = PieceSet::empty(pieces.len());
        let mut initial = Initial { durable: empty.clone(), blank: empty, right: BTreeSet::new() };
        let right = &mut initial.right;
        for (&piece, &finding) in pieces.iter().zip(&findings) {
            let is_zeros = self.manifest.hash(piece) == PieceHash::ZEROS;
            match finding {
                Finding::Trusted => initial.durable.insert(piece),
                Finding::Blank if is_zeros => initial.durable.insert(piece),
                Finding::Blank => initial.blank.insert(piece),
                Finding::Right => right.insert(piece),
                Finding::Wrong if is_zeros => {
                    self.write_zeros(piece)?;
                    right.insert(piece)
                }
                Finding::Wrong => false,
            };
        }
        Ok(initial)
    }

    fn write_zeros(&self, piece: PieceIndex) -> Result<(), StorageError> {
        for span in self.manifest.layout().spans(piece) {
            let entry = &self.manifest.info().entries[span.entry];
            open_sized(self.tree, entry)
                .and_then(|file| disk::write_zeros(&file, span.offset, span.len.into()))
                .map_err(StorageError::at("write", &self.path(span.entry)))?;
        }
        Ok(())
    }
}

impl Examine for Checker<'_> {
    type Finding = Finding;

    fn known(
        &self,
        piece: PieceIndex,
        reader: &mut PieceReader<'_>,
    ) -> Result<Option<Finding>, StorageError> {
        if self.trusted.contains(piece) {
            return Ok(Some(Finding::Trusted));
        }
        let layout = self.manifest.layout();
        if !layout.is_pack(piece)
            && layout.spans(piece).all(|span| self.files[span.entry] == Presence::Missing)
        {
            // A file that was made just now, or one that is not selected.
            return Ok(Some(Finding::Blank));
        }
        if layout.is_pack(piece) && !self.manifest.hash(piece).is_zeros() {
            let is = |wanted| move |span: Span| self.files[span.entry] == wanted;
            if layout.spans(piece).all(is(Presence::Missing)) {
                return Ok(Some(Finding::Blank));
            }
            if !layout.spans(piece).all(is(Presence::FullLength)) {
                return Ok(Some(Finding::Wrong));
            }
        }
        Ok(reader.lies_in_holes(piece)?.then_some(Finding::Blank))
    }

    fn judge(
        &self,
        piece: PieceIndex,
        hash: Result<PieceHasher, StorageError>,
    ) -> Result<Finding, StorageError> {
        let matches = hash?.matches(self.manifest.hash(piece));
        Ok(if matches { Finding::Right } else { Finding::Wrong })
    }
}

impl Contents for Checker<'_> {
    fn open(&self, entry: usize) -> Result<File, StorageError> {
        open_own(self.tree, self.manifest.info().entries[entry].path(), OFlags::RDONLY).map_err(|error| {
            let path = self.path(entry);
            if is_missing(&error) {
                return StorageError::Changed { path, entry };
            }
            StorageError::new("read", path, error)
        })
    }

    fn check(&self, _: usize, _: &File) -> Result<(), StorageError> {
        Ok(())
    }

    fn path(&self, entry: usize) -> PathBuf {
        self.tree.shown(self.manifest.info().entries[entry].path())
    }
}
