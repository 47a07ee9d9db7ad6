//! Two small sites, joined by a trunk that is no faster than one host: what crosses it twice is lost
//! time.

use super::{Goal, KIB, Scenario, Setup, equal_bound_s, large, pieces};
use crate::world::{Plan, World, mbit};
use dft_protocol::piece_set::PieceSet;
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "thin-trunk",
    about: "2 x 10 hosts of 100 Mbit/s, with a trunk of 50 Mbit/s",
    slow: false,
    build,
};

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(64 * KIB), pieces(1000, 64 * KIB), seed);
    world.add_tracker();
    world.add_trunk(0, 1, mbit(50), Duration::from_millis(2));
    let seeder = world.seeder(mbit(100));
    for number in 0..20 {
        let host = world.host(Plan { site: number % 2, ..Plan::new(mbit(100), PieceSet::empty(1000)) });
        world.introduce(host, &[seeder]);
    }
    Setup {
        bound_s: equal_bound_s(&world, mbit(50)),
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::TrunkCopies(1.1), Goal::Last(1.15)],
    }
}
