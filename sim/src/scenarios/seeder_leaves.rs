//! The seeder leaves when it has sent each piece about once: the others have to do with that.

use super::{Goal, KIB, Scenario, Setup, at, equal_bound_s, large, pieces};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "seeder-leaves",
    about: "20 hosts of 100 Mbit/s, and a seeder that goes when 1.1 copies may have left it",
    slow: false,
    build,
};

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(128 * KIB), pieces(500, 128 * KIB), seed);
    world.add_tracker();
    let seeder = world.seeder(mbit(100));
    for _ in 0..20 {
        let host = world.receiver(mbit(100));
        world.introduce(host, &[seeder]);
    }
    let bound_s = equal_bound_s(&world, mbit(100));
    world.crash_at(seeder, at(1.1 * bound_s));
    Setup {
        bound_s,
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::Last(1.15), Goal::SeederCopies(1.1)],
    }
}
