//! The manifest (`NAME.dft`): what a dataset consists of, and which hash each piece must have.
//!
//! Two parts. [`Info`] says what the dataset is; the SHA-256 of its canonical bytes is the
//! [`ManifestId`], so an id names exactly one content for all time. [`Hints`] say where to ask;
//! they are outside of the id and may change. Both are written as canonical CBOR (RFC 8949
//! §4.2.1; the schema is in docs/PROTOCOL.md), and only bytes that re-encode to themselves are
//! accepted. A [`Manifest`] that exists is valid: names are safe, counts agree, sizes are bounded.

mod cbor;

use std::net::SocketAddr;

use sha2::{Digest, Sha256};
use thiserror::Error;

use self::cbor::{FileCbor, HintsCbor, InfoCbor, file_to_cbor, to_cbor};
use crate::geometry::{Geometry, PieceIndex, PieceSize, PieceSizeError};
use crate::id::{DIGEST_LEN, ManifestId, PeerId, PieceHash};
use crate::layout::Layout;
use crate::path::{Name, PathError, SafePath, SymlinkTarget};

/// Largest manifest file, in bytes.
pub const MANIFEST_LEN_MAX: usize = 64 * 1024 * 1024;
/// Most entries (files, directories, symlinks) of one dataset.
pub const ENTRY_COUNT_MAX: usize = 1_000_000;
/// Largest file, in bytes: sums of sizes cannot overflow.
pub const FILE_SIZE_MAX: u64 = 1 << 60;
/// Most seeders that a manifest names.
pub const SEEDER_COUNT_MAX: usize = 32;
/// Most trackers that a manifest names.
pub const TRACKER_COUNT_MAX: usize = 16;
/// Longest address of a tracker, in bytes.
pub const TRACKER_LEN_MAX: usize = 255;
/// The version that is written and accepted.
pub const MANIFEST_VERSION: u8 = 1;
/// The permission bits that a dataset may carry: never setuid, setgid or sticky.
pub const MODE_MASK: u16 = 0o777;

/// Why bytes are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// More than [`MANIFEST_LEN_MAX`] bytes.
    #[error("it is larger than {} MiB", MANIFEST_LEN_MAX >> 20)]
    TooLarge,
    /// Not CBOR, or not of the schema.
    #[error("it does not follow the manifest schema: {0}")]
    Malformed(String),
    /// It reads well, but would be written with other bytes.
    #[error("it is not in canonical form")]
    NotCanonical,
    /// It reads well, but its checksum is of something else.
    #[error("its checksum does not match: it was damaged or changed on its way")]
    Damaged,
    /// A version that this program does not know.
    #[error("it has format version {0}, this program reads version {MANIFEST_VERSION}")]
    Version(u64),
    /// The piece size is not valid.
    #[error(transparent)]
    PieceSize(#[from] PieceSizeError),
    /// A path is not safe.
    #[error("the path «{path}» is not safe: {error}")]
    Path {
        /// The path, printable.
        path: String,
        /// What is wrong with it.
        error: PathError,
    },
    /// A symbolic link points outside of the dataset.
    #[error("the symbolic link «{0}» points outside of the dataset")]
    Symlink(String),
    /// No entry, the root is missing, or the root is a symbolic link.
    #[error("the first entry is not the root file or directory")]
    Root,
    /// Entries are not in strictly ascending order of their paths.
    #[error("the entry «{0}» is out of order or appears twice")]
    Order(String),
    /// An entry lies in something that is not a directory of the manifest.
    #[error("the entry «{0}» lies in no directory of the manifest")]
    Parent(String),
    /// A file is larger than [`FILE_SIZE_MAX`], a mode has bits outside of [`MODE_MASK`], or
    /// nanoseconds reach a second.
    #[error("the entry «{0}» has a size, mode or time that is not allowed")]
    Attributes(String),
    /// More than [`ENTRY_COUNT_MAX`] entries.
    #[error("it has more than {ENTRY_COUNT_MAX} entries")]
    TooManyEntries,
    /// More pieces than [`crate::geometry::PIECE_COUNT_MAX`].
    #[error("it has more than {} pieces", crate::geometry::PIECE_COUNT_MAX)]
    TooManyPieces,
    /// Packs do not hold each small file exactly once, or one is larger than a piece.
    #[error("its packs do not match its small files")]
    PacksDontFit,
    /// The number of hashes is not the number of pieces.
    #[error("it has {hashes} piece hashes for {pieces} pieces")]
    HashCount {
        /// How many hashes there are.
        hashes: usize,
        /// How many pieces there are.
        pieces: usize,
    },
    /// Too many hints, or a malformed one.
    #[error("its hints are not valid: {0}")]
    Hints(&'static str),
}

/// A modification time: seconds since 1970, and nanoseconds below one second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mtime {
    /// Seconds since 1970-01-01 00:00 UTC; negative before.
    pub seconds: i64,
    /// Nanoseconds, less than 1,000,000,000.
    pub nanoseconds: u32,
}

