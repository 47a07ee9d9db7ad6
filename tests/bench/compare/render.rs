//! What was measured, for people: a table for each scenario, in Markdown that reads as text.

use std::fmt::Write as _;

use crate::peers;
use crate::record::{Played, Record, Row};
use crate::scenario::{Scenario, Twist};
use crate::table::{Samples, Table};
use crate::trial::Trial;

/// How far from its bound a trial was; none where someone was not done or there is no bound.
///
/// Where the hosts have rates or starts of their own, each is held against its own bound and the
/// worst of them counts.
pub fn x_bound(scenario: &Scenario, trial: &Trial, bound_s: Option<f64>) -> Option<f64> {
    let seconds = trial.seconds?;
    match scenario.twist {
        Twist::StartsIncluded => None,
        Twist::Stagger(_) => worst(trial, |receiver, took| Some(took / scenario.own_bound_s(receiver)?)),
        _ if unequal(scenario) => worst(trial, |receiver, took| Some(took / scenario.own_bound_s(receiver)?)),
        _ => Some(seconds / bound_s?),
    }
}

/// Seconds by which the last one missed its own start + its own bound.
fn late_s(scenario: &Scenario, trial: &Trial) -> Option<f64> {
    trial.seconds?;
    worst(trial, |receiver, took| Some(took - scenario.own_bound_s(receiver)?))
}

/// The largest of a value that depends on a receiver and the seconds that it took.
fn worst(trial: &Trial, value: impl Fn(usize, f64) -> Option<f64>) -> Option<f64> {
    let values = trial
        .received
        .iter()
        .zip(1..)
        .map(|(received, receiver)| value(receiver, received.end_s? - received.start_s));
    values.try_fold_max()
}

/// The largest of values that are all there.
trait TryFoldMax {
    fn try_fold_max(self) -> Option<f64>;
}

impl<Values: Iterator<Item = Option<f64>>> TryFoldMax for Values {
    fn try_fold_max(self) -> Option<f64> {
        self.reduce(|largest, value| Some(largest?.max(value?))).flatten()
    }
}

fn unequal(scenario: &Scenario) -> bool {
    scenario.rates_mbit.windows(2).any(|pair| pair[0] != pair[1])
}

/// The whole record.
pub fn markdown(record: &Record) -> String {
    let mut text = format!(
        "{}\n\nTCP congestion control of all hosts: {}. {}.\n",
        record.machine, record.congestion_control, record.dft
    );
    for (scenario, played) in record.in_order() {
        let _ = write!(text, "\n{}", scenario_markdown(scenario, played, record.cores));
    }
    text
}

/// One scenario.
pub fn scenario_markdown(scenario: &Scenario, played: &Played, cores: usize) -> String {
    let bound = played.bound_s(scenario, cores);
    let mut text = format!("## {}: {}\n\n", scenario.name, scenario.about);
    let _ = match (scenario.network_bound_s(), bound) {
        (Some(bound), _) => writeln!(text, "Bound: {bound:.2} s, by the network.\n"),
        (None, Some(bound)) => {
            writeln!(text, "Bound: {bound:.2} s, the CPU time of the floor spread over {cores} cores.\n")
        }
        (None, None) => writeln!(text, "Nothing limits the network, and the floor was not measured.\n"),
    };
    let mut table = Table::new([
        "peer",
        "complete",
        "seconds: median (min..max)",
        "x bound",
        "CPU s",
        "copies sent by the source",
        "trunk copies",
        "peak MiB",
        "prepare s (CPU s)",
        "runs",
        "what went wrong",
    ]);
    for peer in peers::PEERS {
        if let Some(row) = played.rows.iter().find(|row| row.peer == peer.name()) {
            table.row(cells(scenario, row, bound));
        }
    }
    let _ = write!(text, "{table}");
    text
}

fn cells(scenario: &Scenario, row: &Row, bound: Option<f64>) -> [String; 11] {
    let wrong = row.trials.iter().find_map(|trial| trial.problem.clone()).or_else(|| row.absent.clone());
    let wrong = wrong.map_or(String::new(), |wrong| in_a_cell(&wrong));
    if row.trials.is_empty() {
        let mut cells = [(); 11].map(|()| "-".to_owned());
        cells[0] = row.peer.clone();
        cells[10] = wrong;
        return cells;
    }
    let show = |decimals: usize, value: &dyn Fn(&Trial) -> Option<f64>| {
        let values = row.values(value);
        if values.is_empty() { "-".to_owned() } else { Samples::of(values).show(decimals) }
    };
    let number = |decimals: usize, value: &dyn Fn(&Trial) -> Option<f64>| {
        row.median(value).map_or("-".to_owned(), |median| format!("{median:.decimals$}"))
    };
    let others = scenario.receivers - usize::from(scenario.victim().is_some());
    let least = row.trials.iter().map(Trial::complete).min().unwrap_or(0);
    let prepare = number(2, &|trial| Some(trial.prepare_s));
    [
        row.peer.clone(),
        format!("{least} of {others}"),
        show(2, &|trial| trial.seconds),
        x_bound_cell(scenario, row, bound),
        number(2, &|trial| Some(trial.cpu_s)),
        number(2, &|trial| Some(trial.copies_sent)),
        number(2, &|trial| trial.trunk_copies),
        number(0, &|trial| Some(trial.peak_mib)),
        format!("{prepare} ({})", number(2, &|trial| Some(trial.prepare_cpu_s))),
        row.trials.len().to_string(),
        wrong,
    ]
}

fn x_bound_cell(scenario: &Scenario, row: &Row, bound: Option<f64>) -> String {
    if matches!(scenario.twist, Twist::Stagger(_)) {
        let late = row.median(|trial| late_s(scenario, trial));
        return late.map_or("-".to_owned(), |late| format!("last {late:+.2} s"));
    }
    if unequal(scenario) {
        let mut rates = scenario.rates_mbit.to_vec();
        rates.sort_unstable();
        rates.dedup();
        let classes: Vec<String> = rates.iter().rev().map(|&rate| class_cell(scenario, row, rate)).collect();
        return classes.join(", ");
    }
    let median = row.median(|trial| x_bound(scenario, trial, bound));
    median.map_or("-".to_owned(), |median| format!("{median:.3}"))
}

/// The worst of the hosts of one rate, against the bound of that rate.
fn class_cell(scenario: &Scenario, row: &Row, rate: u32) -> String {
    let median = row.median(|trial| {
        let of_class = trial
            .received
            .iter()
            .zip(1..)
            .filter(|(_, receiver)| scenario.rate_mbit(*receiver) == Some(rate));
        of_class
            .map(|(received, receiver)| Some(received.end_s? / scenario.own_bound_s(receiver)?))
            .try_fold_max()
    });
    median.map_or(format!("{rate}: -"), |median| format!("{rate}: {median:.3}"))
}

/// In one line and without what would end the cell.
fn in_a_cell(text: &str) -> String {
    const LEN_MAX: usize = 160;
    let line: String = text.replace(['\n', '\r'], " ").replace('|', "/");
    if line.chars().count() <= LEN_MAX { line } else { line.chars().take(LEN_MAX).chain(['…']).collect() }
}
