//! `dft status`, `dft ls`, `dft nodes`: what there is.

use std::time::{Duration, Instant, UNIX_EPOCH};

use super::ask::{ask, no_data};
use super::limit::limits_text;
use super::print_bytes;
use crate::cli::{LsArgs, NodesArgs, StatusArgs};
use crate::daemon::places::is_daemon_locked;
use crate::daemon::reach::Connection;
use crate::daemon::wire::{File, Held, Item, Listed, Node, Pieces, Request, Status};
use crate::failure::{Failure, Kind};
use crate::report::{Reporter, counted, human_bytes};

/// Nodes with complete copies that are shown in a line.
const HOLDERS_SHOWN_MAX: usize = 8;
/// How long a daemon may take to end …
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// … and how often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Runs of pieces that are shown in a line.
const RUNS_SHOWN_MAX: usize = 12;

pub(super) async fn status(args: StatusArgs) -> Result<(), Failure> {
    if Connection::open().await?.is_none() {
        return Err(Failure::new(Kind::Other, "no daemon runs")
            .hint("put, get and the like start one; dft daemon runs it here"));
    }
    let request = if args.stop { Request::Stop } else { Request::Status };
    let show = |item| match item {
        Item::Status(status) => print_bytes(status_text(&status).as_bytes()),
        Item::Held(held) => print_bytes(held_line(&held).as_bytes()),
        _ => Ok(()),
    };
    ask(&request, args.json, show, no_data).await?;
    if args.stop {
        until_ended().await?;
        Reporter::new(args.json).say("the daemon ends; the next put or get starts it again");
    }
    Ok(())
}

