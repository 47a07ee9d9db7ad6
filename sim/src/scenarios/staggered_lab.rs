//! Hosts that come one after the other, as in the laboratory: each should finish as soon as its own wires allow. To
//! be held against `cargo bench -p dft --bench compare -- G`.

use super::{Goal, KIB, Scenario, Setup, at, lab, pieces, seconds};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "staggered-lab",
    about: "10 hosts of 50 Mbit/s that start 0 to 5 s after the seeder, as in the laboratory",
    slow: false,
    build,
};

/// When the last one starts, in seconds.
const LAST_S: f64 = 5.0;

fn build(seed: u64) -> Setup {
    let mut world = World::new(lab(64 * KIB), pieces(1024, 64 * KIB), seed);
    let seeder = world.seeder(mbit(50));
    for number in 0..10u32 {
        let host = world.receiver_at(mbit(50), at(LAST_S * f64::from(number) / 9.0));
        world.introduce(host, &[seeder]);
    }
    Setup {
        bound_s: LAST_S + seconds(world.datasets[0].total_bytes(), mbit(50)),
        world,
        deadline: Duration::from_secs(120),
        leave: Vec::new(),
        goals: vec![Goal::Own(1.1)],
    }
}
