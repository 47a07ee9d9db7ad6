//! The loop of discovery: owns the swarm, turns its events into steps of the pure parts, and
//! carries their steps out.
//!
//! It never waits for one thing: each turn takes what is ready, then asks `trackers` and `lan`
//! what is due. Where to start reading: [`Task::run`], then `on_swarm` and `drive`; the two halves
//! are in `announce` (trackers) and `ask` (the LAN).

mod announce;
mod ask;
mod followed;
mod neighbours;
mod shelve;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dft_protocol::id::{ManifestId, PeerId as DftPeerId};
use dft_tracker::address::{peer_id_from_libp2p, socket_addr_of};
use dft_tracker::limits::{ConnectionLimits, Limits};
use dft_tracker::protocol::{Response, TrackerCodec};
use dft_tracker::registry::RECORD_TTL;
use dft_tracker::server::{
    self, Answers, listen_on_ipv6_too, public_addrs, remote_ip, request_response_config, tracker_behaviour,
};
use dft_tracker::service::Service;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::mdns;
use libp2p::request_response::{self, OutboundRequestId, ProtocolSupport, ResponseChannel};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{ConnectionError, ConnectionId, DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::datasets::{self, DatasetsCodec};
use super::multicast::Family;
use super::node::{self, NodeCodec, NodeResponse};
use super::shelf::Shelf;
use super::trackers::Change;
use super::{AskNode, Config, DATASETS_MAX, Dataset, DiscoveryError, Event, NodeError};
use followed::{Followed, Heard};

/// Connections of a process without an embedded tracker: its trackers, and the peers of the LAN
/// that it asks and that ask it.
const CONNECTIONS: ConnectionLimits =
    ConnectionLimits { total: 192, per_peer: 3, per_ip: 32, half_open: 64, half_open_per_ip: 16 };
/// Connections of a process with an embedded tracker: 512 peers may announce at a time.
const CONNECTIONS_AS_TRACKER: ConnectionLimits =
    ConnectionLimits { total: 640, per_peer: 3, per_ip: 256, half_open: 128, half_open_per_ip: 32 };
/// An unused connection is closed after this. Questions on the LAN are rare, announcements come
/// every 30 s: a new connection costs less than 512 idle ones.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that wait for a slow reader, beyond the channel: what was found is found again, so the
/// oldest is given up. Each holds at most 512 addresses, 50 KB.
const OUTBOX_LEN_MAX: usize = 64;
/// Requests to one peer at a time, announcements and questions each: a peer works on few streams
/// of one connection at once, and refuses more.
const REQUESTS_PER_PEER_MAX: usize = 2;
/// Trackers whose changes between up and down are told once, however many datasets are announced
/// to them: those of one dataset, eight times over.
const TRACKERS_TOLD_MAX: usize = 256;
/// How long to wait for further listen addresses before they are told.
const LISTEN_SETTLE: Duration = Duration::from_millis(20);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: Limits,
    tracker: request_response::Behaviour<TrackerCodec>,
    datasets: request_response::Behaviour<DatasetsCodec>,
    nodes: request_response::Behaviour<NodeCodec>,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// The swarm of `config`; it listens nowhere yet.
pub(super) fn new_swarm(config: &Config) -> Result<Swarm<Behaviour>, DiscoveryError> {
    let (limits, support) = match config.embedded_tracker {
        None => (CONNECTIONS, ProtocolSupport::Outbound),
        Some(_) => (CONNECTIONS_AS_TRACKER, ProtocolSupport::Full),
    };
    let datasets = [(datasets::PROTOCOL, ProtocolSupport::Full)];
    // Only a daemon says that it can be asked.
    let neighbourly = match config.neighbours {
        None => ProtocolSupport::Outbound,
        Some(_) => ProtocolSupport::Full,
    };
    let nodes = [(node::PROTOCOL, neighbourly)];
    let behaviour = Behaviour {
        nodes: request_response::Behaviour::new(nodes, request_response_config()),
        limits: Limits::new(limits),
        tracker: tracker_behaviour(support),
        datasets: request_response::Behaviour::new(datasets, request_response_config()),
        mdns: Toggle::from(None),
    };
    server::new_swarm(config.keypair.clone(), behaviour, IDLE_TIMEOUT, config.network_key)
        .map_err(|error| DiscoveryError::Certificate(error.to_string()))
}

/// What the handle orders.
#[derive(Debug)]
pub(super) enum Order {
    Add(Dataset),
    Shelve(Vec<ManifestId>),
    Remove(ManifestId),
    SetComplete { manifest: ManifestId, complete: bool },
    AskLanLater { manifest: ManifestId, pause: Duration },
    AddTracker(Multiaddr),
    AskNode(AskNode),
}

/// What the handle tells the loop.
pub(super) struct Inputs {
    // Filled by this process alone, one per dataset and change of it.
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) warnings: mpsc::Receiver<String>,
    pub(super) leaving: oneshot::Receiver<()>,
}

