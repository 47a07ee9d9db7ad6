//! Compares a tree on disk with its manifest, entry by entry and hash by hash.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::{Entry, Manifest, Mtime};
use dft_protocol::path::SafePath;
use rustix::fs::OFlags;

use super::error::StorageError;
use super::pieces::{Contents, Examine, PieceHasher, PieceReader, for_each_piece};
use super::scan::Source;
use super::selection::Selection;
use super::tree::{Attributes, Identity, Kind, Tree, is_missing, open_directory};
use super::walk::{Descend, walk};

/// One way in which a tree is not what its manifest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// It is not there.
    Missing {
        /// Where it should be.
        path: SafePath,
    },
    /// It is there, but not in the manifest.
    Extra {
        /// Where it is; what it holds is not listed.
        path: SafePath,
    },
    /// It is of another kind.
    Kind {
        /// Where it is.
        path: SafePath,
        /// What it should be: «file», «directory», «symbolic link».
        expected: &'static str,
        /// What it is: one of these, or «special file».
        found: &'static str,
    },
    /// A file has another length.
    Size {
        /// Which file.
        path: SafePath,
        /// Bytes in the manifest.
        expected: u64,
        /// Bytes on disk.
        found: u64,
    },
    /// The content of at least one of these files differs. There are several where they are so
    /// small that they share a hash.
    Content {
        /// The files, in ascending order.
        paths: Vec<SafePath>,
    },
    /// A symbolic link points elsewhere.
    Target {
        /// Which link.
        path: SafePath,
        /// What it points to.
        found: PathBuf,
    },
    /// The permission bits differ.
    Mode {
        /// Of what.
        path: SafePath,
        /// Bits in the manifest.
        expected: u16,
        /// Bits on disk.
        found: u16,
    },
    /// The modification time differs.
    Mtime {
        /// Of what.
        path: SafePath,
        /// Time in the manifest.
        expected: Mtime,
        /// Time on disk.
        found: Mtime,
    },
}

impl Difference {
    /// Whether the data differ, rather than a mode or a time only.
    pub const fn is_content(&self) -> bool {
        !matches!(self, Self::Mode { .. } | Self::Mtime { .. })
    }

    /// Where it differs.
    fn paths(&self) -> impl Iterator<Item = &SafePath> {
        match self {
            Self::Missing { path }
            | Self::Extra { path }
            | Self::Kind { path, .. }
            | Self::Size { path, .. }
            | Self::Target { path, .. }
            | Self::Mode { path, .. }
            | Self::Mtime { path, .. } => std::slice::from_ref(path).iter(),
            Self::Content { paths } => paths.iter(),
        }
    }

    /// What has another mode or time.
    pub(super) const fn attributes_of(&self) -> Option<&SafePath> {
        match self {
            Self::Mode { path, .. } | Self::Mtime { path, .. } => Some(path),
            _ => None,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(f, "{} is missing", Shown(path)),
            Self::Extra { path } => write!(f, "{} is not in the manifest", Shown(path)),
            Self::Kind { path, expected, found } => {
                write!(f, "{} is a {found}, not a {expected}", Shown(path))
            }
            Self::Size { path, expected, found } => {
                write!(f, "{} has {found} bytes, not {expected}", Shown(path))
            }
            Self::Content { paths } => match &paths[..] {
                [path] => write!(f, "{} has other content", Shown(path)),
                paths => {
                    f.write_str("at least one of these has other content:")?;
                    paths.iter().try_for_each(|path| write!(f, " {}", Shown(path)))
                }
            },
            Self::Target { path, found } => write!(f, "{} points to {found:?}", Shown(path)),
            Self::Mode { path, expected, found } => {
                write!(f, "{} has mode {found:04o}, not {expected:04o}", Shown(path))
            }
            Self::Mtime { path, expected, found } => {
                let time = |time: &Mtime| format!("{}.{:09}", time.seconds, time.nanoseconds);
                write!(f, "{} was changed at {}, not at {}", Shown(path), time(found), time(expected))
            }
        }
    }
}

/// A path in quotes; the root has no name of its own.
struct Shown<'a>(&'a SafePath);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_root() { f.write_str("the root") } else { write!(f, "«{}»", self.0) }
    }
}

