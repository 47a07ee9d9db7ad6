//! Discovery over loopback, and the texts that name trackers.

use std::net::Ipv4Addr;
use std::path::Path;

use dft_tracker::codec::{Message, MessageCodec, MessageError};
use dft_tracker::protocol::{Request, Response};
use dft_tracker::server::{self, ServerConfig};
use futures::StreamExt;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::SwarmEvent;

use super::*;

/// A bound for what would otherwise hang.
const HANG: Duration = Duration::from_secs(60);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn config(link_port: u16) -> Config {
    Config {
        keypair: Keypair::generate_ed25519(),
        listen: LOOPBACK,
        port: 0,
        mdns: true,
        trackers: Vec::new(),
        embedded_tracker: None,
        link_port,
        site: None,
        network_key: None,
        neighbours: None,
    }
}

/// The dataset that all look for who are not told otherwise.
fn dataset(number: u8) -> Dataset {
    let manifest = ManifestId::from_bytes([number; 32]);
    let (asks_lan_in, quiet_for) = (Some(Duration::ZERO), Duration::ZERO);
    Dataset { manifest, complete: false, trackers: Vec::new(), asks_lan_in, quiet_for }
}

struct Node {
    discovery: Discovery,
    events: mpsc::Receiver<Event>,
}

impl Node {
    async fn start(config: Config) -> Self {
        let node = Self::without_dataset(config).await;
        node.discovery.add(dataset(1));
        node
    }

    async fn without_dataset(config: Config) -> Self {
        let (discovery, events) = spawn(config).await.expect("discovery starts");
        Self { discovery, events }
    }

    /// Events until `wanted` says what one of them means.
    async fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.recv().await.expect("discovery runs");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(HANG, found).await.expect("an event")
    }

    async fn until_found(&mut self, link_port: u16) -> Source {
        let addr = SocketAddr::new(LOOPBACK, link_port);
        self.until(|event| match event {
            Event::PeersFound { peers, source, .. } if peers.iter().any(|peer| peer.addr == addr) => {
                Some(source)
            }
            _ => None,
        })
        .await
    }

    async fn until_found_of(&mut self, wanted: ManifestId) {
        self.until(|event| match event {
            Event::PeersFound { manifest, .. } if manifest == wanted => Some(()),
            _ => None,
        })
        .await;
    }

    async fn until_up(&mut self) -> Multiaddr {
        self.until(|event| match event {
            Event::TrackerUp { addr } => Some(addr),
            _ => None,
        })
        .await
    }

    async fn until_down(&mut self) -> String {
        self.until(|event| match event {
            Event::TrackerDown { reason, .. } => Some(reason),
            _ => None,
        })
        .await
    }
}

struct Tracker {
    addr: Multiaddr,
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Tracker {
    async fn start(state: &Path) -> Self {
        Self::start_on(state, 0).await
    }

    async fn start_on(state: &Path, port: u16) -> Self {
        let listen = SocketAddr::new(LOOPBACK, port);
        let config = ServerConfig { listen, state: state.to_owned(), network_key: None, catalogue: None };
        let (ready, is_ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let ready = |up: server::Ready| ready.send(up.addrs).expect("the test waits");
            let notify = |notice| panic!("{notice:?}");
            server::run(config, ready, notify, async { drop(stopped.await) }).await.expect("no error");
        });
        let addr = is_ready.await.expect("the tracker starts").remove(0);
        Self { addr, task, stop }
    }

    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        self.task.await.expect("no panic");
    }
}