/// The listen addresses, for the handle to read.
pub(super) type Listening = Arc<Mutex<Vec<Multiaddr>>>;

type Lookup = BoxFuture<'static, (ManifestId, usize, io::Result<Vec<SocketAddr>>)>;

/// The state of the loop.
pub(super) struct Task {
    config: Config,
    own: DftPeerId,
    swarm: Swarm<Behaviour>,
    // Ordered, so that no dataset's turn comes by chance.
    datasets: BTreeMap<ManifestId, Followed>,
    // What is here at rest.
    shelf: Shelf,
    // Trackers of which it was told that they have no room; as many as there are trackers.
    told_full: HashSet<Multiaddr>,
    // Whom mDNS knows, for datasets that are still to come.
    heard: Heard,
    embedded: Option<Service>,
    embedded_answers: FuturesUnordered<EmbeddedAnswer>,
    answers: Answers,
    lookups: FuturesUnordered<Lookup>,
    announcements: Announcements,
    questions: Questions,
    // Questions to other nodes, one for each that somebody in this process waits for.
    node_questions: HashMap<OutboundRequestId, oneshot::Sender<Result<NodeResponse, NodeError>>>,
    node_answers: FuturesUnordered<NodeAnswer>,
    // What was told last of each tracker.
    told: HashMap<Multiaddr, bool>,
    // Where each connection leads; bounded by the connection limits.
    remotes: HashMap<ConnectionId, IpAddr>,
    // The dials whose peer is to be asked; bounded by how many are asked at a time.
    asking: HashMap<ConnectionId, PeerId>,
    mdns: Mdns,
    warned_of_mdns: bool,
    // Set while listen addresses changed and were not told yet.
    tell_listening: Option<Instant>,
    outbox: VecDeque<Event>,
    listening: Listening,
}

/// Announcements on their way, and those that wait for them: at most one per dataset and tracker.
#[derive(Default)]
struct Announcements {
    // By request: whom it went to, for which dataset.
    under_way: HashMap<OutboundRequestId, (PeerId, ManifestId)>,
    // By peer: which dataset's tracker waits.
    waiting: HashMap<PeerId, VecDeque<(ManifestId, usize)>>,
}

/// Questions on their way, and those that wait for them: at most one per dataset and peer.
#[derive(Default)]
struct Questions {
    under_way: HashMap<OutboundRequestId, (PeerId, Vec<ManifestId>)>,
    waiting: HashMap<PeerId, VecDeque<ManifestId>>,
}

type NodeAnswer = BoxFuture<'static, (ResponseChannel<NodeResponse>, Option<NodeResponse>)>;
type EmbeddedAnswer = BoxFuture<'static, (ManifestId, Response)>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mdns {
    Off,
    /// To be started when the swarm listens on an interface.
    Waiting,
    /// Since then.
    On(Family, Instant),
    /// It knew too many nodes; to be started again then.
    Flooded(Family, Instant),
}

