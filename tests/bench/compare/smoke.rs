//! Whether the comparison works at all, as a test: three receivers, two peers, a minute at most.
//!
//! `cargo test` starts this program without `--bench`; it then behaves as a test program with this
//! one test, as far as `cargo test` and `cargo nextest` ask.

use std::path::Path;
use std::process::Command;

use crate::lab::Lab;
use crate::record::Record;

const NAME: &str = "comparison_measures_and_checks_copies";
/// Set to 1, a laboratory that cannot be made fails the test; otherwise it is skipped by name.
const REQUIRE_LAB: &str = "DFT_REQUIRE_LAB";

/// The test program.
pub fn main(arguments: &[String]) -> Result<(), String> {
    let asked = |option: &str| arguments.iter().any(|argument| argument == option);
    if asked("--list") {
        if !asked("--ignored") {
            println!("{NAME}: test");
        }
        return Ok(());
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = filters.is_empty() || filters.iter().any(|filter| NAME.contains(filter.as_str()));
    if !wanted || asked("--ignored") {
        return Ok(());
    }
    if let Err(reason) = Lab::available() {
        if std::env::var_os(REQUIRE_LAB).is_some_and(|value| value == "1") {
            return Err(format!("{NAME} needs a network laboratory ({REQUIRE_LAB}=1): {reason}"));
        }
        eprintln!("SKIPPED {NAME}: {reason}");
        return Ok(());
    }
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    smoke(directory.path())?;
    println!("test {NAME} ... ok");
    Ok(())
}

fn smoke(directory: &Path) -> Result<(), String> {
    let at = |name: &str| directory.join(name);
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["--bench", "smoke", "--json"]).arg(at("smoke.json"));
    command.arg("--markdown").arg(at("smoke.md")).arg("--plot").arg(at("smoke.svg"));
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let shown =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let expect = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}\n{shown}")) };
    expect(output.status.success(), "the comparison fails")?;

    let record = Record::read(&at("smoke.json"))?;
    let played = record.scenarios.first().ok_or("nothing was played")?;
    let row = |peer: &str| played.rows.iter().find(|row| row.peer == peer);
    let dft = row("dft").and_then(|row| row.trials.first()).ok_or("dft has not played")?;
    expect(dft.problem.is_none() && dft.complete() == 3, "dft has not given everyone the dataset")?;
    let bound = played.network_bound_s.ok_or("a shaped network has a bound")?;
    expect(dft.seconds.is_some_and(|seconds| seconds > bound), "dft is faster than the network")?;
    expect(dft.cpu_s > 0.0 && dft.copies_sent > 0.9 && dft.peak_mib > 0.0, "a counter shows nothing")?;
    let chain = row("nc").ok_or("a peer has no row")?;
    match (&chain.absent, chain.trials.first()) {
        (Some(why), None) => eprintln!("SKIPPED nc in {NAME}: {why}"),
        (None, Some(trial)) => expect(trial.problem.is_none() && trial.complete() == 3, "the chain fails")?,
        _ => return Err("a row either has trials or says why not".to_owned()),
    }
    let read = |name: &str| std::fs::read_to_string(at(name)).map_err(|error| format!("{name}: {error}"));
    expect(read("smoke.md")?.contains("| dft "), "the table names its peers")?;
    expect(read("smoke.svg")?.starts_with("<svg"), "the plot is a picture")
}
