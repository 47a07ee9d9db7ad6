//! Something about each of a few pieces: a sorted list.
//!
//! What waits is a handful, comes and goes with each piece, and is walked over far more often than it
//! changes. Side by side it is read at once, and needs no allocation of its own each time.

use crate::geometry::PieceIndex;

/// Values of a few pieces, in ascending order of these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PieceMap<V>(Vec<(PieceIndex, V)>);

impl<V> Default for PieceMap<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> PieceMap<V> {
    /// How many pieces have a value.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no piece has one.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, piece: PieceIndex) -> Result<usize, usize> {
        self.0.binary_search_by_key(&piece, |(other, _)| *other)
    }

    /// The value of `piece`.
    pub fn get(&self, piece: PieceIndex) -> Option<&V> {
        self.place(piece).ok().map(|at| &self.0[at].1)
    }

    /// The value of `piece`, to be changed.
    pub fn get_mut(&mut self, piece: PieceIndex) -> Option<&mut V> {
        self.place(piece).ok().map(|at| &mut self.0[at].1)
    }

    /// Whether `piece` has a value.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        self.place(piece).is_ok()
    }

    /// Gives `piece` a value; the one that it had.
    pub fn insert(&mut self, piece: PieceIndex, value: V) -> Option<V> {
        match self.place(piece) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (piece, value));
                None
            }
        }
    }

    /// Takes the value of `piece` away.
    pub fn remove(&mut self, piece: PieceIndex) -> Option<V> {
        self.place(piece).ok().map(|at| self.0.remove(at).1)
    }

    /// The pieces and their values.
    pub fn iter(&self) -> impl Iterator<Item = (PieceIndex, &V)> {
        self.0.iter().map(|(piece, value)| (*piece, value))
    }

    /// The pieces that have a value.
    pub fn pieces(&self) -> impl Iterator<Item = PieceIndex> {
        self.0.iter().map(|(piece, _)| *piece)
    }

    /// The values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Geometry;

    #[test]
    fn values_are_kept_by_their_pieces_in_order() {
        let geometry = Geometry::new(vec![1; 8]).unwrap();
        let piece = |index| geometry.piece(index).unwrap();
        let mut map = PieceMap::default();
        for (index, name) in [(5, "a"), (1, "b"), (7, "c"), (3, "d")] {
            assert_eq!(map.insert(piece(index), name), None);
        }
        assert_eq!(map.insert(piece(1), "e"), Some("b"));
        assert_eq!(map.remove(piece(5)), Some("a"));
        assert_eq!(map.remove(piece(5)), None);
        assert_eq!((map.get(piece(3)), map.get(piece(4))), (Some(&"d"), None));
        if let Some(name) = map.get_mut(piece(3)) {
            *name = "f";
        }
        let values: Vec<_> = map.iter().map(|(piece, name)| (piece.index(), *name)).collect();
        assert_eq!(values, [(1, "e"), (3, "f"), (7, "c")]);
        assert!(map.pieces().all(|piece| map.contains(piece)) && map.len() == map.values().count());
    }
}
