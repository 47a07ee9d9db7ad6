//! The loop of discovery: owns the swarm, turns its events into steps of the pure parts, and
//! carries their steps out.
//!
//! It never waits for one thing: each turn takes what is ready, then asks `trackers` and `lan`
//! what is due. Where to start reading: [`Task::run`], then `on_swarm` and `drive`.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dft_protocol::id::PeerId as DftPeerId;
use dft_protocol::manifest::PeerAddr;
use dft_tracker::address::{ip_of, peer_id_from_libp2p, socket_addr_of};
use dft_tracker::limits::{ConnectionLimits, Limits};
use dft_tracker::protocol::{Announce, PEERS_PER_RESPONSE_MAX, Request, Response, TrackerCodec};
use dft_tracker::registry::{ADDRS_PER_RECORD_MAX, FoundPeer, LinkAddrs};
use dft_tracker::server::{
    self, Answers, listen_on_ipv6_too, public_addrs, remote_ip, request_response_config, tracker_behaviour,
};
use dft_tracker::service::Service;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::mdns;
use libp2p::request_response::{self, Message, ProtocolSupport};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionError, ConnectionId, DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::datasets::{self, Answer, DatasetsCodec, Question, Served};
use super::lan::Lan;
use super::multicast::{self, Family};
use super::trackers::{Change, Step, Trackers};
use super::{Config, DiscoveryError, Event, Source};

/// Connections of a process without an embedded tracker: its trackers, and the peers of the LAN
/// that it asks and that ask it.
const CONNECTIONS: ConnectionLimits = ConnectionLimits { total: 192, per_peer: 3, per_ip: 32, half_open: 64 };
/// Connections of a process with an embedded tracker: 512 peers may announce at a time.
const CONNECTIONS_AS_TRACKER: ConnectionLimits =
    ConnectionLimits { total: 640, per_peer: 3, per_ip: 256, half_open: 128 };
/// An unused connection is closed after this. Questions on the LAN are rare, announcements come
/// every 30 s: a new connection costs less than 512 idle ones.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that wait for a slow reader, beyond the channel: what was found is found again, so the
/// oldest is given up.
const OUTBOX_LEN_MAX: usize = 256;
/// How long to wait for further listen addresses before they are told.
const LISTEN_SETTLE: Duration = Duration::from_millis(20);
/// How long a name lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// When the embedded tracker is asked again, beyond its first answers.
const EMBEDDED_PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(30)];

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
    server::new_swarm(config.keypair.clone(), behaviour, IDLE_TIMEOUT)
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
    mdns: Mdns,
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
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mdns {
    Off,
    /// To be started when the swarm listens on an interface.
    Waiting,
    On(Family),
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
            embedded: service.map(|service| Embedded { service, due: now, answers: 0, asked: None }),
            answers: Answers::new(),
            lookups: FuturesUnordered::new(),
            remotes: HashMap::new(),
            mdns,
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
            self.start_mdns(Family::V6);
            let addrs = public_addrs(&self.swarm);
            *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = addrs.clone();
            self.tell(Event::Listening { addrs });
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
        [
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
                if endpoint.is_dialer() && self.lan.is_asked(&peer_id) {
                    self.send_question(&peer_id);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                self.remotes.remove(&connection_id);
                if num_established == 0 && matches!(cause, Some(ConnectionError::IO(_))) {
                    self.trackers.disconnected(peer_id, now);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error, now);
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
            self.start_mdns(Family::V4);
        }
        let both = self.config.listen.is_unspecified() && self.config.port == 0;
        if both && addr.is_ipv4() {
            self.config.port = addr.port();
            listen_on_ipv6_too(&mut self.swarm, addr.port());
        }
    }

    fn on_dial_failed(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        error: &DialError,
        now: Instant,
    ) {
        if let Some(tracker) = self.trackers.dialing(connection) {
            if matches!(error, DialError::LocalPeerId { .. }) {
                self.trackers.is_own(tracker);
            } else {
                let change = self.trackers.failed(tracker, reason_of(error), now);
                self.tell_change(change);
            }
        } else if let Some(peer) = peer
            && self.lan.is_asked(&peer)
            && !self.swarm.is_connected(&peer)
        {
            self.lan.failed(&peer, now);
        }
    }
}

