//! The record as a picture: a row for each scenario, a dot with a name for each peer, and how far it
//! is from the bound on a logarithmic axis. Left is better; who was not done stands at the right.

use std::fmt::Write as _;

use crate::record::{Played, Record, Row};
use crate::render::x_bound;
use crate::scenario::{Scenario, Twist};
use crate::trial::Trial;

const WIDTH: f64 = 1080.0;
/// Where the axis begins and ends; left of it stand the scenarios, right of it who was not done.
const AXIS_LEFT: f64 = 190.0;
const AXIS_RIGHT: f64 = 860.0;
const HEAD: f64 = 78.0;
const LANE: f64 = 15.0;
const ROW_GAP: f64 = 12.0;
const FONT: f64 = 11.0;
/// About how wide a letter is, to keep names apart.
const LETTER: f64 = 6.2;
const DOT: f64 = 4.5;
/// A dot may lie this far left of the bound, where a peer leaves out what the floor does.
const AXIS_MIN: f64 = 0.4;
const TICKS_X: &[f64] = &[0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0];
const TICKS_S: &[f64] = &[0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];

/// A scale from values to places.
struct Axis {
    min: f64,
    max: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, min: f64) -> Self {
        let (mut smallest, mut largest) = (f64::INFINITY, min * 2.0);
        for value in values {
            (smallest, largest) = (smallest.min(value), largest.max(value));
        }
        Self { min: (smallest * 0.93).clamp(min, min.max(0.93)), max: largest * 1.25 }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.clamp(self.min, self.max) / self.min).ln() / (self.max / self.min).ln();
        AXIS_LEFT + share * (AXIS_RIGHT - AXIS_LEFT)
    }
}

/// The picture.
pub fn svg(record: &Record) -> String {
    let bounded: Vec<_> =
        record.in_order().filter(|(scenario, _)| scenario.twist != Twist::StartsIncluded).collect();
    let timed: Vec<_> =
        record.in_order().filter(|(scenario, _)| scenario.twist == Twist::StartsIncluded).collect();
    let mut body = String::new();
    let mut y = HEAD;
    let x = |scenario: &Scenario, played: &Played, row: &Row| {
        let bound = played.bound_s(scenario, record.cores);
        row.median(|trial| x_bound(scenario, trial, bound))
    };
    panel(&mut body, &mut y, &bounded, "x", "times the bound", &x);
    let seconds = |_: &Scenario, _: &Played, row: &Row| row.median(|trial| trial.seconds);
    panel(&mut body, &mut y, &timed, "s", "seconds", &seconds);
    let height = y - 30.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"{FONT}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"17\" font-weight=\"bold\">dft and its peers: how far from what is possible</text>\n\
         <text x=\"12\" y=\"42\" fill=\"#57606a\">{}; medians; left is better. \
         Headers of Ethernet, IP and TCP make 1.045 x.</text>\n{body}</svg>\n",
        escape(&record.machine)
    )
}

type Value<'a> = &'a dyn Fn(&Scenario, &Played, &Row) -> Option<f64>;

