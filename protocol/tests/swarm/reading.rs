//! What somebody reads in order, and what of that is kept.

use std::net::SocketAddr;

use dft_protocol::geometry::{Geometry, PieceIndex};
use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{Command, Config, Event, LinkId, Swarm};
use dft_protocol::wire::{Hello, Message, PieceList, RejectReason};

use crate::{at, commands, link_to, one_link, seeder_of};

/// The pieces that are asked of anybody.
fn requested(swarm: &mut Swarm) -> Vec<u32> {
    let requests = commands(swarm).into_iter().filter_map(|command| match command {
        Command::Send { message: Message::Request(list), .. } => Some(list.pieces().to_vec()),
        _ => None,
    });
    requests.flatten().map(PieceIndex::to_u32).collect()
}

/// A swarm that wants `wanted` of 100 pieces, linked to a seeder that offered it piece 70 alone.
fn reader(wanted: Option<PieceSet>) -> (Swarm, LinkId) {
    let geometry = Geometry::new(vec![1000; 100]).unwrap();
    let id = |number: u8| PeerId::from_bytes(&[number]).unwrap();
    let config = Config { local: id(1), site: None, download: true, wanted, upload_slots: 1, seed: 1 };
    let mut swarm = Swarm::new(config, geometry.clone(), PieceSet::empty(100));
    let (link, remote) = (LinkId(1), SocketAddr::from(([10, 0, 0, 2], 4000)));
    let manifest = ManifestId::from_bytes([0; 32]);
    let hello = Hello { version: 2, manifest, complete: true, listen_port: 4000, site: None };
    swarm.handle(Event::LinkUp { link, peer: id(2), remote, dialled: true, neighbour: true, hello }, at(0.0));
    let message = Message::Have(PieceList::one(geometry.piece(70).unwrap()));
    swarm.handle(Event::Message { link, message }, at(0.0));
    (swarm, link)
}

fn pieces(numbers: std::ops::Range<u64>) -> Vec<PieceIndex> {
    let geometry = Geometry::new(vec![1000; 200]).unwrap();
    numbers.filter_map(|number| geometry.piece(number)).collect()
}

/// `piece` comes over `link`, and is right.
fn receive(swarm: &mut Swarm, link: LinkId, piece: u64, time: f64) {
    let piece = pieces(piece..piece + 1)[0];
    swarm.handle(Event::PieceReceived { link, piece }, at(time));
    swarm.handle(Event::PieceChecked { link, piece, valid: true }, at(time));
    swarm.check_invariants();
}

#[test]
fn a_reader_asks_a_seeder_in_order_whatever_that_offered() {
    let (mut swarm, link) = reader(None);
    assert_eq!(requested(&mut swarm), [70]);
    swarm.handle(Event::Preferred(pieces(10..14)), at(0.1));
    swarm.check_invariants();
    let mut asked = requested(&mut swarm);
    for piece in [70, 10, 11, 12, 13] {
        receive(&mut swarm, link, piece, 0.2);
        asked.extend(requested(&mut swarm));
    }
    assert_eq!(asked, [10, 11, 12, 13]);
}

#[test]
fn a_seeder_that_rejects_what_it_should_have_is_not_asked_for_ever() {
    let (mut swarm, link) = reader(None);
    swarm.handle(Event::Preferred(pieces(10..11)), at(0.1));
    for round in 0..1000 {
        let asked = requested(&mut swarm);
        if asked.is_empty() {
            assert!(round < 100, "{round} times");
            return;
        }
        for piece in asked {
            let piece = pieces(piece.into()..u64::from(piece) + 1)[0];
            let message = Message::Reject(piece, RejectReason::Missing);
            swarm.handle(Event::Message { link, message }, at(0.2));
            swarm.check_invariants();
        }
    }
    panic!("it is asked for ever");
}

