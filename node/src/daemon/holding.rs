//! One dataset on this node: opened, fetched where something is missing, served; a task of its own.
//!
//! A [`Holding`] is what others see of it. What it is doing is its [`View`]; the table on disk says
//! what is to be done again after a restart, and is written before anything is told of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::{Manifest, PeerAddr};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::Daemon;
use super::table::{Place, Record};
use crate::commands::{blocking, packing};
use crate::driver::{self, DriverConfig, Handle, Remote, Snapshot, Update};
use crate::failure::{Failure, Kind};
use crate::net::discovery::{self, parse_tracker};
use crate::storage::{self, FetchOptions, Scan, ScanOptions, SeedCache, Selection, Store};
use crate::trace::Trace;

/// A use that is so much younger than the one on disk is written there: a sync costs more than it
/// is worth to know the order to the second after a restart.
const LAST_USE_STEP_MS: u64 = 60_000;

/// How often it is looked whether the files that are served are as they were …
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// … and at most so large a part of the time goes into it: looking at a million files takes a while.
const LOOK_SHARE: u32 = 50;

/// What a dataset is doing.
#[derive(Clone, Debug)]
pub enum State {
    /// Its data are being looked at.
    Opening,
    /// Something is missing.
    Fetching,
    /// All of it is here, at this path.
    Complete(PathBuf),
    /// All of it was here; some was changed or removed.
    Damaged(String),
    /// It cannot go on; a restart or another request tries again.
    Failed(Problem),
}

/// Why a dataset cannot go on: a [`Failure`] that many can be told of.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    /// What happened.
    pub message: String,
    hint: Option<String>,
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let Failure { kind, message, hint } = failure;
        Self { kind, message, hint }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let Problem { kind, message, hint } = problem;
        Self { kind, message, hint }
    }
}

/// What is seen of a dataset.
#[derive(Clone)]
pub struct View {
    /// What it is doing.
    pub state: State,
    /// Its store and driver, while it has them.
    pub running: Option<Running>,
}

/// The parts of a dataset that runs.
#[derive(Clone)]
pub struct Running {
    /// Where its pieces are.
    pub store: Arc<Store>,
    /// Its driver.
    pub remote: Remote,
}

/// How a dataset is opened.
pub enum Opening {
    /// With the store that was made when it was put.
    With(Arc<Store>),
    /// From what the record says.
    Again,
    /// To be fetched, in place of what is there.
    Over,
    /// Only these files of it, for one request.
    Part {
        /// Which.
        selection: Selection,
        /// In place of what is there.
        force: bool,
    },
}

/// Whether the daemon remembers and tells of a dataset.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// In its table, and announced.
    Shared,
    /// For one request only: neither recorded nor announced.
    Selfish,
}

/// One dataset on this node.
pub struct Holding {
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// Whether others hear of it.
    pub presence: Presence,
    /// The files that are fetched, where these are not all.
    part: Option<Selection>,
    record: Mutex<Record>,
    view: watch::Sender<View>,
    task: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Holding {
    /// Which dataset it is.
    pub fn id(&self) -> ManifestId {
        self.manifest.id()
    }

    /// What is remembered of it.
    pub fn record(&self) -> Record {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    /// Bytes of the files that are wanted.
    pub fn wanted_bytes(&self) -> u64 {
        self.part.as_ref().map_or_else(|| self.manifest.total_bytes(), |part| part.bytes(&self.manifest))
    }

    /// Whether all of it is here.
    pub fn is_complete(&self) -> bool {
        !self.is_part() && matches!(self.view.borrow().state, State::Complete(_))
    }

    /// Changes what is remembered of it, on disk as well.
    pub fn remember(&self, daemon: &Daemon, change: impl FnOnce(&mut Record)) -> Result<(), Failure> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        if self.presence == Presence::Selfish {
            return Ok(());
        }
        daemon.table.update(self.id(), &record)
    }

    /// Somebody asked for it.
    pub fn touch(&self, daemon: &Daemon) {
        let now = now_ms();
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let last = std::mem::replace(&mut record.last_use_ms, now);
        drop(record);
        if now.saturating_sub(last) >= LAST_USE_STEP_MS {
            // What is lost is the order in which copies leave a full store.
            let _ = self.remember(daemon, |_| {});
        }
    }

    /// Ends its task, in good order.
    pub async fn stop(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, task)) = task {
            let _ = stop.send(());
            let _ = task.await;
        }
    }

    fn set(&self, state: State) {
        self.view.send_modify(|view| view.state = state);
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Starts a dataset. Its record, where it has one, is in the table already.
pub fn start(
    daemon: &Arc<Daemon>,
    manifest: Arc<Manifest>,
    record: Record,
    opening: Opening,
    presence: Presence,
) -> Arc<Holding> {
    let view = View { state: State::Opening, running: None };
    let part = match &opening {
        Opening::Part { selection, .. } => Some(selection.clone()),
        Opening::With(_) | Opening::Again | Opening::Over => None,
    };
    let holding = Arc::new(Holding {
        manifest,
        presence,
        part,
        record: Mutex::new(record),
        view: watch::Sender::new(view),
        task: Mutex::default(),
    });
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(run(daemon.clone(), holding.clone(), opening, stopped));
    *holding.task.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop, task));
    holding
}

