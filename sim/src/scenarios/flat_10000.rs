//! Far beyond what dft is made for: 10,000 hosts, 500 pieces, one seeder, one tracker.

use super::{Goal, MIB, Scenario, Setup, equal_bound_s, large, pieces};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "flat-10000", about: "10,000 equal hosts of 1 Gbit/s, 500 pieces", slow: true, build };

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(MIB), pieces(500, MIB), seed);
    world.add_tracker();
    let seeder = world.seeder(mbit(1000));
    for _ in 0..10_000 {
        let host = world.receiver(mbit(1000));
        world.introduce(host, &[seeder]);
    }
    Setup {
        bound_s: equal_bound_s(&world, mbit(1000)),
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::Last(1.15)],
    }
}
