//! A node with many links: whom it asks, and when it says that it has little to send.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use dft_protocol::geometry::{Geometry, PieceIndex};
use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{Command, Config, Event, LinkId, Swarm};
use dft_protocol::time::{Duration, Instant};
use dft_protocol::wire::{Hello, Message, PROTOCOL_VERSION, PieceList, RejectReason, Site};

const PIECES: usize = 100;
const LINKS: u64 = 20;

fn at(ms: u64) -> Instant {
    Instant::START + Duration::from_millis(ms)
}

fn piece(index: u64) -> PieceIndex {
    Geometry::new(vec![1000; PIECES]).unwrap().piece(index).unwrap()
}

/// A swarm that has `have`, with 20 links to peers that have nothing.
fn swarm(have: &[u64]) -> Swarm {
    swarm_of(have, LINKS)
}

/// A swarm that has `have`, with links to peers that have nothing.
fn swarm_of(have: &[u64], links: u64) -> Swarm {
    let geometry = Geometry::new(vec![1000; PIECES]).unwrap();
    let local = PeerId::from_bytes(&[200]).unwrap();
    let config = Config { local, site: None, download: true, wanted: None, upload_slots: 2, seed: 1 };
    let mut set = PieceSet::empty(PIECES);
    have.iter().for_each(|index| assert!(set.insert(piece(*index))));
    let mut swarm = Swarm::new(config, geometry, set);
    for link in 0..links {
        let number = u8::try_from(link).unwrap();
        let remote = SocketAddr::from(([10, 0, 0, number + 1], 4000));
        let peer = PeerId::from_bytes(&[number]).unwrap();
        let hello = Hello {
            version: PROTOCOL_VERSION,
            manifest: ManifestId::from_bytes([0; 32]),
            complete: false,
            listen_port: 4000,
            site: None,
        };
        let link = LinkId(link);
        swarm.handle(Event::LinkUp { link, peer, remote, dialled: true, neighbour: true, hello }, at(0));
    }
    swarm
}

/// What the swarm sends, now that it is asked for all its commands.
fn sent(swarm: &mut Swarm) -> Vec<(LinkId, Message)> {
    swarm.check_invariants();
    let commands = std::iter::from_fn(|| swarm.poll_command());
    commands
        .filter_map(|command| match command {
            Command::Send { link, message } => Some((link, message)),
            _ => None,
        })
        .collect()
}

fn requests(sent: &[(LinkId, Message)]) -> usize {
    sent.iter().filter(|(_, message)| matches!(message, Message::Request(_))).count()
}

/// The uploads that the swarm starts.
fn started(swarm: &mut Swarm) -> Vec<(u64, PieceIndex)> {
    let commands = std::iter::from_fn(|| swarm.poll_command());
    commands
        .filter_map(|command| match command {
            Command::SendPiece { link, piece } => Some((link.0, piece)),
            _ => None,
        })
        .collect()
}

fn hears(swarm: &mut Swarm, link: u64, message: Message, ms: u64) -> Vec<(LinkId, Message)> {
    swarm.handle(Event::Message { link: LinkId(link), message }, at(ms));
    sent(swarm)
}

/// A swarm that has the last `have` pieces, with another one at each of its links, and more at the last link.
fn swarm_with_plenty(have: u64) -> Swarm {
    let count = u64::try_from(PIECES).unwrap();
    let mut swarm = swarm(&(count - have..count).collect::<Vec<_>>());
    for index in 0..2 * LINKS {
        hears(&mut swarm, index.min(LINKS - 1), Message::Have(PieceList::one(piece(index))), 1);
    }
    swarm
}

#[test]
fn who_says_that_it_is_idle_is_asked_and_others_are_not() {
    let mut swarm = swarm(&[]);
    sent(&mut swarm);
    for link in 0..LINKS {
        let have = Message::Have(PieceList::one(piece(link)));
        assert_eq!(requests(&hears(&mut swarm, link, have, 1)), 0);
    }
    let asked = hears(&mut swarm, 3, Message::Idle, 2);
    assert_eq!(asked, [(LinkId(3), Message::Request(PieceList::one(piece(3))))]);
}

#[test]
fn so_many_requests_wait_and_the_next_idle_peer_is_remembered() {
    for (have, most) in [(0, 10), (50, 10), (51, 16)] {
        let mut swarm = swarm_with_plenty(have);
        let asked: usize = (0..LINKS).map(|link| requests(&hears(&mut swarm, link, Message::Idle, 2))).sum();
        assert_eq!(asked, most, "with {have} pieces");
    }
    let mut swarm = swarm_with_plenty(0);
    let asked: usize = (0..11).map(|link| requests(&hears(&mut swarm, link, Message::Idle, 2))).sum();
    assert_eq!(asked, 10);
    swarm.handle(Event::PieceReceived { link: LinkId(0), piece: piece(0) }, at(3));
    assert_eq!(sent(&mut swarm), [(LinkId(10), Message::Request(PieceList::one(piece(10))))]);
}

