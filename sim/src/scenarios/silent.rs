//! Nearly a third says nothing: links come up, and then there is silence.

use super::{Goal, KIB, Scenario, Setup, equal_bound_s, large, pieces};
use crate::world::{Conduct, World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "silent", about: "70 honest hosts and 30 silent ones, 50 Mbit/s", slow: false, build };

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(128 * KIB), pieces(500, 128 * KIB), seed);
    world.add_tracker();
    let seeder = world.seeder(mbit(50));
    for number in 0..100 {
        let host = if number % 10 >= 7 {
            world.villain(Conduct::Silent, mbit(50))
        } else {
            world.receiver(mbit(50))
        };
        world.introduce(host, &[seeder]);
    }
    Setup {
        bound_s: equal_bound_s(&world, mbit(50)),
        world,
        deadline: Duration::from_secs(240),
        leave: Vec::new(),
        goals: vec![Goal::Last(1.5)],
    }
}
