//! A dataset that is being put together in its part directory.
//!
//! The order that everything rests on: a piece's bytes are written, then hashed right
//! (`verified`), then synced, and only then the record says that they are there (`flush`). So
//! whatever the record says holds after a crash or a power cut.
//!
//! A failed fsync may drop the bytes that it was to save and then report success the next time
//! («fsyncgate», 2018). So a flush that fails takes all pieces back that were not durable, also
//! those half written: they count again only once all of their bytes were written anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::layout::Span;
use dft_protocol::manifest::{Entry, Manifest};
use dft_protocol::path::SafePath;
use dft_protocol::piece_set::PieceSet;
use rustix::fs::OFlags;

use super::disk;
use super::error::StorageError;
use super::files::OpenFiles;
use super::part::{Part, Record};
use super::pieces::{Contents, is_zeros, runs};
use super::ranges::Ranges;
use super::selection::Selection;
use super::small::{Finished, Recent};
use super::tree::{Parents, Tree};
use crate::buffers::Buffer;

/// With more files than this to sync, one syncfs is cheaper than an fsync each.
pub(super) const SYNC_EACH_MAX: usize = 64;
/// Holes are kept in units of this many bytes: the block size of the usual filesystems.
const HOLE_LEN: u64 = 4096;

/// The state of a dataset that is being assembled.
pub(super) struct Assembly {
    pub(super) manifest: Arc<Manifest>,
    pub(super) part: Part,
    /// What the final name is to hold. Other files are here only while their packs are served.
    pub(super) selection: Selection,
    kept: Option<Selection>,
    /// For each entry, whether it is a file of `kept` that nobody writes to: it may have another name,
    /// in the tree that grows.
    settled: Vec<bool>,
    /// Those other files are gone, and must not be made again.
    pub(super) reduced: AtomicBool,
    pub(super) tree: Tree,
    pub(super) files: OpenFiles,
    pub(super) finished: Finished,
    pub(super) recent: Recent,
    progress: Mutex<Progress>,
    /// Held during a flush: one at a time.
    flushing: Mutex<()>,
}

/// Where each piece is on its way to the disk: `blank` or with unknown content, then in
/// `started`, then in `durable`.
struct Progress {
    durable: PieceSet,
    /// Pieces whose place holds nothing but a hole.
    blank: PieceSet,
    started: BTreeMap<PieceIndex, Started>,
    /// Files with bytes that no sync has covered.
    touched: BTreeSet<usize>,
    /// How many flushes have failed: what was written before the last one does not count.
    failures: u64,
    /// Pieces that were forgotten since the latest flush began: it does not speak for them.
    forgotten: BTreeSet<PieceIndex>,
    /// The record names pieces that were forgotten.
    is_record_stale: bool,
}

/// A piece with some bytes written. Bounded by the pieces in flight, those between flushes, and those of one
/// file that was cloned.
#[derive(Default)]
struct Started {
    /// All that may hold something else than zeros.
    soiled: Ranges,
    /// What was written since the last failed flush.
    written: Ranges,
    verified: bool,
}

/// What there is in a part directory when it is opened.
pub(super) struct Initial {
    pub(super) durable: PieceSet,
    pub(super) blank: PieceSet,
    /// Pieces that hash right but may not be synced.
    pub(super) right: BTreeSet<PieceIndex>,
}

/// What a fetch is to end with.
pub(super) struct Aim {
    pub(super) selection: Selection,
    /// What a fetch before this one ended with, where that was not the whole: it stays.
    pub(super) kept: Option<Selection>,
}

impl Aim {
    pub(super) fn record(&self, manifest: &Manifest, durable: &PieceSet) -> Record {
        record(manifest, durable, self.kept.as_ref())
    }
}

fn record(manifest: &Manifest, durable: &PieceSet, kept: Option<&Selection>) -> Record {
    let (manifest, pieces) = (manifest.id(), durable.to_bytes());
    Record::Durable { manifest, pieces, kept: kept.map(Selection::to_bytes) }
}

