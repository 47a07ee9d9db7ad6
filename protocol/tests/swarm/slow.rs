//! Peers whose own wires are slow: they do not keep quick ones waiting.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{Command, Event, LinkId, Swarm};
use dft_protocol::time::Instant;
use dft_protocol::wire::{Message, PieceList, RejectReason};

use super::{at, commands, link_to, one_link, seeder_of};

/// What a seeder did, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    Offered(u64, PieceIndex),
    Rejected(u64, PieceIndex),
    /// An upload began while so many ran to slow peers, this one included.
    Began(u64, usize),
}

/// A seeder and its peers, who ask for what they are offered, three pieces at a time.
struct Play {
    swarm: Swarm,
    /// What a peer was offered and has not asked for, and what it waits for.
    offered: BTreeMap<LinkId, VecDeque<PieceIndex>>,
    waits: BTreeMap<LinkId, usize>,
    /// How long an upload to a peer takes.
    takes_ms: BTreeMap<u64, u32>,
    /// Quick peers have each piece that somebody got.
    is_shared: bool,
    now_ms: u32,
    arrivals: BTreeSet<(u32, LinkId, PieceIndex)>,
    deeds: Vec<Deed>,
}

impl Play {
    fn new(pieces: usize, takes_ms: &[(u8, u32)]) -> Self {
        let numbers: Vec<u8> = takes_ms.iter().map(|(number, _)| *number).collect();
        let takes_ms = takes_ms.iter().map(|(number, takes)| (u64::from(*number), *takes)).collect();
        let swarm = seeder_of(&numbers, pieces);
        let (offered, waits) = (BTreeMap::new(), BTreeMap::new());
        let (arrivals, deeds) = (BTreeSet::new(), Vec::new());
        Self { swarm, offered, waits, takes_ms, is_shared: false, now_ms: 0, arrivals, deeds }
    }

    fn is_slow(&self, link: LinkId) -> bool {
        self.takes_ms[&link.0] > 10
    }

    fn ask(&mut self, link: LinkId, now: Instant) {
        let waits = self.waits.entry(link).or_default();
        while *waits < 3
            && let Some(piece) = self.offered.get_mut(&link).and_then(VecDeque::pop_front)
        {
            *waits += 1;
            let message = Message::Request(PieceList::one(piece));
            self.swarm.handle(Event::Message { link, message }, now);
        }
    }

    fn obey(&mut self) {
        let now = at(f64::from(self.now_ms) / 1000.0);
        while let Some(command) = self.swarm.poll_command() {
            match command {
                Command::Send { link, message: Message::Have(list) } => {
                    self.deeds.extend(list.pieces().iter().map(|piece| Deed::Offered(link.0, *piece)));
                    self.offered.entry(link).or_default().extend(list.pieces());
                    self.ask(link, now);
                }
                Command::Send { link, message: Message::Reject(piece, RejectReason::Busy) } => {
                    self.deeds.push(Deed::Rejected(link.0, piece));
                    *self.waits.entry(link).or_default() -= 1;
                    // What was offered along with it is gone as well: a real peer asks after a pause.
                    self.offered.remove(&link);
                }
                Command::SendPiece { link, piece } => {
                    self.arrivals.insert((self.now_ms + self.takes_ms[&link.0], link, piece));
                    let slow = self.arrivals.iter().filter(|(_, link, _)| self.is_slow(*link)).count();
                    self.deeds.push(Deed::Began(link.0, slow));
                }
                _ => {}
            }
        }
        self.swarm.check_invariants();
    }

    /// Goes on until a piece arrives; false where none is on its way.
    fn step(&mut self) -> bool {
        let (link, piece) = loop {
            self.obey();
            let Some(&(at_ms, link, piece)) = self.arrivals.first() else { return false };
            if at_ms <= self.now_ms {
                self.arrivals.pop_first();
                break (link, piece);
            }
            // Time passes for the seeder, too.
            self.now_ms = at_ms.min(self.now_ms + 25);
            self.swarm.handle_timeout(at(f64::from(self.now_ms) / 1000.0));
        };
        let now = at(f64::from(self.now_ms) / 1000.0);
        self.swarm.handle(Event::PieceSent { link, piece }, now);
        *self.waits.entry(link).or_default() -= 1;
        self.ask(link, now);
        let quick = self.takes_ms.keys().map(|number| LinkId(*number)).filter(|link| !self.is_slow(*link));
        let quick: Vec<LinkId> = quick.filter(|other| self.is_shared && *other != link).collect();
        for link in quick.into_iter().chain([link]) {
            let message = Message::Have(PieceList::one(piece));
            self.swarm.handle(Event::Message { link, message }, now);
        }
        self.obey();
        true
    }

    /// How many uploads to slow peers ran at once, at most, among the deeds from `first` on.
    fn slow_at_once(&self, first: usize) -> usize {
        let counts = self.deeds[first..].iter().filter_map(|deed| match deed {
            Deed::Began(link, slow) if self.is_slow(LinkId(*link)) => Some(*slow),
            _ => None,
        });
        counts.max().unwrap_or(0)
    }
}

