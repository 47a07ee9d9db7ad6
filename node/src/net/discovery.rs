//! Finding the peers of datasets that come and go: by trackers, and by mDNS on the LAN.
//!
//! One libp2p swarm per process, however many datasets, carries the tracker client, the embedded tracker of a seeder,
//! mDNS, and the question «which of these manifests do you serve?» that is asked of each peer
//! that mDNS found. What is found comes out as [`Event::PeersFound`]: addresses for links, which
//! have nothing to do with libp2p any more. Pieces never pass through here.
//!
//! Invariants: nothing that a remote does stops discovery or grows without a limit; with a
//! loopback address nothing is multicast; losing every tracker loses nothing that was found.
//!
//! Where to start reading: [`spawn`], then `task` (the loop), and its pure parts `trackers` (when
//! to announce) and `lan` (whom to ask).

mod datasets;
mod lan;
mod multicast;
mod node;
mod shelf;
mod task;
#[cfg(test)]
mod tests;
mod trackers;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::PeerAddr;
use dft_protocol::wire::Site;
use dft_tracker::server::{listen_on, listen_on_ipv6_too};
use dft_tracker::service::{Service, ServiceError};
use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use node::{NodeRequest, NodeResponse, RUNS_MAX, TRACKERS_MAX};

pub use dft_tracker::address::{peer_id_from_libp2p, peer_id_to_libp2p};

/// Most datasets whose peers are looked for at a time: what one announcement each costs a tracker, every
/// 30 s and from each of 512 nodes, is what bounds them. Those at rest are told of together.
pub const DATASETS_MAX: usize = 4096;
/// Events that wait for the reader; beyond them, some wait inside.
const EVENT_QUEUE_LEN: usize = 32;
/// How long [`Discovery::shutdown`] takes at most: a seeder must end within 2 s of a signal.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);
/// Longest host name (RFC 1035 §2.3.4), in bytes.
const HOST_LEN_MAX: usize = 253;

/// What discovery is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this process is.
    pub keypair: Keypair,
    /// Where libp2p listens; unspecified means every interface, with IPv4 and IPv6.
    pub listen: IpAddr,
    /// On which port; 0 takes a free one.
    pub port: u16,
    /// Whether peers are found by mDNS as well. Never with a loopback `listen`.
    pub mdns: bool,
    /// Trackers to announce every dataset to.
    pub trackers: Vec<Multiaddr>,
    /// The state directory of an embedded tracker, where this process has one.
    pub embedded_tracker: Option<PathBuf>,
    /// Where this process takes links, for every dataset; 0 where it takes none.
    pub link_port: u16,
    /// The label of the place where it runs.
    pub site: Option<Site>,
    /// The key of a private cluster, which all must have to whom this process speaks.
    pub network_key: Option<[u8; 32]>,
    /// Who hears of other nodes and answers their questions; a daemon's.
    pub neighbours: Option<mpsc::Sender<Neighbourly>>,
}

/// What concerns other nodes, rather than a dataset.
#[derive(Debug)]
pub enum Neighbourly {
    /// mDNS told of a node. The same ones are heard of again and again; some are inventions.
    Heard {
        /// Who.
        node: PeerId,
        /// Where its libp2p side is.
        addr: SocketAddr,
    },
    /// A node asks.
    Asked {
        /// Who.
        node: PeerId,
        /// From where.
        from: Option<IpAddr>,
        /// What.
        request: NodeRequest,
        /// Takes the answer.
        answer: oneshot::Sender<NodeResponse>,
    },
}

/// A question to another node.
#[derive(Debug)]
pub(crate) struct AskNode {
    node: PeerId,
    addrs: Vec<SocketAddr>,
    request: NodeRequest,
    answer: oneshot::Sender<Result<NodeResponse, NodeError>>,
}

/// A node could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it does not answer: {0}")]
pub struct NodeError(String);

/// A dataset whose peers are to be found.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Which one.
    pub manifest: ManifestId,
    /// Whether this process has every piece.
    pub complete: bool,
    /// Trackers to announce this one to, beside those of [`Config::trackers`].
    pub trackers: Vec<Multiaddr>,
    /// How soon the peers of the LAN are asked for it, once anybody is; `None`: they are answered only.
    pub asks_lan_in: Option<Duration>,
    /// How long nobody is asked: peers that are known already may tell of all others.
    pub quiet_for: Duration,
}

