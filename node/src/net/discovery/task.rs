//! The loop of discovery: owns the swarm, turns its events into steps of the pure parts, and
//! carries their steps out.
//!
//! It never waits for one thing: each turn takes what is ready, then asks `trackers` and `lan`
//! what is due. Where to start reading: [`Task::run`], then `on_swarm` and `drive`; the two halves
//! are in `announce` (trackers) and `ask` (the LAN).

mod announce;
mod ask;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dft_protocol::id::PeerId as DftPeerId;
use dft_tracker::address::{peer_id_from_libp2p, socket_addr_of};
use dft_tracker::limits::{ConnectionLimits, Limits};
use dft_tracker::protocol::{Response, TrackerCodec};
use dft_tracker::server::{
    self, Answers, listen_on_ipv6_too, public_addrs, remote_ip, request_response_config, tracker_behaviour,
};
use dft_tracker::service::Service;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::mdns;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{ConnectionError, ConnectionId, DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::datasets::{self, DatasetsCodec};
use super::lan::Lan;
use super::multicast::Family;
use super::trackers::{Change, Trackers};
use super::{Config, DiscoveryError, Event};

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
/// How long to wait for further listen addresses before they are told.
const LISTEN_SETTLE: Duration = Duration::from_millis(20);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: Limits,
    tracker: request_response::Behaviour<TrackerCodec>,
    datasets: request_response::Behaviour<DatasetsCodec>,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// The swarm of `config`; it listens nowhere yet.
pub(super) fn new_swarm(config: &Config) -> Result<Swarm<Behaviour>, DiscoveryError> {
    let (limits, support) = match config.embedded_tracker {
        None => (CONNECTIONS, ProtocolSupport::Outbound),
        Some(_) => (CONNECTIONS_AS_TRACKER, ProtocolSupport::Full),
    };
    let datasets = [(datasets::PROTOCOL, ProtocolSupport::Full)];
    let behaviour = Behaviour {
        limits: Limits::new(limits),
        tracker: tracker_behaviour(support),
        datasets: request_response::Behaviour::new(datasets, request_response_config()),
        mdns: Toggle::from(None),
    };
    server::new_swarm(config.keypair.clone(), behaviour, IDLE_TIMEOUT, config.network_key)
        .map_err(|error| DiscoveryError::Certificate(error.to_string()))
}

/// What the handle tells the loop.
pub(super) struct Inputs {
    pub(super) complete: watch::Receiver<bool>,
    pub(super) warnings: mpsc::Receiver<String>,
    pub(super) leaving: oneshot::Receiver<()>,
}

/// The listen addresses, for the handle to read.
pub(super) type Listening = Arc<Mutex<Vec<Multiaddr>>>;

type Lookup = BoxFuture<'static, (usize, io::Result<Vec<SocketAddr>>)>;

/// The state of the loop.
pub(super) struct Task {
    config: Config,
    own: DftPeerId,
    swarm: Swarm<Behaviour>,
    trackers: Trackers,
    lan: Lan,
    embedded: Option<Embedded>,
    answers: Answers,
    lookups: FuturesUnordered<Lookup>,
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

/// The tracker in this process, and when to ask it.
struct Embedded {
    service: Service,
    due: Instant,
    answers: usize,
    asked: Option<BoxFuture<'static, Response>>,
    // Something about us changed since it was asked.
    news: bool,
}

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
        let now = Instant::now();
        let local = *swarm.local_peer_id();
        let own = peer_id_from_libp2p(&local).expect("the identity of an Ed25519 key has 38 bytes");
        let mdns = if config.mdns && !config.listen.is_loopback() { Mdns::Waiting } else { Mdns::Off };
        Self {
            own,
            trackers: Trackers::new(config.trackers.clone(), local, rand::random(), now),
            lan: Lan::new(now),
            embedded: service.map(|service| Embedded {
                service,
                due: now,
                answers: 0,
                asked: None,
                news: false,
            }),
            answers: Answers::new(),
            lookups: FuturesUnordered::new(),
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
                Ok(()) = inputs.complete.changed() => {
                    self.config.complete = *inputs.complete.borrow_and_update();
                    self.announce_now();
                }
                Some(warning) = inputs.warnings.recv() => self.tell(Event::Warning(warning)),
                event = self.swarm.select_next_some() => self.on_swarm(event),
                Some((channel, response)) = self.answers.next() => {
                    // The asker may have gone meanwhile.
                    let _ = self.swarm.behaviour_mut().tracker.send_response(channel, response);
                }
                response = embedded_answer(&mut self.embedded) => self.on_embedded(response),
                Some((tracker, found)) = self.lookups.next() => self.on_lookup(tracker, found),
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
            self.announce_now();
        }
        if let Mdns::Flooded(family, until) = self.mdns
            && until <= now
        {
            self.restart_mdns(family, now);
        }
        self.ask_embedded(now);
        while let Some(step) = self.trackers.poll_step(now) {
            self.carry_out(step, now);
        }
        while let Some((peer, addrs)) = self.lan.next_to_ask(now) {
            self.ask_on_lan(peer, addrs, now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let embedded = self.embedded.as_ref().filter(|embedded| embedded.asked.is_none());
        let flooded = match self.mdns {
            Mdns::Flooded(_, until) => Some(until),
            _ => None,
        };
        [
            flooded,
            self.tell_listening,
            embedded.map(|embedded| embedded.due),
            self.trackers.poll_timeout(),
            self.lan.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn tell(&mut self, event: Event) {
        if self.outbox.len() >= OUTBOX_LEN_MAX {
            let found = self.outbox.iter().position(|event| matches!(event, Event::PeersFound { .. }));
            self.outbox.remove(found.unwrap_or(0));
        }
        self.outbox.push_back(event);
    }

    fn tell_change(&mut self, change: Option<Change>) {
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
                if let Some(tracker) = self.trackers.dialing(connection_id) {
                    self.trackers.connected(tracker, peer_id, now);
                }
                if self.asking.remove(&connection_id).is_some() {
                    self.send_question(&peer_id);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                self.remotes.remove(&connection_id);
                if num_established == 0 && matches!(cause, Some(ConnectionError::IO(_))) {
                    self.trackers.disconnected(peer_id, now);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.on_dial_failed(connection_id, &error, now);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Tracker(event)) => self.on_tracker(event, now),
            SwarmEvent::Behaviour(BehaviourEvent::Datasets(event)) => self.on_datasets(event, now),
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
        if let Some(tracker) = self.trackers.dialing(connection) {
            if matches!(error, DialError::LocalPeerId { .. }) {
                self.trackers.is_own(tracker);
            } else {
                let change = self.trackers.failed(tracker, reason_of(error), now);
                self.tell_change(change);
            }
        }
        if let Some(peer) = self.asking.remove(&connection) {
            // It may have connected to us meanwhile.
            if self.swarm.is_connected(&peer) {
                self.send_question(&peer);
            } else {
                self.lan.failed(&peer, now);
            }
        }
    }
}

async fn embedded_answer(embedded: &mut Option<Embedded>) -> Response {
    match embedded.as_mut().and_then(|embedded| embedded.asked.as_mut()) {
        Some(answer) => answer.await,
        None => std::future::pending().await,
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
