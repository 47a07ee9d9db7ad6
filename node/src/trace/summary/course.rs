//! The course of a run: idle times, rates from slice to slice, and its end.

use std::collections::BTreeSet;

use super::{Gap, Slice, Tail, TailNode, duplicated, incoming, ms, outgoing, seconds};
use crate::trace::event::Phase;
use crate::trace::read::{Download, Node, Run};

/// Gaps that are named.
const GAPS_MAX: usize = 20;
/// Slices of the run whose rates are told.
const SLICES: i64 = 20;
/// The tail is this part of the run, one in so many: the last 5%.
const TAIL_PART: i64 = 20;

pub(super) fn gaps(run: &Run, swarm_first: i64, end: i64) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for node in &run.nodes {
        let mut add = |direction, parts: Vec<(i64, i64)>, waiting: &dyn Fn(i64) -> usize| {
            gaps.extend(parts.into_iter().map(|(from, to)| Gap {
                node: node.label.clone(),
                direction,
                from_s: seconds(from),
                ms: ms(to - from),
                waiting: waiting(from),
            }));
        };
        let first = node.phases.get(&Phase::Driving).copied().unwrap_or(0);
        if let Some(last) = node.downloads.iter().filter_map(|it| it.last).max() {
            add("download", incoming(node, None).gaps(first, last), &|at| requests_out(node, at));
        }
        add("upload", outgoing(node, None).gaps(first.max(swarm_first), end), &|at| requests_in(node, at));
    }
    gaps.sort_by(|one, other| other.ms.total_cmp(&one.ms));
    gaps.truncate(GAPS_MAX);
    gaps
}

/// Requests of a node that wait at this moment.
fn requests_out(node: &Node, at: i64) -> usize {
    let waits = |it: &&Download| it.requested <= at && it.answered().is_none_or(|answer| answer > at);
    node.downloads.iter().filter(waits).count()
}

/// Requests of a node's peers that wait at this moment.
fn requests_in(node: &Node, at: i64) -> usize {
    let mut waiting = BTreeSet::new();
    for &(asked, link, piece, wanted) in node.asked.iter().filter(|(asked, ..)| *asked <= at) {
        let _ = asked;
        if wanted {
            waiting.insert((link, piece))
        } else {
            waiting.remove(&(link, piece))
        };
    }
    for upload in node.uploads.iter().filter(|it| it.granted <= at) {
        waiting.remove(&(upload.link, upload.piece));
    }
    waiting.len()
}

pub(super) fn slices(run: &Run, end: i64) -> Vec<Slice> {
    let length = (end / SLICES).max(1);
    let fetchers = run.fetchers().count().max(1) as f64;
    let duplicates: Vec<i64> = run.nodes.iter().flat_map(duplicated).filter_map(|it| it.last).collect();
    let rate = |bytes: f64| bytes * 8.0 / length as f64;
    let slice = |from: i64| {
        let to = from + length;
        let up = |verb: &str| -> f64 {
            let nodes = run.nodes.iter().filter(|node| node.verb == verb);
            added(nodes.flat_map(|node| &node.uploads).map(|it| part(it.first, it.last, it.bytes, from, to)))
        };
        let down = run.fetchers().flat_map(|node| &node.downloads);
        let down = added(down.map(|it| part(it.first, it.last, it.bytes, from, to)));
        Slice {
            from_s: seconds(from),
            seeders_up: rate(up("seed")),
            fetcher_up: rate(up("fetch") / fetchers),
            fetcher_down: rate(down / fetchers),
            duplicates: duplicates.iter().filter(|at| (from..to).contains(*at)).count(),
        }
    };
    (0..SLICES).map(|number| slice(number * length)).collect()
}

/// The sum; of nothing it is 0, and not -0 as that of the standard library.
pub(super) fn added(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, std::ops::Add::add)
}

/// How many of a piece's bytes moved between two moments, if they moved evenly.
pub(in crate::trace) fn part(first: Option<i64>, last: Option<i64>, bytes: u32, from: i64, to: i64) -> f64 {
    let (Some(first), Some(last)) = (first, last) else {
        return 0.0;
    };
    if last <= first {
        return if (from..to).contains(&last) { f64::from(bytes) } else { 0.0 };
    }
    let overlap = (last.min(to) - first.max(from)).max(0);
    f64::from(bytes) * overlap as f64 / (last - first) as f64
}

pub(super) fn tail(run: &Run, end: i64) -> Tail {
    let from = end - end / TAIL_PART;
    let late = run.fetchers().filter(|node| node.complete().is_none_or(|at| at > from));
    let nodes = late.map(|node| {
        let last = node.verified().max_by_key(|(_, at)| *at);
        let last_at = last.map_or(from, |(_, at)| at.max(from));
        TailNode {
            name: node.label.clone(),
            missing: node.verified().filter(|(_, at)| *at > from).count(),
            pieces_ms: ms(last_at - from),
            idle_ms: ms(last_at - from - incoming(node, None).covered(from, last_at)),
            finish_ms: ms((node.complete().unwrap_or(end) - last_at).max(0)),
            last_piece: last.map(|(it, at)| {
                let peer = node.links.get(&it.link).map_or("?", |link| run.label(&link.peer));
                (ms(at - it.requested), peer.to_owned())
            }),
        }
    });
    let seeders = run.nodes.iter().filter(|node| node.verb == "seed");
    let busy: Vec<f64> = seeders.map(|node| outgoing(node, None).share(from, end)).collect();
    Tail {
        from_s: seconds(from),
        nodes: nodes.collect(),
        seeders_busy: added(busy.iter().copied()) / busy.len().max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_adds_up_to_zero_without_a_sign() {
        assert_eq!(format!("{:.1}", added(std::iter::empty())), "0.0");
    }
}
