//! `dft tracker` and its clients, over loopback.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use dft_protocol::id::ManifestId;
use dft_tracker::address::{peer_id_from_libp2p, socket_addr_of};
use dft_tracker::protocol::{Announce, PROTOCOL, Request, Response, TrackerCodec};
use dft_tracker::registry::{FoundPeer, LinkAddrs};
use dft_tracker::server::{self, ServerConfig, ServerError, new_swarm, tracker_behaviour};
use dft_tracker::state::StateError;
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::request_response::{self, Message, ProtocolSupport};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, Swarm, SwarmBuilder, tcp, tls, yamux};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A bound for what would otherwise hang; nothing here takes a hundredth of it.
const HANG: Duration = Duration::from_secs(60);

struct Tracker {
    addr: Multiaddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

async fn start(state: &Path) -> Tracker {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = ServerConfig { listen, state: state.to_owned(), network_key: None, catalogue: None };
    let (ready, is_ready) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server::run(
        config,
        |up| ready.send(up.addrs).expect("the test waits"),
        |notice| panic!("{notice:?}"),
        async { drop(stopped.await) },
    ));
    let addrs = is_ready.await.expect("the tracker starts");
    assert_eq!(addrs.len(), 1);
    Tracker { addr: addrs[0].clone(), stop, task }
}

impl Tracker {
    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        self.task.await.expect("no panic").expect("no error");
    }
}

struct Client {
    swarm: Swarm<request_response::Behaviour<TrackerCodec>>,
}

impl Client {
    fn new() -> Self {
        let behaviour = tracker_behaviour(ProtocolSupport::Outbound);
        let swarm = new_swarm(Keypair::generate_ed25519(), behaviour, HANG, None).expect("a certificate");
        Self { swarm }
    }

    /// One that sends up to `streams` requests at a time, whatever the tracker thinks of it.
    fn with_streams(streams: usize) -> Self {
        let config = request_response::Config::default().with_max_concurrent_streams(streams);
        let swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), tls::Config::new, yamux::Config::default)
            .expect("a certificate")
            .with_behaviour(|_| {
                request_response::Behaviour::new([(PROTOCOL, ProtocolSupport::Outbound)], config)
            })
            .expect("a behaviour")
            .build();
        Self { swarm }
    }

    async fn connect(&mut self, tracker: &Multiaddr) -> Option<libp2p::PeerId> {
        let addr = tracker.iter().take(2).collect();
        self.swarm.dial(DialOpts::unknown_peer_id().address(addr).build()).expect("a dial");
        let connected = async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => return Some(peer_id),
                    SwarmEvent::OutgoingConnectionError { .. } => return None,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(HANG, connected).await.expect("an answer")
    }

    async fn ask(&mut self, tracker: &Multiaddr, request: Request) -> Response {
        let peer = self.connect(tracker).await.expect("a connection");
        self.swarm.behaviour_mut().send_request(&peer, request);
        let answered = async {
            loop {
                if let SwarmEvent::Behaviour(event) = self.swarm.select_next_some().await {
                    match event {
                        request_response::Event::Message {
                            message: Message::Response { response, .. },
                            ..
                        } => return response,
                        other => panic!("{other:?}"),
                    }
                }
            }
        };
        tokio::time::timeout(HANG, answered).await.expect("an answer")
    }

    async fn announce(&mut self, tracker: &Multiaddr, link_port: u16) -> Vec<FoundPeer> {
        let addrs = LinkAddrs::default();
        let announce =
            Announce { manifest: manifest(), link_port, addrs, complete: false, site: None, want: 10 };
        match self.ask(tracker, Request::Announce(announce)).await {
            Response::Peers { peers, .. } => peers,
            other => panic!("{other:?}"),
        }
    }
}

fn manifest() -> ManifestId {
    ManifestId::from_bytes([1; 32])
}

fn ports(found: &[FoundPeer]) -> Vec<u16> {
    let mut ports: Vec<u16> = found.iter().map(|found| found.addrs.as_slice()[0].port()).collect();
    ports.sort_unstable();
    ports
}

#[tokio::test]
async fn peers_see_each_other_until_they_leave() {
    let directory = tempfile::tempdir().expect("a directory");
    let tracker = start(directory.path()).await;
    let [mut one, mut two, mut three] = [Client::new(), Client::new(), Client::new()];
    assert_eq!(ports(&one.announce(&tracker.addr, 1).await), []);
    assert_eq!(ports(&two.announce(&tracker.addr, 2).await), [1]);
    let found = three.announce(&tracker.addr, 3).await;
    assert_eq!(ports(&found), [1, 2]);
    let one_id = peer_id_from_libp2p(one.swarm.local_peer_id()).expect("38 bytes");
    let found_one = found.iter().find(|found| found.peer == one_id).expect("its identity");
    assert_eq!(found_one.addrs.as_slice(), [SocketAddr::from((Ipv4Addr::LOCALHOST, 1))]);
    assert_eq!(ports(&one.announce(&tracker.addr, 1).await), [2, 3]);
    assert_eq!(two.ask(&tracker.addr, Request::Leave { manifest: manifest() }).await, Response::Done);
    assert_eq!(ports(&one.announce(&tracker.addr, 1).await), [3]);
    tracker.stop().await;
}

