//! tune
use super::{Goal, KIB, Scenario, Setup, equal_bound_s, large, pieces};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;
pub(super) const SCENARIO: Scenario = Scenario { name: "t128", about: "t", slow: true, build };
fn build(seed: u64) -> Setup {
    let mut world = World::new(large(512 * KIB), pieces(500, 512 * KIB), seed);
    world.add_tracker();
    let seeder = world.seeder(mbit(1000));
    for _ in 0..128 {
        let host = world.receiver(mbit(1000));
        world.introduce(host, &[seeder]);
    }
    Setup {
        bound_s: equal_bound_s(&world, mbit(1000)),
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::Last(1.08), Goal::SeederCopies(2.0)],
    }
}
