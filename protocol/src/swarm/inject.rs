//! Distinct pieces first: how a seeder brings each piece into the swarm once before it sends any
//! piece twice.
//!
//! A seeder does not announce what it has. It *offers*: it announces to each peer a few pieces of
//! that peer's own, and more as the peer asks for them. So every piece leaves the seeder once, to
//! whoever has room for it, and its receivers pass it on; two hops deep, with every uplink busy.
//! (The idea is super-seeding, BEP 16; the pace here is set by requests rather than by reports.)
//! Once every piece is with some peer, the seeder announces everything to everybody and is a peer
//! like the others.
//!
//! Between the last offer and that moment lies the *drain*: the last offers are requested, sent
//! and announced by their receivers. To announce everything at the start of the drain would make
//! all receivers ask for the same last pieces, and the copies would leave before the originals.
//! So the drain ends when nothing is missing elsewhere, or when this end has nothing to send for a
//! moment: then the last pieces are with slow peers, and faster ones get them here as well.

use rand::RngExt;
use rand_xoshiro::Xoshiro256StarStar;

use crate::geometry::PieceIndex;
use crate::piece_set::PieceSet;
use crate::time::{Duration, Instant};

/// Offers that a peer may leave unrequested at first: one to ask for, one to keep it busy …
const OFFERS_MIN: usize = 2;
/// … but where pieces are fewer than this: the first peers must not get all of them.
const PIECES_FEW: usize = 64;
/// Most offers that a peer may leave unrequested: what a fast peer asks for in one round trip.
pub(super) const OFFERS_MAX: usize = 64;

/// A drain in which nothing is to be sent is over after the time in which pieces lately came to be
/// announced by their receivers: what was handed to the network may still be on its way. At least …
const DRAIN_PATIENCE_MIN: Duration = Duration::from_millis(50);
/// … and at most so long, so that a slow receiver does not keep the last pieces from all others.
const DRAIN_PATIENCE_MAX: Duration = Duration::from_millis(500);

/// Offers that a peer may leave unrequested at first.
pub(super) const fn offers_min(piece_count: usize) -> usize {
    if piece_count < PIECES_FEW { 1 } else { OFFERS_MIN }
}

/// The pieces that no peer has.
#[derive(Debug)]
pub(super) struct Injector {
    /// Not offered either.
    pool: PieceSet,
    /// Offered, not yet announced by any peer.
    offered: PieceSet,
    /// Since when this end has nothing to send in the drain.
    idle_since: Option<Instant>,
    /// The longest of the latest times from a piece's upload to its receiver's announcement.
    spreads_in: Duration,
    /// Where the next offer is looked for. Offers go in ascending order, and once around: a
    /// seeder's disk reads sequentially.
    cursor: usize,
}

impl Injector {
    /// Starts at a random piece: two seeders of one swarm, who may not know of each other, offer
    /// different ones.
    pub(super) fn new(pool: PieceSet, rng: &mut Xoshiro256StarStar) -> Self {
        let offered = PieceSet::empty(pool.capacity());
        let mut injector = Self { pool, offered, idle_since: None, spreads_in: Duration::ZERO, cursor: 0 };
        injector.jump(rng);
        injector
    }

    /// Whether the injection is over: some peer has each piece, or all were offered and this end
    /// has had nothing to send for a moment. `sends` says whether it has.
    pub(super) fn is_over(&mut self, sends: bool, now: Instant) -> bool {
        if !self.pool.is_empty() || sends {
            self.idle_since = None;
            return false;
        }
        let idle_since = *self.idle_since.get_or_insert(now);
        let patience = self.spreads_in.clamp(DRAIN_PATIENCE_MIN, DRAIN_PATIENCE_MAX);
        self.offered.is_empty() || now.since(idle_since) >= patience
    }

    /// The pieces that no peer has and none was offered.
    pub(super) const fn pool(&self) -> &PieceSet {
        &self.pool
    }

    /// A receiver announced a piece so long after its upload began.
    pub(super) fn spread(&mut self, after: Duration) {
        self.spreads_in = after.max(self.spreads_in * 7 / 8);
    }

    /// How many pieces there are to be offered to a peer that wants these; `None` for all.
    pub(super) fn left_for(&self, wanted: Option<&PieceSet>) -> usize {
        wanted.map_or(self.pool.count(), |wanted| self.pool.count_common(wanted))
    }

    /// The next piece to offer, to a peer that wants these; `None` for all.
    pub(super) fn next(&mut self, wanted: Option<&PieceSet>) -> Option<PieceIndex> {
        let piece = match wanted {
            None => self.pool.first_from(self.cursor).or_else(|| self.pool.first_from(0))?,
            Some(wanted) => self.pool.iter_common_from(wanted, self.cursor).next()?,
        };
        self.cursor = piece.index() + 1;
        self.pool.remove(piece);
        self.offered.insert(piece);
        Some(piece)
    }

    /// A peer asked for `piece` before it was offered to anybody: it counts as offered. False where it was.
    pub(super) fn take(&mut self, piece: PieceIndex) -> bool {
        self.pool.remove(piece) && self.offered.insert(piece)
    }

    /// Goes on at a random piece.
    pub(super) fn jump(&mut self, rng: &mut Xoshiro256StarStar) {
        self.cursor = rng.random_range(0..self.pool.capacity().max(1));
    }

    /// Some peer has `piece`, or it is not here any more.
    pub(super) fn forget(&mut self, piece: PieceIndex) {
        self.pool.remove(piece);
        self.offered.remove(piece);
    }

    /// `piece` was offered in vain, or left the swarm with the only peer that had it.
    pub(super) fn put_back(&mut self, piece: PieceIndex) {
        self.offered.remove(piece);
        self.pool.insert(piece);
    }
}
