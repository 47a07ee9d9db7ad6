//! The swarm: one state machine per manifest and node, which decides whom to dial, which piece to
//! ask of whom, and which request to serve next.
//!
//! # Calling contract
//!
//! ```text
//! swarm.handle(event, now);                                // one input …
//! while let Some(command) = swarm.poll_command() { … }     // … then drain all output
//! swarm.poll_timeout()                                     // when to call handle_timeout
//! ```
//!
//! [`Swarm::handle`] returns nothing: a peer that misbehaves becomes a [`Command::Disconnect`].
//! Payload never enters: the driver stores it and says what arrived. The same events at the same
//! times, with the same seed, give the same commands.
//!
//! # Where to read on
//!
//! [`picker`](crate::picker): which piece next. `download`: how many requests to whom, and what
//! happens when they are late. `upload`: whose request is served next. `inject`: distinct pieces
//! first from a seeder. `idle`: whom to ask in a large swarm. `announce`: who is told what. `reading`: what a reader
//! waits for. `dial` and `book`: whom to dial. `linking`: how links come and go. `invariants`: what must hold between two events.
//!
//! # Invariants
//!
//! - Each piece is in exactly one [`PieceState`], which follows from `have`, `durable`, `requested` and
//!   `received`; `set_piece` is the only place that changes it.
//! - `picker` holds as open exactly the pieces that are `Missing` and wanted.
//! - A piece is announced and served only when `Verified` or `Durable`.
//! - A request waits in one `Link::requested` (two for a late piece), and dies with its link.

mod announce;
mod book;
mod dial;
mod download;
mod entrust;
mod event;
mod idle;
mod inject;
mod invariants;
mod link;
mod linking;
mod links;
mod reading;
mod site;
mod spare;
mod upload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::SeedableRng;
use rand_xoshiro::Xoshiro256StarStar;

pub use self::event::{Command, DisconnectReason, Event, LinkId, Notification, Violation};

use self::book::AddressBook;
use self::download::Latencies;
use self::idle::Idleness;
use self::inject::Injector;
use self::link::Link;
use self::links::Links;
use self::spare::Silence;
use self::upload::UploadTimes;
use crate::geometry::{Geometry, PieceIndex};
use crate::id::PeerId;
use crate::picker::Picker;
use crate::piece_map::PieceMap;
use crate::piece_set::PieceSet;
use crate::time::{Duration, Instant};
use crate::wire::{Message, Site};

/// Most links of one swarm: with more, announcements cost more than they help.
pub const LINKS_MAX: usize = 60;
/// Links that a node dials up to; the rest of [`LINKS_MAX`] is for those who dial it. In a large swarm those
/// with the fewest links are the last to finish.
pub const LINKS_DIALLED_MAX: usize = 40;
/// Most requests of one peer that wait at another. The asking end stays at half of it, so that
/// answers which cross with requests never make an honest peer look like a flood.
pub const REQUESTS_PER_LINK_MAX: usize = 256;
/// Most peers that are remembered as banned.
const BANNED_MAX: usize = 4096;
/// How often waiting requests and uploads are looked at while there are some.
const TICK_BUSY: Duration = Duration::from_millis(25);
/// How often links are looked at otherwise.
const TICK_IDLE: Duration = Duration::from_secs(1);
/// A link on which nothing was sent for so long gets a keep-alive.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(10);
/// A link on which nothing was heard for so long is closed: three keep-alives were lost.
const SILENCE_MAX: Duration = Duration::from_secs(35);
/// How long a peer may take requests without any answer, and data without reading it, besides
/// the time that a piece takes at [`RATE_MIN`].
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(30);
/// Bytes per second below which a link is of no use: a busy peer serves dozens of others before
/// it is our turn, and large pieces take their time.
const RATE_MIN: u64 = 64 * 1024;
/// The version of the peer protocol in which a peer can say what it wants.
const WANTED_SINCE: u8 = 2;
/// What a swarm is told at the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is.
    pub local: PeerId,
    /// Where this node runs.
    pub site: Option<Site>,
    /// Whether missing pieces are fetched; a seeder only serves.
    pub download: bool,
    /// The pieces that are fetched; `None` for all. What is here is served, wanted or not.
    pub wanted: Option<PieceSet>,
    /// Uploads that run at once. Few, so that each piece arrives soon and can be passed on.
    pub upload_slots: usize,
    /// What all random choices follow from.
    pub seed: u64,
}

