//! A deterministic world: swarms, the network between them, and faults, all in virtual time.
//!
//! One queue of `Happening`s, ordered by time and then by when they were planned, drives it; so
//! a run follows from its [`Terms`], its hosts and its seed. `network` carries frames at the rates
//! of the hosts; `driver` plays the driver of each swarm (dialling, hashing, storage) and the part
//! of whoever behaves badly; `ledger` holds the rules that must never be broken, and is asked at
//! every event; `record` keeps what the pictures show.
//!
//! Start reading at [`World::step`].

mod driver;
mod gate;
mod ledger;
mod mutation;
mod network;
mod plan;
mod queue;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dft_protocol::geometry::{Geometry, PieceIndex};
use dft_protocol::id::PeerId;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{DisconnectReason, Event, LinkId, Swarm, Violation};
use dft_protocol::time::{Duration, Instant};
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256StarStar;

use self::ledger::Ledger;
pub use self::mutation::Mutation;
use self::network::{Chunk, Network};
pub use self::plan::{Conduct, Cpu, Plan, Terms, UNLIMITED, mbit};
use self::queue::Queue;
use self::record::Memory;
pub use self::record::{Record, Row};

/// Peers that a tracker names in one answer.
const TRACKER_SAMPLE: usize = 50;
/// How often a host asks its tracker: soon at first, then as often as `dft` announces.
const TRACKER_PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(30)];
/// A dial that nobody answers is given up after this time, as in `dft`.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// One host: a `dft` process. It outlives its swarm, which a crash takes away.
#[derive(Debug)]
pub struct Host {
    /// As it was set up.
    pub plan: Plan,
    /// Who it is.
    pub peer: PeerId,
    /// Where it takes links.
    pub addr: SocketAddr,
    /// The very machine that `dft` runs; none while the host is down.
    pub swarm: Option<Swarm>,
    /// What a restart finds on disk.
    pub durable: PieceSet,
    /// What was verified, and is not durable yet.
    unflushed: Vec<PieceIndex>,
    /// How often it was started: what was planned for an earlier life is void.
    pub life: u64,
    /// When it was started last.
    pub started_at: Instant,
    /// When it had everything.
    pub finished_at: Option<Instant>,
    /// Whom it banned, and why.
    pub banned: Vec<(PeerId, Violation)>,
    /// Whom it closed a link to, and why.
    pub disconnects: Vec<(PeerId, DisconnectReason)>,
    /// Bytes of pieces that reached the network.
    pub sent: u64,
    /// Bytes that were of no use to it.
    pub wasted: u64,
    port: usize,
    wake_at: Option<Instant>,
    links: BTreeMap<LinkId, PeerId>,
    pieces_sent: u64,
    disk_free_at: Instant,
    tracker_asked: usize,
    memory: Memory,
}

/// Something that happens at an instant.
#[derive(Debug)]
enum Happening {
    Start(usize),
    Crash(usize),
    Wake(usize),
    /// A dial reaches the host at this address.
    Dialled {
        from: usize,
        life: u64,
        addr: SocketAddr,
    },
    DialFailed {
        host: usize,
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
    /// A host closes a link for no reason.
    Flap(LinkId),
    PortFree(usize),
    /// A chunk is through a trunk.
    Crossed {
        to: LinkId,
        chunk: Chunk,
    },
    Delivered {
        to: LinkId,
        chunk: Chunk,
    },
    /// A processor has taken a chunk in.
    Processed {
        to: LinkId,
        chunk: Chunk,
    },
    /// All data of a piece is in the socket.
    Sent {
        link: LinkId,
        piece: PieceIndex,
    },
    /// A piece that is to be sent was read.
    Read {
        link: LinkId,
        piece: PieceIndex,
        corrupt: bool,
    },
    Checked {
        host: usize,
        life: u64,
        link: LinkId,
        piece: PieceIndex,
        valid: bool,
    },
    /// What a host verified becomes durable.
    Flush {
        host: usize,
        life: u64,
    },
    Lose(usize, Vec<PieceIndex>),
    Cut(usize, usize),
    Introduce(usize, Vec<usize>),
    AskTracker {
        host: usize,
        life: u64,
    },
    /// The tracker goes, or comes back with nothing in its memory.
    Tracker(bool),
    Separate {
        inside: Vec<bool>,
        one_way: bool,
    },
    Heal,
}

/// The world. See the module's documentation.
#[derive(Debug)]
pub struct World {
    /// What holds for all.
    pub terms: Terms,
    /// Number and lengths of the pieces of each dataset.
    pub datasets: Vec<Geometry>,
    /// Everybody.
    pub hosts: Vec<Host>,
    /// The time.
    pub now: Instant,
    /// How much happened so far.
    pub events: u64,
    /// What is kept for pictures and comparisons.
    pub record: Record,
    /// The host whose event is being handled: where a rule is broken, the guilty one.
    pub acting: Option<usize>,
    /// What is wrong with the swarms on purpose.
    pub mutation: Option<Mutation>,
    rng: Xoshiro256StarStar,
    by_addr: BTreeMap<SocketAddr, usize>,
    by_peer: BTreeMap<PeerId, usize>,
    queue: Queue<Happening>,
    network: Network,
    ledger: Ledger,
    cores_free_at: Vec<Instant>,
    /// Who announced to the tracker; none while it is down.
    tracker: Option<BTreeSet<usize>>,
    has_tracker: bool,
    /// How often a host has finished.
    finishes: u64,
}

impl World {
    /// A world without hosts, in which one dataset has pieces of these lengths.
    ///
    /// # Panics
    /// Where there are no or too long pieces.
    pub fn new(terms: Terms, lengths: Vec<u32>, seed: u64) -> Self {
        let cores = terms.cpu.map_or(0, |cpu| cpu.cores);
        Self {
            datasets: vec![Geometry::new(lengths).expect("a world has pieces that may exist")],
            hosts: Vec::new(),
            now: Instant::START,
            events: 0,
            record: Record::default(),
            acting: None,
            mutation: None,
            rng: Xoshiro256StarStar::seed_from_u64(seed),
            by_addr: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            queue: Queue::default(),
            network: Network::default(),
            ledger: Ledger::default(),
            cores_free_at: vec![Instant::START; cores],
            tracker: None,
            has_tracker: false,
            finishes: 0,
            terms,
        }
    }

