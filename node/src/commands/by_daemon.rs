//! `fetch` and `seed` where a daemon runs: the daemon does it, over its own links. What was fetched it
//! goes on sharing; what is seeded it gives up with the command. What is printed, and the exit codes,
//! are those of a command without one.

use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use clap::{CommandFactory, FromArgMatches};
use dft_protocol::manifest::Manifest;
use serde_bytes::ByteBuf;

use super::ask::{absolute, ask, no_data};
use super::fetch::share_of_peers;
use super::seed::{MANIFEST_MODE, show_progress, tell_of_copy, tell_of_end, tell_of_seeding};
use super::{read_manifest, selection};
use crate::cli::{Cli, Command, FetchArgs, NetArgs, SeedArgs, SelectArgs};
use crate::config::ConfigFile;
use crate::daemon::reach::Connection;
use crate::daemon::wire::{Complete, Event, Item, Request, WirePath, failure_of};
use crate::failure::{Failure, Kind};
use crate::report::{Rate, Reporter, human_bytes, human_time};
use crate::settings::{resolve_peers, write_atomically};

/// Whether a daemon can do it: one runs, and nothing is asked of the network that is not its own
/// way. A daemon has the settings of the configuration and the environment; options on the command
/// line are of one process.
pub(super) async fn can(net: &NetArgs, alone: bool) -> Result<bool, Failure> {
    if alone {
        return Ok(false);
    }
    // Where nobody may look for it safely, it is as if none ran.
    let runs = Connection::open().await.ok().flatten().is_some();
    Ok(runs && *net == usual_net()?)
}

/// What a command line without any option says.
fn usual_net() -> Result<NetArgs, Failure> {
    let command = ConfigFile::load(&Cli::command())?.apply(Cli::command());
    let parsed = command
        .try_get_matches_from(["dft", "fetch", "manifest"])
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| Failure::new(Kind::Usage, error.to_string()))?;
    match parsed.command {
        Some(Command::Fetch(args)) => Ok(args.net),
        _ => Err(Failure::new(Kind::Other, "the command line has no fetch")),
    }
}

pub(super) async fn fetch(args: FetchArgs) -> Result<(), Failure> {
    let manifest = read_manifest(&args.manifest)?;
    if !args.output.is_dir() {
        let message = format!("there is no directory {}", args.output.display());
        return Err(Failure::new(Kind::Usage, message).hint("create it, or name another one with -o"));
    }
    selection(&manifest, &args.select)?;
    let SelectArgs { include, exclude } = args.select;
    let request = Request::Fetch {
        manifest: ByteBuf::from(manifest.encode()),
        into: absolute(&args.output)?.as_path().into(),
        peers: resolve_peers(&args.peer).await?.into_iter().map(|peer| peer.addr).collect(),
        force: args.force,
        include,
        exclude,
        timeout_ms: args.timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
    };
    let reporter = Reporter::new(args.json);
    let show = |item| {
        match item {
            Item::Fetching(fetching) if (1..fetching.pieces).contains(&fetching.have_pieces) => {
                let (have, pieces) = (fetching.have_pieces, fetching.pieces);
                reporter.say(&format!("going on with {have} of {pieces} pieces"));
            }
            Item::Complete(complete) => reporter.say(&line(&complete)),
            _ => {}
        }
        Ok(())
    };
    ask(&request, args.json, show, no_data).await
}

/// Serves by the daemon until interrupted, or until enough copies exist. `cache`: the hashes.
pub(super) async fn seed(
    args: &SeedArgs,
    (output, cache): (&Path, &Path),
    manifest: &Manifest,
    mut reporter: Reporter,
    mut interrupt: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), Failure> {
    let wire_path = |path: &Path| Ok::<WirePath, Failure>(absolute(path)?.as_path().into());
    let request = Request::Seed {
        manifest: ByteBuf::from(manifest.encode()),
        paths: args.paths.iter().map(|path| wire_path(path)).collect::<Result<_, _>>()?,
        output: wire_path(output)?,
        cache: wire_path(cache)?,
        compress: args.compress,
    };
    let gone = || Failure::new(Kind::Other, "the daemon has ended").hint("run the same command again");
    let mut connection = Connection::open().await?.ok_or_else(gone)?;
    connection.ask(&request).await?;
    let (started, mut rate) = (Instant::now(), Rate::default());
    let (mut serves, mut sent, mut copies) = (false, (0, 0), 0);
    while !serves || args.exit_after_copies.is_none_or(|wanted| copies < wanted) {
        let event = tokio::select! {
            event = connection.next() => event?,
            () = &mut interrupt => break,
        };
        match event {
            Event::Item(Item::Seeding(seeding)) => {
                let manifest = Manifest::decode(&seeding.manifest)
                    .map_err(|error| Failure::new(Kind::Other, format!("the daemon's manifest: {error}")))?;
                write_atomically(output, &manifest.encode_with_sum(), MANIFEST_MODE)?;
                tell_of_seeding(&reporter, (output, &manifest), &seeding.listen, &seeding.peer);
                serves = true;
            }
            Event::Item(Item::Serving(serving)) => {
                sent = (serving.sent_bytes, serving.saved_bytes);
                show_progress(&mut reporter, (serving.sent_bytes, serving.peers), copies, &mut rate);
            }
            Event::Item(Item::PeerComplete(complete)) => {
                copies = complete.copies;
                tell_of_copy(&reporter, &complete.peer, copies);
            }
            Event::Warning(text) => reporter.warn(&text),
            Event::Failed { code, message, hint } => {
                reporter.end();
                return Err(failure_of(code, message, hint));
            }
            Event::Done => break,
            Event::Progress(_) | Event::Data(_) | Event::Item(_) => {}
        }
    }
    reporter.end();
    tell_of_end(&reporter, manifest, sent, copies, started);
    Ok(())
}

fn line(complete: &Complete) -> String {
    let (path, bytes) = (&complete.path, human_bytes(complete.bytes));
    if complete.already {
        return format!("{path} is complete already ({bytes})");
    }
    let what = if complete.whole { "" } else { ", as far as it is selected" };
    format!(
        "{path} is complete{what}: {bytes} in {}, {}% from peers other than the seeder; the daemon shares it",
        human_time(Duration::try_from_secs_f64(complete.seconds).unwrap_or_default()),
        share_of_peers(complete.from_seeders, complete.from_peers),
    )
}
