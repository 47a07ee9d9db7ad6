//! What is asked of whom, and what happens to the answers.
//!
//! Each link has a window: the bytes that may be asked for and not yet here. It grows while
//! pieces come quickly after they were asked for, and shrinks while they wait long in the peer's
//! queue; so a link's pipe is full, and a peer that is slow or busy holds few of our requests.
//!
//! When no open piece is left for a link (the *end-game*), it may be asked for a piece that
//! another peer is late with; whoever comes second is cancelled. Where two are late, the one that has
//! been waited for longer is given up for a third.

use super::site::{Reach, falls_to, is_near};
use super::{Command, LinkId, Notification, PieceState, Swarm, Violation};
use crate::geometry::PieceIndex;
use crate::swarm::link::{Link, Outstanding};
use crate::time::{Duration, Instant};
use crate::wire::{DATA_LEN_MAX, Message, PieceList, RejectReason};

/// A piece that comes sooner than this after its request lets the window grow.
const LATENCY_LOW: Duration = Duration::from_millis(50);
/// A piece that comes later than this lets it shrink.
const LATENCY_HIGH: Duration = Duration::from_millis(200);
/// The largest window: a bandwidth-delay product of 10 Gbit/s and 13 ms.
const WINDOW_MAX: u64 = 16 * 1024 * 1024;
/// The smallest window, in pieces, where links are few: one being sent, one that waits. In a large swarm
/// it is one: a piece that waits at one peer cannot be asked of another, who may be idle.
pub(super) const WINDOW_FEW: u64 = 2;
/// Where this end limits what arrives, it asks for what comes in so many seconds …
const LIMITED_WINDOW_SECONDS: u64 = 2;
/// … or for so many pieces, where that is more: a slow peer must not hold all of it.
const LIMITED_PIECES_MIN: u64 = 4;
/// A piece is late after this time, whatever others took.
const LATE_MIN: Duration = Duration::from_millis(100);
/// A piece is late after so many times what 95% of the latest ones took: with less, those 5% are
/// asked of two peers all along, and a part of them comes twice. One of the last, after so many times what half took.
const LATE_FACTOR: u32 = 2;
/// A piece is late after this time where nothing is known of what others took.
const LATE_UNKNOWN: Duration = Duration::from_secs(1);
/// A peer that is too busy for a request is not asked for so long.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// A piece that a peer sent corrupt is not asked of it for so long: others may have it; where
/// nobody has, it is worth another try before the peer is banned.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// The patience with a long piece doubles at most so often.
const CHANGES_DOUBLED_MAX: u32 = 10;
/// So many latest latencies make the 95th percentile.
const LATENCIES_LEN: usize = 64;
/// A peer that sent so many corrupt pieces is banned. One may be the fault of a disk or a
/// memory; it is not asked for that piece for a while.
const CORRUPT_MAX: u32 = 2;
/// A peer that so often rejects what it announced is banned.
const LIES_MAX: u32 = 16;

/// The latest times from a request to its piece.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    ring: Vec<Duration>,
    next: usize,
    /// Of these, the 95th percentile: asked for more often than a piece arrives.
    high: Duration,
    /// Of these, the median.
    middle: Duration,
}

impl Latencies {
    fn add(&mut self, latency: Duration) {
        if self.ring.len() < LATENCIES_LEN {
            self.ring.push(latency);
        } else {
            self.ring[self.next] = latency;
        }
        self.next = (self.next + 1) % LATENCIES_LEN;
        let mut sorted = self.ring.clone();
        let (below, high, _) = sorted.select_nth_unstable(self.ring.len() * 95 / 100);
        self.high = *high;
        let middle = below.len() / 2;
        self.middle = if below.is_empty() { self.high } else { *below.select_nth_unstable(middle).1 };
    }

    /// Whether enough came to tell.
    const fn are_known(&self) -> bool {
        self.ring.len() >= LATENCIES_LEN / 8
    }