    // ---- setting up ----

    /// One more dataset, with pieces of these lengths.
    ///
    /// # Panics
    /// Where the pieces are too long.
    pub fn add_dataset(&mut self, lengths: Vec<u32>) -> usize {
        self.datasets.push(Geometry::new(lengths).expect("a world has pieces that may exist"));
        self.datasets.len() - 1
    }

    /// A wire of `rate` bytes per second each way between two sites.
    pub fn add_trunk(&mut self, a: usize, b: usize, rate: u64, latency: Duration) {
        self.network.add_trunk(a, b, rate, latency, &self.terms);
    }

    /// A host that starts at once.
    pub fn host(&mut self, plan: Plan) -> usize {
        self.host_at(plan, Instant::START)
    }

    /// A host that starts at `at`.
    ///
    /// # Panics
    /// Where there are more hosts than addresses of 10.0.0.0/8.
    pub fn host_at(&mut self, plan: Plan, at: Instant) -> usize {
        let number = self.hosts.len();
        let port = match plan.shares {
            Some(other) => self.hosts[other].port,
            None => self.network.add_port(plan.up, plan.down, plan.latency, plan.site, &self.terms),
        };
        let octet = |value: usize| u8::try_from(value % 250 + 1).expect("at most 250");
        let ip = Ipv4Addr::new(10, octet(port / 62_500), octet(port / 250), octet(port));
        let tcp_port = 4000 + u16::try_from(plan.dataset).expect("datasets are few");
        let addr = SocketAddr::new(IpAddr::V4(ip), tcp_port);
        // Identities are in no order of their numbers.
        let scrambled =
            (u64::try_from(number).expect("hosts are few") + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let peer = PeerId::from_bytes(&scrambled.to_be_bytes()).expect("8 bytes are an identity");
        assert!(self.by_addr.insert(addr, number).is_none(), "an address has one host");
        self.by_peer.insert(peer, number);
        self.hosts.push(Host {
            durable: plan.have.clone(),
            unflushed: Vec::new(),
            plan,
            peer,
            addr,
            swarm: None,
            life: 0,
            started_at: at,
            finished_at: None,
            banned: Vec::new(),
            disconnects: Vec::new(),
            sent: 0,
            wasted: 0,
            port,
            wake_at: None,
            links: BTreeMap::new(),
            pieces_sent: 0,
            disk_free_at: Instant::START,
            tracker_asked: 0,
            memory: Memory::default(),
        });
        self.plan(at, Happening::Start(number));
        number
    }

    /// A host that has everything and only serves.
    pub fn seeder(&mut self, rate: u64) -> usize {
        self.host(Plan::new(rate, PieceSet::full(self.datasets[0].piece_count())))
    }

    /// A host that has nothing and fetches.
    pub fn receiver(&mut self, rate: u64) -> usize {
        self.receiver_at(rate, Instant::START)
    }

    /// A host that has nothing and fetches from `at` on.
    pub fn receiver_at(&mut self, rate: u64, at: Instant) -> usize {
        self.host_at(Plan::new(rate, PieceSet::empty(self.datasets[0].piece_count())), at)
    }

    /// A host that behaves badly, and claims to have everything where its conduct needs that.
    pub fn villain(&mut self, conduct: Conduct, rate: u64) -> usize {
        let host = match conduct {
            Conduct::Flooding | Conduct::Stuck => self.receiver(rate),
            _ => self.seeder(rate),
        };
        self.hosts[host].plan.conduct = conduct;
        host
    }

    /// `host` learns where `others` are when it starts.
    pub fn introduce(&mut self, host: usize, others: &[usize]) {
        let at = self.hosts[host].started_at.max(self.now);
        self.plan(at, Happening::Introduce(host, others.to_vec()));
    }

    /// `host` learns at `at` where `others` are.
    pub fn introduce_at(&mut self, host: usize, others: &[usize], at: Instant) {
        self.plan(at, Happening::Introduce(host, others.to_vec()));
    }

    /// Every host learns where every other of its dataset is.
    pub fn introduce_all(&mut self) {
        for host in 0..self.hosts.len() {
            let dataset = self.hosts[host].plan.dataset;
            let others: Vec<usize> = (0..self.hosts.len())
                .filter(|other| *other != host && self.hosts[*other].plan.dataset == dataset)
                .collect();
            self.introduce(host, &others);
        }
    }

    /// There is a tracker: each host asks it when it starts, and again from time to time.
    pub fn add_tracker(&mut self) {
        self.has_tracker = true;
        self.tracker = Some(BTreeSet::new());
    }

    /// The tracker goes at `at`, or comes back with nothing in its memory.
    pub fn tracker_at(&mut self, up: bool, at: Instant) {
        self.plan(at, Happening::Tracker(up));
    }

    /// `host` is killed.
    pub fn crash_at(&mut self, host: usize, at: Instant) {
        self.plan(at, Happening::Crash(host));
    }

    /// `host` is started, where it is down.
    pub fn start_at(&mut self, host: usize, at: Instant) {
        self.plan(at, Happening::Start(host));
    }

    /// Pieces vanish from the disk of `host`.
    pub fn lose_at(&mut self, host: usize, pieces: Vec<PieceIndex>, at: Instant) {
        self.plan(at, Happening::Lose(host, pieces));
    }

    /// All links between two hosts are lost, with what they carry.
    pub fn cut_at(&mut self, a: usize, b: usize, at: Instant) {
        self.plan(at, Happening::Cut(a, b));
    }

    /// `inside` cannot reach the others from `at` on, nor, unless `one_way`, the others them.
    pub fn separate_at(&mut self, inside: &[usize], one_way: bool, at: Instant) {
        let inside = (0..self.hosts.len()).map(|host| inside.contains(&host)).collect();
        self.plan(at, Happening::Separate { inside, one_way });
    }

    /// Everybody can reach everybody again.
    pub fn heal_at(&mut self, at: Instant) {
        self.plan(at, Happening::Heal);
    }

    // ---- running ----

    /// Runs until `done`; true where that came before `deadline`.
    pub fn run(&mut self, deadline: Duration, done: impl Fn(&World) -> bool) -> bool {
        let deadline = Instant::START + deadline;
        loop {
            if done(self) {
                if self.terms.check_every > 0 {
                    self.check();
                }
                return true;
            }
            if self.queue.next_at().is_none_or(|at| at > deadline) {
                self.now = deadline;
                return false;
            }
            self.step();
        }
    }

    /// Runs for some time.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.run(end.since(Instant::START), |_| false);
    }

