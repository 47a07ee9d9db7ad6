//! Which piece next: rarest first, random among equals; before that, what somebody waits for.
//!
//! The picker knows how many linked peers have each piece (its *availability*) and which pieces
//! are *open*: wanted and not asked of anybody. For one peer it picks the open piece of lowest
//! availability that this peer has. (Rarest first: Legout, Urvoy-Keller, Michiardi, «Rarest First
//! and Choke Algorithms Are Enough», IMC 2006.)
//!
//! A pick looks at no more than [`SAMPLE_MAX`] candidates, from a random place on. Below that many
//! pieces it is exact; above, the rarest of a large random sample is nearly as rare.

use rand::RngExt;
use rand_xoshiro::Xoshiro256StarStar;

use crate::geometry::PieceIndex;
use crate::piece_set::PieceSet;

/// Most candidates that one pick compares: bounds a pick to some microseconds even where a
/// manifest has two million pieces.
pub const SAMPLE_MAX: usize = 4096;

/// Most pieces that are preferred at a time: the read-ahead of a reader. Each pick looks at them.
pub const PREFERRED_MAX: usize = 64;

/// Availability of all pieces, and the open ones.
#[derive(Clone, Debug)]
pub struct Picker {
    availability: Vec<u16>,
    open: PieceSet,
    /// How many of the open pieces some linked peer has.
    offered: usize,
    /// What somebody waits for, the most urgent first; at most [`PREFERRED_MAX`].
    preferred: Vec<PieceIndex>,
}

impl Picker {
    /// A picker to which no peer has anything, and for which the pieces in `open` are wanted.
    pub fn new(open: PieceSet) -> Self {
        Self { availability: vec![0; open.capacity()], open, offered: 0, preferred: Vec::new() }
    }

    /// How many linked peers have `piece`.
    pub fn availability(&self, piece: PieceIndex) -> u16 {
        self.availability[piece.index()]
    }

    /// One more peer has `piece`.
    pub fn add(&mut self, piece: PieceIndex) {
        let count = &mut self.availability[piece.index()];
        *count = count.saturating_add(1);
        self.offered += usize::from(*count == 1 && self.open.contains(piece));
    }

    /// One peer less has `piece`.
    pub fn subtract(&mut self, piece: PieceIndex) {
        let count = &mut self.availability[piece.index()];
        assert!(*count > 0, "a peer that had piece {piece} was counted");
        *count -= 1;
        self.offered -= usize::from(*count == 0 && self.open.contains(piece));
    }

    /// The pieces that are wanted and not asked of anybody.
    pub const fn open(&self) -> &PieceSet {
        &self.open
    }

    /// `piece` is wanted.
    pub fn open_piece(&mut self, piece: PieceIndex) {
        if self.open.insert(piece) {
            self.offered += usize::from(self.availability[piece.index()] > 0);
        }
    }

    /// `piece` is asked for, or here.
    pub fn close_piece(&mut self, piece: PieceIndex) {
        if self.open.remove(piece) {
            self.offered -= usize::from(self.availability[piece.index()] > 0);
        }
    }

    /// How many pieces are open that some linked peer has.
    pub const fn offered(&self) -> usize {
        self.offered
    }

    /// These pieces come before all others, in this order, as far as [`PREFERRED_MAX`] reaches.
    pub fn prefer(&mut self, mut pieces: Vec<PieceIndex>) {
        pieces.truncate(PREFERRED_MAX);
        self.preferred = pieces;
    }

    /// What somebody waits for, the most urgent first.
    pub fn preferred(&self) -> &[PieceIndex] {
        &self.preferred
    }

    /// The first preferred piece that is open and `allowed`.
    pub fn first_preferred(&self, allowed: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        self.preferred.iter().copied().find(|piece| self.open.contains(*piece) && allowed(*piece))
    }

