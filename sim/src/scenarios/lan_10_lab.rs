//! The same ten workstations as the laboratory of namespaces has them: headers on every wire, and one
//! machine of two cores for all of them. To be held against `cargo bench -p dft --bench compare -- A`.

use super::{Goal, KIB, Scenario, Setup, equal_bound_s, lab, pieces};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "lan-10-lab",
    about: "lan-10 with headers, and two cores for all hosts, as in the laboratory",
    slow: false,
    build,
};

fn build(seed: u64) -> Setup {
    let mut world = World::new(lab(64 * KIB), pieces(1024, 64 * KIB), seed);
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
        goals: vec![Goal::Last(1.08), Goal::SeederCopies(1.1)],
    }
}