impl Config {
    /// Whether `piece` is fetched where it is not here.
    fn wants(&self, piece: PieceIndex) -> bool {
        self.download && self.wanted.as_ref().is_none_or(|wanted| wanted.contains(piece))
    }
}

/// Where a piece is on its way; it is in exactly one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PieceState {
    /// Not here, and not asked for.
    Missing,
    /// Asked of one peer, or of two where one was late.
    Requested {
        /// Who was asked, of two the one that has been waited for longer.
        first: LinkId,
        /// Who was asked as well.
        second: Option<LinkId>,
        /// When `first` was asked.
        since: Instant,
    },
    /// All its bytes arrived and are being hashed.
    Received {
        /// The link that carried it.
        from: LinkId,
    },
    /// Its hash is right; it is served.
    Verified,
    /// It is on disk for good.
    Durable,
}

/// Counters for whoever watches. All in bytes of pieces, without any headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Verified bytes that came from peers which were complete from the start.
    pub from_seeders: u64,
    /// Verified bytes that came from other peers.
    pub from_peers: u64,
    /// Bytes that arrived and were of no use: duplicates, and corrupt pieces.
    pub wasted: u64,
    /// Bytes that were sent.
    pub sent: u64,
    /// Open links.
    pub links: usize,
    /// Open links to peers that have every piece.
    pub complete_links: usize,
}

/// The state machine. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct Swarm {
    config: Config,
    geometry: Geometry,
    rng: Xoshiro256StarStar,
    picker: Picker,
    /// Verified and durable pieces.
    have: PieceSet,
    /// Of these, the durable ones.
    durable: PieceSet,
    /// How many wanted pieces are not here.
    lacking: usize,
    /// The pieces in state `Requested`, with it: they are few, and looked at far more often than all others.
    requested: BTreeMap<PieceIndex, PieceState>,
    /// The pieces in state `Received`, with the link that carried them.
    received: PieceMap<LinkId>,
    /// How often the source of a long piece was changed because it was late.
    source_changes: BTreeMap<PieceIndex, u32>,
    links: Links,
    peers: BTreeMap<PeerId, LinkId>,
    /// Links to peers of the own site.
    near: usize,
    banned: BTreeSet<PeerId>,
    /// Corrupt pieces and lies of peers whose links ended: a new link does not wash them off.
    offences: BTreeMap<PeerId, (u32, u32)>,
    book: AddressBook,
    injector: Option<Injector>,
    /// When the first of the links came up that there are, or were since.
    first_link_at: Instant,
    /// Pieces from other sites of which one peer of the own one was told alone: who, and when.
    entrusted: BTreeMap<PieceIndex, (LinkId, Instant)>,
    /// Pieces that are not here and that a peer took back, whoever else may have them.
    taken_back: PieceSet,
    latencies: Latencies,
    /// Those of other sites: what waits for a trunk is not late by the measure of a switch.
    far_latencies: Latencies,
    turn: u64,
    /// Requests of all links that wait to be served.
    queued: usize,
    /// Uploads of all links that run.
    uploads: usize,
    upload_times: UploadTimes,
    /// What is remembered of telling others that this node has little to send.
    idleness: Idleness,
    silence: Silence,
    /// Since when nothing is asked of anybody though pieces are wanted.
    starved_since: Option<Instant>,
    /// How many bytes may be asked of all other sites together and not yet here.
    far_window: u64,
    /// This node fetches from other sites until then, whoever else may.
    fetches_far_until: Instant,
    next_tick: Option<Instant>,
    /// When an announcement is due, at the earliest; none waits where there is none.
    next_announcement: Option<Instant>,
    /// How fast this node lets payload move.
    limits: Limits,
    /// What is fetched is read and not kept.
    reads: bool,
    stats: Stats,
    commands: VecDeque<Command>,
}

