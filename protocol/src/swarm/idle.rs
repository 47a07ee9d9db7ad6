//! Idle uplinks find work: how a node of a large swarm chooses whom to ask.
//!
//! With few links, whoever has a piece is asked for it as soon as it is wanted. With many, a request
//! that is made early waits in the long queue of a peer that happened to be first, while the uplinks of
//! others, who got the piece meanwhile, are idle; and a piece spreads like a star, not like a tree. So
//! in a large swarm it is the sending end that speaks first: a node that has little to send says
//! [`Message::Idle`] to a few peers, after it told them what it has. They ask it for what they lack
//! most, as long as few requests of theirs wait elsewhere, and remember it for a moment otherwise.
//! Whoever has enough to send by then rejects the most common piece, and its asker turns to the next one that
//! is idle: what waits in a queue cannot be asked of anybody else. Queues stay short, each request is made
//! when it can be served, and the rarest piece is chosen at that moment. Nor is all asked for that could be, so
//! that something is left for those who are idle next; and whoever got a rare piece says so at once.
//! (Join-idle-queue: Lu, Xie, Kliot, Geller, Larus, Greenberg, Performance Evaluation 2011.)
//!
//! Beside that, seeders are asked for what they offer, other sites are asked as ever, and whoever
//! waits for next to nothing asks on its own at each tick: nothing depends on what others say.
//!
//! Start reading at `say_idle`; the other end is `handle_idle`.

use rand::seq::SliceRandom;

use super::download::WINDOW_FEW;
use super::link::Link;
use super::{LinkId, PieceState, Swarm};
use crate::geometry::PieceIndex;
use crate::time::{Duration, Instant};
use crate::wire::Message;

/// The version of the peer protocol in which a node can say it.
pub(super) const IDLE_SINCE: u8 = 2;
/// With more links to peers of the own site than this a swarm is large.
const FEW_LINKS: usize = 16;
/// A node has little to send while fewer pieces than this are being sent or wait: what is asked for
/// now arrives here before the wire is free. What is asked for beyond that is rejected.
pub(super) const LITTLE: usize = 5;
/// How many peers hear of it at first; twice as many where nobody asked.
const TOLD_FIRST: usize = 2;
/// Whoever got a piece that fewer linked peers have than this says it at once, however much it sends.
const RARE_BELOW: u16 = 8;
/// The shortest pause before others are told, which is half of the time in which a piece comes …
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// … and the longest where pieces are rare: who is idle for longer than one takes to send has lost that time …
const PAUSE_MAX: Duration = Duration::from_millis(25);
/// … until it doubles, from the third time in vain on, up to this: a node whose peers lack nothing says so four
/// times a second.
const PAUSE_LONGEST: Duration = Duration::from_millis(256);
/// It doubles at most so often.
const PAUSE_DOUBLINGS_MAX: u32 = 7;
/// What has been here for less than so many times of a piece is announced together …
const ANNOUNCED_PIECES: u32 = 8;
/// … but what waits for that waits at least so long …
const ANNOUNCE_MIN: Duration = Duration::from_millis(50);
/// … and at most so long. Whoever has little to send says what it has before it says so: nobody asks sooner.
const ANNOUNCE_MAX: Duration = Duration::from_millis(250);
/// What was said is believed for so long.
const BELIEVED_FOR: Duration = Duration::from_millis(10);
/// Requests that wait at peers of the own site: one of so many pieces that could be asked for. Whoever asks for
/// all has nothing left for the next one that is idle …
const WAITING_OF: usize = 2;
/// … at least so many …
const WAITING_LEAST: usize = 3;
/// … and at most this: enough to keep a downlink busy. With less it idles, and with more a newcomer's pieces wait
/// in queues …
const WAITING_MAX: usize = 10;
/// … but more once half of the pieces are here: who has less than others is kept busy to the end.
const WAITING_MAX_LATE: usize = 16;
/// Who waits for less than this asks on its own.
const WAITING_MIN: usize = 2;

/// What a node that has little to send remembers of saying so.
#[derive(Debug, Default)]
pub(super) struct Idleness {
    /// When it may be said again.
    next_at: Instant,
    /// How often it was said, and nobody asked.
    in_vain: u32,
    /// Some peer said it: it is in a large swarm, and asks nobody who does not.
    expected: bool,
    /// It is to be said at `next_at`.
    waits: bool,
    /// The time in which a piece lately came, smoothed.
    piece_every: Duration,
    /// When the latest one came.
    piece_at: Option<Instant>,
    /// Peers that said it a moment ago, the latest last; each once.
    said_by: Vec<(Instant, LinkId)>,
}

impl Idleness {
    /// When the swarm wants to say it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waits.then_some(self.next_at)
    }

    /// Somebody asked, or there is something to ask for.
    pub(super) fn reset(&mut self, now: Instant) {
        self.in_vain = 0;
        self.next_at = self.next_at.min(now + self.pause());
    }

    /// A piece came.
    pub(super) fn piece_came(&mut self, now: Instant) {
        let every = self.piece_at.map_or(Duration::ZERO, |at| now.since(at).min(ANNOUNCE_MAX));
        self.piece_every = (self.piece_every * 7 + every) / 8;
        self.piece_at = Some(now);
        self.reset(now);
    }

    /// How long a piece waits for others that are announced with it.
    pub(super) fn announces_after(&self) -> Duration {
        (self.piece_every * ANNOUNCED_PIECES).clamp(ANNOUNCE_MIN, ANNOUNCE_MAX)
    }

    /// The shortest pause: what is sent meanwhile is no more than a piece or two.
    fn pause(&self) -> Duration {
        (self.piece_every / 2).clamp(PAUSE_MIN, PAUSE_MAX)
    }

    /// What `link` said is spent.
    pub(super) fn forget(&mut self, link: LinkId) {
        self.said_by.retain(|(_, by)| *by != link);
    }

    /// It is said: to how many.
    fn say(&mut self, now: Instant) -> usize {
        let doublings = self.in_vain.saturating_sub(1).min(PAUSE_DOUBLINGS_MAX);
        self.next_at = now + (self.pause() * 2u32.pow(doublings)).min(PAUSE_LONGEST);
        let told = if self.in_vain == 0 { TOLD_FIRST } else { 2 * TOLD_FIRST };
        self.in_vain = self.in_vain.saturating_add(1);
        told
    }
}

