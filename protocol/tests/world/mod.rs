//! A small deterministic world: several swarms, the network between them, and faults, all in
//! virtual time.
//!
//! One queue of [`Happening`]s, ordered by time and then by when they were planned, drives it; so
//! a run follows from its [`Terms`], its hosts and its seed. [`network`] carries frames at the
//! rates of the hosts; this file plays the driver of each swarm (dialling, hashing, storage) and
//! the part of whoever behaves badly; [`checks`] holds the rules that must never be broken, and
//! is asked around every event.
//!
//! Start reading at [`World::step`].

// Each test binary uses its own part of the world.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of the world")]

mod checks;
mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dft_protocol::geometry::{Geometry, PieceIndex};
use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::PeerAddr;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{Command, Config, DisconnectReason, Event, LinkId, Notification, Swarm, Violation};
use dft_protocol::time::{Duration, Instant};
use dft_protocol::wire::{Hello, Message, PieceList, RejectReason};
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256StarStar;

use self::checks::Ledger;
use self::network::{Chunk, Network};

/// Bytes per second of a link of `megabits` Mbit/s.
pub const fn mbit(megabits: u64) -> u64 {
    megabits * 1_000_000 / 8
}

/// What is the same for every host.
#[derive(Clone, Debug)]
pub struct Terms {
    /// From one host to another, one way.
    pub latency: Duration,
    /// How long hashing and writing a piece takes.
    pub hash_delay: Duration,
    /// From verified to durable.
    pub durable_delay: Duration,
    /// Bytes that one direction of a link takes before they are read at the other end.
    pub socket_buffer: u64,
    /// Of these, bytes that may wait to be sent (`TCP_NOTSENT_LOWAT`).
    pub unsent_max: u64,
    /// Bytes that are on the wire as one.
    pub chunk: u64,
    /// Uploads that run at once.
    pub upload_slots: usize,
    /// The rules are checked after every so many events.
    pub check_every: u64,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(100),
            hash_delay: Duration::from_millis(1),
            durable_delay: Duration::from_millis(200),
            socket_buffer: 256 << 10,
            unsent_max: 32 << 10,
            chunk: 16 << 10,
            upload_slots: 2,
            check_every: 1,
        }
    }
}

/// How a host behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduct {
    /// By the rules.
    Honest,
    /// Every n-th piece that it sends is corrupt.
    Corrupting(u64),
    /// Announces everything and rejects every request.
    Rejecting,
    /// Takes requests, sends keep-alives, and never answers.
    Unanswering,
    /// Says nothing at all once a link is up.
    Silent,
    /// Asks for everything, twice.
    Flooding,
    /// Requests pieces, and never reads what arrives.
    Stuck,
}

/// A host as it is set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes per second that it sends.
    pub up: u64,
    /// Bytes per second that it receives.
    pub down: u64,
    /// What it has at the start.
    pub have: PieceSet,
    /// Whether it fetches.
    pub download: bool,
    /// How it behaves.
    pub conduct: Conduct,
}

/// One host. It outlives its swarm, which a crash takes away.
pub struct Host {
    pub plan: Plan,
    pub peer: PeerId,
    pub addr: SocketAddr,
    /// None while it is down.
    pub swarm: Option<Swarm>,
    /// What a restart finds on disk.
    pub durable: PieceSet,
    /// How often it was started: what was planned for an earlier life is void.
    pub life: u64,
    pub started_at: Instant,
    pub finished_at: Option<Instant>,
    pub notifications: Vec<(Instant, Notification)>,
    pub disconnects: Vec<(PeerId, DisconnectReason)>,
    /// Bytes of pieces that reached the network.
    pub sent: u64,
    wake_at: Option<Instant>,
    links: BTreeMap<LinkId, PeerId>,
    pieces_sent: u64,
}

/// Something that happens at an instant.
enum Happening {
    Start(usize),
    Crash(usize),
    Wake(usize),
    /// An event for a swarm, if it still lives the same life.
    Tell(usize, u64, Event),
    /// A dial reaches the host at this address.
    Dialled {
        from: usize,
        life: u64,
        addr: SocketAddr,
    },
    LinkUp {
        host: usize,
        link: LinkId,
        dialled: bool,
    },
    LinkDown {
        host: usize,
        link: LinkId,
    },
    UplinkFree(usize),
    /// There may be room in the socket of this end.
    Pump(LinkId),
    Delivered {
        to: LinkId,
        chunk: Chunk,
    },
    Durable(usize, u64, Vec<PieceIndex>),
    Lose(usize, Vec<PieceIndex>),
    Cut(usize, usize),
    Introduce(usize, Vec<usize>),
}