/// Bytes per second over all links, where they are limited at this end.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    upload: Option<u64>,
    download: Option<u64>,
}

impl Swarm {
    // ---- the life of a swarm ----

    /// A swarm of a node that has the pieces in `have`, durably.
    pub fn new(config: Config, geometry: Geometry, have: PieceSet) -> Self {
        assert_eq!(have.capacity(), geometry.piece_count(), "the pieces that are here are of this manifest");
        let mut open = PieceSet::empty(geometry.piece_count());
        for piece in geometry.pieces().filter(|piece| !have.contains(*piece) && config.wants(*piece)) {
            open.insert(piece);
        }
        let mut rng = Xoshiro256StarStar::seed_from_u64(config.seed);
        let injector = have.is_full().then(|| Injector::new(have.clone(), &mut rng));
        Self {
            rng,
            config,
            lacking: open.count(),
            picker: Picker::new(open),
            durable: have.clone(),
            have,
            requested: BTreeMap::new(),
            received: PieceMap::default(),
            source_changes: BTreeMap::new(),
            links: Links::default(),
            peers: BTreeMap::new(),
            near: 0,
            banned: BTreeSet::new(),
            offences: BTreeMap::new(),
            book: AddressBook::default(),
            injector,
            first_link_at: Instant::START,
            entrusted: BTreeMap::new(),
            taken_back: PieceSet::empty(geometry.piece_count()),
            latencies: Latencies::default(),
            far_latencies: Latencies::default(),
            turn: 0,
            queued: 0,
            uploads: 0,
            upload_times: UploadTimes::default(),
            idleness: Idleness::default(),
            silence: Silence::default(),
            starved_since: None,
            far_window: 0,
            fetches_far_until: Instant::START,
            next_tick: None,
            next_announcement: None,
            limits: Limits::default(),
            reads: false,
            stats: Stats::default(),
            commands: VecDeque::new(),
            geometry,
        }
    }

    // ---- handle_*: inputs ----

