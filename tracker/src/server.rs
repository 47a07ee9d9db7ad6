//! `dft tracker`: the service behind a libp2p swarm of its own.
//!
//! The loop owns the swarm; it hands requests to the [`Service`] and its answers back, and never
//! waits for either. [`Answers`] and [`tracker_behaviour`] are shared with the seeder's embedded
//! tracker.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::core::transport::TransportError;
use libp2p::core::{ConnectedPoint, Transport, upgrade};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, Message, ProtocolSupport, ResponseChannel};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm, SwarmBuilder, identity::Keypair, pnet, tcp, tls, yamux};
use thiserror::Error;

use crate::address::{check_port_is_free, ip_of, peer_id_from_libp2p, socket_addr_of, to_multiaddr};
use crate::catalogue::follow;
use crate::catalogue::protocol::{self as names, CatalogueCodec};
use crate::catalogue::service::{Caller, Catalogue, CatalogueConfig, StartAs};
use crate::catalogue::session::Sessions;
use crate::catalogue::token::Token;
use crate::limits::{ConnectionLimits, Limits};
use crate::protocol::{PROTOCOL, Request, Response, TrackerCodec};
use crate::service::{Notice, Service, ServiceError};
use crate::state::{StateDir, StateError};

/// The connections of a standalone tracker: 512 peers and the same again, in 1,100 descriptors.
pub const SERVER_CONNECTIONS: ConnectionLimits =
    ConnectionLimits { total: 1024, per_peer: 4, per_ip: 256, half_open: 128, half_open_per_ip: 32 };
/// A connection without requests is closed after this: longer than an announce interval, so that
/// a live peer keeps its connection.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request may take, on the wire and in the queue.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests in the works per connection: a peer announces, and leaves.
pub const STREAMS_PER_CONNECTION_MAX: usize = 4;
/// Requests to the catalogue in the works per connection: a client has half as many, and one
/// that was answered may still count.
pub const CATALOGUE_STREAMS_MAX: usize = 8;
/// Streams that one connection may open at all, half-open ones included: bounds what its
/// receive windows (256 KiB each) can hold.
const MUXED_STREAMS_MAX: usize = 16;
/// How long a connection in a private network may take to come about: whoever lacks the key never
/// gets further.
const PRIVATE_UPGRADE_MAX: Duration = Duration::from_secs(10);
/// How long to wait for further listen addresses once one is known.
const LISTEN_SETTLE: Duration = Duration::from_millis(50);

/// What `dft tracker` was told.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes the port of the last run, where that is free.
    pub listen: SocketAddr,
    /// The state directory.
    pub state: PathBuf,
    /// Where all who speak to it must have a key: that key.
    pub network_key: Option<[u8; 32]>,
    /// Its catalogue; without it the tracker knows peers only.
    pub catalogue: Option<CatalogueSettings>,
}

/// What the catalogue of a tracker is told.
#[derive(Debug, Clone, Default)]
pub struct CatalogueSettings {
    /// Whether whoever reaches the tracker may write, as on a trusted LAN.
    pub open: bool,
    /// How it starts.
    pub start_as: StartAs,
}

/// The tracker listens.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its addresses, each with its identity: of every interface where `listen` is unspecified.
    pub addrs: Vec<Multiaddr>,
    /// The file with the token that writes into the catalogue need; `None` where they need none,
    /// or there is no catalogue.
    pub token: Option<PathBuf>,
}

/// Why a tracker did not start, or stopped.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The service did not start.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// TLS could not be set up with this identity.
    #[error("no certificate for this identity: {0}")]
    Certificate(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The system closed the listener.
    #[error("the tracker no longer listens: {0}")]
    ListenerClosed(String),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: Limits,
    tracker: request_response::Behaviour<TrackerCodec>,
    catalogue: Toggle<request_response::Behaviour<CatalogueCodec>>,
}

