//! A node at work on one manifest: its endpoint, its discovery and its driver, put together.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::{Manifest, PeerAddr};
use libp2p::Multiaddr;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::cli::{ByteRate, NetArgs, Switch};
use crate::driver::{self, DriverConfig, Handle, Snapshot, Update};
use crate::failure::{Failure, Kind};
use crate::net::discovery::{self, Discovery, DiscoveryError, Neighbourly, parse_tracker};
use crate::net::identity::{Identity, display_peer};
use crate::net::link::endpoint::EndpointConfig;
use crate::net::link::pack::Packing;
use crate::net::link::{Endpoint, EndpointError};
use crate::rate::RateLimits;
use crate::secret::Secret;
use crate::settings::Ports;
use crate::storage::Store;
use crate::trace::event::Means;
use crate::trace::{Event, Phase, Trace};

/// Events that are kept for a session that has not begun: one for each tracker, and a few.
const EARLY_MAX: usize = 32;

/// So long a fetch relies on the addresses in its manifest, before it asks trackers: a seeder that is there
/// tells of all others, and the handshakes of many nodes that start at once cost what their first pieces need.
const HINTS_FIRST: Duration = Duration::from_millis(300);
/// So much later it asks the LAN, where each node is asked by each …
const LAN_AFTER: Duration = Duration::from_millis(400);
/// … or so long after a link stands: with peers that tell of others, hardly anything is left to be found.
const LAN_AFTER_LINK: Duration = Duration::from_secs(5);

/// What happens in a session.
#[derive(Debug)]
pub enum Happening {
    /// The driver says so.
    Update(Update),
    /// Discovery says so.
    Discovery(discovery::Event),
}

/// The listening sockets of a node, before it is known what it serves.
pub struct Listening {
    endpoint: Arc<Endpoint>,
    tasks: JoinSet<()>,
    net: NetArgs,
    trackers: Vec<Multiaddr>,
    control_port: u16,
    network_key: Option<[u8; 32]>,
    limits: Arc<RateLimits>,
    trace: Trace,
}

impl Listening {
    /// Listens as was asked for; where no port was, on the remembered ones if they are free.
    pub fn start(
        net: &NetArgs,
        identity: &Identity,
        remembered: Option<Ports>,
        trace: Trace,
    ) -> Result<Self, Failure> {
        let trackers = net.tracker.iter().map(|text| parse_tracker(text)).collect::<Result<_, _>>();
        let trackers = trackers.map_err(no_tracker)?;
        let secret = net.secret.as_deref().map(Secret::read).transpose()?;
        let network_key = secret.as_ref().map(Secret::network_key);
        let start = |port| {
            Endpoint::start(EndpointConfig {
                identity: identity.clone(),
                listen: net.listen,
                port,
                encryption: net.encryption == Switch::On,
                site: net.site.clone(),
                secret: secret.clone(),
            })
        };
        let (asked, control_port) = match (net.port, remembered) {
            (Some(0), _) | (None, None) => (0, 0),
            (Some(port), _) => (port, port.checked_add(1).unwrap_or(0)),
            (None, Some(ports)) => (ports.link, ports.control),
        };
        let started = match start(asked) {
            // The remembered port is taken meanwhile: any other will do.
            Err(EndpointError::Bind { .. }) if net.port.is_none() && asked != 0 => start(0),
            started => started,
        };
        let (endpoint, tasks) = started.map_err(|error| match &error {
            EndpointError::Bind { source, .. } => {
                cannot_listen(error.to_string(), source.kind()).hint_else(PORTS_HINT)
            }
            _ => Failure::new(Kind::Other, error.to_string()),
        })?;
        trace.phase(Phase::Listening);
        let rate = |limit: Option<ByteRate>| limit.and_then(|ByteRate(rate)| rate);
        let limits = Arc::new(RateLimits::new(rate(net.max_upload), rate(net.max_download)));
        Ok(Self { endpoint, tasks, net: net.clone(), trackers, control_port, network_key, limits, trace })
    }

    /// The endpoint of links.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Starts to look for peers of `manifest`.
    pub async fn discover(
        self,
        manifest: &Manifest,
        complete: bool,
        tracker: Option<PathBuf>,
    ) -> Result<Discovering, Failure> {
        // A seeder's manifest names the tracker that it embeds.
        let hints = manifest.hints().trackers.iter().filter(|_| tracker.is_none());
        let hints = hints.filter_map(|text| parse_tracker(text).ok());
        let trackers = hints.filter(|hint| !self.trackers.contains(hint)).collect();
        let (discovery, events) = self.spawn_discovery(tracker, None).await?;
        let (manifest, no_hints) = (manifest.id(), manifest.hints().seeders.is_empty());
        let hints_first = !complete && !no_hints;
        let (quiet_for, lan_after) =
            if hints_first { (HINTS_FIRST, LAN_AFTER) } else { (Duration::ZERO, Duration::ZERO) };
        let asks_lan_in = Some(lan_after);
        discovery.add(discovery::Dataset { manifest, complete, trackers, asks_lan_in, quiet_for });
        self.trace.phase(Phase::Discovering);
        let Self { endpoint, tasks, limits, trace, .. } = self;
        let early = VecDeque::new();
        Ok(Discovering { endpoint, tasks, discovery, events, early, hints_first, limits, trace })
    }

