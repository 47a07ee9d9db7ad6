//! One swarm by hand: what it answers to a peer at the other end of a link.

use std::net::SocketAddr;

use dft_protocol::geometry::{Geometry, PieceIndex};
use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::PeerAddr;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{Command, Config, DisconnectReason, Event, LinkId, Notification, Swarm, Violation};
use dft_protocol::time::{Duration, Instant};
use dft_protocol::wire::{Hello, Message, PieceList, RejectReason};

mod reading;
mod slow;

fn at(time: f64) -> Instant {
    Instant::START + Duration::from_secs_f64(time)
}

/// A swarm with `have`, and one link to a peer that has everything.
fn one_link(have: PieceSet) -> (Swarm, LinkId) {
    let geometry = Geometry::new(vec![1000; have.capacity()]).unwrap();
    let id = |number: u8| PeerId::from_bytes(&[number]).unwrap();
    let config = Config { local: id(1), site: None, download: true, wanted: None, upload_slots: 1, seed: 1 };
    let mut swarm = Swarm::new(config, geometry, have);
    let (link, remote) = (LinkId(1), SocketAddr::from(([10, 0, 0, 2], 4000)));
    let manifest = ManifestId::from_bytes([0; 32]);
    let hello = Hello { version: 2, manifest, complete: true, listen_port: 4000, site: None };
    swarm.handle(Event::LinkUp { link, peer: id(2), remote, dialled: true, neighbour: true, hello }, at(0.0));
    let message = Message::Bitfield(PieceSet::full(swarm.geometry().piece_count()));
    swarm.handle(Event::Message { link, message }, at(0.0));
    (swarm, link)
}

/// One more link, to a peer of its own that has everything.
fn link_to(swarm: &mut Swarm, number: u8, time: f64) -> LinkId {
    let (link, remote) = (LinkId(number.into()), SocketAddr::from(([10, 0, 0, 1 + number], 4000)));
    let manifest = ManifestId::from_bytes([0; 32]);
    let hello = Hello { version: 2, manifest, complete: true, listen_port: 4000, site: None };
    let peer = PeerId::from_bytes(&[1 + number]).unwrap();
    swarm.handle(Event::LinkUp { link, peer, remote, dialled: true, neighbour: true, hello }, at(time));
    let message = Message::Bitfield(PieceSet::full(swarm.geometry().piece_count()));
    swarm.handle(Event::Message { link, message }, at(time));
    link
}

/// The commands that wait.
fn commands(swarm: &mut Swarm) -> Vec<Command> {
    std::iter::from_fn(|| swarm.poll_command()).collect()
}

#[test]
fn pieces_that_a_peer_took_back_are_missed_until_somebody_offers_them() {
    let (mut swarm, link) = one_link(PieceSet::empty(8));
    let lost = [2, 5].map(|index| swarm.geometry().piece(index).unwrap());
    for list in PieceList::split(&lost) {
        swarm.handle(Event::Message { link, message: Message::Lost(list) }, at(0.1));
    }
    swarm.check_invariants();
    assert_eq!(swarm.taken_back(), 2);
    let other = link_to(&mut swarm, 2, 0.2);
    assert_eq!(swarm.taken_back(), 0);
    swarm.handle(Event::LinkDown { link: other }, at(0.3));
    assert_eq!(swarm.taken_back(), 2);
}

#[test]
fn a_new_link_does_not_wash_off_a_corrupt_piece() {
    let (mut swarm, first) = one_link(PieceSet::empty(8));
    let send_corrupt_piece = |swarm: &mut Swarm, link| {
        let requested = commands(swarm).into_iter().find_map(|command| match command {
            Command::Send { link: to, message: Message::Request(list) } if to == link => {
                Some(list.pieces()[0])
            }
            _ => None,
        });
        let piece = requested.expect("a piece is asked of the peer");
        swarm.handle(Event::PieceReceived { link, piece }, at(0.1));
        swarm.handle(Event::PieceChecked { link, piece, valid: false }, at(0.1));
    };
    send_corrupt_piece(&mut swarm, first);
    swarm.handle(Event::LinkDown { link: first }, at(0.2));

    let second = LinkId(2);
    let manifest = ManifestId::from_bytes([0; 32]);
    let hello = Hello { version: 2, manifest, complete: true, listen_port: 4000, site: None };
    let (peer, remote) = (PeerId::from_bytes(&[2]).unwrap(), SocketAddr::from(([10, 0, 0, 2], 4000)));
    swarm
        .handle(Event::LinkUp { link: second, peer, remote, dialled: true, neighbour: true, hello }, at(1.0));
    let message = Message::Bitfield(PieceSet::full(8));
    swarm.handle(Event::Message { link: second, message }, at(1.0));
    send_corrupt_piece(&mut swarm, second);
    let banned = commands(&mut swarm).into_iter().any(|command| {
        matches!(command, Command::Notify(Notification::Banned { violation: Violation::Corrupt, .. }))
    });
    assert!(banned, "the second corrupt piece of one peer, over whatever links");
}