    /// Takes one event in. Drain [`Swarm::poll_command`] afterwards.
    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::PeersFound(found) => self.handle_peers_found(found, now),
            Event::DialFailed { addr, hopeless } => {
                self.book.failed(addr, hopeless, now, &mut self.rng);
                self.dial(now);
            }
            Event::LinkUp { link, peer, remote, dialled, neighbour, hello } => {
                let mut opened = Link::new(peer, remote, dialled, &hello, self.geometry.piece_count(), now);
                opened.same_site = match (&self.config.site, &hello.site) {
                    (None, None) => neighbour,
                    (own, other) => own == other,
                };
                if !opened.same_site {
                    opened.told = PieceSet::empty(self.geometry.piece_count());
                }
                self.handle_link_up(link, opened, now);
            }
            Event::LinkDown { link } => self.drop_link(link, Duration::ZERO, now),
            Event::Message { link, message } => self.handle_message(link, message, now),
            Event::DataArriving { link } => self.handle_data_arriving(link, now),
            Event::DataLeaving { link } => self.handle_data_leaving(link, now),
            Event::RatesLimited { upload, download } => self.limits = Limits { upload, download },
            Event::PieceReceived { link, piece } => self.handle_piece_received(link, piece, now),
            Event::PieceDiscarded { link, piece } => self.handle_piece_discarded(link, piece, now),
            Event::PieceChecked { link, piece, valid } => self.handle_piece_checked(link, piece, valid, now),
            Event::Preferred(pieces) => {
                self.picker.prefer(pieces);
                self.request_from_all(now);
            }
            Event::Reading(ahead) => self.handle_reading(ahead, now),
            Event::PiecesDurable(pieces) => self.handle_pieces_durable(&pieces),
            Event::PiecesLost(pieces) => self.handle_pieces_lost(&pieces, now),
            Event::PiecesDropped(pieces) => self.handle_pieces_dropped(&pieces, now),
            Event::PieceSent { link, piece } => self.handle_piece_sent(link, piece, now),
            Event::PieceUnreadable { link, piece } => self.handle_piece_unreadable(link, piece, now),
            Event::Misbehaved { link, violation } => self.punish(link, violation, now),
        }
        self.say_idle(now);
        self.plan_tick(now);
    }

    /// To be called at, or some time after, the instant of [`Swarm::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.flush_announcements(now);
        self.end_silence(now);
        if self.next_tick.is_some_and(|at| at <= now) {
            self.next_tick = None;
            self.tick_links(now);
            self.look_how_far();
            self.forgive(now);
            self.look_elsewhere(now);
            self.dial(now);
            self.fetch_far_if_nobody_does(now);
            self.request_from_all(now);
            self.serve(now);
            self.offer_to_idle(now);
            self.take_back_overdue(now);
            self.maybe_stop_injecting(now);
        }
        self.say_idle(now);
        self.plan_tick(now);
    }

    // ---- poll_*: outputs ----

    /// The next thing to do; `None` when nothing is left.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When to call [`Swarm::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_tick
            .into_iter()
            .chain(self.next_announcement)
            .chain(self.idleness.due())
            .chain(self.silence.due())
            .min()
    }

    // ---- what is known ----

    /// The pieces that are verified or durable.
    pub const fn have(&self) -> &PieceSet {
        &self.have
    }

    /// Number and lengths of the pieces.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The state of one piece.
    pub fn piece_state(&self, piece: PieceIndex) -> PieceState {
        if self.have.contains(piece) {
            return if self.durable.contains(piece) { PieceState::Durable } else { PieceState::Verified };
        }
        match (self.requested.get(&piece), self.received.get(piece)) {
            (Some(state), _) => *state,
            (None, Some(from)) => PieceState::Received { from: *from },
            (None, None) => PieceState::Missing,
        }
    }

    /// Counters, as of this moment.
    pub fn stats(&self) -> Stats {
        let complete_links = self.links.values().filter(|link| link.complete()).count();
        Stats { links: self.links.len(), complete_links, ..self.stats }
    }

    /// How many pieces are wanted that some peer took back, and that no linked peer offers.
    pub fn taken_back(&self) -> usize {
        if self.taken_back.is_empty() {
            return 0;
        }
        let offered = |piece: &PieceIndex| self.picker.availability(*piece) > 0;
        let wanted = self.taken_back.iter().filter(|piece| self.config.wants(*piece));
        wanted.filter(|piece| !offered(piece)).count()
    }

    /// Whether some linked peer lacks a piece that is here and that it wants.
    pub fn is_needed(&self) -> bool {
        self.links.values().filter(|link| !link.complete()).any(|link| match &link.wanted {
            None => link.have.count_common(&self.have) < self.have.count(),
            Some(wanted) => wanted.iter_common_from(&self.have, 0).any(|piece| !link.have.contains(piece)),
        })
    }

    /// Whether every piece that is wanted is here.
    pub const fn is_satisfied(&self) -> bool {
        self.lacking == 0
    }

    // ---- messages ----

    fn handle_message(&mut self, id: LinkId, message: Message, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.heard_at = now;
        match message {
            Message::Bitfield(set) => self.handle_bitfield(id, set, now),
            Message::Wanted(set) => self.handle_wanted(id, set, now),
            Message::Have(list) => self.handle_have(id, list.pieces(), now),
            Message::Lost(list) => self.handle_lost(id, list.pieces(), now),
            Message::Request(list) => self.handle_request(id, list.pieces(), now),
            Message::Cancel(list) => self.handle_cancel(id, list.pieces(), now),
            Message::Reject(piece, reason) => self.handle_reject(id, piece, reason, now),
            Message::Corrupt(piece) => self.handle_corrupt_report(id, piece),
            Message::Peers(peers) => self.handle_peers_message(id, peers, now),
            Message::KeepAlive => {}
            Message::Idle => self.handle_idle(id, now),
            Message::Data { .. } | Message::Packed { .. } => {
                unreachable!("data is reported by events of its own")
            }
        }
    }

    fn send(&mut self, id: LinkId, message: Message, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.sent_at = now;
            self.commands.push_back(Command::Send { link: id, message });
        }
    }

    // ---- pieces ----

    /// The one place where a piece changes its state.
    fn set_piece(&mut self, piece: PieceIndex, state: PieceState) {
        match self.piece_state(piece) {
            PieceState::Missing => self.picker.close_piece(piece),
            PieceState::Requested { .. } => drop(self.requested.remove(&piece)),
            PieceState::Received { .. } => drop(self.received.remove(piece)),
            PieceState::Verified | PieceState::Durable => {}
        }
        match state {
            PieceState::Missing => {
                let was_here = self.have.remove(piece);
                self.durable.remove(piece);
                if self.config.wants(piece) {
                    self.picker.open_piece(piece);
                    self.lacking += usize::from(was_here);
                }
            }
            PieceState::Requested { .. } => {
                self.requested.insert(piece, state);
            }
            PieceState::Received { from } => drop(self.received.insert(piece, from)),
            PieceState::Verified | PieceState::Durable => {
                if state == PieceState::Durable {
                    self.durable.insert(piece);
                }
                self.taken_back.remove(piece);
                if self.have.insert(piece) && self.config.wants(piece) {
                    self.lacking -= 1;
                }
            }
        }
    }

    fn piece_bytes(&self, piece: PieceIndex) -> u64 {
        u64::from(self.geometry.piece_len(piece))
    }

    // ---- time ----

    fn plan_tick(&mut self, now: Instant) {
        if self.next_tick.is_some_and(|planned| planned <= now + TICK_BUSY) {
            return;
        }
        let offers = || self.injector.is_some() && self.links.values().any(|link| !link.offers.is_empty());
        let busy = !self.requested.is_empty() || self.queued > 0 || offers() || self.waits_for_its_site();
        let mut at = now + if busy { TICK_BUSY } else { TICK_IDLE };
        // A tick comes no sooner than that.
        if !busy
            && self.dials()
            && let Some(due) = self.book.next_due()
        {
            at = at.min(due.max(now + TICK_BUSY));
        }
        self.next_tick = Some(self.next_tick.map_or(at, |planned| planned.min(at)));
    }

    /// Keeps links alive, and closes those that are dead or do not answer.
    fn tick_links(&mut self, now: Instant) {
        let patience =
            UNRESPONSIVE_AFTER + Duration::from_secs(u64::from(self.geometry.piece_len_max()) / RATE_MIN);
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            let Some(link) = self.links.get(&id) else {
                continue;
            };
            let reads_nothing =
                link.sending.iter().any(|(_, since)| now.since(link.taken_at.max(*since)) >= patience);
            if now.since(link.heard_at) >= SILENCE_MAX {
                self.close(id, DisconnectReason::Silent, Duration::from_secs(1), now);
            } else if link.unanswered_for(now) >= patience || reads_nothing {
                self.punish(id, Violation::Unresponsive, now);
            } else if now.since(link.sent_at) >= KEEP_ALIVE_AFTER {
                // A node with thousands of datasets would have a link to each peer of each.
                if self.have.is_full() && link.have.is_full() && !self.reads {
                    self.close(id, DisconnectReason::Done, Duration::from_secs(60), now);
                    continue;
                }
                self.send(id, Message::KeepAlive, now);
            }
        }
    }
}
