//! Whose request is served next.
//!
//! Few uploads run at a time, so that each piece arrives soon and its receiver can pass it on:
//! ten pieces sent side by side all arrive late. Where uploads take long, it is one at a time.
//!
//! A free slot goes to the peer that has waited longest for its turn; a newcomer that has nothing
//! goes first, and of one peer's requests the rarest piece. An upload that takes much longer than
//! others keeps no slot: a stuck peer must not keep the rest waiting. Nor does one to a peer to which uploads
//! lately took much longer than to others, a *slow* one: its wire is what is full, not the one of this end. Few
//! of those run at a time as long as others take something: slow peers have time to serve each other.
//!
//! In a large swarm the rarest piece of all goes first: what few have is soon with many. Of those who wait for
//! equally rare ones, who has least is first: it would be the last to finish. And little waits: of what is
//! too much the most common piece is rejected at once, and asked of somebody who is idle (`idle`).

use std::collections::VecDeque;

use super::download::time_at;
use super::idle::LITTLE;
use super::inject::Injector;
use super::link::Link;
use super::{Command, LinkId, REQUESTS_PER_LINK_MAX, Swarm, Violation};
use crate::geometry::PieceIndex;
use crate::piece_set::PieceSet;
use crate::time::{Duration, Instant};
use crate::wire::{Message, PieceList, RejectReason};

/// Pieces of one link that are handed to the network at once: one on its way, one behind it.
const SENDING_PER_LINK_MAX: usize = 2;
/// A peer that has nothing is served before others up to so many pieces.
pub(super) const NEWCOMER_PIECES: u32 = 4;
/// So many reports of corrupt pieces are believed from one link: each costs a read and a hash,
/// and an honest peer bans this one after two.
const CORRUPT_REPORTS_MAX: u32 = 4;
/// Most uploads that run at once, those that gave up their slot included.
const UPLOADS_MAX: usize = 64;
/// An upload counts against the slots for so many times what quick ones lately took: a wire of its receiver that
/// is full leaves room on the one of this end …
const SLOT_HELD_UPLOADS: u32 = 2;
/// … but at least for so long.
const SLOT_HELD_MIN: Duration = Duration::from_millis(40);
/// In a large swarm several senders meet before each receiver's wire, and uploads differ more …
const SLOT_HELD_UPLOADS_LARGE: u32 = 4;
/// … as they do where this end limits what leaves.
const SLOT_HELD_MIN_LARGE: Duration = Duration::from_millis(100);
/// At most it counts for so long: a stuck peer must not keep the rest waiting.
const SLOT_HELD_LONGEST: Duration = Duration::from_secs(1);
/// What an upload is taken to last, before any did.
const UPLOAD_TAKES: Duration = Duration::from_millis(50);
/// A peer to which uploads take so many times what quick ones took is slow, and its uploads hold no slots …
const SLOW_FACTOR: u32 = 3;
/// … unless they are quicker than this: the kernel takes some pieces at once, and all others would be slow
/// beside these.
const SLOW_MIN: Duration = Duration::from_millis(60);
/// Whoever has less than so many percent of what somebody has who came along with it lags …
const LAGS_PERCENT: usize = 70;
/// … where that is so many pieces or more.
pub(super) const LAGS_FROM: usize = 24;
/// … if uploads to it take more than so many percent of what quick ones take.
const LAGS_TAKES_PERCENT: u32 = 125;
/// Peers came along with each other that came so long after the first one, with next to nothing.
pub(super) const CAME_EARLY: Duration = Duration::from_millis(500);
/// Uploads to slow peers that run at once while others take something, too.
const SLOW_UPLOADS_MAX: usize = 2;
/// Others take something as long as the latest piece left for one of them so long ago.
const QUICK_LATELY: Duration = Duration::from_millis(200);
/// So many latest uploads say what a quick one takes …
const UPLOADS_LEN: usize = 16;
/// … which is more than every so-manieth of them took.
const QUICK_OF: usize = 4;
/// Where uploads take longer, one runs at a time: it keeps the wire busy, and arrives sooner. In a large swarm they
/// take as long because several senders meet before each receiver's wire: there it is one more.
const UPLOAD_LONG: Duration = Duration::from_millis(60);
/// Uploads of a seeder that brings pieces into a large swarm, where all wait for its wire: with fewer it is not
/// always full, since several senders meet before each receiver's.
const INJECTING_SLOTS: usize = 4;

