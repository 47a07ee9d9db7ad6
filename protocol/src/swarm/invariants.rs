//! What must hold between any two events, in one place.

use std::collections::BTreeSet;

use super::link::Link;
use super::{BANNED_MAX, LINKS_MAX, LinkId, PieceState, REQUESTS_PER_LINK_MAX, Swarm};
use crate::geometry::PieceIndex;

impl Swarm {
    /// Checks everything that must hold between two events. It reads all pieces of all links:
    /// for tests and the simulator, which call it after each event.
    ///
    /// # Panics
    /// Where an invariant is broken: a bug of this crate.
    pub fn check_invariants(&self) {
        for piece in self.geometry.pieces() {
            self.check_piece(piece);
        }
        for (id, link) in self.links.iter() {
            assert_eq!(self.peers.get(&link.peer), Some(id), "a peer has one link");
            assert!(!self.banned.contains(&link.peer), "no link leads to a banned peer");
            self.check_link_download(*id, link);
            self.check_link_upload(*id, link);
        }
        assert_eq!(self.peers.len(), self.links.len(), "each peer with a link has it here");
        assert!(self.links.len() <= LINKS_MAX, "links are bounded");
        assert!(self.banned.len() <= BANNED_MAX, "banned peers are bounded");
        let queued: usize = self.links.values().map(|link| link.queue.len()).sum();
        assert_eq!(self.queued, queued, "requests that wait are counted");
        let near = self.links.values().filter(|link| link.same_site).count();
        assert_eq!(self.near, near, "links to the own site are counted");
        let uploads: usize = self.links.values().map(|link| link.sending.len()).sum();
        assert_eq!(self.uploads, uploads, "uploads that run are counted");
        let due = self.links.values().filter_map(|link| link.announce_at).min();
        let planned = due.is_none_or(|due| self.next_announcement.is_some_and(|at| at <= due));
        assert!(planned, "announcements are made in time");
        let lacking = |piece: &PieceIndex| self.config.wants(*piece) && !self.have.contains(*piece);
        assert_eq!(
            self.lacking,
            self.geometry.pieces().filter(lacking).count(),
            "what is lacking is counted"
        );
        let offered = |piece: &PieceIndex| self.picker.availability(*piece) > 0;
        assert_eq!(
            self.picker.offered(),
            self.picker.open().iter().filter(offered).count(),
            "open pieces that a linked peer has are counted"
        );
        self.check_injector();
        self.book.check_invariants();
    }

    fn check_piece(&self, piece: PieceIndex) {
        let state = self.piece_state(piece);
        let open = state == PieceState::Missing && self.config.wants(piece);
        assert_eq!(self.picker.open().contains(piece), open, "piece {piece}, {state:?}: open");
        let here = matches!(state, PieceState::Verified | PieceState::Durable);
        assert_eq!(self.have.contains(piece), here, "piece {piece}, {state:?}: here");
        assert!(here || !self.durable.contains(piece), "piece {piece}, {state:?}: what is durable is here");
        let received = matches!(state, PieceState::Received { .. });
        assert_eq!(self.received.contains(piece), received, "piece {piece}, {state:?}: received");
        assert!(
            !here || !self.taken_back.contains(piece),
            "piece {piece}, {state:?}: what is here is not missed"
        );
        let requested = matches!(state, PieceState::Requested { .. });
        let expected = requested.then_some(&state);
        assert_eq!(self.requested.get(&piece), expected, "piece {piece}, {state:?}: requested");
        let holders = self.links.values().filter(|link| link.have.contains(piece)).count();
        assert_eq!(usize::from(self.picker.availability(piece)), holders, "piece {piece}: availability");

        if let PieceState::Requested { first, second, .. } = state {
            assert_ne!(Some(first), second, "piece {piece}: two sources are two links");
            for id in [Some(first), second].into_iter().flatten() {
                let request = self.links.get(&id).and_then(|link| link.requested.get(piece));
                let waits = request.is_some_and(|request| !request.cancelled);
                assert!(waits, "piece {piece}: {id:?} was asked for it");
            }
        }
    }

    fn check_link_download(&self, id: LinkId, link: &Link) {
        for (piece, _) in link.requested.iter().filter(|(_, request)| !request.cancelled) {
            let state = self.piece_state(piece);
            let asked = matches!(state, PieceState::Requested { first, second, .. }
                if first == id || second == Some(id));
            assert!(asked, "{id:?}, piece {piece}, {state:?}: a request that waits is one of its state's");
        }
        let in_flight: u64 = link.requested.pieces().map(|piece| self.piece_bytes(piece)).sum();
        assert_eq!(link.in_flight, in_flight, "{id:?}: bytes of the requests that wait");
        let cancelled = link.requested.iter().filter(|(_, request)| request.cancelled);
        let cancelled: u64 = cancelled.map(|(piece, _)| self.piece_bytes(piece)).sum();
        assert_eq!(link.cancelled, cancelled, "{id:?}: bytes of those that were cancelled");
        assert!(link.requested.len() <= REQUESTS_PER_LINK_MAX / 2, "{id:?}: requests are bounded");
        let refused = link.refused.keys().any(|piece| link.have.contains(*piece));
        assert!(!refused, "{id:?}: a refused piece is not asked for");
    }

    fn check_link_upload(&self, id: LinkId, link: &Link) {
        let queued: BTreeSet<_> = link.queue.iter().collect();
        assert_eq!(queued.len(), link.queue.len(), "{id:?}: a request is queued once");
        assert!(queued.iter().all(|piece| self.have.contains(**piece)), "{id:?}: what is queued is here");
        assert!(queued.len() + link.sending.len() <= REQUESTS_PER_LINK_MAX, "{id:?}: the queue is bounded");
        let told_later = self.injector.is_some() || self.silence.due().is_some();
        assert!(link.told_all || told_later, "{id:?}: is told of everything in the end");
        assert!(
            link.unannounced.is_empty() || link.announce_at.is_some(),
            "{id:?}: announcements have a time"
        );
    }

    fn check_injector(&self) {
        let Some(injector) = &self.injector else {
            return;
        };
        for piece in injector.pool().iter() {
            assert!(self.have.contains(piece), "piece {piece}: what is injected is here");
            assert_eq!(self.picker.availability(piece), 0, "piece {piece}: what is injected is nowhere else");
            let offered = self.links.values().any(|link| link.offers.contains(&piece));
            assert!(!offered, "piece {piece}: is offered once");
        }
    }
}
