//! `get`: fetch datasets to where the user wants them, and serve them from there.
//!
//! Nothing is written twice: what is not here yet is fetched in place. What is here already is
//! copied, each piece checked. A part of a dataset goes with its request, as what is only peeked
//! at does: others count on a node that is announced to have, or to get, all of it.

mod many;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dft_protocol::manifest::{Manifest, PeerAddr};

use super::wait;
use crate::cli::SelectArgs;
use crate::commands::{blocking, selection};
use crate::daemon::Daemon;
use crate::daemon::catalogue::parse_name;
use crate::daemon::copy::{CancelOnDrop, copy};
use crate::daemon::holding::{Holding, Presence, State, file_name};
use crate::daemon::opening::Opening;
use crate::daemon::serve::Reply;
use crate::daemon::table::{Place, Record};
use crate::daemon::taking::{Asker, Held};
use crate::daemon::wire::{self, Item, Progress};
use crate::driver::Snapshot;
use crate::failure::{Failure, Kind};
use crate::storage::{FetchOptions, Selection, StorageError};

/// What is to be fetched.
pub(super) struct Wanted {
    /// Names, and patterns.
    pub(super) names: Vec<String>,
    pub(super) id: Option<String>,
    /// In the directories that their names have.
    pub(super) parents: bool,
    pub(super) select: SelectArgs,
    pub(super) target: Target,
}

/// Where to, and how.
#[derive(Clone, Default)]
pub(super) struct Target {
    pub(super) into: PathBuf,
    /// Not to be shared afterwards.
    pub(super) peek: bool,
    /// In place of what has its name there.
    pub(super) force: bool,
    /// How long it may get nowhere.
    pub(super) timeout: Option<Duration>,
    /// Who may have it, beside those who are found.
    pub(super) peers: Vec<SocketAddr>,
    /// Tell when it begins.
    pub(super) tells: bool,
}

/// What was fetched.
pub(super) struct Obtained {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What it took.
    pub(super) snapshot: Snapshot,
}

pub(super) async fn run(daemon: &Arc<Daemon>, wanted: &Wanted, reply: &Reply) -> Result<(), Failure> {
    check_directory(&wanted.target.into).await?;
    match &wanted.names[..] {
        [name] if !many::is_pattern(name) => {
            let manifest = find(daemon, name, wanted).await?;
            one(daemon, name, &manifest, wanted, reply).await
        }
        _ => many::run(daemon, wanted, reply).await,
    }
}

/// The user's file system may be slow to answer, or never do so.
pub(super) async fn check_directory(directory: &Path) -> Result<(), Failure> {
    let path = directory.to_owned();
    if blocking(move || path.is_dir()).await? {
        return Ok(());
    }
    let message = format!("there is no directory {}", directory.display());
    Err(Failure::new(Kind::Usage, message).hint("create it, or name another one; several names need -o DIR"))
}

/// The dataset of a name; where the catalogue does not say so in time, a failure.
async fn find(daemon: &Daemon, name: &str, wanted: &Wanted) -> Result<Arc<Manifest>, Failure> {
    let found = async { daemon.catalogue().await?.get(&parse_name(name)?).await };
    let (_, manifest) = match wanted.target.timeout {
        None => found.await?,
        Some(limit) => tokio::time::timeout(limit, found).await.unwrap_or_else(|_| {
            Err(Failure::new(Kind::NoSource, format!("no catalogue said in time what {name} is"))
                .hint("a longer --timeout waits longer"))
        })?,
    };
    match &wanted.id {
        Some(id) if !manifest.id().to_string().starts_with(id) => {
            let message = format!("{name} is {} in the catalogue, not {id}", manifest.id());
            Err(Failure::new(Kind::Name, message)
                .hint("ask who put it; without --id, the catalogue is trusted"))
        }
        _ => Ok(manifest),
    }
}

/// Fetches one dataset, and tells of it.
async fn one(
    daemon: &Arc<Daemon>,
    name: &str,
    manifest: &Arc<Manifest>,
    wanted: &Wanted,
    reply: &Reply,
) -> Result<(), Failure> {
    let started = Instant::now();
    let selection = selection(manifest, &wanted.select).map_err(|failure| match failure.kind {
        // No manifest is at hand that could be shown.
        Kind::Usage => failure.hint("globs are of paths in the dataset, as 'runs/*.csv', or of names alone"),
        _ => failure,
    })?;
    let into = wanted.target.into.join(parents_of(name, wanted.parents));
    if wanted.parents {
        let directory = into.clone();
        blocking(move || {
            std::fs::create_dir_all(&directory).map_err(|error| Failure::given("create", &directory, &error))
        })
        .await??;
    }
    let target = Target { into, ..wanted.target.clone() };
    let obtained = obtain(daemon, name, manifest, &selection, &target, reply).await?;
    let stats = obtained.snapshot.stats;
    reply
        .item(Item::Got(wire::Got {
            name: name.to_owned(),
            id: manifest.id().to_string(),
            path: obtained.path.display().to_string(),
            bytes: selection.bytes(manifest),
            received_bytes: stats.from_seeders + stats.from_peers,
            seconds: started.elapsed().as_secs_f64(),
        }))
        .await;
    Ok(())
}