    /// The time after which a piece is late.
    pub(super) fn late_after(&self) -> Duration {
        if self.are_known() { (self.high * LATE_FACTOR).max(LATE_MIN) } else { LATE_UNKNOWN }
    }

    /// The same for one of the last pieces, for which alone a node waits: those of the slowest tenth are better
    /// asked of two peers than waited for.
    pub(super) fn late_at_end(&self) -> Duration {
        if self.are_known() { (self.middle * LATE_FACTOR).max(LATE_MIN) } else { LATE_UNKNOWN }
    }
}

/// How long so many bytes take at this rate.
pub(super) fn time_at(rate: u64, bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1))
}

/// Whom a late piece was asked of, and since when: of two, the older is given up.
pub(super) struct Late {
    older: (LinkId, Instant),
    newer: Option<(LinkId, Instant)>,
}

impl Swarm {
    // ---- asking ----

    pub(super) fn request_from_all(&mut self, now: Instant) {
        if self.picker.open().is_empty() && self.requested.is_empty() {
            return;
        }
        self.ask_idle(now);
        let on_its_own = self.asks_on_its_own(now);
        let asked = |link: &Link| (on_its_own || link.is_asked_freely()) && link.may_ask(now);
        // Near ones first, then those whose queue is short.
        let links = self.links.iter().filter(|(_, link)| asked(link));
        let mut ids: Vec<(bool, u64, LinkId)> =
            links.map(|(id, link)| (!link.same_site, link.in_flight, *id)).collect();
        ids.sort_unstable();
        for (_, _, id) in ids {
            self.request_from(id, now);
        }
    }

    /// Fills the window of a link with requests.
    pub(super) fn request_from(&mut self, id: LinkId, now: Instant) {
        let mut pieces = Vec::new();
        let mut cancels = Vec::new();
        let large = self.is_large();
        while let Some(link) = self.links.get(&id).filter(|link| link.may_ask(now)) {
            if !self.trunk_has_room(link) {
                break;
            }
            if large && !link.is_asked_freely() && !link.requested.is_empty() {
                break;
            }
            // A cancelled request still waits for its answer: one piece, one request.
            let asked = |piece| link.requested.contains(piece);
            let read_next = self.read_next(link, now);
            let pick = match self.reach(link, now) {
                _ if !self.limit_has_room() => None,
                _ if read_next.is_some() => read_next,
                Reach::All => self.picker.pick(&link.have, |piece| !asked(piece), &mut self.rng),
                Reach::NotNear => {
                    let allowed = |piece| !asked(piece) && !is_near(&self.links, piece);
                    self.picker.pick(&link.have, allowed, &mut self.rng)
                }
                Reach::Owned => {
                    let is_ours = |piece| falls_to(self.config.local, &self.links, piece);
                    let allowed = |piece| !asked(piece) && is_ours(piece) && !is_near(&self.links, piece);
                    self.picker.pick(&link.have, allowed, &mut self.rng)
                }
                Reach::Told => {
                    let has = |piece| link.have.contains(piece) && !is_near(&self.links, piece);
                    self.picker.pick(&link.told, |piece| !asked(piece) && has(piece), &mut self.rng)
                }
            };
            let late = if self.picker.preferred().is_empty() { None } else { self.late_for_reader(id, now) };
            let (piece, late) = match (late, pick) {
                (Some((piece, late)), _) => (piece, Some(late)),
                (None, Some(piece)) => (piece, None),
                (None, None) => match self.late_piece(id, now) {
                    Some((piece, late)) => (piece, Some(late)),
                    None => break,
                },
            };
            let len = self.piece_bytes(piece);
            let Some(link) = self.links.get_mut(&id).filter(|link| link.has_room(len)) else {
                break;
            };
            if link.requested.is_empty() {
                link.served_us_at = now;
            }
            if link.have.insert(piece) {
                // A seeder that did not offer it. Where it rejects it, it counts as one that did.
                self.picker.add(piece);
            }
            link.requested.insert(piece, Outstanding { since: now, cancelled: false });
            link.in_flight += len;
            pieces.push(piece);
            let state = match late {
                None => PieceState::Requested { first: id, second: None, since: now },
                Some(Late { older, newer: None }) if len <= u64::from(DATA_LEN_MAX) => {
                    PieceState::Requested { first: older.0, second: Some(id), since: older.1 }
                }
                Some(Late { older, newer }) => {
                    *self.source_changes.entry(piece).or_default() += 1;
                    cancels.push((older.0, piece));
                    match newer {
                        Some((first, since)) => PieceState::Requested { first, second: Some(id), since },
                        // Blocks of a long piece are written as they arrive, by one source only.
                        None => PieceState::Requested { first: id, second: None, since: now },
                    }
                }
            };
            self.set_piece(piece, state);
        }
        for (first, piece) in cancels {
            self.cancel(first, piece, now);
        }
        if !pieces.is_empty() {
            self.announce_waiting(id, now);
        }
        for list in PieceList::split(&pieces) {
            self.send(id, Message::Request(list), now);
        }
    }

