//! Which nodes there are, and who holds what: clients and a tracker over loopback.

#[allow(dead_code, reason = "shared with other tests")]
mod common;

use common::{HANG, Tracker, client_of, manifest};
use dft_protocol::id::ManifestId;
use dft_tracker::address::peer_id_from_libp2p;
use dft_tracker::catalogue::node::{ControlAddr, HostName, NodeRecord, Version};
use dft_tracker::catalogue::protocol::MANY_MAX;
use dft_tracker::client::{Client, ClientConfig, ClientError};
use dft_tracker::protocol::{Announce, Request, Response};
use dft_tracker::registry::LinkAddrs;
use dft_tracker::server::{IDLE_TIMEOUT, new_swarm, tracker_behaviour};
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::request_response::{self, Message, ProtocolSupport};
use libp2p::swarm::SwarmEvent;

fn record(host: &str) -> NodeRecord {
    NodeRecord {
        host: HostName::new(host).expect("a host name"),
        control: vec![ControlAddr::new("/ip4/10.0.0.1/tcp/7").expect("an address")],
        links: LinkAddrs::default(),
        quota_bytes: 100,
        used_bytes: 7,
        datasets: 1,
        up_rate: 0,
        down_rate: 5,
        version: Version::new("0.1.0").expect("a version"),
    }
}

async fn hosts(client: &Client) -> Vec<String> {
    let nodes = client.nodes().await.expect("nodes");
    let mut hosts: Vec<String> = nodes.iter().map(|node| node.record.host.to_string()).collect();
    hosts.sort_unstable();
    hosts
}

/// Announces `manifest` to the tracker's registry, as a node with this identity.
async fn announce(keypair: Keypair, tracker: &Tracker, manifest: ManifestId, complete: bool) {
    let mut swarm = new_swarm(keypair, tracker_behaviour(ProtocolSupport::Outbound), IDLE_TIMEOUT, None)
        .expect("a certificate");
    swarm.dial(tracker.addr.clone()).expect("a dial");
    let addrs = LinkAddrs::default();
    let announce = Announce { manifest, link_port: 7, addrs, complete, site: None, want: 0 };
    let answered = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                    swarm.behaviour_mut().send_request(&peer_id, Request::Announce(announce.clone()));
                }
                SwarmEvent::Behaviour(request_response::Event::Message {
                    message: Message::Response { response: Response::Peers { .. }, .. },
                    ..
                }) => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(HANG, answered).await.expect("an answer");
}

#[tokio::test]
async fn nodes_are_listed_until_they_leave_or_vanish() {
    let tracker = Tracker::start().await;
    let reader = tracker.reader();
    let [one, two, three] = [tracker.reader(), tracker.reader(), tracker.reader()];
    one.announce_node(&record("one")).await.expect("taken");
    two.announce_node(&record("two")).await.expect("taken");
    three.announce_node(&record("three")).await.expect("taken");
    assert_eq!(hosts(&reader).await, ["one", "three", "two"]);
    let nodes = reader.nodes().await.expect("nodes");
    assert!(nodes.iter().all(|node| node.observed.is_loopback() && node.record.used_bytes == 7));
    two.leave_node().await.expect("gone");
    assert_eq!(hosts(&reader).await, ["one", "three"]);
    // One that dies closes its connections without a word.
    drop(three);
    let noticed = async { while hosts(&reader).await != ["one"] {} };
    tokio::time::timeout(HANG, noticed).await.expect("it is noticed");
    tracker.stop().await;
}

#[tokio::test]
async fn holders_are_the_announced_peers_with_their_hosts() {
    let tracker = Tracker::start().await;
    let id = manifest("one", 1).id();
    let reader = tracker.reader();
    assert_eq!(reader.holders(id).await, Ok(Vec::new()));
    let keypair = Keypair::generate_ed25519();
    let peer = peer_id_from_libp2p(&keypair.public().to_peer_id()).expect("38 bytes");
    let config = ClientConfig {
        keypair: keypair.clone(),
        trackers: vec![tracker.addr.clone()],
        token: None,
        network_key: None,
    };
    let node = Client::start(config).expect("a client");
    node.announce_node(&record("node-1")).await.expect("taken");
    announce(keypair, &tracker, id, true).await;
    announce(Keypair::generate_ed25519(), &tracker, id, false).await;
    let holders = reader.holders(id).await.expect("holders");
    assert_eq!(holders.len(), 2);
    for holder in holders {
        let known = holder.peer == peer;
        assert_eq!(holder.complete, known);
        assert_eq!(holder.host.map(|host| host.to_string()), known.then(|| "node-1".to_owned()));
        assert_eq!(holder.addrs.as_slice().len(), 1);
    }
    // The same of more datasets than one answer holds, without addresses.
    let unknown =
        (0..=MANY_MAX).map(|number| ManifestId::from_bytes([u8::try_from(number % 251).unwrap(); 32]));
    let ids: Vec<ManifestId> = unknown.chain([id]).collect();
    let many = reader.many_holders(&ids).await.expect("holders");
    assert_eq!(many.len(), ids.len());
    assert!(many[..=MANY_MAX].iter().all(Vec::is_empty));
    let [of_last @ .., one, other] = many[MANY_MAX + 1].as_slice() else { panic!("two holders: {many:?}") };
    assert!(of_last.is_empty() && one.complete != other.complete, "{one:?} {other:?}");
    let known = if one.peer == peer { one } else { other };
    assert!(known.complete && known.host.as_ref().is_some_and(|host| host.as_str() == "node-1"));
    assert!(known.addrs.as_slice().is_empty());
    tracker.stop().await;
}

#[tokio::test]
async fn what_one_of_two_trackers_knows_is_known() {
    let [one, two] = [Tracker::start().await, Tracker::start().await];
    let of = |tracker: &Tracker| client_of(vec![tracker.addr.clone()], None);
    let (node_one, node_two) = (of(&one), of(&two));
    node_one.announce_node(&record("one")).await.expect("taken");
    node_two.announce_node(&record("two")).await.expect("taken");
    let both = client_of(vec![one.addr.clone(), two.addr.clone()], None);
    assert_eq!(hosts(&both).await, ["one", "two"]);
    both.announce_node(&record("both")).await.expect("taken");
    assert_eq!(hosts(&of(&one)).await, ["both", "one"]);
    one.stop().await;
    assert_eq!(hosts(&both).await, ["both", "two"]);
    two.stop().await;
    assert!(matches!(both.nodes().await, Err(ClientError::Unreachable { .. })));
}
