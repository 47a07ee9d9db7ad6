//! Newcomers one by one: each should finish as soon as its own wires allow.

use super::{Goal, KIB, Scenario, Setup, at, large, pieces, seconds};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "trickle", about: "30 hosts of 100 Mbit/s, one more every 700 ms", slow: false, build };

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(128 * KIB), pieces(500, 128 * KIB), seed);
    world.add_tracker();
    let seeder = world.seeder(mbit(100));
    for number in 0..30u32 {
        let host = world.receiver_at(mbit(100), at(0.7 * f64::from(number)));
        world.introduce(host, &[seeder]);
    }
    Setup {
        bound_s: 29.0 * 0.7 + seconds(world.datasets[0].total_bytes(), mbit(100)),
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::Own(1.2)],
    }
}
