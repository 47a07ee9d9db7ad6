//! Where the bytes of each piece lie in the files of a dataset.
//!
//! A file of at least one piece size starts at a piece of its own and is cut every piece size;
//! its last piece may be shorter. Smaller files are packed whole, in order, into pieces of up to
//! one piece size: a *pack*. So one piece is either a range of one large file, or a run of whole
//! small files. The manifest writes down how many files each pack holds; [`PackCutter`] is how
//! dft decides it when it seeds.

use crate::geometry::{Geometry, PieceIndex, PieceSize};
use crate::manifest::{Entry, ManifestError};
use crate::path::SafePath;

/// A run of bytes of one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Index of the file among the manifest's entries.
    pub entry: usize,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length, in bytes; never 0.
    pub len: u32,
}

/// What lies in one piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    /// The bytes of entry `entry` from `offset` on.
    Range { entry: u32, offset: u64 },
    /// `count` small files, from position `first` of the list of small files on.
    Pack { first: u32, count: u32 },
}

/// The map from pieces to files. Pieces of large files come first, in the order of the entries,
/// then the packs.
#[derive(Clone, Debug)]
pub struct Layout {
    geometry: Geometry,
    contents: Vec<Content>,
    /// Entry index and size of each small file, in order.
    small_files: Vec<(u32, u32)>,
}

impl Layout {
    /// The layout of these entries, where pack number `i` holds `packs[i]` small files.
    pub fn new(entries: &[Entry], piece_size: PieceSize, packs: &[u32]) -> Result<Self, ManifestError> {
        let piece_len = piece_size.bytes();
        let (mut lengths, mut contents, mut small_files) = (Vec::new(), Vec::new(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            let size = entry.size();
            let index = u32::try_from(index).map_err(|_| ManifestError::TooManyEntries)?;
            match u32::try_from(size) {
                Ok(0) => {}
                Ok(small) if small < piece_len => small_files.push((index, small)),
                _ => {
                    let count = size.div_ceil(u64::from(piece_len));
                    if count > (crate::geometry::PIECE_COUNT_MAX - lengths.len()) as u64 {
                        return Err(ManifestError::TooManyPieces);
                    }
                    for number in 0..count {
                        let offset = number * u64::from(piece_len);
                        contents.push(Content::Range { entry: index, offset });
                        lengths
                            .push(u32::try_from(size - offset).map_or(piece_len, |rest| rest.min(piece_len)));
                    }
                }
            }
        }
        let mut first = 0usize;
        for &count in packs {
            let files = (first.checked_add(count as usize)).and_then(|end| small_files.get(first..end));
            let Some(files) = files.filter(|files| !files.is_empty()) else {
                return Err(ManifestError::PacksDontFit);
            };
            let bytes: u64 = files.iter().map(|&(_, size)| u64::from(size)).sum();
            match u32::try_from(bytes) {
                Ok(bytes) if bytes <= piece_len => lengths.push(bytes),
                _ => return Err(ManifestError::PacksDontFit),
            }
            #[allow(clippy::cast_possible_truncation, reason = "there are at most u32::MAX entries")]
            contents.push(Content::Pack { first: first as u32, count });
            first += count as usize;
        }
        if first != small_files.len() {
            return Err(ManifestError::PacksDontFit);
        }
        let geometry = Geometry::new(lengths).ok_or(ManifestError::TooManyPieces)?;
        Ok(Self { geometry, contents, small_files })
    }

    /// Number and lengths of the pieces.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The runs of file bytes that make up `piece`, in order. Their lengths add up to the
    /// piece's length.
    pub fn spans(&self, piece: PieceIndex) -> impl Iterator<Item = Span> + '_ {
        let (range, files) = match self.contents[piece.index()] {
            Content::Range { entry, offset } => {
                let span = Span { entry: entry as usize, offset, len: self.geometry.piece_len(piece) };
                (Some(span), &[][..])
            }
            Content::Pack { first, count } => (None, &self.small_files[first as usize..][..count as usize]),
        };
        let whole_files = files.iter().map(|&(entry, len)| Span { entry: entry as usize, offset: 0, len });
        range.into_iter().chain(whole_files)
    }

    /// Whether `piece` is a pack of small files, rather than a range of one large file.
    pub fn is_pack(&self, piece: PieceIndex) -> bool {
        matches!(self.contents[piece.index()], Content::Pack { .. })
    }
}

/// Decides after which small file a pack ends, from the file's path and size alone.
///
/// Content-defined chunking (as in LBFS, SOSP 2001), with whole files as the unit: a pack ends
/// after a file whose path hashes below a threshold that is proportional to its size, so that a
/// pack holds about half a piece on average. Files added, removed or changed elsewhere leave the
/// cuts of other packs where they were, and with them those packs' hashes.
pub struct PackCutter {
    piece_len: u64,
    filled: u64,
    count: u32,
    packs: Vec<u32>,
}

impl PackCutter {
    /// A cutter for packs of up to `piece_size`.
    pub fn new(piece_size: PieceSize) -> Self {
        Self { piece_len: u64::from(piece_size.bytes()), filled: 0, count: 0, packs: Vec::new() }
    }

    /// The next small file, in the order of the entries: `0 < size <` piece size.
    pub fn push(&mut self, path: &SafePath, size: u32) {
        let size = u64::from(size);
        if self.filled + size > self.piece_len {
            self.cut();
        }
        self.filled += size;
        self.count += 1;
        // Cuts on average once per 3/4 of a piece; the bound above makes the mean fill about half.
        let threshold = u128::from(u64::MAX) * u128::from(size) * 4 / (u128::from(self.piece_len) * 3);
        if u128::from(path_hash(path)) < threshold {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.count > 0 {
            self.packs.push(self.count);
        }
        (self.filled, self.count) = (0, 0);
    }

    /// The number of files in each pack.
    pub fn finish(mut self) -> Vec<u32> {
        self.cut();
        self.packs
    }
}

/// FNV-1a, 64 bit, with the finalizer of SplitMix64: spreads similar paths evenly. Not
/// cryptographic, and nothing relies on that: a bad cut costs a little space.
fn path_hash(path: &SafePath) -> u64 {
    let fnv = path.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ fnv >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