impl Assembly {
    pub(super) fn new(
        manifest: Arc<Manifest>,
        part: Part,
        aim: Aim,
        initial: Initial,
    ) -> Result<Self, StorageError> {
        let mut started = BTreeMap::new();
        let mut touched = BTreeSet::new();
        for piece in initial.right {
            let whole = Ranges::from(0..manifest.geometry().piece_len(piece));
            started.insert(piece, Started { soiled: whole.clone(), written: whole, verified: true });
            touched.extend(manifest.layout().spans(piece).map(|span| span.entry));
        }
        let Initial { durable, blank, .. } = initial;
        let settled = match &aim.kept {
            Some(kept) => kept.settled(&manifest, &durable),
            None => vec![false; manifest.info().entries.len()],
        };
        let tree = part.data();
        let progress = Progress {
            durable,
            blank,
            started,
            touched,
            failures: 0,
            forgotten: BTreeSet::new(),
            is_record_stale: false,
        };
        let progress = Mutex::new(progress);
        let Aim { selection, kept } = aim;
        let assembly = Self {
            manifest,
            part,
            selection,
            kept,
            settled,
            reduced: AtomicBool::new(false),
            tree,
            files: OpenFiles::default(),
            finished: Finished::default(),
            recent: Recent::default(),
            progress,
            flushing: Mutex::default(),
        };
        assembly.flush()?;
        Ok(assembly)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("no thread panics while it holds this lock")
    }

    pub(super) fn durable(&self) -> PieceSet {
        self.progress().durable.clone()
    }

    /// Writes part of a piece. Bytes of a piece that is there already are dropped.
    pub(super) fn write(&self, piece: PieceIndex, offset: u32, data: &[u8]) -> Result<(), StorageError> {
        let end = u64::from(offset) + data.len() as u64;
        let runs = runs(self.manifest.layout(), piece, offset, data.len())
            .ok_or(StorageError::OutOfPiece { piece, end })?;
        let range = offset..u32::try_from(end).map_err(|_| StorageError::OutOfPiece { piece, end })?;
        let (failures, keep_holes) = {
            let mut progress = self.progress();
            if progress.durable.contains(piece) {
                return Ok(());
            }
            let (failures, blank) = (progress.failures, progress.blank.contains(piece));
            let started = progress.started.entry(piece).or_default();
            if started.verified {
                return Ok(());
            }
            let clean = blank && !started.soiled.overlaps(&range);
            started.soiled.insert(range.clone());
            (failures, clean)
        };
        let mut touched = Vec::new();
        let (is_pack, mut parents) = (self.manifest.layout().is_pack(piece), self.tree.parents());
        for (run, bytes) in runs {
            let bytes = &data[bytes];
            touched.push(run.entry);
            if is_pack && self.write_small(&mut parents, run, bytes)? {
                continue;
            }
            let file = self.files.file(run.entry, || self.open_to_write(run.entry, run.offset, bytes))?;
            write_run(&file, run.offset, bytes, keep_holes)
                .map_err(|error| StorageError::new("write", self.path(run.entry), error))?;
        }
        let mut progress = self.progress();
        progress.touched.extend(touched);
        if progress.failures == failures
            && let Some(started) = progress.started.get_mut(&piece)
        {
            started.written.insert(range);
        }
        Ok(())
    }

