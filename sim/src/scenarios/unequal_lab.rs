//! Slow hosts among fast ones, as the laboratory has them: each class has its own bound. To be held against
//! `cargo bench -p dft --bench compare -- H`.

use super::{Goal, KIB, Scenario, Setup, lab, pieces, seconds};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "unequal-lab",
    about: "6 hosts of 50 Mbit/s, the seeder among them, and 5 of 20, as in the laboratory",
    slow: false,
    build,
};

fn build(seed: u64) -> Setup {
    let mut world = World::new(lab(64 * KIB), pieces(1024, 64 * KIB), seed);
    world.seeder(mbit(50));
    for number in 0..10 {
        world.receiver(mbit([50, 20][number % 2]));
    }
    world.introduce_all();
    Setup {
        bound_s: seconds(world.datasets[0].total_bytes(), mbit(20)),
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::Own(1.1), Goal::Last(1.1)],
    }
}