/// How long the latest uploads took.
#[derive(Debug)]
pub(super) struct UploadTimes {
    latest: VecDeque<Duration>,
    /// What a quick one took: to a peer whose wire was not full, if there was any.
    quick: Duration,
    /// When a piece last left for a peer that is not slow.
    quick_at: Option<Instant>,
    /// How many pieces whoever has most of them has, of those who came early and lack some.
    most: usize,
}

impl Default for UploadTimes {
    fn default() -> Self {
        Self { latest: VecDeque::with_capacity(UPLOADS_LEN), quick: UPLOAD_TAKES, quick_at: None, most: 0 }
    }
}

impl UploadTimes {
    fn add(&mut self, took: Duration) {
        if self.latest.len() == UPLOADS_LEN {
            self.latest.pop_front();
        }
        self.latest.push_back(took);
        let mut sorted: Vec<Duration> = self.latest.iter().copied().collect();
        let (_, quick, _) = sorted.select_nth_unstable(self.latest.len() / QUICK_OF);
        self.quick = *quick;
    }
}

impl Swarm {
    pub(super) fn handle_request(&mut self, id: LinkId, pieces: &[PieceIndex], now: Instant) {
        let mut missing = Vec::new();
        let mut too_many = 0;
        self.idleness.reset(now);
        let sends_idle = self.sends_idle();
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let may_be_rejected = sends_idle && link.knows_idle();
        for &piece in pieces {
            // A piece that is being sent may have arrived before this end knows that it was sent.
            let known = link.queue.contains(&piece);
            if known || link.queue.len() + link.sending.len() >= REQUESTS_PER_LINK_MAX {
                self.punish(id, Violation::RequestFlood, now);
                return;
            }
            // Who wants nothing of it does not pass it on.
            let is_kept = link.wanted.as_ref().is_none_or(|wanted| wanted.contains(piece));
            let takes = |injector: &mut Injector| is_kept && injector.take(piece);
            if link.offers.remove(&piece) || self.injector.as_mut().is_some_and(takes) {
                link.taken.insert(piece, now);
            }
            if !self.have.contains(piece) {
                missing.push(piece);
            } else {
                too_many += usize::from(may_be_rejected && self.queued + self.uploads >= LITTLE);
                link.queue.push_back(piece);
                self.queued += 1;
            }
        }
        if link.offers.is_empty() {
            // It asks as fast as it is offered: offer more at a time.
            link.offers_max = (link.offers_max * 2).min(super::inject::OFFERS_MAX);
        }
        for piece in missing {
            self.send(id, Message::Reject(piece, RejectReason::Missing), now);
        }
        for _ in 0..too_many {
            self.reject_most_common(id, now);
        }
        self.offer(id, now);
        self.serve(now);
    }

    /// Of the requests that wait and can be made elsewhere, rejects that for the piece that most linked peers have;
    /// of equally common ones the latest, which came from `newest`.
    fn reject_most_common(&mut self, newest: LinkId, now: Instant) {
        let mut most = None;
        for (id, link) in self.links.iter().filter(|(_, link)| link.knows_idle()) {
            for (at, piece) in link.queue.iter().enumerate() {
                most = most.max(Some((self.picker.availability(*piece), *id == newest, at, *id)));
            }
        }
        let Some((.., at, id)) = most else {
            return;
        };
        if let Some(piece) = self.links.get_mut(&id).and_then(|link| link.queue.remove(at)) {
            self.queued -= 1;
            self.send(id, Message::Reject(piece, RejectReason::Busy), now);
        }
    }

    pub(super) fn handle_cancel(&mut self, id: LinkId, pieces: &[PieceIndex], now: Instant) {
        for &piece in pieces {
            let Some(link) = self.links.get_mut(&id) else {
                return;
            };
            if let Some(position) = link.queue.iter().position(|queued| *queued == piece) {
                link.queue.remove(position);
                self.queued -= 1;
                self.send(id, Message::Reject(piece, RejectReason::Cancelled), now);
            }
        }
    }

