//! A crowd that comes at once, when ten hosts are in the middle of it.

use super::{Goal, KIB, Scenario, Setup, at, large, pieces, seconds};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "flash-crowd",
    about: "10 hosts of 100 Mbit/s, and 190 more that start at the same moment 3 s later",
    slow: false,
    build,
};

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(128 * KIB), pieces(500, 128 * KIB), seed);
    world.add_tracker();
    let seeder = world.seeder(mbit(100));
    for number in 0..200 {
        let start = if number < 10 { at(0.0) } else { at(3.0) };
        let host = world.receiver_at(mbit(100), start);
        world.introduce(host, &[seeder]);
    }
    Setup {
        bound_s: 3.0 + seconds(world.datasets[0].total_bytes(), mbit(100)),
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::Own(1.2)],
    }
}
