//! Other sites: each piece is to cross the wire between two sites about once.
//!
//! A piece that a linked peer of the own site has is asked of nobody else. What the own site lacks,
//! few fetch for all: among the peers of a site that are linked, the one with the lowest identity.
//! The others get it from there. Who would be the one may have no link to another site, or be gone,
//! or bring nothing: so whoever has nothing to ask for during a moment fetches from afar as well, for
//! a while; that moment is longer for higher identities, so that few begin.
//!
//! A seeder offers distinct pieces to its own site as long as that keeps it busy.

use std::collections::BTreeMap;

use super::link::Link;
use super::{LinkId, Swarm};
use crate::geometry::PieceIndex;
use crate::time::{Duration, Instant};

/// Whoever has nothing to ask for during this time fetches from other sites …
const PATIENCE: Duration = Duration::from_millis(100);
/// … and so much later for each linked peer of the site with a lower identity …
const PATIENCE_PER_RANK: Duration = Duration::from_millis(50);
/// … and for so long.
const FETCHES_FAR_FOR: Duration = Duration::from_secs(5);

/// What may be asked of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// All that it has.
    All,
    /// What no linked peer of the own site has.
    NotNear,
    /// Nothing, but what is late.
    Nothing,
}

/// Whether a linked peer of the own site has `piece`.
pub(super) fn is_near(links: &BTreeMap<LinkId, Link>, piece: PieceIndex) -> bool {
    links.values().any(|link| link.same_site && link.have.contains(piece))
}

impl Swarm {
    /// What may be asked of the peer at the other end of `link`.
    pub(super) fn reach(&self, link: &Link, now: Instant) -> Reach {
        if link.same_site || !self.near_links().any(|near| !near.seeder) {
            Reach::All
        } else if self.rank() == 0 || now < self.fetches_far_until {
            Reach::NotNear
        } else {
            Reach::Nothing
        }
    }

    fn near_links(&self) -> impl Iterator<Item = &Link> {
        self.links.values().filter(|link| link.same_site)
    }

    /// How many linked peers of the own site come first.
    fn rank(&self) -> u32 {
        let before = self.near_links().filter(|link| !link.seeder && link.peer < self.config.local);
        u32::try_from(before.count()).unwrap_or(u32::MAX)
    }

    /// Whether all that is wanted is to be fetched by others of the own site.
    pub(super) fn waits_for_its_site(&self) -> bool {
        self.dials() && self.requested.is_empty() && self.links.values().any(|link| !link.same_site)
    }

    /// Begins to fetch from other sites where nothing comes from the own one.
    pub(super) fn fetch_far_if_nobody_does(&mut self, now: Instant) {
        if self.waits_for_its_site()
            && let Some(since) = self.starved_since
            && now.since(since) >= PATIENCE + PATIENCE_PER_RANK * self.rank()
        {
            self.fetches_far_until = now + FETCHES_FAR_FOR;
        }
    }
}
