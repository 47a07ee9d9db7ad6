//! Distinct pieces first: how a seeder brings each piece into the swarm once before it sends any
//! piece twice.
//!
//! A seeder does not announce what it has. It *offers*: it announces to each peer a few pieces of
//! that peer's own, and more as the peer asks for them. So every piece leaves the seeder once, to
//! whoever has room for it, and its receivers pass it on; two hops deep, with every uplink busy.
//! (The idea is super-seeding, BEP 16; the pace here is set by requests rather than by reports.)
//! Once every piece has been offered, the seeder announces everything to everybody and is a peer
//! like the others.

use crate::geometry::PieceIndex;
use crate::piece_set::PieceSet;

/// Offers that a peer may leave unrequested at first: one to ask for, one to keep it busy.
pub(super) const OFFERS_MIN: usize = 2;
/// Most offers that a peer may leave unrequested: what a fast peer asks for in one round trip.
pub(super) const OFFERS_MAX: usize = 64;

/// The pieces that no peer has and none was offered.
#[derive(Debug)]
pub(super) struct Injector {
    pool: PieceSet,
    /// Where the next offer is looked for. Offers go in ascending order: a seeder's disk reads
    /// sequentially.
    cursor: usize,
}

impl Injector {
    pub(super) fn new(pool: PieceSet) -> Self {
        Self { pool, cursor: 0 }
    }

    /// Whether every piece was offered or is elsewhere.
    pub(super) fn is_done(&self) -> bool {
        self.pool.is_empty()
    }

    /// The pieces that no peer has and none was offered.
    pub(super) const fn pool(&self) -> &PieceSet {
        &self.pool
    }

    /// The next piece to offer.
    pub(super) fn next(&mut self) -> Option<PieceIndex> {
        let piece = self.pool.first_from(self.cursor).or_else(|| self.pool.first_from(0))?;
        self.cursor = piece.index() + 1;
        self.pool.remove(piece);
        Some(piece)
    }

    /// Some peer has `piece`, or it is not here any more.
    pub(super) fn forget(&mut self, piece: PieceIndex) {
        self.pool.remove(piece);
    }

    /// `piece` was offered in vain, or left the swarm with the only peer that had it.
    pub(super) fn put_back(&mut self, piece: PieceIndex) {
        self.pool.insert(piece);
    }
}