/// Compares what lies at `path` (followed where it is a symbolic link) with its manifest, as far
/// as it is selected. A small file whose pack holds files that are not there cannot be hashed: its
/// size and time are compared. The
/// result is in ascending order of the paths, those of the content last; empty where all is
/// equal. `progress` hears how many bytes are read.
pub fn verify(
    manifest: &Manifest,
    path: &Path,
    selection: &Selection,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Difference>, StorageError> {
    let canonical = path.canonicalize().map_err(StorageError::at("find", path))?;
    let (directory, base) = match (canonical.parent(), canonical.file_name()) {
        (Some(directory), Some(base)) => (directory, base),
        _ => (&*canonical, OsStr::new(".")),
    };
    let handle = open_directory(directory).map_err(StorageError::at("open", directory))?;
    let tree = Tree::new(Arc::new(handle), base.as_bytes(), directory);
    let comparison = compare(manifest, &tree, Depth::All, &mut |bytes| progress(bytes))?;
    let is_selected = |path: &SafePath| {
        let index = manifest.info().entries.binary_search_by(|entry| entry.path().cmp(path));
        index.map_or(selection.is_all(), |index| selection.contains(index))
    };
    let mut differences = comparison.differences;
    differences.retain(|difference| difference.paths().any(is_selected));
    Ok(differences)
}

/// How much a comparison wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Depth {
    /// Every difference.
    All,
    /// Whether there is one in content.
    First,
}

pub(super) struct Comparison {
    pub(super) differences: Vec<Difference>,
    /// Where each entry lies.
    pub(super) sources: Vec<Source>,
    /// Files that could not be hashed, since what they share a pack with is missing.
    unhashed: BTreeSet<SafePath>,
}

impl Comparison {
    /// Whether a difference is one of time, of a file that could not be hashed.
    pub(super) fn is_doubtful(&self, difference: &Difference) -> bool {
        matches!(difference, Difference::Mtime { path, .. } if self.unhashed.contains(path))
    }

    /// Whether all data are there and nothing else.
    pub(super) fn is_same_content(&self) -> bool {
        !self.differences.iter().any(Difference::is_content)
    }
}

/// As [`verify`], for a tree below a handle. Its root is not followed.
pub(super) fn compare(
    manifest: &Manifest,
    tree: &Tree,
    depth: Depth,
    progress: &mut dyn FnMut(u64),
) -> Result<Comparison, StorageError> {
    let mut comparer = Comparer {
        manifest,
        tree,
        differences: Vec::new(),
        sources: vec![Source::new(Identity::default()); manifest.info().entries.len()],
        unreadable: BTreeSet::new(),
        next: 0,
    };
    comparer.compare_entries()?;
    if depth == Depth::All || !comparer.differences.iter().any(Difference::is_content) {
        let wrong = comparer.wrong_pieces(depth, progress)?;
        comparer.name_files(&wrong);
    }
    let unhashed = comparer.unhashed();
    let Comparer { differences, sources, .. } = comparer;
    Ok(Comparison { differences, sources, unhashed })
}

struct Comparer<'a> {
    manifest: &'a Manifest,
    tree: &'a Tree,
    differences: Vec<Difference>,
    sources: Vec<Source>,
    /// Files that are missing or of another length: no piece of theirs needs reading.
    unreadable: BTreeSet<usize>,
    /// The first entry that the walk has not come to.
    next: usize,
}

