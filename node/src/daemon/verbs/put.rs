//! `put`: hash in place, remember, serve, publish; in this order, so that what is acknowledged is
//! on disk here and in the catalogue.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::{Hints, Info, Manifest};
use dft_protocol::path::Name;
use dft_tracker::catalogue::name::DatasetName;
use tokio::sync::oneshot;

use super::wait;
use crate::cli::Compress;
use crate::commands::blocking;
use crate::daemon::Daemon;
use crate::daemon::catalogue::{Catalogue, parse_name};
use crate::daemon::content::is_same_content;
use crate::daemon::copy::{CancelOnDrop, copy};
use crate::daemon::holding::{Holding, Presence, packing_of};
use crate::daemon::opening::Opening;
use crate::daemon::serve::Reply;
use crate::daemon::table::{Place, Record};
use crate::daemon::taking::{Asker, Held, Taken};
use crate::daemon::wire::{self, Event, Item, Progress};
use crate::failure::{Failure, Kind};
use crate::storage::{self, FetchOptions, Scan, ScanOptions, SeedCache, Store};

/// What is to be published, and how.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) paths: Vec<PathBuf>,
    pub(super) name: Option<String>,
    pub(super) copy: bool,
    pub(super) compress: Option<Compress>,
}

pub(super) async fn run(daemon: &Arc<Daemon>, wanted: &Wanted, reply: &Reply) -> Result<(), Failure> {
    let catalogue = daemon.catalogue().await?;
    let given = wanted.name.as_deref().map(parse_name).transpose()?;
    // The files are called as the last part of the name says.
    let root = given.as_ref().and_then(|name| name.as_str().rsplit('/').next()).map(Name::new);
    let root = root.transpose().map_err(|error| {
        Failure::new(Kind::Usage, format!("not a name: {error}"))
            .hint("a name is for example experiments/run-17")
    })?;
    // Before hours of hashing, rather than behind them.
    catalogue.may_write().await?;
    let work = (daemon.secrets.clone(), reply);
    let (scan, info) = hash(wanted.paths.clone(), root, (&catalogue, given.as_ref()), work).await?;
    let skipped = scan.skipped.len() as u64;
    for left_out in &scan.skipped {
        let text = format!("left out {}: {}", left_out.path.display(), left_out.reason);
        reply.send(Event::Warning(text)).await;
    }
    let name = match given {
        Some(name) => name,
        None => parse_name(&String::from_utf8_lossy(info.name.as_bytes()))?,
    };
    let original = original(daemon, &catalogue, &name, scan, info).await?;
    let manifest = original.manifest.clone();
    let already = hold_and_publish(daemon, catalogue, original, wanted, &name, reply).await?;
    reply
        .item(Item::Put(wire::Put {
            name: name.to_string(),
            id: manifest.id().to_string(),
            bytes: manifest.total_bytes(),
            pieces: manifest.geometry().piece_count() as u64,
            already,
            skipped,
        }))
        .await;
    Ok(())
}