impl Task {
    pub(super) fn new(
        config: Config,
        swarm: Swarm<Behaviour>,
        service: Option<Service>,
        listening: Listening,
    ) -> Self {
        let own =
            peer_id_from_libp2p(swarm.local_peer_id()).expect("the identity of an Ed25519 key has 38 bytes");
        let mdns = if config.mdns && !config.listen.is_loopback() { Mdns::Waiting } else { Mdns::Off };
        Self {
            own,
            datasets: BTreeMap::new(),
            shelf: Shelf::default(),
            told_full: HashSet::new(),
            heard: Heard::default(),
            embedded: service,
            embedded_answers: FuturesUnordered::new(),
            answers: Answers::new(),
            lookups: FuturesUnordered::new(),
            announcements: Announcements::default(),
            questions: Questions::default(),
            node_questions: HashMap::new(),
            node_answers: FuturesUnordered::new(),
            told: HashMap::new(),
            remotes: HashMap::new(),
            asking: HashMap::new(),
            mdns,
            warned_of_mdns: false,
            tell_listening: None,
            outbox: VecDeque::new(),
            listening,
            config,
            swarm,
        }
    }

    /// Runs until the handle is gone or takes leave.
    pub(super) async fn run(mut self, mut inputs: Inputs, events: mpsc::Sender<Event>) {
        loop {
            self.drive(Instant::now());
            let deadline = self.poll_timeout();
            tokio::select! {
                left = &mut inputs.leaving => {
                    if left.is_ok() {
                        self.leave().await;
                    }
                    return;
                }
                Some(order) = inputs.orders.recv() => self.on_order(order),
                Some(warning) = inputs.warnings.recv() => self.tell(Event::Warning(warning)),
                event = self.swarm.select_next_some() => self.on_swarm(event),
                Some((channel, response)) = self.answers.next() => {
                    // The asker may have gone meanwhile.
                    let _ = self.swarm.behaviour_mut().tracker.send_response(channel, response);
                }
                Some((channel, answer)) = self.node_answers.next() => self.answer_node(channel, answer),
                Some((manifest, response)) = self.embedded_answers.next() => {
                    self.on_embedded(manifest, response);
                }
                Some((manifest, tracker, found)) = self.lookups.next() => {
                    self.on_lookup(manifest, tracker, found);
                }
                Ok(permit) = events.reserve(), if !self.outbox.is_empty() => {
                    if let Some(event) = self.outbox.pop_front() {
                        permit.send(event);
                    }
                }
                () = sleep_until(deadline) => {}
            }
        }
    }

    /// Carries out whatever is due.
    fn drive(&mut self, now: Instant) {
        if self.tell_listening.is_some_and(|due| due <= now) {
            self.tell_listening = None;
            self.start_mdns(Family::V6, now);
            if self.mdns == Mdns::Waiting && !std::mem::replace(&mut self.warned_of_mdns, true) {
                self.tell(Event::Warning("no network interface: peers on the LAN cannot be found".into()));
            }
            let addrs = public_addrs(&self.swarm);
            *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = addrs.clone();
            self.tell(Event::Listening { addrs });
            // What was announced so far lacks these addresses.
            self.datasets.values_mut().for_each(|followed| followed.announce_now(now));
        }
        if let Mdns::Flooded(family, until) = self.mdns
            && until <= now
        {
            self.restart_mdns(family, now);
        }
        self.datasets.retain(|_, followed| !followed.is_over(now));
        let manifests: Vec<ManifestId> = self.datasets.keys().copied().collect();
        for manifest in manifests {
            self.drive_dataset(manifest, now);
        }
    }