/// One file, directory or symbolic link of a dataset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A regular file.
    File {
        /// Where it lies.
        path: SafePath,
        /// Its length in bytes.
        size: u64,
        /// Its permission bits, within [`MODE_MASK`].
        mode: u16,
        /// When it was changed last.
        mtime: Mtime,
    },
    /// A directory.
    Directory {
        /// Where it lies.
        path: SafePath,
        /// Its permission bits, within [`MODE_MASK`].
        mode: u16,
        /// When it was changed last.
        mtime: Mtime,
    },
    /// A symbolic link that stays inside the dataset.
    Symlink {
        /// Where it lies.
        path: SafePath,
        /// What it points to.
        target: SymlinkTarget,
    },
}

impl Entry {
    /// Where it lies, relative to the root of the dataset.
    pub const fn path(&self) -> &SafePath {
        match self {
            Entry::File { path, .. } | Entry::Directory { path, .. } | Entry::Symlink { path, .. } => path,
        }
    }

    /// The bytes of content: 0 for all but files.
    pub const fn size(&self) -> u64 {
        match self {
            Entry::File { size, .. } => *size,
            Entry::Directory { .. } | Entry::Symlink { .. } => 0,
        }
    }
}

/// What a dataset is. The SHA-256 of its canonical bytes is the manifest's id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// The file or directory that a fetch creates.
    pub name: Name,
    /// The size of a full piece.
    pub piece_size: PieceSize,
    /// The root first (a file or a directory, with the empty path), then all that it holds in
    /// strictly ascending order of the paths.
    pub entries: Vec<Entry>,
    /// How many small files each pack holds (see [`crate::layout`]).
    pub packs: Vec<u32>,
    /// The hash of each piece, in the order of the layout.
    pub hashes: Vec<PieceHash>,
}

/// An address where a peer takes links.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerAddr {
    /// Who is expected there, where that is known.
    pub peer: Option<PeerId>,
    /// IP address and TCP port.
    pub addr: SocketAddr,
}

/// Where to ask for a dataset. Not part of the id: whoever passes a manifest on may change them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// Peers that are likely to have the data.
    pub seeders: Vec<PeerAddr>,
    /// Multiaddresses of trackers, as text.
    pub trackers: Vec<String>,
}

/// A valid manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    id: ManifestId,
    info: Info,
    hints: Hints,
    layout: Layout,
}

impl Manifest {
    /// The manifest with this content, where it is valid.
    pub fn new(info: Info, hints: Hints) -> Result<Self, ManifestError> {
        Ok(Self::with_encoded(info, hints)?.0)
    }

    /// The same, and its encoded `info`.
    fn with_encoded(info: Info, hints: Hints) -> Result<(Self, Vec<u8>), ManifestError> {
        check_entries(&info.entries)?;
        check_hints(&hints)?;
        let layout = Layout::new(&info.entries, info.piece_size, &info.packs)?;
        let pieces = layout.geometry().piece_count();
        if info.hashes.len() != pieces {
            return Err(ManifestError::HashCount { hashes: info.hashes.len(), pieces });
        }
        let encoded = to_cbor(&InfoCbor::from(&info));
        let id = ManifestId::of_info(&encoded);
        let manifest = Self { id, info, hints, layout };
        if manifest.encode_around(&encoded, Some(&manifest.sum())).len() > MANIFEST_LEN_MAX {
            return Err(ManifestError::TooLarge);
        }
        Ok((manifest, encoded))
    }

