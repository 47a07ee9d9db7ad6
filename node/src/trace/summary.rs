//! What the traces of a swarm add up to: where the time went, who served whom, and what was idle.
//!
//! A direction of a node is *busy* while at least one piece is on its way in it, from its first
//! byte to its last; what is between is a gap. All times are seconds since the first fetch began,
//! durations are milliseconds.

mod account;
mod course;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use account::{Account, Churn};
pub(super) use course::part;
use course::{added, gaps, slices, tail};

use super::event::Phase;
use super::read::{Download, Node, Run, Upload};

/// Everything that is told of a run.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Of the dataset.
    pub bytes: u64,
    /// Of the dataset.
    pub pieces: u32,
    /// From the first fetch's start until the last one is complete.
    pub seconds: f64,
    /// When the first and the last fetch was complete.
    pub complete_s: Option<(f64, f64)>,
    /// What the dataset takes at the given rate.
    pub bound_s: Option<f64>,
    /// When seeders had sent each piece once.
    pub first_copy_s: Option<f64>,
    /// Bytes of pieces that seeders sent, in copies of the dataset.
    pub copies_by_seeders: f64,
    /// Pieces that arrived though they were here or on their way from another peer.
    pub duplicates: usize,
    /// Bytes of them.
    pub duplicate_bytes: u64,
    /// Pieces whose hash was wrong.
    pub corrupt: u64,
    /// Events that are missing from the traces.
    pub dropped_events: u64,
    /// What an average fetch's time went into, where the rate is known.
    pub account: Option<Account>,
    /// What opening links took.
    pub churn: Churn,
    /// One for each trace.
    pub nodes: Vec<NodeSummary>,
    /// One for each end of a link that carried something.
    pub links: Vec<LinkSummary>,
    /// Who got how many bytes from whom: receiver, sender, bytes.
    pub served: Vec<(String, String, u64)>,
    /// How long pieces took.
    pub latency: Latency,
    /// The longest times in which a direction of a node was idle.
    pub gaps: Vec<Gap>,
    /// Rates over the run.
    pub slices: Vec<Slice>,
    /// What the last 5% of the time was spent on.
    pub tail: Tail,
}

/// A node.
#[derive(Debug, Serialize)]
pub struct NodeSummary {
    /// The trace's name.
    pub name: String,
    /// `seed` or `fetch`.
    pub verb: String,
    /// When each phase began.
    pub phases: BTreeMap<Phase, f64>,
    /// When the first peers were found, and how.
    pub first_found: Option<(f64, super::event::Means)>,
    /// When the first link was open.
    pub first_link_s: Option<f64>,
    /// When half of the links were open.
    pub half_links_s: Option<f64>,
    /// When the last of the links was open.
    pub last_link_s: Option<f64>,
    /// How many there were.
    pub links: usize,
    /// Of links: TCP connect, handshake and hello together, of those that this end dialled.
    pub opening_ms: Quantiles,
    /// Of links: the handshake alone, at both ends.
    pub handshake_ms: Quantiles,
    /// When the first piece was asked for.
    pub first_request_s: Option<f64>,
    /// When the first byte of a piece came.
    pub first_byte_s: Option<f64>,
    /// When the first piece was verified: from then on it serves.
    pub first_verified_s: Option<f64>,
    /// When it began to send its first piece.
    pub first_sent_s: Option<f64>,
    /// When the last piece was verified.
    pub last_verified_s: Option<f64>,
    /// Bytes of pieces that came, duplicates included.
    pub received_bytes: u64,
    /// Bytes of pieces that were sent.
    pub sent_bytes: u64,
    /// Pieces that were verified.
    pub verified: usize,
    /// Pieces that came twice.
    pub duplicates: usize,
    /// Share of the time from its first byte to its last in which a piece was coming.
    pub download_busy: f64,
    /// Share of the time from the swarm's first byte to its end in which a piece was being sent.
    pub upload_busy: f64,
    /// Announcements sent: messages, pieces named.
    pub announced: (u64, u64),
    /// Requests that were refused, and that were taken back.
    pub rejected: usize,
    /// Requests that this node took back.
    pub cancelled: usize,
}