    /// Starts to look for peers of datasets that come and go, and for other nodes.
    pub async fn discover_all(self, neighbours: mpsc::Sender<Neighbourly>) -> Result<Standing, Failure> {
        let (discovery, events) = self.spawn_discovery(None, Some(neighbours)).await?;
        Ok(Standing { endpoint: self.endpoint, discovery, events, limits: self.limits, tasks: self.tasks })
    }

    async fn spawn_discovery(
        &self,
        tracker: Option<PathBuf>,
        neighbours: Option<mpsc::Sender<Neighbourly>>,
    ) -> Result<(Discovery, mpsc::Receiver<discovery::Event>), Failure> {
        let config = |port| discovery::Config {
            keypair: self.endpoint.identity().keypair().clone(),
            listen: self.net.listen,
            port,
            mdns: !self.net.no_mdns,
            trackers: self.trackers.clone(),
            embedded_tracker: tracker.clone(),
            link_port: self.endpoint.port(),
            neighbours: neighbours.clone(),
            site: self.net.site.clone(),
            network_key: self.network_key,
        };
        let spawned = match discovery::spawn(config(self.control_port)).await {
            Err(DiscoveryError::Listen { error, .. })
                if error.kind() == ErrorKind::AddrInUse
                    && self.net.port.is_none()
                    && self.control_port != 0 =>
            {
                discovery::spawn(config(0)).await
            }
            spawned => spawned,
        };
        spawned.map_err(|error| match &error {
            DiscoveryError::Listen { error: source, .. } => {
                cannot_listen(error.to_string(), source.kind()).hint_else(PORTS_HINT)
            }
            _ => Failure::new(Kind::Other, error.to_string()).hint(PORTS_HINT),
        })
    }
}

/// What to try where a port is taken.
const PORTS_HINT: &str =
    "choose another --port, or leave it out: with --port N, both N and N+1 have to be free";

/// A failure to listen: an address that this machine does not have is wrong usage.
pub fn cannot_listen(message: String, kind: ErrorKind) -> Failure {
    match kind {
        ErrorKind::AddrNotAvailable => {
            Failure::new(Kind::Usage, message).hint("--listen takes an address of this machine: ip address")
        }
        ErrorKind::PermissionDenied => {
            Failure::new(Kind::Other, message).hint("ports below 1024 are for root: choose a higher one")
        }
        _ => Failure::new(Kind::Other, message),
    }
}

/// A tracker that was named as nobody can be.
pub fn no_tracker(error: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Usage, error.to_string())
        .hint("a tracker is HOST:PORT or what dft tracker printed, for example 10.0.0.5:4711")
}

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It gets what it lacks, and serves what it has.
    Fetcher,
    /// It has everything, and serves it, compressed or not.
    Seeder(Packing),
}

/// What a daemon stands on: one set of listeners for all of its datasets.
pub struct Standing {
    /// Opens links.
    pub endpoint: Arc<Endpoint>,
    /// Finds peers and nodes.
    pub discovery: Discovery,
    /// What it has to say.
    pub events: mpsc::Receiver<discovery::Event>,
    /// The rates of all of its links together.
    pub limits: Arc<RateLimits>,
    /// Take links until dropped.
    pub tasks: JoinSet<()>,
}

/// A node that looks for peers, and does not talk to them yet.
pub struct Discovering {
    endpoint: Arc<Endpoint>,
    tasks: JoinSet<()>,
    discovery: Discovery,
    events: mpsc::Receiver<discovery::Event>,
    /// What happened before the session began.
    early: VecDeque<discovery::Event>,
    /// The addresses in the manifest are tried before anybody is asked.
    hints_first: bool,
    limits: Arc<RateLimits>,
    trace: Trace,
}

impl Discovering {
    /// Waits until the addresses of this node's libp2p side are known.
    pub async fn listening(&mut self) -> Vec<Multiaddr> {
        const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(2);
        let first = async {
            while let Some(event) = self.events.recv().await {
                match event {
                    discovery::Event::Listening { addrs } => return addrs,
                    // Found peers are found again; what a person should know is said once.
                    event if self.early.len() < EARLY_MAX => self.early.push_back(event),
                    _ => {}
                }
            }
            Vec::new()
        };
        tokio::time::timeout(WAIT_MAX, first).await.unwrap_or_default()
    }