#[tokio::test]
async fn an_embedded_tracker_brings_peers_together() {
    let state = tempfile::tempdir().expect("a directory");
    let mut seeder =
        Node::start(Config { embedded_tracker: Some(state.path().to_owned()), ..config(1) }).await;
    let listening = seeder
        .until(|event| match event {
            Event::Listening { addrs } => Some(addrs),
            _ => None,
        })
        .await;
    let trackers = seeder.discovery.tracker_addrs();
    assert_eq!((trackers.len(), &trackers), (1, &listening));
    let mut fetcher = Node::start(Config { trackers: trackers.clone(), ..config(2) }).await;
    assert_eq!(fetcher.until_up().await, trackers[0]);
    assert_eq!(fetcher.until_found(1).await, Source::Tracker(trackers[0].clone()));
    assert_eq!(seeder.until_found(2).await, Source::EmbeddedTracker);
    assert_eq!(fetcher.discovery.tracker_addrs(), []);
}

#[tokio::test]
async fn who_started_first_hears_of_who_came_later() {
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let with_tracker = |link_port| Config { trackers: vec![tracker.addr.clone()], ..config(link_port) };
    let mut first = Node::start(with_tracker(1)).await;
    first.until_up().await;
    let mut second = Node::start(with_tracker(2)).await;
    second.until_found(1).await;
    first.until_found(2).await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_tracker_that_comes_back_is_used_again() {
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let addr = tracker.addr.clone();
    let mut node = Node::start(Config { trackers: vec![addr.clone()], ..config(1) }).await;
    node.until_up().await;
    tracker.stop().await;
    // It went either between two questions or in the middle of one.
    let reason = node.until_down().await;
    assert!(reason.contains("refused") || reason.contains("closed"), "{reason}");
    let tracker = Tracker::start(state.path()).await;
    assert_eq!(tracker.addr, addr);
    node.until_up().await;
    tracker.stop().await;
}

#[tokio::test]
async fn trackers_go_by_name_and_by_address_without_identity() {
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let port = dft_tracker::address::socket_addr_of(&tracker.addr).expect("an address").port();
    for text in
        [format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("/dns4/localhost/tcp/{port}")]
    {
        let addr = parse_tracker(&text).expect("an address");
        let mut node = Node::start(Config { trackers: vec![addr.clone()], ..config(1) }).await;
        assert_eq!(node.until_up().await, addr);
    }
    tracker.stop().await;
}

#[tokio::test]
async fn addresses_with_one_identity_are_one_tracker() {
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let Some(Protocol::P2p(identity)) = tracker.addr.iter().last() else { panic!("no identity") };
    // A port that refuses: its listener is gone.
    let gone = std::net::TcpListener::bind((LOOPBACK, 0)).and_then(|port| port.local_addr()).expect("a port");
    let dead = dft_tracker::address::to_multiaddr(gone).with(Protocol::P2p(identity));
    let mut node =
        Node::start(Config { trackers: vec![dead.clone(), tracker.addr.clone()], ..config(1) }).await;
    let first = node
        .until(|event| match event {
            Event::TrackerUp { addr } => Some(Ok(addr)),
            Event::TrackerDown { reason, .. } => Some(Err(reason)),
            _ => None,
        })
        .await;
    assert_eq!(first, Ok(dead));
    tracker.stop().await;
}

#[tokio::test]
async fn a_tracker_with_another_identity_is_down() {
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let other = Keypair::generate_ed25519().public().to_peer_id();
    let addr = tracker.addr.iter().take(2).chain([Protocol::P2p(other)]).collect();
    let mut node = Node::start(Config { trackers: vec![addr], ..config(1) }).await;
    assert!(node.until_down().await.starts_with("another identity answers there"));
    tracker.stop().await;
}

#[tokio::test]
async fn who_takes_leave_is_not_found_any_more() {
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let with_tracker = |link_port| Config { trackers: vec![tracker.addr.clone()], ..config(link_port) };
    let mut leaves = Node::start(with_tracker(1)).await;
    let mut stays = Node::start(with_tracker(2)).await;
    leaves.until_up().await;
    stays.until_up().await;
    leaves.discovery.shutdown().await;
    let mut late = Node::start(with_tracker(3)).await;
    let found = late
        .until(|event| match event {
            Event::PeersFound { peers, .. } => Some(peers),
            _ => None,
        })
        .await;
    assert_eq!(found.iter().map(|peer| peer.addr.port()).collect::<Vec<_>>(), [2]);
    tracker.stop().await;
}

#[tokio::test]
async fn many_datasets_share_one_tracker_and_each_finds_its_own_peers() {
    const DATASETS: u8 = 40;
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let with_tracker = |link_port| Config { trackers: vec![tracker.addr.clone()], ..config(link_port) };
    let holder = Node::without_dataset(with_tracker(1)).await;
    let mut seeker = Node::without_dataset(with_tracker(2)).await;
    for number in 0..DATASETS {
        holder.discovery.add(dataset(number));
        seeker.discovery.add(dataset(number));
    }
    let (mut left, mut ups) = ((0..DATASETS).map(|number| dataset(number).manifest).collect::<Vec<_>>(), 0);
    seeker
        .until(|event| {
            match event {
                Event::PeersFound { manifest, .. } => left.retain(|wanted| *wanted != manifest),
                Event::TrackerUp { .. } => ups += 1,
                event => assert!(matches!(event, Event::Listening { .. }), "{event:?}"),
            }
            left.is_empty().then_some(())
        })
        .await;
    assert_eq!(ups, 1, "told once, not for each dataset");
    tracker.stop().await;
}

#[tokio::test]
async fn a_tracker_that_comes_back_hears_of_every_dataset() {
    const DATASETS: u8 = 10;
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let port = dft_tracker::address::socket_addr_of(&tracker.addr).expect("an address").port();
    let addr = parse_tracker(&format!("127.0.0.1:{port}")).expect("an address");
    let with_tracker = |link_port| Config { trackers: vec![addr.clone()], ..config(link_port) };
    let mut holder = Node::without_dataset(with_tracker(1)).await;
    (0..DATASETS).for_each(|number| holder.discovery.add(dataset(number)));
    holder.until_up().await;
    tracker.stop().await;
    holder.until_down().await;
    // Another one on that port, which remembers nothing.
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start_on(state.path(), port).await;
    holder.until_up().await;
    let mut seeker = Node::without_dataset(with_tracker(2)).await;
    let mut left: Vec<ManifestId> = (0..DATASETS).map(|number| dataset(number).manifest).collect();
    (0..DATASETS).for_each(|number| seeker.discovery.add(dataset(number)));
    seeker
        .until(|event| {
            if let Event::PeersFound { manifest, .. } = event {
                left.retain(|wanted| *wanted != manifest);
            }
            left.is_empty().then_some(())
        })
        .await;
    tracker.stop().await;
}

/// A request as a tracker knows it that has no shelves.
#[derive(Debug, Clone)]
struct OldRequest(Request);

impl Message for OldRequest {
    const LEN_MAX: usize = Request::LEN_MAX;

    fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        match Request::decode(bytes)? {
            Request::Shelve(_) => Err(MessageError::Invalid("a request of no known kind")),
            request => Ok(Self(request)),
        }
    }
}