#[test]
fn a_remote_peer_cannot_name_loopback_addresses() {
    let (mut swarm, link) = one_link(PieceSet::empty(8));
    commands(&mut swarm);
    let named = |ip| PeerAddr { peer: None, addr: SocketAddr::from((ip, 22)) };
    let message = Message::Peers(vec![named([127, 0, 0, 1]), named([10, 0, 0, 9])]);
    swarm.handle(Event::Message { link, message }, at(0.1));
    let dialled: Vec<_> = (commands(&mut swarm).into_iter())
        .filter_map(|command| match command {
            Command::Connect(found) => Some(found.addr.ip().to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(dialled, ["10.0.0.9"]);
}

#[test]
fn a_busy_peer_gets_a_pause() {
    let (mut swarm, link) = one_link(PieceSet::empty(8));
    let requested = |commands: Vec<Command>| -> Vec<PieceIndex> {
        let requests = commands.into_iter().filter_map(|command| match command {
            Command::Send { message: Message::Request(list), .. } => Some(list.pieces().to_vec()),
            _ => None,
        });
        requests.flatten().collect()
    };
    let first = requested(commands(&mut swarm));
    assert!(!first.is_empty());
    for piece in first {
        let message = Message::Reject(piece, RejectReason::Busy);
        swarm.handle(Event::Message { link, message }, at(0.001));
    }
    assert_eq!(requested(commands(&mut swarm)), [], "not at once");
    swarm.handle_timeout(at(1.0));
    assert!(!requested(commands(&mut swarm)).is_empty(), "but later");
}

#[test]
fn reports_of_corrupt_pieces_are_believed_a_few_times() {
    let (mut swarm, link) = one_link(PieceSet::full(8));
    let piece = swarm.geometry().piece(3).unwrap();
    for _ in 0..1000 {
        swarm.handle(Event::Message { link, message: Message::Corrupt(piece) }, at(0.0));
    }
    let rechecks = commands(&mut swarm).into_iter().filter(|command| matches!(command, Command::Recheck(_)));
    assert!((1..10).contains(&rechecks.count()));
}

#[test]
fn a_peer_that_wants_a_part_is_offered_only_that_and_then_told_of_everything() {
    let geometry = Geometry::new(vec![1000; 100]).unwrap();
    let id = |number: u8| PeerId::from_bytes(&[number]).unwrap();
    let config = Config { local: id(1), site: None, download: false, wanted: None, upload_slots: 1, seed: 1 };
    let mut swarm = Swarm::new(config, geometry.clone(), PieceSet::full(100));
    let (link, remote) = (LinkId(1), SocketAddr::from(([10, 0, 0, 2], 4000)));
    let manifest = ManifestId::from_bytes([0; 32]);
    let hello = Hello { version: 2, manifest, complete: false, listen_port: 4000, site: None };
    swarm.handle(Event::LinkUp { link, peer: id(2), remote, dialled: true, neighbour: true, hello }, at(0.0));
    let mut wanted = PieceSet::empty(100);
    let parts: Vec<PieceIndex> = geometry.pieces().skip(40).take(3).collect();
    parts.iter().for_each(|piece| assert!(wanted.insert(*piece)));
    commands(&mut swarm);
    swarm.handle(Event::Message { link, message: Message::Wanted(wanted) }, at(0.0));
    let mut got = Vec::new();
    for round in 0..10 {
        for command in commands(&mut swarm) {
            match command {
                Command::Send { message: Message::Have(list), .. } => {
                    assert!(list.pieces().iter().all(|piece| parts.contains(piece)), "{list:?}");
                    let message = Message::Request(list);
                    swarm.handle(Event::Message { link, message }, at(0.1 * f64::from(round)));
                }
                Command::SendPiece { piece, .. } => {
                    got.push(piece);
                    swarm.handle(Event::PieceSent { link, piece }, at(0.1 * f64::from(round)));
                    let message = Message::Have(dft_protocol::wire::PieceList::one(piece));
                    swarm.handle(Event::Message { link, message }, at(0.1 * f64::from(round)));
                }
                Command::Send { message: Message::Bitfield(set), .. } => {
                    got.sort_unstable();
                    assert_eq!((got, set.is_full()), (parts, true), "all that is wanted comes first");
                    return;
                }
                _ => {}
            }
            swarm.check_invariants();
        }
    }
    panic!("it was told of everything in the end; it got {got:?}");
}

#[test]
fn a_piece_that_two_peers_are_late_with_is_asked_of_a_third() {
    let (mut swarm, first) = one_link(PieceSet::empty(1));
    let asked = |swarm: &mut Swarm| -> Vec<(LinkId, bool)> {
        let sent = commands(swarm).into_iter().filter_map(|command| match command {
            Command::Send { link, message: Message::Request(_) } => Some((link, true)),
            Command::Send { link, message: Message::Cancel(_) } => Some((link, false)),
            _ => None,
        });
        sent.collect()
    };
    assert_eq!(asked(&mut swarm), [(first, true)]);
    let second = link_to(&mut swarm, 2, 0.1);
    let third = link_to(&mut swarm, 3, 0.1);
    assert_eq!(asked(&mut swarm), [], "it is not late yet");

    // Nobody answers; the links live on keep-alives.
    let mut log = Vec::new();
    for tick in 1..120 {
        let now = at(f64::from(tick) * 0.25);
        for link in [first, second, third] {
            swarm.handle(Event::Message { link, message: Message::KeepAlive }, now);
        }
        swarm.handle_timeout(now);
        log.extend(asked(&mut swarm));
        if log.len() == 3 {
            break;
        }
    }
    let other = if log[0].0 == second { third } else { second };
    assert_eq!(log[1..], [(first, false), (other, true)], "the older one is taken back: {log:?}");
    swarm.check_invariants();
}

/// A seeder with links of these numbers to peers that have nothing.
fn seeder_of(numbers: &[u8], pieces: usize) -> Swarm {
    let geometry = Geometry::new(vec![1000; pieces]).unwrap();
    let id = |number: u8| PeerId::from_bytes(&[number]).unwrap();
    let config = Config { local: id(1), site: None, download: false, wanted: None, upload_slots: 1, seed: 1 };
    let mut swarm = Swarm::new(config, geometry, PieceSet::full(pieces));
    for &number in numbers {
        let (link, remote) = (LinkId(number.into()), SocketAddr::from(([10, 0, 0, number], 4000)));
        let manifest = ManifestId::from_bytes([0; 32]);
        let hello = Hello { version: 2, manifest, complete: false, listen_port: 4000, site: None };
        let peer = id(number);
        swarm.handle(Event::LinkUp { link, peer, remote, dialled: false, neighbour: true, hello }, at(0.0));
    }
    swarm
}

#[test]
fn what_was_offered_to_a_peer_that_leaves_is_offered_to_others() {
    let mut swarm = seeder_of(&[2, 3], 1);
    let told = |swarm: &mut Swarm| -> Vec<LinkId> {
        let told = commands(swarm).into_iter().filter_map(|command| match command {
            Command::Send { link, message: Message::Have(_) } => Some(link),
            _ => None,
        });
        told.collect()
    };
    assert_eq!(told(&mut swarm), [LinkId(2)]);
    swarm.handle(Event::LinkDown { link: LinkId(2) }, at(0.1));
    assert_eq!(told(&mut swarm), [LinkId(3)], "the other has nothing else to ask for");
}

#[test]
fn what_was_cancelled_leaves_room_for_other_requests_under_a_limit() {
    let (mut swarm, first) = one_link(PieceSet::empty(12));
    let second = link_to(&mut swarm, 2, 0.0);
    // So little that the fewest pieces that a limit leaves room for are all that is asked.
    swarm.handle(Event::RatesLimited { upload: None, download: Some(1000) }, at(0.0));
    let asked = |swarm: &mut Swarm, of: LinkId| -> Vec<PieceIndex> {
        let requests = commands(swarm).into_iter().filter_map(|command| match command {
            Command::Send { link, message: Message::Request(list) } if link == of => {
                Some(list.pieces().to_vec())
            }
            _ => None,
        });
        requests.flatten().collect()
    };
    swarm.handle_timeout(at(0.1));
    asked(&mut swarm, first);
    // A third peer answers at once what it is asked; the other two send a byte now and then.
    let third = link_to(&mut swarm, 3, 0.2);
    for tick in 1..600 {
        let now = at(f64::from(tick) * 0.25);
        for link in [first, second] {
            swarm.handle(Event::DataArriving { link }, now);
        }
        swarm.handle(Event::Message { link: third, message: Message::KeepAlive }, now);
        swarm.handle_timeout(now);
        loop {
            let pieces = asked(&mut swarm, third);
            if pieces.is_empty() {
                break;
            }
            for piece in pieces {
                swarm.handle(Event::PieceReceived { link: third, piece }, now);
                swarm.handle(Event::PieceChecked { link: third, piece, valid: true }, now);
            }
        }
        swarm.check_invariants();
    }
    assert!(swarm.is_satisfied(), "{} of 12 pieces came", swarm.have().count());
}

#[test]
fn a_piece_that_is_given_up_is_asked_of_nobody_and_wanted_no_more() {
    let (mut swarm, link) = one_link(PieceSet::full(4));
    commands(&mut swarm);
    let piece = swarm.geometry().piece(2).unwrap();
    swarm.handle(Event::PiecesDropped(vec![piece]), at(1.0));
    swarm.handle_timeout(at(2.0));
    let said: Vec<Message> = (commands(&mut swarm).into_iter())
        .filter_map(|command| match command {
            Command::Send { link: to, message } if to == link => Some(message),
            _ => None,
        })
        .collect();
    let wanted = said.iter().any(|message| matches!(message, Message::Wanted(set) if !set.contains(piece)));
    let lost = said.iter().any(|message| matches!(message, Message::Lost(list) if list.pieces() == [piece]));
    let asked = said.iter().any(|message| matches!(message, Message::Request(_)));
    assert!(wanted && lost && !asked, "{said:?}");
    assert!(swarm.is_satisfied(), "nothing more is waited for");
    swarm.check_invariants();
}

#[test]
fn ends_that_both_have_all_part_when_nothing_was_sent_for_a_while() {
    // What is here, and whether the link to a peer with everything ends, and how.
    for (have, expected) in [(PieceSet::full(8), vec![DisconnectReason::Done]), (PieceSet::empty(8), vec![])]
    {
        let (mut swarm, link) = one_link(have);
        let mut ends = Vec::new();
        for second in 0..15 {
            swarm.handle(Event::Message { link, message: Message::KeepAlive }, at(f64::from(second)));
            swarm.handle_timeout(at(f64::from(second)));
            ends.extend(commands(&mut swarm).into_iter().filter_map(|command| match command {
                Command::Disconnect { reason, .. } => Some(reason),
                _ => None,
            }));
        }
        assert_eq!(ends, expected);
    }
}

#[test]
fn who_comes_after_the_last_one_left_waits_for_no_silence() {
    let geometry = Geometry::new(vec![1000]).unwrap();
    let (piece, full) = (geometry.piece(0).unwrap(), PieceSet::full(1));
    let local = PeerId::from_bytes(&[1]).unwrap();
    let config = Config { local, site: None, download: false, wanted: None, upload_slots: 1, seed: 1 };
    let mut seeder = Swarm::new(config, geometry, full);
    for number in 1..4u8 {
        let now = f64::from(number) / 100.0;
        let (link, remote) = (LinkId(number.into()), SocketAddr::from(([10, 0, 0, 1 + number], 4000)));
        let (peer, manifest) = (PeerId::from_bytes(&[1 + number]).unwrap(), ManifestId::from_bytes([0; 32]));
        let hello = Hello { version: 2, manifest, complete: false, listen_port: 4000, site: None };
        let up = Event::LinkUp { link, peer, remote, dialled: false, neighbour: true, hello };
        seeder.handle(up, at(now));
        let told = commands(&mut seeder).into_iter().any(|command| {
            let Command::Send { message, .. } = command else { return false };
            matches!(message, Message::Have(_) | Message::Bitfield(_))
        });
        assert!(told, "peer {number} is told of the piece when it comes");
        let message = Message::Request(PieceList::one(piece));
        seeder.handle(Event::Message { link, message }, at(now));
        seeder.handle(Event::PieceSent { link, piece }, at(now));
        seeder.handle(Event::Message { link, message: Message::Have(PieceList::one(piece)) }, at(now));
        seeder.check_invariants();
        seeder.handle(Event::LinkDown { link }, at(now));
        commands(&mut seeder);
    }
}