impl Swarm {
    /// Whether links to the own site are many.
    pub(super) const fn is_large(&self) -> bool {
        self.near > FEW_LINKS
    }

    /// Whether this node says when it has little to send, and rejects what is too much.
    pub(super) const fn sends_idle(&self) -> bool {
        self.is_large() && self.injector.is_none()
    }

    /// Whether this node is in a swarm in which others do so.
    pub(super) const fn hears_idle(&self) -> bool {
        self.is_large() || self.idleness.expected
    }

    /// Tells some peers that this node has little to send, where that is so.
    pub(super) fn say_idle(&mut self, now: Instant) {
        let little = self.queued + self.uploads < LITTLE;
        self.idleness.waits = little && self.hears_idle() && self.injector.is_none() && !self.have.is_empty();
        if !self.idleness.waits || self.idleness.next_at > now {
            return;
        }
        let told = self.idleness.say(now);
        let lack = self.tell_idle(told, None, now);
        self.idleness.waits = lack > 0;
    }

    /// `piece` came: few may have it, and those who lack it are to ask soon.
    pub(super) fn say_rare(&mut self, piece: PieceIndex, now: Instant) {
        if self.sends_idle() && self.picker.availability(piece) < RARE_BELOW {
            self.tell_idle(TOLD_FIRST, Some(piece), now);
        }
    }

    /// Tells it to at most `told` random peers of those that lack something, or this piece, and get nothing; how
    /// many these are.
    fn tell_idle(&mut self, told: usize, piece: Option<PieceIndex>, now: Instant) -> usize {
        let gets_nothing = |link: &Link| link.sending.is_empty() && link.queue.is_empty();
        let hears = |link: &Link| link.knows_idle() && !link.complete() && link.told_all;
        let lacks = |link: &Link| piece.is_none_or(|piece| !link.have.contains(piece));
        let lack = self.links.iter().filter(|(_, link)| hears(link) && gets_nothing(link) && lacks(link));
        let mut lack: Vec<LinkId> = lack.map(|(id, _)| *id).collect();
        let (chosen, _) = lack.partial_shuffle(&mut self.rng, told);
        for id in chosen {
            self.announce_waiting(*id, now);
            self.send(*id, Message::Idle, now);
        }
        lack.len()
    }

    /// A peer has little to send.
    pub(super) fn handle_idle(&mut self, id: LinkId, now: Instant) {
        self.idleness.expected = true;
        self.idleness.forget(id);
        self.idleness.said_by.push((now, id));
        self.ask_idle(now);
    }

    /// Asks those who said that they have little to send, the latest first.
    pub(super) fn ask_idle(&mut self, now: Instant) {
        if !self.is_large() || self.picker.open().is_empty() {
            return;
        }
        self.idleness.said_by.retain(|(at, _)| now.since(*at) < BELIEVED_FOR);
        if self.idleness.said_by.is_empty() {
            return;
        }
        let mut waiting = self.waiting(now);
        while waiting < self.waiting_most(waiting) {
            let asked = |id: &LinkId| self.links.get(id).is_some_and(|link| !link.requested.is_empty());
            let Some((_, id)) = self.idleness.said_by.iter().filter(|(_, id)| !asked(id)).max().copied()
            else {
                return;
            };
            self.idleness.forget(id);
            self.request_from(id, now);
            waiting += self.links.get(&id).map_or(0, |link| link.requested.len());
        }
    }

    /// A peer has something new, or sent something: asks it, unless it is for it to speak first.
    pub(super) fn request_unless_large(&mut self, id: LinkId, now: Instant) {
        if !self.is_large() || self.links.get(&id).is_some_and(Link::is_asked_freely) {
            self.request_from(id, now);
        }
    }

    /// Whether this node waits for next to nothing, and asks on its own.
    pub(super) fn asks_on_its_own(&self, now: Instant) -> bool {
        !self.is_large() || self.waiting(now) < WAITING_MIN
    }

    /// The smallest window of a link, in pieces.
    pub(super) fn window_pieces(&self) -> u64 {
        if self.is_large() { 1 } else { WINDOW_FEW }
    }

    /// How many requests may wait at peers of the own site, where `waiting` do.
    fn waiting_most(&self, waiting: usize) -> usize {
        let is_late = self.lacking * 2 < self.geometry.piece_count();
        let max = if is_late { WAITING_MAX_LATE } else { WAITING_MAX };
        ((waiting + self.picker.offered()) / WAITING_OF).clamp(WAITING_LEAST, max)
    }

    /// How many requests wait that are not late, and of those whom any node may ask.
    fn waiting(&self, now: Instant) -> usize {
        let late_after = self.latencies.late_after();
        let waits = |state: &PieceState| {
            let PieceState::Requested { first, since, .. } = *state else {
                return false;
            };
            let freely = self.links.get(&first).is_some_and(Link::is_asked_freely);
            !freely && now.since(since) < late_after
        };
        self.requested.values().filter(|state| waits(state)).count()
    }
}