#[tokio::test]
async fn a_tracker_without_shelves_hears_of_each_dataset() {
    const DATASETS: u8 = 20;
    let protocols = [(dft_tracker::protocol::PROTOCOL, ProtocolSupport::Inbound)];
    let behaviour: request_response::Behaviour<MessageCodec<OldRequest, Response>> =
        request_response::Behaviour::new(protocols, request_response::Config::default());
    let idle = Duration::from_secs(10);
    let mut tracker = server::new_swarm(Keypair::generate_ed25519(), behaviour, idle, None).expect("a swarm");
    listen_on(&mut tracker, SocketAddr::new(LOOPBACK, 0)).expect("it listens");
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = tracker.select_next_some().await {
            break address;
        }
    };
    let holder = Node::without_dataset(Config { trackers: vec![addr], ..config(1) }).await;
    let mut left: Vec<ManifestId> = (0..DATASETS).map(|number| ManifestId::of_info(&[number])).collect();
    holder.discovery.shelve(left.clone());
    let announced = async {
        while !left.is_empty() {
            if let SwarmEvent::Behaviour(request_response::Event::Message {
                message: request_response::Message::Request { request: OldRequest(request), channel, .. },
                ..
            }) = tracker.select_next_some().await
            {
                let Request::Announce(announce) = request else { panic!("{request:?}") };
                assert!(announce.complete);
                left.retain(|manifest| *manifest != announce.manifest);
                let peers = Response::Peers { interval_s: 30, peers: Vec::new() };
                tracker.behaviour_mut().send_response(channel, peers).expect("the asker waits");
            }
        }
    };
    tokio::time::timeout(HANG, announced).await.expect("each is announced");
}

