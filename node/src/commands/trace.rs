//! `dft trace`: where the time of a run went, by the traces of its nodes.

use std::fmt::Write;

use super::print_bytes;
use crate::cli::TraceArgs;
use crate::failure::{Failure, Kind};
use crate::report::human_bytes;
use crate::trace::event::Phase;
use crate::trace::read::{ReadError, Run};
use crate::trace::summary::{NodeSummary, Quantiles, Summary};
use crate::trace::{check_replaceable, plot};

/// Links of one end that the text names: the busiest.
const LINKS_SHOWN_MAX: usize = 12;
/// Gaps that the text names.
const GAPS_SHOWN_MAX: usize = 10;
/// Nodes up to which a matrix still fits a screen.
const MATRIX_NODES_MAX: usize = 16;

pub(super) fn run(args: &TraceArgs) -> Result<(), Failure> {
    let run = Run::read(&args.files).map_err(|error| match &error {
        ReadError::Io { path, source } => Failure::given("read the trace", path, source),
        _ => Failure::new(Kind::Usage, error.to_string())
            .hint("dft seed and dft fetch write a trace with --trace FILE"),
    })?;
    let summary = Summary::of(&run, args.rate);
    if let Some(path) = &args.plot {
        let svg = plot::svg(&run, args.rate);
        check_replaceable(path, b"<svg", "a picture in SVG")?;
        std::fs::write(path, svg).map_err(|error| Failure::given("write", path, &error))?;
    }
    let text = if args.json { format!("{}\n", serde_json::json!(summary)) } else { as_text(&summary) };
    print_bytes(text.as_bytes())
}

/// Writing to a string cannot fail.
fn as_text(summary: &Summary) -> String {
    let mut text = String::new();
    let _ = write_whole(&mut text, summary);
    let _ = write_phases(&mut text, summary);
    let _ = write_traffic(&mut text, summary);
    let _ = write_served(&mut text, summary);
    let _ = write_links(&mut text, summary);
    let _ = write_latency(&mut text, summary);
    let _ = write_gaps(&mut text, summary);
    let _ = write_slices(&mut text, summary);
    let _ = write_tail(&mut text, summary);
    text
}

fn write_whole(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let (bytes, pieces) = (human_bytes(summary.bytes), summary.pieces);
    writeln!(text, "dataset     {bytes}, {pieces} pieces")?;
    write!(text, "time        {:.3} s from the first fetch's start to the last one's end", summary.seconds)?;
    if let Some(bound) = summary.bound_s {
        write!(text, ": {:.3} x the bound of {bound:.3} s", summary.seconds / bound)?;
    }
    writeln!(text)?;
    if let Some((first, last)) = summary.complete_s {
        writeln!(text, "complete    the first after {first:.3} s, the last after {last:.3} s")?;
    }
    let first_copy = summary.first_copy_s.map(|at| format!(", the first one within {at:.3} s"));
    let first_copy = first_copy.unwrap_or_default();
    writeln!(text, "seeders     sent {:.3} copies{first_copy}", summary.copies_by_seeders)?;
    let (duplicates, wasted) = (summary.duplicates, human_bytes(summary.duplicate_bytes));
    writeln!(text, "duplicates  {duplicates} pieces ({wasted}); corrupt: {}", summary.corrupt)?;
    let churn = &summary.churn;
    writeln!(
        text,
        "links       {} ends after {} dials ({} failed); {} closed as duplicates; {} requests lost with a link, {} made again",
        churn.link_ends,
        churn.dials,
        churn.failed_dials,
        churn.closed_as_duplicates,
        churn.lost_requests,
        churn.repeated_requests
    )?;
    if let Some(account) = &summary.account {
        writeln!(
            text,
            "account     {:.3} s of a fetch: {:.3} before its first byte, {:.3} ramp, {:.3} payload at full rate, {:.3} duplicates, {:.3} headers and all that keeps the middle below it, {:.3} end",
            account.complete,
            account.before_first_byte,
            account.ramp,
            account.payload,
            account.duplicates,
            account.below_rate,
            account.end
        )?;
    }
    if summary.dropped_events > 0 {
        writeln!(text, "missing     {} events: a disk did not keep up with a trace", summary.dropped_events)?;
    }
    Ok(())
}

