//! Asks the daemon, and shows what it answers: what all verbs of the namespace share.

use crate::daemon::reach::Connection;
use crate::daemon::wire::{Event, Item, Progress, Request, failure_of};
use crate::failure::{Failure, Kind};
use crate::report::{Rate, Reporter, counted, eta, human_bytes, human_time};
use crate::session::interrupted;

/// Asks the daemon, which is started where none runs. Items are printed as JSON lines, or handed
/// to `show`; bytes of files go to `data`.
pub(super) async fn ask(
    request: &Request,
    json: bool,
    mut show: impl FnMut(Item) -> Result<(), Failure>,
    mut data: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut reporter = Reporter::new(json);
    let mut connection = Connection::open_or_start(&reporter).await?;
    connection.ask(request).await?;
    let mut interrupt = std::pin::pin!(interrupted());
    let (mut verb, mut rate) = (String::new(), Rate::default());
    loop {
        let event = tokio::select! {
            event = connection.next() => event?,
            () = &mut interrupt => {
                reporter.end();
                return Err(Failure::new(Kind::Interrupted, "interrupted")
                    .hint(after_interruption(request)));
            }
        };
        match event {
            Event::Progress(progress) => {
                if progress.verb != verb {
                    rate = Rate::default();
                    verb.clone_from(&progress.verb);
                    reporter.begin(shown(&verb), progress.total);
                }
                tell(&mut reporter, &progress, rate.update(progress.bytes));
            }
            Event::Warning(text) => reporter.warn(&text),
            Event::Data(bytes) => data(&bytes)?,
            Event::Item(item) if json => reporter.event(&serde_json::json!(item)),
            Event::Item(item) => {
                reporter.end();
                show(item)?;
            }
            Event::Done => {
                reporter.end();
                return Ok(());
            }
            Event::Failed { code, message, hint } => {
                reporter.end();
                return Err(failure_of(code, message, hint));
            }
        }
    }
}

fn tell(reporter: &mut Reporter, progress: &Progress, rate: f64) {
    let left = eta(progress.total.saturating_sub(progress.bytes), rate);
    if reporter.progress_event_due() {
        reporter.event(&serde_json::json!({
            "event": "progress", "verb": progress.verb, "bytes": progress.total,
            "have_bytes": progress.bytes, "rate": rate, "eta_s": left.map(|left| left.as_secs_f64()),
            "peers": progress.peers, "from_seeders": progress.from_seeders,
            "from_peers": progress.from_peers,
        }));
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and for people"
    )]
    let rate = human_bytes(rate as u64);
    let left = left.map_or_else(|| "--".into(), human_time);
    let peers =
        if progress.peers > 0 { format!(", {}", counted(progress.peers, "peer")) } else { String::new() };
    reporter.progress(progress.bytes, format!("{rate}/s, {left} left{peers}"));
}

/// What becomes of a request that nobody waits for any more.
fn after_interruption(request: &Request) -> &'static str {
    match request {
        Request::Get { peek, include, exclude, .. }
            if *peek || !include.is_empty() || !exclude.is_empty() =>
        {
            "the daemon does not go on with it; the same command does, with what is there already"
        }
        Request::Cat { .. } => "where all of it was asked for, the daemon goes on with it: dft status",
        Request::Get { .. } | Request::Fetch { .. } | Request::Push { .. } => {
            "what the daemon has begun to fetch, it goes on with: dft status; dft drop NAME ends that"
        }
        Request::Put { .. } => "nothing was published, unless it had come that far: dft ls shows it",
        _ => "run the same command again",
    }
}

/// For requests that answer with no bytes.
pub(super) fn no_data(_: &[u8]) -> Result<(), Failure> {
    Ok(())
}

/// The verbs of progress, as the bar has them.
fn shown(verb: &str) -> &'static str {
    match verb {
        "hashing" => "hashing",
        "copying" => "copying",
        "checking" => "checking",
        _ => "fetching",
    }
}

/// An absolute path: the daemon has a working directory of its own.
pub(super) fn absolute(path: &std::path::Path) -> Result<std::path::PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::io("find", path, &error))
}
