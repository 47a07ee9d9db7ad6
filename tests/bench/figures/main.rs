//! The figures that dft promises, measured on this machine and printed beside their bounds.
//!
//! ```text
//! cargo bench -p dft                        # all of them
//! cargo bench -p dft -- swarm link --runs 5 # some, with 5 runs each
//! ```
//!
//! Every scenario is a function from the number of runs to rows of one table: [`swarm`] for ten
//! shaped hosts, [`link`] for one pair of processes, [`hashing`], [`memory`], [`small`] for how
//! soon a tiny file is there, [`names`] for a large catalogue, [`crowd`] for many at once, [`datasets`] for
//! a daemon with very many, [`reading`] for what is read while it is fetched. Times and costs are medians, with the smallest and the largest.

#![allow(unreachable_pub, reason = "a bench has no one to export to")]

#[allow(dead_code, reason = "shared with the end-to-end tests, which use other parts of it")]
#[path = "../../lab/mod.rs"]
mod lab;

mod crowd;
mod datasets;
mod hashing;
mod link;
#[allow(dead_code, reason = "shared with the comparison")]
#[path = "../machine.rs"]
mod machine;
mod memory;
mod names;
mod reading;
mod small;
mod swarm;
#[allow(dead_code, reason = "shared with the comparison")]
#[path = "../table.rs"]
mod table;

use table::Table;

/// A name on the command line, what it measures, how often by default, and how.
struct Scenario {
    name: &'static str,
    about: &'static str,
    runs: usize,
    measure: fn(usize) -> Vec<Table>,
}

const SCENARIOS: [Scenario; 10] = [
    Scenario {
        name: "swarm",
        about: "10 receivers, each host shaped to 50 Mbit/s both ways, one file of 64 MiB",
        runs: 3,
        measure: swarm::one_file,
    },
    Scenario {
        name: "tiny",
        about: "the same with the 64 MiB as 20,000 files of 0-8 KiB",
        runs: 3,
        measure: swarm::tiny_files,
    },
    Scenario {
        name: "link",
        about: "one fetcher, 1 GiB, loopback, in memory",
        runs: 5,
        measure: link::measure,
    },
    Scenario { name: "hashing", about: "seed 2 GiB in the page cache", runs: 3, measure: hashing::measure },
    Scenario { name: "memory", about: "a sparse dataset of 20 GiB", runs: 1, measure: memory::measure },
    Scenario {
        name: "small",
        about: "a file of 4 KiB, from process start to exit",
        runs: 20,
        measure: small::measure,
    },
    Scenario {
        name: "names",
        about: "a catalogue with 100,000 names, one tracker, loopback",
        runs: 5,
        measure: names::measure,
    },
    Scenario {
        name: "crowd",
        about: "100 nodes get one small file at once; one command gets 100 of them",
        runs: 3,
        measure: crowd::measure,
    },
    Scenario {
        name: "datasets",
        about: "a daemon that holds 5,000 and then 20,000 datasets of 200 bytes",
        runs: 5,
        measure: datasets::measure,
    },
    Scenario {
        name: "reading",
        about: "a file that is read while it is fetched, of one holder, and not kept",
        runs: 3,
        measure: reading::measure,
    },
];

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` says so; `cargo test --all-targets` starts this program too.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("nothing is measured: run it by `cargo bench -p dft`");
        return;
    }
    arguments.retain(|argument| argument != "--bench");
    let (names, runs) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(problem) => {
            eprintln!("error: {problem}\nhint: cargo bench -p dft -- [SCENARIO]… [--runs N]\n");
            for scenario in SCENARIOS {
                eprintln!("  {:8} {}", scenario.name, scenario.about);
            }
            std::process::exit(2);
        }
    };
    println!("{}\n", machine::describe());
    for scenario in SCENARIOS {
        if names.is_empty() || names.iter().any(|name| name == scenario.name) {
            let runs = runs.unwrap_or(scenario.runs);
            println!("## {}: {} (runs: {runs})\n", scenario.name, scenario.about);
            for table in (scenario.measure)(runs) {
                println!("{table}");
            }
        }
    }
}

fn parse(arguments: Vec<String>) -> Result<(Vec<String>, Option<usize>), String> {
    let (mut names, mut runs) = (Vec::new(), None);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--runs" {
            let count = arguments.next().and_then(|count| count.parse().ok()).filter(|&count| count > 0);
            runs = Some(count.ok_or("--runs takes a number")?);
        } else if SCENARIOS.iter().any(|scenario| scenario.name == argument) {
            names.push(argument);
        } else {
            return Err(format!("there is no scenario «{argument}»"));
        }
    }
    Ok((names, runs))
}
