//! How many bytes of what was selected are here, and whom they came from.
//!
//! Pieces travel whole, so a piece may hold bytes that nobody selected; whoever watches a fetch of a
//! part hears of the part alone.

use std::sync::Arc;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::Manifest;
use dft_protocol::piece_set::PieceSet;

use crate::storage::Selection;

/// Counts selected bytes.
pub(super) struct Tally {
    manifest: Arc<Manifest>,
    /// For each piece its selected bytes; `None` where all are.
    selected: Option<Vec<u32>>,
    /// Selected bytes that are here.
    pub(super) have: u64,
    /// Of these, those that came from peers which were complete from the start …
    pub(super) from_seeders: u64,
    /// … and from others.
    pub(super) from_peers: u64,
}

impl Tally {
    /// A count that begins with the pieces in `have`.
    pub(super) fn new(manifest: &Arc<Manifest>, selection: &Selection, have: &PieceSet) -> Self {
        let spans = |piece| manifest.layout().spans(piece).filter(|span| selection.contains(span.entry));
        let selected = (!selection.is_all()).then(|| {
            manifest.geometry().pieces().map(|piece| spans(piece).map(|span| span.len).sum()).collect()
        });
        let mut tally =
            Self { manifest: manifest.clone(), selected, have: 0, from_seeders: 0, from_peers: 0 };
        tally.have = have.iter().map(|piece| tally.bytes(piece)).sum();
        tally
    }

    /// A piece is here.
    pub(super) fn add(&mut self, piece: PieceIndex, from_seeder: bool) {
        let bytes = self.bytes(piece);
        self.have += bytes;
        *(if from_seeder { &mut self.from_seeders } else { &mut self.from_peers }) += bytes;
    }

    /// A piece is not here any more.
    pub(super) fn remove(&mut self, piece: PieceIndex) {
        self.have = self.have.saturating_sub(self.bytes(piece));
    }

    fn bytes(&self, piece: PieceIndex) -> u64 {
        match &self.selected {
            Some(selected) => selected[piece.index()].into(),
            None => self.manifest.geometry().piece_len(piece).into(),
        }
    }
}
