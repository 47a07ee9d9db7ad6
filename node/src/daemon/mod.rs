//! `dft daemon`: a small node of one user on one host, which holds any number of datasets and
//! serves the verbs of the namespace (`put`, `get`, `ls`, …) over a unix socket.
//!
//! What always holds: there is one daemon per user and host, and one per store; what was
//! acknowledged is on disk; nobody but the user reaches the socket; data that were put stay where
//! they are and are never written to; the only copy of something is never removed without being
//! told to. A record leaves the table only when its dataset is dropped, when it leaves the store to
//! make room, or when what put it there failed; whatever goes wrong with the data is no reason.
//!
//! Where to start reading: [`run`]; then [`holding`] (the life of one dataset), `verbs` (what
//! each request does), `rest` (what nobody is at work on), `serve` and [`wire`] (the socket), [`table`] (the disk), `neighbours`,
//! `finding` and [`catalogue`] (the others), [`reach`] (the command line's side).

pub mod catalogue;
mod content;
mod copy;
mod finding;
pub mod holding;
mod keeping;
mod looking;
mod neighbours;
mod opening;
pub mod places;
pub mod reach;
mod reading;
mod rest;
mod room;
mod serve;
pub mod table;
mod taking;
mod verbs;
mod view;
pub mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::{Manifest, PeerAddr};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use crate::cli::DaemonArgs;
use crate::commands::blocking;
use crate::failure::{Failure, Kind};
use crate::net::discovery::{self, Discovery};
use crate::net::identity::display_peer;
use crate::net::link::Endpoint;
use crate::net::link::endpoint::Wanted;
use crate::rate::RateLimits;
use crate::report::{Rate, Reporter};
use crate::secret::Secret;
use crate::session::{Listening, Standing, interrupted};
use crate::settings::{NodeState, create_private_dir};
use crate::token;
use crate::trace::Trace;
use catalogue::{Catalogue, Origin, TokenFile};
use finding::Finding;
use holding::{Holding, Presence};
use opening::Opening;
use rest::Resting;
use table::{Place, Record, Table};

/// Questions and news of other nodes that wait for the daemon.
const NEIGHBOURLY_QUEUE_LEN: usize = 64;
/// How long ending takes at most.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// Datasets whose data are hashed at a time: each hashes on all cores, and others need the disk.
const CHECKS_MAX: usize = 2;

/// What comes after a holding.
enum Next {
    /// It is given up.
    Nothing,
    /// It is remembered, and not held for now.
    Aside,
    /// The same, from its record.
    Again,
    /// The same data, at another place.
    Elsewhere(Record, Opening),
}

/// What a daemon holds: each dataset is in one of both.
#[derive(Default)]
struct Datasets {
    at_work: BTreeMap<ManifestId, Arc<Holding>>,
    at_rest: Resting,
    /// Bytes that came, and that went, for what is at rest or gone.
    moved: (u64, u64),
}

/// A running daemon.
pub struct Daemon {
    /// The name of this node.
    pub name: String,
    /// Where its store is.
    pub store: PathBuf,
    /// Most bytes of copies in the store.
    pub quota: Option<u64>,
    /// What it holds, on disk.
    pub table: Table,
    /// Opens links.
    pub endpoint: Arc<Endpoint>,
    /// Finds peers and nodes.
    pub discovery: Discovery,
    datasets: Mutex<Datasets>,
    /// Held while room in the store is looked for and taken.
    pub room: Arc<tokio::sync::Mutex<()>>,
    /// Copies that are being made in the store, and their bytes: no record tells of them yet.
    copies: watch::Sender<BTreeMap<ManifestId, u64>>,
    /// Who may hash what is here already.
    checks: tokio::sync::Semaphore,
    catalogue: watch::Sender<Option<Arc<Catalogue>>>,
    /// How many wait for a catalogue to be found.
    looking: AtomicUsize,
    /// How fast payload arrives and leaves.
    rates: Mutex<(Rate, Rate)>,
    access: catalogue::Access,
    limits: Arc<RateLimits>,
    finding: Finding,
    /// The addresses of this node's libp2p side.
    control: Mutex<Vec<SocketAddr>>,
    /// The addresses of the tracker that runs in this process.
    own_tracker: Vec<String>,
    /// Files with what proves who this node and its user are: they are put under no name.
    pub secrets: Vec<PathBuf>,
    /// What this node tells the catalogue of itself has changed.
    news: tokio::sync::Notify,
    stop: watch::Sender<bool>,
    reporter: Reporter,
}