/// One end of a link.
#[derive(Debug, Serialize)]
pub struct LinkSummary {
    /// Whose end.
    pub node: String,
    /// The other end.
    pub peer: String,
    /// Whether this end dialled.
    pub dialled: bool,
    /// When it was open.
    pub up_s: f64,
    /// Bytes of pieces that came.
    pub received_bytes: u64,
    /// Bytes of pieces that were sent.
    pub sent_bytes: u64,
    /// Share of the time since the link was open, until the run's end, in which pieces came.
    pub busy_in: f64,
    /// The same for pieces that were sent.
    pub busy_out: f64,
    /// The rest of that time: nothing in either direction.
    pub idle_ms: f64,
}

/// How long pieces took, of those that were verified.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// From the request to its first byte.
    pub wait: Quantiles,
    /// From the first byte to the last.
    pub transfer: Quantiles,
    /// From the last byte to the hash.
    pub check: Quantiles,
    /// From the request to the hash.
    pub whole: Quantiles,
    /// At the sender, from the request to its turn.
    pub queued: Quantiles,
}

/// Of some durations, in milliseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many there are.
    pub count: usize,
    /// The middle one.
    pub median: f64,
    /// 95 of 100 are below.
    pub p95: f64,
    /// The longest.
    pub max: f64,
}

/// A time in which nothing moved in one direction of a node.
#[derive(Debug, PartialEq, Serialize)]
pub struct Gap {
    /// Whose.
    pub node: String,
    /// `download` or `upload`.
    pub direction: &'static str,
    /// From when on.
    pub from_s: f64,
    /// How long.
    pub ms: f64,
    /// What waited when it began: requests without an answer, of this node or of its peers.
    pub waiting: usize,
}

/// A part of the run: bytes of pieces, as rates in Mbit/s.
#[derive(Debug, Serialize)]
pub struct Slice {
    /// From when on.
    pub from_s: f64,
    /// What all seeders sent.
    pub seeders_up: f64,
    /// What a fetcher sent, on average.
    pub fetcher_up: f64,
    /// What a fetcher received, on average.
    pub fetcher_down: f64,
    /// Duplicates that came, at all nodes.
    pub duplicates: usize,
}

/// The last 5% of the run.
#[derive(Debug, Serialize)]
pub struct Tail {
    /// From when on.
    pub from_s: f64,
    /// Those that were not complete when it began.
    pub nodes: Vec<TailNode>,
    /// Share of the tail in which seeders sent, each on average.
    pub seeders_busy: f64,
}

/// What a node did in the tail.
#[derive(Debug, Serialize)]
pub struct TailNode {
    /// Whose.
    pub name: String,
    /// Pieces that it lacked when the tail began.
    pub missing: usize,
    /// From the tail's start to its last verified piece …
    pub pieces_ms: f64,
    /// … of which so long no piece was coming.
    pub idle_ms: f64,
    /// From its last verified piece until it was complete.
    pub finish_ms: f64,
    /// How long its last piece took from request to hash, and who sent it.
    pub last_piece: Option<(f64, String)>,
}

impl Summary {
    /// Of a run, whose links have this rate, in Mbit/s, where it is known.
    pub fn of(run: &Run, rate_mbit: Option<u32>) -> Self {
        let end = run.end();
        let seeders = || run.nodes.iter().filter(|node| node.verb == "seed");
        let completes: Vec<i64> = run.fetchers().filter_map(Node::complete).collect();
        let swarm_first = run.nodes.iter().filter_map(Node::first_byte).min().unwrap_or(0);
        let duplicates: Vec<&Download> = run.nodes.iter().flat_map(duplicated).collect();
        Self {
            bytes: run.bytes,
            pieces: run.pieces,
            seconds: seconds(end),
            complete_s: completes
                .iter()
                .min()
                .zip(completes.iter().max())
                .map(|(first, last)| (seconds(*first), seconds(*last))),
            bound_s: rate_mbit.map(|rate| run.bytes as f64 * 8.0 / (f64::from(rate) * 1e6)),
            first_copy_s: first_copy(run).map(seconds),
            copies_by_seeders: seeders().map(sent_bytes).sum::<u64>() as f64 / run.bytes.max(1) as f64,
            duplicates: duplicates.len(),
            duplicate_bytes: duplicates.iter().map(|it| u64::from(it.bytes)).sum(),
            corrupt: run.nodes.iter().map(corrupt).sum(),
            dropped_events: run.nodes.iter().map(|node| node.dropped_events).sum(),
            account: rate_mbit.and_then(|rate| Account::of(run, rate)),
            churn: Churn::of(run),
            nodes: run.nodes.iter().map(|node| summarize(node, swarm_first, end)).collect(),
            links: links(run, end),
            served: served(run),
            latency: latency(run),
            gaps: gaps(run, swarm_first, end),
            slices: slices(run, end),
            tail: tail(run, end),
        }
    }
}

