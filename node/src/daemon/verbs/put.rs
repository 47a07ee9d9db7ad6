//! `put`: hash in place, remember, serve, publish; in this order, so that what is acknowledged is
//! on disk here and in the catalogue.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dft_protocol::manifest::{Hints, Info, Manifest};
use dft_protocol::path::Name;

use super::wait;
use crate::cli::Compress;
use crate::commands::blocking;
use crate::daemon::Daemon;
use crate::daemon::catalogue::parse_name;
use crate::daemon::holding::{Holding, Opening, Presence, now_ms};
use crate::daemon::serve::Reply;
use crate::daemon::table::{Place, Record};
use crate::daemon::wire::{self, Event, Item, Progress};
use crate::failure::{Failure, Kind};
use crate::storage::{self, FetchOptions, Scan, ScanOptions, SeedCache, Store};

/// What is to be published, and how.
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
    let (scan, info) = hash(wanted.paths.clone(), root, reply).await?;
    let skipped = scan.skipped.len() as u64;
    for left_out in &scan.skipped {
        let text = format!("left out {}: {}", left_out.path.display(), left_out.reason);
        reply.send(Event::Warning(text)).await;
    }
    let name = match given {
        Some(name) => name,
        None => parse_name(&String::from_utf8_lossy(info.name.as_bytes()))?,
    };
    let cache = SeedCache::new(&scan, &info);
    let manifest = Manifest::new(info, Hints::default())
        .map_err(|error| Failure::new(Kind::Other, format!("no manifest can describe this: {error}")))?;
    let manifest = Arc::new(manifest);
    let held = daemon.usable_holding(manifest.id()).await;
    let new = held.is_none();
    let holding = match held {
        Some(holding) => recompress(daemon, holding, wanted.compress).await?,
        None => take_on(daemon, &manifest, scan, wanted, name.as_str(), reply).await?,
    };
    if let (true, Some(cache)) = (new && !wanted.copy, cache) {
        let directory = daemon.table.directory(manifest.id());
        // Only a speed-up: without it, the next start hashes again.
        let _ = blocking(move || cache.store(&directory)).await?;
    }
    wait::complete(daemon, &holding, None, reply).await?;
    let already = match catalogue.put(&name, &manifest).await {
        Ok(already) => already,
        // It may have been published, without an answer: then it has to stay.
        Err(failure) if failure.kind == Kind::NoSource => return Err(failure),
        Err(failure) => {
            if new {
                daemon.give_up(&holding).await?;
            }
            return Err(failure);
        }
    };
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

/// Stops the hashing threads when nobody waits for them any more.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn hash(paths: Vec<PathBuf>, name: Option<Name>, reply: &Reply) -> Result<(Scan, Info), Failure> {
    let options = ScanOptions { skip_unsafe: true, exclude: Vec::new() };
    let scan = blocking(move || storage::scan(&paths, name, &options)).await??;
    let (total, reply) = (scan.total_bytes, reply.clone());
    let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
    let cancelled = cancel.0.clone();
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

/// What is held already is sent as the latest put that said anything of it wants. Its driver takes that only when it starts:
/// it starts again, and goes on from the record.
async fn recompress(
    daemon: &Arc<Daemon>,
    holding: Arc<Holding>,
    compress: Option<Compress>,
) -> Result<Arc<Holding>, Failure> {
    let Some(compress) = compress.filter(|compress| holding.record().compress != *compress) else {
        return Ok(holding);
    };
    holding.remember(daemon, |record| record.compress = compress)?;
    let (manifest, record) = (holding.manifest.clone(), holding.record());
    daemon.let_go(&holding).await;
    daemon.hold(manifest, record, Opening::Again, Presence::Shared)
}

async fn take_on(
    daemon: &Arc<Daemon>,
    manifest: &Arc<Manifest>,
    scan: Scan,
    wanted: &Wanted,
    name: &str,
    reply: &Reply,
) -> Result<Arc<Holding>, Failure> {
    let original = Arc::new(Store::seed(manifest.clone(), scan)?);
    let record = |place| Record {
        name: name.to_owned(),
        place,
        complete: true,
        origin: true,
        last_use_ms: now_ms(),
        compress: wanted.compress.unwrap_or_default(),
    };
    if !wanted.copy {
        let place = Place::Put(wanted.paths.iter().map(|path| path.as_path().into()).collect());
        return daemon.hold(manifest.clone(), record(place), Opening::With(original), Presence::Shared);
    }
    let _room = daemon.room.lock().await;
    daemon.make_room(manifest.total_bytes()).await?;
    let (directory, copied, reply) =
        (daemon.table.data_directory(manifest.id()), manifest.clone(), reply.clone());
    blocking(move || {
        crate::settings::create_private_dir(&directory)?;
        let total = copied.total_bytes();
        let progress = |bytes| {
            reply.progress(Progress { verb: "copying".into(), bytes, total, ..Progress::default() });
        };
        crate::daemon::copy::copy(&original, &copied, &directory, FetchOptions::default(), &progress)
    })
    .await??;
    // The copy was checked piece by piece; it is opened as it will be after a restart.
    let record = Record { complete: false, ..record(Place::Stored) };
    daemon.hold(manifest.clone(), record, Opening::Again, Presence::Shared)
}