impl Comparer<'_> {
    /// Walks tree and manifest side by side: both are in the same order.
    fn compare_entries(&mut self) -> Result<(), StorageError> {
        let entries = &self.manifest.info().entries;
        let tree = self.tree;
        walk(tree, &mut |found| {
            while entries.get(self.next).is_some_and(|entry| *entry.path() < found.path) {
                self.missing();
            }
            match entries.get(self.next) {
                Some(entry) if *entry.path() == found.path => {
                    let target = match found.attributes.kind {
                        Kind::Symlink => {
                            let target = rustix::fs::readlinkat(&found.parent, &found.name[..], Vec::new());
                            target.map_err(StorageError::at("read", &tree.shown(&found.path)))?.into_bytes()
                        }
                        _ => Vec::new(),
                    };
                    self.compare_entry(entry, found.attributes, &target);
                    self.next += 1;
                    Ok(Descend::Into)
                }
                _ => {
                    self.differences.push(Difference::Extra { path: found.path.clone() });
                    Ok(Descend::Past)
                }
            }
        })?;
        while self.next < entries.len() {
            self.missing();
        }
        Ok(())
    }

    fn missing(&mut self) {
        let path = self.manifest.info().entries[self.next].path().clone();
        self.differences.push(Difference::Missing { path });
        self.unreadable.insert(self.next);
        self.next += 1;
    }

    fn compare_entry(&mut self, entry: &Entry, found: Attributes, link: &[u8]) {
        let path = || entry.path().clone();
        let identity = found.identity;
        self.sources[self.next] = Source::new(identity);
        let expected = match entry {
            Entry::File { .. } => Kind::File,
            Entry::Directory { .. } => Kind::Directory,
            Entry::Symlink { .. } => Kind::Symlink,
        };
        if found.kind != expected {
            let (expected, found) = (expected.name(), found.kind.name());
            self.differences.push(Difference::Kind { path: path(), expected, found });
            self.unreadable.insert(self.next);
            return;
        }
        let (mode, mtime) = match entry {
            Entry::Symlink { target, .. } => {
                if target.as_bytes() != link {
                    let found = PathBuf::from(OsStr::from_bytes(link));
                    self.differences.push(Difference::Target { path: path(), found });
                }
                return;
            }
            Entry::File { mode, mtime, .. } | Entry::Directory { mode, mtime, .. } => (*mode, *mtime),
        };
        if let Entry::File { size, .. } = *entry
            && size != identity.size
        {
            self.differences.push(Difference::Size { path: path(), expected: size, found: identity.size });
            self.unreadable.insert(self.next);
        }
        if mode != found.mode {
            self.differences.push(Difference::Mode { path: path(), expected: mode, found: found.mode });
        }
        if mtime != identity.mtime {
            self.differences.push(Difference::Mtime { path: path(), expected: mtime, found: identity.mtime });
        }
    }

    /// The pieces that can be read and hash wrong.
    fn wrong_pieces(
        &self,
        depth: Depth,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<PieceIndex>, StorageError> {
        let (layout, geometry) = (self.manifest.layout(), self.manifest.geometry());
        let is_readable =
            |piece: &PieceIndex| !layout.spans(*piece).any(|span| self.unreadable.contains(&span.entry));
        let pieces: Vec<_> = geometry.pieces().filter(is_readable).collect();
        let mut bytes = 0;
        let compare = ComparePieces { manifest: self.manifest, depth, found_one: AtomicBool::new(false) };
        let results = for_each_piece(&pieces, (layout, self), &compare, &mut |piece| {
            bytes += u64::from(geometry.piece_len(piece));
            progress(bytes);
        })?;
        Ok(pieces.iter().zip(results).filter(|(_, right)| !right).map(|(&piece, _)| piece).collect())
    }

    fn unhashed(&self) -> BTreeSet<SafePath> {
        if self.unreadable.is_empty() {
            return BTreeSet::new();
        }
        let (layout, entries) = (self.manifest.layout(), &self.manifest.info().entries);
        let is_unreadable = |entry: usize| self.unreadable.contains(&entry);
        let pieces = self.manifest.geometry().pieces();
        let hurt = pieces.filter(|piece| layout.spans(*piece).any(|span| is_unreadable(span.entry)));
        let files = hurt.flat_map(|piece| layout.spans(piece)).filter(|span| !is_unreadable(span.entry));
        files.map(|span| entries[span.entry].path().clone()).collect()
    }

    fn name_files(&mut self, wrong: &[PieceIndex]) {
        let entries = &self.manifest.info().entries;
        // Large files by entry, so that each is named once.
        let mut large = BTreeMap::new();
        for &piece in wrong {
            let files: Vec<_> = self.manifest.layout().spans(piece).map(|span| span.entry).collect();
            let paths = files.iter().map(|&entry| entries[entry].path().clone()).collect();
            large.entry(files).or_insert(Difference::Content { paths });
        }
        self.differences.extend(large.into_values());
    }
}

/// Finds out whether each piece is right.
struct ComparePieces<'a> {
    manifest: &'a Manifest,
    depth: Depth,
    /// A piece was wrong.
    found_one: AtomicBool,
}

impl Examine for ComparePieces<'_> {
    type Finding = bool;

    fn known(&self, _: PieceIndex, _: &mut PieceReader<'_>) -> Result<Option<bool>, StorageError> {
        let is_enough = self.depth == Depth::First && self.found_one.load(Ordering::Relaxed);
        Ok(is_enough.then_some(true))
    }

    fn judge(
        &self,
        piece: PieceIndex,
        hash: Result<PieceHasher, StorageError>,
    ) -> Result<bool, StorageError> {
        let right = match hash {
            Ok(hasher) => hasher.matches(self.manifest.hash(piece)),
            // It changes while it is read: whatever it is, it is not the dataset.
            Err(StorageError::Changed { .. }) => false,
            Err(error) => return Err(error),
        };
        self.found_one.fetch_or(!right, Ordering::Relaxed);
        Ok(right)
    }
}

impl Contents for Comparer<'_> {
    fn open(&self, entry: usize) -> Result<File, StorageError> {
        let path = self.manifest.info().entries[entry].path();
        match self.tree.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => Ok(file),
            Err(error) if is_missing(&error) => Err(StorageError::Changed { path: self.path(entry), entry }),
            Err(error) => Err(StorageError::new("read", self.path(entry), error)),
        }
    }

    fn check(&self, entry: usize, file: &File) -> Result<(), StorageError> {
        let there = Attributes::of(file).map_err(StorageError::at("look at", &self.path(entry)))?;
        if there.identity == self.sources[entry].identity {
            return Ok(());
        }
        Err(StorageError::Changed { path: self.path(entry), entry })
    }

    fn path(&self, entry: usize) -> PathBuf {
        self.tree.shown(self.manifest.info().entries[entry].path())
    }
}