    /// Starts uploads while slots are free.
    pub(super) fn serve(&mut self, now: Instant) {
        while self.queued > 0 {
            let slots = self.slots();
            if self.uploads >= slots {
                let held_max = self.slot_held_max();
                let sends = self.links.values().filter(|link| !self.is_slow(link));
                let held = sends
                    .flat_map(|link| &link.sending)
                    .filter(|(_, since)| now.since(*since) < held_max)
                    .count();
                if held >= slots || self.uploads >= UPLOADS_MAX {
                    return;
                }
            }
            let slow_wait = self.slow_ones_wait(now);
            let waits = |link: &Link| slow_wait && self.is_slow(link);
            let ready = self.links.iter().filter(|(_, link)| {
                !link.queue.is_empty() && link.sending.len() < SENDING_PER_LINK_MAX && !waits(link)
            });
            // One at a time to each before a second to any.
            let next = ready.min_by_key(|(_, link)| {
                (link.sending.len(), !link.is_newcomer(), self.rarity_of_requests(link), link.turn)
            });
            let Some(id) = next.map(|(id, _)| *id) else {
                return;
            };
            self.start_upload(id, now);
        }
    }

    /// In a large swarm, how many linked peers have the rarest piece for which `link` waits, and how many
    /// pieces it has itself.
    fn rarity_of_requests(&self, link: &Link) -> Option<(u16, usize)> {
        if !self.is_large() {
            return None;
        }
        let rarest = link.queue.iter().map(|piece| self.picker.availability(*piece)).min()?;
        Some((rarest, link.have.count()))
    }

    /// Whether uploads to this peer lately took much longer than to others, or it came along with others and has much
    /// less than these. (Uploads alone do not tell: who alone sends much to a slow peer does so as fast as that one's
    /// wire allows, and would take it for quick.)
    pub(super) fn is_slow(&self, link: &Link) -> bool {
        let most = self.upload_times.most;
        let lags = link.came_early && most >= LAGS_FROM && link.have.count() * 100 < most * LAGS_PERCENT;
        let quick = self.upload_times.quick;
        // Who is quick catches up, once it is served as others are.
        (lags && link.uploads_take * 100 > quick * LAGS_TAKES_PERCENT && !self.is_large())
            || link.uploads_take > (quick * SLOW_FACTOR).max(SLOW_MIN)
    }

    /// Looks how far those are who came early and lack something.
    pub(super) fn look_how_far(&mut self) {
        let fetch = self.links.values().filter(|link| link.came_early && !link.complete());
        self.upload_times.most = fetch.map(|link| link.have.count()).max().unwrap_or(0);
    }

    /// Whether no slow peer gets anything now: some do already, and others take something, too.
    fn slow_ones_wait(&self, now: Instant) -> bool {
        let lately = |at| now.since(at) < QUICK_LATELY;
        if self.is_large() || !self.upload_times.quick_at.is_some_and(lately) {
            return false;
        }
        // Those that are stuck do not keep the others waiting.
        let runs = |link: &Link| link.sending.iter().any(|(_, since)| now.since(*since) < SLOT_HELD_LONGEST);
        let slow = self.links.values().filter(|link| runs(link) && self.is_slow(link));
        slow.count() >= SLOW_UPLOADS_MAX
    }

    /// How long it takes, at least, until so many pieces left.
    pub(super) fn leaves_in(&self, pieces: usize) -> Duration {
        let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
        self.upload_times.quick.saturating_mul(pieces) / u32::try_from(self.slots()).unwrap_or(1).max(1)
    }

    /// How many uploads run at once.
    fn slots(&self) -> usize {
        if self.is_large() && self.injector.is_some() {
            return self.config.upload_slots.max(INJECTING_SLOTS);
        }
        match self.upload_times.quick > UPLOAD_LONG {
            true if self.is_large() => self.config.upload_slots + 1,
            true => 1,
            false => self.config.upload_slots,
        }
    }

    /// How long an upload counts against the slots: with a limit at this end, as long as all slots
    /// need for a piece each; until enough uploads say what a quick one takes, as in a large swarm.
    fn slot_held_max(&self) -> Duration {
        if let Some(rate) = self.limits.upload {
            let bytes = u64::from(self.geometry.piece_len_max()) * (self.config.upload_slots as u64 + 1);
            return SLOT_HELD_MIN_LARGE + time_at(rate, bytes);
        }
        let (uploads, min) = match self.is_large() || self.upload_times.latest.len() < UPLOADS_LEN {
            true => (SLOT_HELD_UPLOADS_LARGE, SLOT_HELD_MIN_LARGE),
            false => (SLOT_HELD_UPLOADS, SLOT_HELD_MIN),
        };
        (self.upload_times.quick * uploads).clamp(min, SLOT_HELD_LONGEST)
    }

