//! Two clusters of 256 nodes, joined by a trunk that carries a tenth of what one of them can send.

use super::{Goal, KIB, Scenario, Setup, equal_bound_s, large, pieces};
use crate::world::{Plan, World, mbit};
use dft_protocol::piece_set::PieceSet;
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "two-sites",
    about: "2 x 256 hosts of 1 Gbit/s, with a trunk of a tenth of a site's rate",
    slow: true,
    build,
};

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(512 * KIB), pieces(512, 512 * KIB), seed);
    world.add_tracker();
    world.add_trunk(0, 1, 256 * mbit(1000) / 10, Duration::from_millis(2));
    let seeder = world.seeder(mbit(1000));
    for number in 0..512 {
        let host = world.host(Plan { site: number % 2, ..Plan::new(mbit(1000), PieceSet::empty(512)) });
        world.introduce(host, &[seeder]);
    }
    Setup {
        bound_s: equal_bound_s(&world, mbit(1000)),
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::TrunkCopies(1.1), Goal::Last(1.15)],
    }
}
