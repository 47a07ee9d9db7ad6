//! Who is told which pieces are here, and what is learned from what others announce.
//!
//! A piece is announced to those who lack it, bundled over some milliseconds, or for longer where
//! they know enough that they can ask for; to those who have it already, not at all; to seeders,
//! who only keep count, bundled over longer. A request takes along what waits. On a shaped
//! 50 Mbit/s link, announcing everything to everybody at once would cost about 1.5% of the bytes.

use super::upload::LAGS_FROM;
use super::{Command, Injector, Link, LinkId, Notification, Swarm, site};
use crate::geometry::PieceIndex;
use crate::piece_set::PieceSet;
use crate::time::{Duration, Instant};
use crate::wire::{Message, PieceList, RejectReason};

/// How long an announcement waits for company when the peer lacks the piece.
const ANNOUNCE_SOON: Duration = Duration::from_millis(5);
/// How long it waits when the peer knows [`SPARE_ENOUGH`] others to ask for: no longer than half of
/// a seeder's patience in the drain.
const ANNOUNCE_SPARE: Duration = Duration::from_millis(25);
/// How long it waits when the peer is a seeder.
const ANNOUNCE_LATER: Duration = Duration::from_millis(50);
/// How long it waits in a large swarm, where the piece came from elsewhere: acknowledgements of what all peers
/// announce to one seeder take a part of its wire.
const ANNOUNCE_LATEST: Duration = Duration::from_millis(500);
/// So many pieces that are here and not there keep a peer busy for a while.
const SPARE_ENOUGH: usize = 24;
/// An upload that takes longer does not keep the last offers from being made to others.
const SENDING_PATIENCE: Duration = Duration::from_secs(10);
/// A peer holds no more unrequested offers than its share of the remaining pieces, divided by
/// this. So all run out of offers at about the same time: with fixed numbers the last ones would
/// wait at a slow peer while this end has nothing to send. (Guided self-scheduling:
/// Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987.)
const OFFER_SHARE: usize = 2;
/// A slow peer is offered nothing more once the rest would leave in so many times what an upload to it takes: it
/// takes about as long again to pass a piece on.
const PASSES_ON: u32 = 4;
/// So many announcements are sent at once, whatever they would wait for …
const ANNOUNCE_BATCH: usize = 16;
/// … and so many for a seeder of a large swarm.
const ANNOUNCE_BATCH_LATEST: usize = 32;

impl Swarm {
    pub(super) fn announce_at_link_up(&mut self, id: LinkId, now: Instant) {
        self.maybe_inject_again();
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if self.injector.is_some() && !link.seeder {
            self.offer(id, now);
            return;
        }
        if !link.seeder && self.speaks_last() {
            self.be_silent(now);
            return;
        }
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.told_all = true;
        let other_seeder = link.seeder;
        if !self.have.is_empty() && !self.reads {
            let bitfield = Message::Bitfield(self.have.clone());
            self.send(id, bitfield, now);
        }
        if other_seeder && self.injector.is_some() {
            self.stop_injecting(now);
        }
    }

    /// A seeder that had announced everything, and whom all those have left whom it told, starts
    /// over with distinct pieces first.
    fn maybe_inject_again(&mut self) {
        if self.injector.is_some() || !self.have.is_full() || self.config.download {
            return;
        }
        // Whom a silent seeder has not told yet may have got what was offered.
        let knows = |link: &Link| {
            link.told_all || !link.have.is_empty() || !link.offers.is_empty() || !link.taken.is_empty()
        };
        if self.links.values().any(knows) {
            return;
        }
        self.injector = Some(Injector::new(self.have.clone(), &mut self.rng));
    }

    /// Offers more pieces to a peer.
    pub(super) fn offer(&mut self, id: LinkId, now: Instant) {
        self.take_back_from_slow(id, now);
        let peers = self.links.len();
        let comes_last = self.is_offered_last(id);
        let (Some(injector), Some(link)) = (&mut self.injector, self.links.get_mut(&id)) else {
            return;
        };
        if !link.same_site && self.queued > 0 {
            // Those of this site keep this end busy, and others get the piece from there.
            return;
        }
        if link.told_all || comes_last {
            return;
        }
        let fair = injector.left_for(link.wanted.as_ref()) / (OFFER_SHARE * peers).max(1);
        let offers_max = link.offers_max.min(fair.max(1));
        let mut offered = Vec::new();
        while link.offers.len() < offers_max
            && let Some(piece) = injector.next(link.wanted.as_ref())
        {
            link.offers.insert(piece);
            offered.push(piece);
        }
        // A peer that wants but a part cannot empty the pool: where that part is through, it is told
        // of everything, as all are when the pool is empty.
        let sated = link.wanted.is_some() && link.offers.is_empty() && link.taken.is_empty();
        if sated {
            self.tell_all(id, now);
            return;
        }
        for list in PieceList::split(&offered) {
            self.send(id, Message::Have(list), now);
        }
        self.maybe_stop_injecting(now);
    }

