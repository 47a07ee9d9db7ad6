//! A thousand random worlds: safe at every event, and everybody finishes; and each seed gives the
//! same world every time.

use dft_sim::random;
use dft_sim::scenarios;

/// `dft-sim random` runs as many as one likes.
fn random_worlds(seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        if let Err(failure) = random::run(seed, None) {
            panic!("{failure}");
        }
    }
}

#[test]
fn random_worlds_are_safe_and_everybody_finishes_1() {
    random_worlds(0..500);
}

#[test]
fn random_worlds_are_safe_and_everybody_finishes_2() {
    random_worlds(500..1000);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut traces = Vec::new();
    for seed in 0..50 {
        let (once, again) = (random::run(seed, None).unwrap(), random::run(seed, None).unwrap());
        assert_eq!(once, again, "seed {seed}");
        traces.push(once.trace);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 50, "and each seed another one");
}

#[test]
fn a_scenario_gives_the_same_trace() {
    let scenario = scenarios::find("lan-10").unwrap();
    assert_eq!((scenario.build)(7).run().trace, (scenario.build)(7).run().trace);
}
