//! What there is to seed: the entries of a dataset, and where each lies on this disk.
//!
//! Nothing is read but names and attributes. What a fetch could not create safely is an error
//! here, at the seeder, where someone can mend it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dft_protocol::manifest::{ENTRY_COUNT_MAX, Entry, FILE_SIZE_MAX, ManifestError, Mtime};
use dft_protocol::path::{Name, SafePath, SymlinkTarget};
use rustix::fs::{Access, AtFlags, Mode, OFlags};

use super::error::StorageError;
use super::pieces::Contents;
use super::tree::{Attributes, Identity, Kind, Tree, is_missing, open_directory, resolve};
use super::walk::{Descend, Found, walk};

/// The mode of the directory that is made up to hold several paths.
const MADE_UP_MODE: u16 = 0o755;

/// How to scan.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    /// Leave symbolic links out that lead out of the dataset, rather than refuse them.
    pub skip_unsafe: bool,
    /// Files to leave out where they lie inside of the dataset: the manifest to be written.
    pub exclude: Vec<PathBuf>,
}

/// A dataset as it lies on this disk.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The name of the dataset.
    pub name: Name,
    /// The entries of its manifest, the root first.
    pub entries: Vec<Entry>,
    /// Where each entry lies, in the same order.
    pub sources: Vec<Source>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
    /// The bytes of all files.
    pub total_bytes: u64,
    pub(super) tops: Vec<Top>,
    /// When the scan began: younger changes may hide behind equal times.
    pub(super) started: SystemTime,
}

/// Where one entry lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// Index of the path, among those given, that holds it.
    top: u32,
    /// Which file it was, in which state.
    pub identity: Identity,
}

/// One of the given paths.
#[derive(Clone, Debug)]
pub(super) struct Top {
    /// The directory that holds it, without symbolic links.
    directory: PathBuf,
    /// Its name there.
    base: Vec<u8>,
    /// How many names of an entry's path lead to it: 0 where it is the root itself.
    depth: usize,
}

/// Something that was left out of a dataset, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// What.
    pub path: PathBuf,
    /// Why.
    pub reason: SkipReason,
}

/// Why something was left out of a dataset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SkipReason {
    /// A device, a socket or a named pipe.
    #[error("it is a device, a socket or a named pipe")]
    Special,
    /// A symbolic link that leads out of the dataset.
    #[error("it is a symbolic link that leads out of the dataset")]
    UnsafeSymlink,
    /// The part directory of a fetch.
    #[error("it holds a fetch that is not complete")]
    PartDirectory,
    /// The file was excluded: the manifest itself, or a secret.
    #[error("it is the manifest to be written, or a secret of this node or its user")]
    Excluded,
}

/// Finds all that `paths` hold. One path becomes the root itself; several lie in a directory
/// that is made up and called `name`. A symbolic link among `paths` is followed, those inside
/// are kept as links.
pub fn scan(paths: &[PathBuf], name: Option<Name>, options: &ScanOptions) -> Result<Scan, StorageError> {
    let started = SystemTime::now();
    let excluded = options.exclude.iter().filter_map(|path| identity_of(path)).collect();
    let tops = paths.iter().map(|path| GivenPath::new(path)).collect::<Result<Vec<_>, StorageError>>()?;
    let mut scanner = Scanner { options, excluded, entries: vec![], sources: vec![], skipped: vec![] };
    let (name, tops) = match &tops[..] {
        [] => return Err(StorageError::NothingToSeed),
        [given] => {
            let name = match name {
                Some(name) => name,
                None => given.name()?,
            };
            let top = given.top(0)?;
            if !scanner.scan(0, &top, &SafePath::root())? {
                return Err(StorageError::Special(given.given.to_owned()));
            }
            (name, vec![top])
        }
        several => (name.ok_or(StorageError::NameNeeded)?, scanner.scan_several(several)?),
    };
    let Scanner { entries, sources, skipped, .. } = scanner;
    let total_bytes = entries.iter().map(Entry::size).sum();
    Ok(Scan { name, entries, sources, skipped, total_bytes, tops, started })
}

impl Scan {
    /// Where entry number `entry` lies; for messages.
    pub fn path(&self, entry: usize) -> PathBuf {
        self.in_place().path(entry)
    }

    pub(super) fn in_place(&self) -> InPlace<'_> {
        InPlace { entries: &self.entries, sources: &self.sources, tops: &self.tops }
    }
}

/// What one path holds, in a state that was seen before: whoever reads it notices what has changed since.
pub(super) fn scan_of(
    path: &Path,
    name: &Name,
    entries: &[Entry],
    identities: &[Identity],
) -> Result<Scan, StorageError> {
    let top = match GivenPath::new(path) {
        Err(StorageError::NoSuchPath(_)) => Top {
            directory: path.parent().map(Path::to_owned).unwrap_or_default(),
            base: path.file_name().unwrap_or_default().as_bytes().to_vec(),
            depth: 0,
        },
        given => given?.top(0)?,
    };
    let size = |entry: &Entry| if let Entry::File { size, .. } = entry { *size } else { 0 };
    Ok(Scan {
        name: name.clone(),
        entries: entries.to_vec(),
        sources: identities.iter().map(|identity| Source { top: 0, identity: *identity }).collect(),
        skipped: Vec::new(),
        total_bytes: entries.iter().map(size).sum(),
        tops: vec![top],
        started: SystemTime::now(),
    })
}

