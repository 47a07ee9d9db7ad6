//! One host in five is evil, in every way that there is.

use super::{Goal, KIB, Scenario, Setup, equal_bound_s, large, pieces};
use crate::world::{Conduct, World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "hostile",
    about: "80 honest hosts and 20 evil ones of 50 Mbit/s: corrupt, lying, mute, flooding, flapping",
    slow: false,
    build,
};

const CONDUCTS: [Conduct; 7] = [
    Conduct::Corrupting(1),
    Conduct::Corrupting(100),
    Conduct::Rejecting,
    Conduct::Unanswering,
    Conduct::Flooding,
    Conduct::Stuck,
    Conduct::Flapping,
];

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(128 * KIB), pieces(500, 128 * KIB), seed);
    world.add_tracker();
    let seeder = world.seeder(mbit(50));
    for number in 0..100 {
        let host = if number % 5 == 4 {
            world.villain(CONDUCTS[number / 5 % CONDUCTS.len()], mbit(50))
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
