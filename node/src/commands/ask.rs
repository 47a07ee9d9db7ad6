//! Asks the daemon, and shows what it answers: what all verbs of the namespace share.

use crate::daemon::reach::Connection;
use crate::daemon::wire::{Event, Item, Request, failure_of};
use crate::failure::{Failure, Kind};
use crate::report::Reporter;
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
    let mut verb = String::new();
    loop {
        let event = tokio::select! {
            event = connection.next() => event?,
            () = &mut interrupt => {
                reporter.end();
                return Err(Failure::new(Kind::Interrupted, "interrupted")
                    .hint("what the daemon has begun to fetch, it goes on with: dft status"));
            }
        };
        match event {
            Event::Progress(progress) => {
                if progress.verb != verb {
                    verb.clone_from(&progress.verb);
                    reporter.begin(shown(&verb), progress.total);
                }
                if reporter.progress_event_due() {
                    reporter.event(&serde_json::json!({
                        "event": "progress", "verb": progress.verb, "bytes": progress.total,
                        "have_bytes": progress.bytes, "peers": progress.peers,
                    }));
                }
                let peers =
                    if progress.peers > 0 { format!("{} peers", progress.peers) } else { String::new() };
                reporter.progress(progress.bytes, peers);
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
