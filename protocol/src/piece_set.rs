//! A set of pieces of one manifest: a bit vector that knows how many bits are set.
//!
//! On the wire it is the bit vector's bytes, piece 0 in the lowest bit of the first byte, spare
//! bits zero.

use std::fmt;

use bitvec::prelude::{BitVec, Lsb0};

use crate::geometry::PieceIndex;

const WORD_BITS: usize = u64::BITS as usize;

/// A set of pieces. All sets of one manifest have the same capacity: its piece count.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceSet {
    bits: BitVec<u64, Lsb0>,
    count: usize,
}

impl PieceSet {
    /// The empty set of a manifest with `piece_count` pieces.
    pub fn empty(piece_count: usize) -> Self {
        Self { bits: BitVec::repeat(false, piece_count), count: 0 }
    }

    /// The set of all `piece_count` pieces.
    pub fn full(piece_count: usize) -> Self {
        let mut bits = BitVec::repeat(true, piece_count);
        // The words are read as a whole: what is behind the last piece must be zero.
        bits.set_uninitialized(false);
        Self { bits, count: piece_count }
    }

    /// How many pieces the manifest has.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.bits.len()
    }

    /// How many pieces are in the set.
    #[inline]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Whether no piece is in the set.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every piece is in the set.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.count == self.bits.len()
    }

    /// Whether `piece` is in the set.
    #[inline]
    pub fn contains(&self, piece: PieceIndex) -> bool {
        self.bits[piece.index()]
    }

    /// Adds `piece`; true where it was not there.
    #[inline]
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        let added = !self.bits.replace(piece.index(), true);
        self.count += usize::from(added);
        added
    }

    /// Takes `piece` out; true where it was there.
    #[inline]
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let removed = self.bits.replace(piece.index(), false);
        self.count -= usize::from(removed);
        removed
    }

    /// The pieces of the set in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        // By words: they are read whole, as bits behind the last piece are zero.
        let words = self.bits.as_raw_slice().iter().enumerate();
        words.flat_map(|(word, bits)| WordBits { word: *bits, base: word * WORD_BITS })
    }

    /// The first piece of the set at or behind piece number `start`.
    pub fn first_from(&self, start: usize) -> Option<PieceIndex> {
        let tail = self.bits.get(start..)?;
        tail.first_one().map(|offset| PieceIndex::new_unchecked(start + offset))
    }

    /// The pieces in both sets, starting at the word that holds piece number `start` and going
    /// around once: a cheap way to begin at a random place.
    pub fn iter_common_from<'a>(
        &'a self,
        other: &'a PieceSet,
        start: usize,
    ) -> impl Iterator<Item = PieceIndex> + 'a {
        let (a, b) = (self.bits.as_raw_slice(), other.bits.as_raw_slice());
        let words = a.len().min(b.len());
        let first = (start / WORD_BITS).min(words);
        (first..words)
            .chain(0..first)
            .flat_map(move |word| WordBits { word: a[word] & b[word], base: word * WORD_BITS })
    }

    /// How many pieces are in both sets.
    pub fn count_common(&self, other: &PieceSet) -> usize {
        let words = self.bits.as_raw_slice().iter().zip(other.bits.as_raw_slice());
        words.map(|(a, b)| (a & b).count_ones() as usize).sum()
    }

    /// The bytes as they are on the wire: `ceil(piece count / 8)` of them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            self.bits.as_raw_slice().iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.bits.len().div_ceil(8));
        bytes
    }

    /// The set that these bytes stand for; `None` where their number does not fit
    /// `piece_count` or a spare bit is set.
    pub fn from_bytes(bytes: &[u8], piece_count: usize) -> Option<Self> {
        if bytes.len() != piece_count.div_ceil(8) {
            return None;
        }
        let spare_bits = bytes.len() * 8 - piece_count;
        if let Some(last) = bytes.last()
            && u32::from(*last).leading_zeros() as usize - 24 < spare_bits
        {
            return None;
        }
        let mut words = vec![0u64; piece_count.div_ceil(WORD_BITS)];
        for (index, byte) in bytes.iter().enumerate() {
            words[index / 8] |= u64::from(*byte) << (index % 8 * 8);
        }
        let mut bits = BitVec::from_vec(words);
        bits.truncate(piece_count);
        let count = bits.count_ones();
        Some(Self { bits, count })
    }
}

/// The positions of the bits set in one word, lowest first.
struct WordBits {
    word: u64,
    base: usize,
}

impl Iterator for WordBits {
    type Item = PieceIndex;

    fn next(&mut self) -> Option<PieceIndex> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros() as usize;
        self.word &= self.word - 1;
        Some(PieceIndex::new_unchecked(self.base + bit))
    }
}

impl fmt::Debug for PieceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceSet({} of {})", self.count, self.bits.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Geometry;

    fn geometry(piece_count: usize) -> Geometry {
        Geometry::new(vec![1; piece_count]).unwrap()
    }

    #[test]
    fn bytes_round_trip_and_spare_bits_are_refused() {
        for piece_count in [0, 1, 7, 8, 9, 63, 64, 65, 200] {
            let geometry = geometry(piece_count);
            let mut set = PieceSet::empty(piece_count);
            for piece in geometry.pieces().step_by(3) {
                assert!(set.insert(piece));
                assert!(!set.insert(piece));
            }
            let mut bytes = set.to_bytes();
            assert_eq!(PieceSet::from_bytes(&bytes, piece_count), Some(set));
            assert_eq!(
                PieceSet::from_bytes(&PieceSet::full(piece_count).to_bytes(), piece_count),
                Some(PieceSet::full(piece_count))
            );
            if piece_count % 8 != 0 {
                *bytes.last_mut().unwrap() |= 0x80;
                assert_eq!(PieceSet::from_bytes(&bytes, piece_count), None);
            }
            bytes.push(0);
            assert_eq!(PieceSet::from_bytes(&bytes, piece_count), None);
        }
    }

    #[test]
    fn the_first_piece_is_found_from_any_start() {
        let mut set = PieceSet::empty(200);
        geometry(200).pieces().step_by(70).for_each(|piece| assert!(set.insert(piece)));
        let first_from = |start| set.first_from(start).map(PieceIndex::index);
        let cases = [(0, Some(0)), (1, Some(70)), (70, Some(70)), (71, Some(140)), (141, None), (300, None)];
        for (start, first) in cases {
            assert_eq!(first_from(start), first, "from {start}");
        }
    }

    #[test]
    fn common_pieces_are_found_from_any_start() {
        let geometry = geometry(300);
        let (mut a, mut b) = (PieceSet::empty(300), PieceSet::empty(300));
        geometry.pieces().step_by(2).for_each(|piece| assert!(a.insert(piece)));
        geometry.pieces().step_by(3).for_each(|piece| assert!(b.insert(piece)));
        let expected: Vec<_> = geometry.pieces().step_by(6).collect();
        assert_eq!(a.count_common(&b), expected.len());
        for start in [0, 64, 130, 299] {
            let mut found: Vec<_> = a.iter_common_from(&b, start).collect();
            found.sort();
            assert_eq!(found, expected, "from {start}");
        }
    }
}