impl Daemon {
    /// A line for whoever reads the daemon's output.
    pub fn say(&self, text: &str) {
        self.reporter.say(text);
    }

    /// Who this node is.
    pub fn peer(&self) -> PeerId {
        self.endpoint.identity().peer()
    }

    /// What it is at work on.
    pub fn holdings(&self) -> Vec<Arc<Holding>> {
        self.datasets().at_work.values().cloned().collect()
    }

    /// This dataset, where it is at work on it.
    pub fn holding_at_work(&self, id: ManifestId) -> Option<Arc<Holding>> {
        self.datasets().at_work.get(&id).cloned()
    }

    fn is_at_work(&self, id: ManifestId) -> bool {
        self.datasets().at_work.contains_key(&id)
    }

    fn datasets(&self) -> MutexGuard<'_, Datasets> {
        self.datasets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a dataset on; what is held of it already stays as it is, and is returned, and then it is
    /// not new. What goes with its request stands for nothing else, and nothing else for it. What is
    /// new is in the table when this returns.
    pub async fn hold(
        self: &Arc<Self>,
        manifest: Arc<Manifest>,
        record: Record,
        opening: Opening,
        presence: Presence,
    ) -> Result<(Arc<Holding>, bool), Failure> {
        let (begin, begins) = oneshot::channel();
        let holding = match self.find_or_start(manifest, record, opening, presence, begins).await? {
            Held::Already(held) => return Ok((held, false)),
            Held::Begun(holding) => holding,
        };
        let (daemon, begun) = (self.clone(), holding.clone());
        // Once begun, it is recorded or given up, even where nobody waits for it any more.
        let work = tokio::spawn(async move {
            // Whoever gives it up waits until it is in the table.
            let ended = begun.ended.lock().await;
            let entered = if *ended { Ok(()) } else { daemon.enter(&begun).await };
            drop(ended);
            if let Err(failure) = entered {
                // The first failure is the one to tell.
                let _ = daemon.give_up(&begun).await;
                return Err(failure);
            }
            // It may have been given up meanwhile.
            let _ = begin.send(());
            Ok(())
        });
        work.await.map_err(|error| worker_ended(&error))??;
        Ok((holding, true))
    }

    /// What is held of a dataset, or one that begins when `begins` says so.
    async fn find_or_start(
        self: &Arc<Self>,
        manifest: Arc<Manifest>,
        record: Record,
        opening: Opening,
        presence: Presence,
        begins: oneshot::Receiver<()>,
    ) -> Result<Held, Failure> {
        let id = manifest.id();
        while let Some(held) = self.holding(id).await {
            if matches!(opening, Opening::Read) {
                // Another request was faster; whoever reads looks what that is.
                return Ok(Held::Already(held));
            }
            if held.is_read() {
                if presence == Presence::Selfish {
                    let message = format!("dft cat is at work on {}", record.name);
                    return Err(Failure::new(Kind::Other, message).hint(
                        "run the same command again when that has ended; dft get of all takes it over",
                    ));
                }
                // Whoever reads it goes on with what is kept.
                self.give_up(&held).await?;
                continue;
            }
            if held.presence == Presence::Selfish || presence == Presence::Selfish || !held.claim() {
                let message = format!("another request is at work on {}", record.name);
                return Err(Failure::new(Kind::Other, message).hint("run the same command again"));
            }
            return Ok(Held::Already(held));
        }
        // Nobody else takes it on from here to its place in the table: nothing is waited for.
        self.check_readable(id)?;
        let mut datasets = self.datasets();
        if !record.complete {
            let fetched = datasets.at_work.values().filter(|holding| !holding.record().complete).count();
            if fetched >= discovery::DATASETS_MAX {
                let message = format!("this node fetches {} datasets, and no more", discovery::DATASETS_MAX);
                return Err(
                    Failure::new(Kind::Disk, message).hint("wait, or give some up with dft drop NAME")
                );
            }
        }
        let holding = holding::start(self, manifest, record, (opening, Some(begins)), presence);
        datasets.at_work.insert(id, holding.clone());
        Ok(Held::Begun(holding))
    }

    /// Enters a dataset in the table; not where it goes with its request.
    async fn enter(self: &Arc<Self>, holding: &Arc<Holding>) -> Result<(), Failure> {
        if holding.presence == Presence::Selfish {
            return Ok(());
        }
        let (daemon, holding) = (self.clone(), holding.clone());
        blocking(move || daemon.table.insert(&holding.manifest, &holding.record())).await?
    }

