//! Other sites: each piece is to cross the wire between two sites about once.
//!
//! A piece that a linked peer of the own site has is asked of nobody else. What the own site lacks, one
//! fetches for all: each piece falls to one of the linked peers of the site, by rendezvous hashing
//! (Thaler and Ravishankar, 1998: the highest hash of peer and piece), so that nobody has to agree with
//! anybody. The others get it from there. Whoever a piece falls to may have no link to another site, or be
//! gone, or bring nothing: so whoever has nothing to ask for during a moment fetches what falls to others as
//! well, for a while; that moment is longer for higher identities, so that few begin.
//!
//! In a large site, of whose members a node is linked to some, a piece would fall to many. So
//! there the sending end chooses: whoever was first to get a piece from a seeder that offers it to nobody
//! else tells one peer of each other site at once. That peer fetches it, whoever else is linked, and passes it
//! on. All others hear of it when they had time to get it at home.
//!
//! A seeder offers distinct pieces to its own site as long as that keeps it busy.

use std::collections::BTreeMap;

use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::{SplitMix64, Xoshiro256StarStar};

use super::link::Link;
use super::links::Links;
use super::{DisconnectReason, LINKS_MAX, LinkId, Swarm};
use crate::geometry::PieceIndex;
use crate::id::PeerId;
use crate::time::{Duration, Instant};
use crate::wire::{Message, PieceList, Site};

/// Whoever has nothing to ask for during this time fetches from other sites …
const PATIENCE: Duration = Duration::from_millis(100);
/// … and so much later for each linked peer of the site with a lower identity …
const PATIENCE_PER_RANK: Duration = Duration::from_millis(50);
/// … and for so long.
const FETCHES_FAR_FOR: Duration = Duration::from_secs(5);

/// A node of a large site has no more links to others than this, where those of its own need the room.
const FAR_LINKS: usize = 12;
/// In a large swarm a peer of another site hears of a piece so much later, twice, than one of the own site;
/// three times as much at most, so that not all ask at the same moment.
const HEARS_AFTER: Duration = Duration::from_secs(1);

/// What may be asked of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// All that it has.
    All,
    /// What no linked peer of the own site has.
    NotNear,
    /// Of these, what falls to this node.
    Owned,
    /// Of these, what it announced piece by piece.
    Told,
}

/// How long announcements to another site are put off in a large swarm, this time.
pub(super) fn hears_after(rng: &mut Xoshiro256StarStar) -> Duration {
    HEARS_AFTER.mul_f64(rng.random_range(1.0..3.0))
}

/// Whether a linked peer of the own site has `piece`.
pub(super) fn is_near(links: &Links, piece: PieceIndex) -> bool {
    links.values().any(|link| link.same_site && link.have.contains(piece))
}

/// Whether `piece` falls to `local` among those of its site that fetch.
pub(super) fn falls_to(local: PeerId, links: &Links, piece: PieceIndex) -> bool {
    let own = weight(local, piece);
    let near = links.values().filter(|link| link.same_site && !link.complete());
    near.map(|link| (weight(link.peer, piece), link.peer)).all(|other| other < (own, local))
}

/// The hash of a peer and a piece. An identity ends in bytes of a public key, which are random.
fn weight(peer: PeerId, piece: PieceIndex) -> u64 {
    let key = peer.as_bytes().last_chunk().copied().map_or(0, u64::from_le_bytes);
    SplitMix64::from_seed((key ^ u64::from(piece.to_u32())).to_le_bytes()).next_u64()
}

impl Swarm {
    /// What may be asked of the peer at the other end of `link`.
    pub(super) fn reach(&self, link: &Link, now: Instant) -> Reach {
        if link.same_site || !self.near_links().any(|near| !near.seeder) {
            Reach::All
        } else if now < self.fetches_far_until || self.is_offered_here_alone(link) {
            Reach::NotNear
        } else if self.is_large() {
            if self.rank() == 0 { Reach::NotNear } else { Reach::Told }
        } else {
            Reach::Owned
        }
    }

    /// Whether the peer is a seeder that offers each piece to one node, with nobody at its own site who would
    /// get it and pass it on: what it offers here falls to this node.
    fn is_offered_here_alone(&self, link: &Link) -> bool {
        let passes_on = |other: &Link| !other.same_site && other.site == link.site && !other.seeder;
        !self.is_large() && link.brings_in() && !self.links.values().any(passes_on)
    }

    /// Whether the trunk takes another request over `link`. All members of the site fetch over it, each from
    /// many peers: what waits there waits long, and seems late. A large site has the sending ends choose.
    pub(super) fn trunk_has_room(&self, link: &Link) -> bool {
        if link.same_site || self.is_large() {
            return true;
        }
        let far = self.links.values().filter(|link| !link.same_site);
        let in_flight: u64 = far.map(|link| link.in_flight - link.cancelled).sum();
        in_flight < self.far_window.max(self.window_min())
    }

    /// Tells one peer of each other site of `piece`, which a seeder offered over `from` to nobody else.
    pub(super) fn tell_other_sites(&mut self, piece: PieceIndex, from: LinkId, now: Instant) {
        let offered = self.links.get(&from).is_some_and(Link::brings_in);
        if !offered || !self.is_large() {
            return;
        }
        let mut chosen: BTreeMap<&Option<Site>, (u64, LinkId)> = BTreeMap::new();
        for (id, link) in self.links.iter() {
            let wants = link.wanted.as_ref().is_none_or(|wanted| wanted.contains(piece));
            if link.hears_late() && wants && !link.have.contains(piece) {
                // Whoever was served longest ago, as far as this end knows.
                let best = chosen.entry(&link.site).or_insert((link.turn, *id));
                *best = (*best).min((link.turn, *id));
            }
        }
        let chosen: Vec<LinkId> = chosen.into_values().map(|(_, id)| id).collect();
        for id in chosen {
            self.send(id, Message::Have(PieceList::one(piece)), now);
        }
    }

    /// Whether another link to another site would take the room of one to the own site.
    pub(super) fn has_enough_far(&self) -> bool {
        self.is_large() && self.links.len() - self.near >= FAR_LINKS
    }

    /// Closes a link to another site, where there are many, for `new`, which leads to the own one.
    pub(super) fn make_room_for(&mut self, new: &Link, now: Instant) {
        let full = self.links.len() >= LINKS_MAX && self.links.len() - self.near > FAR_LINKS;
        if !full || !new.same_site || self.peers.contains_key(&new.peer) || self.banned.contains(&new.peer) {
            return;
        }
        let far = self.links.iter().filter(|(_, link)| !link.same_site);
        let least = far.min_by_key(|(_, link)| (link.requested.len() + link.queue.len(), link.have.count()));
        if let Some((id, _)) = least {
            self.close(*id, DisconnectReason::Full, Duration::from_secs(10), now);
        }
    }

    /// Links that count where a node looks for others: where its site is not small, those to it.
    pub(super) fn links_that_count(&self) -> usize {
        if self.near > FAR_LINKS { self.near } else { self.links.len() }
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
