//! `dft-sim`: runs scenarios and random worlds.

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    for name in &args[1..] {
        let scenario = dft_sim::scenarios::find(name).unwrap();
        let started = Instant::now();
        let outcome = (scenario.build)(1).run();
        println!("{}: {}\n{outcome}real time       {:8.3} s\n", scenario.name, scenario.about, started.elapsed().as_secs_f64());
    }
    ExitCode::SUCCESS
}
