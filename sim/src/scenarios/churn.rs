//! Hosts come and go: each second some are killed, and come back with what was durable.

use super::{Goal, KIB, Scenario, Setup, at, equal_bound_s, large, pieces};
use crate::world::{World, mbit};
use dft_protocol::time::Duration;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "churn",
    about: "100 hosts of 20 Mbit/s; every minute 5% of them are killed, and come back 5 s later",
    slow: false,
    build,
};

fn build(seed: u64) -> Setup {
    let mut dice = Xoshiro256StarStar::seed_from_u64(seed);
    let mut world = World::new(large(256 * KIB), pieces(1000, 256 * KIB), seed);
    world.add_tracker();
    let seeder = world.seeder(mbit(20));
    for _ in 0..100 {
        let host = world.receiver(mbit(20));
        world.introduce(host, &[seeder]);
    }
    for minute in 0..5u32 {
        for _ in 0..5 {
            let host = dice.random_range(1..=100);
            let killed = 60.0 * f64::from(minute) + dice.random_range(0.0..60.0);
            world.crash_at(host, at(killed));
            world.start_at(host, at(killed + 5.0));
            world.introduce_at(host, &[seeder], at(killed + 5.0));
        }
    }
    Setup {
        bound_s: equal_bound_s(&world, mbit(20)),
        world,
        deadline: Duration::from_secs(600),
        leave: Vec::new(),
        goals: vec![Goal::Last(1.3)],
    }
}
