//! One swarm that is told anything at all, by peers without any sense: it never panics, keeps its
//! invariants, and stays within its limits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dft_protocol::geometry::{Geometry, PieceIndex};
use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::PeerAddr;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{Command, Config, Event, LINKS_MAX, LinkId, Swarm, Violation};
use dft_protocol::time::{Duration, Instant};
use dft_protocol::wire::{Hello, Message, PieceList, RejectReason};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;

struct Nonsense {
    rng: Xoshiro256StarStar,
    geometry: Geometry,
    links: u64,
}

impl Nonsense {
    fn roll(&mut self, below: u64) -> u64 {
        self.rng.random_range(0..below)
    }

    fn piece(&mut self) -> PieceIndex {
        let count = u64::try_from(self.geometry.piece_count()).unwrap();
        let index = self.roll(count);
        self.geometry.piece(index).unwrap()
    }

    fn list(&mut self) -> PieceList {
        let len = 1 + self.roll(5);
        PieceList::new((0..len).map(|_| self.piece()).collect()).unwrap()
    }

    fn set(&mut self) -> PieceSet {
        let mut set = PieceSet::empty(self.geometry.piece_count());
        (0..self.roll(30)).for_each(|_| {
            set.insert(self.piece());
        });
        if self.roll(8) == 0 { PieceSet::full(self.geometry.piece_count()) } else { set }
    }

    fn peer(&mut self) -> PeerId {
        PeerId::from_bytes(&self.roll(12).to_be_bytes()).unwrap()
    }

    fn addr(&mut self) -> SocketAddr {
        let last = u8::try_from(self.roll(20)).unwrap();
        let port = u16::try_from(self.roll(3)).unwrap();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port)
    }

    /// A link: mostly one that was up once.
    fn link(&mut self) -> LinkId {
        let links = self.links;
        LinkId(self.roll(links + 2))
    }

    fn message(&mut self) -> Message {
        match self.roll(13) {
            12 => Message::Wanted(self.set()),
            0 => Message::Bitfield(self.set()),
            1 | 2 => Message::Have(self.list()),
            3 => Message::Lost(self.list()),
            4..=6 => Message::Request(self.list()),
            7 => Message::Cancel(self.list()),
            8 | 9 => {
                let reasons = [RejectReason::Missing, RejectReason::Cancelled, RejectReason::Busy];
                let reason = reasons[usize::try_from(self.roll(3)).unwrap()];
                Message::Reject(self.piece(), reason)
            }
            10 => Message::Corrupt(self.piece()),
            _ => {
                let peer = (self.roll(2) == 0).then(|| self.peer());
                Message::Peers(vec![PeerAddr { peer, addr: self.addr() }])
            }
        }
    }

    fn event(&mut self) -> Event {
        let link = self.link();
        match self.roll(32) {
            0..=3 => {
                self.links += 1;
                let link = LinkId(self.links - 1);
                let (peer, remote, dialled) = (self.peer(), self.addr(), self.roll(2) == 0);
                let manifest = ManifestId::from_bytes([0; 32]);
                let (complete, listen_port) = (self.roll(3) == 0, u16::try_from(self.roll(2)).unwrap());
                let hello = Hello { version: 2, manifest, complete, listen_port, site: None };
                Event::LinkUp { link, peer, remote, dialled, neighbour: self.rng.random(), hello }
            }
            4 => Event::LinkDown { link },
            5 => Event::DialFailed { addr: self.addr(), hopeless: self.roll(2) == 0 },
            6 => Event::PeersFound(vec![PeerAddr { peer: None, addr: self.addr() }]),
            7 => Event::DataArriving { link },
            8 if self.roll(2) == 0 => Event::DataLeaving { link },
            9 if self.roll(4) == 0 => {
                let mut rate = || Some(self.roll(3) * 1000).filter(|rate| *rate > 0);
                Event::RatesLimited { upload: rate(), download: rate() }
            }
            8 => Event::PieceDiscarded { link, piece: self.piece() },
            9 => Event::PiecesDurable(vec![self.piece()]),
            10 if self.roll(8) == 0 => Event::PiecesDropped(vec![self.piece()]),
            10 => Event::PiecesLost(vec![self.piece(), self.piece()]),
            11 => Event::PieceUnreadable { link, piece: self.piece() },
            12 if self.roll(8) == 0 => Event::Misbehaved { link, violation: Violation::UnrequestedData },
            13 if self.roll(4) == 0 => Event::Preferred(vec![self.piece(), self.piece()]),
            13 if self.roll(8) == 0 => Event::Reading(vec![self.piece(), self.piece()]),
            12 | 13 => Event::PieceSent { link, piece: self.piece() },
            14..=16 => Event::PieceReceived { link, piece: self.piece() },
            17..=19 => Event::PieceChecked { link, piece: self.piece(), valid: self.roll(2) == 0 },
            _ => Event::Message { link, message: self.message() },
        }
    }
}