// ---- time ----

fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

fn ms(us: i64) -> f64 {
    us as f64 / 1e3
}

/// Stretches of time that do not overlap, in ascending order.
#[derive(Debug, PartialEq)]
pub(super) struct Stretches(Vec<(i64, i64)>);

impl Stretches {
    pub(super) fn of(parts: impl Iterator<Item = (i64, i64)>) -> Self {
        let mut parts: Vec<(i64, i64)> = parts.collect();
        parts.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::new();
        for (from, to) in parts {
            match merged.last_mut() {
                Some((_, end)) if from <= *end => *end = (*end).max(to),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    /// How much of the time between is covered.
    pub(super) fn covered(&self, from: i64, to: i64) -> i64 {
        self.0.iter().map(|(start, end)| ((*end).min(to) - (*start).max(from)).max(0)).sum()
    }

    fn share(&self, from: i64, to: i64) -> f64 {
        if to <= from { 0.0 } else { self.covered(from, to) as f64 / (to - from) as f64 }
    }

    /// What is not covered between.
    fn gaps(&self, from: i64, to: i64) -> Vec<(i64, i64)> {
        let mut gaps = Vec::new();
        let mut at = from;
        for (start, end) in &self.0 {
            if *start > at {
                gaps.push((at, (*start).min(to)));
            }
            at = at.max(*end);
        }
        gaps.push((at, to));
        gaps.retain(|(start, end)| start < end);
        gaps
    }
}

/// When pieces came to a node, on all links or on one.
fn incoming(node: &Node, link: Option<u64>) -> Stretches {
    let wanted = node.downloads.iter().filter(|it| link.is_none_or(|link| link == it.link));
    Stretches::of(wanted.filter_map(|it| it.first.zip(it.last)))
}

/// When a node sent pieces.
fn outgoing(node: &Node, link: Option<u64>) -> Stretches {
    let wanted = node.uploads.iter().filter(|it| link.is_none_or(|link| link == it.link));
    Stretches::of(wanted.filter_map(|it| it.first.zip(it.last)))
}

impl Quantiles {
    /// Of durations in microseconds.
    fn of(durations: impl Iterator<Item = i64>) -> Self {
        let mut sorted: Vec<i64> = durations.collect();
        sorted.sort_unstable();
        let at =
            |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)));
        let at = |percent| at(percent).copied().map_or(0.0, ms);
        Self { count: sorted.len(), median: at(50), p95: at(95), max: at(100) }
    }
}

// ---- bytes ----

fn sent_bytes(node: &Node) -> u64 {
    node.uploads.iter().filter(|it| it.last.is_some()).map(|it| u64::from(it.bytes)).sum()
}

/// Pieces that came though another copy had come before.
fn duplicated(node: &Node) -> impl Iterator<Item = &Download> {
    let mut seen = BTreeSet::new();
    let mut came: Vec<_> = node.downloads.iter().filter(|it| it.last.is_some()).collect();
    came.sort_by_key(|it| it.last);
    // A corrupt piece is no copy of anything.
    came.retain(|it| it.checked.is_none_or(|(_, valid)| valid));
    came.into_iter().filter(move |it| !seen.insert(it.piece))
}

/// When all seeders together had sent each piece once.
fn first_copy(run: &Run) -> Option<i64> {
    let mut first: BTreeMap<u32, i64> = BTreeMap::new();
    for upload in run.nodes.iter().filter(|node| node.verb == "seed").flat_map(|node| &node.uploads) {
        if let Some(last) = upload.last {
            first.entry(upload.piece).and_modify(|at| *at = last.min(*at)).or_insert(last);
        }
    }
    (first.len() == run.pieces as usize).then(|| first.into_values().max()).flatten()
}

fn corrupt(node: &Node) -> u64 {
    let corrupt = node.downloads.iter().filter(|it| matches!(it.checked, Some((_, false))));
    u64::try_from(corrupt.count()).unwrap_or(u64::MAX)
}

