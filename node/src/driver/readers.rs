//! Who reads a dataset in order, and what is fetched ahead of all of them.

use std::collections::{BTreeMap, BTreeSet};

use dft_protocol::geometry::{Geometry, PieceIndex};

/// Bytes that are fetched ahead of all readers of a dataset together …
const READ_AHEAD_BYTES: u64 = 64 * 1024 * 1024;
/// … but so many pieces ahead of each: the one that is waited for, and the next one on its way.
const READ_AHEAD_PIECES_MIN: usize = 2;

/// The readers of a dataset, each with the pieces that it reads next, in order.
#[derive(Default)]
pub(super) struct Readers(BTreeMap<u64, Vec<PieceIndex>>);

impl Readers {
    pub(super) fn go_on(&mut self, reader: u64, ahead: Vec<PieceIndex>) {
        self.0.insert(reader, ahead);
    }

    pub(super) fn end(&mut self, reader: u64) {
        self.0.remove(&reader);
    }

    /// What is to be fetched, the most urgent first: the next piece of each reader, then the one behind
    /// it of each, as far as memory is for all of them.
    pub(super) fn ahead(&self, geometry: &Geometry) -> Vec<PieceIndex> {
        let (mut pieces, mut known, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
        let longest = self.0.values().map(Vec::len).max().unwrap_or(0);
        for place in 0..longest {
            for &piece in self.0.values().filter_map(|ahead| ahead.get(place)) {
                let len = u64::from(geometry.piece_len(piece));
                if known.contains(&piece) {
                    continue;
                }
                if place >= READ_AHEAD_PIECES_MIN && bytes + len > READ_AHEAD_BYTES {
                    return pieces;
                }
                known.insert(piece);
                pieces.push(piece);
                bytes += len;
            }
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_readers_get_their_next_pieces_first_and_memory_is_bounded() {
        const MIB: u32 = 1 << 20;
        let geometry = Geometry::new(vec![16 * MIB; 100]).expect("few pieces");
        let pieces: Vec<PieceIndex> = geometry.pieces().collect();
        let mut readers = Readers::default();
        readers.go_on(1, pieces[10..30].to_vec());
        assert_eq!(readers.ahead(&geometry), pieces[10..14], "64 MiB");
        readers.go_on(2, pieces[12..30].to_vec());
        let expected: Vec<PieceIndex> = [10, 12, 11, 13].map(|piece: usize| pieces[piece]).to_vec();
        assert_eq!(readers.ahead(&geometry), expected, "none is there twice");
        for reader in 3u8..10 {
            readers.go_on(reader.into(), pieces[usize::from(reader) * 10..].to_vec());
        }
        let ahead = readers.ahead(&geometry);
        assert_eq!(ahead.len(), 18, "two pieces of each of nine");
        assert_eq!(ahead[2..9], [30, 40, 50, 60, 70, 80, 90].map(|piece: usize| pieces[piece]));
        (1..10).for_each(|reader| readers.end(reader));
        assert_eq!(readers.ahead(&geometry), []);
    }
}
