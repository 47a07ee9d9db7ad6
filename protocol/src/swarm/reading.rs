//! What somebody waits for who reads the dataset from a place on, in order.
//!
//! A seeder offers distinct pieces in an order of its own; that is the best for all who fetch everything, and
//! the worst for whoever waits for the first one. A seeder has all of it: so what a reader waits for
//! is asked of it whether it offered that or not, and counts as offered at its end from then on.

use super::link::Link;
use super::site::{Reach, falls_to, is_near};
use super::{PieceState, Swarm};
use crate::geometry::PieceIndex;
use crate::piece_set::PieceSet;
use crate::time::Instant;

impl Swarm {
    /// The first piece that a reader waits for and that may be asked of the peer at the other end of
    /// `link`, a seeder, whether it offered that or not.
    pub(super) fn read_next(&self, link: &Link, now: Instant) -> Option<PieceIndex> {
        if !link.brings_in() || self.picker.preferred().is_empty() {
            return None;
        }
        let reach = self.reach(link, now);
        let is_ours = |piece| falls_to(self.config.local, &self.links, piece);
        self.picker.first_preferred(|piece| {
            !link.refused.contains_key(&piece)
                && !link.requested.contains(piece)
                && match reach {
                    Reach::All => true,
                    Reach::NotNear => !is_near(&self.links, piece),
                    Reach::Owned => is_ours(piece) && !is_near(&self.links, piece),
                    Reach::Told => false,
                }
        })
    }

    /// Exactly these pieces are wanted now; what is here besides is gone.
    pub(super) fn handle_reading(&mut self, ahead: Vec<PieceIndex>, now: Instant) {
        if !self.config.download {
            return;
        }
        self.reads = true;
        let mut wanted = PieceSet::empty(self.geometry.piece_count());
        ahead.iter().for_each(|piece| {
            wanted.insert(*piece);
        });
        self.config.wanted = Some(wanted.clone());
        let others: Vec<PieceIndex> =
            self.picker.open().iter().filter(|piece| !wanted.contains(*piece)).collect();
        others.into_iter().for_each(|piece| self.picker.close_piece(piece));
        for piece in wanted.iter() {
            if self.piece_state(piece) == PieceState::Missing {
                self.picker.open_piece(piece);
            }
        }
        self.lacking = wanted.count() - wanted.count_common(&self.have);
        self.picker.prefer(ahead);
        let gone: Vec<PieceIndex> = self.have.iter().filter(|piece| !wanted.contains(*piece)).collect();
        // What peers are told of it is all that there is to say; then it goes on with what is wanted.
        self.handle_pieces_lost(&gone, now);
    }
}
