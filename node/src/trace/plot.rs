//! A run as a picture, in SVG: per node one lane with its rates and its pieces over time.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::event::Phase;
use super::read::{Node, Run};
use super::summary::part;

const WIDTH: f64 = 1400.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
/// Of one lane: rates above, pieces below.
const RATES_HEIGHT: f64 = 42.0;
const PIECES_HEIGHT: f64 = 46.0;
const LANE_HEIGHT: f64 = RATES_HEIGHT + PIECES_HEIGHT + 12.0;
const BOTTOM: f64 = 46.0;
/// Points of a rate's line.
const POINTS: i64 = 280;
/// Colours of peers, again from the start where there are more; the seeder's is the first.
const COLOURS: [&str; 12] = [
    "#222222", "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f",
    "#bcbd22", "#17becf", "#3d5a1e",
];

/// Draws a run. With the links' rate in Mbit/s, rates are drawn to its scale, and the bound as a
/// line. Writing to a string cannot fail, so results are dropped.
pub fn svg(run: &Run, rate_mbit: Option<u32>) -> String {
    let mut text = String::new();
    let _ = Plot::new(run, rate_mbit).write(&mut text);
    text
}

struct Plot<'run> {
    run: &'run Run,
    /// The axis, in microseconds.
    from: i64,
    to: i64,
    bound: Option<i64>,
    /// The top of the rates' scale, in Mbit/s.
    rate_max: f64,
    colours: BTreeMap<&'run str, &'static str>,
}

impl<'run> Plot<'run> {
    fn new(run: &'run Run, rate_mbit: Option<u32>) -> Self {
        let mut order: Vec<&Node> = run.nodes.iter().collect();
        order.sort_by_key(|node| node.verb != "seed");
        let names = order.iter().map(|node| node.peer.as_str());
        let colours = names.zip(COLOURS.iter().copied().cycle()).collect();
        let from =
            run.fetchers().filter_map(|node| node.phases.get(&Phase::Start)).min().copied().unwrap_or(0);
        #[allow(clippy::cast_possible_truncation, reason = "a bound of 292,000 years is drawn short")]
        let bound = rate_mbit.map(|rate| from + (run.bytes as f64 * 8.0 / f64::from(rate)) as i64);
        let to = run.end().max(bound.unwrap_or(0)).max(from + 1);
        let to = to + (to - from) / 50;
        let mut plot = Self { run, from, to, bound, rate_max: 1.0, colours };
        plot.rate_max = match rate_mbit {
            Some(rate) => f64::from(rate) * 1.1,
            None => plot.largest_rate().max(1.0),
        };
        plot
    }

    fn largest_rate(&self) -> f64 {
        let rates = |node: &Node| {
            self.rates(node, true).into_iter().chain(self.rates(node, false)).fold(0.0, f64::max)
        };
        self.run.nodes.iter().map(rates).fold(0.0, f64::max)
    }

    fn x(&self, at: i64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (at - self.from) as f64 / (self.to - self.from) as f64
    }

    fn height(&self) -> f64 {
        TOP + LANE_HEIGHT * self.run.nodes.len() as f64 + BOTTOM
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let height = self.height();
        writeln!(
            out,
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="white"/>
<text x="{LEFT}" y="18" font-size="14">{} pieces, {:.1} MiB to {} nodes in {:.3} s</text>
<text x="{LEFT}" y="36" fill="#555">above: <tspan fill="{DOWN}">received</tspan> and <tspan fill="{UP}">sent</tspan>, 0 to {:.0} Mbit/s; below: pieces in order of their index from first byte to last, coloured by who sent them (at a seeder: by who got them); ▼ start, first byte, complete{}</text>"##,
            self.run.pieces,
            self.run.bytes as f64 / f64::from(1 << 20),
            self.run.fetchers().count(),
            self.run.end() as f64 / 1e6,
            self.rate_max,
            if self.bound.is_some() { "; dashed: the bound" } else { "" },
        )?;
        for (lane, node) in self.run.nodes.iter().enumerate() {
            self.write_lane(out, node, TOP + LANE_HEIGHT * lane as f64)?;
        }
        self.write_axis(out)?;
        writeln!(out, "</svg>")
    }

    fn write_lane(&self, out: &mut String, node: &Node, top: f64) -> std::fmt::Result {
        let colour = self.colours.get(node.peer.as_str()).copied().unwrap_or("#999");
        let (base, width) = (top + RATES_HEIGHT, WIDTH - LEFT - RIGHT);
        writeln!(
            out,
            r##"<rect x="10" y="{top:.1}" width="10" height="10" fill="{colour}"/><text x="25" y="{:.1}">{}</text>
<rect x="{LEFT}" y="{top:.1}" width="{width}" height="{RATES_HEIGHT}" fill="#f7f7f7"/><rect x="{LEFT}" y="{:.1}" width="{width}" height="{PIECES_HEIGHT}" fill="#fafafa"/>"##,
            top + 9.0,
            escape(&node.label),
            base + 2.0,
        )?;
        self.write_rate(out, &self.rates(node, true), base, DOWN)?;
        self.write_rate(out, &self.rates(node, false), base, UP)?;
        self.write_pieces(out, node, base + 2.0)?;
        let first_byte = node.first_byte();
        let start = node.phases.get(&Phase::Start).copied();
        for at in [start, first_byte, node.complete()].into_iter().flatten() {
            if (self.from..=self.to).contains(&at) {
                let x = self.x(at);
                writeln!(
                    out,
                    r#"<path d="M{x:.1} {top:.1}l-4 -6h8z" fill="{colour}"/><path d="M{x:.1} {top:.1}v{:.1}" stroke="{colour}" stroke-width="0.6"/>"#,
                    LANE_HEIGHT - 12.0
                )?;
            }
        }
        Ok(())
    }