#[test]
fn of_what_could_be_asked_for_half_is_left_for_those_who_are_idle_next() {
    for (offered, expected) in [(2, 2), (4, 3), (8, 4), (14, 7), (LINKS, 10)] {
        let mut swarm = swarm(&[]);
        for link in 0..offered {
            hears(&mut swarm, link, Message::Have(PieceList::one(piece(link))), 1);
        }
        let asked: usize =
            (0..offered).map(|link| requests(&hears(&mut swarm, link, Message::Idle, 2))).sum();
        assert_eq!(asked, expected, "of {offered}");
    }
}

#[test]
fn who_is_rejected_as_one_too_many_asks_the_next_idle_peer_and_bears_no_grudge() {
    let mut swarm = swarm_with_plenty(0);
    for link in 0..11 {
        hears(&mut swarm, link, Message::Idle, 2);
    }
    let rejected = hears(&mut swarm, 0, Message::Reject(piece(0), RejectReason::Busy), 3);
    assert_eq!(rejected, [(LinkId(10), Message::Request(PieceList::one(piece(10))))]);
    swarm.handle(Event::PieceReceived { link: LinkId(1), piece: piece(1) }, at(4));
    assert_eq!(requests(&sent(&mut swarm)), 0, "nobody is idle");
    let asked = hears(&mut swarm, 0, Message::Idle, 5);
    assert_eq!(asked, [(LinkId(0), Message::Request(PieceList::one(piece(0))))]);
}

#[test]
fn what_is_asked_beyond_a_short_queue_is_rejected_at_once() {
    let mut swarm = swarm(&[1, 2, 3, 4, 5]);
    sent(&mut swarm);
    for link in 0..5 {
        let sent = hears(&mut swarm, link, Message::Request(PieceList::one(piece(1))), 1);
        assert_eq!(sent, []);
    }
    let sent = hears(&mut swarm, 5, Message::Request(PieceList::one(piece(2))), 1);
    assert_eq!(sent, [(LinkId(5), Message::Reject(piece(2), RejectReason::Busy))]);
    // A small swarm has nobody else to ask.
    let mut few = swarm_of(&[1, 2, 3, 4, 5], 5);
    few.handle_timeout(at(100));
    while few.poll_command().is_some() {}
    for link in 0..5 {
        let sent = hears(&mut few, link, Message::Request(PieceList::one(piece(1))), 101);
        assert_eq!(sent, []);
    }
}

#[test]
fn of_what_is_too_much_the_most_common_piece_is_rejected_whoever_asked_for_it() {
    let mut swarm = swarm(&[1, 2, 3]);
    for (index, holders) in [(1, 2), (2, 3), (3, 1)] {
        for link in 0..holders {
            hears(&mut swarm, link, Message::Have(PieceList::one(piece(index))), 0);
        }
    }
    // Two uploads run, three requests wait.
    for (link, index) in [(10, 1), (11, 1), (12, 1), (13, 2), (14, 1)] {
        assert_eq!(hears(&mut swarm, link, Message::Request(PieceList::one(piece(index))), 1), []);
    }
    let busy = |link, index| vec![(LinkId(link), Message::Reject(piece(index), RejectReason::Busy))];
    assert_eq!(hears(&mut swarm, 15, Message::Request(PieceList::one(piece(3))), 2), busy(13, 2));
    assert_eq!(hears(&mut swarm, 16, Message::Request(PieceList::one(piece(2))), 2), busy(16, 2));
    assert_eq!(hears(&mut swarm, 17, Message::Request(PieceList::one(piece(1))), 2), busy(17, 1));
    assert_eq!(hears(&mut swarm, 18, Message::Request(PieceList::one(piece(3))), 2).len(), 1);
}

#[test]
fn the_rarest_piece_is_sent_first_whoever_asked_before() {
    let mut swarm = swarm(&[1, 2]);
    for link in 5..8 {
        hears(&mut swarm, link, Message::Have(PieceList::one(piece(1))), 0);
    }
    let mut ask = |link: u64, index: u64| {
        let message = Message::Request(PieceList::one(piece(index)));
        swarm.handle(Event::Message { link: LinkId(link), message }, at(1));
    };
    // Two uploads run, two requests wait.
    [(10, 1), (11, 1), (12, 1), (13, 2)].into_iter().for_each(|(link, index)| ask(link, index));
    assert_eq!(started(&mut swarm), [(10, piece(1)), (11, piece(1))]);
    swarm.handle(Event::PieceSent { link: LinkId(10), piece: piece(1) }, at(2));
    assert_eq!(started(&mut swarm), [(13, piece(2))]);
}