/// A path that the user gave.
struct GivenPath<'a> {
    given: &'a Path,
    /// Without symbolic links.
    canonical: PathBuf,
}

impl<'a> GivenPath<'a> {
    fn new(given: &'a Path) -> Result<Self, StorageError> {
        match given.canonicalize() {
            Ok(canonical) => Ok(Self { given, canonical }),
            Err(error) if is_missing(&error) => Err(StorageError::NoSuchPath(given.to_owned())),
            Err(error) => Err(StorageError::new("find", given.to_owned(), error)),
        }
    }

    /// The last name as it was typed; where it is `.` or `..`, that of the directory meant.
    fn name(&self) -> Result<Name, StorageError> {
        let name = self.given.file_name().or(self.canonical.file_name());
        let name = name.ok_or_else(|| StorageError::NoName(self.given.to_owned()))?;
        Name::new(name.as_bytes())
            .map_err(|error| StorageError::UnsafePath { path: self.given.to_owned(), error })
    }

    fn top(&self, depth: usize) -> Result<Top, StorageError> {
        let top = match (self.canonical.parent(), self.canonical.file_name()) {
            (Some(directory), Some(base)) => {
                Top { directory: directory.to_owned(), base: base.as_bytes().to_vec(), depth }
            }
            _ => Top { directory: self.canonical.clone(), base: b".".to_vec(), depth },
        };
        Ok(top)
    }
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::stat(path).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

struct Scanner<'a> {
    options: &'a ScanOptions,
    /// Device and inode of each excluded file that exists.
    excluded: Vec<(u64, u64)>,
    entries: Vec<Entry>,
    sources: Vec<Source>,
    skipped: Vec<Skipped>,
}

impl Scanner<'_> {
    /// Several paths side by side, below a root that is made up.
    fn scan_several(&mut self, given: &[GivenPath<'_>]) -> Result<Vec<Top>, StorageError> {
        let mut named =
            given.iter().map(|given| Ok((given.name()?, given))).collect::<Result<Vec<_>, StorageError>>()?;
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Some(same) = named.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let (first, second) = (same[0].1.given.to_owned(), same[1].1.given.to_owned());
            return Err(StorageError::SameName { first, second });
        }
        let root = Entry::Directory { path: SafePath::root(), mode: MADE_UP_MODE, mtime: Mtime::default() };
        self.entries.push(root);
        self.sources.push(Source { top: 0, identity: Identity::default() });
        let (mut tops, mut newest) = (Vec::new(), None);
        for (number, (name, given)) in named.iter().enumerate() {
            let top = given.top(1)?;
            let path = SafePath::root()
                .join(name)
                .map_err(|error| StorageError::UnsafePath { path: given.given.to_owned(), error })?;
            let first = self.sources.len();
            let number = u32::try_from(number).map_err(|_| ManifestError::TooManyEntries)?;
            if self.scan(number, &top, &path)? {
                newest = newest.max(Some(self.sources[first].identity.mtime));
            }
            tops.push(top);
        }
        if let Some(Entry::Directory { mtime, .. }) = self.entries.first_mut() {
            *mtime = newest.unwrap_or_default();
        }
        Ok(tops)
    }

    /// All that `top` holds, to lie at `prefix` in the dataset. Whether it is anything: not
    /// where the path itself is skipped.
    fn scan(&mut self, number: u32, top: &Top, prefix: &SafePath) -> Result<bool, StorageError> {
        let directory = open_directory(&top.directory).map_err(StorageError::at("open", &top.directory))?;
        let tree = Tree::new(Arc::new(directory), top.base.clone(), &top.directory);
        let first = self.entries.len();
        walk(&tree, &mut |found| self.visit(number, &tree, prefix, found))?;
        Ok(self.entries.len() > first)
    }

    fn visit(
        &mut self,
        top: u32,
        tree: &Tree,
        prefix: &SafePath,
        found: &Found,
    ) -> Result<Descend, StorageError> {
        let path = below(prefix, &found.path)
            .map_err(|error| StorageError::UnsafePath { path: tree.shown(&found.path), error })?;
        let Attributes { kind, mode, identity, .. } = found.attributes;
        if let Some(reason) = self.reason_to_skip(found) {
            self.skipped.push(Skipped { path: tree.shown(&found.path), reason });
            return Ok(Descend::Past);
        }
        let entry = match kind {
            Kind::Directory => Entry::Directory { path, mode, mtime: identity.mtime },
            Kind::Symlink => match symlink(tree, path, found)? {
                Ok(entry) => entry,
                Err(_) if self.options.skip_unsafe => {
                    let path = tree.shown(&found.path);
                    self.skipped.push(Skipped { path, reason: SkipReason::UnsafeSymlink });
                    return Ok(Descend::Past);
                }
                Err(target) => {
                    let path = tree.shown(&found.path);
                    return Err(StorageError::UnsafeSymlink { path, target });
                }
            },
            Kind::File | Kind::Special => {
                rustix::fs::accessat(&found.parent, &found.name[..], Access::READ_OK, AtFlags::EACCESS)
                    .map_err(StorageError::at("read", &tree.shown(&found.path)))?;
                if identity.size > FILE_SIZE_MAX {
                    return Err(ManifestError::Attributes(path.to_string()).into());
                }
                Entry::File { path, size: identity.size, mode, mtime: identity.mtime }
            }
        };
        if self.entries.len() >= ENTRY_COUNT_MAX {
            return Err(ManifestError::TooManyEntries.into());
        }
        self.entries.push(entry);
        self.sources.push(Source { top, identity });
        Ok(Descend::Into)
    }

    fn reason_to_skip(&self, found: &Found) -> Option<SkipReason> {
        let Attributes { kind, identity, .. } = found.attributes;
        match kind {
            Kind::Special => Some(SkipReason::Special),
            Kind::Directory if super::part::is_part_name(&found.name) => Some(SkipReason::PartDirectory),
            Kind::File if self.excluded.contains(&(identity.device, identity.inode)) => {
                Some(SkipReason::Excluded)
            }
            _ => None,
        }
    }
}