fn summarize(node: &Node, swarm_first: i64, end: i64) -> NodeSummary {
    let mut ups: Vec<i64> = node.links.values().map(|link| link.up).collect();
    ups.sort_unstable();
    let at = |index: usize| ups.get(index).copied().map(seconds);
    let last_byte = node.downloads.iter().filter_map(|it| it.last).max();
    let span = node.first_byte().zip(last_byte);
    let micros = |us: u64| i64::try_from(us).unwrap_or(i64::MAX);
    let dialled = node
        .links
        .values()
        .filter(|link| link.dialled)
        .map(|link| micros(link.opening.connect_us + link.opening.handshake_us + link.opening.hello_us));
    NodeSummary {
        name: node.label.clone(),
        verb: node.verb.clone(),
        phases: node.phases.iter().map(|(phase, at)| (*phase, seconds(*at))).collect(),
        first_found: node
            .found
            .iter()
            .find(|(_, _, count)| *count > 0)
            .map(|(at, means, _)| (seconds(*at), *means)),
        first_link_s: at(0),
        half_links_s: at(ups.len() / 2),
        last_link_s: at(ups.len().saturating_sub(1)),
        links: ups.len(),
        opening_ms: Quantiles::of(dialled),
        handshake_ms: Quantiles::of(node.links.values().map(|link| micros(link.opening.handshake_us))),
        first_request_s: node.downloads.iter().map(|it| it.requested).min().map(seconds),
        first_byte_s: node.first_byte().map(seconds),
        first_verified_s: node.verified().map(|(_, at)| at).min().map(seconds),
        first_sent_s: node.uploads.iter().filter_map(|it| it.first).min().map(seconds),
        last_verified_s: node.verified().map(|(_, at)| at).max().map(seconds),
        received_bytes: node
            .downloads
            .iter()
            .filter(|it| it.last.is_some())
            .map(|it| u64::from(it.bytes))
            .sum(),
        sent_bytes: sent_bytes(node),
        verified: node.verified().count(),
        duplicates: duplicated(node).count(),
        download_busy: span.map_or(0.0, |(from, to)| incoming(node, None).share(from, to)),
        upload_busy: outgoing(node, None).share(swarm_first, end),
        announced: node.announced[0],
        rejected: node.downloads.iter().filter(|it| it.rejected.is_some()).count(),
        cancelled: node.downloads.iter().filter(|it| it.cancelled.is_some()).count(),
    }
}

fn links(run: &Run, end: i64) -> Vec<LinkSummary> {
    let mut links = Vec::new();
    for node in &run.nodes {
        for (&id, link) in &node.links {
            let (inward, outward) = (incoming(node, Some(id)), outgoing(node, Some(id)));
            let came = node.downloads.iter().filter(|it| it.link == id && it.last.is_some());
            let sent = node.uploads.iter().filter(|it| it.link == id && it.last.is_some());
            let (received_bytes, sent_bytes) =
                (came.map(|it| u64::from(it.bytes)).sum(), sent.map(|it| u64::from(it.bytes)).sum());
            if received_bytes + sent_bytes == 0 {
                continue;
            }
            let both = Stretches::of(inward.0.iter().chain(&outward.0).copied());
            links.push(LinkSummary {
                node: node.label.clone(),
                peer: run.label(&link.peer).to_owned(),
                dialled: link.dialled,
                up_s: seconds(link.up),
                received_bytes,
                sent_bytes,
                busy_in: inward.share(link.up, end),
                busy_out: outward.share(link.up, end),
                idle_ms: ms((end - link.up - both.covered(link.up, end)).max(0)),
            });
        }
    }
    links
}

fn served(run: &Run) -> Vec<(String, String, u64)> {
    let mut served = Vec::new();
    for node in &run.nodes {
        let mut by_peer: BTreeMap<&str, u64> = BTreeMap::new();
        for (download, _) in node.verified() {
            if let Some(link) = node.links.get(&download.link) {
                *by_peer.entry(run.label(&link.peer)).or_default() += u64::from(download.bytes);
            }
        }
        served.extend(by_peer.into_iter().map(|(peer, bytes)| (node.label.clone(), peer.to_owned(), bytes)));
    }
    served
}

fn latency(run: &Run) -> Latency {
    let verified: Vec<_> = run.nodes.iter().flat_map(Node::verified).collect();
    let parts = |part: fn(i64, i64, i64, i64) -> i64| {
        let times = verified
            .iter()
            .filter_map(|(it, checked)| Some(part(it.requested, it.first?, it.last?, *checked)));
        Quantiles::of(times)
    };
    Latency {
        wait: parts(|requested, first, _, _| first - requested),
        transfer: parts(|_, first, last, _| last - first),
        check: parts(|_, _, last, checked| checked - last),
        whole: parts(|requested, _, _, checked| checked - requested),
        queued: Quantiles::of(run.nodes.iter().flat_map(queued)),
    }
}

