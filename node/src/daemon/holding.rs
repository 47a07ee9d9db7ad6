//! One dataset on this node: opened, fetched where something is missing, served; a task of its own.
//!
//! A [`Holding`] is what others see of it. What it is doing is its [`View`]; the table on disk says
//! what is to be done again after a restart, and is written before anything is told of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::{Manifest, PeerAddr};
use tokio::sync::{broadcast, oneshot, watch};

use super::Daemon;
use super::looking::{damaged, remember_hashes};
use super::opening::{Opening, open};
use super::table::{Place, Record};
pub use super::view::{Problem, Running, State, View};
use crate::commands::{blocking, packing};
use crate::driver::{self, DriverConfig, Handle, Snapshot, Update};
use crate::failure::{Failure, Kind};
use crate::net::link::pack::Packing;
use crate::storage::{Selection, Store};
use crate::trace::Trace;

/// A use that is so much younger than the one on disk is written there: a sync costs more than it
/// is worth to know the order to the second after a restart.
const LAST_USE_STEP_MS: u64 = 60_000;

/// Completions of peers that a seeder has not heard of yet; it misses the oldest of more.
const COMPLETIONS_MAX: usize = 1024;
/// How long it may take until a change that was found is seen in the view.
const TOLD_MAX: Duration = Duration::from_secs(1);
/// The catalogue is asked again for holders after this time, and after twice as long each time …
const HOLDERS_AGAIN_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const HOLDERS_AGAIN_MAX: Duration = Duration::from_secs(30);

/// What was sent of a dataset.
#[derive(Clone, Copy, Default)]
pub(super) struct Sent {
    pub(super) bytes: u64,
    pub(super) saved_bytes: u64,
}

/// Whether the daemon remembers and tells of a dataset.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// In its table, and announced.
    Shared,
    /// For one request only: neither recorded nor announced.
    Selfish,
}

/// Who reads a dataset of which nothing is kept.
struct Readers {
    count: usize,
    /// What was remembered of it before, which was of no use.
    aside: Option<Record>,
}

/// One dataset on this node.
pub struct Holding {
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// Whether others hear of it.
    pub presence: Presence,
    /// The files that are fetched, where these are not all.
    part: Option<Selection>,
    /// How many read it, where it is there for them alone and nothing of it is kept.
    readers: Option<Mutex<Readers>>,
    record: Mutex<Record>,
    /// Held by the thread that writes the record down, so that what is on disk is the latest; true
    /// once nothing is written for this one any more.
    retired: Mutex<bool>,
    view: watch::Sender<View>,
    /// Asks its task to end.
    stop: watch::Sender<bool>,
    /// Nobody sends here: it closes when the task has ended.
    running: watch::Receiver<()>,
    /// Stops threads that hash for it.
    cancel: Arc<AtomicBool>,
    /// Whether another stands in its place, or none; held while that is brought about.
    pub(super) ended: tokio::sync::Mutex<bool>,
    /// It is being given up: no request may count on it any more.
    ending: AtomicBool,
    /// Other requests than the one that began it count on it.
    claimed: AtomicBool,
    opened: AtomicBool,
    /// It ends to be opened again when it is asked for.
    resting: AtomicBool,
    /// When somebody wanted something of it.
    used: Mutex<Instant>,
    /// What was sent of it before it was at rest.
    sent_before: OnceLock<Sent>,
    /// How many `dft seed` count on it.
    seeders: AtomicUsize,
    /// Peers that say that they have all of it, as they do. It is there once somebody wants to know: it has
    /// room for all that may wait, and a daemon holds thousands of datasets.
    completions: OnceLock<broadcast::Sender<PeerId>>,
}

impl Holding {
    /// Which dataset it is.
    pub fn id(&self) -> ManifestId {
        self.manifest.id()
    }

    /// What is remembered of it.
    pub fn record(&self) -> Record {
        self.record_mut().clone()
    }