    /// Holds what the table says: nothing is written, so that a full disk keeps no daemon from it.
    fn hold_again(self: &Arc<Self>, manifest: Arc<Manifest>, record: Record) {
        let id = manifest.id();
        let holding = holding::start(self, manifest, record, (Opening::Again, None), Presence::Shared);
        self.datasets().at_work.insert(id, holding);
    }

    /// Gives a dataset up: its task, its record, and its data where they are in the store.
    pub async fn give_up(self: &Arc<Self>, holding: &Arc<Holding>) -> Result<(), Failure> {
        holding.set_ending(true);
        let ended = self.end_holding(holding, Next::Nothing).await;
        // What could not be removed is held on, until the next one tries.
        holding.set_ending(ended.is_ok());
        ended
    }

    /// Ends the task of a dataset and begins it anew, from what its record says.
    pub async fn hold_anew(self: &Arc<Self>, holding: &Arc<Holding>) -> Result<(), Failure> {
        self.end_holding(holding, Next::Again).await
    }

    /// Ends the task of a dataset for now: its record stays in the table, for [`Daemon::hold`].
    pub async fn set_aside(self: &Arc<Self>, holding: &Arc<Holding>) -> Result<(), Failure> {
        self.end_holding(holding, Next::Aside).await
    }

    /// Holds the same data at another place, which has all of them, or where nobody counts on the
    /// former one.
    pub async fn hold_elsewhere(
        self: &Arc<Self>,
        holding: &Arc<Holding>,
        record: Record,
        opening: Opening,
    ) -> Result<(), Failure> {
        self.end_holding(holding, Next::Elsewhere(record, opening)).await
    }

    /// The one way by which a holding ends. Its place in the table of holdings is taken until all of
    /// that is done: nobody takes the dataset on meanwhile. Once begun, it goes on even where nobody
    /// waits for it any more. Of several that end the same holding, the first does; the others wait.
    async fn end_holding(self: &Arc<Self>, holding: &Arc<Holding>, next: Next) -> Result<(), Failure> {
        let (daemon, holding) = (self.clone(), holding.clone());
        let work = tokio::spawn(async move {
            let mut ended = holding.ended.lock().await;
            if *ended {
                return Ok(());
            }
            let (id, shared) = (holding.id(), holding.presence == Presence::Shared);
            holding.stop().await;
            let retiring = holding.clone();
            blocking(move || retiring.retire()).await?;
            let follower = match next {
                Next::Nothing => {
                    if shared {
                        let daemon = daemon.clone();
                        blocking(move || daemon.table.remove(id)).await??;
                    }
                    None
                }
                Next::Aside => None,
                Next::Again => {
                    if shared && !daemon.table.has_record(id)? {
                        daemon.enter(&holding).await?;
                    }
                    Some((holding.record(), Opening::Again))
                }
                Next::Elsewhere(record, opening) => {
                    let (worker, held, new) = (daemon.clone(), holding.clone(), record.clone());
                    blocking(move || worker.table.insert(&held.manifest, &new)).await??;
                    if holding.record().place == Place::Stored && record.place != Place::Stored {
                        let daemon = daemon.clone();
                        blocking(move || daemon.table.remove_data(id)).await??;
                    }
                    Some((record, opening))
                }
            };
            *ended = true;
            let follower = follower.map(|(record, opening)| {
                let manifest = holding.manifest.clone();
                holding::start(&daemon, manifest, record, (opening, None), holding.presence)
            });
            let mut datasets = daemon.datasets();
            match follower {
                Some(follower) => datasets.at_work.insert(id, follower),
                None => datasets.at_work.remove(&id),
            };
            drop(datasets);
            daemon.news.notify_one();
            Ok(())
        });
        work.await.map_err(|error| worker_ended(&error))?
    }

    /// Where others have this dataset, as far as the catalogue's tracker knows.
    pub async fn holders_of(&self, id: ManifestId) -> Vec<PeerAddr> {
        let Some(catalogue) = self.known_catalogue() else { return Vec::new() };
        let own = self.peer();
        let found = catalogue.holders(id).await.unwrap_or_default();
        let others = found.into_iter().filter(|holder| holder.peer != own);
        others
            .flat_map(|holder| {
                let peer = Some(holder.peer);
                holder.links.into_iter().map(move |addr| PeerAddr { peer, addr })
            })
            .collect()
    }

    /// The other nodes that have all of this dataset.
    pub async fn other_copies(&self, id: ManifestId) -> Result<Vec<PeerId>, Failure> {
        let own = self.peer();
        let found = self.catalogue().await?.holders(id).await?;
        let others = found.iter().filter(|holder| holder.peer != own && holder.complete);
        Ok(others.map(|holder| holder.peer).collect())
    }