fn write_phases(text: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(text, "\nWhen, in seconds since the first fetch's start")?;
    writeln!(
        text,
        "{:12} {:>7} {:>7} {:>7} {:>7} {:>7} {:>16} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8}",
        "node",
        "start",
        "read",
        "listen",
        "drive",
        "found",
        "by",
        "link 1",
        "half",
        "request",
        "byte 1",
        "piece 1",
        "send 1",
        "all ok",
        "complete"
    )?;
    for node in &summary.nodes {
        let phase = |phase| cell(node.phases.get(&phase).copied());
        let means =
            node.first_found.map(|(_, means)| serde_json::json!(means).as_str().unwrap_or("").to_owned());
        writeln!(
            text,
            "{:12} {:>7} {:>7} {:>7} {:>7} {:>7} {:>16} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8}",
            node.name,
            phase(Phase::Start),
            phase(Phase::Manifest),
            phase(Phase::Listening),
            phase(Phase::Driving),
            cell(node.first_found.map(|(at, _)| at)),
            means.unwrap_or_default(),
            cell(node.first_link_s),
            cell(node.half_links_s),
            cell(node.first_request_s),
            cell(node.first_byte_s),
            cell(node.first_verified_s),
            cell(node.first_sent_s),
            cell(node.last_verified_s),
            phase(Phase::Complete),
        )?;
    }
    Ok(())
}

fn cell(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".into(), |seconds| format!("{seconds:.3}"))
}

fn write_traffic(text: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(text, "\nWhat each node did; busy: share of the time in which a piece was on its way")?;
    writeln!(
        text,
        "{:12} {:>10} {:>10} {:>6} {:>5} {:>7} {:>7} {:>5} {:>21} {:>21} {:>13} {:>9} {:>7}",
        "node",
        "received",
        "sent",
        "pieces",
        "twice",
        "down",
        "up",
        "links",
        "dial ms med/p95/max",
        "handshake med/p95/max",
        "haves: msgs",
        "cancelled",
        "refused"
    )?;
    for node in &summary.nodes {
        writeln!(
            text,
            "{:12} {:>10} {:>10} {:>6} {:>5} {:>7} {:>7} {:>5} {:>21} {:>21} {:>13} {:>9} {:>7}",
            node.name,
            human_bytes(node.received_bytes),
            human_bytes(node.sent_bytes),
            node.verified,
            node.duplicates,
            download_share(node),
            percent(node.upload_busy),
            node.links,
            three(&node.opening_ms),
            three(&node.handshake_ms),
            format!("{}: {}", node.announced.1, node.announced.0),
            node.cancelled,
            node.rejected,
        )?;
    }
    Ok(())
}