fn below(prefix: &SafePath, path: &SafePath) -> Result<SafePath, dft_protocol::path::PathError> {
    if prefix.is_root() {
        return Ok(path.clone());
    }
    if path.is_root() {
        return Ok(prefix.clone());
    }
    SafePath::new([prefix.as_bytes(), path.as_bytes()].join(&b'/'))
}

/// The entry of a symbolic link, or its target where that leads out of the dataset.
fn symlink(tree: &Tree, path: SafePath, found: &Found) -> Result<Result<Entry, PathBuf>, StorageError> {
    let target = rustix::fs::readlinkat(&found.parent, &found.name[..], Vec::new())
        .map_err(StorageError::at("read", &tree.shown(&found.path)))?
        .into_bytes();
    Ok(match SymlinkTarget::new(&path, target.clone()) {
        Some(target) => Ok(Entry::Symlink { path, target }),
        None => Err(PathBuf::from(OsStr::from_bytes(&target))),
    })
}

/// Opens the files of a dataset where they lie, and tells whether they are as they were.
#[derive(Clone, Copy)]
pub(super) struct InPlace<'a> {
    pub(super) entries: &'a [Entry],
    pub(super) sources: &'a [Source],
    pub(super) tops: &'a [Top],
}

impl InPlace<'_> {
    /// The path of an entry below the directory of its top.
    fn below_top(&self, entry: usize) -> (&Top, Vec<u8>) {
        let top = &self.tops[self.sources[entry].top as usize];
        let mut bytes = top.base.clone();
        for name in self.entries[entry].path().components().skip(top.depth) {
            bytes.push(b'/');
            bytes.extend_from_slice(name);
        }
        (top, bytes)
    }
}

impl Contents for InPlace<'_> {
    fn open(&self, entry: usize) -> Result<File, StorageError> {
        let (top, path) = self.below_top(entry);
        let open = || -> io::Result<File> {
            let directory = open_directory(&top.directory)?;
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            resolve(directory, &path, flags, Mode::empty()).map(File::from)
        };
        match open() {
            Ok(file) => {
                self.check(entry, &file)?;
                Ok(file)
            }
            Err(error) if is_missing(&error) => Err(StorageError::Changed { path: self.path(entry), entry }),
            Err(error) => Err(StorageError::new("read", self.path(entry), error)),
        }
    }

    fn check(&self, entry: usize, file: &File) -> Result<(), StorageError> {
        let attributes = Attributes::of(file).map_err(StorageError::at("look at", &self.path(entry)))?;
        if attributes.kind == Kind::File && attributes.identity == self.sources[entry].identity {
            return Ok(());
        }
        Err(StorageError::Changed { path: self.path(entry), entry })
    }

    fn path(&self, entry: usize) -> PathBuf {
        let (top, path) = self.below_top(entry);
        top.directory.join(OsStr::from_bytes(&path))
    }
}

impl Source {
    /// The source of an entry of a tree that lies as a whole in one place.
    pub(super) const fn new(identity: Identity) -> Self {
        Self { top: 0, identity }
    }
}

impl Top {
    /// A whole dataset that lies at the name `base` in `directory`.
    pub(super) fn new(directory: &Path, base: &[u8]) -> Self {
        Self { directory: directory.to_owned(), base: base.to_owned(), depth: 0 }
    }
}