    /// It holds something else than before.
    fn tell_news(&self) {
        self.news.notify_one();
    }

    /// Ends the daemon soon.
    pub fn end(&self) {
        self.stop.send_replace(true);
    }
}

/// What [`Daemon::hold`] finds.
enum Held {
    Already(Arc<Holding>),
    Begun(Arc<Holding>),
}

fn worker_ended(error: &tokio::task::JoinError) -> Failure {
    Failure::new(Kind::Other, format!("a worker ended unexpectedly: {error}"))
}

/// Runs a daemon until it is interrupted or told to end.
pub async fn run(args: DaemonArgs) -> Result<(), Failure> {
    let lock = places::DaemonLock::take()?;
    let store = match &args.store {
        Some(store) => std::path::absolute(store).map_err(|error| Failure::io("find", store, &error))?,
        None => places::default_store()?,
    };
    let store_lock = places::lock_store(&store)?;
    let socket = serve::Socket::bind(&places::socket_path()?)?;
    let (daemon, mut inputs, mut wanted, writers) = start(&args, store).await?;
    let mut interrupt = std::pin::pin!(interrupted());
    announce(&daemon, &args, writers);
    rest::take_up(&daemon).await?;
    let mut stopped = daemon.stop.subscribe();
    tokio::select! {
        () = &mut interrupt => {}
        _ = stopped.wait_for(|stop| *stop) => {}
        () = serve::serve(&daemon, &socket) => {}
        () = neighbours::attend(&daemon, &mut inputs) => {}
        () = neighbours::keep_announcing(&daemon) => {}
        () = looking::keep_looking(&daemon) => {}
        () = rest::keep_resting(&daemon) => {}
        () = rest::keep_opening(&daemon, &mut wanted) => {}
        () = rest::keep_looking(&daemon) => {}
    }
    drop(socket);
    shutdown(&daemon).await;
    drop((inputs, store_lock, lock));
    Ok(())
}

/// What comes in from the network.
pub(crate) struct Inputs {
    events: mpsc::Receiver<discovery::Event>,
    neighbourly: mpsc::Receiver<discovery::Neighbourly>,
    _tasks: tokio::task::JoinSet<()>,
    _tracker: Option<tokio::task::JoinHandle<()>>,
}

/// The daemon, what comes in, the links for what is at rest, and who may write where it keeps a catalogue.
type Started = (Arc<Daemon>, Inputs, mpsc::Receiver<Wanted>, Option<Writers>);

async fn start(args: &DaemonArgs, store: PathBuf) -> Result<Started, Failure> {
    let reporter = Reporter::new(args.json);
    let table = Table::open(&store)?;
    let state = NodeState::open(&store)?;
    let mut net = args.net.clone();
    let secret = net.secret.as_deref().map(Secret::read).transpose()?;
    let network_key = secret.as_ref().map(Secret::network_key);
    let tracker_state = store.join("tracker");
    let kept = keeping::Kept::read(&tracker_state)?;
    let writers = keeps_catalogue(args, kept, network_key.is_some(), &reporter);
    let mut token = token_file(args);
    let (tracker, own_tracker) = if let Some(writers) = writers {
        create_private_dir(&tracker_state)?;
        if writers == Writers::WithToken {
            let path = token::settle(args.token.as_deref(), &tracker_state)?;
            token = Some(TokenFile { path, named: true });
        }
        let open = writers != Writers::WithToken;
        let (task, addrs) = keeping::start_tracker(&net, &tracker_state, open, network_key).await?;
        net.tracker.extend(addrs.iter().cloned());
        (Some(task), addrs)
    } else {
        if !net.tracker.is_empty() {
            // It was told another catalogue, and does not go back to its own by itself.
            keeping::Kept::forget(&tracker_state)?;
        }
        (None, Vec::new())
    };
    let files = token.as_ref().map(|token| token.path.clone()).into_iter().chain(net.secret.clone());
    let secrets = files.chain(state.secrets()).collect();
    let access = catalogue::Access { token, network_key };
    let listening = Listening::start(&net, &state.identity()?, state.ports(), Trace::default())?;
    // Links that come before the table is read wait for that.
    let wanted = listening.endpoint().wanted();
    let (neighbourly, heard) = mpsc::channel(NEIGHBOURLY_QUEUE_LEN);
    let Standing { endpoint, discovery, mut events, limits, tasks } =
        listening.discover_all(neighbourly).await?;
    let control = neighbours::first_listening(&mut events).await;
    // On a full disk, what is there is served all the same.
    if let Err(failure) = state.remember(endpoint.port(), control.first().map_or(0, SocketAddr::port)) {
        reporter.warn(&format!("the next start will have other ports: {}", failure.message));
    }
    let origin = if own_tracker.is_empty() { Origin::Named } else { Origin::Kept };
    let known = Catalogue::start(&net.tracker, origin, endpoint.identity(), &access)?;
    let daemon = Arc::new(Daemon {
        name: args.name.clone().unwrap_or_else(places::host_name),
        store,
        quota: args.quota,
        table,
        endpoint,
        discovery,
        datasets: Mutex::default(),
        room: Arc::default(),
        copies: watch::Sender::default(),
        checks: tokio::sync::Semaphore::new(CHECKS_MAX),
        catalogue: watch::Sender::new(known.map(Arc::new)),
        looking: AtomicUsize::new(0),
        rates: Mutex::default(),
        access,
        limits,
        finding: Finding::default(),
        control: Mutex::new(control),
        own_tracker,
        secrets,
        news: tokio::sync::Notify::new(),
        stop: watch::Sender::new(false),
        reporter,
    });
    let inputs = Inputs { events, neighbourly: heard, _tasks: tasks, _tracker: tracker };
    Ok((daemon, inputs, wanted, writers))
}