#[test]
fn what_is_only_read_is_fetched_as_it_is_read_and_goes() {
    let (mut swarm, link) = reader(Some(PieceSet::empty(100)));
    let told = commands(&mut swarm).into_iter().find_map(|command| match command {
        Command::Send { message: Message::Wanted(set), .. } => Some(set.count()),
        _ => None,
    });
    assert_eq!(told, Some(0), "peers count on nothing");
    let mut asked = Vec::new();
    swarm.handle(Event::Reading(pieces(40..43)), at(0.1));
    swarm.check_invariants();
    asked.extend(requested(&mut swarm));
    for piece in 40..43 {
        receive(&mut swarm, link, piece, 0.2);
        asked.extend(requested(&mut swarm));
    }
    assert_eq!(asked, [40, 41, 42], "and nothing else");
    swarm.handle(Event::Reading(pieces(42..45)), at(0.3));
    swarm.check_invariants();
    let have: Vec<u32> = swarm.have().iter().map(PieceIndex::to_u32).collect();
    assert_eq!(have, [42], "what was read is gone");
    let (mut told, mut asked, mut cancelled) = (Vec::new(), Vec::new(), Vec::new());
    let mut look = |swarm: &mut Swarm| {
        for command in commands(swarm) {
            match command {
                Command::Send { message: Message::Request(list), .. } => {
                    asked.extend_from_slice(list.pieces());
                }
                Command::Send { message: Message::Cancel(list), .. } => {
                    cancelled.extend_from_slice(list.pieces());
                }
                Command::Send { message, .. } => told.push(message),
                _ => {}
            }
        }
    };
    look(&mut swarm);
    swarm.handle(Event::Reading(Vec::new()), at(0.4));
    swarm.check_invariants();
    swarm.handle_timeout(at(5.0));
    look(&mut swarm);
    assert_eq!((asked, cancelled), (pieces(43..45), pieces(43..45)), "nothing is read any more");
    assert_eq!(told, [], "nobody hears of what comes and goes");
    let message = Message::Reject(pieces(43..44)[0], RejectReason::Cancelled);
    swarm.handle(Event::Message { link, message }, at(5.1));
    swarm.handle(Event::PieceDiscarded { link, piece: pieces(44..45)[0] }, at(5.1));
    swarm.check_invariants();
    assert_eq!(requested(&mut swarm), []);
    link_to(&mut swarm, 3, 0.6);
    let told = commands(&mut swarm).into_iter().find_map(|command| match command {
        Command::Send { message: Message::Wanted(set), .. } => Some(set.count()),
        _ => None,
    });
    assert_eq!(told, Some(0));
}

#[test]
fn what_a_reader_asked_for_is_offered_to_nobody_else() {
    let mut swarm = seeder_of(&[2, 3], 100);
    let mut offered: Vec<PieceIndex> = Vec::new();
    let mut unoffered = None;
    let reader = LinkId(2);
    for round in 0..400 {
        let now = at(0.001 * f64::from(round));
        for command in commands(&mut swarm) {
            match command {
                Command::Send { link, message: Message::Have(list) } => {
                    for &piece in list.pieces() {
                        assert_ne!(Some(piece), unoffered, "it is on its way already");
                        offered.push(piece);
                        let message = Message::Request(PieceList::one(piece));
                        swarm.handle(Event::Message { link, message }, now);
                    }
                }
                Command::SendPiece { link, piece } => {
                    swarm.handle(Event::PieceSent { link, piece }, now);
                    // The reader takes its time to say that it has it.
                    if Some(piece) != unoffered {
                        let message = Message::Have(PieceList::one(piece));
                        swarm.handle(Event::Message { link, message }, now);
                    }
                }
                _ => {}
            }
        }
        if unoffered.is_none() {
            unoffered = pieces(0..100).into_iter().find(|piece| !offered.contains(piece));
            let message = Message::Request(PieceList::one(unoffered.expect("few are offered at first")));
            swarm.handle(Event::Message { link: reader, message }, now);
        }
        swarm.check_invariants();
    }
    assert_eq!(offered.len(), 99, "all others were offered");
}

#[test]
fn a_reader_waits_for_no_end_game() {
    let (mut swarm, first) = one_link(PieceSet::empty(200));
    swarm.handle(Event::Preferred(pieces(10..11)), at(0.0));
    let asked = |swarm: &mut Swarm| -> Vec<(LinkId, u32)> {
        let requests = commands(swarm).into_iter().filter_map(|command| match command {
            Command::Send { link, message: Message::Request(list) } => Some((link, list.pieces().to_vec())),
            _ => None,
        });
        requests
            .flat_map(|(link, pieces)| pieces.into_iter().map(move |piece| (link, piece.to_u32())))
            .collect()
    };
    // Whoever was asked before it was known what is read is never done with what it has.
    let before: Vec<(LinkId, u32)> = asked(&mut swarm);
    let waited_for = before.iter().find(|(link, _)| *link == first).expect("it is asked for something").1;
    swarm.handle(Event::Preferred(pieces(waited_for.into()..u64::from(waited_for) + 1)), at(0.1));
    let second = link_to(&mut swarm, 2, 0.2);
    let mut sources = Vec::new();
    for step in 0..40 {
        let now = 0.3 + f64::from(step) * 0.1;
        for (link, piece) in asked(&mut swarm) {
            if piece == waited_for {
                sources.push(link);
            } else if link == second && step < 30 {
                // It always has something else that is wanted.
                let piece = pieces(piece.into()..u64::from(piece) + 1)[0];
                swarm.handle(Event::PieceReceived { link, piece }, at(now));
                swarm.handle(Event::PieceChecked { link, piece, valid: true }, at(now));
                swarm.check_invariants();
                break;
            }
        }
        swarm.handle_timeout(at(now));
        swarm.check_invariants();
    }
    assert_eq!(sources, [second], "it is asked of the other before all else is here");
    assert!(!swarm.is_satisfied());
}