    /// Whether a peer is slow, and this end has something to send to others, who have all that is left before
    /// that one would have passed on what it is offered.
    fn is_offered_last(&self, id: LinkId) -> bool {
        let (Some(injector), Some(link)) = (&self.injector, self.links.get(&id)) else {
            return false;
        };
        let left = injector.left_for(link.wanted.as_ref());
        self.queued + self.uploads > 0
            && self.is_slow(link)
            && self.leaves_in(left) < link.uploads_take * PASSES_ON
    }

    /// Where `id` is a quick peer and it is too late for slow ones: what they were offered and did not begin to get
    /// is there to be offered again. They would get it long after all else is with somebody.
    fn take_back_from_slow(&mut self, id: LinkId, now: Instant) {
        let is_quick = |link: &Link| !link.told_all && !link.uploads_take.is_zero() && !self.is_slow(link);
        if self.injector.is_none() || self.is_large() || !self.links.get(&id).is_some_and(is_quick) {
            return;
        }
        let owed = |link: &Link| !link.offers.is_empty() || !link.queue.is_empty();
        let slow = self.links.iter().filter(|(id, link)| owed(link) && self.is_offered_last(**id));
        let slow: Vec<LinkId> = slow.map(|(id, _)| *id).collect();
        for id in slow {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let mut back = std::mem::take(&mut link.offers);
            let taken = &mut link.taken;
            let queue = std::mem::take(&mut link.queue).into_iter();
            let (rejected, kept): (Vec<_>, Vec<_>) = queue.partition(|piece| taken.remove(piece).is_some());
            link.queue.extend(kept);
            self.queued -= rejected.len();
            for piece in rejected {
                self.send(id, Message::Reject(piece, RejectReason::Busy), now);
                back.insert(piece);
            }
            for piece in back {
                self.inject_again(piece);
            }
        }
    }

