//! `seed`: what lies at some paths, held for as long as whoever asked stays connected. It is in the
//! table as all else is, so that other verbs can count on it; what nothing else keeps goes with its
//! last seeder, and where the daemon is killed, at its next start.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dft_protocol::id::PeerId;
use dft_protocol::manifest::{Hints, Manifest, PeerAddr, SEEDER_COUNT_MAX, TRACKER_COUNT_MAX};
use serde_bytes::ByteBuf;
use tokio::sync::broadcast;

use super::wait;
use crate::cli::Compress;
use crate::commands::blocking;
use crate::commands::seed::Copies;
use crate::daemon::Daemon;
use crate::daemon::copy::CancelOnDrop;
use crate::daemon::holding::{Holding, Presence, State};
use crate::daemon::opening::Opening;
use crate::daemon::serve::Reply;
use crate::daemon::table::{Place, Record};
use crate::daemon::taking::{Asker, Held};
use crate::daemon::wire::{Event, Item, PeerComplete, Seeding, Serving};
use crate::failure::{Failure, Kind};
use crate::net::discovery::parse_tracker;
use crate::net::identity::display_peer;
use crate::settings::reachable_addrs;
use crate::storage::{self, Scan, ScanOptions, SeedCache, Store};

/// How often it is told how much was sent.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What is to be served, and how.
pub(super) struct Wanted {
    pub(super) paths: Vec<PathBuf>,
    pub(super) output: PathBuf,
    pub(super) cache: PathBuf,
    pub(super) compress: Compress,
}

pub(super) async fn run(
    daemon: &Arc<Daemon>,
    manifest: ByteBuf,
    wanted: Wanted,
    reply: &Reply,
) -> Result<(), Failure> {
    let hinter = daemon.clone();
    let read = move || {
        let manifest = Manifest::decode(&manifest)
            .map_err(|error| Failure::new(Kind::Manifest, format!("no valid manifest: {error}")))?;
        with_hints(&hinter, manifest)
    };
    let manifest = blocking(read).await??;
    let place = Place::Put(wanted.paths.iter().map(|path| path.as_path().into()).collect());
    let record = Record {
        complete: true,
        seeded: true,
        exclude: vec![wanted.output.as_path().into()],
        compress: wanted.compress,
        ..Record::new(&manifest.info().name.to_string(), place)
    };
    let scan = scan(&manifest, wanted).await?;
    let (seeder, mut completions) = hold(daemon, &manifest, scan, record).await?;
    wait::complete(daemon, &seeder.holding, None, reply).await?;
    let told = manifest.clone();
    let encoded = blocking(move || told.encode()).await?;
    reply
        .item(Item::Seeding(Seeding {
            manifest: ByteBuf::from(encoded),
            listen: daemon.endpoint.listen_addrs().iter().map(ToString::to_string).collect(),
            peer: display_peer(&daemon.peer()),
        }))
        .await;
    let (mut copies, mut ticks) = (Copies::default(), tokio::time::interval(TELL_EVERY));
    let holding = &seeder.holding;
    let failed = async { Err::<Infallible, Failure>(until_failed(holding, reply).await) };
    let mut failed = std::pin::pin!(failed);
    loop {
        tokio::select! {
            failed = &mut failed => return failed.map(|never| match never {}),
            _ = ticks.tick() => reply.item(Item::Serving(serving(holding))).await,
            peer = completions.recv() => {
                if let Ok(peer) = peer
                    && copies.add(peer)
                {
                    reply.item(Item::Serving(serving(holding))).await;
                    let (peer, copies) = (display_peer(&peer), copies.count());
                    reply.item(Item::PeerComplete(PeerComplete { peer, copies })).await;
                }
            }
        }
    }
}

fn serving(holding: &Holding) -> Serving {
    let snapshot = holding.snapshot();
    Serving {
        sent_bytes: snapshot.stats.sent,
        saved_bytes: snapshot.saved_bytes,
        peers: snapshot.stats.links as u64,
    }
}

/// Warns where files change; ends where it cannot be served any more.
async fn until_failed(holding: &Holding, reply: &Reply) -> Failure {
    let mut views = holding.watch();
    let mut told = String::new();
    loop {
        let state = views.borrow_and_update().state.clone();
        match state {
            State::Failed(problem) => return problem.into(),
            State::Damaged(reason) if reason != told => {
                reply.send(Event::Warning(format!("{reason}; its pieces are not offered any more"))).await;
                told = reason;
            }
            _ => {}
        }
        if views.changed().await.is_err() {
            return Failure::new(Kind::Other, "it was given up meanwhile");
        }
    }
}