    /// Writes a small file that is not there yet and needs nothing further; false where it is to be written
    /// as any other.
    fn write_small(&self, parents: &mut Parents<'_>, run: Span, bytes: &[u8]) -> Result<bool, StorageError> {
        if self.finished.reopen(run.entry) {
            // It may be open to be read.
            self.files.close_one(run.entry);
        }
        let entries = &self.manifest.info().entries;
        // Few files are synced one by one, and may stay open until then.
        if entries.len() <= SYNC_EACH_MAX || self.settled[run.entry] || self.reduced.load(Ordering::Acquire) {
            return Ok(false);
        }
        match &entries[run.entry] {
            Entry::File { path, size, mode, mtime } if *size == bytes.len() as u64 => {
                let Ok((parent, name)) = parents.of(path) else { return Ok(false) };
                self.finished
                    .write((&parent, &name), run.entry, (bytes, *mode, *mtime))
                    .map_err(|error| StorageError::new("write", self.path(run.entry), error))
            }
            _ => Ok(false),
        }
    }

    /// A whole piece was written from this buffer, which may hold other memory afterwards.
    pub(super) fn written(&self, piece: PieceIndex, buffer: &mut Buffer) {
        if self.manifest.layout().is_pack(piece) {
            self.recent.keep(piece, buffer);
        }
    }

    /// Where `first` is the first piece of a large file of which nothing is here: lets that share the blocks
    /// of what `original` opens, where the filesystem can. All of its pieces are written then, with
    /// whatever the original holds at this moment; else nothing is.
    pub(super) fn clone_file(
        &self,
        first: PieceIndex,
        original: impl FnOnce(usize) -> Result<File, StorageError>,
    ) -> Result<(), StorageError> {
        let Some((entry, pieces)) = self.large_file(first) else { return Ok(()) };
        let is_begun = |progress: &Progress, piece| {
            progress.durable.contains(piece) || progress.started.contains_key(&piece)
        };
        if self.settled[entry] || pieces.iter().any(|piece| is_begun(&self.progress(), *piece)) {
            return Ok(());
        }
        // Whatever is wrong with it, who copies it says it better.
        let Ok(original) = original(entry) else { return Ok(()) };
        let (file, size) = (self.file(entry)?, self.manifest.info().entries[entry].size());
        let whole = |piece| Ranges::from(0..self.manifest.geometry().piece_len(piece));
        let failures = {
            let progress = &mut *self.progress();
            let soiled = |piece| (piece, Started { soiled: whole(piece), ..Started::default() });
            progress.started.extend(pieces.iter().map(|piece| soiled(*piece)));
            progress.failures
        };
        let is_cloned = disk::clone_file(&file, &original, size).is_ok();
        let set_length =
            |length| disk::set_length(&file, length).map_err(StorageError::at("write", &self.path(entry)));
        if !is_cloned {
            // A hole again, as far as it came.
            set_length(0)?;
        }
        // The original may have become longer meanwhile.
        set_length(size)?;
        let progress = &mut *self.progress();
        progress.touched.insert(entry);
        for piece in pieces {
            if !is_cloned {
                progress.started.remove(&piece);
            } else if let Some(started) = progress.started.get_mut(&piece)
                && progress.failures == failures
            {
                started.written = whole(piece);
            }
        }
        Ok(())
    }

    /// The file of which `first` is the first piece, and all of its pieces; `None` for a pack.
    fn large_file(&self, first: PieceIndex) -> Option<(usize, Vec<PieceIndex>)> {
        let (layout, geometry) = (self.manifest.layout(), self.manifest.geometry());
        let span = layout.spans(first).next().filter(|span| span.offset == 0 && !layout.is_pack(first))?;
        let onwards = (first.index() as u64..).map_while(|index| geometry.piece(index));
        let is_of_file = |piece: &PieceIndex| {
            !layout.is_pack(*piece) && layout.spans(*piece).all(|other| other.entry == span.entry)
        };
        Some((span.entry, onwards.take_while(is_of_file).collect()))
    }

    /// Whether all bytes of a piece are written that is not known to be right.
    pub(super) fn is_written(&self, piece: PieceIndex) -> bool {
        let whole = 0..self.manifest.geometry().piece_len(piece);
        self.progress().started.get(&piece).is_some_and(|started| started.written.contains(&whole))
    }