/// Runs a tracker until `shutdown` ends. `notify` hears of damage and of a failing disk.
pub async fn run(
    config: ServerConfig,
    ready: impl FnOnce(Ready),
    notify: impl Fn(Notice) + Send + 'static,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let state = StateDir::open(&config.state)?;
    let identity = state.identity()?;
    let notify = shared(notify);
    let names = match &config.catalogue {
        Some(settings) => Some(Names::start(&state, settings, notify.clone())?),
        None => None,
    };
    let catalogue = names.as_ref().map(|_| catalogue_behaviour(ProtocolSupport::Inbound));
    let behaviour = Behaviour {
        limits: Limits::new(SERVER_CONNECTIONS),
        tracker: tracker_behaviour(ProtocolSupport::Inbound),
        catalogue: catalogue.into(),
    };
    let follows = names.as_ref().map(|names| {
        let handle = names.catalogue.handle().clone();
        let (token, network_key) = (names.token.clone(), config.network_key);
        let access = follow::Access { keypair: identity.clone(), token, network_key };
        follow::run(handle, access, notify.clone())
    });
    let mut swarm = new_swarm(identity, behaviour, IDLE_TIMEOUT, config.network_key)
        .map_err(|error| ServerError::Certificate(error.to_string()))?;
    let listen = listen_on_remembered(&mut swarm, config.listen, state.last_port())?;
    let mut server = Server {
        swarm,
        listen,
        names,
        state: Some(state),
        service: None,
        sessions: Sessions::default(),
        answers: Answers::new(),
        names_answers: FuturesUnordered::new(),
    };
    tokio::select! {
        () = shutdown => Ok(()),
        result = server.serve(ready, notify) => result,
        () = OptionFuture::from(follows).map(drop), if config.catalogue.is_some() => {
            unreachable!("a follower follows for ever")
        }
    }
}