#[test]
fn of_those_who_wait_for_equally_rare_pieces_who_has_least_is_first() {
    let mut swarm = swarm(&[1]);
    for (link, has) in [(10, 5), (11, 5), (12, 5), (13, 2)] {
        for index in 0..has {
            hears(&mut swarm, link, Message::Have(PieceList::one(piece(50 + index))), 0);
        }
    }
    for link in 10..14 {
        let message = Message::Request(PieceList::one(piece(1)));
        swarm.handle(Event::Message { link: LinkId(link), message }, at(1));
    }
    assert_eq!(started(&mut swarm), [(10, piece(1)), (11, piece(1))]);
    swarm.handle(Event::PieceSent { link: LinkId(10), piece: piece(1) }, at(2));
    assert_eq!(started(&mut swarm), [(13, piece(1))]);
}

#[test]
fn where_nobody_says_it_something_is_asked_for_all_the_same() {
    let mut swarm = swarm(&[]);
    for link in 0..LINKS {
        hears(&mut swarm, link, Message::Have(PieceList::one(piece(link))), 1);
    }
    let tick = swarm.poll_timeout().unwrap();
    swarm.handle_timeout(tick.max(at(1001)));
    assert!(requests(&sent(&mut swarm)) > 0);
}

#[test]
fn a_node_with_nothing_to_send_says_so_ever_more_slowly() {
    let mut swarm = swarm(&[1, 2, 3]);
    let (mut said, mut told, mut first) = (0, BTreeSet::new(), 0);
    while let Some(due) = swarm.poll_timeout().filter(|due| *due <= at(2000)) {
        swarm.handle_timeout(due);
        let idle = sent(&mut swarm).into_iter().filter(|(_, message)| *message == Message::Idle);
        for (link, _) in idle {
            said += 1;
            first += usize::from(due <= at(20));
            told.insert(link);
        }
    }
    assert!(first >= 10, "{first} in the first 20 ms");
    assert!(said <= 80, "{said} in 2 s");
    assert!(told.len() >= 15, "{} of them heard it", told.len());
}

#[test]
fn a_node_that_is_asked_does_not_say_it() {
    let mut swarm = swarm(&[1, 2, 3, 4, 5]);
    sent(&mut swarm);
    for link in 0..5 {
        hears(&mut swarm, link, Message::Request(PieceList::one(piece(1))), 1);
    }
    swarm.handle_timeout(at(100));
    let idle = sent(&mut swarm).into_iter().filter(|(_, message)| *message == Message::Idle);
    assert_eq!(idle.count(), 0);
}

#[test]
fn who_got_a_rare_piece_says_at_once_that_it_can_be_asked_for() {
    for (holders, expected) in [(1, 2), (7, 2), (8, 0)] {
        let mut swarm = swarm(&[1]);
        for link in 0..holders {
            hears(&mut swarm, link, Message::Have(PieceList::one(piece(50))), 0);
        }
        // It was said a moment ago.
        swarm.handle_timeout(at(1));
        hears(&mut swarm, 0, Message::Idle, 1);
        let link = LinkId(0);
        swarm.handle(Event::PieceReceived { link, piece: piece(50) }, at(1));
        sent(&mut swarm);
        swarm.handle(Event::PieceChecked { link, piece: piece(50), valid: true }, at(1));
        let sent = sent(&mut swarm);
        let idle: Vec<LinkId> =
            sent.iter().filter(|(_, message)| *message == Message::Idle).map(|(link, _)| *link).collect();
        assert_eq!(idle.len(), expected, "with {holders} holders: {sent:?}");
        let have = Message::Have(PieceList::one(piece(50)));
        let hears_of_it = |link: &LinkId| link.0 >= holders && sent.contains(&(*link, have.clone()));
        assert!(idle.iter().all(hears_of_it), "they lack it, and know of it: {sent:?}");
    }
}

#[test]
fn a_node_with_few_links_says_it_where_its_peers_do() {
    let mut swarm = swarm_of(&[1, 2, 3], 2);
    swarm.handle_timeout(at(100));
    let idle = |sent: Vec<(LinkId, Message)>| {
        sent.into_iter().filter(|(_, message)| *message == Message::Idle).count()
    };
    assert_eq!(idle(sent(&mut swarm)), 0);
    assert_eq!(idle(hears(&mut swarm, 0, Message::Idle, 101)), 2);
}