// Trackers.
impl Task {
    fn carry_out(&mut self, step: Step, now: Instant) {
        match step {
            Step::Resolve { tracker, host, port } => self.lookups.push(Box::pin(async move {
                let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port)));
                let found = match lookup.await {
                    Ok(found) => found.map(Iterator::collect),
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                };
                (tracker, found)
            })),
            Step::Dial { tracker, identity, addr } => {
                let opts = match identity {
                    Some(identity) => DialOpts::peer_id(identity)
                        .addresses(vec![addr])
                        .condition(PeerCondition::Always)
                        .allocate_new_port()
                        .build(),
                    None => DialOpts::unknown_peer_id().address(addr).allocate_new_port().build(),
                };
                self.trackers.dial_started(tracker, opts.connection_id());
                if let Err(error) = self.swarm.dial(opts) {
                    let change = self.trackers.failed(tracker, reason_of(&error), now);
                    self.tell_change(change);
                }
            }
            Step::Announce { tracker, peer } => {
                if self.swarm.is_connected(&peer) {
                    let announce = self.announcement();
                    let request =
                        self.swarm.behaviour_mut().tracker.send_request(&peer, Request::Announce(announce));
                    self.trackers.announced(tracker, request);
                } else {
                    self.trackers.not_connected(tracker);
                }
            }
        }
    }

    fn announcement(&self) -> Announce {
        Announce {
            manifest: self.config.manifest,
            link_port: self.config.link_port,
            addrs: self.link_addrs(),
            complete: self.config.complete,
            site: self.config.site.clone(),
            want: PEERS_PER_RESPONSE_MAX,
        }
    }

    /// The addresses of this host's interfaces, with the link port, IPv4 first.
    fn link_addrs(&self) -> LinkAddrs {
        let mut ips: Vec<IpAddr> = self.swarm.listeners().filter_map(ip_of).filter(is_global).collect();
        ips.sort_unstable();
        ips.dedup();
        ips.truncate(ADDRS_PER_RECORD_MAX);
        let port = self.config.link_port;
        LinkAddrs::new(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()).unwrap_or_default()
    }

    fn announce_now(&mut self) {
        let now = Instant::now();
        self.trackers.announce_now(now);
        if let Some(embedded) = &mut self.embedded {
            embedded.due = now;
        }
    }

    fn on_lookup(&mut self, tracker: usize, found: io::Result<Vec<SocketAddr>>) {
        let now = Instant::now();
        let change = match found {
            Ok(addrs) => self.trackers.resolved(tracker, &addrs, now),
            Err(error) => {
                self.trackers.failed(tracker, format!("its name cannot be looked up: {error}"), now)
            }
        };
        self.tell_change(change);
    }

    fn on_tracker(&mut self, event: request_response::Event<Request, Response>, now: Instant) {
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                Message::Request { request, channel, .. } => {
                    if let (Some(embedded), Some(ip)) = (&self.embedded, self.remotes.get(&connection_id)) {
                        self.answers.push(&embedded.service, &peer, *ip, request, channel);
                    }
                }
                Message::Response { request_id, response } => {
                    if let Some(tracker) = self.trackers.asked(request_id) {
                        self.on_tracker_response(tracker, response, now);
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                if let Some(tracker) = self.trackers.asked(request_id) {
                    let change = self.trackers.failed(tracker, error.to_string(), now);
                    self.tell_change(change);
                }
            }
            _ => {}
        }
    }

    fn on_tracker_response(&mut self, tracker: usize, response: Response, now: Instant) {
        match response {
            Response::Peers { interval_s, peers } => {
                let source = Source::Tracker(self.trackers.addr(tracker).clone());
                let change = self.trackers.answered(tracker, interval_s, now);
                self.tell_change(change);
                self.tell_found(&peers, source);
            }
            Response::Refused(reason) => {
                let change = self.trackers.failed(tracker, format!("it refuses: {}", reason.as_str()), now);
                self.tell_change(change);
            }
            Response::Done => {
                let change =
                    self.trackers.failed(tracker, "it gave an answer that was not asked".into(), now);
                self.tell_change(change);
            }
        }
    }

    fn tell_found(&mut self, found: &[FoundPeer], source: Source) {
        let own = self.own;
        let addrs = |found: &FoundPeer| {
            let peer = found.peer;
            found.addrs.as_slice().to_vec().into_iter().map(move |addr| PeerAddr { peer: Some(peer), addr })
        };
        let peers: Vec<PeerAddr> = found.iter().filter(|found| found.peer != own).flat_map(addrs).collect();
        if !peers.is_empty() {
            self.tell(Event::PeersFound { peers, source });
        }
    }

    fn ask_embedded(&mut self, now: Instant) {
        let announce = self.announcement();
        let observed = self.own_ip();
        let Some(embedded) = &mut self.embedded else { return };
        if embedded.asked.is_none() && embedded.due <= now {
            let answer = embedded.service.ask(self.own, observed, Request::Announce(announce));
            embedded.asked = Some(Box::pin(answer));
        }
    }

    /// Where this process would see itself.
    fn own_ip(&self) -> IpAddr {
        if self.config.listen.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.config.listen }
    }

    fn on_embedded(&mut self, response: Response) {
        if let Some(embedded) = &mut self.embedded {
            let pause = EMBEDDED_PAUSES[embedded.answers.min(EMBEDDED_PAUSES.len() - 1)];
            embedded.asked = None;
            embedded.answers += 1;
            embedded.due = Instant::now() + pause;
        }
        if let Response::Peers { peers, .. } = response {
            self.tell_found(&peers, Source::EmbeddedTracker);
        }
    }

    /// Tells every tracker that this process leaves. Ends when all answered; the caller gives up
    /// earlier where one of them doesn't.
    async fn leave(&mut self) {
        let manifest = self.config.manifest;
        if let Some(embedded) = &self.embedded {
            let _ = embedded.service.ask(self.own, self.own_ip(), Request::Leave { manifest }).await;
        }
        let peers: Vec<PeerId> =
            self.trackers.up_peers().filter(|peer| self.swarm.is_connected(peer)).collect();
        let mut open: Vec<_> = peers
            .iter()
            .map(|peer| self.swarm.behaviour_mut().tracker.send_request(peer, Request::Leave { manifest }))
            .collect();
        while !open.is_empty() {
            if let SwarmEvent::Behaviour(BehaviourEvent::Tracker(
                request_response::Event::Message { message: Message::Response { request_id, .. }, .. }
                | request_response::Event::OutboundFailure { request_id, .. },
            )) = self.swarm.select_next_some().await
            {
                open.retain(|request| *request != request_id);
            }
        }
    }
}