    /// Rates in Mbit/s, at evenly spaced points.
    fn rates(&self, node: &Node, down: bool) -> Vec<f64> {
        let step = ((self.to - self.from) / POINTS).max(1);
        let mut bytes = vec![0.0; usize::try_from(POINTS).unwrap_or(1)];
        let mut add = |first: Option<i64>, last: Option<i64>, len: u32| {
            let (Some(begin), Some(end)) = (first, last) else { return };
            for point in (begin - self.from) / step..=(end - self.from) / step {
                if let Some(sum) = usize::try_from(point).ok().and_then(|point| bytes.get_mut(point)) {
                    let from = self.from + point * step;
                    *sum += part(first, last, len, from, from + step);
                }
            }
        };
        if down {
            node.downloads.iter().for_each(|it| add(it.first, it.last, it.bytes));
        } else {
            node.uploads.iter().for_each(|it| add(it.first, it.last, it.bytes));
        }
        bytes.into_iter().map(|bytes| bytes * 8.0 / step as f64).collect()
    }

    fn write_rate(&self, out: &mut String, rates: &[f64], base: f64, colour: &str) -> std::fmt::Result {
        let step = ((self.to - self.from) / POINTS).max(1);
        write!(out, r#"<polyline fill="none" stroke="{colour}" stroke-width="1" points=""#)?;
        for (rate, point) in rates.iter().zip(0..) {
            let x = self.x(self.from + point * step + step / 2);
            let y = base - RATES_HEIGHT * (rate / self.rate_max).min(1.0);
            write!(out, "{x:.1},{y:.1} ")?;
        }
        writeln!(out, r#""/>"#)
    }

    fn write_pieces(&self, out: &mut String, node: &Node, top: f64) -> std::fmt::Result {
        let mut by_colour: BTreeMap<&str, String> = BTreeMap::new();
        let came = node.downloads.iter().map(|it| (it.first, it.last, it.link, it.piece));
        let sent = node.uploads.iter().map(|it| (it.first, it.last, it.link, it.piece));
        let seeds = node.verb == "seed";
        for (first, last, link, piece) in came.chain(sent.filter(|_| seeds)) {
            let (Some(first), Some(last)) = (first, last) else { continue };
            let peer = node.links.get(&link).map(|link| link.peer.as_str());
            let colour = peer.and_then(|peer| self.colours.get(peer)).copied().unwrap_or("#999");
            let y = top + PIECES_HEIGHT * (f64::from(piece) + 0.5) / f64::from(self.run.pieces.max(1));
            let (x, end) = (self.x(first), self.x(last));
            write!(by_colour.entry(colour).or_default(), "M{x:.1} {y:.1}h{:.1}", (end - x).max(0.7))?;
        }
        for (colour, path) in by_colour {
            writeln!(out, r#"<path d="{path}" stroke="{colour}" stroke-width="1.2"/>"#)?;
        }
        Ok(())
    }

    fn write_axis(&self, out: &mut String) -> std::fmt::Result {
        let y = self.height() - BOTTOM + 4.0;
        let length = (self.to - self.from) as f64 / 1e6;
        let step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3600.0];
        let step = step.into_iter().find(|step| length / step <= 15.0).unwrap_or(length);
        writeln!(out, r##"<path d="M{LEFT} {y:.1}H{:.1}" stroke="#333"/>"##, WIDTH - RIGHT)?;
        for tick in 0..=15 {
            let seconds = f64::from(tick) * step;
            if seconds > length {
                break;
            }
            let x = LEFT + (WIDTH - LEFT - RIGHT) * seconds / length;
            let label = (seconds * 100.0).round() / 100.0;
            writeln!(
                out,
                r##"<path d="M{x:.1} {y:.1}v4" stroke="#333"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{label} s</text>"##,
                y + 16.0
            )?;
        }
        if let Some(bound) = self.bound {
            let x = self.x(bound);
            writeln!(
                out,
                r##"<path d="M{x:.1} {:.1}V{y:.1}" stroke="#d00" stroke-dasharray="6 3"/><text x="{x:.1}" y="{:.1}" fill="#d00" text-anchor="middle">bound</text>"##,
                TOP - 8.0,
                y + 30.0
            )?;
        }
        Ok(())
    }
}

const DOWN: &str = "#1565c0";
const UP: &str = "#ef6c00";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::{example, read::run_of};
    use super::*;

    #[test]
    fn picture_has_a_lane_for_each_node_and_a_bar_for_each_piece_that_came() {
        let run = run_of(&[("seeder.trace", example::SEEDER), ("a<b.trace", example::FETCHER)]).unwrap();
        let svg = svg(&run, Some(1));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        for name in [">seeder</text>", ">a&lt;b</text>", ">bound</text>"] {
            assert!(svg.contains(name), "{name} in {svg}");
        }
        let bars = svg.lines().filter(|line| line.contains(r#"stroke-width="1.2""#));
        assert_eq!(bars.map(|line| line.matches('M').count()).sum::<usize>(), 8);
    }

    #[test]
    fn rates_add_up_to_the_bytes_that_moved() {
        let run = run_of(&[("one.trace", example::FETCHER)]).unwrap();
        let plot = Plot::new(&run, None);
        let step = ((plot.to - plot.from) / POINTS) as f64;
        let bytes: f64 = plot.rates(&run.nodes[0], true).iter().map(|rate| rate * step / 8.0).sum();
        assert!((bytes - 6000.0).abs() < 1e-6, "{bytes}");
    }
}