    /// Whether a limit at this end leaves room for another piece. What is asked of everybody at once
    /// would arrive side by side, and late: few pieces at a time can be passed on sooner.
    fn limit_has_room(&self) -> bool {
        let Some(rate) = self.limits.download else {
            return true;
        };
        let piece = u64::from(self.geometry.piece_len_max());
        // A peer that stopped owes its cancelled pieces for long: others are asked meanwhile.
        let waited_for: u64 = self.links.values().map(|link| link.in_flight - link.cancelled).sum();
        waited_for < rate.saturating_mul(LIMITED_WINDOW_SECONDS).max(LIMITED_PIECES_MIN * piece)
    }

    /// Bytes of all requests that wait for their answer.
    fn in_flight(&self) -> u64 {
        self.links.values().map(|link| link.in_flight).sum()
    }

    /// The time after which a piece of the own site, or of another one, is late, as far as this end
    /// lets payload come.
    fn late_after(&self, near: bool) -> Duration {
        let limited = self.limits.download.map(|rate| time_at(rate, self.in_flight()) * LATE_FACTOR);
        let latencies = if near { &self.latencies } else { &self.far_latencies };
        // A long piece is changed over to another source, and what came of it is lost: not in haste. In a large
        // swarm all wait for the same peers.
        let is_long = self.geometry.piece_len_max() > DATA_LEN_MAX;
        let is_end = self.picker.open().is_empty() && !is_long && !self.is_large();
        let late_after = if is_end { latencies.late_at_end() } else { latencies.late_after() };
        late_after.max(limited.unwrap_or(Duration::ZERO))
    }

    /// A piece that all its sources are late with and `id` has: the one that waits longest.
    fn late_piece(&self, id: LinkId, now: Instant) -> Option<(PieceIndex, Late)> {
        self.latest_of(self.requested.iter().map(|(piece, state)| (*piece, *state)), id, now)
    }

    /// Of these, the one that waits longest of those that are late and `id` has.
    pub(super) fn latest_of(
        &self,
        requested: impl Iterator<Item = (PieceIndex, PieceState)>,
        id: LinkId,
        now: Instant,
    ) -> Option<(PieceIndex, Late)> {
        let link = self.links.get(&id)?;
        let (near_after, far_after) = (self.late_after(true), self.late_after(false));
        let mut latest: Option<(PieceIndex, Late)> = None;
        for (piece, state) in requested {
            let PieceState::Requested { first, second, since } = state else {
                continue;
            };
            if first == id || link.requested.contains(piece) || !self.may_have(link, piece) {
                continue;
            }
            let newer = second.and_then(|second| {
                let request = self.links.get(&second)?.requested.get(piece)?;
                Some((second, request.since))
            });
            // A source that was changed in vain wasted what had arrived: more patience each time.
            let changes = self.source_changes.get(&piece).copied().unwrap_or(0);
            let near = self.links.get(&first).is_none_or(|link| link.same_site);
            let late_after = if near { near_after } else { far_after };
            let patience = late_after * 2u32.pow(changes.min(CHANGES_DOUBLED_MAX));
            let asked_last = newer.map_or(since, |(_, since)| since);
            let waits_longest = latest.as_ref().is_none_or(|(_, late)| since < late.older.1);
            if now.since(asked_last) >= patience && waits_longest {
                latest = Some((piece, Late { older: (first, since), newer }));
            }
        }
        latest
    }