/// What a driver owes: answers to commands, some right, some too late, some never.
fn answers(command: Command, nonsense: &mut Nonsense) -> Vec<Event> {
    if nonsense.roll(4) == 0 {
        return Vec::new();
    }
    match command {
        Command::Send { link, message: Message::Request(list) } => {
            let mut events = Vec::new();
            for &piece in list.pieces() {
                match nonsense.roll(4) {
                    0 => events.push(Event::PieceDiscarded { link, piece }),
                    1 => {
                        let reason = RejectReason::Busy;
                        events.push(Event::Message { link, message: Message::Reject(piece, reason) });
                    }
                    _ => {
                        events.push(Event::PieceReceived { link, piece });
                        events.push(Event::PieceChecked { link, piece, valid: nonsense.roll(3) > 0 });
                    }
                }
            }
            events
        }
        Command::SendPiece { link, piece } => vec![Event::PieceSent { link, piece }],
        Command::Connect(to) => vec![Event::DialFailed { addr: to.addr, hopeless: false }],
        _ => Vec::new(),
    }
}

fn babble(seed: u64) {
    let mut rng = Xoshiro256StarStar::seed_from_u64(seed);
    let piece_count = [1, 7, 64, 65][rng.random_range(0..4)];
    let len = if rng.random_range(0..2) == 0 { 1000 } else { 2 << 20 };
    let geometry = Geometry::new(vec![len; piece_count]).unwrap();
    let complete = rng.random_range(0..3) == 0;
    let have = if complete { PieceSet::full(piece_count) } else { PieceSet::empty(piece_count) };
    let local = PeerId::from_bytes(&3u64.to_be_bytes()).unwrap();
    let download = !complete || rng.random_range(0..2) == 0;
    let mut nonsense = Nonsense { rng, geometry: geometry.clone(), links: 0 };
    let wanted = (nonsense.roll(3) == 0).then(|| nonsense.set());
    let config = Config { local, site: None, download, wanted, upload_slots: 2, seed };
    let mut swarm = Swarm::new(config, geometry, have);
    let mut now = Instant::START;
    let mut owed = Vec::new();
    let mut last: BTreeMap<LinkId, usize> = BTreeMap::new();
    for _ in 0..300 {
        now =
            now + Duration::from_millis([0, 0, 1, 30, 300, 5000][usize::try_from(nonsense.roll(6)).unwrap()]);
        if nonsense.roll(4) == 0 {
            swarm.handle_timeout(now);
        } else {
            let event = match owed.is_empty() || nonsense.roll(2) == 0 {
                true => nonsense.event(),
                false => owed.swap_remove(usize::try_from(nonsense.roll(owed.len() as u64)).unwrap()),
            };
            swarm.handle(event, now);
        }
        swarm.check_invariants();
        let mut commands = 0;
        while let Some(command) = swarm.poll_command() {
            commands += 1;
            if let Command::Disconnect { link, .. } = command {
                *last.entry(link).or_default() += 1;
            }
            owed.extend(answers(command, &mut nonsense));
        }
        assert!(commands < 2000, "one event makes a bounded number of commands");
        assert!(swarm.stats().links <= LINKS_MAX);
        assert!(swarm.poll_timeout().is_none_or(|at| at.since(now) <= Duration::from_secs(1)));
    }
    let twice: BTreeSet<_> = last.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "a link is closed once: {twice:?}");
}

#[test]
fn a_swarm_survives_any_nonsense() {
    for seed in 0..400 {
        if let Err(panic) = std::panic::catch_unwind(|| babble(seed)) {
            println!(
                "replay: NONSENSE_SEED={seed} cargo test -p dft-protocol --test nonsense replay -- --nocapture"
            );
            std::panic::resume_unwind(panic);
        }
    }
}

/// Runs the conversation of `NONSENSE_SEED`, where that is set: the one command to replay a failure.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test has no other argument")]
fn replay() {
    if let Ok(seed) = std::env::var("NONSENSE_SEED") {
        babble(seed.parse().expect("NONSENSE_SEED is a number"));
    }
}
