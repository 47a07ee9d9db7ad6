//! A set of pieces of one manifest: a bit vector that knows how many bits are set.
//!
//! On the wire it is the bit vector's bytes, piece 0 in the lowest bit of the first byte, spare
//! bits zero.

use std::fmt;

use crate::geometry::PieceIndex;

const WORD_BITS: usize = u64::BITS as usize;

/// A set of pieces. All sets of one manifest have the same capacity: its piece count.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceSet {
    /// Bits behind the last piece are zero.
    words: Box<[u64]>,
    capacity: usize,
    count: usize,
}

/// The word in which a piece is, and its bit there.
const fn place(piece: PieceIndex) -> (usize, u64) {
    (piece.index() / WORD_BITS, 1 << (piece.index() % WORD_BITS))
}

impl PieceSet {
    /// The empty set of a manifest with `piece_count` pieces.
    pub fn empty(piece_count: usize) -> Self {
        let words = vec![0; piece_count.div_ceil(WORD_BITS)].into_boxed_slice();
        Self { words, capacity: piece_count, count: 0 }
    }

    /// The set of all `piece_count` pieces.
    pub fn full(piece_count: usize) -> Self {
        let mut words = vec![u64::MAX; piece_count.div_ceil(WORD_BITS)].into_boxed_slice();
        let spare = words.len() * WORD_BITS - piece_count;
        if let Some(last) = words.last_mut() {
            *last >>= spare;
        }
        Self { words, capacity: piece_count, count: piece_count }
    }

    /// How many pieces the manifest has.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many pieces are in the set.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Whether no piece is in the set.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every piece is in the set.
    pub const fn is_full(&self) -> bool {
        self.count == self.capacity
    }

    /// Whether `piece` is in the set.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        let (word, bit) = place(piece);
        self.words[word] & bit != 0
    }

    /// Adds `piece`; true where it was not there.
    ///
    /// # Panics
    /// Where the piece is of another manifest.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        assert!(piece.index() < self.capacity, "piece {piece} is one of the manifest's");
        let (word, bit) = place(piece);
        let added = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += usize::from(added);
        added
    }

    /// Takes `piece` out; true where it was there.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let (word, bit) = place(piece);
        let removed = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        self.count -= usize::from(removed);
        removed
    }

    /// The pieces of the set in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.words
            .iter()
            .enumerate()
            .flat_map(|(word, bits)| WordBits { word: *bits, base: word * WORD_BITS })
    }

    /// The first piece of the set at or behind piece number `start`.
    pub fn first_from(&self, start: usize) -> Option<PieceIndex> {
        let first = start / WORD_BITS;
        let mut rest = self.words.get(first..)?.iter().enumerate();
        let in_first = |word: u64| word & u64::MAX << (start % WORD_BITS);
        rest.find_map(|(offset, bits)| {
            let word = if offset == 0 { in_first(*bits) } else { *bits };
            WordBits { word, base: (first + offset) * WORD_BITS }.next()
        })
    }

    /// The pieces in both sets, starting at the word that holds piece number `start` and going
    /// around once: a cheap way to begin at a random place.
    pub fn iter_common_from<'a>(
        &'a self,
        other: &'a PieceSet,
        start: usize,
    ) -> impl Iterator<Item = PieceIndex> + 'a {
        let (a, b) = (&self.words, &other.words);
        let words = a.len().min(b.len());
        let first = (start / WORD_BITS).min(words);
        (first..words)
            .chain(0..first)
            .flat_map(move |word| WordBits { word: a[word] & b[word], base: word * WORD_BITS })
    }

    /// How many pieces are in both sets.
    pub fn count_common(&self, other: &PieceSet) -> usize {
        let words = self.words.iter().zip(&other.words);
        words.map(|(a, b)| (a & b).count_ones() as usize).sum()
    }

    /// The bytes as they are on the wire: `ceil(piece count / 8)` of them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.capacity.div_ceil(8));
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
        let mut words = vec![0u64; piece_count.div_ceil(WORD_BITS)].into_boxed_slice();
        for (index, byte) in bytes.iter().enumerate() {
            words[index / 8] |= u64::from(*byte) << (index % 8 * 8);
        }
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        Some(Self { words, capacity: piece_count, count })
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
        write!(f, "PieceSet({} of {})", self.count, self.capacity)
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