/// Holds what is put and lets its name stand for it; true where it did so before. Where nobody waits for that
/// any more, and the catalogue was not asked yet, it is as before afterwards.
async fn hold_and_publish(
    daemon: &Arc<Daemon>,
    catalogue: Arc<Catalogue>,
    original: Original,
    wanted: &Wanted,
    name: &DatasetName,
    reply: &Reply,
) -> Result<bool, Failure> {
    let cancel = CancelOnDrop::default();
    let cancelled = cancel.flag();
    let (waits, waited_for) = oneshot::channel::<()>();
    let (daemon, wanted, name, reply) = (daemon.clone(), wanted.clone(), name.clone(), reply.clone());
    // A task of its own ends what it began.
    let work = tokio::spawn(async move {
        let manifest = original.manifest.clone();
        let (holding, before) = hold(&daemon, original, &wanted, name.as_str(), (&reply, cancelled)).await?;
        let complete = tokio::select! {
            complete = wait::complete(&daemon, &holding, None, &reply) => complete,
            _ = waited_for => Err(Reply::gone()),
        };
        let published = match complete {
            // Hours of hashing later, it may be found at other trackers.
            Ok(()) => match daemon.known_catalogue() {
                Some(used) if used.id().is_some() && used.id() == catalogue.id() => {
                    used.put(&name, &manifest).await
                }
                _ => catalogue.put(&name, &manifest).await,
            },
            Err(failure) => Err(failure),
        };
        match published {
            Ok(already) => Ok(already),
            // It may have been published, without an answer: then it has to stay.
            Err(failure) if failure.kind == Kind::NoSource => Err(failure),
            Err(failure) => {
                // What another request counts on meanwhile stays. The first failure is the one to tell.
                if !holding.is_claimed() {
                    let _ = undo(&daemon, &holding, before).await;
                }
                Err(failure)
            }
        }
    });
    let published = work.await;
    drop((cancel, waits));
    published.map_err(|error| Failure::new(Kind::Other, format!("a worker ended unexpectedly: {error}")))?
}

async fn hash(
    paths: Vec<PathBuf>,
    name: Option<Name>,
    (catalogue, given): (&Catalogue, Option<&DatasetName>),
    (exclude, reply): (Vec<PathBuf>, &Reply),
) -> Result<(Scan, Info), Failure> {
    let options = ScanOptions { skip_unsafe: true, exclude };
    let scan = blocking(move || storage::scan(&paths, name, &options)).await??;
    if let Some(given) = given {
        catalogue.may_stand_for(given, scan.total_bytes).await?;
    }
    let (total, reply) = (scan.total_bytes, reply.clone());
    let cancel = CancelOnDrop::default();
    let cancelled = cancel.flag();
    let (scan, info) = blocking(move || {
        let progress = |bytes| {
            reply.progress(Progress { verb: "hashing".into(), bytes, total, ..Progress::default() });
        };
        let info = storage::hash(&scan, None, &progress, &cancelled);
        (scan, info)
    })
    .await?;
    Ok((scan, info?))
}

/// What was scanned and hashed, as what the name stands for already where the content is the same;
/// else as a dataset of its own.
async fn original(
    daemon: &Arc<Daemon>,
    catalogue: &Catalogue,
    name: &DatasetName,
    scan: Scan,
    info: Info,
) -> Result<Original, Failure> {
    // Of a million files that takes a while.
    let described = blocking(move || {
        let cache = SeedCache::new(&scan, &info);
        (scan, cache, Manifest::new(info, Hints::default()))
    });
    let (mut scan, cache, manifest) = described.await?;
    let manifest = manifest
        .map_err(|error| Failure::new(Kind::Other, format!("no manifest can describe this: {error}")))?;
    let before = before(daemon, catalogue, name, manifest.id()).await?;
    let compared = blocking(move || {
        let mut before = before.into_iter();
        let manifest = match before.find(|before| is_same_content(before.info(), manifest.info())) {
            Some(before) => before,
            None => Arc::new(manifest),
        };
        scan.entries.clone_from(&manifest.info().entries);
        Original { manifest, scan, cache }
    });
    compared.await
}

/// What else a name stands for; where it was removed, what this node holds of it, for it is its own.
async fn before(
    daemon: &Arc<Daemon>,
    catalogue: &Catalogue,
    name: &DatasetName,
    id: ManifestId,
) -> Result<Vec<Arc<Manifest>>, Failure> {
    match catalogue.find(name).await? {
        Some(record) if record.id == id => Ok(Vec::new()),
        Some(_) => Ok(vec![catalogue.get(name).await?.1]),
        None => {
            let mut manifests = Vec::new();
            for id in daemon.held_as(name.as_str()) {
                manifests.extend(daemon.holding(id).await.map(|held| held.manifest.clone()));
            }
            Ok(manifests)
        }
    }
}