/// Waits until the daemon is gone, so that another can begin.
async fn until_ended() -> Result<(), Failure> {
    let begun = Instant::now();
    while super::blocking(is_daemon_locked).await?? {
        if begun.elapsed() >= ENDS_WITHIN {
            return Err(Failure::new(Kind::Other, "the daemon has not ended yet")
                .hint("dft status shows whether it does; its disk may be slow"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn status_text(status: &Status) -> String {
    let quota = status.quota.map_or_else(String::new, |quota| format!(" of {}", human_bytes(quota)));
    let catalogue =
        if status.trackers.is_empty() { "not found yet".into() } else { status.trackers.join(", ") };
    let problems: String =
        status.catalogue_problems.iter().map(|problem| format!("\n           {problem}")).collect();
    let here = if status.embeds_tracker { " (kept by this node)" } else { "" };
    format!(
        "node       {} (pid {})\nidentity   {}\nlinks      {}\nstore      {}: {}{quota}\ncatalogue  {catalogue}{here}{problems}\nlimits     {}\n",
        status.node,
        status.pid,
        status.peer,
        status.listen.join(", "),
        status.store,
        human_bytes(status.store_bytes),
        limits_text(&status.limits),
    )
}

fn held_line(held: &Held) -> String {
    let share = (100 * held.have_bytes).checked_div(held.bytes).unwrap_or(100);
    let state = if held.state == "fetching" { format!("{share}%") } else { held.state.clone() };
    let (bytes, sent) = (human_bytes(held.bytes), human_bytes(held.sent_bytes));
    let problem = held.problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"));
    format!(
        "{:>12}  {state:<9} {:<24} {} ({}, {sent} sent){problem}\n",
        bytes,
        held.name,
        held.path,
        counted(held.peers, "peer")
    )
}

pub(super) async fn names(args: LsArgs) -> Result<(), Failure> {
    if args.files {
        let request = Request::Files { name: args.pattern.unwrap_or_default() };
        let show = |item| match item {
            Item::File(file) => print_bytes(file_line(&file).as_bytes()),
            _ => Ok(()),
        };
        return ask(&request, args.json, show, no_data).await;
    }
    let pattern = args.pattern.clone();
    let request = Request::List { pattern, long: args.long, chunks: args.chunks };
    let mut none = true;
    let show = |item| {
        none = false;
        match item {
            Item::Listed(listed) if args.long => print_bytes(long_line(&listed).as_bytes()),
            Item::Listed(listed) => print_bytes(format!("{}\n", listed.name).as_bytes()),
            Item::Pieces(pieces) => print_bytes(pieces_line(&pieces).as_bytes()),
            _ => Ok(()),
        }
    };
    ask(&request, args.json, show, no_data).await?;
    if none {
        Reporter::new(args.json).say(&match args.pattern {
            Some(pattern) => format!("the catalogue knows no name like {pattern}"),
            None => "the catalogue knows no name yet; dft put PATH publishes one".into(),
        });
    }
    Ok(())
}

fn long_line(listed: &Listed) -> String {
    let date = date(listed.created_s);
    let count = |count: Option<u64>| count.map_or_else(|| "-".into(), |count| count.to_string());
    let here = if listed.here { "here" } else { "" };
    format!(
        "{:>12}  {date}  {:>3} + {:>2}  {here:<4}  {}  {}{}\n",
        human_bytes(listed.bytes),
        count(listed.replicas),
        count(listed.partial),
        &listed.id[..listed.id.len().min(12)],
        listed.name,
        complete_copies(listed),
    )
}

fn file_line(file: &File) -> String {
    let File { kind, path, bytes, mtime_s, target, name } = file;
    // Escaped: a hostile name cannot reach the terminal.
    let shown = |path: &str| path.escape_debug().to_string();
    let path = if path.is_empty() { shown(name) } else { shown(path) };
    match (kind.as_str(), target) {
        ("file", _) => {
            let date = u64::try_from(*mtime_s).map_or_else(|_| "?".into(), date);
            format!("{:>12}  {date:<20}  {path}\n", human_bytes(*bytes))
        }
        (_, Some(target)) => format!("{:>12}  {:<20}  {path} -> {}\n", "", "", shown(target)),
        _ => format!("{:>12}  {:<20}  {path}/\n", "", ""),
    }
}

/// Who has every piece, behind the pieces; nothing where nobody has, or it was not asked for.
fn complete_copies(listed: &Listed) -> String {
    let Some(holders) = listed.holders.as_ref().filter(|holders| !holders.is_empty()) else {
        return String::new();
    };
    let mut names: Vec<String> = holders.iter().take(HOLDERS_SHOWN_MAX).cloned().collect();
    if holders.len() > HOLDERS_SHOWN_MAX {
        names.push(format!("and {} more", holders.len() - HOLDERS_SHOWN_MAX));
    }
    let pieces = match listed.pieces {
        0 => String::new(),
        1 => "0: ".into(),
        pieces => format!("0-{}: ", pieces - 1),
    };
    format!("  ({pieces}{})", names.join(" "))
}

/// A time as text; what lies beyond the year 9999 has none.
fn date(seconds: u64) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let written = UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .is_some_and(|time| write!(text, "{}", humantime::format_rfc3339_seconds(time)).is_ok());
    if written { text } else { "?".into() }
}

fn pieces_line(pieces: &Pieces) -> String {
    let run = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let mut runs: Vec<String> = pieces.runs.iter().take(RUNS_SHOWN_MAX).map(run).collect();
    if pieces.runs.len() > RUNS_SHOWN_MAX {
        runs.push(format!("and {} more", pieces.runs.len() - RUNS_SHOWN_MAX));
    }
    let what = match &pieces.problem {
        Some(problem) => problem.clone(),
        None if runs.is_empty() => "nothing".into(),
        None => runs.join(" "),
    };
    format!("    {:<20} {what}\n", pieces.node)
}

pub(super) async fn nodes(args: NodesArgs) -> Result<(), Failure> {
    let show = |item| match item {
        Item::Node(node) => print_bytes(node_line(&node).as_bytes()),
        _ => Ok(()),
    };
    ask(&Request::Nodes, args.json, show, no_data).await
}

fn node_line(node: &Node) -> String {
    let here = if node.here { "  (this node)" } else { "" };
    format!(
        "{:<20} {:>4} datasets {:>12}  in {:>10}/s  out {:>10}/s  {}{here}\n",
        node.name,
        node.datasets,
        human_bytes(node.bytes),
        human_bytes(node.down_rate),
        human_bytes(node.up_rate),
        node.addrs.first().map_or("", String::as_str),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_copies_are_shown_compactly_with_their_pieces() {
        let shown = |pieces, holders: &[&str]| {
            let holders = Some(holders.iter().map(ToString::to_string).collect());
            let (name, id) = ("a".to_owned(), "0".repeat(64));
            complete_copies(&Listed {
                name,
                id,
                bytes: 1,
                pieces,
                created_s: 0,
                replicas: None,
                partial: None,
                holders,
                here: false,
            })
        };
        assert_eq!(shown(1639, &["ada", "eve"]), "  (0-1638: ada eve)");
        assert_eq!(shown(1, &["ada"]), "  (0: ada)");
        assert_eq!(shown(0, &["ada"]), "  (ada)");
        assert_eq!(shown(3, &[]), "");
        assert_eq!(shown(2, &["n"; 10]), "  (0-1: n n n n n n n n and 2 more)");
    }

    #[test]
    fn no_time_panics() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(253_402_300_799), "9999-12-31T23:59:59Z");
        for beyond in [253_402_300_800, u64::MAX] {
            assert_eq!(date(beyond), "?", "{beyond}");
        }
    }
}
