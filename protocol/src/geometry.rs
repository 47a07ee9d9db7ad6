//! How many pieces there are and how long each is: the only place that turns a number into a
//! [`PieceIndex`].

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Most pieces that one manifest may have.
pub const PIECE_COUNT_MAX: usize = 1 << 21;
/// Smallest piece size, in bytes.
pub const PIECE_SIZE_MIN: u32 = 4 * 1024;
/// Largest piece size, in bytes.
pub const PIECE_SIZE_MAX: u32 = 16 * 1024 * 1024;
/// Smallest piece size that is chosen without being asked for.
const PIECE_SIZE_CHOSEN_MIN: u32 = 64 * 1024;
/// A dataset is cut into at most about this many pieces, where the piece size allows it.
const PIECE_COUNT_AIM: u64 = 2048;

/// The size of every full piece: a power of two between [`PIECE_SIZE_MIN`] and
/// [`PIECE_SIZE_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PieceSize(u32);

/// A number is not a valid piece size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a piece size is a power of two from 4 KiB to 16 MiB, not {0} bytes")]
pub struct PieceSizeError(pub u64);

impl PieceSize {
    /// A piece size of `bytes` bytes.
    pub fn new(bytes: u64) -> Result<Self, PieceSizeError> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (PIECE_SIZE_MIN..=PIECE_SIZE_MAX).contains(&size) => {
                Ok(Self(size))
            }
            _ => Err(PieceSizeError(bytes)),
        }
    }

    /// The size for a dataset of `total` bytes: aims at 1,024 to 2,048 pieces, between 64 KiB
    /// and 16 MiB. Few enough that a bitfield and the hashes stay small, many enough that a
    /// swarm's tail of a few pieces is short.
    pub fn for_total(total: u64) -> Self {
        let aim = total.div_ceil(PIECE_COUNT_AIM).next_power_of_two();
        let size = u32::try_from(aim).unwrap_or(PIECE_SIZE_MAX);
        Self(size.clamp(PIECE_SIZE_CHOSEN_MIN, PIECE_SIZE_MAX))
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

/// The index of a piece of one manifest, always less than its piece count: only a
/// [`Geometry`] makes one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// Callers have checked `index` against the piece count.
    pub(crate) fn new_unchecked(index: usize) -> Self {
        debug_assert!(index < PIECE_COUNT_MAX, "a piece index is below the largest piece count");
        #[allow(clippy::cast_possible_truncation, reason = "PIECE_COUNT_MAX fits in u32")]
        Self(index as u32)
    }

    /// As an index into a slice.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// As it is written on the wire.
    pub const fn to_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of pieces of a manifest and the length of each. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Geometry {
    lengths: Arc<[u32]>,
    total: u64,
}

impl Geometry {
    /// The geometry of pieces with these lengths, in bytes; `None` where there are more than
    /// [`PIECE_COUNT_MAX`], or one is empty or longer than [`PIECE_SIZE_MAX`].
    pub fn new(lengths: Vec<u32>) -> Option<Self> {
        if lengths.len() > PIECE_COUNT_MAX {
            return None;
        }
        if lengths.iter().any(|&length| length == 0 || length > PIECE_SIZE_MAX) {
            return None;
        }
        let total = lengths.iter().map(|&length| u64::from(length)).sum();
        Some(Self { lengths: lengths.into(), total })
    }

    /// How many pieces there are.
    pub fn piece_count(&self) -> usize {
        self.lengths.len()
    }

    /// All bytes of all pieces.
    pub const fn total_bytes(&self) -> u64 {
        self.total
    }

    /// The piece with this index, where there is one.
    pub fn piece(&self, index: u64) -> Option<PieceIndex> {
        let index = usize::try_from(index).ok()?;
        (index < self.lengths.len()).then(|| PieceIndex::new_unchecked(index))
    }

    /// The length of a piece, in bytes: 1 to [`PIECE_SIZE_MAX`].
    ///
    /// # Panics
    /// Where `piece` was made by a geometry with more pieces: a bug of the caller.
    pub fn piece_len(&self, piece: PieceIndex) -> u32 {
        self.lengths[piece.index()]
    }

    /// The length of the longest piece, 0 where there is none.
    pub fn piece_len_max(&self) -> u32 {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// All pieces in order.
    pub fn pieces(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + ExactSizeIterator + use<> {
        (0..self.lengths.len()).map(PieceIndex::new_unchecked)
    }
}

impl fmt::Debug for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Geometry({} pieces, {} bytes)", self.lengths.len(), self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_size_follows_the_total() {
        const MIB: u64 = 1 << 20;
        let cases = [
            (0, 64 << 10),
            (64 * MIB, 64 << 10),
            (128 * MIB, 64 << 10),
            (129 * MIB, 128 << 10),
            (1024 * MIB, 512 << 10),
            (20 * 1024 * MIB, 16 << 20),
            (u64::MAX / 2, 16 << 20),
        ];
        for (total, expected) in cases {
            assert_eq!(PieceSize::for_total(total).bytes(), expected, "for {total} bytes");
        }
    }

    #[test]
    fn piece_size_is_a_bounded_power_of_two() {
        for bad in [0, 1, 4095, 4097, 6000, 32 << 20, u64::MAX] {
            assert_eq!(PieceSize::new(bad), Err(PieceSizeError(bad)));
        }
        assert_eq!(PieceSize::new(4096).map(PieceSize::bytes), Ok(4096));
    }

    #[test]
    fn only_existing_pieces_have_an_index() {
        let geometry = Geometry::new(vec![8, 8, 3]).unwrap();
        assert_eq!(geometry.total_bytes(), 19);
        assert_eq!(geometry.piece(2).map(|piece| geometry.piece_len(piece)), Some(3));
        assert_eq!(geometry.piece(3), None);
        assert_eq!(Geometry::new(vec![8, 0]), None);
        assert_eq!(Geometry::new(vec![PIECE_SIZE_MAX + 1]), None);
    }
}