/// Who may write into the catalogue that a node keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writers {
    /// Whoever has its token.
    WithToken,
    /// Whoever has the secret of the cluster.
    Members,
    /// Whoever reaches it.
    All,
}

/// The token of a daemon that keeps no catalogue.
fn token_file(args: &DaemonArgs) -> Option<TokenFile> {
    match &args.token {
        Some(path) => Some(TokenFile { path: path.clone(), named: true }),
        None => token::of_user().map(|path| TokenFile { path, named: false }),
    }
}

/// Whether this daemon keeps the catalogue, and who may write then: as it was told, or else as the one
/// before it that used this store.
fn keeps_catalogue(
    args: &DaemonArgs,
    kept: Option<keeping::Kept>,
    private: bool,
    reporter: &Reporter,
) -> Option<Writers> {
    let told = match (args.open, private && args.token.is_none()) {
        (true, _) => Writers::All,
        (false, true) => Writers::Members,
        (false, false) => Writers::WithToken,
    };
    if args.embed_tracker || !args.net.tracker.is_empty() {
        return args.embed_tracker.then_some(told);
    }
    match kept? {
        kept if kept.private != private => {
            reporter.warn(if kept.private {
                "this node keeps the catalogue of a private cluster, but not without its --secret"
            } else {
                "this node keeps a catalogue that is not private: with --secret, say --embed-tracker to go on with it"
            });
            None
        }
        kept if kept.open && told == Writers::WithToken => Some(Writers::All),
        kept if !kept.open && told == Writers::Members => Some(Writers::WithToken),
        _ => Some(told),
    }
}

fn announce(daemon: &Daemon, args: &DaemonArgs, writers: Option<Writers>) {
    let token = daemon.access.token.as_ref().filter(|_| writers == Some(Writers::WithToken));
    let listen: Vec<String> = daemon.endpoint.listen_addrs().iter().map(ToString::to_string).collect();
    daemon.reporter.event(&json!({
        "event": "ready",
        "node": daemon.name,
        "peer": display_peer(&daemon.peer()),
        "store": daemon.store.display().to_string(),
        "listen": listen,
        "tracker": daemon.own_tracker,
        "token_file": token.map(|token| token.path.display().to_string()),
    }));
    daemon.say(&format!("the daemon of {} is ready; its store is {}", daemon.name, daemon.store.display()));
    for tracker in &daemon.own_tracker {
        daemon.say(&format!("it keeps the catalogue; beyond this LAN, others name it: --tracker {tracker}"));
    }
    if let Some(token) = token {
        daemon.say(&token::advice(&token.path));
    } else if writers == Some(Writers::All) {
        daemon.say("whoever reaches this node may put and remove names");
    }
    if args.net.tracker.is_empty() && daemon.own_tracker.is_empty() {
        daemon.say("looking for a catalogue on the LAN; dft daemon --embed-tracker on one node keeps one");
    }
}

async fn shutdown(daemon: &Daemon) {
    daemon.say("ending");
    let stopped = async {
        if let Some(catalogue) = daemon.known_catalogue() {
            let _ = catalogue.leave().await;
        }
        let holdings = daemon.holdings();
        futures::future::join_all(holdings.iter().map(|holding| holding.stop())).await;
    };
    let _ = tokio::time::timeout(SHUTDOWN_MAX, stopped).await;
}
