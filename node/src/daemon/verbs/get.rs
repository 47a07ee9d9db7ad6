//! `get`: fetch a dataset to where the user wants it, and serve it from there.
//!
//! Nothing is written twice: what is not here yet is fetched in place. What is here already is
//! copied, each piece checked. A part of a dataset goes with its request, as what is only peeked
//! at does: others count on a node that is announced to have, or to get, all of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dft_protocol::manifest::Manifest;

use super::wait;
use crate::cli::{Compress, SelectArgs};
use crate::commands::{blocking, selection};
use crate::daemon::Daemon;
use crate::daemon::catalogue::parse_name;
use crate::daemon::holding::{Holding, Opening, Presence, State, file_name, now_ms};
use crate::daemon::serve::Reply;
use crate::daemon::table::{Place, Record};
use crate::daemon::wire::{self, Event, Item, Progress};
use crate::failure::{Failure, Kind};
use crate::storage::{FetchOptions, Selection};

/// What is to be fetched, and where to.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) into: PathBuf,
    pub(super) peek: bool,
    pub(super) id: Option<String>,
    pub(super) force: bool,
    pub(super) select: SelectArgs,
}

pub(super) async fn run(daemon: &Arc<Daemon>, wanted: Wanted, reply: &Reply) -> Result<(), Failure> {
    let started = Instant::now();
    let manifest = find(daemon, &wanted).await?;
    let selection = selection(&manifest, &wanted.select)?;
    if !wanted.into.is_dir() {
        let message = format!("there is no directory {}", wanted.into.display());
        return Err(Failure::new(Kind::Usage, message).hint("create it, or name another one"));
    }
    let (path, received) = match daemon.usable_holding(manifest.id()).await {
        Some(holding) => (from_here(daemon, &holding, &wanted, &selection, reply).await?, 0),
        None => from_others(daemon, &manifest, &wanted, &selection, reply).await?,
    };
    reply
        .item(Item::Got(wire::Got {
            name: wanted.name,
            id: manifest.id().to_string(),
            path: path.display().to_string(),
            bytes: selection.bytes(&manifest),
            received_bytes: received,
            seconds: started.elapsed().as_secs_f64(),
        }))
        .await;
    Ok(())
}

async fn find(daemon: &Daemon, wanted: &Wanted) -> Result<Arc<Manifest>, Failure> {
    let (_, manifest) = daemon.catalogue().await?.get(&parse_name(&wanted.name)?).await?;
    match &wanted.id {
        Some(id) if !manifest.id().to_string().starts_with(id) => {
            let message = format!("{} is {} in the catalogue, not {id}", wanted.name, manifest.id());
            Err(Failure::new(Kind::Name, message)
                .hint("ask who put it; without --id, the catalogue is trusted"))
        }
        _ => Ok(manifest),
    }
}

/// All of it, or a part, is on this node.
async fn from_here(
    daemon: &Arc<Daemon>,
    holding: &Arc<Holding>,
    wanted: &Wanted,
    selection: &Selection,
    reply: &Reply,
) -> Result<PathBuf, Failure> {
    holding.touch(daemon);
    wait::complete(holding, reply).await?;
    let target = wanted.into.join(file_name(&holding.manifest));
    if let State::Complete(path) = holding.view().state
        && is_same(&path, &target)
    {
        return Ok(path);
    }
    let store = wait::running(holding).await?.store;
    let (manifest, into, events) = (holding.manifest.clone(), wanted.into.clone(), reply.sender());
    let options = FetchOptions { force: wanted.force, selection: Some(selection.clone()) };
    blocking(move || {
        let total = manifest.total_bytes();
        let progress = |bytes| {
            let progress = Progress { verb: "copying".into(), bytes, total, peers: 0 };
            let _ = events.try_send(Event::Progress(progress));
        };
        crate::daemon::copy::copy(&store, &manifest, &into, options, &progress)
    })
    .await?
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Nothing of it is here: it is fetched to where it is wanted.
async fn from_others(
    daemon: &Arc<Daemon>,
    manifest: &Arc<Manifest>,
    wanted: &Wanted,
    selection: &Selection,
    reply: &Reply,
) -> Result<(PathBuf, u64), Failure> {
    let record = Record {
        name: wanted.name.clone(),
        place: Place::Fetched(wanted.into.as_path().into()),
        complete: false,
        origin: false,
        last_use_ms: now_ms(),
        compress: Compress::default(),
    };
    let (is_part, force) = (!selection.is_all(), wanted.force);
    let presence = if wanted.peek || is_part { Presence::Selfish } else { Presence::Shared };
    let opening = match (is_part, force) {
        (true, force) => Opening::Part { selection: selection.clone(), force },
        (false, true) => Opening::Over,
        (false, false) => Opening::Again,
    };
    let holding = daemon.hold(manifest.clone(), record, opening, presence)?;
    let selfish = (presence == Presence::Selfish).then(|| Selfish::new(daemon, &holding));
    if let Err(failure) = wait::complete(&holding, reply).await {
        // What could not even be opened is not the daemon's to try again.
        if holding.view().running.is_none() {
            daemon.give_up(&holding).await?;
        }
        return Err(failure);
    }
    let stats = holding.snapshot().stats;
    let State::Complete(path) = holding.view().state else {
        return Err(Failure::new(Kind::Other, "it was given up meanwhile").hint("run the same command again"));
    };
    if let Some(selfish) = selfish {
        selfish.end().await?;
    }
    Ok((path, stats.from_seeders + stats.from_peers))
}

/// A dataset that goes with its request, however that ends.
struct Selfish {
    daemon: Arc<Daemon>,
    holding: Option<Arc<Holding>>,
}

impl Selfish {
    fn new(daemon: &Arc<Daemon>, holding: &Arc<Holding>) -> Self {
        Self { daemon: daemon.clone(), holding: Some(holding.clone()) }
    }

    async fn end(mut self) -> Result<(), Failure> {
        match self.holding.take() {
            Some(holding) => self.daemon.give_up(&holding).await,
            None => Ok(()),
        }
    }
}

impl Drop for Selfish {
    fn drop(&mut self) {
        if let Some(holding) = self.holding.take() {
            let daemon = self.daemon.clone();
            tokio::spawn(async move { daemon.give_up(&holding).await });
        }
    }
}