/// One more link, to a peer of another site.
fn link_to(swarm: &mut Swarm, link: u64, site: &str, complete: bool) {
    let number = u8::try_from(link).unwrap();
    let hello = Hello {
        version: PROTOCOL_VERSION,
        manifest: ManifestId::from_bytes([0; 32]),
        complete,
        listen_port: 4000,
        site: Site::new(site.to_owned()),
    };
    let (link, peer) = (LinkId(link), PeerId::from_bytes(&[number]).unwrap());
    let remote = SocketAddr::from(([10, 0, 1, number], 4000));
    swarm.handle(Event::LinkUp { link, peer, remote, dialled: true, neighbour: true, hello }, at(0));
}

#[test]
fn what_a_seeder_brings_in_one_peer_of_each_other_site_hears_of_at_once() {
    let mut swarm = swarm(&[]);
    for (link, site) in [(30, "b"), (31, "b"), (32, "c"), (33, "c")] {
        link_to(&mut swarm, link, site, false);
    }
    // Another site's seeder offers a piece.
    link_to(&mut swarm, 40, "d", true);
    sent(&mut swarm);
    let link = LinkId(40);
    let asked = hears(&mut swarm, 40, Message::Have(PieceList::one(piece(7))), 1);
    assert_eq!(asked, [(link, Message::Request(PieceList::one(piece(7))))]);
    swarm.handle(Event::PieceReceived { link, piece: piece(7) }, at(2));
    swarm.handle(Event::PieceChecked { link, piece: piece(7), valid: true }, at(2));
    let told = |sent: Vec<(LinkId, Message)>| -> Vec<u64> {
        let have = Message::Have(PieceList::one(piece(7)));
        let far = sent.into_iter().filter(|(link, message)| link.0 >= 30 && *message == have);
        far.map(|(link, _)| link.0).filter(|link| *link != 40).collect()
    };
    assert_eq!(told(sent(&mut swarm)), [30, 32]);
    let mut late = Vec::new();
    while let Some(due) = swarm.poll_timeout().filter(|due| *due <= at(7000)) {
        swarm.handle_timeout(due);
        let told = told(sent(&mut swarm));
        assert!(told.is_empty() || due >= at(2000), "{told:?} heard of it at {due}");
        late.extend(told);
    }
    late.sort_unstable();
    assert_eq!(late, [30, 31, 32, 33]);
}

#[test]
fn a_large_site_keeps_its_room_for_its_own() {
    let mut swarm = swarm(&[]);
    for link in 30..60 {
        link_to(&mut swarm, link, "b", false);
    }
    assert_eq!(swarm.stats().links, 32, "the site is large, and has enough links to others");
}

#[test]
fn a_seeder_of_a_large_swarm_sends_four_pieces_at_once() {
    let all: Vec<u64> = (0..PIECES as u64).collect();
    let mut swarm = swarm(&all);
    let mut offered = std::collections::BTreeMap::new();
    for (link, message) in sent(&mut swarm) {
        if let Message::Have(list) = message {
            offered.entry(link).or_insert(list.pieces()[0]);
        }
    }
    assert_eq!(offered.len() as u64, LINKS);
    let mut uploads = 0;
    for (link, piece) in offered {
        let message = Message::Request(PieceList::one(piece));
        swarm.handle(Event::Message { link, message }, at(1));
        uploads += started(&mut swarm).len();
    }
    assert_eq!(uploads, 4);
}

#[test]
fn a_seeder_is_told_at_once_of_what_it_sent_and_later_of_the_rest() {
    let announced = |from: u64| {
        let mut swarm = swarm_of(&[], LINKS - 1);
        let (link, peer) = (LinkId(LINKS), PeerId::from_bytes(&[100]).unwrap());
        let hello = Hello {
            version: PROTOCOL_VERSION,
            manifest: ManifestId::from_bytes([0; 32]),
            complete: true,
            listen_port: 4000,
            site: None,
        };
        let remote = SocketAddr::from(([10, 0, 0, 100], 4000));
        swarm.handle(Event::LinkUp { link, peer, remote, dialled: true, neighbour: true, hello }, at(0));
        hears(&mut swarm, from, Message::Have(PieceList::one(piece(0))), 1);
        hears(&mut swarm, from, Message::Idle, 1);
        swarm.handle(Event::PieceReceived { link: LinkId(from), piece: piece(0) }, at(2));
        swarm.handle(Event::PieceChecked { link: LinkId(from), piece: piece(0), valid: true }, at(2));
        (2..2000).find(|ms| {
            swarm.handle_timeout(at(*ms));
            let have = Message::Have(PieceList::one(piece(0)));
            sent(&mut swarm).contains(&(link, have))
        })
    };
    assert_eq!((announced(LINKS), announced(0)), (Some(52), Some(502)));
}