async fn run(daemon: Arc<Daemon>, holding: Arc<Holding>, opening: Opening, mut stop: oneshot::Receiver<()>) {
    let opened = tokio::select! {
        opened = open(&daemon, &holding, opening) => opened,
        _ = &mut stop => return holding.set(given_up(&holding)),
    };
    let store = match opened {
        Ok(store) => store,
        Err(failure) => return holding.set(State::Failed(failure.into())),
    };
    let mut driver = begin(&daemon, &holding, store).await;
    let ended: State = loop {
        let update = tokio::select! {
            _ = &mut stop => break given_up(&holding),
            update = driver.update() => update,
        };
        match update {
            None => {
                let failure = Failure::new(Kind::Other, "its driver ended unexpectedly");
                break State::Failed(failure.into());
            }
            Some(Update::Complete { path }) => completed(&daemon, &holding, path).await,
            Some(Update::StorageFailed(error)) => break State::Failed(Failure::from(error).into()),
            Some(Update::Changed { reason, .. }) => damaged(&daemon, &holding, reason).await,
            Some(Update::Banned { peer, remote, violation }) => {
                let peer = crate::net::identity::display_peer(&peer);
                daemon.say(&format!("dropped the peer {peer} at {remote}: {violation}"));
            }
            Some(Update::PeerCompleted(_) | Update::DialFailed { .. }) => {}
        }
    };
    daemon.endpoint.forget(holding.id());
    if holding.presence == Presence::Shared {
        daemon.discovery.remove(holding.id());
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

/// Starts its driver, and the search for peers.
async fn begin(daemon: &Arc<Daemon>, holding: &Holding, store: Arc<Store>) -> Handle {
    let (id, complete) = (holding.id(), store.is_finished());
    let driver = driver::start(DriverConfig {
        manifest: holding.manifest.clone(),
        store: store.clone(),
        endpoint: daemon.endpoint.clone(),
        download: !complete,
        limits: daemon.limits.clone(),
        packing: packing(holding.record().compress),
        trace: Trace::default(),
    });
    if holding.presence == Presence::Shared {
        let hints = holding.manifest.hints().trackers.iter();
        let trackers = hints.filter_map(|text| parse_tracker(text).ok()).collect();
        daemon.discovery.add(discovery::Dataset { manifest: id, complete, trackers, asks_lan: !complete });
    }
    let running = Running { store: store.clone(), remote: driver.remote() };
    let state = if complete { State::Complete(path_of(daemon, holding, &store)) } else { State::Fetching };
    holding.view.send_modify(|view| *view = View { state, running: Some(running) });
    if complete {
        let _ = holding.remember(daemon, |record| record.complete = true);
        daemon.tell_news();
    } else {
        let seeders = holding.manifest.hints().seeders.iter().copied();
        let seeders: Vec<PeerAddr> = seeders.collect();
        driver.found(seeders).await;
        // Trackers tell as well, a little later.
        let (daemon, remote) = (daemon.clone(), driver.remote());
        tokio::spawn(async move { remote.found(daemon.holders_of(id).await).await });
    }
    driver
}

fn path_of(daemon: &Daemon, holding: &Holding, store: &Store) -> PathBuf {
    store.final_path().unwrap_or_else(|| match holding.record().place {
        Place::Put(paths) if paths.len() == 1 => paths[0].to_path(),
        Place::Put(paths) => paths[0].to_path().parent().map(Path::to_owned).unwrap_or_default(),
        Place::Fetched(directory) => directory.to_path().join(file_name(&holding.manifest)),
        Place::Stored => daemon.table.data_directory(holding.id()).join(file_name(&holding.manifest)),
    })
}

/// The dataset's own name, as a file name.
pub fn file_name(manifest: &Manifest) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(manifest.info().name.as_bytes()))
}

async fn completed(daemon: &Arc<Daemon>, holding: &Holding, path: PathBuf) {
    // Before it is told of: who sees it complete finds it complete after a crash.
    if let Err(failure) = holding.remember(daemon, |record| record.complete = true) {
        daemon.say(&failure.message);
    }
    if holding.presence == Presence::Shared {
        daemon.discovery.set_complete(holding.id());
        let (manifest, cache) = (holding.manifest.clone(), daemon.table.directory(holding.id()));
        let paths = vec![path.clone()];
        // Only a speed-up: without it, the next start hashes again.
        let _ = blocking(move || remember_hashes(&manifest, &paths, &cache)).await;
    }
    holding.set(State::Complete(path));
    daemon.tell_news();
}