fn download_share(node: &NodeSummary) -> String {
    if node.first_byte_s.is_some() { percent(node.download_busy) } else { "-".into() }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn three(quantiles: &Quantiles) -> String {
    format!("{:.1}/{:.1}/{:.1}", quantiles.median, quantiles.p95, quantiles.max)
}

fn write_served(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let mut senders: Vec<&str> = summary.served.iter().map(|(_, sender, _)| sender.as_str()).collect();
    senders.sort_unstable();
    senders.dedup();
    if senders.is_empty() || senders.len().max(summary.nodes.len()) > MATRIX_NODES_MAX {
        return Ok(());
    }
    writeln!(text, "\nWho served whom, in MiB verified: a row receives, a column sends")?;
    write!(text, "{:12}", "")?;
    senders.iter().try_for_each(|sender| write!(text, " {:>9}", tail_of(sender, 9)))?;
    writeln!(text)?;
    for node in summary.nodes.iter().filter(|node| node.verified > 0) {
        write!(text, "{:12}", node.name)?;
        for sender in &senders {
            let bytes = summary.served.iter().find(|(to, from, _)| *to == node.name && from == sender);
            match bytes {
                Some((_, _, bytes)) => write!(text, " {:>9.2}", *bytes as f64 / f64::from(1 << 20))?,
                None => write!(text, " {:>9}", "·")?,
            }
        }
        writeln!(text)?;
    }
    Ok(())
}

fn tail_of(name: &str, len: usize) -> String {
    let skipped = name.chars().count().saturating_sub(len);
    name.chars().skip(skipped).collect()
}

fn write_links(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let mut links: Vec<_> = summary.links.iter().collect();
    links.sort_by_key(|link| std::cmp::Reverse(link.received_bytes + link.sent_bytes));
    let rest = links.len().saturating_sub(LINKS_SHOWN_MAX);
    links.truncate(LINKS_SHOWN_MAX);
    writeln!(text, "\nLinks that carried most, each as its end saw it ({rest} more with --json)")?;
    writeln!(
        text,
        "{:12} {:12} {:>7} {:>10} {:>10} {:>7} {:>8} {:>8}",
        "node", "peer", "up at", "received", "sent", "in busy", "out busy", "idle ms"
    )?;
    for link in links {
        writeln!(
            text,
            "{:12} {:12} {:>7.3} {:>10} {:>10} {:>7} {:>8} {:>8.0}",
            link.node,
            link.peer,
            link.up_s,
            human_bytes(link.received_bytes),
            human_bytes(link.sent_bytes),
            percent(link.busy_in),
            percent(link.busy_out),
            link.idle_ms,
        )?;
    }
    Ok(())
}

fn write_latency(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let latency = &summary.latency;
    writeln!(text, "\nPieces, in ms                 median      p95      max")?;
    for (what, times) in [
        ("request to hash", &latency.whole),
        ("  request to first byte", &latency.wait),
        ("  first byte to last", &latency.transfer),
        ("  last byte to hash", &latency.check),
        ("at the sender, in its queue", &latency.queued),
    ] {
        writeln!(text, "{what:27} {:>8.1} {:>8.1} {:>8.1}", times.median, times.p95, times.max)?;
    }
    Ok(())
}

fn write_gaps(text: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(text, "\nLongest idle times of a node's direction")?;
    for gap in summary.gaps.iter().take(GAPS_SHOWN_MAX) {
        writeln!(
            text,
            "{:12} {:8} {:>8.1} ms from {:.3} s on, while {} requests waited",
            gap.node, gap.direction, gap.ms, gap.from_s, gap.waiting
        )?;
    }
    Ok(())
}

fn write_slices(text: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(text, "\nRates of pieces in Mbit/s, from … s on")?;
    writeln!(
        text,
        "{:>7} {:>10} {:>12} {:>14} {:>10}",
        "from", "seeders up", "a fetcher up", "a fetcher down", "duplicates"
    )?;
    for slice in &summary.slices {
        writeln!(
            text,
            "{:>7.2} {:>10.1} {:>12.1} {:>14.1} {:>10}",
            slice.from_s, slice.seeders_up, slice.fetcher_up, slice.fetcher_down, slice.duplicates
        )?;
    }
    Ok(())
}

fn write_tail(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let tail = &summary.tail;
    writeln!(
        text,
        "\nThe last 5% of the time, from {:.3} s on: seeders sent {} of it",
        tail.from_s,
        percent(tail.seeders_busy)
    )?;
    for node in &tail.nodes {
        let (took, peer) = node.last_piece.clone().unwrap_or_default();
        writeln!(
            text,
            "{:12} lacked {:>3} pieces: {:>6.1} ms until verified, nothing came for {:>5.1} of it; finishing {:>5.1} ms; the last piece took {took:.1} ms from {peer}",
            node.name, node.missing, node.pieces_ms, node.idle_ms, node.finish_ms
        )?;
    }
    Ok(())
}