fn panel(
    body: &mut String,
    y: &mut f64,
    rows: &[(&'static Scenario, &Played)],
    unit: &str,
    title: &str,
    value: Value,
) {
    if rows.is_empty() {
        return;
    }
    let values = rows
        .iter()
        .flat_map(|(scenario, played)| played.rows.iter().filter_map(|row| value(scenario, played, row)));
    let axis = Axis::over(values, if unit == "x" { AXIS_MIN } else { 0.01 });
    let top = *y;
    *y += ROW_GAP;
    let mut marks = String::new();
    for (number, (scenario, played)) in rows.iter().enumerate() {
        row(&mut marks, y, number, scenario, played, &axis, value);
    }
    let bottom = *y;
    let _ = writeln!(body, "<text x=\"{AXIS_LEFT}\" y=\"{:.0}\" fill=\"#57606a\">{title}</text>", top - 18.0);
    let ticks = if unit == "x" { TICKS_X } else { TICKS_S };
    for tick in ticks.iter().filter(|&&tick| tick >= axis.min && tick <= axis.max) {
        let (place, bound) = (axis.place(*tick), *tick == 1.0 && unit == "x");
        let stroke = if bound { "stroke=\"#24292f\" stroke-width=\"1.5\"" } else { "stroke=\"#d0d7de\"" };
        let _ = writeln!(
            body,
            "<line x1=\"{place:.1}\" y1=\"{top:.0}\" x2=\"{place:.1}\" y2=\"{bottom:.0}\" {stroke}/>\
             <text x=\"{place:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#57606a\">{tick} {unit}</text>",
            top - 4.0
        );
    }
    body.push_str(&marks);
    *y += 40.0;
}

fn row(
    marks: &mut String,
    y: &mut f64,
    number: usize,
    scenario: &Scenario,
    played: &Played,
    axis: &Axis,
    value: Value,
) {
    let mut dots: Vec<(f64, &str)> = Vec::new();
    let mut failed: Vec<String> = Vec::new();
    for row in &played.rows {
        match value(scenario, played, row) {
            Some(value) => dots.push((value, &row.peer)),
            None if row.trials.is_empty() => {}
            None => {
                let complete = row.trials.iter().map(Trial::complete).min().unwrap_or(0);
                failed.push(format!("{} ({complete})", row.peer));
            }
        }
    }
    dots.sort_by(|one, other| one.0.total_cmp(&other.0));
    let lanes = lanes(&dots, axis);
    let lane_count = lanes.iter().max().map_or(1, |lane| lane + 1).max(failed.len().div_ceil(2)).max(2);
    let height = lane_count as f64 * LANE + ROW_GAP;
    if number.is_multiple_of(2) {
        let _ = writeln!(
            marks,
            "<rect x=\"0\" y=\"{:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#afb8c1\" fill-opacity=\"0.14\"/>",
            *y - ROW_GAP / 2.0
        );
    }
    let _ = writeln!(
        marks,
        "<text x=\"12\" y=\"{:.0}\" font-weight=\"bold\" font-size=\"13\">{}</text>",
        *y + FONT,
        scenario.name
    );
    for (line, words) in wrapped(scenario.about).iter().enumerate().take(lane_count) {
        let x = if line == 0 { 12.0 + (scenario.name.len() as f64 + 1.2) * 8.0 } else { 12.0 };
        let _ = writeln!(
            marks,
            "<text x=\"{x:.0}\" y=\"{:.0}\" font-size=\"9\" fill=\"#57606a\">{}</text>",
            *y + FONT + line as f64 * FONT,
            escape(words)
        );
    }
    // The dots of dft last, so that nothing covers them.
    for (dft, ((value, peer), lane)) in
        [false, true].iter().flat_map(|dft| dots.iter().zip(&lanes).map(move |dot| (*dft, dot)))
    {
        if peer.starts_with("dft") == dft {
            dot(marks, axis.place(*value), *y + *lane as f64 * LANE + LANE / 2.0, peer);
        }
    }
    for (line, pair) in failed.chunks(2).enumerate() {
        let text = format!("{}{}", if line == 0 { "not done: " } else { "" }, pair.join(", "));
        let _ = writeln!(
            marks,
            "<text x=\"{:.0}\" y=\"{:.0}\" fill=\"#a40e26\" font-size=\"10\">{text}</text>",
            AXIS_RIGHT + 14.0,
            *y + FONT + line as f64 * LANE
        );
    }
    *y += height;
}

/// In which lane each dot lies: the first where its name does not cover another.
fn lanes(dots: &[(f64, &str)], axis: &Axis) -> Vec<usize> {
    let mut ends: Vec<f64> = Vec::new();
    let mut lanes = Vec::new();
    for (value, peer) in dots {
        let start = axis.place(*value) - DOT;
        let end = start + 3.0 * DOT + peer.len() as f64 * LETTER + 6.0;
        let lane = ends.iter().position(|&taken| taken <= start).unwrap_or(ends.len());
        if lane == ends.len() {
            ends.push(end);
        } else {
            ends[lane] = end;
        }
        lanes.push(lane);
    }
    lanes
}

fn dot(marks: &mut String, x: f64, y: f64, peer: &str) {
    let (radius, weight) = if peer.starts_with("dft") { (DOT * 1.35, "bold") } else { (DOT, "normal") };
    let _ = writeln!(
        marks,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" font-weight=\"{weight}\">{peer}</text>",
        colour(peer),
        x + DOT + 4.0,
        y + FONT / 2.0 - 1.5
    );
}

/// The same for what works alike.
fn colour(peer: &str) -> &'static str {
    match peer {
        "dft" => "#cf222e",
        "dft-plain" => "#fb8500",
        "floor" => "#24292f",
        "nc" | "mbuffer" => "#1a7f37",
        "taktuk" | "taktuk-chain" => "#8250df",
        "aria2" | "libtorrent" => "#0969da",
        "udpcast" => "#bf3989",
        _ => "#8c959f",
    }
}

/// A description in lines that fit beside a row.
fn wrapped(text: &str) -> Vec<String> {
    const LINE_LEN_MAX: usize = 32;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let room = if lines.len() == 1 { LINE_LEN_MAX - 8 } else { LINE_LEN_MAX };
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < room => {
                line.push_str(word);
                line.push(' ');
            }
            _ => lines.push(format!("{word} ")),
        }
    }
    lines
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
