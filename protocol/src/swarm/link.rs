//! What the swarm knows of one link.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use crate::geometry::PieceIndex;
use crate::id::PeerId;
use crate::piece_map::PieceMap;
use crate::piece_set::PieceSet;
use crate::time::{Duration, Instant};
use crate::wire::{Hello, Site};

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outstanding {
    /// When it was made.
    pub since: Instant,
    /// Taken back, not yet answered.
    pub cancelled: bool,
}

/// One link, both directions. In memory it is as it is here, from the beginning of a line of a processor's cache
/// on: in the first one lies what is read in walks over all links, and where it announces something.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Link {
    /// Complete when the link came up: a seeder, in this swarm's eyes.
    pub seeder: bool,
    pub same_site: bool,
    /// It was told of everything that we have: no offers.
    pub told_all: bool,
    /// Of the protocol, as spoken here.
    pub version: u8,
    /// The pieces that we may request.
    pub have: PieceSet,
    pub announce_at: Option<Instant>,
    /// When something arrived last.
    pub heard_at: Instant,

    /// Pieces handed to the network, and when.
    pub sending: Vec<(PieceIndex, Instant)>,
    /// Requests that wait to be served.
    pub queue: VecDeque<PieceIndex>,
    /// When something was sent last.
    pub sent_at: Instant,

    /// Pieces to announce to it.
    pub unannounced: Vec<PieceIndex>,
    /// Pieces that it sent corrupt: not asked of it until then.
    pub refused: BTreeMap<PieceIndex, Instant>,
    /// Pieces from another site that it alone was told of, and did not announce yet.
    pub entrusted: BTreeSet<PieceIndex>,
    /// Pieces offered to it and not yet requested by it.
    pub offers: BTreeSet<PieceIndex>,
    /// Pieces offered to it and requested by it, which it did not announce yet; and when they were
    /// requested, or handed to the network.
    pub taken: BTreeMap<PieceIndex, Instant>,
    /// How long uploads to it lately took, smoothed; zero where there was none.
    pub uploads_take: Duration,
    /// Which turn it was when it was served last.
    pub turn: u64,

    pub peer: PeerId,
    pub remote: SocketAddr,
    /// Where the peer takes links, where it does.
    pub listens_at: Option<SocketAddr>,
    pub dialled: bool,
    /// The label of its site, where it names one.
    pub site: Option<Site>,
    /// The pieces that it wants; `None` for all.
    pub wanted: Option<PieceSet>,

    // Download: what we want from it.
    /// What it announced piece by piece, not in a bitfield; kept of peers of other sites alone.
    pub told: PieceSet,
    pub requested: PieceMap<Outstanding>,
    /// Bytes of all requests that wait for their answer.
    pub in_flight: u64,
    /// Those of them that were cancelled: they may never come.
    pub cancelled: u64,
    /// How many bytes we let be in flight.
    pub window: u64,
    /// When payload or an answer came last, or requests began to wait.
    pub served_us_at: Instant,
    /// It has no time for requests until then.
    pub busy_until: Instant,
    pub corrupt_count: u32,
    pub lie_count: u32,

    // Upload: what it wants from us.
    /// When it last took payload.
    pub taken_at: Instant,
    /// It came along with the first ones, and had next to nothing then.
    pub came_early: bool,
    /// How many pieces were sent to it.
    pub sent_count: u32,
    /// How often it said that a piece is corrupt.
    pub corrupt_reports: u32,
    /// How many of what is to be announced waited at the last announcement already, where it hears late.
    pub ripe: usize,
    /// How many offers it may leave unrequested.
    pub offers_max: usize,
}

impl Link {
    pub(super) fn new(
        peer: PeerId,
        remote: SocketAddr,
        dialled: bool,
        hello: &Hello,
        piece_count: usize,
        now: Instant,
    ) -> Self {
        let listens_at = (hello.listen_port != 0).then(|| SocketAddr::new(remote.ip(), hello.listen_port));
        Self {
            peer,
            remote,
            listens_at,
            dialled,
            version: hello.version,
            seeder: hello.complete,
            same_site: true,
            site: hello.site.clone(),
            wanted: None,
            heard_at: now,
            sent_at: now,
            have: PieceSet::empty(piece_count),
            told: PieceSet::empty(0),
            requested: PieceMap::default(),
            in_flight: 0,
            cancelled: 0,
            window: 0,
            served_us_at: now,
            refused: BTreeMap::new(),
            busy_until: now,
            corrupt_count: 0,
            lie_count: 0,
            queue: VecDeque::new(),
            sending: Vec::new(),
            taken_at: now,
            came_early: false,
            uploads_take: Duration::ZERO,
            turn: 0,
            sent_count: 0,
            corrupt_reports: 0,
            unannounced: Vec::new(),
            announce_at: None,
            ripe: 0,
            entrusted: BTreeSet::new(),
            told_all: false,
            offers: BTreeSet::new(),
            taken: BTreeMap::new(),
            offers_max: super::inject::offers_min(piece_count),
        }
    }

    /// Whether the peer has everything.
    pub(super) fn complete(&self) -> bool {
        self.seeder || self.have.is_full()
    }

    /// Whether it is a seeder that brings distinct pieces in: nobody else was told of what it offers.
    pub(super) fn brings_in(&self) -> bool {
        self.seeder && !self.have.is_full()
    }

    /// Whether it is asked as soon as it has something, in a large swarm, too: a seeder that brings distinct
    /// pieces in; and other sites, of which few ask.
    pub(super) fn is_asked_freely(&self) -> bool {
        !self.same_site || self.brings_in()
    }

    /// Whether it hears of pieces late in a large swarm: others of its site fetch them, and pass them on.
    pub(super) fn hears_late(&self) -> bool {
        !self.same_site && !self.complete()
    }

    /// Of the pieces to announce, those that waited at the last announcement already.
    pub(super) fn take_ripe(&mut self) -> Vec<PieceIndex> {
        let young = self.unannounced.split_off(self.ripe.min(self.unannounced.len()));
        self.ripe = young.len();
        std::mem::replace(&mut self.unannounced, young)
    }

    /// Whether another request may be made, of some length: cheap to ask before a piece is picked.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
        self.busy_until <= now && self.has_room(1)
    }

    /// Whether the window has room for another request. A window always admits one.
    pub(super) fn has_room(&self, len: u64) -> bool {
        self.requested.len() < super::REQUESTS_PER_LINK_MAX / 2
            && (self.requested.is_empty() || self.in_flight + len <= self.window)
    }

    /// Whether this peer hears `idle`, and turns to somebody else at once where it is rejected as one too many.
    pub(super) const fn knows_idle(&self) -> bool {
        self.same_site && self.version >= super::idle::IDLE_SINCE
    }

    /// Whether it has nothing yet: it is served first, to have something to pass on. Whoever
    /// never says what it has is no newcomer for long.
    pub(super) fn is_newcomer(&self) -> bool {
        self.have.is_empty() && self.sent_count < super::upload::NEWCOMER_PIECES
    }

    /// How long requests have waited without any sign of an answer.
    pub(super) fn unanswered_for(&self, now: Instant) -> Duration {
        if self.requested.is_empty() { Duration::ZERO } else { now.since(self.served_us_at) }
    }
}
