//! [`Store`]: the pieces of one dataset on this disk, whether they are served in place or are
//! still being assembled.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::{Entry, Manifest};
use dft_protocol::path::SafePath;
use dft_protocol::piece_set::PieceSet;

use super::assembly::Assembly;
use super::disk;
use super::error::StorageError;
use super::files::{OpenFiles, read_from_memory};
use super::finish::{Replace, refresh_linked, refresh_root, repair, restrict_root};
use super::part::{Part, check_names};
use super::partial::{Partial, is_untouched};
use super::passing::Passing;
use super::pieces::{Contents, PieceReader, runs};
use super::resume::{self, CheckProgress};
use super::scan::{InPlace, Scan, Source, Top};
use super::selection::Selection;
use super::tree::{Attributes, Tree, open_directory};
use super::verify::{Depth, Difference, compare};
use crate::buffers::Buffer;

/// How often the place of a fetch may change hands while it is being opened.
const OPEN_ATTEMPTS_MAX: u32 = 16;

/// How to fetch.
#[derive(Clone, Debug, Default)]
pub struct FetchOptions {
    /// Replace what has the final name, once the fetch is complete; discard a partial fetch of
    /// another manifest.
    pub force: bool,
    /// What to fetch; `None` for all.
    pub selection: Option<Selection>,
}

/// The pieces of one dataset on this disk. Used from several threads at once.
///
/// A store either *serves* a complete dataset in place, and never writes to it ([`Store::seed`],
/// or after [`Store::finish`]), or it *assembles* one: [`write`](Store::write) all bytes of a
/// piece, check them, say [`verified`](Store::verified), and [`flush`](Store::flush) now and
/// then; once all pieces are durable, [`finish`](Store::finish). Dropped at any point, the next
/// [`Store::fetch`] goes on from the last flush.
///
/// Or it holds in memory what somebody is about to read ([`Store::passing`]), and nothing else.
pub struct Store {
    manifest: Arc<Manifest>,
    selection: Selection,
    phase: RwLock<Phase>,
    /// Held while finishing; what a finish has left to do after the rename.
    cleaning: Mutex<Option<Part>>,
    /// The target's directory and name; `None` for a seeder.
    target: Option<Target>,
}

struct Target {
    tree: Tree,
    directory: PathBuf,
    force: bool,
    /// What has the final name is a part of the dataset, which this fetch adds to.
    grows: bool,
}

enum Phase {
    Assembling(Box<Assembly>),
    Serving(Served),
    /// Nothing of it goes to the disk.
    Passing(Passing),
}

impl Phase {
    /// Fills `buffer` from a pack that came lately.
    fn read_recent(&self, piece: PieceIndex, offset: u32, buffer: &mut [u8]) -> bool {
        matches!(self, Phase::Assembling(assembly) if assembly.recent.read(piece, offset, buffer))
    }
}

/// A complete dataset where it lies.
struct Served {
    sources: Vec<Source>,
    tops: Vec<Top>,
    files: OpenFiles,
    /// The pieces that are there.
    have: PieceSet,
}

impl Store {
    /// Serves a dataset in place: reads only. The manifest must be made from the scan.
    pub fn seed(manifest: Arc<Manifest>, scan: Scan) -> Result<Self, StorageError> {
        if manifest.info().entries != scan.entries {
            return Err(StorageError::NotTheDataset(scan.path(0)));
        }
        let Scan { sources, tops, .. } = scan;
        let selection = Selection::all(&manifest);
        Ok(Self::serving(manifest, selection, sources, tops, None))
    }

    /// Holds nothing but what is written to it, in memory, until it is [told](Store::keep) what is to stay.
    pub fn passing(manifest: Arc<Manifest>) -> Self {
        let selection = Selection::all(&manifest);
        let phase = RwLock::new(Phase::Passing(Passing::default()));
        Self { manifest, selection, phase, cleaning: Mutex::default(), target: None }
    }

    /// Whether nothing of it goes to the disk.
    pub fn is_passing(&self) -> bool {
        matches!(&*self.phase(), Phase::Passing(_))
    }

    /// Gives back the memory of all pieces but those that stay, where nothing goes to the disk.
    pub fn keep(&self, stays: impl Fn(PieceIndex) -> bool) {
        if let Phase::Passing(passing) = &*self.phase() {
            passing.keep(stays);
        }
    }