/// How a peer was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// By the tracker that was configured with this address.
    Tracker(Multiaddr),
    /// By the tracker inside this process.
    EmbeddedTracker,
    /// On the LAN.
    Mdns,
}

/// What discovery has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Peers that are said to have (parts of) the dataset: addresses to open links to, several
    /// for one peer where it has several. The same peers are found again and again.
    PeersFound {
        /// Which dataset.
        manifest: ManifestId,
        /// Where they take links.
        peers: Vec<PeerAddr>,
        /// How they were found.
        source: Source,
    },
    /// A tracker answers, for the first time or again.
    TrackerUp {
        /// As it was configured.
        addr: Multiaddr,
    },
    /// A tracker doesn't answer, for the first time or since it did last. It is tried again.
    TrackerDown {
        /// As it was configured.
        addr: Multiaddr,
        /// What happened.
        reason: String,
    },
    /// The addresses at which others reach this process's libp2p side (and its embedded
    /// tracker), whenever they changed.
    Listening {
        /// Each with the identity of this process.
        addrs: Vec<Multiaddr>,
    },
    /// Something works less well than it should; a person may want to know.
    Warning(String),
}

/// Why discovery did not start.
#[derive(Debug, Error)]
pub enum DiscoveryError {
    /// TLS could not be set up with this identity.
    #[error("no certificate for this identity: {0}")]
    Certificate(String),
    /// The address cannot be listened on: `AddrInUse` where another process listens on the port.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The embedded tracker did not start.
    #[error(transparent)]
    Tracker(#[from] ServiceError),
}

/// A running discovery. Dropping it ends it at once; [`Discovery::shutdown`] takes leave first.
#[derive(Debug)]
pub struct Discovery {
    orders: mpsc::UnboundedSender<task::Order>,
    leave: Option<oneshot::Sender<()>>,
    listening: task::Listening,
    embedded_tracker: bool,
    task: JoinHandle<()>,
}

/// Starts discovery, without waiting for anything but the system: listening, name lookups and the
/// embedded tracker's database follow in the background.
// `async` because it needs the runtime that its task will live on.
#[allow(clippy::unused_async)]
pub async fn spawn(config: Config) -> Result<(Discovery, mpsc::Receiver<Event>), DiscoveryError> {
    let mut swarm = task::new_swarm(&config)?;
    let all = config.listen.is_unspecified();
    let ip = if all { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { config.listen };
    let addr = SocketAddr::new(ip, config.port);
    listen_on(&mut swarm, addr).map_err(|error| DiscoveryError::Listen { addr, error })?;
    if all && config.port != 0 {
        listen_on_ipv6_too(&mut swarm, config.port);
    }
    let (warnings_in, warnings) = mpsc::channel(8);
    let service = match &config.embedded_tracker {
        None => None,
        // More warnings than fit say the same.
        Some(state) => Some(Service::open(state, move |notice| {
            let _ = warnings_in.try_send(notice.to_string());
        })?),
    };
    let (events, receiver) = mpsc::channel(EVENT_QUEUE_LEN);
    let (orders, orders_given) = mpsc::unbounded_channel();
    let (leave, leaving) = oneshot::channel();
    let listening = task::Listening::default();
    let embedded_tracker = service.is_some();
    let inputs = task::Inputs { orders: orders_given, warnings, leaving };
    let task = task::Task::new(config, swarm, service, Arc::clone(&listening));
    let task = tokio::spawn(task.run(inputs, events));
    Ok((Discovery { orders, leave: Some(leave), listening, embedded_tracker, task }, receiver))
}

impl Discovery {
    /// Looks for peers of `dataset` from now on, and says to whoever asks that it is here. Beyond
    /// [`DATASETS_MAX`], nothing happens but a warning.
    pub fn add(&self, dataset: Dataset) {
        // Where the loop is gone, there is nobody to find any more.
        let _ = self.orders.send(task::Order::Add(dataset));
    }

    /// These are here in full from now on, and nobody is looked for: trackers, and whoever asks, are told.
    pub fn shelve(&self, manifests: Vec<ManifestId>) {
        let _ = self.orders.send(task::Order::Shelve(manifests));
    }

    /// The dataset is not here any more, or not though an earlier process of this node announced it:
    /// tells the trackers, and whoever asks.
    pub fn remove(&self, manifest: ManifestId) {
        let _ = self.orders.send(task::Order::Remove(manifest));
    }

    /// This process has every piece of it: tells the trackers, and whoever asks.
    pub fn set_complete(&self, manifest: ManifestId) {
        let _ = self.orders.send(task::Order::SetComplete { manifest, complete: true });
    }

    /// This process has lost pieces of it: tells the trackers, and whoever asks.
    pub fn set_partial(&self, manifest: ManifestId) {
        let _ = self.orders.send(task::Order::SetComplete { manifest, complete: false });
    }

    /// Peers of it are linked, and tell of others: the peers of the LAN, where they were not asked yet, are
    /// asked no sooner than after `pause`, and one at a time.
    pub fn ask_lan_later(&self, manifest: ManifestId, pause: Duration) {
        let _ = self.orders.send(task::Order::AskLanLater { manifest, pause });
    }

    /// Announces every dataset to one more tracker.
    pub fn add_tracker(&self, addr: Multiaddr) {
        let _ = self.orders.send(task::Order::AddTracker(addr));
    }

    /// Asks another node, whose libp2p side is at one of `addrs`; takes 10 s at most.
    pub async fn ask_node(
        &self,
        node: PeerId,
        addrs: Vec<SocketAddr>,
        request: NodeRequest,
    ) -> Result<NodeResponse, NodeError> {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(task::Order::AskNode(AskNode { node, addrs, request, answer }));
        answered.await.unwrap_or_else(|_| Err(NodeError("discovery ended".into())))
    }

    /// The addresses of the embedded tracker, each with its identity, as far as they are known
    /// ([`Event::Listening`] says when); empty without one.
    pub fn tracker_addrs(&self) -> Vec<Multiaddr> {
        if !self.embedded_tracker {
            return Vec::new();
        }
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the trackers that this process leaves, and ends; takes 1 s at most.
    pub async fn shutdown(mut self) {
        if let Some(leave) = self.leave.take() {
            let _ = leave.send(());
        }
        let _ = tokio::time::timeout(SHUTDOWN_MAX, &mut self.task).await;
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a text names no tracker.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseTrackerError {
    /// Neither `HOST:PORT` nor a multiaddress.
    #[error("«{0}» is neither HOST:PORT nor a multiaddress")]
    Malformed(String),
    /// A multiaddress of a kind that dft doesn't speak.
    #[error("«{0}» is not of the form /ip4/…/tcp/PORT, with or without /p2p/ID")]
    Unsupported(String),
}

/// The address of a tracker: `HOST:PORT`, `IP:PORT`, or a multiaddress (`/ip4`, `/ip6` or `/dns`,
/// then `/tcp`, then `/p2p/ID` where its identity is to be checked).
pub fn parse_tracker(text: &str) -> Result<Multiaddr, ParseTrackerError> {
    let malformed = || ParseTrackerError::Malformed(text.to_owned());
    if text.starts_with('/') {
        let addr: Multiaddr = text.parse().map_err(|_| malformed())?;
        return if is_supported(&addr) {
            Ok(addr)
        } else {
            Err(ParseTrackerError::Unsupported(text.to_owned()))
        };
    }
    let addr = if let Ok(addr) = text.parse::<SocketAddr>() {
        dft_tracker::address::to_multiaddr(addr)
    } else {
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let port = port.parse().map_err(|_| malformed())?;
        Multiaddr::empty().with(Protocol::Dns(host.into())).with(Protocol::Tcp(port))
    };
    if is_supported(&addr) { Ok(addr) } else { Err(malformed()) }
}

/// The socket address of `IP:PORT`, or of a multiaddress that begins with both.
pub fn socket_addr_of_text(text: &str) -> Option<SocketAddr> {
    let parsed = text.parse().ok();
    parsed.or_else(|| dft_tracker::address::socket_addr_of(&text.parse::<Multiaddr>().ok()?))
}

fn is_supported(addr: &Multiaddr) -> bool {
    let mut parts = addr.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip != Ipv4Addr::UNSPECIFIED,
        Some(Protocol::Ip6(ip)) => ip != Ipv6Addr::UNSPECIFIED,
        Some(Protocol::Dns(host) | Protocol::Dns4(host) | Protocol::Dns6(host)) => is_host_name(&host),
        _ => false,
    };
    let port = matches!(parts.next(), Some(Protocol::Tcp(port)) if port != 0);
    let identity = matches!(parts.next(), None | Some(Protocol::P2p(_)));
    host && port && identity && parts.next().is_none()
}

fn is_host_name(host: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.len() <= HOST_LEN_MAX && host.bytes().all(valid)
}