/// What is put: where it lies, in which state, and what was hashed of it.
struct Original {
    manifest: Arc<Manifest>,
    scan: Scan,
    cache: Option<SeedCache>,
}

/// How a dataset was held before it was put.
enum Before {
    /// Not at all.
    Nothing,
    /// At another place, or not all of it.
    Elsewhere(Record),
    /// As it is held now, but for what its record says.
    Here(Record),
}

/// What was to be published was not: it is held as before.
async fn undo(daemon: &Arc<Daemon>, holding: &Arc<Holding>, before: Before) -> Result<(), Failure> {
    match before {
        Before::Nothing => daemon.give_up(holding).await,
        Before::Elsewhere(record) => daemon.hold_elsewhere(holding, record, Opening::Again).await,
        Before::Here(former) => {
            let as_before = |record: &mut Record| {
                record.origin = former.origin;
                record.seeded = former.seeded;
                record.compress = former.compress;
            };
            holding.remember(daemon, as_before).await
        }
    }
}

/// Holds what is put: from where it is, or a copy of it; and how it was held before.
async fn hold(
    daemon: &Arc<Daemon>,
    original: Original,
    wanted: &Wanted,
    name: &str,
    (reply, cancelled): (&Reply, Arc<AtomicBool>),
) -> Result<(Arc<Holding>, Before), Failure> {
    // What is put again may have been changed since it was looked at last.
    if let Some(holding) = daemon.opened(original.manifest.id()).await {
        holding.look().await;
    }
    let useless = match daemon.usable_holding(original.manifest.id(), Asker::Putter).await? {
        Held::Usable(holding) if is_being_fetched(&holding) => {
            if wanted.copy && holding.record().place == Place::Stored {
                return copy_over(
                    daemon,
                    original,
                    &holding,
                    record(daemon, wanted, name),
                    (reply, cancelled),
                )
                .await;
            }
            // What was put is all there: who fetches it goes on with that.
            Some(holding)
        }
        Held::Usable(holding) if !wanted.copy || holding.record().place == Place::Stored => {
            let before = Before::Here(holding.record());
            return Ok((as_put(daemon, holding, wanted.compress).await?, before));
        }
        // It is here, but at a place that may change or go.
        Held::Usable(holding) | Held::Useless(holding) => Some(holding),
        Held::Nothing => None,
    };
    let taken = if wanted.copy {
        hold_copy(daemon, original, useless, record(daemon, wanted, name), (reply, cancelled)).await?
    } else {
        let place = Place::Put(wanted.paths.iter().map(|path| path.as_path().into()).collect());
        let record = Record { place, complete: true, ..record(daemon, wanted, name) };
        let Original { manifest, scan, cache } = original;
        let (seeded, directory) = (manifest.clone(), daemon.table.directory(manifest.id()));
        let store = Arc::new(blocking(move || Store::seed(seeded, scan)).await??);
        let opening = Opening::With(store);
        let taken = daemon.take_on(useless, manifest, record, opening, Presence::Shared).await?;
        if let Some(cache) = cache {
            // Only a speed-up: without it, the next start hashes again.
            let _ = blocking(move || cache.store(&directory)).await?;
        }
        taken
    };
    let before = match taken.former {
        Some(former) if former.place == taken.holding.record().place => Before::Here(former),
        Some(former) => Before::Elsewhere(former),
        None if taken.is_new => Before::Nothing,
        None => Before::Here(taken.holding.record()),
    };
    Ok((taken.holding, before))
}

/// Takes a copy into the store where a fetch of it is at work: the fetch ends, and what it has is taken over.
async fn copy_over(
    daemon: &Arc<Daemon>,
    original: Original,
    fetched: &Arc<Holding>,
    record: Record,
    work: (&Reply, Arc<AtomicBool>),
) -> Result<(Arc<Holding>, Before), Failure> {
    let (manifest, former) = (original.manifest.clone(), fetched.record());
    daemon.set_aside(fetched).await?;
    match hold_copy(daemon, original, None, record, work).await {
        Ok(taken) => Ok((taken.holding, Before::Here(former))),
        Err(failure) => {
            // Where it fails, the record is in the table for the next start.
            let _ = daemon.hold(manifest, former, Opening::Again, Presence::Shared).await;
            Err(failure)
        }
    }
}