#[test]
fn a_slow_peer_is_not_offered_the_last_pieces() {
    let mut play = Play::new(400, &[(2, 10), (3, 200)]);
    while play.step() {}
    let offered = play.deeds.iter().filter_map(|deed| match deed {
        Deed::Offered(link, _) => Some(*link),
        _ => None,
    });
    let offered: Vec<u64> = offered.collect();
    assert!(offered[..150].contains(&3), "as long as there are many, it is offered some: {offered:?}");
    assert!(!offered[350..].contains(&3), "{offered:?}");
}

#[test]
fn what_a_slow_peer_did_not_begin_to_get_goes_to_a_quick_one_in_the_end() {
    let mut play = Play::new(400, &[(2, 10), (3, 200), (4, 200), (5, 200)]);
    while play.step() {}
    let rejected = play.deeds.iter().enumerate().filter_map(|(number, deed)| match deed {
        Deed::Rejected(link, piece) => Some((number, *link, *piece)),
        _ => None,
    });
    let rejected: Vec<(usize, u64, PieceIndex)> = rejected.collect();
    assert!(!rejected.is_empty(), "requests of slow peers waited");
    for (number, link, piece) in rejected {
        assert_ne!(link, 2, "{piece} is not taken from the quick one");
        assert!(play.deeds[number..].contains(&Deed::Offered(2, piece)), "{piece} is offered again");
    }
}

#[test]
fn two_slow_peers_at_a_time_get_something_while_a_quick_one_takes_some() {
    let mut play = Play::new(2000, &[(2, 10), (3, 200), (4, 200), (5, 200), (6, 200)]);
    // Who is slow is known by then.
    while play.now_ms < 1000 {
        assert!(play.step());
    }
    let known = play.deeds.len();
    while play.now_ms < 3000 {
        assert!(play.step());
    }
    assert_eq!(play.slow_at_once(known), 2);
    // Without the quick one there is nobody to wait for.
    play.swarm.handle(Event::LinkDown { link: LinkId(2) }, at(f64::from(play.now_ms) / 1000.0));
    play.arrivals.retain(|(_, link, _)| link.0 != 2);
    let alone = play.deeds.len();
    while play.now_ms < 5000 {
        assert!(play.step());
    }
    assert!(play.slow_at_once(alone) >= 4);
}

#[test]
fn who_came_along_and_has_much_less_is_slow_before_uploads_tell() {
    for is_shared in [false, true] {
        let mut play = Play::new(2000, &[(2, 10), (3, 10), (4, 25), (5, 25), (6, 25)]);
        play.is_shared = is_shared;
        while play.now_ms < 1000 {
            assert!(play.step());
        }
        let known = play.deeds.len();
        while play.now_ms < 3000 {
            assert!(play.step());
        }
        // There is one slot, which slow peers do not hold.
        assert_eq!(play.slow_at_once(known), if is_shared { 2 } else { 1 });
    }
}

#[test]
fn a_slow_peer_that_is_stuck_does_not_keep_others_waiting() {
    let mut play = Play::new(2000, &[(2, 10), (3, 60_000), (4, 60_000), (5, 200)]);
    while play.now_ms < 4000 {
        assert!(play.step());
    }
    let first = play.deeds.len();
    while play.now_ms < 6000 {
        assert!(play.step());
    }
    let began = |number: u64| {
        let of = |deed: &&Deed| matches!(deed, Deed::Began(link, _) if *link == number);
        play.deeds[first..].iter().filter(of).count()
    };
    assert!(began(5) >= 5, "{} pieces in 2 s", began(5));
    assert!(began(2) >= 150, "{} pieces in 2 s", began(2));
}

/// The links that were asked for a piece, for each one time.
fn asked(swarm: &mut Swarm) -> Vec<(LinkId, PieceIndex)> {
    let requests = commands(swarm).into_iter().filter_map(|command| match command {
        Command::Send { link, message: Message::Request(list) } => {
            Some(list.pieces().iter().map(|piece| (link, *piece)).collect::<Vec<_>>())
        }
        _ => None,
    });
    requests.flatten().collect()
}

#[test]
fn one_of_the_last_pieces_is_asked_of_another_peer_sooner_than_those_before() {
    // Of 40 pieces, four take 2 s, which is more than 5%, the last one never comes, and all others take 50 ms.
    let (mut swarm, first) = one_link(PieceSet::empty(40));
    let mut waiting: Vec<(PieceIndex, f64)> = Vec::new();
    let (mut now, mut came) = (0.0, 0);
    loop {
        waiting.extend(asked(&mut swarm).into_iter().map(|(_, piece)| (piece, now)));
        if came == 39 {
            break;
        }
        let (piece, since) = waiting.remove(0);
        now = f64::max(now, since + if came < 4 { 2.0 } else { 0.05 });
        swarm.handle(Event::PieceReceived { link: first, piece }, at(now));
        swarm.handle(Event::PieceChecked { link: first, piece, valid: true }, at(now));
        came += 1;
    }
    let &[(last, since)] = waiting.as_slice() else { panic!("one is waited for: {waiting:?}") };
    let second = link_to(&mut swarm, 2, now);
    let again = (1..200).find_map(|tick| {
        let now = since + f64::from(tick) * 0.025;
        swarm.handle_timeout(at(now));
        asked(&mut swarm).contains(&(second, last)).then_some(now - since)
    });
    let again = again.expect("it is asked of the other one");
    assert!((0.09..0.3).contains(&again), "after {again} s");
}
