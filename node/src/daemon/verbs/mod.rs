//! What the daemon does for each request: one function each, in files by subject.

mod cat;
mod fetch;
mod get;
mod limit;
mod list;
mod put;
mod seed;
mod spread;
pub(super) mod wait;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::Daemon;
use super::serve::Reply;
use super::wire::{Event, Request, WirePath};
use crate::cli::SelectArgs;
use crate::failure::Failure;

/// How often it is looked what a verb waits for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Does what was asked for; what there is to say goes to `reply`, and what it waits for as well.
pub(super) async fn run(daemon: &Arc<Daemon>, request: Request, reply: &Reply) -> Result<(), Failure> {
    tokio::select! {
        outcome = carry_out(daemon, request, reply) => outcome,
        never = tell_of_waits(daemon, reply) => match never {},
    }
}

async fn tell_of_waits(daemon: &Daemon, reply: &Reply) -> Infallible {
    let mut told = None;
    let mut used = daemon.known_catalogue();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let uses = daemon.known_catalogue();
        if let (Some(before), Some(uses)) = (&used, &uses)
            && !Arc::ptr_eq(before, uses)
        {
            let (silent, found) = (before.trackers.join(", "), uses.trackers.join(", "));
            let text =
                format!("the catalogue at {silent} does not answer; from now on that at {found} is asked");
            reply.send(Event::Warning(text)).await;
        }
        used = uses;
        let waits = daemon.waits_for_catalogue();
        if let Some(text) = waits.clone().filter(|_| waits != told) {
            reply.send(Event::Warning(text)).await;
            told = waits;
        }
    }
}

async fn carry_out(daemon: &Arc<Daemon>, request: Request, reply: &Reply) -> Result<(), Failure> {
    match request {
        Request::Status => list::status(daemon, reply).await,
        Request::Limit { upload, download } => {
            limit::run(daemon, upload, download, reply).await;
            Ok(())
        }
        Request::Put { paths, name, copy, compress } => {
            let paths = paths.iter().map(WirePath::to_path).collect();
            put::run(daemon, &put::Wanted { paths, name, copy, compress }, reply).await
        }
        Request::Seed { manifest, paths, output, cache, compress } => {
            let paths = paths.iter().map(WirePath::to_path).collect();
            let (output, cache) = (output.to_path(), cache.to_path());
            seed::run(daemon, manifest, seed::Wanted { paths, output, cache, compress }, reply).await
        }
        Request::Get { names, into, parents, peek, id, force, include, exclude, timeout_ms } => {
            let timeout = timeout_ms.map(Duration::from_millis);
            let target = get::Target { into: into.to_path(), peek, force, timeout, ..Default::default() };
            let wanted = get::Wanted { names, id, parents, select: SelectArgs { include, exclude }, target };
            get::run(daemon, &wanted, reply).await
        }
        Request::Fetch { manifest, into, peers, force, include, exclude, timeout_ms } => {
            let timeout = timeout_ms.map(Duration::from_millis);
            let target =
                get::Target { into: into.to_path(), peek: false, force, timeout, peers, tells: true };
            fetch::run(daemon, manifest, &SelectArgs { include, exclude }, &target, reply).await
        }
        Request::Cat { name, path, from, to } => {
            cat::run(daemon, &cat::Part { name, path, from, to }, reply).await
        }
        Request::List { pattern, long, chunks } => {
            list::names(daemon, pattern.as_deref(), long, chunks, reply).await
        }
        Request::Files { name } => list::files(daemon, &name, reply).await,
        Request::Nodes => list::nodes(daemon, reply).await,
        Request::Push { name, to, all, wait } => spread::push(daemon, &name, &to, all, wait, reply).await,
        Request::Drop { name, force, id } => {
            spread::give_up(daemon, &name, (force, id.as_deref()), reply).await
        }
        Request::Remove { name, forget, id } => {
            spread::remove(daemon, &name, (forget, id.as_deref()), reply).await
        }
        Request::Stop => {
            daemon.end();
            Ok(())
        }
    }
}
