//! Thirty-two hosts of 20 Mbit/s as the laboratory of namespaces has them: headers on every wire, and one
//! machine of two cores for all of them. To be held against `cargo bench -p dft --bench compare -- K`.

use super::{Goal, KIB, Scenario, Setup, equal_bound_s, lab, pieces};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "lan-32-lab",
    about: "32 hosts of 20 Mbit/s with headers, and two cores for all, as in the laboratory",
    slow: false,
    build,
};

fn build(seed: u64) -> Setup {
    let mut world = World::new(lab(64 * KIB), pieces(1024, 64 * KIB), seed);
    world.seeder(mbit(20));
    (0..32).for_each(|_| {
        world.receiver(mbit(20));
    });
    world.introduce_all();
    Setup {
        bound_s: equal_bound_s(&world, mbit(20)),
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::Last(1.12), Goal::SeederCopies(1.1)],
    }
}