    /// All bytes of a piece are written and hash right. Means nothing where a flush failed after
    /// some of them were written.
    pub(super) fn verified(&self, piece: PieceIndex) {
        let whole = 0..self.manifest.geometry().piece_len(piece);
        if let Some(started) = self.progress().started.get_mut(&piece) {
            started.verified = started.written.contains(&whole);
        }
    }

    /// Pieces are not what they should be: they count again once all of their bytes were written anew.
    pub(super) fn forget(&self, pieces: &[PieceIndex]) {
        let progress = &mut *self.progress();
        for &piece in pieces {
            self.recent.forget(piece);
            progress.forgotten.insert(piece);
            progress.is_record_stale |= progress.durable.remove(piece);
            progress.blank.remove(piece);
            // What is there now is anything.
            let soiled = Ranges::from(0..self.manifest.geometry().piece_len(piece));
            let fresh = Started { soiled, ..Started::default() };
            progress.started.insert(piece, fresh);
        }
    }

    /// Makes all verified pieces durable, and writes it down.
    pub(super) fn flush(&self) -> Result<Vec<PieceIndex>, StorageError> {
        let _one_at_a_time = self.flushing.lock().expect("no thread panics while it holds this lock");
        let (mut pieces, touched) = {
            let mut progress = self.progress();
            let verified = progress.started.iter().filter(|(_, started)| started.verified);
            let pieces: Vec<PieceIndex> = verified.map(|(&piece, _)| piece).collect();
            if pieces.is_empty() && !progress.is_record_stale {
                return Ok(pieces);
            }
            progress.forgotten.clear();
            (pieces, std::mem::take(&mut progress.touched))
        };
        if let Err(cause) = self.sync(&touched) {
            let mut progress = self.progress();
            progress.failures += 1;
            for started in progress.started.values_mut() {
                (started.written, started.verified) = (Ranges::default(), false);
            }
            let pieces = progress.started.keys().copied().collect();
            return Err(StorageError::NotDurable { pieces, cause: Box::new(cause) });
        }
        let durable = self.durable_with(&pieces);
        // Where this fails the bytes are safe all the same: the next flush writes it down.
        let record = record(&self.manifest, &durable, self.kept.as_ref());
        self.part.write_record(&record)?;
        let progress = &mut *self.progress();
        pieces.retain(|piece| !progress.forgotten.contains(piece));
        for &piece in &pieces {
            progress.durable.insert(piece);
            progress.started.remove(&piece);
        }
        progress.is_record_stale = progress.durable != durable;
        Ok(pieces)
    }

    /// What is durable once these pieces are synced.
    fn durable_with(&self, pieces: &[PieceIndex]) -> PieceSet {
        let progress = self.progress();
        let mut durable = progress.durable.clone();
        for &piece in pieces.iter().filter(|piece| !progress.forgotten.contains(*piece)) {
            durable.insert(piece);
        }
        durable
    }

    fn sync(&self, touched: &BTreeSet<usize>) -> Result<(), StorageError> {
        if touched.len() > SYNC_EACH_MAX {
            return disk::sync_filesystem(&self.part.directory)
                .map_err(StorageError::at("sync", &self.part.path));
        }
        // A file that was closed since it was written is opened again: an error of its writeback
        // that nobody has seen is reported to the next who opens it (Linux 4.16 and later).
        for &entry in touched {
            disk::sync_data(&*self.file(entry)?).map_err(StorageError::at("sync", &self.path(entry)))?;
        }
        Ok(())
    }

    /// A file of the tree, open to read and write; made where it is missing.
    fn file(&self, entry: usize) -> Result<Arc<File>, StorageError> {
        self.files.file(entry, || self.open_file(entry))
    }