    /// Offers more to peers that ask for nothing of what they were offered: they are getting it
    /// elsewhere, or do not want it. And to all where there is nothing to send.
    pub(super) fn offer_to_idle(&mut self, now: Instant) {
        if self.injector.is_none() {
            return;
        }
        let idle = |link: &Link| link.taken.is_empty() && link.offers.len() >= link.offers_max;
        let nothing = self.queued + self.uploads == 0;
        let links = self.links.iter().filter(|(_, link)| nothing || idle(link));
        let ids: Vec<LinkId> = links.map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(link) = self.links.get_mut(&id).filter(|link| idle(link)) {
                link.offers_max = (link.offers_max * 2).min(super::inject::OFFERS_MAX);
            }
            self.offer(id, now);
        }
    }

    /// Ends the injection when every piece is with some peer, or when it is stuck though this
    /// end has nothing left to send.
    pub(super) fn maybe_stop_injecting(&mut self, now: Instant) {
        let Some(injector) = &mut self.injector else {
            return;
        };
        let sends = |link: &Link| {
            let fresh = |(_, since): &(PieceIndex, Instant)| now.since(*since) < SENDING_PATIENCE;
            !link.queue.is_empty() || link.sending.iter().any(fresh)
        };
        let over = injector.is_over(self.links.values().any(sends), now);
        if over && !self.links.is_empty() {
            self.stop_injecting(now);
        }
    }

    /// Announces everything to everybody.
    fn stop_injecting(&mut self, now: Instant) {
        self.injector = None;
        let silent = self.speaks_last();
        // Who was offered what there is knows of it.
        let knows = |link: &Link| link.complete() || !link.offers.is_empty() || !link.taken.is_empty();
        let hears = |link: &Link| !link.told_all && (!silent || knows(link));
        let waiting: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| hears(link)).map(|(id, _)| *id).collect();
        if silent {
            self.be_silent(now);
        }
        for id in waiting {
            self.tell_all(id, now);
        }
    }

    pub(super) fn tell_all(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.told_all = true;
            link.offers.clear();
            link.taken.clear();
        }
        self.send(id, Message::Bitfield(self.have.clone()), now);
    }

    /// A peer is gone: what was offered to it, and what only it had, is offered to others, who may have
    /// no other reason to say anything.
    pub(super) fn take_back_offers(&mut self, link: &Link, now: Instant) {
        if self.injector.is_none() {
            return;
        }
        let mut lost = link.have.clone();
        link.offers.iter().for_each(|piece| {
            lost.insert(*piece);
        });
        // Requested, perhaps sent, but never announced by the peer.
        link.taken.keys().for_each(|piece| {
            lost.insert(*piece);
        });
        let put_back = lost.iter().filter(|piece| self.inject_again(*piece)).count();
        if put_back > 0 {
            let ids: Vec<LinkId> = self.links.keys().copied().collect();
            ids.into_iter().for_each(|id| self.offer(id, now));
        }
    }

    /// Puts a piece back to those that are to be offered, where it is here and nowhere else, and
    /// nobody was offered it. True where it is to be offered.
    fn inject_again(&mut self, piece: PieceIndex) -> bool {
        let held = |link: &Link| link.offers.contains(&piece) || link.taken.contains_key(&piece);
        if !self.have.contains(piece) || self.picker.availability(piece) > 0 || self.links.values().any(held)
        {
            return false;
        }
        match &mut self.injector {
            Some(injector) => {
                injector.put_back(piece);
                true
            }
            None => false,
        }
    }

    /// A piece that came over `from` is verified: tells whoever may care; of its own site only `alone`, where
    /// that is given.
    pub(super) fn announce(
        &mut self,
        piece: PieceIndex,
        from: Option<LinkId>,
        alone: Option<LinkId>,
        now: Instant,
    ) {
        self.idleness.piece_came(now);
        if self.have.is_full() {
            self.announce_completion(now);
            return;
        }
        let (large, together) = (self.is_large(), self.idleness.announces_after());
        for (id, link) in self.links.iter_mut() {
            let silent = link.same_site && alone.is_some_and(|alone| alone != *id);
            if !link.complete() && (silent || link.have.contains(piece)) {
                continue;
            }
            link.unannounced.push(piece);
            let keeps_count = large && link.complete();
            // A seeder waits to hear of what it sent.
            let later = if keeps_count && from != Some(*id) { ANNOUNCE_LATEST } else { ANNOUNCE_LATER };
            let batch = if keeps_count { ANNOUNCE_BATCH_LATEST } else { ANNOUNCE_BATCH };
            let at = match link.announce_at {
                Some(planned) if large && link.hears_late() => planned,
                None if large && link.hears_late() => now + site::hears_after(&mut self.rng),
                _ if link.unannounced.len() >= batch => now,
                Some(planned) if keeps_count => planned.min(now + later),
                Some(planned) => planned,
                None if link.complete() => now + later,
                None if large => now + together,
                None => {
                    let spare = self.have.count() - link.have.count_common(&self.have);
                    now + if spare > SPARE_ENOUGH { ANNOUNCE_SPARE } else { ANNOUNCE_SOON }
                }
            };
            link.announce_at = Some(at);
            Self::plan_announcement(&mut self.next_announcement, at);
        }
        self.flush_announcements(now);
    }

    /// Everything is here. Peers were not told of pieces that they had already: without the whole
    /// picture they would take this node for one that still needs something from them.
    fn announce_completion(&mut self, now: Instant) {
        self.entrusted.clear();
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            if let Some(link) = self.links.get_mut(&id) {
                link.unannounced.clear();
                link.entrusted.clear();
                link.announce_at = None;
            }
            self.send(id, Message::Bitfield(self.have.clone()), now);
        }
    }

    fn plan_announcement(next: &mut Option<Instant>, at: Instant) {
        *next = Some(next.map_or(at, |planned| planned.min(at)));
    }

    pub(super) fn flush_announcements(&mut self, now: Instant) {
        if self.next_announcement.is_none_or(|at| at > now) {
            return;
        }
        let due = |link: &Link| link.announce_at.is_some_and(|at| at <= now);
        let ids: Vec<LinkId> = self.links.iter().filter(|(_, link)| due(link)).map(|(id, _)| *id).collect();
        for id in ids {
            self.announce_waiting(id, now);
        }
        self.next_announcement = self.links.values().filter_map(|link| link.announce_at).min();
    }

    /// Announces what waits on one link.
    pub(super) fn announce_waiting(&mut self, id: LinkId, now: Instant) {
        let large = self.is_large();
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.unannounced.is_empty() && link.announce_at.is_none() {
            return;
        }
        let mut pieces = if large && link.hears_late() {
            if link.announce_at.is_some_and(|at| at > now) {
                return;
            }
            let ripe = link.take_ripe();
            link.announce_at = (!link.unannounced.is_empty()).then(|| now + site::hears_after(&mut self.rng));
            ripe
        } else {
            link.announce_at = None;
            // Room for the next ones stays: there are as many, again and again.
            link.unannounced.drain(..).collect()
        };
        // The peer may have got some elsewhere meanwhile.
        let complete = link.complete();
        pieces.retain(|piece| self.have.contains(*piece) && (complete || !link.have.contains(*piece)));
        for list in PieceList::split(&pieces) {
            self.send(id, Message::Have(list), now);
        }
    }

    // ---- what others announce ----

    pub(super) fn handle_bitfield(&mut self, id: LinkId, mut set: PieceSet, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.refused.keys().for_each(|piece| {
            set.remove(*piece);
        });
        let was_complete = link.complete();
        let old = std::mem::replace(&mut link.have, set);
        link.came_early &= !old.is_empty() || link.have.count() < LAGS_FROM;
        for piece in old.iter() {
            self.picker.subtract(piece);
        }
        for piece in link.have.iter() {
            self.picker.add(piece);
            link.offers.remove(&piece);
            link.entrusted.remove(&piece);
            if let Some(injector) = &mut self.injector {
                injector.forget(piece);
            }
        }
        self.after_have(id, was_complete, now);
    }

    /// A peer says which pieces it wants: no others are offered to it.
    pub(super) fn handle_wanted(&mut self, id: LinkId, set: PieceSet, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let (vain, kept) = link.offers.iter().partition(|piece| !set.contains(**piece));
        link.offers = kept;
        link.wanted = Some(set);
        let vain: std::collections::BTreeSet<PieceIndex> = vain;
        for piece in vain {
            self.inject_again(piece);
        }
        self.offer(id, now);
    }

    pub(super) fn handle_have(&mut self, id: LinkId, pieces: &[PieceIndex], now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let was_complete = link.complete();
        for &piece in pieces {
            if !link.refused.contains_key(&piece) && link.have.insert(piece) {
                self.picker.add(piece);
                if !link.same_site {
                    link.told.insert(piece);
                }
            }
            link.entrusted.remove(&piece);
            let offered = link.offers.remove(&piece);
            let sent_at = link.taken.remove(&piece);
            if let Some(injector) = &mut self.injector {
                injector.forget(piece);
                if let Some(sent_at) = sent_at {
                    injector.spread(now.since(sent_at));
                }
                if offered {
                    // It came from elsewhere: another seeder is at the same place.
                    injector.jump(&mut self.rng);
                }
            }
            if link.seeder && self.have.contains(piece) && link.announce_at.is_some() {
                // A seeder that offers what is here does not know it.
                link.announce_at = Some(now);
                Self::plan_announcement(&mut self.next_announcement, now);
            }
        }
        self.after_have(id, was_complete, now);
    }

    fn after_have(&mut self, id: LinkId, was_complete: bool, now: Instant) {
        if let Some(link) = self.links.get(&id)
            && link.complete()
            && !was_complete
        {
            let (peer, silent) = (link.peer, !link.told_all && self.injector.is_none());
            self.commands.push_back(Command::Notify(Notification::PeerCompleted(peer)));
            if silent {
                // It asks for nothing any more.
                self.tell_all(id, now);
            }
        }
        self.offer(id, now);
        self.request_unless_large(id, now);
    }

    pub(super) fn handle_lost(&mut self, id: LinkId, pieces: &[PieceIndex], now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.seeder = false;
        let mut known_here = Vec::new();
        for &piece in pieces {
            if link.have.remove(piece) {
                self.picker.subtract(piece);
            }
            if self.have.contains(piece) {
                known_here.push(piece);
            } else {
                self.taken_back.insert(piece);
            }
        }
        // It had them, so it may not know that they are here.
        known_here.retain(|piece| !self.inject_again(*piece));
        if let Some(link) = self.links.get_mut(&id)
            && !known_here.is_empty()
        {
            link.unannounced.append(&mut known_here);
            link.announce_at = Some(now);
            Self::plan_announcement(&mut self.next_announcement, now);
        }
        self.offer(id, now);
        self.flush_announcements(now);
    }
}