    /// Starts to serve, and as a fetcher to fetch.
    pub async fn drive(
        self,
        manifest: Arc<Manifest>,
        store: Arc<Store>,
        role: Role,
        peers: Vec<PeerAddr>,
    ) -> Session {
        let (download, packing) = match role {
            Role::Fetcher => (true, Packing::PassOn),
            Role::Seeder(packing) => (false, packing),
        };
        let seeders = manifest.hints().seeders.iter().copied();
        let known: Vec<PeerAddr> = if download { seeders.chain(peers).collect() } else { peers };
        let trace = self.trace;
        trace.record(|| Event::Node {
            peer: display_peer(&self.endpoint.identity().peer()),
            manifest: manifest.id().to_string(),
            name: manifest.info().name.to_string(),
            pieces: u32::try_from(manifest.geometry().piece_count()).unwrap_or(u32::MAX),
            have: u32::try_from(store.durable().count()).unwrap_or(u32::MAX),
            bytes: manifest.total_bytes(),
        });
        trace.phase(Phase::Driving);
        record_found(&trace, Means::Manifest, &known);
        let id = manifest.id();
        let (endpoint, limits) = (self.endpoint, self.limits);
        let driver = driver::start(DriverConfig {
            manifest,
            store,
            endpoint,
            download,
            limits,
            packing,
            trace: trace.clone(),
        });
        driver.found(known).await;
        let first_link = self.hints_first.then(|| driver.snapshots());
        Session {
            manifest: id,
            driver,
            first_link,
            discovery: self.discovery,
            events: self.events,
            early: self.early,
            discovering: true,
            trace,
            _tasks: self.tasks,
        }
    }
}

/// A node at work.
pub struct Session {
    manifest: ManifestId,
    driver: Handle,
    /// Until the first link stands, where the LAN is asked later then.
    first_link: Option<watch::Receiver<Snapshot>>,
    discovery: Discovery,
    events: mpsc::Receiver<discovery::Event>,
    early: VecDeque<discovery::Event>,
    discovering: bool,
    trace: Trace,
    _tasks: JoinSet<()>,
}

impl Session {
    /// The next thing that happens. Peers that are found are passed on by itself.
    pub async fn next(&mut self) -> Option<Happening> {
        loop {
            if let Some(event) = self.early.pop_front() {
                if let Some(happening) = self.discovered(event).await {
                    return Some(happening);
                }
                continue;
            }
            tokio::select! {
                update = self.driver.update() => {
                    return update.map(Happening::Update);
                }
                event = self.events.recv(), if self.discovering => match event {
                    Some(event) => {
                        if let Some(happening) = self.discovered(event).await {
                            return Some(happening);
                        }
                    }
                    None => self.discovering = false,
                },
                () = is_linked(&mut self.first_link) => {
                    self.first_link = None;
                    self.discovery.ask_lan_later(self.manifest, LAN_AFTER_LINK);
                }
            }
        }
    }

    async fn discovered(&self, event: discovery::Event) -> Option<Happening> {
        match event {
            discovery::Event::PeersFound { peers, source, .. } => {
                record_found(&self.trace, means_of(&source), &peers);
                self.driver.found(peers).await;
                None
            }
            event => Some(Happening::Discovery(event)),
        }
    }

    /// How things stand.
    pub fn snapshot(&self) -> Snapshot {
        self.driver.snapshot()
    }

    /// Every piece is here: says so.
    pub fn set_complete(&self) {
        self.discovery.set_complete(self.manifest);
    }

    /// Takes leave of everybody; takes about 1 s at most.
    pub async fn shutdown(self) -> Snapshot {
        self.trace.phase(Phase::Leaving);
        let (snapshot, ()) = tokio::join!(self.driver.shutdown(), self.discovery.shutdown());
        snapshot
    }
}

/// Resolves when a snapshot has a link; never without snapshots.
async fn is_linked(snapshots: &mut Option<watch::Receiver<Snapshot>>) {
    let linked = match snapshots {
        Some(snapshots) => snapshots.wait_for(|snapshot| snapshot.stats.links > 0).await.is_ok(),
        None => false,
    };
    if !linked {
        std::future::pending::<()>().await;
    }
}

fn record_found(trace: &Trace, means: Means, peers: &[PeerAddr]) {
    trace.record(|| Event::PeersFound { means, count: u32::try_from(peers.len()).unwrap_or(u32::MAX) });
}

const fn means_of(source: &discovery::Source) -> Means {
    match source {
        discovery::Source::Tracker(_) => Means::Tracker,
        discovery::Source::EmbeddedTracker => Means::EmbeddedTracker,
        discovery::Source::Mdns => Means::Mdns,
    }
}

/// Resolves when the user or the system wants this process to end: SIGINT or SIGTERM. Whoever calls
/// it hears of each signal from then on, polled or not; until then a signal just ends the process.
pub fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