    /// Runs until all of `hosts` have everything.
    ///
    /// # Panics
    /// Where they have not by `deadline`.
    pub fn run_until_complete(&mut self, hosts: &[usize], deadline: Duration) {
        // Looked at only when somebody has finished: there are many hosts, and more events.
        while hosts.iter().any(|host| !self.is_complete(*host)) {
            let finishes = self.finishes;
            if !self.run(deadline, |world| world.finishes != finishes) {
                self.give_up(hosts);
            }
        }
        self.check();
    }

    fn give_up(&mut self, hosts: &[usize]) {
        let lacking: Vec<usize> = hosts.iter().copied().filter(|host| !self.is_complete(*host)).collect();
        self.acting = lacking.first().copied();
        let state: Vec<String> = lacking.iter().take(20).map(|host| self.describe(*host)).collect();
        panic!("{} did not finish by {}:\n{}", lacking.len(), self.now, state.join("\n"));
    }

    /// Whether `host` is up and has everything.
    pub fn is_complete(&self, host: usize) -> bool {
        self.swarm(host).is_some_and(|swarm| swarm.have().is_full())
    }

    /// The swarm of `host`, while it is up.
    pub fn swarm(&self, host: usize) -> Option<&Swarm> {
        self.hosts[host].swarm.as_ref()
    }