fn is_being_fetched(holding: &Holding) -> bool {
    !holding.record().complete && !holding.is_complete()
}

/// What is remembered of a copy that is about to be made.
fn record(daemon: &Daemon, wanted: &Wanted, name: &str) -> Record {
    let exclude = daemon.secrets.iter().map(|path| path.as_path().into()).collect();
    let compress = wanted.compress.unwrap_or_default();
    Record { origin: true, exclude, compress, ..Record::new(name, Place::Stored) }
}

/// What is held already stays from now on, as what is put does, and is sent as the latest put that
/// said anything of it wants. Its driver takes that only when it starts: it starts again.
async fn as_put(
    daemon: &Arc<Daemon>,
    holding: Arc<Holding>,
    compress: Option<Compress>,
) -> Result<Arc<Holding>, Failure> {
    let former = holding.record();
    let compress = compress.unwrap_or(former.compress);
    if former.origin && !former.seeded && former.compress == compress {
        return Ok(holding);
    }
    let as_put = |record: &mut Record| {
        (record.origin, record.seeded, record.compress) = (true, false, compress);
    };
    holding.remember(daemon, as_put).await?;
    if packing_of(&holding.record()) == packing_of(&former) {
        return Ok(holding);
    }
    daemon.hold_anew(&holding).await?;
    let lost = || Failure::new(Kind::Other, format!("{} was given up meanwhile", former.name));
    daemon.holding(holding.id()).await.ok_or_else(lost)
}

/// Copies what is put into the store, and holds the copy.
async fn hold_copy(
    daemon: &Arc<Daemon>,
    original: Original,
    useless: Option<Arc<Holding>>,
    record: Record,
    (reply, cancelled): (&Reply, Arc<AtomicBool>),
) -> Result<Taken, Failure> {
    let Original { manifest, scan, .. } = original;
    let seeded = manifest.clone();
    let original = Arc::new(blocking(move || Store::seed(seeded, scan)).await??);
    let room = daemon.room_for(manifest.id()).await;
    daemon.make_room(manifest.total_bytes()).await?;
    let taken_room = daemon.take_room(manifest.id(), manifest.total_bytes());
    // Others look for room of their own while this is copied.
    drop(room);
    let reply = reply.clone();
    let (copied, worker) = (manifest.clone(), daemon.clone());
    // A damaged copy may lie there.
    let options = FetchOptions { force: true, selection: None };
    blocking(move || {
        let (id, total) = (copied.id(), copied.total_bytes());
        let directory = worker.table.data_directory(id);
        worker.table.begin(id)?;
        crate::settings::create_private_dir(&directory)?;
        let progress = |bytes| {
            reply.progress(Progress { verb: "copying".into(), bytes, total, ..Progress::default() });
        };
        let made = copy(&original, &copied, &directory, options, (&progress, &cancelled));
        let made =
            if cancelled.load(Ordering::Relaxed) { Err(Reply::gone()) } else { made.map_err(Failure::from) };
        // What no record tells of is nobody's.
        if made.is_err() && !worker.table.has_record(id)? {
            worker.table.remove(id)?;
        }
        made.map(drop)
    })
    .await??;
    let room = daemon.room.lock().await;
    // The copy was checked piece by piece; it is opened as it will be after a restart.
    let id = manifest.id();
    let taken = daemon.take_on(useless, manifest, record, Opening::Again, Presence::Shared).await;
    if taken.is_err() && !daemon.table.has_record(id)? {
        let daemon = daemon.clone();
        blocking(move || daemon.table.remove(id)).await??;
    }
    drop((taken_room, room));
    taken
}