/// Looks, again and again, whether the files that are served are as they were: nobody is to count on
/// a copy that is gone, even where nobody asks for it.
pub(super) async fn keep_looking(daemon: &Daemon) {
    loop {
        let started = Instant::now();
        for holding in daemon.holdings() {
            if let (true, Some(running)) = (holding.is_complete(), holding.view().running) {
                running.remote.look().await;
            }
        }
        tokio::time::sleep(LOOK_EVERY.max(started.elapsed() * LOOK_SHARE)).await;
    }
}

/// Some of its data were changed or removed: others are to count on what is left alone.
async fn damaged(daemon: &Daemon, holding: &Holding, reason: String) {
    holding.set(State::Damaged(reason));
    if holding.presence == Presence::Selfish {
        return;
    }
    let Some(Running { store, remote }) = holding.view().running else { return };
    let left = remote.pieces().await;
    if store.is_finished() && left.is_none_or(|left| left.is_empty()) {
        daemon.discovery.remove(holding.id());
    } else {
        daemon.discovery.set_partial(holding.id());
    }
    daemon.tell_news();
}

fn remember_hashes(manifest: &Manifest, paths: &[PathBuf], cache: &Path) {
    let scan = storage::scan(paths, Some(manifest.info().name.clone()), &ScanOptions::default());
    if let Ok(scan) = scan
        && scan.entries == manifest.info().entries
        && let Some(hashes) = SeedCache::new(&scan, manifest.info())
    {
        let _ = hashes.store(cache);
    }
}

async fn open(daemon: &Daemon, holding: &Holding, opening: Opening) -> Result<Arc<Store>, Failure> {
    let (force, selection) = match opening {
        Opening::With(store) => return Ok(store),
        Opening::Again => (false, None),
        Opening::Over => (true, None),
        Opening::Part { selection, force } => (force, Some(selection)),
    };
    let options = FetchOptions { force, selection };
    let (manifest, record) = (holding.manifest.clone(), holding.record());
    let (cache, data) = (daemon.table.directory(holding.id()), daemon.table.data_directory(holding.id()));
    blocking(move || match &record.place {
        Place::Put(paths) => {
            let paths: Vec<PathBuf> = paths.iter().map(super::wire::WirePath::to_path).collect();
            open_in_place(&manifest, &paths, &cache)
        }
        Place::Fetched(directory) => open_fetched(manifest, &directory.to_path(), &record, &cache, options),
        Place::Stored => {
            crate::settings::create_private_dir(&data)?;
            open_fetched(manifest, &data, &record, &cache, options)
        }
    })
    .await?
    .map(Arc::new)
}

/// Looks whether the data are as they were; hashes them where that is in doubt.
fn open_in_place(manifest: &Arc<Manifest>, paths: &[PathBuf], cache: &Path) -> Result<Store, Failure> {
    let changed = || {
        let place = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        Failure::new(Kind::Integrity, format!("what was put at {place} has changed or is gone"))
    };
    let scan = storage::scan(
        paths,
        Some(manifest.info().name.clone()),
        &ScanOptions { skip_unsafe: true, ..Default::default() },
    )
    .map_err(|_| changed())?;
    let known = SeedCache::load(cache).and_then(|hashes| hashes.matches(&scan));
    let info = match known {
        Some(info) => info,
        None => hash(&scan, manifest)?,
    };
    if info != *manifest.info() {
        return Err(changed());
    }
    Ok(Store::seed(manifest.clone(), scan)?)
}

fn hash(scan: &Scan, manifest: &Manifest) -> Result<dft_protocol::manifest::Info, Failure> {
    let never = std::sync::atomic::AtomicBool::new(false);
    Ok(storage::hash(scan, Some(manifest.info().piece_size), &|_| {}, &never)?)
}

/// Goes on with what lies in `directory`. What was complete and is unchanged is not hashed again.
fn open_fetched(
    manifest: Arc<Manifest>,
    directory: &Path,
    record: &Record,
    cache: &Path,
    options: FetchOptions,
) -> Result<Store, Failure> {
    if record.complete
        && let Ok(scan) = storage::scan(
            &[directory.join(file_name(&manifest))],
            Some(manifest.info().name.clone()),
            &ScanOptions::default(),
        )
        && SeedCache::load(cache).and_then(|hashes| hashes.matches(&scan)).as_ref() == Some(manifest.info())
    {
        return Ok(Store::seed(manifest, scan)?);
    }
    if record.complete && !directory.join(file_name(&manifest)).exists() {
        let path = directory.join(file_name(&manifest));
        return Err(Failure::new(Kind::Integrity, format!("{} is gone", path.display())));
    }
    Ok(Store::fetch(manifest, directory, options, &|_| {})?)
}
