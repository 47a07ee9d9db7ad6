//! Two small sites as the laboratory of namespaces has them, to be held against its scenario I.

use super::{Goal, KIB, Scenario, Setup, equal_bound_s, lab, pieces};
use crate::world::{Plan, World, mbit};
use dft_protocol::piece_set::PieceSet;
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "two-sites-lab",
    about: "2 x 5 hosts of 200 Mbit/s, a trunk of 100 Mbit/s, 256 MiB, headers and two cores",
    slow: false,
    build,
};

const PIECES: usize = 2048;

fn build(seed: u64) -> Setup {
    let mut world = World::new(lab(128 * KIB), pieces(PIECES, 128 * KIB), seed);
    world.add_trunk(0, 1, mbit(100), Duration::ZERO);
    for number in 0..10 {
        let have = if number == 0 { PieceSet::full(PIECES) } else { PieceSet::empty(PIECES) };
        world.host(Plan { site: number / 5, ..Plan::new(mbit(200), have) });
    }
    world.introduce_all();
    Setup {
        bound_s: equal_bound_s(&world, mbit(100)),
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::TrunkCopies(1.1), Goal::Last(1.15)],
    }
}
