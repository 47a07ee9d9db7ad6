//! A run as a picture (SVG): how completion comes on beside the bound, and what uplinks, seeders and
//! trunks did meanwhile.

use std::fmt::Write;

use crate::outcome::Outcome;
use crate::world::Row;

const WIDTH: f64 = 760.0;
const PANEL_HEIGHT: f64 = 150.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 44.0;
const GAP: f64 = 46.0;

/// One curve over time: seconds and values.
struct Curve {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

struct Panel {
    title: &'static str,
    /// The largest value of the axis.
    top: f64,
    /// Where a dashed line says what is promised or possible.
    limit: Option<(f64, &'static str)>,
    curves: Vec<Curve>,
}

/// The picture of a run.
pub fn svg(title: &str, outcome: &Outcome) -> String {
    let panels = panels(outcome);
    let end = outcome.last_s.max(outcome.bound_s) * 1.02;
    let height = TOP + panels.iter().map(|_| PANEL_HEIGHT + GAP).sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    for (number, panel) in (0u32..).zip(&panels) {
        let y = TOP + f64::from(number) * (PANEL_HEIGHT + GAP);
        panel.draw(&mut svg, y, end, outcome.bound_s);
    }
    svg.push_str("</svg>\n");
    svg
}

#[allow(clippy::cast_precision_loss, reason = "a picture has fewer dots than 2^53")]
fn panels(outcome: &Outcome) -> Vec<Panel> {
    let row_s = outcome.record.row.as_secs_f64();
    let total = outcome.total_bytes as f64;
    let hosts = outcome.finished_s.len() as f64;
    let per_row = |value: fn(&Row) -> u64, scale: f64| -> Vec<(f64, f64)> {
        let rows = (0u32..).zip(&outcome.record.rows);
        rows.map(|(row, counts)| (f64::from(row) * row_s, value(counts) as f64 / scale)).collect()
    };
    let running = |value: fn(&Row) -> u64, scale: f64| -> Vec<(f64, f64)> {
        let mut sum = 0.0;
        per_row(value, scale)
            .into_iter()
            .map(|(at, value)| {
                sum += value;
                (at + row_s, sum)
            })
            .collect()
    };
    let mut finished = vec![(0.0, 0.0)];
    for (count, at) in (0u32..).zip(&outcome.finished_s) {
        finished.push((*at, f64::from(count) / hosts));
        finished.push((*at, f64::from(count + 1) / hosts));
    }
    let verified = running(|row| row.verified, outcome.needed_bytes as f64);
    let mut panels = vec![
        Panel {
            title: "completion",
            top: 1.0,
            limit: None,
            curves: vec![
                Curve { name: "data verified", colour: "#1f77b4", points: verified },
                Curve { name: "hosts finished", colour: "#d62728", points: finished },
            ],
        },
        Panel {
            title: "use of all uplinks",
            top: 1.0,
            limit: None,
            curves: vec![Curve {
                name: "bytes on the wires",
                colour: "#2ca02c",
                points: per_row(|row| row.carried, outcome.uplinks as f64 * row_s),
            }],
        },
        Panel {
            title: "copies sent by seeders",
            top: outcome.seeder_copies.max(1.0) * 1.1,
            limit: Some((1.0, "one copy")),
            curves: vec![Curve {
                name: "copies",
                colour: "#9467bd",
                points: running(|row| row.seeded, total),
            }],
        },
    ];
    if outcome.trunk_copies > 0.0 {
        panels.push(Panel {
            title: "copies over the trunk",
            top: outcome.trunk_copies.max(1.0) * 1.1,
            limit: Some((1.0, "one copy")),
            curves: vec![Curve {
                name: "copies",
                colour: "#8c564b",
                points: running(|row| row.crossed, total),
            }],
        });
    }
    panels
}

impl Panel {
    fn draw(&self, svg: &mut String, y: f64, end: f64, bound: f64) {
        let width = WIDTH - LEFT - RIGHT;
        let x = |at: f64| LEFT + at.min(end) / end * width;
        let height = |value: f64| y + PANEL_HEIGHT * (1.0 - (value / self.top).clamp(0.0, 1.0));
        let (right, bottom) = (LEFT + width, y + PANEL_HEIGHT);
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width}\" height=\"{PANEL_HEIGHT}\" fill=\"none\" \
             stroke=\"#999\"/>\n<text x=\"{LEFT}\" y=\"{}\">{}</text>",
            y - 6.0,
            self.title
        );
        for step in 0..=4 {
            let value = self.top * f64::from(step) / 4.0;
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#555\">{value:.2}</text>",
                LEFT - 6.0,
                height(value) + 4.0
            );
        }
        for step in 0..=8 {
            let at = end * f64::from(step) / 8.0;
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{at:.1} s</text>",
                x(at),
                bottom + 16.0
            );
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.1}\" y1=\"{y}\" x2=\"{0:.1}\" y2=\"{bottom}\" stroke=\"black\" \
             stroke-dasharray=\"5 4\"/>\n<text x=\"{1:.1}\" y=\"{2}\" text-anchor=\"end\">bound</text>",
            x(bound),
            x(bound) - 4.0,
            bottom - 6.0
        );
        if let Some((value, name)) = self.limit {
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{0:.1}\" x2=\"{right}\" y2=\"{0:.1}\" stroke=\"#777\" \
                 stroke-dasharray=\"2 3\"/>\n<text x=\"{1}\" y=\"{2:.1}\" fill=\"#555\">{name}</text>",
                height(value),
                LEFT + 4.0,
                height(value) - 4.0
            );
        }
        for (number, curve) in (0u32..).zip(&self.curves) {
            let mut path = String::new();
            for (at, value) in &curve.points {
                let _ = write!(path, "{:.1},{:.1} ", x(*at), height(*value));
            }
            let _ = writeln!(
                svg,
                "<polyline points=\"{path}\" fill=\"none\" stroke=\"{0}\" stroke-width=\"1.6\"/>\n\
                 <text x=\"{1}\" y=\"{2}\" text-anchor=\"end\" fill=\"{0}\">{3}</text>",
                curve.colour,
                right - f64::from(number) * 130.0,
                y - 6.0,
                curve.name
            );
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
