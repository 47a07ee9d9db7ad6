//! Twenty small datasets at once, on the same hosts and wires.

use super::{Goal, KIB, Scenario, Setup, large, pieces, seconds};
use crate::world::{Plan, World, mbit};
use dft_protocol::piece_set::PieceSet;
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "many-datasets",
    about: "20 datasets of 20 pieces at once, from one seeder to 10 hosts of 100 Mbit/s",
    slow: false,
    build,
};

const DATASETS: usize = 20;
const PIECES: usize = 20;

fn build(seed: u64) -> Setup {
    let mut world = World::new(large(64 * KIB), pieces(PIECES, 64 * KIB), seed);
    (1..DATASETS).for_each(|_| {
        world.add_dataset(pieces(PIECES, 64 * KIB));
    });
    let mut machines = Vec::new();
    for dataset in 0..DATASETS {
        for machine in 0..11 {
            let have = if machine == 0 { PieceSet::full(PIECES) } else { PieceSet::empty(PIECES) };
            let plan = Plan { dataset, shares: machines.get(machine).copied(), ..Plan::new(mbit(100), have) };
            let host = world.host(plan);
            if dataset == 0 {
                machines.push(host);
            }
        }
    }
    world.introduce_all();
    let total: u64 = world.datasets.iter().map(dft_protocol::geometry::Geometry::total_bytes).sum();
    Setup {
        bound_s: seconds(total, mbit(100)),
        world,
        deadline: Duration::from_secs(60),
        leave: Vec::new(),
        goals: vec![Goal::Last(1.2), Goal::SeederCopies(1.2)],
    }
}