    /// Opens `directory` to fetch a dataset into it: begins, goes on with what an earlier fetch
    /// left, or finds it complete. `progress` hears of the check of what is there.
    ///
    /// Where [`durable`](Store::durable) is full and [`is_finished`](Store::is_finished) is not
    /// true (an empty dataset, or a fetch that died at the very end), only `finish` is left to do.
    pub fn fetch(
        manifest: Arc<Manifest>,
        directory: &Path,
        options: FetchOptions,
        progress: &dyn Fn(CheckProgress),
    ) -> Result<Self, StorageError> {
        check_names(&manifest)?;
        let name = &manifest.info().name;
        let handle = Arc::new(open_directory(directory).map_err(StorageError::at("open", directory))?);
        let tree = Tree::new(handle.clone(), name.as_bytes(), directory);
        let path = tree.shown(&SafePath::root());
        let exists = || -> Result<bool, StorageError> {
            let there = Attributes::at(&*handle, name.as_bytes());
            Ok(there.map_err(StorageError::at("look at", &path))?.is_some())
        };
        let target =
            |tree, grows| Target { tree, directory: directory.to_owned(), force: options.force, grows };
        let selection = options.selection.unwrap_or_else(|| Selection::all(&manifest));
        let assemble = |part, target, grown| {
            let place = resume::Place { part, force: options.force, target: directory, grown };
            let assembly = resume::open(manifest.clone(), place, &selection, progress)?;
            let selection = assembly.selection.clone();
            let phase = RwLock::new(Phase::Assembling(Box::new(assembly)));
            let (manifest, target) = (manifest.clone(), Some(target));
            Ok(Self { manifest, selection, phase, cleaning: Mutex::default(), target })
        };
        for _ in 0..OPEN_ATTEMPTS_MAX {
            let existed = exists()?;
            if existed {
                if let Some(sources) = complete(&manifest, &tree, progress)? {
                    Part::remove_leftovers(&handle, directory, &manifest)?;
                    let tops = vec![Top::new(directory, name.as_bytes())];
                    let all = Selection::all(&manifest);
                    return Ok(Self::serving(manifest, all, sources, tops, Some(target(tree, false))));
                }
                if let Some(partial) = Partial::find(&manifest, &handle, directory, &tree, progress)? {
                    if partial.holds(&selection) {
                        // All that is there is served.
                        let tops = vec![Top::new(directory, name.as_bytes())];
                        let (there, target) = (partial.there, Some(target(tree, false)));
                        return Ok(Self::serving(manifest, there, partial.sources, tops, target));
                    }
                    let (part, grown) = partial.into_growing(&manifest, &tree)?;
                    return assemble(part, target(tree, true), Some(grown));
                }
                if !options.force {
                    return Err(StorageError::Exists { path });
                }
            }
            let Some(part) = Part::lock(&handle, directory, name)? else { continue };
            if !existed && exists()? {
                // Another fetch finished meanwhile.
                if part.is_new {
                    part.remove()?;
                }
                continue;
            }
            return assemble(part, target(tree, false), None);
        }
        Err(StorageError::Busy { path })
    }