/// Of datasets 1 and 3, both looked for, only the latter is found.
async fn assert_first_is_gone(config: Config) {
    let mut late = Node::without_dataset(config).await;
    late.discovery.add(dataset(1));
    late.discovery.add(dataset(3));
    let found = late
        .until(|event| match event {
            Event::PeersFound { manifest, .. } => Some(manifest),
            _ => None,
        })
        .await;
    assert_eq!(found, dataset(3).manifest);
}

#[tokio::test]
async fn a_dataset_that_was_removed_is_not_found_any_more() {
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let with_tracker = |link_port| Config { trackers: vec![tracker.addr.clone()], ..config(link_port) };
    let mut holder = Node::start(with_tracker(1)).await;
    holder.discovery.add(dataset(2));
    let mut seeker = Node::without_dataset(with_tracker(2)).await;
    seeker.discovery.add(dataset(2));
    seeker.until_found(1).await;
    holder.until_up().await;
    holder.discovery.remove(dataset(1).manifest);
    // What was ordered later is done later: once this one is found, the other is gone.
    holder.discovery.add(dataset(3));
    seeker.discovery.add(dataset(3));
    seeker.until_found_of(dataset(3).manifest).await;
    assert_first_is_gone(with_tracker(4)).await;
    tracker.stop().await;
}

#[tokio::test]
async fn thousands_at_rest_are_found_each_and_not_when_they_went() {
    const DATASETS: usize = 10_000;
    let id = |number: usize| ManifestId::of_info(&number.to_be_bytes());
    let of = |manifest| Dataset { manifest, ..dataset(1) };
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let port = dft_tracker::address::socket_addr_of(&tracker.addr).expect("an address").port();
    let addr = parse_tracker(&format!("127.0.0.1:{port}")).expect("an address");
    let with_tracker = |link_port| Config { trackers: vec![addr.clone()], ..config(link_port) };
    let mut holder = Node::without_dataset(with_tracker(1)).await;
    holder.discovery.shelve((0..DATASETS).map(id).collect());
    let mut seeker = Node::without_dataset(with_tracker(2)).await;
    for number in [0, 5_000, DATASETS - 1] {
        seeker.discovery.add(of(id(number)));
        seeker.until_found_of(id(number)).await;
    }
    holder.discovery.remove(id(5_000));
    holder.discovery.set_partial(id(0));
    holder.discovery.shelve(vec![id(DATASETS)]);
    seeker.discovery.add(of(id(DATASETS)));
    seeker.until_found_of(id(DATASETS)).await;
    let mut late = Node::without_dataset(with_tracker(3)).await;
    late.discovery.add(of(id(5_000)));
    late.discovery.add(of(id(0)));
    let found = late
        .until(|event| match event {
            Event::PeersFound { manifest, peers, .. } => {
                let holds = peers.iter().any(|peer| peer.addr.port() == 1);
                holds.then_some(manifest)
            }
            _ => None,
        })
        .await;
    assert_eq!(found, id(0), "what is left of it is told of; the other one went");
    // Another tracker at that address remembers nothing.
    holder.until_up().await;
    tracker.stop().await;
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start_on(state.path(), port).await;
    let mut seeker = Node::without_dataset(with_tracker(4)).await;
    seeker.discovery.add(of(id(7_000)));
    seeker.until_found_of(id(7_000)).await;
    tracker.stop().await;
}