/// The directories that a name has; none where they are not wanted.
fn parents_of(name: &str, wanted: bool) -> &Path {
    let parents = name.rsplit_once('/').filter(|_| wanted);
    Path::new(parents.map_or("", |(parents, _)| parents))
}

/// Makes a dataset, or a part of it, be where it is wanted.
pub(super) async fn obtain(
    daemon: &Arc<Daemon>,
    name: &str,
    manifest: &Arc<Manifest>,
    selection: &Selection,
    target: &Target,
    reply: &Reply,
) -> Result<Obtained, Failure> {
    let failure = match obtain_once(daemon, name, manifest, selection, target, reply).await {
        Err(failure) if failure.kind == Kind::Other => failure,
        outcome => return outcome,
    };
    match daemon.usable_holding(manifest.id(), Asker::Fetcher).await? {
        // All of it was put here while it was fetched.
        Held::Usable(holding) if matches!(holding.record().place, Place::Put(_)) => {
            obtain_once(daemon, name, manifest, selection, target, reply).await
        }
        _ => Err(failure),
    }
}

async fn obtain_once(
    daemon: &Arc<Daemon>,
    name: &str,
    manifest: &Arc<Manifest>,
    selection: &Selection,
    target: &Target,
    reply: &Reply,
) -> Result<Obtained, Failure> {
    let mut has_changed = false;
    let useless = loop {
        match daemon.usable_holding(manifest.id(), Asker::Fetcher).await? {
            Held::Usable(holding) => match from_here(daemon, &holding, selection, target, reply).await {
                // What is here is not what it was: there may be others who have it.
                Err(failure) if failure.kind == Kind::Integrity && !has_changed => {
                    has_changed = true;
                    holding.look().await;
                }
                outcome => return outcome,
            },
            Held::Useless(holding) => break Some(holding),
            Held::Nothing => break None,
        }
    };
    from_others(daemon, (name, useless), manifest, selection, target, reply).await
}

/// All of it, or a part, is on this node.
async fn from_here(
    daemon: &Arc<Daemon>,
    holding: &Arc<Holding>,
    selection: &Selection,
    target: &Target,
    reply: &Reply,
) -> Result<Obtained, Failure> {
    holding.touch(daemon);
    found(holding, target).await?;
    let was_here = holding.is_complete();
    wait::complete(daemon, holding, target.timeout, reply).await?;
    // What came meanwhile, and before, of the same fetch.
    let snapshot = if was_here { Snapshot::default() } else { holding.snapshot() };
    if let State::Complete(path) = holding.view().state
        && is_same(path.clone(), target.into.join(file_name(&holding.manifest))).await?
    {
        // Its user may have changed it since it was looked at last.
        holding.look().await;
        return match holding.view().state {
            State::Damaged(reason) => Err(Failure::new(Kind::Integrity, reason)),
            _ => Ok(Obtained { path, snapshot }),
        };
    }
    let store = wait::running(holding).await?.store;
    let (manifest, into, reply) = (holding.manifest.clone(), target.into.clone(), reply.clone());
    let options = FetchOptions { force: target.force, selection: Some(selection.clone()) };
    let cancel = CancelOnDrop::default();
    let cancelled = cancel.flag();
    let path = blocking(move || {
        let total = manifest.total_bytes();
        let progress = |bytes| {
            reply.progress(Progress { verb: "copying".into(), bytes, total, ..Progress::default() });
        };
        copy(&store, &manifest, &into, options, (&progress, &cancelled))
    });
    let path = match path.await? {
        Err(StorageError::Corrupt { piece }) => {
            holding.doubt(piece).await;
            return Err(StorageError::Corrupt { piece }.into());
        }
        copied => copied?,
    };
    Ok(Obtained { path, snapshot })
}

async fn is_same(one: PathBuf, other: PathBuf) -> Result<bool, Failure> {
    blocking(move || match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    })
    .await
}

