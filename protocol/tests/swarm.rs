//! Swarms in a small world, as stories: who gets what from whom, and what faults cost.

mod world;

use dft_protocol::time::Duration;
use world::{Terms, World, mbit};

const KIB: u32 = 1 << 10;
const MIB: u64 = 1 << 20;

/// `bytes` in pieces of `piece` bytes.
fn pieces(bytes: u64, piece: u32) -> Vec<u32> {
    vec![piece; usize::try_from(bytes / u64::from(piece)).unwrap()]
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// 1 seeder and 10 receivers, all at 50 Mbit/s: the time over the bound, and the copies sent.
fn ten_equal(bytes: u64, terms: Terms, seed: u64) -> (f64, f64) {
    let mut world = World::new(terms, pieces(bytes, 64 * KIB), seed);
    let seeder = world.seeder(mbit(50));
    let receivers: Vec<usize> = (0..10).map(|_| world.receiver(mbit(50))).collect();
    world.introduce_all();
    let bound = bytes as f64 / mbit(50) as f64;
    world.run_until_complete(&receivers, seconds(bound * 10.0));
    let slowest = receivers.iter().map(|receiver| world.seconds(*receiver)).fold(0.0, f64::max);
    (slowest / bound, world.hosts[seeder].sent as f64 / bytes as f64)
}

#[test]
fn ten_equal_receivers_come_close_to_the_bound() {
    for (slots, socket_buffer) in [(4, 128 << 10)] {
        let terms = Terms { check_every: 1024, upload_slots: slots, socket_buffer, ..Terms::default() };
        let (ratio, copies) = ten_equal(64 * MIB, terms, 1);
        println!("slots {slots} buffer {socket_buffer}: {ratio:.3} x the bound, {copies:.3} copies");
    }
}