    pub(super) fn cancel(&mut self, id: LinkId, piece: PieceIndex, now: Instant) {
        let len = self.piece_bytes(piece);
        if let Some(link) = self.links.get_mut(&id)
            && let Some(request) = link.requested.get_mut(piece)
            && !request.cancelled
        {
            request.cancelled = true;
            link.cancelled += len;
            self.send(id, Message::Cancel(PieceList::one(piece)), now);
        }
    }

    // ---- answers ----

    pub(super) fn handle_data_arriving(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.heard_at = now;
            link.served_us_at = now;
        }
    }

    pub(super) fn handle_piece_received(&mut self, id: LinkId, piece: PieceIndex, now: Instant) {
        let Some(request) = self.take_answer(id, piece, now) else {
            return;
        };
        let latency = now.since(request.since);
        match self.links.get(&id) {
            Some(link) if !link.same_site => self.far_latencies.add(latency),
            _ => self.latencies.add(latency),
        }
        self.adapt_window(id, piece, latency);
        match self.piece_state(piece) {
            PieceState::Requested { first, second, .. } => {
                self.source_changes.remove(&piece);
                self.set_piece(piece, PieceState::Received { from: id });
                for other in [Some(first), second].into_iter().flatten().filter(|other| *other != id) {
                    self.cancel(other, piece, now);
                }
            }
            _ => self.stats.wasted += self.piece_bytes(piece),
        }
        self.ask_idle(now);
        self.request_unless_large(id, now);
    }

    pub(super) fn handle_piece_discarded(&mut self, id: LinkId, piece: PieceIndex, now: Instant) {
        let Some(request) = self.take_answer(id, piece, now) else {
            return;
        };
        self.stats.wasted += self.piece_bytes(piece);
        if !request.cancelled {
            // The driver dropped it for a reason of its own: it is still wanted.
            self.release(piece, id);
        }
        self.request_from(id, now);
    }

    pub(super) fn handle_reject(
        &mut self,
        id: LinkId,
        piece: PieceIndex,
        reason: RejectReason,
        now: Instant,
    ) {
        let Some(request) = self.take_answer(id, piece, now) else {
            return;
        };
        if request.cancelled {
            self.request_from(id, now);
            return;
        }
        self.release(piece, id);
        let hears_idle = self.hears_idle();
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match reason {
            RejectReason::Missing | RejectReason::Cancelled => {
                if link.have.remove(piece) {
                    self.picker.subtract(piece);
                    link.lie_count += 1;
                }
                if link.lie_count >= LIES_MAX {
                    self.punish(id, Violation::Lied, now);
                    return;
                }
            }
            RejectReason::Busy if hears_idle => {
                // It was idle when others asked it, too. What it said is spent: it is not asked at once again.
                self.idleness.forget(id);
                self.ask_idle(now);
                return;
            }
            RejectReason::Busy => {
                link.window = (link.window / 2).max(1);
                link.busy_until = now + BUSY_PAUSE;
            }
        }
        self.request_from_all(now);
    }

    /// Takes a request out of those that wait. An answer to no request is a violation.
    fn take_answer(&mut self, id: LinkId, piece: PieceIndex, now: Instant) -> Option<Outstanding> {
        let len = self.piece_bytes(piece);
        let link = self.links.get_mut(&id)?;
        link.heard_at = now;
        link.served_us_at = now;
        let request = link.requested.remove(piece);
        match request {
            Some(Outstanding { cancelled, .. }) => {
                link.in_flight -= len;
                link.cancelled -= if cancelled { len } else { 0 };
            }
            None => self.punish(id, Violation::UnrequestedAnswer, now),
        }
        request
    }

    /// The smallest window of a link, in bytes.
    pub(super) fn window_min(&self) -> u64 {
        self.window_pieces() * u64::from(self.geometry.piece_len_max())
    }

    fn adapt_window(&mut self, id: LinkId, piece: PieceIndex, latency: Duration) {
        let len = self.piece_bytes(piece);
        let min = self.window_min();
        let adapted = |window: u64| {
            let window = match latency {
                low if low < LATENCY_LOW => window + len,
                high if high > LATENCY_HIGH => window.saturating_sub(len),
                _ => window,
            };
            window.clamp(min, WINDOW_MAX.max(min))
        };
        if let Some(link) = self.links.get_mut(&id) {
            link.window = adapted(link.window);
            if !link.same_site {
                self.far_window = adapted(self.far_window);
            }
        }
    }

    pub(super) fn handle_piece_checked(&mut self, id: LinkId, piece: PieceIndex, valid: bool, now: Instant) {
        if self.piece_state(piece) != (PieceState::Received { from: id }) {
            // The second of two sources: it was counted as wasted when it arrived.
            if !valid {
                self.handle_corrupt(id, piece, now);
            }
            return;
        }
        let len = self.piece_bytes(piece);
        if !valid {
            self.stats.wasted += len;
            self.set_piece(piece, PieceState::Missing);
            self.handle_corrupt(id, piece, now);
            self.request_from_all(now);
            return;
        }
        let from_seeder = self.links.get(&id).is_some_and(|link| link.seeder);
        if from_seeder {
            self.stats.from_seeders += len;
        } else {
            self.stats.from_peers += len;
        }
        self.set_piece(piece, PieceState::Verified);
        self.commands.push_back(Command::Notify(Notification::PieceVerified { piece, from_seeder }));
        if !self.reads {
            let alone = self.entrust(piece, id, now);
            self.tell_other_sites(piece, id, now);
            self.announce(piece, Some(id), alone, now);
            self.say_rare(piece, now);
        }
        if self.is_satisfied() {
            self.commands.push_back(Command::Notify(Notification::AllVerified));
        }
    }

    fn handle_corrupt(&mut self, id: LinkId, piece: PieceIndex, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.corrupt_count += 1;
        link.refused.insert(piece, now + REFUSED_FOR);
        if link.have.remove(piece) {
            self.picker.subtract(piece);
        }
        let banned = link.corrupt_count >= CORRUPT_MAX;
        self.send(id, Message::Corrupt(piece), now);
        if banned {
            self.punish(id, Violation::Corrupt, now);
        }
    }

    /// Pieces that came corrupt may be asked of the same peers again after a while.
    pub(super) fn forgive(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            let due: Vec<PieceIndex> =
                link.refused.iter().filter(|(_, until)| **until <= now).map(|(piece, _)| *piece).collect();
            for piece in due {
                link.refused.remove(&piece);
                if link.have.insert(piece) {
                    self.picker.add(piece);
                }
                if let Some(injector) = &mut self.injector {
                    injector.forget(piece);
                }
            }
        }
    }

    pub(super) fn handle_pieces_durable(&mut self, pieces: &[PieceIndex]) {
        for &piece in pieces {
            if self.piece_state(piece) == PieceState::Verified {
                self.set_piece(piece, PieceState::Durable);
            }
        }
    }

    /// A request to `id` is over without its piece: whoever else was asked goes on, or the piece
    /// is open again.
    pub(super) fn release(&mut self, piece: PieceIndex, id: LinkId) {
        let PieceState::Requested { first, second, since } = self.piece_state(piece) else {
            return;
        };
        let state = match (first == id, second) {
            (true, Some(other)) => {
                let request = self.links.get(&other).and_then(|link| link.requested.get(piece));
                let since = request.map_or(since, |request| request.since);
                PieceState::Requested { first: other, second: None, since }
            }
            (true, None) => PieceState::Missing,
            (false, Some(other)) if other == id => PieceState::Requested { first, second: None, since },
            (false, _) => return,
        };
        self.set_piece(piece, state);
    }
}