/// The world. See the module's documentation.
pub struct World {
    pub terms: Terms,
    pub geometry: Geometry,
    pub hosts: Vec<Host>,
    pub now: Instant,
    pub rng: Xoshiro256StarStar,
    pub events: u64,
    queue: BTreeMap<(Instant, u64), Happening>,
    planned: u64,
    network: Network,
    ledger: Ledger,
}

impl World {
    pub fn new(terms: Terms, lengths: Vec<u32>, seed: u64) -> Self {
        Self {
            terms,
            geometry: Geometry::new(lengths).expect("a test asks for pieces that may exist"),
            hosts: Vec::new(),
            now: Instant::START,
            rng: Xoshiro256StarStar::seed_from_u64(seed),
            events: 0,
            queue: BTreeMap::new(),
            planned: 0,
            network: Network::default(),
            ledger: Ledger::default(),
        }
    }

    // ---- setting up ----

    /// A host that starts at once.
    pub fn host(&mut self, plan: Plan) -> usize {
        self.host_at(plan, Instant::START)
    }

    /// A host that starts at `at`.
    pub fn host_at(&mut self, plan: Plan, at: Instant) -> usize {
        let number = self.hosts.len();
        let octets = [10, 0, u8::try_from(number / 250).unwrap(), u8::try_from(number % 250 + 1).unwrap()];
        // Identities are in no order of their numbers.
        let scrambled = (u64::try_from(number).unwrap() + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.hosts.push(Host {
            durable: plan.have.clone(),
            plan,
            peer: PeerId::from_bytes(&scrambled.to_be_bytes()).unwrap(),
            addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::from(octets)), 4000),
            swarm: None,
            life: 0,
            started_at: at,
            finished_at: None,
            notifications: Vec::new(),
            disconnects: Vec::new(),
            sent: 0,
            wake_at: None,
            links: BTreeMap::new(),
            pieces_sent: 0,
        });
        self.network.add_host();
        self.plan(at, Happening::Start(number));
        number
    }

    pub fn seeder(&mut self, rate: u64) -> usize {
        let have = PieceSet::full(self.geometry.piece_count());
        self.host(Plan { up: rate, down: rate, have, download: false, conduct: Conduct::Honest })
    }

    pub fn receiver(&mut self, rate: u64) -> usize {
        self.receiver_at(rate, Instant::START)
    }

    pub fn receiver_at(&mut self, rate: u64, at: Instant) -> usize {
        let have = PieceSet::empty(self.geometry.piece_count());
        self.host_at(Plan { up: rate, down: rate, have, download: true, conduct: Conduct::Honest }, at)
    }

    /// A host that claims to have everything and behaves badly.
    pub fn villain(&mut self, conduct: Conduct, rate: u64) -> usize {
        let host = match conduct {
            Conduct::Flooding | Conduct::Stuck => self.receiver(rate),
            _ => self.seeder(rate),
        };
        self.hosts[host].plan.conduct = conduct;
        host
    }

    /// `host` learns where `others` are, a moment after it starts and at every restart.
    pub fn introduce(&mut self, host: usize, others: &[usize]) {
        let at = self.hosts[host].started_at.max(self.now);
        self.plan(at, Happening::Introduce(host, others.to_vec()));
    }

    pub fn introduce_at(&mut self, host: usize, others: &[usize], at: Instant) {
        self.plan(at, Happening::Introduce(host, others.to_vec()));
    }

    /// Every host learns where every other is.
    pub fn introduce_all(&mut self) {
        for host in 0..self.hosts.len() {
            let others: Vec<usize> = (0..self.hosts.len()).filter(|other| *other != host).collect();
            self.introduce(host, &others);
        }
    }

    pub fn crash_at(&mut self, host: usize, at: Instant) {
        self.plan(at, Happening::Crash(host));
    }

    pub fn start_at(&mut self, host: usize, at: Instant) {
        self.plan(at, Happening::Start(host));
    }

    pub fn lose_at(&mut self, host: usize, pieces: Vec<PieceIndex>, at: Instant) {
        self.plan(at, Happening::Lose(host, pieces));
    }

    /// All links between two hosts are lost, with what they carry.
    pub fn cut_at(&mut self, a: usize, b: usize, at: Instant) {
        self.plan(at, Happening::Cut(a, b));
    }

    // ---- running ----

    /// Runs until `done`; true where that came before `deadline`.
    pub fn run(&mut self, deadline: Duration, done: impl Fn(&World) -> bool) -> bool {
        let deadline = Instant::START + deadline;
        loop {
            if done(self) {
                self.check();
                return true;
            }
            if self.queue.first_key_value().is_none_or(|((at, _), _)| *at > deadline) {
                self.now = deadline;
                return false;
            }
            self.step();
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.run(end.since(Instant::START), |_| false);
    }

    /// Runs until all of `hosts` have everything.
    pub fn run_until_complete(&mut self, hosts: &[usize], deadline: Duration) {
        let complete = |world: &World| hosts.iter().all(|host| world.is_complete(*host));
        if !self.run(deadline, complete) {
            let state: Vec<String> = (0..self.hosts.len()).map(|host| self.describe(host)).collect();
            panic!("not everybody finished by {}:\n{}", self.now, state.join("\n"));
        }
    }

    pub fn is_complete(&self, host: usize) -> bool {
        self.swarm(host).is_some_and(|swarm| swarm.have().is_full())
    }

    pub fn swarm(&self, host: usize) -> Option<&Swarm> {
        self.hosts[host].swarm.as_ref()
    }

    /// The one next thing that happens.
    pub fn step(&mut self) {
        let Some(((at, _), happening)) = self.queue.pop_first() else {
            return;
        };
        self.now = at;
        self.events += 1;
        match happening {
            Happening::Start(host) => self.start(host),
            Happening::Crash(host) => self.crash(host),
            Happening::Wake(host) => {
                if self.hosts[host].wake_at == Some(at) {
                    self.hosts[host].wake_at = None;
                    if let Some(swarm) = &mut self.hosts[host].swarm {
                        swarm.handle_timeout(at);
                    }
                    self.drain(host);
                }
            }
            Happening::Tell(host, life, event) => {
                if self.hosts[host].life == life {
                    self.tell(host, event);
                }
            }
            Happening::Dialled { from, life, addr } => self.dialled(from, life, addr),
            Happening::LinkUp { host, link, dialled } => self.link_up(host, link, dialled),
            Happening::LinkDown { host, link } => self.link_down(host, link),
            Happening::UplinkFree(host) => self.uplink_free(host),
            Happening::Pump(link) => self.pump(link),
            Happening::Delivered { to, chunk } => self.delivered(to, &chunk),
            Happening::Durable(host, life, pieces) => {
                if self.hosts[host].life == life {
                    pieces.iter().for_each(|piece| {
                        self.hosts[host].durable.insert(*piece);
                    });
                    self.tell(host, Event::PiecesDurable(pieces));
                }
            }
            Happening::Lose(host, pieces) => {
                pieces.iter().for_each(|piece| {
                    self.hosts[host].durable.remove(*piece);
                });
                self.tell(host, Event::PiecesLost(pieces));
            }
            Happening::Cut(a, b) => {
                for link in self.network.links_between(a, b) {
                    self.link_down(self.network.host_of(link), link);
                    self.hang_up(link);
                }
            }
            Happening::Introduce(host, others) => {
                let addrs = others.iter().map(|other| PeerAddr { peer: None, addr: self.hosts[*other].addr });
                let event = Event::PeersFound(addrs.collect());
                self.tell(host, event);
            }
        }
        if self.events.is_multiple_of(self.terms.check_every) {
            self.check();
        }
    }

    fn plan(&mut self, at: Instant, happening: Happening) {
        self.planned += 1;
        self.queue.insert((at.max(self.now), self.planned), happening);
    }

    fn plan_in(&mut self, wait: Duration, happening: Happening) {
        self.plan(self.now + wait, happening);
    }

    fn tell(&mut self, host: usize, event: Event) {
        let now = self.now;
        if let Some(swarm) = &mut self.hosts[host].swarm {
            if let Event::PieceSent { piece, .. } = &event {
                self.ledger.sent(host, self.geometry.piece_len(*piece));
            }
            swarm.handle(event, now);
            self.drain(host);
        }
    }

    fn start(&mut self, host: usize) {
        let plan = &self.hosts[host].plan;
        let config = Config {
            local: self.hosts[host].peer,
            site: None,
            download: plan.download,
            upload_slots: self.terms.upload_slots,
            seed: u64::try_from(host).unwrap()
                + 1000 * self.hosts[host].life
                + rand::RngExt::random::<u64>(&mut self.rng),
        };
        let have = self.hosts[host].durable.clone();
        let complete = have.is_full();
        let place = &mut self.hosts[host];
        place.swarm = Some(Swarm::new(config, self.geometry.clone(), have));
        place.life += 1;
        place.started_at = self.now;
        place.finished_at = complete.then_some(self.now);
        self.ledger.started(host);
        self.drain(host);
    }

    fn crash(&mut self, host: usize) {
        self.hosts[host].swarm = None;
        self.hosts[host].wake_at = None;
        self.hosts[host].life += 1;
        for link in std::mem::take(&mut self.hosts[host].links).into_keys() {
            self.hang_up(link);
        }
    }

    // ---- the driver of a swarm ----

    fn drain(&mut self, host: usize) {
        self.ledger.touched.insert(host);
        while let Some(command) = self.hosts[host].swarm.as_mut().and_then(Swarm::poll_command) {
            self.obey(host, command);
        }
        let Some(at) = self.hosts[host].swarm.as_ref().and_then(Swarm::poll_timeout) else {
            return;
        };
        if self.hosts[host].wake_at.is_none_or(|planned| at < planned) {
            let at = at.max(self.now);
            self.hosts[host].wake_at = Some(at);
            self.plan(at, Happening::Wake(host));
        }
    }

    fn obey(&mut self, host: usize, command: Command) {
        let life = self.hosts[host].life;
        match command {
            Command::Connect(to) => {
                // The connection, and one hello each way.
                let wait = self.terms.latency * 3;
                self.plan_in(wait, Happening::Dialled { from: host, life, addr: to.addr });
            }
            Command::Disconnect { link, reason } => {
                if let Some(peer) = self.hosts[host].links.remove(&link) {
                    self.hosts[host].disconnects.push((peer, reason));
                    self.hang_up(link);
                }
            }
            Command::Send { link, message } => {
                if self.hosts[host].links.contains_key(&link) {
                    self.check_message(host, link, &message);
                    self.send(host, link, &message);
                }
            }
            Command::SendPiece { link, piece } => {
                if self.hosts[host].links.contains_key(&link) {
                    self.check_upload(host, link, piece);
                    self.send_piece(host, link, piece);
                }
            }
            Command::Recheck(piece) => {
                if let Conduct::Corrupting(_) = self.hosts[host].plan.conduct {
                    return;
                }
                assert!(self.hosts[host].swarm.as_ref().unwrap().have().contains(piece));
            }
            Command::Notify(notification) => {
                if notification == Notification::AllVerified {
                    self.hosts[host].finished_at = Some(self.now);
                }
                if let Notification::PieceVerified { piece, .. } = notification {
                    self.ledger.verified(host, self.geometry.piece_len(piece));
                    let wait = self.terms.durable_delay;
                    self.plan_in(wait, Happening::Durable(host, life, vec![piece]));
                }
                self.hosts[host].notifications.push((self.now, notification));
            }
        }
    }

    fn send(&mut self, host: usize, link: LinkId, message: &Message) {
        match self.hosts[host].plan.conduct {
            Conduct::Silent => return,
            Conduct::Flooding => {
                if let Message::Request(_) = message {
                    self.network.push_message(link, message, &self.geometry);
                }
            }
            _ => {}
        }
        self.network.push_message(link, message, &self.geometry);
        self.pump(link);
    }

    fn send_piece(&mut self, host: usize, link: LinkId, piece: PieceIndex) {
        self.hosts[host].pieces_sent += 1;
        let corrupt = match self.hosts[host].plan.conduct {
            Conduct::Rejecting => {
                self.send(host, link, &Message::Reject(piece, RejectReason::Missing));
                let event = Event::PieceSent { link, piece };
                self.plan(self.now, Happening::Tell(host, self.hosts[host].life, event));
                return;
            }
            Conduct::Unanswering | Conduct::Silent => return,
            Conduct::Corrupting(every) => self.hosts[host].pieces_sent.is_multiple_of(every),
            _ => false,
        };
        self.network.push_piece(link, piece, u64::from(self.geometry.piece_len(piece)), corrupt);
        self.pump(link);
    }

    /// A dial arrives: both ends may have a link.
    fn dialled(&mut self, from: usize, life: u64, addr: SocketAddr) {
        if self.hosts[from].life != life {
            return;
        }
        let to = self.hosts.iter().position(|host| host.addr == addr && host.swarm.is_some());
        let Some(to) = to else {
            self.tell(from, Event::DialFailed { addr, hopeless: false });
            return;
        };
        let (ours, theirs) = self.network.connect(from, to);
        self.ledger.connected(ours, theirs, self.geometry.piece_count());
        self.plan(self.now, Happening::LinkUp { host: to, link: theirs, dialled: false });
        self.plan_in(self.terms.latency, Happening::LinkUp { host: from, link: ours, dialled: true });
    }

    fn link_up(&mut self, host: usize, link: LinkId, dialled: bool) {
        let other = self.network.host_of(Network::other_end(link));
        if !self.network.is_open(link) || self.hosts[host].swarm.is_none() {
            // The other end closed it, or this one died in between.
            if dialled {
                let addr = self.hosts[other].addr;
                self.tell(host, Event::DialFailed { addr, hopeless: false });
            }
            self.hang_up(link);
            return;
        }
        let (peer, remote) = (self.hosts[other].peer, self.hosts[other].addr);
        let remote = if dialled { remote } else { SocketAddr::new(remote.ip(), 50_000) };
        let complete = self.hosts[other].swarm.as_ref().is_some_and(|swarm| swarm.have().is_full());
        let hello =
            Hello { manifest: ManifestId::from_bytes([7; 32]), complete, listen_port: 4000, site: None };
        self.hosts[host].links.insert(link, peer);
        self.tell(host, Event::LinkUp { link, peer, remote, dialled, hello });
        if self.hosts[host].plan.conduct == Conduct::Flooding && self.hosts[host].links.contains_key(&link) {
            for list in PieceList::split(&self.geometry.pieces().collect::<Vec<_>>()) {
                self.network.push_message(link, &Message::Request(list.clone()), &self.geometry);
                self.network.push_message(link, &Message::Request(list), &self.geometry);
            }
            self.pump(link);
        }
    }

    /// This end of a link is closed: nothing more is sent, and the other end hears of it.
    fn hang_up(&mut self, link: LinkId) {
        if self.network.close(link) {
            let other = Network::other_end(link);
            let host = self.network.host_of(other);
            self.plan_in(self.terms.latency, Happening::LinkDown { host, link: other });
        }
    }

    fn link_down(&mut self, host: usize, link: LinkId) {
        if self.hosts[host].links.remove(&link).is_some() {
            self.tell(host, Event::LinkDown { link });
        }
    }

    // ---- what arrives ----

    fn arrived(&mut self, host: usize, link: LinkId, chunk: &Chunk) {
        match chunk {
            Chunk::Message { message, .. } => {
                self.ledger.heard(link, message);
                self.tell(host, Event::Message { link, message: message.clone() });
            }
            Chunk::Data { piece, first, last, corrupt, .. } => {
                let (piece, corrupt) = (*piece, *corrupt);
                if *first {
                    self.tell(host, Event::DataArriving { link });
                }
                if !*last || !self.hosts[host].links.contains_key(&link) {
                    return;
                }
                match self.ledger.answered(link, piece) {
                    None => {
                        let violation = Violation::UnrequestedData;
                        self.tell(host, Event::Misbehaved { link, violation });
                    }
                    Some(cancelled) if cancelled => self.tell(host, Event::PieceDiscarded { link, piece }),
                    Some(_) => {
                        self.tell(host, Event::PieceReceived { link, piece });
                        let checked = Event::PieceChecked { link, piece, valid: !corrupt };
                        let life = self.hosts[host].life;
                        self.plan_in(self.terms.hash_delay, Happening::Tell(host, life, checked));
                    }
                }
            }
        }
    }

    // ---- what is measured ----

    /// Seconds from its start until `host` had everything.
    pub fn seconds(&self, host: usize) -> f64 {
        let host = &self.hosts[host];
        host.finished_at.expect("the host finished").since(host.started_at).as_secs_f64()
    }

    pub fn banned(&self, host: usize) -> BTreeSet<(usize, String)> {
        let number = |peer: &PeerId| self.hosts.iter().position(|host| host.peer == *peer).unwrap();
        let banned =
            self.hosts[host].notifications.iter().filter_map(|(_, notification)| match notification {
                Notification::Banned { peer, violation, .. } => {
                    Some((number(peer), format!("{violation:?}")))
                }
                _ => None,
            });
        banned.collect()
    }

    pub fn links(&self, host: usize) -> usize {
        self.hosts[host].links.len()
    }

    fn describe(&self, host: usize) -> String {
        let place = &self.hosts[host];
        let Some(swarm) = &place.swarm else {
            return format!("{host}: down");
        };
        let conduct = place.plan.conduct;
        format!("{host} {conduct:?}: {:?} {:?} banned {:?}", swarm.have(), swarm.stats(), self.banned(host))
    }
}