/// Passes on the peers that were named.
async fn found(holding: &Holding, target: &Target) -> Result<(), Failure> {
    if target.peers.is_empty() {
        return Ok(());
    }
    let peers = target.peers.iter().map(|addr| PeerAddr { peer: None, addr: *addr }).collect();
    wait::running(holding).await?.remote.found(peers).await;
    Ok(())
}

/// Nothing of it is here: it is fetched to where it is wanted.
async fn from_others(
    daemon: &Arc<Daemon>,
    (name, useless): (&str, Option<Arc<Holding>>),
    manifest: &Arc<Manifest>,
    selection: &Selection,
    target: &Target,
    reply: &Reply,
) -> Result<Obtained, Failure> {
    let place = Place::Fetched(target.into.as_path().into());
    let record = Record { force: target.force, ..Record::new(name, place) };
    let (is_part, force) = (!selection.is_all(), target.force);
    let presence = if target.peek || is_part { Presence::Selfish } else { Presence::Shared };
    let opening = if is_part { Opening::Part { selection: selection.clone(), force } } else { Opening::New };
    let taken = daemon.take_on(useless, manifest.clone(), record, opening, presence).await?;
    let holding = taken.holding;
    if !taken.is_new {
        // Another request was faster.
        return from_here(daemon, &holding, selection, target, reply).await;
    }
    let (former, aside) = match presence {
        Presence::Shared => (taken.former, None),
        Presence::Selfish => (None, taken.former),
    };
    let selfish = (presence == Presence::Selfish).then(|| Selfish::new(daemon, &holding, aside));
    let fetched = async {
        found(&holding, target).await?;
        if target.tells {
            tell_of_beginning(daemon, &holding, selection, reply).await?;
        }
        wait::complete(daemon, &holding, target.timeout, reply).await
    };
    if let Err(failure) = fetched.await {
        // What could not even be opened is not the daemon's to try again.
        if !holding.was_opened() && !holding.is_claimed() {
            match former {
                Some(former) => daemon.hold_elsewhere(&holding, former, Opening::Again).await?,
                None => daemon.give_up(&holding).await?,
            }
        }
        return Err(failure);
    }
    let snapshot = holding.snapshot();
    let State::Complete(path) = holding.view().state else {
        return Err(Failure::new(Kind::Other, "it was given up meanwhile").hint("run the same command again"));
    };
    if let Some(selfish) = selfish {
        selfish.end().await?;
    }
    Ok(Obtained { path, snapshot })
}

async fn tell_of_beginning(
    daemon: &Daemon,
    holding: &Holding,
    selection: &Selection,
    reply: &Reply,
) -> Result<(), Failure> {
    let remote = wait::running(holding).await?.remote;
    if matches!(holding.view().state, State::Complete(_)) {
        return Ok(());
    }
    let (manifest, wanted) = (&holding.manifest, selection.pieces(&holding.manifest));
    let have = remote.pieces().await.map_or(0, |have| have.count_common(&wanted));
    reply
        .item(Item::Fetching(wire::Fetching {
            id: manifest.id().to_string(),
            name: manifest.info().name.to_string(),
            bytes: selection.bytes(manifest),
            pieces: wanted.count() as u64,
            have_pieces: have as u64,
            listen: daemon.endpoint.listen_addrs().iter().map(ToString::to_string).collect(),
        }))
        .await;
    Ok(())
}

/// A dataset that goes with its request, however that ends.
struct Selfish {
    daemon: Arc<Daemon>,
    /// And what was remembered of it before, which it stood in the way of.
    holding: Option<(Arc<Holding>, Option<Record>)>,
}

impl Selfish {
    fn new(daemon: &Arc<Daemon>, holding: &Arc<Holding>, aside: Option<Record>) -> Self {
        Self { daemon: daemon.clone(), holding: Some((holding.clone(), aside)) }
    }

    async fn end(mut self) -> Result<(), Failure> {
        match self.holding.take() {
            Some((holding, aside)) => end_selfish(&self.daemon, &holding, aside).await,
            None => Ok(()),
        }
    }
}

impl Drop for Selfish {
    fn drop(&mut self) {
        if let Some((holding, aside)) = self.holding.take() {
            let daemon = self.daemon.clone();
            tokio::spawn(async move { end_selfish(&daemon, &holding, aside).await });
        }
    }
}

async fn end_selfish(
    daemon: &Arc<Daemon>,
    holding: &Arc<Holding>,
    aside: Option<Record>,
) -> Result<(), Failure> {
    daemon.give_up(holding).await?;
    if let Some(record) = aside {
        // Where it fails, the record is in the table for the next start.
        let _ = daemon.hold(holding.manifest.clone(), record, Opening::Again, Presence::Shared).await;
    }
    Ok(())
}