    /// The first preferred piece among those that are open, that a peer has, and that are
    /// `allowed`; else the rarest one of these, a random one among equals.
    pub fn pick(
        &self,
        have: &PieceSet,
        allowed: impl Fn(PieceIndex) -> bool,
        rng: &mut Xoshiro256StarStar,
    ) -> Option<PieceIndex> {
        if self.open.is_empty() || have.is_empty() {
            return None;
        }
        if let Some(piece) = self.first_preferred(|piece| have.contains(piece) && allowed(piece)) {
            return Some(piece);
        }
        let start = rng.random_range(0..self.open.capacity());
        let mut rarest = u16::MAX;
        let mut ties = 0u32;
        let mut pick = None;
        for piece in self.open.iter_common_from(have, start).take(SAMPLE_MAX) {
            let availability = self.availability[piece.index()];
            if availability > rarest || !allowed(piece) {
                continue;
            }
            if availability < rarest || pick.is_none() {
                (rarest, ties, pick) = (availability, 1, Some(piece));
            } else {
                // Reservoir sampling: each of the ties is kept with the same probability.
                ties += 1;
                if rng.random_range(0..ties) == 0 {
                    pick = Some(piece);
                }
            }
        }
        pick
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::geometry::Geometry;

    /// All pieces that may be picked, over many seeds. `have` and `open` draw a set as 0 and 1,
    /// `seen` the availability of each piece.
    fn picks(have: &str, seen: &str, open: &str) -> Vec<u32> {
        let geometry = Geometry::new(vec![1; have.len()]).unwrap();
        let set = |picture: &str| {
            let mut set = PieceSet::empty(geometry.piece_count());
            for (piece, mark) in geometry.pieces().zip(picture.chars()) {
                if mark == '1' {
                    set.insert(piece);
                }
            }
            set
        };
        let mut picker = Picker::new(set(open));
        for (piece, digit) in geometry.pieces().zip(seen.chars()) {
            (0..digit.to_digit(10).unwrap()).for_each(|_| picker.add(piece));
        }
        let pick = |seed| picker.pick(&set(have), |_| true, &mut Xoshiro256StarStar::seed_from_u64(seed));
        let mut picked: Vec<u32> = (0..200).filter_map(pick).map(PieceIndex::to_u32).collect();
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    #[test]
    fn picks_the_rarest_open_piece_that_the_peer_has() {
        let cases: &[(&str, &str, &str, &[u32])] = &[
            // have,   seen,   open,   picked
            ("1111", "3121", "1111", &[1, 3]),
            ("1101", "3121", "1011", &[3]),
            ("1000", "3121", "1111", &[0]),
            ("1111", "3121", "0000", &[]),
            ("0000", "0000", "1111", &[]),
            ("0110", "1221", "1111", &[1, 2]),
            ("1111", "9999", "0010", &[2]),
        ];
        for (have, seen, open, expected) in cases {
            assert_eq!(picks(have, seen, open), *expected, "have {have}, seen {seen}, open {open}");
        }
    }

    #[test]
    fn counts_what_is_open_and_somewhere() {
        let geometry = Geometry::new(vec![1; 3]).unwrap();
        let pieces: Vec<PieceIndex> = geometry.pieces().collect();
        let mut picker = Picker::new(PieceSet::full(3));
        let mut counts = vec![picker.offered()];
        let changes: [fn(&mut Picker, PieceIndex); 4] =
            [Picker::add, Picker::close_piece, Picker::open_piece, Picker::subtract];
        for change in changes {
            // The second of a kind changes nothing, but a second holder does.
            for index in [0, 0, 1] {
                change(&mut picker, pieces[index]);
                counts.push(picker.offered());
            }
        }
        assert_eq!(counts, [0, 1, 1, 2, 1, 1, 0, 1, 1, 2, 2, 1, 0]);
    }

    #[test]
    fn what_somebody_waits_for_comes_first_and_in_order() {
        let geometry = Geometry::new(vec![1; 4]).unwrap();
        let pieces: Vec<PieceIndex> = geometry.pieces().collect();
        let mut picker = Picker::new(PieceSet::full(4));
        [0, 2, 3].into_iter().for_each(|piece| picker.add(pieces[piece]));
        picker.prefer(vec![pieces[2], pieces[0]]);
        let mut rng = Xoshiro256StarStar::seed_from_u64(7);
        let mut picked = Vec::new();
        while let Some(piece) = picker.pick(&PieceSet::full(4), |_| true, &mut rng) {
            picker.close_piece(piece);
            picked.push(piece.index());
        }
        assert_eq!(picked, [2, 0, 1, 3]);
    }

    #[test]
    fn ties_are_broken_evenly() {
        let geometry = Geometry::new(vec![1; 100]).unwrap();
        let mut counts = [0; 100];
        let picker = Picker::new(PieceSet::full(100));
        let mut rng = Xoshiro256StarStar::seed_from_u64(7);
        for _ in 0..10_000 {
            counts[picker.pick(&PieceSet::full(100), |_| true, &mut rng).unwrap().index()] += 1;
        }
        assert_eq!(geometry.piece_count(), counts.len());
        assert!(counts.iter().all(|count| (50..200).contains(count)), "{counts:?}");
    }
}
