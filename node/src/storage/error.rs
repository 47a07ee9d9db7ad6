//! What can go wrong between a dataset and the disk, each with the path it happened to.

use std::io;
use std::path::{Path, PathBuf};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::id::ManifestId;
use dft_protocol::manifest::ManifestError;
use dft_protocol::path::PathError;
use thiserror::Error;

/// Why storage could not do what it was asked for. [`StorageError::hint`] says what to try.
///
/// Paths are printed escaped: a hostile name cannot reach the terminal.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// A system call failed.
    #[error("cannot {operation} {path:?}: {source}")]
    Io {
        /// What was tried, as a verb: «read», «write», «sync» …
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The filesystem ran full (space or inodes) in the middle of the work. Nothing durable is
    /// lost; the same store or a later fetch goes on once there is space.
    #[error("cannot {operation} {path:?}: the disk is full")]
    DiskFull {
        /// What was tried.
        operation: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// The user's quota is used up. As for [`StorageError::DiskFull`], the work can go on later.
    #[error("cannot {operation} {path:?}: the disk quota is used up")]
    Quota {
        /// What was tried.
        operation: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// There is too little space for the dataset; found before anything was written.
    #[error("{path:?} has {available} bytes free, {needed} are needed")]
    NoSpace {
        /// Bytes still to be written.
        needed: u64,
        /// Bytes free for this user.
        available: u64,
        /// The directory that was to hold the dataset.
        path: PathBuf,
    },
    /// There are too few inodes for the dataset; found before anything was written.
    #[error("{path:?} has room for {available} files, {needed} are needed")]
    NoInodes {
        /// Files, directories and links of the dataset.
        needed: u64,
        /// Inodes free for this user.
        available: u64,
        /// The directory that was to hold the dataset.
        path: PathBuf,
    },
    /// A path that was given is not there.
    #[error("there is no {0:?}")]
    NoSuchPath(PathBuf),
    /// No path to seed was given.
    #[error("there is nothing to seed")]
    NothingToSeed,
    /// A path has no name that the dataset could carry (the root directory).
    #[error("{0:?} has no name that the dataset could carry")]
    NoName(PathBuf),
    /// Several paths were given and no name for the whole.
    #[error("a dataset of several paths needs a name")]
    NameNeeded,
    /// Two of the given paths end in the same name.
    #[error("{first:?} and {second:?} would have the same name in the dataset")]
    SameName {
        /// The one.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A symbolic link leads out of the dataset.
    #[error("the symbolic link {path:?} leads out of the dataset, to {target:?}")]
    UnsafeSymlink {
        /// The link.
        path: PathBuf,
        /// What it points to.
        target: PathBuf,
    },
    /// A path that a manifest cannot carry.
    #[error("the path {path:?} cannot be in a dataset: {error}")]
    UnsafePath {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        error: PathError,
    },
    /// A path given to seed is neither a file nor a directory.
    #[error("{0:?} is neither a file nor a directory")]
    Special(PathBuf),
    /// The scan cannot become a manifest.
    #[error("no manifest can hold this dataset: {0}")]
    Manifest(#[from] ManifestError),
    /// A seeded file is not as it was when it was hashed.
    #[error("the file {path:?} has changed since it was hashed")]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its index among the manifest's entries: see [`super::Store::pieces_of`].
        entry: usize,
    },
    /// A piece on disk is not what it was.
    #[error("piece {piece} on disk is not what the manifest says")]
    Corrupt {
        /// Which.
        piece: PieceIndex,
    },
    /// The manifest was not made from this scan.
    #[error("{0:?} is not what the manifest describes")]
    NotTheDataset(PathBuf),
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// The final name exists and holds something else.
    #[error("{path:?} exists and differs from the manifest")]
    Exists {
        /// The final name.
        path: PathBuf,
    },
    /// Another fetch is at work in the same place.
    #[error("another fetch is at work in {path:?}")]
    Busy {
        /// The part directory.
        path: PathBuf,
    },
    /// The part directory holds data of another manifest.
    #[error("{path:?} holds a partial fetch of another manifest ({})", found.short())]
    OtherManifest {
        /// The part directory.
        path: PathBuf,
        /// Whose data it holds.
        found: ManifestId,
    },
    /// The part directory's name is taken by something that this user did not make.
    #[error("{path:?} is not a directory that this user alone may write to")]
    ForeignPart {
        /// The part directory.
        path: PathBuf,
    },
    /// The dataset holds a directory with a name that only a part directory may have.
    #[error("the manifest names a directory {path:?}, which could pass for a partial fetch")]
    ReservedName {
        /// The name.
        path: PathBuf,
    },
    /// Two names of the dataset are one name on the target's filesystem.
    #[error("{path:?} exists already: the filesystem does not tell two names of the dataset apart")]
    NameCollision {
        /// The second of them.
        path: PathBuf,
    },
    /// A flush failed: these pieces may be lost, though they were written and had hashed right.
    /// They must be fetched again; a later flush that succeeds says nothing about them.
    #[error("{} pieces may be lost: {cause}", pieces.len())]
    NotDurable {
        /// The pieces to fetch again, in ascending order.
        pieces: Vec<PieceIndex>,
        /// What failed.
        #[source]
        cause: Box<StorageError>,
    },
    /// [`super::Store::finish`] was called too early.
    #[error("{missing} pieces are missing")]
    Unfinished {
        /// How many pieces are not durable.
        missing: usize,
    },
    /// A read or write beyond the end of a piece.
    #[error("piece {piece} ends before byte {end}")]
    OutOfPiece {
        /// The piece.
        piece: PieceIndex,
        /// The end of what was asked for, in bytes from the piece's start.
        end: u64,
    },
    /// A piece that was read, and is not kept.
    #[error("piece {piece} was not kept")]
    Passed {
        /// Which.
        piece: PieceIndex,
    },
    /// A write to a store that only serves.
    #[error("this store only serves")]
    ReadOnly,
}

impl StorageError {
    /// What a person can try, where there is something to try.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::DiskFull { .. } | Self::Quota { .. } | Self::NoSpace { .. } | Self::NoInodes { .. } => {
                Some("free some space, then run the same command again: it goes on where it stopped")
            }
            Self::Io { source, operation, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(if *operation == "read" {
                    "make it readable, or seed a directory without it"
                } else {
                    "check the permissions of the directory"
                })
            }
            Self::Io { source, .. } => Some(match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem => "choose a place that can be written to",
                io::ErrorKind::NotFound => {
                    "was it moved, or its filesystem unmounted? run the same command again"
                }
                _ => "see what the system says of that disk (dmesg, df), then run the same command again",
            }),
            Self::NoSuchPath(_) => {
                Some("check the spelling; a relative path counts from the working directory")
            }
            Self::NothingToSeed => Some("name files or directories"),
            Self::NoName(_) | Self::NameNeeded => Some("give one with --name NAME"),
            Self::UnsafePath { .. } => Some("rename it, or seed a directory without it"),
            Self::Special(_) => Some("name a file or a directory"),
            Self::NotTheDataset(_) => Some("run the same command again once nothing writes to it"),
            Self::ReservedName { .. } => Some("whoever seeds it should leave that directory out"),
            Self::NameCollision { .. } => Some(
                "fetch to a filesystem that tells upper and lower case apart, or only a part: --exclude GLOB",
            ),
            Self::SameName { .. } => Some("rename one of them, or seed a directory that holds both"),
            Self::UnsafeSymlink { .. } => Some("remove the link, or leave such links out with --skip-unsafe"),
            Self::Manifest(ManifestError::TooManyPieces) => Some("choose a larger --piece-size"),
            Self::Manifest(_) => Some("seed a part of it, or what it holds as several datasets"),
            Self::Changed { .. } => Some("run dft seed again once nothing writes to it"),
            Self::Exists { .. } => Some("--force replaces it once the fetch is complete"),
            Self::Busy { .. } => Some("wait for it, or fetch into another directory"),
            Self::OtherManifest { .. } => Some("--force discards it"),
            Self::ForeignPart { .. } => Some("remove it, or fetch into another directory"),
            Self::NotDurable { cause, .. } => cause.hint(),
            _ => None,
        }
    }

    /// Whether space or quota ran out: the work can go on once there is some.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::DiskFull { .. } | Self::Quota { .. } | Self::NoSpace { .. } | Self::NoInodes { .. } => true,
            Self::NotDurable { cause, .. } => cause.is_out_of_space(),
            _ => false,
        }
    }

    /// Whether a name is not there: it was removed, or the disk that held it is away. All other
    /// failures of the system say nothing about the data.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::NoSuchPath(_) => true,
            Self::Io { source, .. } => super::tree::is_missing(source),
            _ => false,
        }
    }

    /// A function that says to which path `operation` was applied, for `map_err`.
    pub(super) fn at<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::new(operation, path.to_owned(), source.into())
    }

    pub(super) fn new(operation: &'static str, path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull => Self::DiskFull { operation, path },
            io::ErrorKind::QuotaExceeded => Self::Quota { operation, path },
            _ => Self::Io { operation, path, source },
        }
    }
}
