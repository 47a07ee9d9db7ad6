//! Small worlds as stories: who gets what from whom, and what faults cost.

use std::collections::BTreeSet;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::DisconnectReason;
use dft_protocol::time::{Duration, Instant};
use dft_sim::world::{Conduct, Host, Plan, Terms, World, mbit};

const KIB: u32 = 1 << 10;
const MIB: u64 = 1 << 20;

/// `bytes` in pieces of `piece` bytes.
fn pieces(bytes: u64, piece: u32) -> Vec<u32> {
    vec![piece; usize::try_from(bytes / u64::from(piece)).unwrap()]
}

/// Terms of a world with many pieces, where checking everything after each event takes long.
fn large() -> Terms {
    Terms { check_every: 512, encode: false, ..Terms::default() }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Seconds from its start until `host` had everything.
fn seconds_of(world: &World, host: usize) -> f64 {
    world.seconds(host).expect("the host finished")
}

fn at(time: f64) -> Instant {
    Instant::START + seconds(time)
}

#[allow(clippy::cast_precision_loss, reason = "ratios of test data are small")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// How often `host` sent each byte of the dataset.
fn copies(world: &World, host: usize) -> f64 {
    ratio(world.hosts[host].sent, world.datasets[0].total_bytes())
}

/// A world of 16 MiB in pieces of 64 KiB.
fn world(seed: u64) -> World {
    World::new(large(), pieces(16 * MIB, 64 * KIB), seed)
}

/// A world of 1 MiB in pieces of 64 KiB, checked after every event.
fn small_world(seed: u64) -> World {
    World::new(Terms::default(), pieces(MIB, 64 * KIB), seed)
}

// ---- speed ----

#[test]
fn ten_equal_receivers_come_close_to_the_bound() {
    let mut world = World::new(large(), pieces(32 * MIB, 64 * KIB), 1);
    let seeder = world.seeder(mbit(50));
    let receivers: Vec<usize> = (0..10).map(|_| world.receiver(mbit(50))).collect();
    world.introduce_all();
    world.run_until_complete(&receivers, seconds(60.0));
    let bound = ratio(32 * MIB, mbit(50));
    let slowest = receivers.iter().map(|host| seconds_of(&world, *host)).fold(0.0, f64::max);
    println!("10 equal receivers: {:.3} x the bound, {:.3} copies", slowest / bound, copies(&world, seeder));
    assert!(slowest / bound < 1.08);
    assert!(copies(&world, seeder) < 1.05);
}

#[test]
fn one_receiver_gets_the_full_rate() {
    for (rate, piece, bytes) in [
        (mbit(50), 64 * KIB, 4 * MIB),
        (mbit(10_000), 64 * KIB, 32 * MIB),
        (mbit(10_000), 1024 * KIB, 512 * MIB),
    ] {
        let terms = Terms { chunk: u64::from(piece) / 4, socket_buffer: MIB, upload_slots: 1, ..large() };
        let mut world = World::new(terms, pieces(bytes, piece), 1);
        let (_, receiver) = (world.seeder(rate), world.receiver(rate));
        world.introduce_all();
        world.run_until_complete(&[receiver], seconds(60.0));
        let over = seconds_of(&world, receiver) / ratio(bytes, rate);
        println!("1 receiver at {rate} B/s: {over:.3} x the bound");
        assert!(over < 1.1, "{over}");
    }
}

#[test]
fn a_receiver_adds_up_the_rates_of_two_sources() {
    let mut world = world(1);
    let (one, two) = (world.seeder(mbit(50)), world.seeder(mbit(25)));
    let receiver = world.receiver(mbit(1000));
    world.introduce_all();
    world.run_until_complete(&[receiver], seconds(60.0));
    let over = seconds_of(&world, receiver) / ratio(16 * MIB, mbit(75));
    println!("2 sources: {over:.3} x the bound, {:.3} copies", copies(&world, one) + copies(&world, two));
    assert!(over < 1.15, "{over}");
    assert!(copies(&world, one) + copies(&world, two) < 1.05);
}

#[test]
fn slow_receivers_do_not_slow_fast_ones() {
    // Switches hold no more than this, so what a slow receiver is sent waits where it comes from.
    for queue_max in [None, Some(Duration::from_millis(50))] {
        let terms = Terms { queue_max, ..large() };
        slow_and_fast_receivers(World::new(terms, pieces(16 * MIB, 64 * KIB), 1));
    }
}

fn slow_and_fast_receivers(mut world: World) {
    let seeder = world.seeder(mbit(50));
    let fast: Vec<usize> = (0..5).map(|_| world.receiver(mbit(50))).collect();
    let slow: Vec<usize> = (0..5).map(|_| world.receiver(mbit(20))).collect();
    world.introduce_all();
    let all: Vec<usize> = fast.iter().chain(&slow).copied().collect();
    world.run_until_complete(&all, seconds(60.0));
    for (name, class, rate) in [("fast", &fast, mbit(50)), ("slow", &slow, mbit(20))] {
        let slowest = class.iter().map(|host| seconds_of(&world, *host)).fold(0.0, f64::max);
        let over = slowest / ratio(16 * MIB, rate);
        println!("5 {name} of 10: {over:.3} x their bound, {:.3} copies", copies(&world, seeder));
        assert!(over < 1.4, "{over}");
    }
}

#[test]
fn late_starters_are_not_starved() {
    let mut world = world(1);
    let seeder = world.seeder(mbit(50));
    let receivers: Vec<usize> =
        (0..8u32).map(|number| world.receiver_at(mbit(50), at(0.5 * f64::from(number)))).collect();
    world.introduce_all();
    world.run_until_complete(&receivers, seconds(60.0));
    let bound = ratio(16 * MIB, mbit(50));
    let slowest = receivers.iter().map(|host| seconds_of(&world, *host)).fold(0.0, f64::max);
    println!("staggered: {:.3} x the bound, {:.3} copies", slowest / bound, copies(&world, seeder));
    assert!(slowest / bound < 1.3);
}

// ---- faults ----

#[test]
fn goes_on_when_a_receiver_is_killed_midway() {
    let mut world = world(1);
    world.seeder(mbit(50));
    let receivers: Vec<usize> = (0..10).map(|_| world.receiver(mbit(50))).collect();
    world.introduce_all();
    world.crash_at(receivers[9], at(1.3));
    world.run_until_complete(&receivers[..9], seconds(60.0));
    let bound = ratio(16 * MIB, mbit(50));
    let slowest = receivers[..9].iter().map(|host| seconds_of(&world, *host)).fold(0.0, f64::max);
    println!("a receiver killed: {:.3} x the bound", slowest / bound);
    assert!(slowest / bound < 1.25);
}

#[test]
fn goes_on_when_the_seeder_dies_after_one_copy_is_spread() {
    let mut world = small_world(1);
    let seeder = world.seeder(mbit(50));
    let receivers: Vec<usize> = (0..5).map(|_| world.receiver(mbit(50))).collect();
    world.introduce_all();
    let spread = |world: &World| {
        let mut spread = PieceSet::empty(world.datasets[0].piece_count());
        let haves = receivers.iter().filter_map(|host| world.swarm(*host));
        haves.flat_map(|swarm| swarm.have().iter()).for_each(|piece| {
            spread.insert(piece);
        });
        spread.is_full()
    };
    assert!(world.run(seconds(10.0), spread));
    assert!(!receivers.iter().all(|host| world.is_complete(*host)));
    let now = world.now;
    world.crash_at(seeder, now);
    world.run_until_complete(&receivers, seconds(10.0));
}

#[test]
fn a_killed_receiver_resumes_with_what_was_durable() {
    let mut world = small_world(1);
    let seeder = world.seeder(mbit(10));
    let receiver = world.receiver(mbit(10));
    world.introduce_all();
    world.crash_at(receiver, at(0.5));
    world.start_at(receiver, at(2.0));
    world.introduce_at(receiver, &[seeder], at(2.0));
    world.run_until_complete(&[receiver], seconds(10.0));
    // 200 ms until durable, and two pieces in flight: half of what 500 ms bring.
    let again = copies(&world, seeder) - 1.0;
    assert!(again > 0.0 && again < 0.4, "{again} of the data were sent again");
}

#[test]
fn a_flush_makes_all_durable_that_was_verified_by_then() {
    let mut world = small_world(1);
    world.seeder(mbit(10));
    let receiver = world.receiver(mbit(10));
    world.introduce_all();
    assert!(world.run(seconds(10.0), |world| !world.hosts[receiver].durable.is_empty()));
    let verified = world.swarm(receiver).unwrap().have().count();
    assert!(verified > 2, "200 ms bring more than {verified} pieces");
    assert_eq!(world.hosts[receiver].durable.count(), verified);
}

#[test]
fn the_middle_of_a_piece_costs_no_events() {
    let events = |chunk: u64| {
        let mut world = World::new(Terms { chunk, ..large() }, pieces(8 * MIB, 256 * KIB), 1);
        world.seeder(mbit(50));
        let receiver = world.receiver(mbit(50));
        world.introduce_all();
        world.run_until_complete(&[receiver], seconds(10.0));
        world.events
    };
    // A port is free after each chunk; that one arrived is told at the ends of a piece alone.
    let (whole, chunks) = (events(256 << 10), events(32 << 10));
    assert!(chunks < whole + 32 * 12, "{chunks} in chunks of an eighth, {whole} in whole pieces");
}

#[test]
fn lost_links_lose_only_what_they_carried() {
    let mut world = small_world(1);
    let seeder = world.seeder(mbit(50));
    let receiver = world.receiver(mbit(50));
    world.introduce_all();
    (1..=3).for_each(|cut| world.cut_at(seeder, receiver, at(0.04 * f64::from(cut))));
    world.run_until_complete(&[receiver], seconds(10.0));
    assert!(copies(&world, seeder) < 1.6, "{}", copies(&world, seeder));
}

#[test]
fn a_seeder_starts_over_with_distinct_pieces_when_all_have_left() {
    let mut world = small_world(1);
    let seeder = world.seeder(mbit(50));
    let first = world.receiver(mbit(50));
    world.introduce(first, &[seeder]);
    world.run_until_complete(&[first], seconds(10.0));
    let now = world.now;
    world.crash_at(first, now);
    world.run_for(seconds(1.0));
    let before = world.hosts[seeder].sent;
    let start = world.now;
    let crowd: Vec<usize> = (0..4).map(|_| world.receiver_at(mbit(50), start)).collect();
    crowd.iter().for_each(|host| {
        let others: Vec<usize> = crowd.iter().filter(|other| *other != host).copied().collect();
        world.introduce(*host, &[&[seeder], &others[..]].concat());
    });
    world.run_until_complete(&crowd, seconds(10.0));
    let sent = ratio(world.hosts[seeder].sent - before, world.datasets[0].total_bytes());
    assert!(sent < 1.6, "{sent} copies");
}

#[test]
fn pieces_that_a_seeder_loses_are_fetched_from_others() {
    let mut world = small_world(1);
    let (one, two) = (world.seeder(mbit(50)), world.seeder(mbit(1)));
    let receiver = world.receiver(mbit(50));
    world.introduce_all();
    let lost: Vec<PieceIndex> = world.datasets[0].pieces().skip(8).collect();
    world.lose_at(one, lost, at(0.02));
    world.run_until_complete(&[receiver], seconds(30.0));
    assert!(world.banned(receiver).is_empty());
    assert!(copies(&world, two) > 0.3, "{}", copies(&world, two));
}

#[test]
fn pieces_that_a_receiver_loses_are_fetched_again_from_peers_who_got_them_there() {
    let mut world = small_world(1);
    let seeder = world.seeder(mbit(50));
    let (one, two) = (world.receiver(mbit(50)), world.receiver(mbit(50)));
    world.introduce_all();
    world.run_until_complete(&[one, two], seconds(10.0));
    let now = world.now;
    world.crash_at(seeder, now);
    world.run_for(seconds(1.0));
    let (now, lost) = (world.now, world.datasets[0].pieces().take(5).collect());
    world.lose_at(one, lost, now);
    world.run_for(seconds(0.001));
    assert!(!world.is_complete(one));
    world.run_until_complete(&[one], seconds(10.0));
}

#[test]
fn receivers_find_each_other_through_the_seeder() {
    let mut world = small_world(1);
    let seeder = world.seeder(mbit(10));
    let receivers: Vec<usize> = (0..6).map(|_| world.receiver(mbit(50))).collect();
    receivers.iter().for_each(|host| world.introduce(*host, &[seeder]));
    world.run_until_complete(&receivers, seconds(20.0));
    world.run_for(seconds(1.0));
    assert!(copies(&world, seeder) < 1.5, "{}", copies(&world, seeder));
}

#[test]
fn a_crowd_that_found_only_itself_reaches_the_seeder_in_the_end() {
    let mut world = World::new(large(), pieces(MIB, 64 * KIB), 1);
    let crowd: Vec<usize> = (0..60).map(|_| world.receiver(mbit(50))).collect();
    world.introduce_all();
    world.run_for(seconds(1.0));
    let seeder = world.seeder(mbit(50));
    crowd.iter().for_each(|host| world.introduce(*host, &[seeder]));
    world.run_until_complete(&crowd, seconds(30.0));
}

#[test]
fn both_ends_agree_on_one_of_two_links() {
    for latency_us in [1, 100, 5_000, 40_000] {
        for seed in 0..8 {
            let terms = Terms { latency: Duration::from_micros(latency_us), ..Terms::default() };
            let mut world = World::new(terms, pieces(MIB, 64 * KIB), seed);
            let one = world.receiver(mbit(50));
            let two = world.receiver_at(mbit(50), at(0.000_02 * ratio(seed, 1)));
            world.introduce_all();
            world.run_for(seconds(2.0));
            assert_eq!((world.links(one), world.links(two)), (1, 1), "latency {latency_us} us");
            let duplicates = world.hosts[one].disconnects.len() + world.hosts[two].disconnects.len();
            assert!(duplicates <= 2, "no more than one link too many was closed");
            world.check_quiet();
        }
    }
}

// ---- bad company ----

/// One honest seeder, one villain, three receivers: everybody finishes. Who banned the villain,
/// and why.
fn in_company_of(conduct: Conduct, time: f64) -> (World, BTreeSet<String>) {
    let mut world = small_world(1);
    let seeder = world.seeder(mbit(10));
    let villain = world.villain(conduct, mbit(50));
    let receivers: Vec<usize> = (0..3).map(|_| world.receiver(mbit(20))).collect();
    world.introduce_all();
    world.run_until_complete(&receivers, seconds(time));
    world.run_for(seconds(60.0));
    let mut reasons = BTreeSet::new();
    for host in receivers.into_iter().chain([seeder]) {
        for (banned, violation) in world.banned(host) {
            assert_eq!(banned, villain, "only the villain is banned ({violation})");
            reasons.insert(violation);
        }
    }
    (world, reasons)
}

#[test]
fn a_corrupting_peer_is_banned_and_nobody_else() {
    let (_, reasons) = in_company_of(Conduct::Corrupting(1), 10.0);
    assert_eq!(reasons, BTreeSet::from(["Corrupt".to_owned()]));
    in_company_of(Conduct::Corrupting(5), 10.0);
}

#[test]
fn a_peer_that_rejects_what_it_announced_is_banned() {
    in_company_of(Conduct::Rejecting, 10.0);
    let mut world = world(1);
    let (_, liar) = (world.seeder(mbit(50)), world.villain(Conduct::Rejecting, mbit(50)));
    let receiver = world.receiver(mbit(50));
    world.introduce_all();
    world.run_until_complete(&[receiver], seconds(10.0));
    assert_eq!(world.banned(receiver), BTreeSet::from([(liar, "Lied".to_owned())]));
}

#[test]
fn a_peer_that_never_answers_is_left_behind() {
    let (_, reasons) = in_company_of(Conduct::Unanswering, 10.0);
    assert!(reasons.is_subset(&BTreeSet::from(["Unresponsive".to_owned()])), "{reasons:?}");
}

#[test]
fn a_silent_peer_is_dropped() {
    let (world, reasons) = in_company_of(Conduct::Silent, 10.0);
    assert!(reasons.is_empty(), "{reasons:?}");
    // Whoever has everything leaves a peer that has everything, too, before it notices the silence.
    let left = |why: &DisconnectReason| matches!(why, DisconnectReason::Silent | DisconnectReason::Done);
    let dropped = |host: &Host| host.disconnects.iter().any(|(_, why)| left(why));
    assert!(world.hosts.iter().any(dropped));
}

#[test]
fn a_flood_of_requests_is_banned() {
    let (_, reasons) = in_company_of(Conduct::Flooding, 10.0);
    assert!(reasons.contains("RequestFlood"), "{reasons:?}");
}

#[test]
fn peers_that_do_not_read_hold_no_upload_slots() {
    let mut world = small_world(1);
    let seeder = world.seeder(mbit(50));
    let stuck: Vec<usize> = (0..8).map(|_| world.villain(Conduct::Stuck, mbit(50))).collect();
    let receiver = world.receiver_at(mbit(50), at(0.5));
    for host in stuck.into_iter().chain([receiver]) {
        world.introduce(host, &[seeder]);
    }
    world.run_until_complete(&[receiver], seconds(10.0));
    assert!(seconds_of(&world, receiver) < 2.5, "{}", seconds_of(&world, receiver));
}

#[test]
fn a_late_piece_is_asked_of_a_second_peer_and_cancelled_at_the_first() {
    let mut world = small_world(1);
    let slow = world.seeder(mbit(1) / 10);
    let fast = world.seeder(mbit(50));
    let receiver = world.receiver(mbit(50));
    world.introduce(receiver, &[slow]);
    world.introduce_at(receiver, &[fast], at(0.1));
    world.run_until_complete(&[receiver], seconds(10.0));
    // From the slow one alone, two pieces take 10 s.
    assert!(seconds_of(&world, receiver) < 3.0, "{}", seconds_of(&world, receiver));
    world.run_for(seconds(20.0));
    world.check_quiet();
}

#[test]
fn a_newcomer_is_served_first() {
    let mut world = world(1);
    let seeder = world.seeder(mbit(10));
    let early: Vec<usize> = (0..6).map(|_| world.receiver(mbit(10))).collect();
    let late = world.receiver_at(mbit(10), at(3.0));
    early.iter().chain([&late]).for_each(|host| world.introduce(*host, &[seeder]));
    let started = |world: &World| world.swarm(late).is_some_and(|swarm| !swarm.have().is_empty());
    assert!(world.run(seconds(10.0), started));
    assert!(world.now < at(3.4), "its first piece came at {}", world.now);
}

#[test]
fn a_hundred_busy_seconds_are_no_silence() {
    // Few large pieces on a slow uplink: each receiver waits for minutes, and nobody is at fault.
    let terms = Terms { chunk: 64 << 10, ..large() };
    let mut world = World::new(terms, pieces(128 * MIB, 16 * 1024 * KIB), 1);
    let have = PieceSet::empty(world.datasets[0].piece_count());
    let seeder = world.seeder(mbit(20));
    let plan = Plan { up: 1000, ..Plan::new(mbit(20), have) };
    let receivers: Vec<usize> = (0..6).map(|_| world.host(plan.clone())).collect();
    receivers.iter().for_each(|host| world.introduce(*host, &[seeder]));
    world.run_for(seconds(200.0));
    for receiver in receivers {
        assert!(world.banned(receiver).is_empty(), "{:?}", world.banned(receiver));
    }
}

#[test]
fn the_only_source_may_send_one_corrupt_piece() {
    let mut world = small_world(1);
    let (seeder, receiver) = (world.villain(Conduct::Corrupting(10), mbit(50)), world.receiver(mbit(50)));
    world.introduce(receiver, &[seeder]);
    world.run_until_complete(&[receiver], seconds(20.0));
    assert!(world.banned(receiver).is_empty());
}

#[test]
fn the_window_grows_with_a_fast_peer_and_stays_small_with_a_slow_one() {
    let waiting = |rate: u64| {
        let mut world = world(1);
        let (seeder, receiver) = (world.seeder(rate), world.receiver(mbit(10_000)));
        world.introduce(receiver, &[seeder]);
        world.run_for(seconds(0.1));
        (0..20)
            .map(|_| {
                world.run_for(seconds(0.003));
                world.waiting(receiver)
            })
            .max()
            .unwrap()
    };
    assert!(waiting(mbit(1)) <= 2, "{}", waiting(mbit(1)));
    assert!(waiting(mbit(500)) >= 8, "{}", waiting(mbit(500)));
}

// ---- the network itself ----

#[test]
fn flows_share_what_limits_them() {
    // A seeder of 80 Mbit/s feeds one receiver of 10 and two of 100: 10, 35 and 35 Mbit/s are the
    // max-min fair shares, wherever what is too much for the slow one waits.
    for queue_max in [None, Some(Duration::from_millis(50))] {
        let terms = Terms { upload_slots: 16, queue_max, ..large() };
        flows_share(World::new(terms, pieces(8 * MIB, 64 * KIB), 1));
    }
}

fn flows_share(mut world: World) {
    let seeder = world.seeder(mbit(80));
    let plan = |down| Plan { up: 1000, down, ..Plan::new(0, PieceSet::empty(128)) };
    let slow = world.host(plan(mbit(10)));
    let fast = [world.host(plan(mbit(100))), world.host(plan(mbit(100)))];
    [slow].iter().chain(&fast).for_each(|host| world.introduce(*host, &[seeder]));
    world.run_until_complete(&fast, seconds(30.0));
    for host in fast {
        let share = ratio(8 * MIB, mbit(35)) / seconds_of(&world, host);
        assert!((0.85..1.1).contains(&share), "{share} of its fair share");
    }
}

// ---- sites ----

#[test]
fn what_crosses_a_trunk_leaves_its_gateway_once() {
    let mut world = World::new(large(), pieces(16 * MIB, 64 * KIB), 1);
    world.add_trunk(0, 1, mbit(50), Duration::from_millis(1));
    world.seeder(mbit(100));
    let far: Vec<usize> =
        (0..6).map(|_| world.host(Plan { site: 1, ..Plan::new(mbit(100), PieceSet::empty(256)) })).collect();
    world.introduce_all();
    world.run_until_complete(&far, seconds(60.0));
    let most = far.iter().map(|host| copies(&world, *host)).fold(0.0, f64::max);
    println!("the gateway sent {most:.2} copies to the five others");
    assert!(most < 1.5, "{most}");
    let slowest = far.iter().map(|host| seconds_of(&world, *host)).fold(0.0, f64::max);
    assert!(slowest / ratio(16 * MIB, mbit(50)) < 1.2, "{slowest}");
}

#[test]
fn pieces_entrusted_to_a_peer_that_dies_reach_its_site() {
    let mut world = world(1);
    world.add_trunk(0, 1, mbit(50), Duration::from_millis(1));
    world.seeder(mbit(100));
    let far: Vec<usize> =
        (0..4).map(|_| world.host(Plan { site: 1, ..Plan::new(mbit(100), PieceSet::empty(256)) })).collect();
    world.introduce_all();
    for (number, host) in far.iter().enumerate().skip(1).take(2) {
        world.crash_at(*host, at(0.5 + 0.4 * f64::from(u8::try_from(number).unwrap())));
    }
    world.run_until_complete(&[far[0], far[3]], seconds(60.0));
}

#[test]
fn each_piece_crosses_to_another_large_site_about_once() {
    let mut world = World::new(large(), pieces(16 * MIB, 64 * KIB), 1);
    world.add_trunk(0, 1, mbit(400), Duration::from_millis(1));
    let seeder = world.seeder(mbit(100));
    let hosts: Vec<usize> = (0..100)
        .map(|number| world.host(Plan { site: number % 2, ..Plan::new(mbit(100), PieceSet::empty(256)) }))
        .collect();
    world.add_tracker();
    for host in &hosts {
        world.introduce(*host, &[seeder]);
    }
    world.run_until_complete(&hosts, seconds(60.0));
    let crossed = ratio(world.record.total.crossed, 16 * MIB);
    println!("{crossed:.2} copies over the trunk");
    assert!(crossed < 1.25, "{crossed}");
}

// ---- many who want next to nothing ----

/// What a seeder sends of one piece of 4 KiB, in copies, to a hundred hosts that start within `spread`
/// seconds, and when the last has it.
fn crowd_for_one_piece(seed: u64, spread: f64) -> (f64, f64) {
    let mut world = World::new(Terms::default(), pieces(4096, 4 * KIB), seed);
    world.add_tracker();
    let seeder = world.seeder(mbit(1000));
    let start = |number: u32| at(spread * f64::from(number) / 100.0);
    let crowd: Vec<usize> = (0..100).map(|number| world.receiver_at(mbit(1000), start(number))).collect();
    crowd.iter().for_each(|host| world.introduce(*host, &[seeder]));
    world.run_until_complete(&crowd, seconds(30.0));
    let last = crowd.iter().map(|host| seconds_of(&world, *host)).fold(0.0, f64::max);
    (copies(&world, seeder), last)
}

#[test]
fn a_crowd_that_wants_one_piece_spares_its_origin() {
    for spread in [0.0, 0.3, 1.0, 3.0] {
        for seed in 1..=5 {
            let (copies, last) = crowd_for_one_piece(seed, spread);
            println!("a hundred within {spread} s, seed {seed}: {copies} copies, the last took {last:.3} s");
            assert!(copies <= 5.0, "{copies} copies left the origin");
            assert!(last < 0.1, "{last} s for a piece");
        }
    }
}