/// One `notify` for several threads.
fn shared(notify: impl Fn(Notice) + Send + 'static) -> impl Fn(Notice) + Clone + Send + 'static {
    let notify = Arc::new(Mutex::new(notify));
    move |notice| notify.lock().unwrap_or_else(PoisonError::into_inner)(notice)
}

/// The catalogue, and who may write into it.
struct Names {
    catalogue: Catalogue,
    token: Token,
    // Where the token lies; None where writes need none.
    token_path: Option<PathBuf>,
}

impl Names {
    fn start(
        state: &StateDir,
        settings: &CatalogueSettings,
        notify: impl Fn(Notice) + Send + 'static,
    ) -> Result<Self, ServerError> {
        let token = if settings.open { state.token_if_any()? } else { state.token()? };
        let config = CatalogueConfig {
            path: state.catalogue(),
            start_as: settings.start_as.clone(),
            open: settings.open,
        };
        let catalogue = Catalogue::start(config, notify)?;
        Ok(Self { catalogue, token, token_path: (!settings.open).then(|| state.token_path()) })
    }
}

type NamesAnswer = (ResponseChannel<names::Response>, names::Response);

struct Server {
    swarm: Swarm<Behaviour>,
    listen: SocketAddr,
    // Ends before the service, which holds the lock of the state directory.
    names: Option<Names>,
    // Becomes the service's once the port is remembered.
    state: Option<StateDir>,
    service: Option<Service>,
    // Each connection; bounded by the connection limits.
    sessions: Sessions,
    answers: Answers,
    // Bounded by the catalogue's queue and, per connection, by CATALOGUE_STREAMS_MAX.
    names_answers: FuturesUnordered<BoxFuture<'static, NamesAnswer>>,
}

impl Server {
    /// Ends only with an error.
    async fn serve(
        &mut self,
        ready: impl FnOnce(Ready),
        notify: impl Fn(Notice) + Send + 'static,
    ) -> Result<(), ServerError> {
        self.announce_ready(ready, notify).await?;
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.handle(event)?,
                Some((channel, response)) = self.answers.next() => {
                    // The asker may have gone meanwhile.
                    let _ = self.swarm.behaviour_mut().tracker.send_response(channel, response);
                }
                Some((channel, response)) = self.names_answers.next() => {
                    if let Some(catalogue) = self.swarm.behaviour_mut().catalogue.as_mut() {
                        let _ = catalogue.send_response(channel, response);
                    }
                }
            }
        }
    }

    /// Waits for the listen addresses, remembers the port, starts the service and reports.
    async fn announce_ready(
        &mut self,
        ready: impl FnOnce(Ready),
        notify: impl Fn(Notice) + Send + 'static,
    ) -> Result<(), ServerError> {
        while self.swarm.listeners().next().is_none() {
            let event = self.swarm.select_next_some().await;
            self.handle(event)?;
        }
        let port = self.swarm.listeners().find_map(socket_addr_of).map_or(0, |addr| addr.port());
        if self.listen.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
            listen_on_ipv6_too(&mut self.swarm, port);
        }
        // More addresses may follow at any time; most are known at once.
        let settled = tokio::time::sleep(LISTEN_SETTLE);
        let mut settled = std::pin::pin!(settled);
        loop {
            tokio::select! {
                () = &mut settled => break,
                event = self.swarm.select_next_some() => self.handle(event)?,
            }
        }
        if let Some(state) = self.state.take() {
            state.remember_port(port)?;
            self.service = Some(Service::start(state, notify)?);
        }
        let token = self.names.as_ref().and_then(|names| names.token_path.clone());
        ready(Ready { addrs: public_addrs(&self.swarm), token });
        Ok(())
    }

    fn handle(&mut self, event: SwarmEvent<BehaviourEvent>) -> Result<(), ServerError> {
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, endpoint, peer_id, .. } => {
                if let (Some(ip), Some(peer)) = (remote_ip(&endpoint), peer_id_from_libp2p(&peer_id)) {
                    self.sessions.open(connection_id, peer, ip.to_canonical());
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                let gone = self.sessions.close(connection_id);
                if let (Some(peer), Some(names)) = (gone, &self.names) {
                    names.catalogue.handle().gone(peer);
                }
            }
            SwarmEvent::ListenerClosed { reason: Err(error), .. } => {
                return Err(ServerError::ListenerClosed(error.to_string()));
            }
            SwarmEvent::Behaviour(BehaviourEvent::Tracker(request_response::Event::Message {
                peer,
                connection_id,
                message: Message::Request { request, channel, .. },
            })) => {
                let session = self.sessions.get(connection_id);
                if let (Some(service), Some(session)) = (&self.service, session) {
                    self.answers.push(service, &peer, session.observed, request, channel);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Catalogue(request_response::Event::Message {
                connection_id,
                message: Message::Request { request, channel, .. },
                ..
            })) => {
                if let Some(answer) = self.ask_names(connection_id, request) {
                    self.names_answers.push(Box::pin(async { (channel, answer.await) }));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What the catalogue will answer; `None` for a connection that is gone.
    fn ask_names(
        &mut self,
        connection: ConnectionId,
        request: names::Request,
    ) -> Option<BoxFuture<'static, names::Response>> {
        let names = self.names.as_ref()?;
        let handle = names.catalogue.handle();
        let caller = {
            let session = self.sessions.get(connection)?;
            Caller { peer: session.peer, observed: session.observed, proven: session.proven }
        };
        Some(match request {
            names::Request::Hello => handle.hello(self.sessions.challenge(connection)?).boxed(),
            names::Request::Prove { proof, epoch } => {
                let tracker = peer_id_from_libp2p(self.swarm.local_peer_id())?;
                if self.sessions.prove(connection, (&names.token, tracker), &proof, epoch) {
                    handle.fence(epoch).boxed()
                } else {
                    std::future::ready(names::Response::Unproven).boxed()
                }
            }
            names::Request::Holders { id, after } => {
                let found = self.service.as_ref()?.holders(id, caller.observed, after);
                let handle = handle.clone();
                async move {
                    let (found, more) = found.await.unwrap_or_default();
                    handle.holders(found, more).await
                }
                .boxed()
            }
            names::Request::ManyHolders(ids) => {
                let found = self.service.as_ref()?.many_holders(ids, caller.observed);
                let handle = handle.clone();
                async move { handle.many_holders(found.await.unwrap_or_default()).await }.boxed()
            }
            request => handle.ask(caller, request).boxed(),
        })
    }
}

/// Answers that the service is working on. Bounded by the service's queue and, per connection,
/// by [`STREAMS_PER_CONNECTION_MAX`].
#[derive(Default)]
pub struct Answers(FuturesUnordered<BoxFuture<'static, (ResponseChannel<Response>, Response)>>);

impl Answers {
    /// No answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `service` work on a request that came from `peer` at `observed`.
    pub fn push(
        &mut self,
        service: &Service,
        peer: &libp2p::PeerId,
        observed: IpAddr,
        request: Request,
        channel: ResponseChannel<Response>,
    ) {
        // A peer whose identity is too long for us gets no answer.
        let Some(peer) = peer_id_from_libp2p(peer) else { return };
        let answer = service.ask(peer, observed, request);
        self.0.push(Box::pin(async { (channel, answer.await) }));
    }

    /// The next answer to send; `None` while there is none in the works.
    pub async fn next(&mut self) -> Option<(ResponseChannel<Response>, Response)> {
        self.0.next().await
    }
}

/// The libp2p behaviour of the tracker's protocol, for one side or both.
pub fn tracker_behaviour(support: ProtocolSupport) -> request_response::Behaviour<TrackerCodec> {
    request_response::Behaviour::new([(PROTOCOL, support)], request_response_config())
}

/// The libp2p behaviour of the catalogue's protocol, for one side.
pub fn catalogue_behaviour(support: ProtocolSupport) -> request_response::Behaviour<CatalogueCodec> {
    let config = request_response_config().with_max_concurrent_streams(CATALOGUE_STREAMS_MAX);
    request_response::Behaviour::new([(names::PROTOCOL, support)], config)
}

/// Time and number of requests of every request-response protocol here.
pub fn request_response_config() -> request_response::Config {
    request_response::Config::default()
        .with_request_timeout(REQUEST_TIMEOUT)
        .with_max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
}

/// A swarm over TCP, libp2p's TLS and yamux. With `network_key`, all of that is inside of a private
/// network: below TLS everything is encrypted with this key, and whoever lacks it hears nothing
/// but noise.
pub fn new_swarm<B: NetworkBehaviour>(
    identity: Keypair,
    behaviour: B,
    idle_timeout: Duration,
    network_key: Option<[u8; 32]>,
) -> Result<Swarm<B>, tls::certificate::GenError> {
    let muxer = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(MUXED_STREAMS_MAX);
        config
    };
    let authenticate = tls::Config::new(&identity)?;
    let builder = SwarmBuilder::with_existing_identity(identity).with_tokio();
    let tcp_config = tcp::Config::default().nodelay(true);
    let configure = |config: libp2p::swarm::Config| {
        config
            .with_idle_connection_timeout(idle_timeout)
            .with_max_negotiating_inbound_streams(STREAMS_PER_CONNECTION_MAX)
    };
    let Some(key) = network_key else {
        let builder = builder.with_tcp(tcp_config, tls::Config::new, muxer)?;
        let Ok(builder) = builder.with_behaviour(|_| behaviour);
        return Ok(builder.with_swarm_config(configure).build());
    };
    let private = pnet::PnetConfig::new(pnet::PreSharedKey::new(key));
    let Ok(builder) = builder.with_other_transport(|_| {
        tcp::tokio::Transport::new(tcp_config)
            .and_then(move |socket, _| private.handshake(socket))
            .upgrade(upgrade::Version::V1Lazy)
            .authenticate(authenticate)
            .multiplex(muxer())
            .timeout(PRIVATE_UPGRADE_MAX)
    });
    let Ok(builder) = builder.with_behaviour(|_| behaviour);
    Ok(builder.with_swarm_config(configure).build())
}

/// Makes `swarm` listen on `addr`; an address that anyone else listens on is an error.
pub fn listen_on<B: NetworkBehaviour>(swarm: &mut Swarm<B>, addr: SocketAddr) -> io::Result<()> {
    // Also for port 0: it says plainly where this machine has no such address.
    check_port_is_free(addr)?;
    match swarm.listen_on(to_multiaddr(addr)) {
        Ok(_) => Ok(()),
        Err(TransportError::Other(error)) => Err(error),
        Err(TransportError::MultiaddrNotSupported(_)) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Listens on every IPv6 interface with `port` as well, where the host has IPv6 and the port is
/// free there; without it, IPv4 serves alone.
pub fn listen_on_ipv6_too<B: NetworkBehaviour>(swarm: &mut Swarm<B>, port: u16) {
    let _ = swarm.listen_on(to_multiaddr(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)));
}

/// The addresses at which others reach `swarm`, each with its identity: loopback only where
/// there is nothing else, link-local IPv6 never, IPv4 first.
pub fn public_addrs<B: NetworkBehaviour>(swarm: &Swarm<B>) -> Vec<Multiaddr> {
    let identity = *swarm.local_peer_id();
    let (loopback, public): (Vec<_>, Vec<_>) = swarm
        .listeners()
        .filter(|addr| !matches!(ip_of(addr), Some(IpAddr::V6(ip)) if ip.is_unicast_link_local()))
        .partition(|addr| ip_of(addr).is_some_and(|ip| ip.is_loopback()));
    let mut addrs = if public.is_empty() { loopback } else { public };
    addrs.sort_unstable_by_key(|addr| ip_of(addr));
    addrs.into_iter().map(|addr| addr.clone().with(Protocol::P2p(identity))).collect()
}

/// The IP address at the other end of a connection.
pub fn remote_ip(endpoint: &ConnectedPoint) -> Option<IpAddr> {
    ip_of(endpoint.get_remote_address())
}

fn listen_on_remembered(
    swarm: &mut Swarm<Behaviour>,
    listen: SocketAddr,
    last_port: Option<u16>,
) -> Result<SocketAddr, ServerError> {
    if let (0, Some(port)) = (listen.port(), last_port) {
        let remembered = SocketAddr::new(listen.ip(), port);
        if listen_on(swarm, remembered).is_ok() {
            return Ok(remembered);
        }
    }
    listen_on(swarm, listen).map_err(|error| ServerError::Listen { addr: listen, error })?;
    Ok(listen)
}