#[tokio::test]
async fn a_restarted_tracker_has_the_same_address_and_peers() {
    let directory = tempfile::tempdir().expect("a directory");
    let tracker = start(directory.path()).await;
    let addr = tracker.addr.clone();
    Client::new().announce(&addr, 1).await;
    tracker.stop().await;
    let tracker = start(directory.path()).await;
    assert_eq!(tracker.addr, addr);
    assert_eq!(ports(&Client::new().announce(&addr, 2).await), [1]);
    tracker.stop().await;
}

#[tokio::test]
async fn a_second_tracker_on_one_directory_or_port_is_told_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let other_directory = tempfile::tempdir().expect("a directory");
    let tracker = start(directory.path()).await;
    let listen = socket_addr_of(&tracker.addr).expect("an IP address and a port");
    let run = |state: &Path| {
        let config = ServerConfig { listen, state: state.to_owned(), network_key: None, catalogue: None };
        server::run(config, |_| (), |notice| panic!("{notice:?}"), std::future::pending())
    };
    let error = run(directory.path()).await.expect_err("the directory is in use");
    assert!(matches!(error, ServerError::State(StateError::InUse(_))), "{error}");
    let error = run(other_directory.path()).await.expect_err("the port is in use");
    assert!(matches!(error, ServerError::Listen { .. }), "{error}");
    tracker.stop().await;
}

#[tokio::test]
async fn one_identity_gets_few_connections() {
    let directory = tempfile::tempdir().expect("a directory");
    let tracker = start(directory.path()).await;
    let mut client = Client::new();
    for _ in 0..server::SERVER_CONNECTIONS.per_peer {
        assert!(client.connect(&tracker.addr).await.is_some());
    }
    client.connect(&tracker.addr).await;
    // The handshake is over before the tracker knows who it is; then it closes the connection.
    let closed = async {
        while !matches!(client.swarm.select_next_some().await, SwarmEvent::ConnectionClosed { .. }) {}
    };
    tokio::time::timeout(HANG, closed).await.expect("the connection too many is closed");
    assert_eq!(ports(&Client::new().announce(&tracker.addr, 1).await), []);
    tracker.stop().await;
}

#[tokio::test]
async fn a_flood_of_requests_is_cut_off_and_hurts_nobody_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let tracker = start(directory.path()).await;
    let mut flooder = Client::with_streams(1000);
    let peer = flooder.connect(&tracker.addr).await.expect("a connection");
    let mut open = HashSet::new();
    for _ in 0..200 {
        open.insert(
            flooder.swarm.behaviour_mut().send_request(&peer, Request::Leave { manifest: manifest() }),
        );
    }
    // Every request ends, most of them without an answer.
    let ended = async {
        while !open.is_empty() {
            if let SwarmEvent::Behaviour(
                request_response::Event::Message { message: Message::Response { request_id, .. }, .. }
                | request_response::Event::OutboundFailure { request_id, .. },
            ) = flooder.swarm.select_next_some().await
            {
                open.remove(&request_id);
            }
        }
    };
    let mut other = Client::new();
    let both = async { tokio::join!(ended, other.announce(&tracker.addr, 1)) };
    let ((), found) = tokio::time::timeout(HANG, both).await.expect("nothing hangs");
    assert_eq!(ports(&found), []);
    tracker.stop().await;
}

#[tokio::test]
async fn who_speaks_nonsense_disturbs_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let tracker = start(directory.path()).await;
    let addr = socket_addr_of(&tracker.addr).expect("an IP address and a port");
    assert_eq!(addr.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(addr).await.expect("a connection"));
    }
    for nonsense in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\nxx"]
    {
        let mut stream = tokio::net::TcpStream::connect(addr).await.expect("a connection");
        stream.write_all(nonsense).await.expect("it is taken");
        stream.shutdown().await.expect("it ends");
        // It may be reset; it must end.
        let mut rest = Vec::new();
        let end = tokio::time::timeout(HANG, stream.read_to_end(&mut rest)).await;
        drop(end.expect("the tracker hangs up"));
    }
    assert_eq!(ports(&Client::new().announce(&tracker.addr, 1).await), []);
    tracker.stop().await;
}