    fn drive_dataset(&mut self, manifest: ManifestId, now: Instant) {
        self.ask_embedded(manifest, now);
        while let Some(step) =
            self.datasets.get_mut(&manifest).and_then(|followed| followed.trackers.poll_step(now))
        {
            self.carry_out(manifest, step, now);
        }
        while let Some((peer, addrs)) =
            self.datasets.get_mut(&manifest).and_then(|followed| followed.next_to_ask(now))
        {
            self.ask_on_lan(manifest, peer, addrs, now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let flooded = match self.mdns {
            Mdns::Flooded(_, until) => Some(until),
            _ => None,
        };
        let embedded = self.embedded.is_some();
        let datasets = self.datasets.values().filter_map(|followed| followed.poll_timeout(embedded));
        [flooded, self.tell_listening].into_iter().flatten().chain(datasets).min()
    }

    fn on_order(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Add(dataset) => self.add(dataset, now),
            Order::Shelve(manifests) => self.shelve(manifests, now),
            Order::Remove(manifest) => self.remove(manifest, now),
            Order::AddTracker(addr) => self.add_tracker(addr, now),
            Order::AskNode(ask) => self.ask_node(ask),
            Order::AskLanLater { manifest, pause } => {
                if let Some(followed) = self.datasets.get_mut(&manifest) {
                    followed.ask_lan_later(now + pause, now);
                }
            }
            Order::SetComplete { manifest, complete: false } if self.unshelve(manifest, now) => {
                let (trackers, own) = (&self.config.trackers, *self.swarm.local_peer_id());
                let partial = shelve::new_followed(manifest, false, trackers, own, now);
                self.datasets.insert(manifest, partial);
            }
            Order::SetComplete { manifest, complete } => {
                let followed = self.datasets.get_mut(&manifest);
                if let Some(followed) = followed.filter(|followed| followed.is_here()) {
                    followed.complete = complete;
                    followed.announce_now(now);
                }
            }
        }
    }

    /// Announces every dataset to one more tracker.
    fn add_tracker(&mut self, addr: Multiaddr, now: Instant) {
        let own = *self.swarm.local_peer_id();
        self.datasets.values_mut().for_each(|followed| followed.trackers.add(addr.clone(), own, now));
        if !self.config.trackers.contains(&addr) {
            self.config.trackers.push(addr);
        }
    }

    fn add(&mut self, dataset: Dataset, now: Instant) {
        self.unshelve(dataset.manifest, now);
        let others = self.datasets.iter().filter(|(manifest, _)| **manifest != dataset.manifest);
        let looked_for =
            others.filter(|(manifest, followed)| followed.is_here() && !self.shelf.contains(manifest));
        if looked_for.count() >= DATASETS_MAX {
            let text = format!("more than {DATASETS_MAX} datasets: peers of the last one are not looked for");
            return self.tell(Event::Warning(text));
        }
        let (manifest, trackers) = (dataset.manifest, &self.config.trackers);
        let mut followed = Followed::new(dataset, trackers, *self.swarm.local_peer_id(), now);
        if self.mdns != Mdns::Off {
            self.heard.tell(&mut followed, now);
        }
        self.datasets.insert(manifest, followed);
    }

    /// A dataset is not here any more, or not as an earlier process of this node announced it.
    fn remove(&mut self, manifest: ManifestId, now: Instant) {
        self.leave_embedded(manifest);
        self.unshelve(manifest, now);
        let leaving = self.datasets.values().filter(|followed| !followed.is_here()).count();
        // What the rest announced expires.
        if leaving >= DATASETS_MAX {
            self.datasets.remove(&manifest);
            return;
        }
        let (trackers, own) = (&self.config.trackers, *self.swarm.local_peer_id());
        let new = || shelve::new_followed(manifest, false, trackers, own, now);
        let followed = self.datasets.entry(manifest).or_insert_with(new);
        followed.leave(now, now + RECORD_TTL);
    }

    fn tell(&mut self, event: Event) {
        if self.outbox.len() >= OUTBOX_LEN_MAX {
            let found = self.outbox.iter().position(|event| matches!(event, Event::PeersFound { .. }));
            self.outbox.remove(found.unwrap_or(0));
        }
        self.outbox.push_back(event);
    }

    /// Tells of a change once, though every dataset that is announced there sees it.
    fn tell_change(&mut self, change: Option<Change>) {
        let (addr, up) = match &change {
            Some(Change::Up(addr)) => (addr.clone(), true),
            Some(Change::Down { addr, .. }) => (addr.clone(), false),
            None => return,
        };
        if self.told.get(&addr) == Some(&up) {
            return;
        }
        if self.told.len() < TRACKERS_TOLD_MAX || self.told.contains_key(&addr) {
            self.told.insert(addr, up);
        }
        match change {
            Some(Change::Up(addr)) => self.tell(Event::TrackerUp { addr }),
            Some(Change::Down { addr, reason }) => self.tell(Event::TrackerDown { addr, reason }),
            None => {}
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let now = Instant::now();
        match event {
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(&address, now),
            SwarmEvent::ExpiredListenAddr { .. } => {
                self.tell_listening.get_or_insert(now + LISTEN_SETTLE);
            }
            SwarmEvent::ListenerClosed { reason: Err(error), .. }
            | SwarmEvent::ListenerError { error, .. } => {
                self.tell(Event::Warning(format!("discovery cannot be reached any more: {error}")));
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                if let Some(ip) = remote_ip(&endpoint) {
                    self.remotes.insert(connection_id, ip);
                }
                for followed in self.datasets.values_mut() {
                    if let Some(tracker) = followed.trackers.dialing(connection_id) {
                        followed.trackers.connected(tracker, peer_id, now);
                    }
                }
                if self.asking.remove(&connection_id).is_some() {
                    self.send_questions(&peer_id);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                self.remotes.remove(&connection_id);
                if num_established == 0 && matches!(cause, Some(ConnectionError::IO(_))) {
                    self.datasets.values_mut().for_each(|followed| {
                        followed.trackers.disconnected(peer_id, now);
                    });
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.on_dial_failed(connection_id, &error, now);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Tracker(event)) => self.on_tracker(event, now),
            SwarmEvent::Behaviour(BehaviourEvent::Datasets(event)) => self.on_datasets(event, now),
            SwarmEvent::Behaviour(BehaviourEvent::Nodes(event)) => self.on_nodes(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(event)) => self.on_mdns(event, now),
            _ => {}
        }
    }

    fn on_listening(&mut self, addr: &Multiaddr, now: Instant) {
        self.tell_listening.get_or_insert(now + LISTEN_SETTLE);
        let Some(addr) = socket_addr_of(addr) else { return };
        if addr.is_ipv4() && !addr.ip().is_loopback() {
            self.start_mdns(Family::V4, now);
        }
        let both = self.config.listen.is_unspecified() && self.config.port == 0;
        if both && addr.is_ipv4() {
            self.config.port = addr.port();
            listen_on_ipv6_too(&mut self.swarm, addr.port());
        }
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, error: &DialError, now: Instant) {
        let own = matches!(error, DialError::LocalPeerId { .. });
        let mut changes = Vec::new();
        for followed in self.datasets.values_mut() {
            match followed.trackers.dialing(connection) {
                Some(tracker) if own => followed.trackers.is_own(tracker),
                Some(tracker) => changes.push(followed.trackers.failed(tracker, reason_of(error), now)),
                None => {}
            }
        }
        changes.into_iter().for_each(|change| self.tell_change(change));
        if let Some(peer) = self.asking.remove(&connection) {
            // It may have connected to us meanwhile.
            if self.swarm.is_connected(&peer) {
                self.send_questions(&peer);
            } else {
                let waiting = self.questions.waiting.remove(&peer).unwrap_or_default();
                self.for_each_of(waiting, |followed| followed.lan.failed(&peer, now));
            }
        }
    }

    /// Does something to those of `manifests` that are still looked for.
    fn for_each_of(
        &mut self,
        manifests: impl IntoIterator<Item = ManifestId>,
        mut act: impl FnMut(&mut Followed),
    ) {
        for manifest in manifests {
            if let Some(followed) = self.datasets.get_mut(&manifest) {
                act(followed);
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Whether other hosts can use this address of an interface.
fn is_global(ip: &IpAddr) -> bool {
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    !ip.is_loopback() && !link_local
}

/// The one line of a failed dial that helps.
fn reason_of(error: &DialError) -> String {
    match error {
        DialError::Transport(errors) => match errors.first() {
            Some((_, error)) => innermost(error),
            None => "no address could be dialled".into(),
        },
        DialError::WrongPeerId { obtained, .. } => format!("another identity answers there: {obtained}"),
        DialError::Denied { .. } => "too many connections".into(),
        error => error.to_string(),
    }
}

/// The last cause in the chain: libp2p wraps «connection refused» many times.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