    /// The one next thing that happens.
    pub fn step(&mut self) {
        let Some((at, happening)) = self.queue.pop() else {
            return;
        };
        self.now = at;
        self.events += 1;
        self.happen(happening);
        if self.terms.check_every > 0 && self.events.is_multiple_of(self.terms.check_every) {
            self.check();
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start(host) => self.start(host),
            Happening::Crash(host) => self.crash(host),
            Happening::Wake(host) => self.wake(host),
            Happening::Dialled { from, life, addr } => self.dialled(from, life, addr),
            Happening::DialFailed { host, life, addr } => {
                self.tell_alive(host, life, Event::DialFailed { addr, hopeless: false });
            }
            Happening::LinkUp { host, link, dialled } => self.link_up(host, link, dialled),
            Happening::LinkDown { host, link } => self.link_down(host, link),
            Happening::Flap(link) => self.cut(link),
            Happening::PortFree(port) => self.port_free(port),
            Happening::Crossed { to, chunk } => self.crossed(to, chunk),
            Happening::Delivered { to, chunk } => self.delivered(to, chunk),
            Happening::Processed { to, chunk } => self.processed(to, chunk),
            Happening::Sent { link, piece } => self.sent(link, piece),
            Happening::Read { link, piece, corrupt } => self.read(link, piece, corrupt),
            Happening::Checked { host, life, link, piece, valid } => {
                self.tell_alive(host, life, Event::PieceChecked { link, piece, valid });
            }
            Happening::Flush { host, life } => self.flush(host, life),
            Happening::Lose(host, pieces) => {
                pieces.iter().for_each(|piece| {
                    self.hosts[host].durable.remove(*piece);
                });
                self.hosts[host].unflushed.retain(|piece| !pieces.contains(piece));
                self.tell(host, Event::PiecesLost(pieces));
            }
            Happening::Cut(a, b) => {
                let links: Vec<LinkId> = self.hosts[a].links.keys().copied().collect();
                let between = |link: &LinkId| self.network.host_of(Network::other_end(*link)) == b;
                for link in links.into_iter().filter(between).collect::<Vec<_>>() {
                    self.cut(link);
                }
            }
            Happening::Introduce(host, others) => self.found(host, &others),
            Happening::AskTracker { host, life } => self.ask_tracker(host, life),
            Happening::Tracker(up) => self.tracker = up.then(BTreeSet::new),
            Happening::Separate { inside, one_way } => self.separate(inside, one_way),
            Happening::Heal => self.heal(),
        }
    }

    fn plan(&mut self, at: Instant, happening: Happening) {
        self.queue.plan(at.max(self.now), happening);
    }

    fn plan_in(&mut self, wait: Duration, happening: Happening) {
        self.plan(self.now + wait, happening);
    }

    // ---- what is measured ----

    fn geometry_of(&self, host: usize) -> &Geometry {
        &self.datasets[self.hosts[host].plan.dataset]
    }

    /// Seconds from its start until `host` had everything; `None` where it has not.
    pub fn seconds(&self, host: usize) -> Option<f64> {
        let host = &self.hosts[host];
        Some(host.finished_at?.since(host.started_at).as_secs_f64())
    }

    /// Whom `host` banned, and why.
    pub fn banned(&self, host: usize) -> BTreeSet<(usize, String)> {
        let banned = self.hosts[host].banned.iter();
        banned.map(|(peer, violation)| (self.by_peer[peer], format!("{violation:?}"))).collect()
    }

    /// How many links `host` has.
    pub fn links(&self, host: usize) -> usize {
        self.hosts[host].links.len()
    }

    /// The last events of `host`, where the terms say that they are kept.
    pub fn memory(&self, host: usize) -> impl Iterator<Item = &str> {
        self.hosts[host].memory.lines()
    }

    fn describe(&self, host: usize) -> String {
        let place = &self.hosts[host];
        let Some(swarm) = &place.swarm else {
            return format!("host {host}: down");
        };
        let conduct = place.plan.conduct;
        format!(
            "host {host} {conduct:?}: {:?} {:?} banned {:?}",
            swarm.have(),
            swarm.stats(),
            self.banned(host)
        )
    }
}