#[tokio::test]
async fn what_an_earlier_process_announced_is_taken_back() {
    let state = tempfile::tempdir().expect("a directory");
    let tracker = Tracker::start(state.path()).await;
    let with_tracker = |link_port| Config { trackers: vec![tracker.addr.clone()], ..config(link_port) };
    let identity = Keypair::generate_ed25519();
    let holder = || Config { keypair: identity.clone(), ..with_tracker(1) };
    let mut killed = Node::start(holder()).await;
    killed.until_up().await;
    drop(killed);
    let again = Node::without_dataset(holder()).await;
    again.discovery.remove(dataset(1).manifest);
    // What was ordered later is done later: once this one is found, the other is gone.
    again.discovery.add(dataset(3));
    let mut seeker = Node::without_dataset(with_tracker(2)).await;
    seeker.discovery.add(dataset(3));
    seeker.until_found_of(dataset(3).manifest).await;
    assert_first_is_gone(with_tracker(4)).await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error() {
    let taken = std::net::TcpListener::bind((LOOPBACK, 0)).expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let error = spawn(Config { port, ..config(1) }).await.expect_err("the port is taken");
    assert!(
        matches!(&error, DiscoveryError::Listen { error, .. } if error.kind() == io::ErrorKind::AddrInUse),
        "{error}"
    );
}

#[tokio::test]
async fn a_second_embedded_tracker_on_one_directory_is_told_so() {
    let state = tempfile::tempdir().expect("a directory");
    let with_tracker = || Config { embedded_tracker: Some(state.path().to_owned()), ..config(1) };
    let first = Node::start(with_tracker()).await;
    let error = spawn(with_tracker()).await.expect_err("the directory is in use");
    assert!(error.to_string().contains("another tracker uses"), "{error}");
    drop(first);
}

#[test]
fn trackers_are_named_in_many_ways() {
    let id = "12D3KooWGLLz1Jj4W2V8syJY1q6S3FSMzgLXDEaBoMEwNvvWmPDu";
    // text, multiaddress
    let good = [
        ("10.0.0.1:9", "/ip4/10.0.0.1/tcp/9".to_owned()),
        ("[fd00::1]:9", "/ip6/fd00::1/tcp/9".to_owned()),
        ("head-node:9", "/dns/head-node/tcp/9".to_owned()),
        ("tracker.example.org:9", "/dns/tracker.example.org/tcp/9".to_owned()),
        ("/ip4/10.0.0.1/tcp/9", "/ip4/10.0.0.1/tcp/9".to_owned()),
        (&format!("/ip4/10.0.0.1/tcp/9/p2p/{id}"), format!("/ip4/10.0.0.1/tcp/9/p2p/{id}")),
        (&format!("/dns4/host/tcp/9/p2p/{id}"), format!("/dns4/host/tcp/9/p2p/{id}")),
    ];
    for (text, addr) in good {
        assert_eq!(parse_tracker(text).map(|addr| addr.to_string()), Ok(addr), "{text}");
    }
    let long = format!("{}:9", "h".repeat(254));
    let bad = [
        "",
        ":",
        "host",
        "host:",
        ":9",
        "host:0",
        "host:65536",
        "host:x",
        "ho st:9",
        "fd00::1:9",
        "10.0.0.1",
        "0.0.0.0:9",
        "http://host:9",
        &long,
        "/",
        "/ip4/10.0.0.1",
        "/ip4/10.0.0.1/tcp/0",
        "/ip4/10.0.0.1/udp/9",
        "/ip4/10.0.0.1/tcp/9/ws",
        "/ip4/10.0.0.1/tcp/9/p2p/x",
        "/tcp/9",
        "/unix/tmp",
    ];
    for text in bad {
        assert!(parse_tracker(text).is_err(), "{text}");
    }
}
