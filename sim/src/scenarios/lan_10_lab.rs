//! The same ten workstations as the laboratory of namespaces has them: headers on every wire, and one
//! machine of two cores for all of them. To be held against `cargo bench -p dft -- swarm`.

use super::{Goal, KIB, Scenario, Setup, equal_bound_s, large, pieces};
use crate::world::{Cpu, Terms, World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "lan-10-lab",
    about: "lan-10 with headers, and two cores for all hosts, as in the laboratory",
    slow: false,
    build,
};

fn build(seed: u64) -> Setup {
    let cpu = Cpu {
        cores: 2,
        message: Duration::from_micros(20),
        mebibyte: Duration::from_micros(2_500),
        link: Duration::from_millis(3),
    };
    let terms = Terms { overhead: 1.045, cpu: Some(cpu), ..large(64 * KIB) };
    let mut world = World::new(terms, pieces(1024, 64 * KIB), seed);
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