    /// Follows what it is doing.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// What it is doing.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// How far it is.
    pub fn snapshot(&self) -> Snapshot {
        self.view
            .borrow()
            .running
            .as_ref()
            .map_or_else(Snapshot::default, |running| running.remote.snapshot())
    }

    /// Whether only some of its files are fetched.
    pub fn is_part(&self) -> bool {
        self.part.is_some()
    }

    /// Whether it is there for readers alone: nothing of it is kept.
    pub(super) const fn is_read(&self) -> bool {
        self.readers.is_some()
    }

    fn readers(&self) -> Option<MutexGuard<'_, Readers>> {
        self.readers.as_ref().map(|readers| readers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One more reads it; false where the last one has left, or it is being given up.
    pub(super) fn begin_reading(&self) -> bool {
        let Some(mut readers) = self.readers() else { return false };
        let goes_on = readers.count > 0 && !self.is_ending();
        readers.count += usize::from(goes_on);
        goes_on
    }

    /// One less; whether it was the last.
    pub(super) fn end_reading(&self) -> bool {
        self.readers().is_some_and(|mut readers| {
            readers.count = readers.count.saturating_sub(1);
            readers.count == 0
        })
    }

    /// While it is read, this is not held.
    pub(super) fn set_aside(&self, record: Option<Record>) {
        if let (Some(mut readers), Some(record)) = (self.readers(), record) {
            readers.aside = Some(record);
        }
    }

    /// What was not held while it was read.
    pub(super) fn take_aside(&self) -> Option<Record> {
        self.readers()?.aside.take()
    }

    /// Bytes of the files that are wanted.
    pub fn wanted_bytes(&self) -> u64 {
        self.part.as_ref().map_or_else(|| self.manifest.total_bytes(), |part| part.bytes(&self.manifest))
    }

    /// Whether all of it is here.
    pub fn is_complete(&self) -> bool {
        !self.is_part() && matches!(self.view.borrow().state, State::Complete(_))
    }

    fn record_mut(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is remembered of it, on disk as well.
    pub async fn remember(
        self: &Arc<Self>,
        daemon: &Arc<Daemon>,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), Failure> {
        change(&mut self.record_mut());
        let (daemon, holding) = (daemon.clone(), self.clone());
        blocking(move || holding.write_down(&daemon)).await?
    }

    /// Writes its record to disk. Blocks.
    fn write_down(&self, daemon: &Daemon) -> Result<(), Failure> {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        if *retired || self.presence == Presence::Selfish {
            return Ok(());
        }
        daemon.table.update(self.id(), &self.record())
    }

    /// Another is about to stand in its place, or none: its record is not written any more. Blocks.
    pub(super) fn retire(&self) {
        *self.retired.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Stops threads that hash for it, once it is set.
    pub(super) fn cancel(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Somebody wants something of it.
    pub(super) fn use_now(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When somebody wanted something of it.
    pub(super) fn last_used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this process has sent of it.
    pub(super) fn sent(&self) -> Sent {
        let (snapshot, before) = (self.snapshot(), self.sent_before.get().copied().unwrap_or_default());
        Sent {
            bytes: before.bytes + snapshot.stats.sent,
            saved_bytes: before.saved_bytes + snapshot.saved_bytes,
        }
    }

    /// It was at work before.
    pub(super) fn go_on_from(&self, sent: Sent) {
        // It is told once, when it begins.
        let _ = self.sent_before.set(sent);
    }

    /// Ends its task, for its dataset to be at rest.
    pub(super) fn rest(&self) {
        self.resting.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
    }

    /// Somebody asked for it.
    pub fn touch(self: &Arc<Self>, daemon: &Arc<Daemon>) {
        self.use_now();
        let now = now_ms();
        let last = std::mem::replace(&mut self.record_mut().last_use_ms, now);
        if now.saturating_sub(last) >= LAST_USE_STEP_MS {
            let (daemon, holding) = (daemon.clone(), self.clone());
            // Where it fails, what is lost is the order in which copies leave a full store.
            drop(tokio::task::spawn_blocking(move || holding.write_down(&daemon)));
        }
    }

    /// Looks whether its data are as they were; where they are not, its view says so afterwards.
    pub(super) async fn look(&self) {
        let Some(running) = self.view().running else { return };
        if running.remote.look().await {
            self.until_told().await;
        }
    }

    /// Holds a piece against its hash once more that was read wrong. Where it is wrong, it is lost: it
    /// is fetched again by a fetch that is under way, and else the view says so afterwards.
    pub(super) async fn doubt(&self, piece: PieceIndex) {
        let Some(Running { store, remote }) = self.view().running else { return };
        if remote.recheck(piece).await && store.is_finished() {
            self.until_told().await;
        }
    }

    /// Waits until the view says that not all is there.
    async fn until_told(&self) {
        let is_told = |view: &View| !matches!(view.state, State::Complete(_));
        let _ = tokio::time::timeout(TOLD_MAX, self.watch().wait_for(is_told)).await;
    }

    /// Ends its task, in good order; whoever asks waits for that.
    pub async fn stop(&self) {
        self.cancel.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        let mut running = self.running.clone();
        while running.changed().await.is_ok() {}
    }

    /// Another request counts on it; false where it is being given up.
    pub(super) fn claim(&self) -> bool {
        self.claimed.store(true, Ordering::Relaxed);
        !self.is_ending()
    }

    /// Whether other requests than the one that began it count on it.
    pub(super) fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Relaxed)
    }

    /// One more `dft seed` counts on it.
    pub(super) fn begin_seeding(&self) -> broadcast::Receiver<PeerId> {
        self.seeders.fetch_add(1, Ordering::Relaxed);
        self.completions.get_or_init(|| broadcast::Sender::new(COMPLETIONS_MAX)).subscribe()
    }

    /// One less.
    pub(super) fn end_seeding(&self) {
        self.seeders.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether any does.
    pub(super) fn is_seeded(&self) -> bool {
        self.seeders.load(Ordering::Relaxed) > 0
    }

    /// Whether it is being given up.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub(super) fn set_ending(&self, ending: bool) {
        self.ending.store(ending, Ordering::Relaxed);
    }

    /// Whether its data could be looked at; its fetch may have begun.
    pub(super) fn was_opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    async fn stopped(&self) {
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    pub(super) fn set(&self, state: State) {
        self.view.send_modify(|view| view.state = state);
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Starts a dataset. Its record, where it has one, is in the table already, or is when `begins` says
/// so.
pub(super) fn start(
    daemon: &Arc<Daemon>,
    manifest: Arc<Manifest>,
    record: Record,
    (opening, begins): (Opening, Option<oneshot::Receiver<()>>),
    presence: Presence,
) -> Arc<Holding> {
    let view = View { state: State::Opening, running: None };
    let part = match &opening {
        Opening::Part { selection, .. } => Some(selection.clone()),
        Opening::With(_) | Opening::Again | Opening::Rested | Opening::New | Opening::Read => None,
    };
    // The one that it begins with.
    let readers = matches!(opening, Opening::Read).then(|| Mutex::new(Readers { count: 1, aside: None }));
    let record = record.of(&manifest);
    let (runs, running) = watch::channel(());
    let holding = Arc::new(Holding {
        manifest,
        presence,
        part,
        readers,
        record: Mutex::new(record),
        retired: Mutex::default(),
        view: watch::Sender::new(view),
        stop: watch::Sender::new(false),
        running,
        cancel: Arc::default(),
        ended: tokio::sync::Mutex::default(),
        ending: AtomicBool::new(false),
        claimed: AtomicBool::new(false),
        opened: AtomicBool::new(false),
        resting: AtomicBool::new(false),
        used: Mutex::new(Instant::now()),
        sent_before: OnceLock::new(),
        seeders: AtomicUsize::new(0),
        completions: OnceLock::new(),
    });
    let (daemon, begun) = (daemon.clone(), holding.clone());
    tokio::spawn(async move {
        let begins = async {
            match begins {
                Some(begins) => begins.await.is_ok(),
                None => true,
            }
        };
        let begins = tokio::select! {
            begins = begins => begins,
            () = begun.stopped() => false,
        };
        if begins {
            run(daemon, begun, opening).await;
        } else {
            begun.set(given_up(&begun));
        }
        drop(runs);
    });
    holding
}

async fn run(daemon: Arc<Daemon>, holding: Arc<Holding>, opening: Opening) {
    let rested = matches!(opening, Opening::Rested);
    let was_held =
        matches!(opening, Opening::Again | Opening::Rested) && holding.presence == Presence::Shared;
    let opened = tokio::select! {
        opened = open(&daemon, &holding, opening) => opened,
        () = holding.stopped() => {
            if was_held && !holding.resting.load(Ordering::Relaxed) {
                // It was announced while it was at rest.
                daemon.discovery.remove(holding.id());
            }
            return holding.set(given_up(&holding));
        }
    };
    let store = match opened {
        Ok(store) => store,
        Err(failure) => {
            if was_held {
                // Trackers may count it here still, by what an earlier process of this node said.
                daemon.discovery.remove(holding.id());
            }
            return holding.set(State::Failed(failure.into()));
        }
    };
    holding.opened.store(true, Ordering::Relaxed);
    let mut driver = begin(&daemon, &holding, store).await;
    if rested {
        // What changed meanwhile is told of by an update.
        let remote = driver.remote();
        tokio::spawn(async move { remote.look().await });
    }
    let ended: State = loop {
        let update = tokio::select! {
            () = holding.stopped() => break given_up(&holding),
            update = driver.update() => update,
        };
        match update {
            None => {
                let failure = Failure::new(Kind::Other, "its driver ended unexpectedly");
                break State::Failed(failure.into());
            }
            Some(Update::Complete { path }) => completed(&daemon, &holding, path).await,
            Some(Update::StorageFailed(error)) => break State::Failed(Failure::from(error).into()),
            Some(Update::Changed { reason, by_hash, .. }) => {
                damaged(&daemon, &holding, reason, by_hash).await;
            }
            Some(Update::Banned { peer, remote, violation }) => {
                let peer = crate::net::identity::display_peer(&peer);
                daemon.say(&format!("dropped the peer {peer} at {remote}: {violation}"));
            }
            Some(Update::PeerCompleted(peer)) => {
                // Where nobody listens, nobody wants to know.
                if let Some(completions) = holding.completions.get() {
                    // Nobody may be listening any more.
                    let _ = completions.send(peer);
                }
            }
            Some(Update::DialFailed { .. }) => {}
        }
    };
    // What is at rest may be at work again by now, by another task.
    if !holding.resting.load(Ordering::Relaxed) {
        daemon.endpoint.forget(holding.id());
        if holding.presence == Presence::Shared {
            daemon.discovery.remove(holding.id());
        }
    }
    holding.view.send_modify(|view| view.running = None);
    driver.shutdown().await;
    holding.set(ended);
}

/// What whoever waits for a dataset is told when it ends.
fn given_up(holding: &Holding) -> State {
    let message = format!("{} was given up meanwhile", holding.record().name);
    State::Failed(Failure::new(Kind::Other, message).into())
}

/// What came from others is forwarded as it came: its source alone knows whether it is to be compressed.
pub(super) fn packing_of(record: &Record) -> Packing {
    if record.origin || record.seeded { packing(record.compress) } else { Packing::PassOn }
}

/// Starts its driver, and the search for peers.
async fn begin(daemon: &Arc<Daemon>, holding: &Arc<Holding>, store: Arc<Store>) -> Handle {
    let complete = store.is_finished();
    let driver = driver::start(DriverConfig {
        manifest: holding.manifest.clone(),
        store: store.clone(),
        endpoint: daemon.endpoint.clone(),
        download: !complete,
        limits: daemon.limits.clone(),
        packing: packing_of(&holding.record()),
        trace: Trace::default(),
    });
    if holding.presence == Presence::Shared {
        daemon.announce(holding, complete);
    }
    let running = Running { store: store.clone(), remote: driver.remote() };
    let state = if complete { State::Complete(path_of(daemon, holding, &store)) } else { State::Fetching };
    holding.view.send_modify(|view| *view = View { state, running: Some(running) });
    if complete {
        // Thousands may be opened at a start: what is on disk as it should be is not written.
        if !holding.record().complete || holding.record().force {
            let _ = holding.remember(daemon, |record| (record.complete, record.force) = (true, false)).await;
        }
        daemon.tell_news();
    } else {
        let seeders = holding.manifest.hints().seeders.iter().copied();
        let seeders: Vec<PeerAddr> = seeders.collect();
        driver.found(seeders).await;
        // Trackers tell as well, a little later.
        tokio::spawn(ask_for_holders(daemon.clone(), Arc::downgrade(holding), driver.remote()));
    }
    driver
}

/// Asks the catalogue who has what is missing, again while no peer is linked: a tracker that has just
/// started does not know of all yet.
async fn ask_for_holders(daemon: Arc<Daemon>, asker: Weak<Holding>, remote: driver::Remote) {
    let mut pause = HOLDERS_AGAIN_MIN;
    loop {
        let Some(id) = asker.upgrade().map(|holding| holding.id()) else { return };
        remote.found(daemon.holders_of(id).await).await;
        loop {
            tokio::time::sleep(pause).await;
            let Some(holding) = asker.upgrade() else { return };
            if !matches!(holding.view().state, State::Fetching) {
                return;
            }
            if holding.snapshot().stats.links == 0 {
                break;
            }
            // Discovery tells of new ones, but where nobody hears of it.
            if holding.presence == Presence::Shared {
                return;
            }
            pause = HOLDERS_AGAIN_MIN;
        }
        pause = (pause * 2).min(HOLDERS_AGAIN_MAX);
    }
}

fn path_of(daemon: &Daemon, holding: &Holding, store: &Store) -> PathBuf {
    store.final_path().unwrap_or_else(|| path_by_record(daemon, &holding.manifest, &holding.record()))
}

/// Where a dataset is that is complete, as its record says.
pub(super) fn path_by_record(daemon: &Daemon, manifest: &Manifest, record: &Record) -> PathBuf {
    match &record.place {
        Place::Put(paths) if paths.len() == 1 => paths[0].to_path(),
        Place::Put(paths) => paths[0].to_path().parent().map(Path::to_owned).unwrap_or_default(),
        Place::Fetched(directory) => directory.to_path().join(file_name(manifest)),
        Place::Stored => daemon.table.data_directory(manifest.id()).join(file_name(manifest)),
    }
}

/// The dataset's own name, as a file name.
pub fn file_name(manifest: &Manifest) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(manifest.info().name.as_bytes()))
}

async fn completed(daemon: &Arc<Daemon>, holding: &Arc<Holding>, path: PathBuf) {
    // Before it is told of: who sees it complete finds it complete after a crash.
    let now_complete = |record: &mut Record| (record.complete, record.force) = (true, false);
    if let Err(failure) = holding.remember(daemon, now_complete).await {
        daemon.say(&failure.message);
    }
    holding.set(State::Complete(path));
    daemon.tell_news();
    if holding.presence == Presence::Shared {
        if holding.manifest.hints().trackers.is_empty() {
            daemon.announce(holding, true);
        } else {
            daemon.discovery.set_complete(holding.id());
        }
        remember_hashes(daemon.clone(), holding.clone()).await;
    }
}
