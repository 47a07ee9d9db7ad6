//! What comes from another site leaves its gateway once.
//!
//! Whoever fetches for its site (`site`) is the only one there to have each new piece. If all were
//! told, all would ask, and the gateway's uplink would carry a copy for each of them: half a
//! site's rate is soon more than one uplink. So the piece is *entrusted* to one peer of the site, and
//! announced to it alone; the others get it from there. As with a seeder's offers (`inject`), it
//! is two hops, with every uplink busy.
//! In a large swarm all of the site are told: few ask before they hear `idle`, and what one peer alone knows
//! of spreads late.
//!
//! A peer that does not announce what it was entrusted with in time, is gone, or does not pass it on
//! keeps it from nobody for long: everybody is told then. And all are told of everything when
//! this node is complete, and has nothing else to carry.

use super::{LinkId, Swarm};
use crate::geometry::PieceIndex;
use crate::time::{Duration, Instant};

/// A peer is to announce what it was entrusted with in this time: dozens of pieces on a busy
/// uplink. Then all are told.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(1);
/// After this time all who still lack the piece are told in any case.
const PASSED_ON_WITHIN: Duration = Duration::from_secs(10);

impl Swarm {
    /// Chooses who alone is told of `piece`, which came over `from`. `None` where all are.
    pub(super) fn entrust(&mut self, piece: PieceIndex, from: LinkId, now: Instant) -> Option<LinkId> {
        if self.is_large() || self.links.get(&from).is_none_or(|link| link.same_site) {
            return None;
        }
        let near = self.links.iter_mut().filter(|(_, link)| {
            let wants = link.wanted.as_ref().is_none_or(|wanted| wanted.contains(piece));
            link.same_site && wants && !link.complete() && !link.have.contains(piece)
        });
        // Whoever passes on soonest has the least waiting.
        let (id, link) = near.min_by_key(|(_, link)| (link.entrusted.len(), link.turn))?;
        link.entrusted.insert(piece);
        self.entrusted.insert(piece, (*id, now));
        Some(*id)
    }

    /// `id` is gone: what it was entrusted with is announced to all, passed on or not.
    pub(super) fn take_back_entrusted(&mut self, id: LinkId, now: Instant) {
        let pieces: Vec<PieceIndex> =
            self.entrusted.iter().filter(|(_, (to, _))| *to == id).map(|(piece, _)| *piece).collect();
        self.announce_entrusted(&pieces, now);
    }

    /// Announces to all what was entrusted in vain.
    pub(super) fn take_back_overdue(&mut self, now: Instant) {
        let is_overdue = |piece: &PieceIndex, to: &LinkId, since: Instant| {
            let announced = self.links.get(to).is_none_or(|link| !link.entrusted.contains(piece));
            now.since(since) >= if announced { PASSED_ON_WITHIN } else { ANNOUNCED_WITHIN }
        };
        let entrusted = self.entrusted.iter();
        let overdue: Vec<PieceIndex> = entrusted
            .filter(|(piece, (to, since))| is_overdue(piece, to, *since))
            .map(|(piece, _)| *piece)
            .collect();
        self.announce_entrusted(&overdue, now);
    }

    fn announce_entrusted(&mut self, pieces: &[PieceIndex], now: Instant) {
        for piece in pieces {
            if let Some((to, _)) = self.entrusted.remove(piece)
                && let Some(link) = self.links.get_mut(&to)
            {
                link.entrusted.remove(piece);
            }
            if self.have.contains(*piece) {
                self.announce(*piece, None, None, now);
            }
        }
    }
}
