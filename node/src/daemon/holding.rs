//! One dataset on this node: opened, fetched where something is missing, served; a task of its own.
//!
//! A [`Holding`] is what others see of it. What it is doing is its [`View`]; the table on disk says
//! what is to be done again after a restart, and is written before anything is told of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::{Entry, Info, Manifest, PeerAddr};
use tokio::sync::watch;

use super::Daemon;
use super::table::{Place, Record};
use crate::commands::{blocking, packing};
use crate::driver::{self, DriverConfig, Handle, Remote, Snapshot, Update};
use crate::failure::{Failure, Kind};
use crate::net::discovery::{self, parse_tracker};
use crate::storage::{self, FetchOptions, Scan, ScanOptions, SeedCache, Selection, StorageError, Store};
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
    /// What kind it is.
    pub kind: Kind,
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
    /// To be fetched.
    New,
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
        !self.ending.load(Ordering::Relaxed)
    }

    /// Whether other requests than the one that began it count on it.
    pub(super) fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Relaxed)
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
        Opening::With(_) | Opening::Again | Opening::New => None,
    };
    let (runs, running) = watch::channel(());
    let holding = Arc::new(Holding {
        manifest,
        presence,
        part,
        record: Mutex::new(record),
        view: watch::Sender::new(view),
        stop: watch::Sender::new(false),
        running,
        cancel: Arc::default(),
        ended: tokio::sync::Mutex::default(),
        ending: AtomicBool::new(false),
        claimed: AtomicBool::new(false),
        opened: AtomicBool::new(false),
    });
    let (daemon, begun) = (daemon.clone(), holding.clone());
    tokio::spawn(async move {
        run(daemon, begun, opening).await;
        drop(runs);
    });
    holding
}