/// The manifest with the addresses of this node, and its trackers.
fn with_hints(daemon: &Daemon, manifest: Manifest) -> Result<Arc<Manifest>, Failure> {
    let peer = Some(daemon.peer());
    let listen = daemon.endpoint.listen_addrs().first().map(std::net::SocketAddr::ip);
    let addrs = listen.map(|ip| reachable_addrs(ip, daemon.endpoint.port())).unwrap_or_default();
    let known = daemon.known_catalogue().map(|known| known.trackers.clone()).unwrap_or_default();
    let trackers = known.iter().filter_map(|text| parse_tracker(text).ok());
    let hints = Hints {
        seeders: addrs.into_iter().map(|addr| PeerAddr { peer, addr }).take(SEEDER_COUNT_MAX).collect(),
        trackers: trackers.map(|addr| addr.to_string()).take(TRACKER_COUNT_MAX).collect(),
    };
    let manifest = manifest.with_hints(hints);
    manifest.map(Arc::new).map_err(|error| Failure::new(Kind::Other, error.to_string()))
}

/// What lies there, which must be what was hashed.
async fn scan(manifest: &Arc<Manifest>, wanted: Wanted) -> Result<Scan, Failure> {
    let manifest = manifest.clone();
    let cancel = CancelOnDrop::default();
    let cancelled = cancel.flag();
    blocking(move || {
        let options = ScanOptions { skip_unsafe: true, exclude: vec![wanted.output] };
        let scan = storage::scan(&wanted.paths, Some(manifest.info().name.clone()), &options)?;
        let known = SeedCache::load(&wanted.cache).and_then(|cache| cache.matches(&scan));
        let info = match known {
            Some(info) => info,
            // It was changed so shortly before it was hashed that the hashes are not kept.
            None => storage::hash(&scan, Some(manifest.info().piece_size), &|_| {}, &cancelled)?,
        };
        if info != *manifest.info() {
            let message = format!("{} was changed while it was hashed", manifest.info().name);
            return Err(Failure::new(Kind::Integrity, message).hint("run dft seed again"));
        }
        Ok(scan)
    })
    .await?
}

async fn hold(
    daemon: &Arc<Daemon>,
    manifest: &Arc<Manifest>,
    scan: Scan,
    record: Record,
) -> Result<(Seeder, broadcast::Receiver<PeerId>), Failure> {
    if let Some(holding) = daemon.opened(manifest.id()).await {
        holding.look().await;
    }
    let useless = match daemon.usable_holding(manifest.id(), Asker::Putter).await? {
        Held::Usable(holding) => return Ok(Seeder::new(daemon, holding)),
        Held::Useless(holding) => Some(holding),
        Held::Nothing => None,
    };
    // What stood there for good does so again.
    let record = match &useless {
        Some(former) => {
            let former = former.record();
            Record { name: former.name, origin: former.origin, seeded: former.seeded, ..record }
        }
        None => record,
    };
    let seeded = manifest.clone();
    let opening = Opening::With(Arc::new(blocking(move || Store::seed(seeded, scan)).await??));
    let taken = daemon.take_on(useless, manifest.clone(), record, opening, Presence::Shared).await?;
    Ok(Seeder::new(daemon, taken.holding))
}

/// A `dft seed` that counts on a dataset, however it ends.
struct Seeder {
    daemon: Arc<Daemon>,
    holding: Arc<Holding>,
}

impl Seeder {
    fn new(daemon: &Arc<Daemon>, holding: Arc<Holding>) -> (Self, broadcast::Receiver<PeerId>) {
        let completions = holding.begin_seeding();
        (Self { daemon: daemon.clone(), holding }, completions)
    }
}

impl Drop for Seeder {
    fn drop(&mut self) {
        self.holding.end_seeding();
        // Another may stand in its place.
        let Some(holding) = self.daemon.holding_at_work(self.holding.id()) else { return };
        if holding.record().seeded && !holding.is_seeded() {
            let daemon = self.daemon.clone();
            tokio::spawn(async move { daemon.give_up(&holding).await });
        }
    }
}