    fn open_file(&self, index: usize) -> Result<File, StorageError> {
        let entry = &self.manifest.info().entries[index];
        if self.reduced.load(Ordering::Acquire) && !self.selection.contains(index) {
            return Err(StorageError::Changed { path: self.path(index), entry: index });
        }
        if self.settled[index] {
            return open_own(&self.tree, entry.path(), OFlags::RDONLY)
                .map_err(StorageError::at("read", &self.path(index)));
        }
        if self.finished.identity(index).is_some() {
            // To write to it would need another mode.
            if let Ok(file) = self.tree.open(entry.path(), OFlags::RDONLY | OFlags::NONBLOCK) {
                return Ok(file);
            }
            self.finished.reopen(index);
        }
        open_sized(&self.tree, entry).map_err(StorageError::at("create", &self.path(index)))
    }

    /// The same for a file into which `bytes` are written next: a call less where that gives it its length.
    fn open_to_write(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<File, StorageError> {
        let entry = &self.manifest.info().entries[index];
        let is_whole = offset == 0 && bytes.len() as u64 == entry.size();
        // Zeros at its end may be left out as a hole.
        let sizes_it = is_whole && bytes.last().is_some_and(|last| *last != 0);
        if self.settled[index] || !sizes_it || self.reduced.load(Ordering::Acquire) {
            return self.open_file(index);
        }
        match open_or_create(&self.tree, entry.path()) {
            Ok(file) if file.metadata().is_ok_and(|there| there.len() <= entry.size()) => Ok(file),
            _ => self.open_file(index),
        }
    }
}

impl Contents for Assembly {
    fn open(&self, entry: usize) -> Result<File, StorageError> {
        self.open_file(entry)
    }

    fn check(&self, _: usize, _: &File) -> Result<(), StorageError> {
        Ok(())
    }

    fn path(&self, entry: usize) -> PathBuf {
        self.tree.shown(self.manifest.info().entries[entry].path())
    }
}

/// Opens a file of a tree in a part directory to read and write. It is made where it is
/// missing, made writable where it is not, and has the right length.
pub(super) fn open_sized(tree: &Tree, entry: &Entry) -> std::io::Result<File> {
    let file = open_or_create(tree, entry.path())?;
    if file.metadata()?.len() != entry.size() {
        disk::set_length(&file, entry.size())?;
    }
    Ok(file)
}

fn open_or_create(tree: &Tree, path: &SafePath) -> std::io::Result<File> {
    let create = || disk::open_or_create(&*tree.directory, &tree.bytes(path));
    match create() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            open_up(tree, path, 0o600)?;
            create()
        }
        result => result,
    }
}

/// Opens what lies in a part directory for its attributes, whatever its mode forbids.
pub(super) fn open_own(tree: &Tree, path: &SafePath, flags: OFlags) -> std::io::Result<File> {
    match tree.open(path, flags | OFlags::NONBLOCK) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            open_up(tree, path, 0o700)?;
            tree.open(path, flags | OFlags::NONBLOCK)
        }
        result => result,
    }
}

fn open_up(tree: &Tree, path: &SafePath, mode: u16) -> std::io::Result<()> {
    let (parent, name) = tree.parents().of(path)?;
    disk::set_mode_by_name(&parent, &name, mode)
}

/// Writes at `offset` of a file; where `keep_holes`, zeros that fill whole blocks are passed
/// over, for that place holds zeros already.
pub(super) fn write_run(file: &File, offset: u64, bytes: &[u8], keep_holes: bool) -> std::io::Result<()> {
    if !keep_holes {
        return disk::write_at(file, bytes, offset);
    }
    let at = |start: usize| offset + start as u64;
    let (mut start, mut end) = (0, 0);
    while end < bytes.len() {
        let to_block_end = HOLE_LEN - at(end) % HOLE_LEN;
        let len = usize::try_from(to_block_end).unwrap_or(usize::MAX).min(bytes.len() - end);
        if len as u64 == HOLE_LEN && is_zeros(&bytes[end..end + len]) {
            disk::write_at(file, &bytes[start..end], at(start))?;
            start = end + len;
        }
        end += len;
    }
    disk::write_at(file, &bytes[start..], at(start))
}
