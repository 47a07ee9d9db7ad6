//! Hosts of four generations: the slow ones must not slow the fast ones.

use super::{Goal, KIB, Scenario, Setup, large, pieces, seconds};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "mixed-rates",
    about: "a seeder of 1 Gbit/s and 40 hosts of 20, 50, 100 and 1,000 Mbit/s",
    slow: false,
    build,
};

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(256 * KIB), pieces(500, 256 * KIB), seed);
    world.add_tracker();
    let seeder = world.seeder(mbit(1000));
    for number in 0..40 {
        let host = world.receiver(mbit([20, 50, 100, 1000][number % 4]));
        world.introduce(host, &[seeder]);
    }
    Setup {
        bound_s: seconds(world.datasets[0].total_bytes(), mbit(20)),
        world,
        deadline: Duration::from_secs(300),
        leave: Vec::new(),
        goals: vec![Goal::Last(1.1)],
    }
}
