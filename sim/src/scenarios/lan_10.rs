//! The everyday case: ten workstations on one switch fetch what an eleventh has.

use super::{Goal, KIB, Scenario, Setup, equal_bound_s, large, pieces};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "lan-10", about: "10 equal hosts on one LAN of 50 Mbit/s, 64 MiB", slow: false, build };

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(64 * KIB), pieces(1024, 64 * KIB), seed);
    world.seeder(mbit(50));
    (0..10).for_each(|_| {
        world.receiver(mbit(50));
    });
    world.introduce_all();
    Setup {
        bound_s: equal_bound_s(&world, mbit(50)),
        world,
        deadline: Duration::from_secs(60),
        leave: Vec::new(),
        goals: vec![Goal::Last(1.03), Goal::SeederCopies(1.1)],
    }
}