// The LAN.
impl Task {
    /// Starts mDNS where it was waiting for an interface.
    fn start_mdns(&mut self, family: Family) {
        let usable = |addr: &Multiaddr| ip_of(addr).is_some_and(|ip| is_global(&ip));
        if self.mdns == Mdns::Waiting && self.swarm.listeners().any(usable) {
            self.restart_mdns(family);
        }
    }

    fn restart_mdns(&mut self, family: Family) {
        let listening: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        match multicast::start(family, *self.swarm.local_peer_id(), &listening) {
            Ok(behaviour) => {
                self.swarm.behaviour_mut().mdns = behaviour;
                self.mdns = Mdns::On(family);
            }
            Err(error) => {
                self.mdns = Mdns::Off;
                self.tell(Event::Warning(format!("peers on the LAN cannot be found by mDNS: {error}")));
            }
        }
    }

    fn on_mdns(&mut self, event: mdns::Event, now: Instant) {
        match event {
            mdns::Event::Discovered(found) => {
                for (peer, addr) in found {
                    // Only what TCP can reach, and never this host by its loopback.
                    if socket_addr_of(&addr).is_some_and(|addr| !addr.ip().is_loopback()) {
                        self.lan.heard_of(peer, Some(addr), now);
                    }
                }
                let kept =
                    self.swarm.behaviour().mdns.as_ref().map_or(0, |mdns| mdns.discovered_nodes().len());
                if let Mdns::On(family) = self.mdns
                    && kept > multicast::NODES_MAX
                {
                    self.restart_mdns(family);
                }
            }
            mdns::Event::Expired(expired) => {
                for (peer, addr) in expired {
                    self.lan.expired(&peer, &addr);
                }
            }
        }
    }

    fn ask_on_lan(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, now: Instant) {
        if self.swarm.is_connected(&peer) {
            return self.send_question(&peer);
        }
        let opts = DialOpts::peer_id(peer)
            .addresses(addrs)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .allocate_new_port()
            .build();
        match self.swarm.dial(opts) {
            // Being dialled already (as a tracker) leads to a connection as well.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(_) => self.lan.failed(&peer, now),
        }
    }

    fn send_question(&mut self, peer: &PeerId) {
        let question = Question::about(self.config.manifest);
        self.swarm.behaviour_mut().datasets.send_request(peer, question);
    }

    fn on_datasets(&mut self, event: request_response::Event<Question, Answer>, now: Instant) {
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                Message::Request { request, channel, .. } => {
                    let asked = request.asks_for(self.config.manifest);
                    let served = Served {
                        manifest: self.config.manifest,
                        link_port: self.config.link_port,
                        complete: self.config.complete,
                    };
                    let answer = Answer::new(asked.then_some(served));
                    let _ = self.swarm.behaviour_mut().datasets.send_response(channel, answer);
                    if asked && self.mdns != Mdns::Off {
                        self.lan.asked_by(peer, now);
                    }
                }
                Message::Response { response, .. } => {
                    let served = response.about(self.config.manifest);
                    self.lan.answered(&peer, served.is_some(), now);
                    let ip = self.remotes.get(&connection_id).copied();
                    if let (Some(served), Some(ip)) = (served, ip) {
                        let addr = SocketAddr::new(ip, served.link_port);
                        let peers = vec![PeerAddr { peer: peer_id_from_libp2p(&peer), addr }];
                        self.tell(Event::PeersFound { peers, source: Source::Mdns });
                    }
                }
            },
            request_response::Event::OutboundFailure { peer, .. } => self.lan.failed(&peer, now),
            _ => {}
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
