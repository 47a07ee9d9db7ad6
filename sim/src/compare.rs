//! The simulator beside the real dft: the same scenario, and what each of them says.
//!
//! `cargo bench -p dft --bench compare -- A I --json FILE` measures the real one in the laboratory;
//! `dft-sim compare --real FILE` reads that, and runs the same in virtual time.

use std::fmt;
use std::path::Path;

use serde_json::Value;

use crate::scenarios;

/// Scenarios of the benchmark, and those of the simulator that are the same.
const PAIRS: [(&str, &str); 2] = [("A", "lan-10-lab"), ("I", "two-sites-lab")];
/// Whose rows are read.
const PEER: &str = "dft";
/// How far the two may be apart.
const TOLERANCE: f64 = 0.1;
/// The seed of the runs in virtual time.
const SEED: u64 = 1;

/// One figure of one scenario.
#[derive(Debug)]
struct Line {
    scenario: String,
    figure: &'static str,
    real: f64,
    simulated: f64,
}

impl Line {
    fn difference(&self) -> f64 {
        self.simulated / self.real - 1.0
    }

    fn agrees(&self) -> bool {
        self.difference().abs() <= TOLERANCE
    }
}

/// A table of both.
#[derive(Debug)]
pub struct Table {
    lines: Vec<Line>,
}

impl Table {
    /// Whether they agree.
    pub fn is_good(&self) -> bool {
        self.lines.iter().all(Line::agrees)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| scenario | figure | real | simulated | difference |\n|---|---|---|---|---|")?;
        for line in &self.lines {
            let Line { scenario, figure, real, simulated } = line;
            let sign = if line.agrees() { "" } else { " (too far apart)" };
            let percent = 100.0 * line.difference();
            writeln!(f, "| {scenario} | {figure} | {real:.3} | {simulated:.3} | {percent:+.1}%{sign} |")?;
        }
        Ok(())
    }
}

/// Reads measurements, and runs the same in virtual time.
pub fn run(file: &Path) -> Result<Table, String> {
    let unreadable = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(&error))?;
    let record: Value = serde_json::from_str(&text).map_err(|error| unreadable(&error))?;
    let table = table(&record);
    if table.lines.is_empty() {
        let names: Vec<&str> = PAIRS.iter().map(|(real, _)| *real).collect();
        return Err(unreadable(&format!("it has no trial of {PEER} in any of {}", names.join(", "))));
    }
    Ok(table)
}

fn table(record: &Value) -> Table {
    let mut lines = Vec::new();
    for (real, simulated) in PAIRS {
        if let Some(played) = find(&record["scenarios"], "scenario", real) {
            lines.extend(compare(real, simulated, played));
        }
    }
    Table { lines }
}

/// The element of a list whose field has this value.
fn find<'a>(list: &'a Value, field: &str, value: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|element| element[field] == value)
}

/// The median of a figure over all trials that have it.
fn median(trials: &Value, figure: &str) -> Option<f64> {
    let mut values: Vec<f64> = trials.as_array()?.iter().filter_map(|trial| trial[figure].as_f64()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

fn compare(real: &str, simulated: &str, played: &Value) -> Vec<Line> {
    let Some(row) = find(&played["rows"], "peer", PEER) else {
        return Vec::new();
    };
    let scenario = scenarios::find(simulated).expect("the pairs name scenarios that exist");
    let outcome = (scenario.build)(SEED).run();
    let name = format!("{real}, {simulated}");
    let line = |figure, real: Option<f64>, simulated| {
        Some(Line { scenario: name.clone(), figure, real: real?, simulated })
    };
    let trials = &row["trials"];
    [
        line("seconds", median(trials, "seconds"), outcome.last_s),
        line(
            "copies sent by the source, with headers",
            median(trials, "copies_sent"),
            outcome.seeder_copies * outcome.overhead,
        ),
        line("copies over the trunk, with headers", median(trials, "trunk_copies"), outcome.trunk_copies),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_same_scenario_stand_side_by_side() {
        let trial = |seconds: f64| serde_json::json!({ "seconds": seconds, "copies_sent": 1.1, "trunk_copies": null });
        let rows = serde_json::json!([{ "peer": "dft", "trials": [trial(9.0), trial(12.0), trial(100.0)] }]);
        let record = serde_json::json!({ "scenarios": [
            { "scenario": "A", "bytes": 1, "rows": rows },
            { "scenario": "B", "bytes": 1, "rows": rows },
        ] });
        let table = table(&record);
        let figures: Vec<_> = table.lines.iter().map(|line| (line.figure, line.real)).collect();
        assert_eq!(figures, [("seconds", 12.0), ("copies sent by the source, with headers", 1.1)]);
        assert!(table.is_good(), "{table}");
        assert!(!super::table(&Value::Null).to_string().is_empty());
    }
}