    fn serving(
        manifest: Arc<Manifest>,
        selection: Selection,
        sources: Vec<Source>,
        tops: Vec<Top>,
        target: Option<Target>,
    ) -> Self {
        let have = selection.whole_pieces(&manifest);
        let phase = RwLock::new(Phase::Serving(Served { sources, tops, files: OpenFiles::default(), have }));
        Self { manifest, selection, phase, cleaning: Mutex::default(), target }
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What has the final name, where a fetch is at work that may replace it.
    pub(super) fn replaced(&self) -> Option<&Tree> {
        let target = self.target.as_ref().filter(|target| target.force && !self.is_finished())?;
        Some(&target.tree)
    }

    /// What is to be here in the end, or is.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The pieces that are there and stay there: those found when it was opened, and those of
    /// each flush since.
    pub fn durable(&self) -> PieceSet {
        match &*self.phase() {
            Phase::Assembling(assembly) => assembly.durable(),
            Phase::Serving(served) => served.have.clone(),
            Phase::Passing(_) => PieceSet::empty(self.manifest.geometry().piece_count()),
        }
    }

    /// Whether the dataset has its final name.
    pub fn is_finished(&self) -> bool {
        matches!(&*self.phase(), Phase::Serving(_))
    }

    /// Reads the part of a piece from `offset` on that fills `buffer`. Where a file that is
    /// served in place is not as it was, before or after the read, it is
    /// [`StorageError::Changed`]. In a store that is being assembled, only pieces that were
    /// verified hold anything of worth.
    pub fn read(&self, piece: PieceIndex, offset: u32, buffer: &mut [u8]) -> Result<(), StorageError> {
        let end = u64::from(offset) + buffer.len() as u64;
        let runs = runs(self.manifest.layout(), piece, offset, buffer.len())
            .ok_or(StorageError::OutOfPiece { piece, end })?;
        let phase = self.phase();
        if let Phase::Passing(passing) = &*phase {
            return passing.read(piece, offset, buffer);
        }
        if phase.read_recent(piece, offset, buffer) {
            return Ok(());
        }
        self.with_contents_of(&phase, |contents, files| {
            for (run, range) in runs {
                let file = files.file(run.entry, || contents.open(run.entry))?;
                contents.check(run.entry, &file)?;
                let read = file.read_exact_at(&mut buffer[range], run.offset);
                read.map_err(|error| contents.read_failed(run.entry, error))?;
                contents.check(run.entry, &file)?;
            }
            Ok(())
        })
    }

    /// As [`read`](Store::read), but only where that takes no waiting: the file is open and its
    /// bytes are in memory. Where they are not, it is false and `buffer` is of no meaning.
    pub fn read_cached(
        &self,
        piece: PieceIndex,
        offset: u32,
        buffer: &mut [u8],
    ) -> Result<bool, StorageError> {
        let Some(mut runs) = runs(self.manifest.layout(), piece, offset, buffer.len()) else {
            return Ok(false);
        };
        let Ok(phase) = self.phase.try_read() else {
            return Ok(false);
        };
        if let Phase::Passing(passing) = &*phase {
            return passing.read(piece, offset, buffer).map(|()| true);
        }
        if phase.read_recent(piece, offset, buffer) {
            return Ok(true);
        }
        let (Some((run, _)), None) = (runs.next(), runs.next()) else {
            return Ok(false);
        };
        self.with_contents_of(&phase, |contents, files| {
            let Some(file) = files.open_file(run.entry) else {
                return Ok(false);
            };
            contents.check(run.entry, &file)?;
            let read = read_from_memory(&file, run.offset, buffer);
            // Whatever is wrong, the other way to read says it better.
            let read = read.unwrap_or(false);
            contents.check(run.entry, &file)?;
            Ok(read)
        })
    }

    /// Writes part of a piece at its place. Safe to repeat; bytes of a piece that is verified
    /// already are dropped, as are all of a fetch that is finished: a piece may come twice.
    pub fn write(&self, piece: PieceIndex, offset: u32, data: &[u8]) -> Result<(), StorageError> {
        match &*self.phase() {
            Phase::Assembling(assembly) => assembly.write(piece, offset, data),
            Phase::Passing(passing) => passing.write(&self.manifest, piece, offset, data),
            Phase::Serving(_) if self.target.is_some() && self.selection.needs(&self.manifest, piece) => {
                Ok(())
            }
            Phase::Serving(_) => Err(StorageError::ReadOnly),
        }
    }

    /// Writes a whole piece from the beginning of `buffer`, which may hold other memory afterwards: as
    /// [`write`](Store::write), but what somebody is likely to ask for soon is not copied.
    pub fn write_whole(&self, piece: PieceIndex, buffer: &mut Buffer) -> Result<(), StorageError> {
        let len = self.manifest.geometry().piece_len(piece) as usize;
        self.write(piece, 0, &buffer[..len])?;
        if let Phase::Assembling(assembly) = &*self.phase() {
            assembly.written(piece, buffer);
        }
        Ok(())
    }

    /// Lets the large file that begins with `piece`, where nothing of it is here, share the blocks of that in
    /// another store, where the filesystem can. Nothing of it counts before it is
    /// [right](Store::is_written_right).
    pub(super) fn clone_file(&self, piece: PieceIndex, from: &Self) -> Result<(), StorageError> {
        match &*self.phase() {
            Phase::Assembling(assembly) => {
                assembly.clone_file(piece, |entry| from.with_contents(|contents, _| contents.open(entry)))
            }
            Phase::Serving(_) | Phase::Passing(_) => Ok(()),
        }
    }

    /// Whether a piece is written, and what was written is right when it is read again.
    pub(super) fn is_written_right(&self, piece: PieceIndex) -> bool {
        let is_written = match &*self.phase() {
            Phase::Assembling(assembly) => assembly.is_written(piece),
            Phase::Serving(_) | Phase::Passing(_) => false,
        };
        is_written && self.rehash(piece).unwrap_or(false)
    }

    /// Pieces that were verified are not there after all: they may be written again. Means nothing
    /// for what is served in place.
    pub fn forget(&self, pieces: &[PieceIndex]) {
        if let Phase::Assembling(assembly) = &*self.phase() {
            assembly.forget(pieces);
        }
    }

    /// All bytes of `piece` are written and hash right: the next flush makes it durable.
    pub fn verified(&self, piece: PieceIndex) {
        if let Phase::Assembling(assembly) = &*self.phase() {
            assembly.verified(piece);
        }
    }

    /// Makes the verified pieces durable and returns them. On [`StorageError::NotDurable`] the
    /// pieces that it names are to be fetched again; on any other error nothing is lost, and
    /// the next flush tries again.
    pub fn flush(&self) -> Result<Vec<PieceIndex>, StorageError> {
        match &*self.phase() {
            Phase::Assembling(assembly) => assembly.flush(),
            Phase::Serving(_) | Phase::Passing(_) => Ok(Vec::new()),
        }
    }

    /// Gives the dataset its modes, times and final name, and returns its path. All pieces that
    /// are selected must be durable, and stay so until it has its name. Of the others, those that lie
    /// outside of the tree are gone afterwards: [`Selection::whole_pieces`] stay. Reading goes on
    /// afterwards. May be repeated after an error.
    pub fn finish(&self) -> Result<PathBuf, StorageError> {
        let Some(target) = &self.target else { return Err(StorageError::ReadOnly) };
        let mut cleaning = self.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
        let phase = self.phase();
        if let Phase::Assembling(assembly) = &*phase {
            assembly.flush()?;
            self.check_complete(assembly)?;
            // Before modes and times are set: a file of the tree that grows may be one of this tree.
            let replace = match target {
                Target { grows: true, .. } if is_untouched(&self.manifest, &target.tree)? => Replace::Grown,
                Target { force: true, .. } => Replace::Anything,
                _ => Replace::Nothing,
            };
            let sources = assembly.complete()?;
            drop(phase);
            self.place(target, sources, replace, &mut cleaning)?;
        } else {
            drop(phase);
        }
        let path = target.tree.shown(&SafePath::root());
        if let Some(part) = &*cleaning {
            restrict_root(&self.manifest.info().entries[0], &target.tree)?;
            disk::sync_all(&part.target).map_err(StorageError::at("sync", &target.directory))?;
            if self.selection.is_all() {
                part.remove()?;
                *cleaning = None;
            } else {
                // The record stays, and the lock for as long as this store serves the tree.
                part.clear_old()?;
            }
        }
        Ok(path)
    }

    fn check_complete(&self, assembly: &Assembly) -> Result<(), StorageError> {
        let (durable, wanted) = (assembly.durable(), self.selection.pieces(&self.manifest));
        let missing = wanted.count() - wanted.count_common(&durable);
        if missing > 0 { Err(StorageError::Unfinished { missing }) } else { Ok(()) }
    }

    /// Gives the assembled tree its final name and serves from there, in one step for readers.
    fn place(
        &self,
        target: &Target,
        mut sources: Vec<Source>,
        replace: Replace,
        cleaning: &mut Option<Part>,
    ) -> Result<(), StorageError> {
        let name = self.manifest.info().name.as_bytes();
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        if let Phase::Assembling(assembly) = &*phase {
            // Nobody can forget a piece any more; until here, one may have been found wrong.
            self.check_complete(assembly)?;
            assembly.place(name, &target.tree, replace)?;
            refresh_root(&mut sources, &target.tree.directory, name)
                .map_err(StorageError::at("look at", &target.directory))?;
            if replace == Replace::Grown {
                // Where this fails, it is tried again and told of when all is done.
                let _ = assembly.part.clear_old();
                refresh_linked(&mut sources, &self.manifest.info().entries, &target.tree);
            }
        }
        let tops = vec![Top::new(&target.directory, name)];
        let have = self.selection.whole_pieces(&self.manifest);
        let serving = Phase::Serving(Served { sources, tops, files: OpenFiles::default(), have });
        if let Phase::Assembling(assembly) = std::mem::replace(&mut *phase, serving) {
            *cleaning = Some(assembly.part);
        }
        Ok(())
    }

    /// Reads a piece and checks its hash.
    pub fn rehash(&self, piece: PieceIndex) -> Result<bool, StorageError> {
        if let Phase::Passing(passing) = &*self.phase() {
            return passing.is_right(&self.manifest, piece);
        }
        self.with_contents(|contents, _| {
            let hasher = PieceReader::new(self.manifest.layout(), contents).hash(piece)?;
            Ok(hasher.matches(self.manifest.hash(piece)))
        })
    }

    /// All pieces with bytes of these entries, in ascending order: what can no longer be offered
    /// where these files are [`StorageError::Changed`].
    pub fn pieces_of(&self, entries: &[usize]) -> Vec<PieceIndex> {
        let layout = self.manifest.layout();
        let holds =
            |piece: &PieceIndex| layout.spans(*piece).any(|span| entries.binary_search(&span.entry).is_ok());
        self.manifest.geometry().pieces().filter(holds).collect()
    }

    /// Looks at each file that is served in place, as it has its name: the first one that is not as
    /// it was, and the pieces of all that are not. Nothing while it is being assembled. Blocks.
    pub fn changed(&self) -> Option<(StorageError, Vec<PieceIndex>)> {
        let phase = self.phase();
        let Phase::Serving(Served { sources, tops, .. }) = &*phase else { return None };
        let entries = &self.manifest.info().entries;
        let contents = InPlace { entries, sources, tops };
        let (mut first, mut changed) = (None, Vec::new());
        for index in (0..entries.len()).filter(|index| self.selection.contains(*index)) {
            if matches!(entries[index], Entry::File { .. })
                && let Err(error @ StorageError::Changed { .. }) = contents.open(index)
            {
                first.get_or_insert(error);
                changed.push(index);
            }
        }
        first.map(|error| (error, self.pieces_of(&changed)))
    }

    /// Closes the files that are kept open for the next read; it opens them again.
    pub fn close_files(&self) {
        match &*self.phase() {
            Phase::Assembling(assembly) => {
                assembly.files.close();
                assembly.recent.clear();
            }
            Phase::Serving(served) => served.files.close(),
            Phase::Passing(_) => {}
        }
    }

    /// Removes what a fetch of this dataset into `directory` that will not go on left there; nothing
    /// where another one is at work.
    pub fn discard(manifest: &Manifest, directory: &Path) -> Result<(), StorageError> {
        let handle = Arc::new(open_directory(directory).map_err(StorageError::at("open", directory))?);
        Part::remove_leftovers(&handle, directory, manifest)
    }

    /// Where the dataset is or will be; `None` for a seeder.
    pub fn final_path(&self) -> Option<PathBuf> {
        self.target.as_ref().map(|target| target.tree.shown(&SafePath::root()))
    }

    fn with_contents<T>(
        &self,
        read: impl FnOnce(&dyn Contents, &OpenFiles) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.with_contents_of(&self.phase(), read)
    }

    fn with_contents_of<T>(
        &self,
        phase: &Phase,
        read: impl FnOnce(&dyn Contents, &OpenFiles) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        match phase {
            Phase::Assembling(assembly) => read(&**assembly, &assembly.files),
            Phase::Serving(Served { sources, tops, files, .. }) => {
                read(&InPlace { entries: &self.manifest.info().entries, sources, tops }, files)
            }
            Phase::Passing(_) => Err(StorageError::ReadOnly),
        }
    }

    fn phase(&self) -> std::sync::RwLockReadGuard<'_, Phase> {
        self.phase.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the final name holds the whole dataset already: then where each entry lies. Modes
/// and times that differ are set; where that is not allowed they stay.
fn complete(
    manifest: &Manifest,
    tree: &Tree,
    progress: &dyn Fn(CheckProgress),
) -> Result<Option<Vec<Source>>, StorageError> {
    let total = manifest.total_bytes();
    progress(CheckProgress { checked: 0, total });
    let mut heard = |checked| progress(CheckProgress { checked, total });
    let comparison = compare(manifest, tree, Depth::First, &mut heard)?;
    if !comparison.is_same_content() {
        return Ok(None);
    }
    let mut sources = comparison.sources;
    let paths: BTreeSet<&SafePath> =
        comparison.differences.iter().filter_map(Difference::attributes_of).collect();
    // Deepest first: a directory may be closed by its mode.
    for path in paths.into_iter().rev() {
        let index = manifest.info().entries.binary_search_by(|entry| entry.path().cmp(path));
        if let Ok(index) = index
            && let Ok(attributes) = repair(tree, &manifest.info().entries[index])
        {
            sources[index] = Source::new(attributes.identity);
        }
    }
    Ok(Some(sources))
}
