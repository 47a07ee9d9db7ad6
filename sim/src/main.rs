//! `dft-sim`: scenarios, random worlds, and the replay of what went wrong.

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use clap::{Parser, Subcommand};
use dft_sim::random::{self, Failure};
use dft_sim::{compare, plot, scenarios};

/// Runs swarms of dft in virtual time.
#[derive(Parser)]
#[command(name = "dft-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the scenarios.
    List,
    /// Runs scenarios, and prints what they gave beside the bound.
    Run {
        /// Their names; «all» stands for all that take less than a minute.
        #[arg(required = true)]
        scenarios: Vec<String>,
        /// What all random choices follow from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Draws the run of one scenario into this file (SVG).
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
    },
    /// Runs random worlds: the seed chooses hosts, network and faults.
    Random {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        count: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// How many at once: a number, or «all-cores».
        #[arg(long, default_value = "all-cores", value_parser = jobs)]
        jobs: NonZeroUsize,
    },
    /// Runs the random world of a seed, and tells what went wrong.
    Replay {
        /// The seed.
        seed: u64,
    },
    /// Holds the simulator against measurements of the real dft.
    Compare {
        /// What `cargo bench -p dft --bench compare -- … --json FILE` wrote.
        #[arg(long, value_name = "FILE")]
        real: PathBuf,
    },
}

fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    if text == "all-cores" {
        return std::thread::available_parallelism().map_err(|error| error.to_string());
    }
    text.parse().map_err(|_| "a number above 0, or «all-cores»".to_owned())
}

/// Each event of a large swarm is at another place of hundreds of megabytes. In pages of 2 MiB the processor
/// finds it sooner; glibc asks the kernel for these where it was told so before the start.
const LARGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

/// Starts this program again, with its memory in large pages, unless somebody chose already.
fn restart_with_large_pages() {
    let (name, value) = LARGE_PAGES;
    if std::env::var_os(name).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // It comes back only where that failed: then pages are small.
        let _ = process::Command::new(program).args(std::env::args_os().skip(1)).env(name, value).exec();
    }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::List => list(),
        Command::Run { scenarios, seed, plot } => {
            restart_with_large_pages();
            run(&scenarios, seed, plot.as_deref())
        }
        Command::Random { count, first, jobs } => run_random(first, count, jobs),
        Command::Replay { seed } => replay(seed),
        Command::Compare { real } => compare::run(&real).map(|table| {
            print!("{table}");
            table.is_good()
        }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("dft-sim: {message}");
            ExitCode::from(2)
        }
    }
}

fn list() -> Result<bool, String> {
    for scenario in scenarios::ALL {
        println!("{:15} {}", scenario.name, scenario.about);
    }
    Ok(true)
}

fn run(names: &[String], seed: u64, plot_file: Option<&std::path::Path>) -> Result<bool, String> {
    let mut chosen = Vec::new();
    for name in names {
        if name == "all" {
            chosen.extend(scenarios::ALL.into_iter().filter(|scenario| !scenario.slow));
        } else {
            chosen.push(scenarios::find(name).ok_or_else(|| {
                format!("there is no scenario «{name}»\nhint: `dft-sim list` prints them all")
            })?);
        }
    }
    if plot_file.is_some() && chosen.len() != 1 {
        return Err("--plot draws one scenario".to_owned());
    }
    let mut good = true;
    for scenario in chosen {
        println!("{}, seed {seed}: {}", scenario.name, scenario.about);
        let started = Instant::now();
        let outcome = (scenario.build)(seed).run();
        println!("{outcome}took            {:8.3} s\n", started.elapsed().as_secs_f64());
        good &= outcome.is_good();
        if let Some(file) = plot_file {
            let title = format!("{}, seed {seed}: {}", scenario.name, scenario.about);
            std::fs::write(file, plot::svg(&title, &outcome))
                .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        }
    }
    Ok(good)
}

/// Runs the seeds from `first` on, on several threads; the first failure ends it.
fn run_random(first: u64, count: u64, jobs: NonZeroUsize) -> Result<bool, String> {
    quiet_panics();
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let end = first.saturating_add(count);
    let (sender, results) = mpsc::channel();
    let mut failures: Vec<Box<Failure>> = Vec::new();
    let (mut done, mut events) = (0u64, 0u64);
    std::thread::scope(|scope| {
        for _ in 0..jobs.get() {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || sender.send(random::run(seed, None)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for result in results {
            done += 1;
            match result {
                Ok(passed) => events += passed.events,
                Err(failure) => {
                    next.store(end, Ordering::Relaxed);
                    failures.push(failure);
                }
            }
            progress(done, count, events, started);
        }
    });
    clear_progress();
    failures.sort_by_key(|failure| failure.seed);
    match failures.first() {
        Some(failure) => {
            println!("{failure}");
            Ok(false)
        }
        None => {
            let time = started.elapsed().as_secs_f64();
            println!("{done} random worlds are safe, and everybody finished: {events} events in {time:.1} s");
            Ok(true)
        }
    }
}

fn progress(done: u64, count: u64, events: u64, started: Instant) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() && (done.is_multiple_of(16) || done == count) {
        let time = started.elapsed().as_secs_f64();
        let _ = write!(terminal, "\r{done} of {count} worlds, {events} events, {time:.0} s");
        let _ = terminal.flush();
    }
}

fn clear_progress() {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let _ = write!(terminal, "\r\x1b[K");
    }
}

fn replay(seed: u64) -> Result<bool, String> {
    quiet_panics();
    match random::run(seed, None) {
        Ok(passed) => {
            let (events, at) = (passed.events, passed.ended_at);
            println!("seed {seed}: all is well, {events} events, {at}, trace {:016x}", passed.trace);
            Ok(true)
        }
        Err(failure) => {
            println!("{failure}");
            Ok(false)
        }
    }
}

/// A broken rule is told with its seed; where the assertion stands is in its text.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}