    /// The manifest that these bytes hold. Only the canonical form is accepted.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_LEN_MAX {
            return Err(ManifestError::TooLarge);
        }
        let file: FileCbor =
            serde_cbor::from_slice(bytes).map_err(|error| ManifestError::Malformed(error.to_string()))?;
        if file.dft != u64::from(MANIFEST_VERSION) {
            return Err(ManifestError::Version(file.dft));
        }
        let (manifest, info) = Self::with_encoded(file.info.try_into()?, file.hints.try_into()?)?;
        let is_right = file.sum.as_ref().is_none_or(|sum| sum[..] == manifest.sum()[..]);
        if manifest.encode_around(&info, file.sum.as_ref().map(|sum| &sum[..])) != bytes {
            return Err(ManifestError::NotCanonical);
        }
        if is_right { Ok(manifest) } else { Err(ManifestError::Damaged) }
    }

    /// The canonical bytes: what is sent, and what others may keep.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_around(&to_cbor(&InfoCbor::from(&self.info)), None)
    }

    /// The same with a checksum, by which a reader tells a damaged manifest from one of another
    /// dataset: what is written to `NAME.dft`, which travels by any means.
    pub fn encode_with_sum(&self) -> Vec<u8> {
        self.encode_around(&to_cbor(&InfoCbor::from(&self.info)), Some(&self.sum()))
    }

    fn encode_around(&self, info: &[u8], sum: Option<&[u8]>) -> Vec<u8> {
        file_to_cbor(u64::from(MANIFEST_VERSION), sum, info, &to_cbor(&HintsCbor::from(&self.hints)))
    }

    /// The SHA-256 of the id and the canonical hints.
    fn sum(&self) -> [u8; DIGEST_LEN] {
        let hints = to_cbor(&HintsCbor::from(&self.hints));
        Sha256::new().chain_update(self.id.as_bytes()).chain_update(hints).finalize().into()
    }

    /// The SHA-256 of the canonical `info`.
    pub const fn id(&self) -> ManifestId {
        self.id
    }

    /// What the dataset is.
    pub const fn info(&self) -> &Info {
        &self.info
    }

    /// Where to ask.
    pub const fn hints(&self) -> &Hints {
        &self.hints
    }

    /// The same dataset with other hints.
    pub fn with_hints(self, hints: Hints) -> Result<Self, ManifestError> {
        check_hints(&hints)?;
        Ok(Self { hints, ..self })
    }

    /// Where the bytes of each piece lie.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Number and lengths of the pieces.
    pub const fn geometry(&self) -> &Geometry {
        self.layout.geometry()
    }

    /// What `piece` must hash to.
    pub fn hash(&self, piece: PieceIndex) -> PieceHash {
        self.info.hashes[piece.index()]
    }

    /// All bytes of all files.
    pub const fn total_bytes(&self) -> u64 {
        self.layout.geometry().total_bytes()
    }
}

fn check_entries(entries: &[Entry]) -> Result<(), ManifestError> {
    if entries.len() > ENTRY_COUNT_MAX {
        return Err(ManifestError::TooManyEntries);
    }
    match entries.first() {
        Some(Entry::File { path, .. } | Entry::Directory { path, .. }) if path.is_root() => {}
        _ => return Err(ManifestError::Root),
    }
    // The directories from the root down to the entry before: in sorted order, an entry's parent
    // is one of them.
    let mut open: Vec<&SafePath> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = entry.path();
        if index > 0 {
            if *path <= *entries[index - 1].path() {
                return Err(ManifestError::Order(path.to_string()));
            }
            let parent = path.parent().ok_or_else(|| ManifestError::Order(path.to_string()))?;
            while open.last().is_some_and(|directory| **directory != parent) {
                open.pop();
            }
            if open.is_empty() {
                return Err(ManifestError::Parent(path.to_string()));
            }
        }
        let (size, mode, mtime) = match entry {
            Entry::File { size, mode, mtime, .. } => (*size, *mode, *mtime),
            Entry::Directory { mode, mtime, .. } => {
                open.push(path);
                (0, *mode, *mtime)
            }
            Entry::Symlink { target, .. } => {
                // The target was checked against some link; here it is checked against this one.
                SymlinkTarget::new(path, target.as_bytes())
                    .ok_or_else(|| ManifestError::Symlink(path.to_string()))?;
                continue;
            }
        };
        if size > FILE_SIZE_MAX || mode & !MODE_MASK != 0 || mtime.nanoseconds >= 1_000_000_000 {
            return Err(ManifestError::Attributes(path.to_string()));
        }
    }
    Ok(())
}

fn check_hints(hints: &Hints) -> Result<(), ManifestError> {
    if hints.seeders.len() > SEEDER_COUNT_MAX {
        return Err(ManifestError::Hints("too many seeders"));
    }
    if hints.trackers.len() > TRACKER_COUNT_MAX {
        return Err(ManifestError::Hints("too many trackers"));
    }
    let printable =
        |text: &String| text.len() <= TRACKER_LEN_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !hints.trackers.iter().all(printable) {
        return Err(ManifestError::Hints("a tracker's address is too long or not printable"));
    }
    Ok(())
}
