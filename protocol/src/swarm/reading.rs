//! What somebody waits for who reads the dataset from a place on, in order.
//!
//! A seeder offers distinct pieces in an order of its own; that is the best for all who fetch everything, and
//! the worst for whoever waits for the first one. A seeder has all of it: so what a reader waits for
//! is asked of it whether it offered that or not, and counts as offered at its end from then on.

use super::download::Late;
use super::link::Link;
use super::site::{Reach, falls_to, is_near};
use super::{LinkId, PieceState, Swarm};
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
            self.may_have(link, piece)
                && !link.requested.contains(piece)
                && match reach {
                    Reach::All => true,
                    Reach::NotNear => !is_near(&self.links, piece),
                    Reach::Owned => is_ours(piece) && !is_near(&self.links, piece),
                    Reach::Told => false,
                }
        })
    }

    /// Whether the peer at the other end of `link` has `piece`, as far as may be asked: it announced it, or
    /// somebody reads it and the peer is a seeder.
    pub(super) fn may_have(&self, link: &Link, piece: PieceIndex) -> bool {
        let is_read = || self.picker.preferred().contains(&piece);
        link.have.contains(piece) || link.brings_in() && !link.refused.contains_key(&piece) && is_read()
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
        self.cancel_unwanted(now);
        let gone: Vec<PieceIndex> = self.have.iter().filter(|piece| !wanted.contains(*piece)).collect();
        // Then it goes on with what is wanted.
        self.handle_pieces_lost(&gone, now);
    }

    /// Takes back the requests for what nobody waits for any more.
    fn cancel_unwanted(&mut self, now: Instant) {
        let requested = self.requested.iter().filter(|(piece, _)| !self.config.wants(**piece));
        let unwanted: Vec<(PieceIndex, PieceState)> =
            requested.map(|(piece, state)| (*piece, *state)).collect();
        for (piece, state) in unwanted {
            self.set_piece(piece, PieceState::Missing);
            if let PieceState::Requested { first, second, .. } = state {
                [Some(first), second].into_iter().flatten().for_each(|id| self.cancel(id, piece, now));
            }
        }
    }

    /// A piece that a reader waits for, that all its sources are late with, and that the peer at the other end
    /// of `id` has: nobody waits for the end-game there.
    pub(super) fn late_for_reader(&self, id: LinkId, now: Instant) -> Option<(PieceIndex, Late)> {
        let preferred = self.picker.preferred().iter();
        let requested = preferred.filter_map(|piece| Some((*piece, *self.requested.get(piece)?)));
        self.latest_of(requested, id, now)
    }
}