async fn run(daemon: Arc<Daemon>, holding: Arc<Holding>, opening: Opening) {
    let opened = tokio::select! {
        opened = open(&daemon, &holding, opening) => opened,
        () = holding.stopped() => return holding.set(given_up(&holding)),
    };
    let store = match opened {
        Ok(store) => store,
        Err(failure) => return holding.set(State::Failed(failure.into())),
    };
    holding.opened.store(true, Ordering::Relaxed);
    let mut driver = begin(&daemon, &holding, store).await;
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
        let (asks_lan, quiet_for) = (!complete, Duration::ZERO);
        daemon.discovery.add(discovery::Dataset { manifest: id, complete, trackers, asks_lan, quiet_for });
    }
    let running = Running { store: store.clone(), remote: driver.remote() };
    let state = if complete { State::Complete(path_of(daemon, holding, &store)) } else { State::Fetching };
    holding.view.send_modify(|view| *view = View { state, running: Some(running) });
    if complete {
        // Thousands may be opened at a start: what is on disk as it should be is not written.
        if !holding.record().complete || holding.record().force {
            let _ = holding.remember(daemon, |record| (record.complete, record.force) = (true, false));
        }
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
    let now_complete = |record: &mut Record| (record.complete, record.force) = (true, false);
    if let Err(failure) = holding.remember(daemon, now_complete) {
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
    let (again, force, selection) = match opening {
        Opening::With(store) => return Ok(store),
        Opening::Again => (true, holding.record().force, None),
        Opening::New => (false, holding.record().force, None),
        Opening::Part { selection, force } => (false, force, Some(selection)),
    };
    let options = FetchOptions { force, selection };
    let data = Data {
        manifest: holding.manifest.clone(),
        record: holding.record(),
        cache: daemon.table.directory(holding.id()),
        stored: daemon.table.data_directory(holding.id()),
        cancel: holding.cancel.clone(),
    };
    let data = Arc::new(data);
    if again {
        let looked = data.clone();
        if let Some(store) = blocking(move || looked.look()).await?? {
            return Ok(Arc::new(store));
        }
    }
    // What begins has nothing to check; it must not wait for what has.
    let checks = if again { Some(daemon.checks.acquire().await) } else { None };
    let store = blocking(move || data.check(options)).await??;
    drop(checks);
    Ok(Arc::new(store))
}

/// Where the data of a dataset are, for the threads that look at them.
struct Data {
    manifest: Arc<Manifest>,
    record: Record,
    cache: PathBuf,
    stored: PathBuf,
    cancel: Arc<AtomicBool>,
}

impl Data {
    /// The paths that were put, or the one that was fetched.
    fn paths(&self) -> Vec<PathBuf> {
        match &self.record.place {
            Place::Put(paths) => paths.iter().map(super::wire::WirePath::to_path).collect(),
            Place::Fetched(_) | Place::Stored => vec![self.directory().join(file_name(&self.manifest))],
        }
    }

    fn directory(&self) -> PathBuf {
        match &self.record.place {
            Place::Fetched(directory) => directory.to_path(),
            Place::Put(_) | Place::Stored => self.stored.clone(),
        }
    }

    fn is_put(&self) -> bool {
        matches!(self.record.place, Place::Put(_))
    }

    fn scan(&self) -> Result<Scan, Failure> {
        let options = ScanOptions { skip_unsafe: self.is_put(), ..Default::default() };
        storage::scan(&self.paths(), Some(self.manifest.info().name.clone()), &options)
            .map_err(|error| self.gone_or(error))
    }

    /// What is gone is told from what cannot be read for a moment.
    fn gone_or(&self, error: StorageError) -> Failure {
        if error.is_missing() { self.changed("is gone, or its disk is away") } else { error.into() }
    }

    fn changed(&self, how: &str) -> Failure {
        let paths = self.paths();
        let place = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let what = if self.is_put() { "what was put at " } else { "" };
        Failure::new(Kind::Integrity, format!("{what}{place} {how}"))
    }

    /// What was complete and is unchanged is not hashed again; nothing where that is not so.
    fn look(&self) -> Result<Option<Store>, Failure> {
        if !self.record.complete {
            return Ok(None);
        }
        let scan = self.scan()?;
        let known = SeedCache::load(&self.cache).and_then(|hashes| hashes.matches(&scan));
        if known.is_some_and(|info| is_same_data(&info, self.manifest.info())) {
            return self.seed(scan).map(Some);
        }
        Ok(None)
    }

    fn seed(&self, mut scan: Scan) -> Result<Store, Failure> {
        scan.entries.clone_from(&self.manifest.info().entries);
        Ok(Store::seed(self.manifest.clone(), scan)?)
    }

    /// Hashes what is there; what is to be fetched goes on with it.
    fn check(&self, options: FetchOptions) -> Result<Store, Failure> {
        if self.is_put() {
            let scan = self.scan()?;
            let piece_size = Some(self.manifest.info().piece_size);
            let info = storage::hash(&scan, piece_size, &|_| {}, &self.cancel);
            let info = info.map_err(|error| match error {
                StorageError::Changed { .. } => self.changed("has changed"),
                error => error.into(),
            })?;
            if !is_same_data(&info, self.manifest.info()) {
                return Err(self.changed("has changed"));
            }
            // Only a speed-up: without it, the next start hashes again.
            if let Some(cache) = SeedCache::new(&scan, &info) {
                let _ = cache.store(&self.cache);
            }
            return self.seed(scan);
        }
        if self.record.place == Place::Stored {
            crate::settings::create_private_dir(&self.stored)?;
        }
        Store::fetch(self.manifest.clone(), &self.directory(), options, &|_| {}).map_err(
            |error| match error {
                StorageError::Exists { .. } if self.record.complete => self.changed("has changed"),
                error => error.into(),
            },
        )
    }
}

/// Whether both have the same files and links with the same content. When a directory was changed
/// says nothing: a file that came and went leaves the data as they were.
fn is_same_data(found: &Info, manifest: &Info) -> bool {
    let same = |(one, other): (&Entry, &Entry)| match (one, other) {
        (
            Entry::Directory { path, mode, .. },
            Entry::Directory { path: other_path, mode: other_mode, .. },
        ) => (path, mode) == (other_path, other_mode),
        (one, other) => one == other,
    };
    found.entries.len() == manifest.entries.len()
        && found.entries.iter().zip(&manifest.entries).all(same)
        && (&found.name, found.piece_size, &found.packs, &found.hashes)
            == (&manifest.name, manifest.piece_size, &manifest.packs, &manifest.hashes)
}
