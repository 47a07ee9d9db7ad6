//! What a fetch's time went into, and what its links cost it.

use serde::Serialize;

use super::{added, duplicated, part, seconds};
use crate::trace::read::{Node, Run};

/// What is lost within this time after the first byte is the ramp, in microseconds …
const RAMP_US: i64 = 1_000_000;
/// … but no more than this part of a short fetch, one in so many.
const RAMP_PART: i64 = 4;
/// The end of a fetch: this part of it, one in so many.
const END_PART: i64 = 20;

/// The seconds of an average fetch. They add up to its end, counted from the first fetch's start.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Account {
    /// Until its first byte came: starting, finding peers, opening links, asking.
    pub before_first_byte: f64,
    /// Lost in the first second after it, against the rate of the middle.
    pub ramp: f64,
    /// The pieces at the links' full rate: the bound.
    pub payload: f64,
    /// Duplicates and corrupt pieces, at the same rate.
    pub duplicates: f64,
    /// What the middle's rate is below the links': headers, acknowledgements, messages, idle times.
    pub below_rate: f64,
    /// Lost in the last 5%, against the rate of the middle.
    pub end: f64,
    /// All of it.
    pub complete: f64,
}

impl Account {
    /// The average over all fetches that were completed; none without a middle to compare with.
    pub(super) fn of(run: &Run, rate_mbit: u32) -> Option<Self> {
        let fetches: Vec<Self> = run.fetchers().filter_map(|node| Self::of_node(node, rate_mbit)).collect();
        let mean = |field: fn(&Self) -> f64| fetches.iter().map(field).sum::<f64>() / fetches.len() as f64;
        (!fetches.is_empty()).then(|| Self {
            before_first_byte: mean(|it| it.before_first_byte),
            ramp: mean(|it| it.ramp),
            payload: mean(|it| it.payload),
            duplicates: mean(|it| it.duplicates),
            below_rate: mean(|it| it.below_rate),
            end: mean(|it| it.end),
            complete: mean(|it| it.complete),
        })
    }

    fn of_node(node: &Node, rate_mbit: u32) -> Option<Self> {
        let (first, complete) = (node.first_byte()?, node.complete()?);
        let (ramp, end) = (RAMP_US.min((complete - first) / RAMP_PART), (complete - first) / END_PART);
        let bytes = |from, to| -> f64 {
            added(node.downloads.iter().map(|it| part(it.first, it.last, it.bytes, from, to)))
        };
        // Seconds in, seconds out: all rates are bytes per second.
        let rate = f64::from(rate_mbit) * 1e6 / 8.0;
        let middle = bytes(first + ramp, complete - end) / seconds(complete - end - first - ramp);
        let received = bytes(first, complete);
        let useless = added(duplicated(node).map(|it| f64::from(it.bytes)));
        let corrupt = node.downloads.iter().filter(|it| matches!(it.checked, Some((_, false))));
        let useless = useless + added(corrupt.map(|it| f64::from(it.bytes)));
        (middle > 0.0).then(|| Self {
            before_first_byte: seconds(first),
            ramp: seconds(ramp) - bytes(first, first + ramp) / middle,
            payload: (received - useless) / rate,
            duplicates: useless / rate,
            below_rate: received / middle - received / rate,
            end: seconds(end) - bytes(complete - end, complete) / middle,
            complete: seconds(complete),
        })
    }
}

/// What opening links took.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Churn {
    /// Dials of all nodes.
    pub dials: usize,
    /// Those that came to nothing.
    pub failed_dials: usize,
    /// Ends of links that came up.
    pub link_ends: usize,
    /// Ends that were closed there because a second link to the same peer stood.
    pub closed_as_duplicates: usize,
    /// Requests that had no answer when their link ended, before their node was complete.
    pub lost_requests: usize,
    /// Requests of pieces that had been asked for before.
    pub repeated_requests: usize,
}

impl Churn {
    pub(super) fn of(run: &Run) -> Self {
        let links = || run.nodes.iter().flat_map(|node| node.links.values());
        let duplicate = |reason: &Option<String>| reason.as_deref() == Some("Duplicate");
        Self {
            dials: run.nodes.iter().map(|node| node.dials.0).sum(),
            failed_dials: run.nodes.iter().map(|node| node.dials.1).sum(),
            link_ends: links().count(),
            closed_as_duplicates: links()
                .filter(|link| link.down.as_ref().is_some_and(|(_, reason)| duplicate(reason)))
                .count(),
            lost_requests: run.nodes.iter().map(lost_requests).sum(),
            repeated_requests: run.nodes.iter().map(repeated_requests).sum(),
        }
    }
}

fn lost_requests(node: &Node) -> usize {
    let complete = node.complete().unwrap_or(i64::MAX);
    let ended = |link| node.links.get(&link).and_then(|link| link.down.as_ref()).map(|(at, _)| *at);
    let lost = |it: &&crate::trace::read::Download| {
        it.answered().is_none() && ended(it.link).is_some_and(|at| at < complete)
    };
    node.downloads.iter().filter(lost).count()
}

fn repeated_requests(node: &Node) -> usize {
    let mut pieces: Vec<u32> = node.downloads.iter().map(|it| it.piece).collect();
    pieces.sort_unstable();
    pieces.dedup();
    node.downloads.len() - pieces.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{example, read::run_of};

    #[test]
    fn account_adds_up_to_the_time_until_complete() {
        let run = run_of(&[("seeder.trace", example::SEEDER), ("one.trace", example::FETCHER)]).unwrap();
        let account = Account::of(&run, 1).unwrap();
        let Account { before_first_byte, ramp, payload, duplicates, below_rate, end, complete } = account;
        assert_eq!((before_first_byte, complete), (0.11, 0.4));
        assert_eq!((payload, duplicates), (0.032, 0.016));
        let sum = before_first_byte + ramp + payload + duplicates + below_rate + end;
        assert!((sum - complete).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn links_that_end_take_their_requests_with_them() {
        let end = r#"{"us":215000,"event":"link_down","link":1,"reason":"Duplicate"}"#;
        let cut = example::FETCHER
            .lines()
            .filter(|line| !line.contains(r#""piece":2"#) || line.contains("request"));
        let cut: String = cut.map(|line| format!("{line}\n")).collect();
        let run = run_of(&[("one.trace", &format!("{cut}{end}\n{end}\n"))]).unwrap();
        let expected = Churn {
            link_ends: 2,
            closed_as_duplicates: 1,
            lost_requests: 1,
            repeated_requests: 2,
            ..Churn::default()
        };
        assert_eq!(Churn::of(&run), expected);
    }
}