    fn start_upload(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let rarest = (0..link.queue.len()).min_by_key(|at| self.picker.availability(link.queue[*at]));
        let Some(piece) = rarest.and_then(|at| link.queue.remove(at)) else {
            return;
        };
        self.queued -= 1;
        self.uploads += 1;
        self.turn += 1;
        link.turn = self.turn;
        link.sent_at = now;
        link.sent_count = link.sent_count.saturating_add(1);
        link.sending.push((piece, now));
        if let Some(sent_at) = link.taken.get_mut(&piece) {
            *sent_at = now;
        }
        self.commands.push_back(Command::SendPiece { link: id, piece });
    }

    pub(super) fn handle_piece_sent(&mut self, id: LinkId, piece: PieceIndex, now: Instant) {
        self.stats.sent += self.piece_bytes(piece);
        if let Some(since) = self.end_upload(id, piece) {
            let took = now.since(since);
            self.upload_times.add(took);
            if let Some(link) = self.links.get_mut(&id) {
                link.uploads_take =
                    if link.uploads_take.is_zero() { took } else { (link.uploads_take + took) / 2 };
            }
            if self.links.get(&id).is_some_and(|link| !self.is_slow(link)) {
                self.upload_times.quick_at = Some(now);
            }
        }
        self.offer(id, now);
        self.serve(now);
    }

    pub(super) fn handle_data_leaving(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.taken_at = now;
        }
    }

    pub(super) fn handle_piece_unreadable(&mut self, id: LinkId, piece: PieceIndex, now: Instant) {
        self.end_upload(id, piece);
        // Said first: whoever announces a piece and then rejects it is taken for a liar.
        self.send(id, Message::Lost(PieceList::one(piece)), now);
        self.send(id, Message::Reject(piece, RejectReason::Missing), now);
        self.serve(now);
    }

    /// Ends an upload; since when it ran.
    fn end_upload(&mut self, id: LinkId, piece: PieceIndex) -> Option<Instant> {
        let link = self.links.get_mut(&id)?;
        let position = link.sending.iter().position(|(sent, _)| *sent == piece)?;
        let (_, since) = link.sending.remove(position);
        self.uploads -= 1;
        Some(since)
    }

    /// Somebody got this piece with a wrong hash: from here, perhaps.
    pub(super) fn handle_corrupt_report(&mut self, id: LinkId, piece: PieceIndex) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.corrupt_reports = link.corrupt_reports.saturating_add(1);
        if link.corrupt_reports <= CORRUPT_REPORTS_MAX && self.have.contains(piece) {
            self.commands.push_back(Command::Recheck(piece));
        }
    }

    /// Pieces are given up: stops serving them, says so, and fetches them from nobody.
    pub(super) fn handle_pieces_dropped(&mut self, pieces: &[PieceIndex], now: Instant) {
        let mut wanted =
            self.config.wanted.take().unwrap_or_else(|| PieceSet::full(self.geometry.piece_count()));
        for &piece in pieces {
            if wanted.remove(piece) && self.config.download && !self.have.contains(piece) {
                self.lacking -= 1;
                self.picker.close_piece(piece);
            }
        }
        self.config.wanted = Some(wanted);
        // Or peers would take this node for one that still needs something from them.
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.tell_wanted(id, now);
        }
        self.handle_pieces_lost(pieces, now);
    }

    /// Pieces are not here any more: stops serving them, and says so.
    pub(super) fn handle_pieces_lost(&mut self, pieces: &[PieceIndex], now: Instant) {
        let lost: Vec<PieceIndex> =
            pieces.iter().copied().filter(|piece| self.have.contains(*piece)).collect();
        for &piece in &lost {
            self.set_piece(piece, super::PieceState::Missing);
            if let Some(injector) = &mut self.injector {
                injector.forget(piece);
            }
        }
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            // Nobody was told of what is only read.
            if !self.reads {
                for list in PieceList::split(&lost) {
                    self.send(id, Message::Lost(list), now);
                }
            }
            for &piece in &lost {
                let Some(link) = self.links.get_mut(&id) else {
                    continue;
                };
                link.offers.remove(&piece);
                if let Some(position) = link.queue.iter().position(|queued| *queued == piece) {
                    link.queue.remove(position);
                    self.queued -= 1;
                    self.send(id, Message::Reject(piece, RejectReason::Missing), now);
                }
            }
        }
        self.request_from_all(now);
    }
}