/// How long each upload of a node waited for its turn.
fn queued(node: &Node) -> Vec<i64> {
    let mut asked: BTreeMap<(u64, u32), i64> = BTreeMap::new();
    for &(at, link, piece, wanted) in &node.asked {
        if wanted {
            asked.insert((link, piece), at);
        }
    }
    let waited = |it: &Upload| asked.get(&(it.link, it.piece)).map(|at| it.granted - at);
    node.uploads.iter().filter_map(waited).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{example, read::run_of};
    use super::*;

    fn summary() -> Summary {
        let run = run_of(&[("seeder.trace", example::SEEDER), ("one.trace", example::FETCHER)]).unwrap();
        Summary::of(&run, Some(1))
    }

    #[test]
    fn pieces_are_counted_once_verified_twice_received_or_corrupt() {
        let summary = summary();
        let fetcher = &summary.nodes[1];
        assert_eq!((fetcher.verified, fetcher.duplicates, summary.corrupt), (4, 1, 1));
        assert_eq!((fetcher.received_bytes, summary.duplicate_bytes), (6000, 1000));
        assert_eq!((summary.nodes[0].sent_bytes, summary.copies_by_seeders), (2000, 0.5));
        assert_eq!(summary.served, [("one".into(), "seeder".into(), 4000)]);
    }

    #[test]
    fn times_count_from_the_first_fetch() {
        let summary = summary();
        assert_eq!((summary.seconds, summary.complete_s), (0.4, Some((0.4, 0.4))));
        assert_eq!(summary.bound_s, Some(0.032));
        let fetcher = &summary.nodes[1];
        assert_eq!(fetcher.first_found, Some((0.02, super::super::event::Means::Manifest)));
        assert_eq!((fetcher.first_link_s, fetcher.last_link_s), (Some(0.05), Some(0.06)));
        assert_eq!((fetcher.first_request_s, fetcher.first_byte_s), (Some(0.1), Some(0.11)));
        assert_eq!((fetcher.first_verified_s, fetcher.last_verified_s), (Some(0.151), Some(0.391)));
        assert_eq!(fetcher.opening_ms, Quantiles { count: 2, median: 4.2, p95: 4.2, max: 4.2 });
    }

    #[test]
    fn idle_time_is_what_no_piece_covers() {
        let summary = summary();
        let download: Vec<_> = summary.gaps.iter().filter(|gap| gap.direction == "download").collect();
        let gaps: Vec<_> =
            download.iter().map(|gap| (gap.node.as_str(), gap.from_s, gap.ms, gap.waiting)).collect();
        assert_eq!(gaps, [("one", 0.25, 100.0, 0), ("one", 0.02, 90.0, 0), ("one", 0.23, 5.0, 0)]);
        let busy = summary.nodes[1].download_busy;
        assert!((busy - 175.0 / 280.0).abs() < 1e-9, "{busy}");
    }

    #[test]
    fn latency_is_split_where_it_arises() {
        let latency = summary().latency;
        assert_eq!(latency.wait.count, 4);
        assert_eq!((latency.wait.max, latency.transfer.max, latency.check.max), (50.0, 50.0, 1.0));
        assert_eq!(latency.whole.max, 101.0);
        assert_eq!(latency.queued, Quantiles { count: 1, ..Quantiles::default() });
    }

    #[test]
    fn tail_tells_what_the_last_piece_cost() {
        let tail = summary().tail;
        assert_eq!(tail.from_s, 0.38);
        let node = &tail.nodes[0];
        assert_eq!((node.missing, node.pieces_ms, node.idle_ms, node.finish_ms), (1, 11.0, 1.0, 9.0));
        assert_eq!(node.last_piece, Some((91.0, "seeder".into())));
    }

    #[test]
    fn stretches_merge_and_leave_gaps() {
        let stretches = Stretches::of([(5, 7), (0, 2), (1, 3), (7, 8)].into_iter());
        assert_eq!(stretches.0, [(0, 3), (5, 8)]);
        assert_eq!(stretches.covered(2, 6), 2);
        assert_eq!(stretches.gaps(-1, 10), [(-1, 0), (3, 5), (8, 10)]);
    }

    #[test]
    fn bytes_of_all_slices_are_those_that_moved() {
        let summary = summary();
        let moved: f64 = summary.slices.iter().map(|slice| slice.fetcher_down).sum();
        assert!((moved * 20_000.0 / 8.0 - 6000.0).abs() < 1e-6, "{moved}");
    }
}
