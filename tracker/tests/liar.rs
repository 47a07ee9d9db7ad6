//! Clients of trackers that lie, keep silent, or speak nonsense; trackers with such clients.

#[allow(dead_code, reason = "shared with other tests")]
mod common;

use std::net::{Ipv4Addr, SocketAddr};

use common::{HANG, Tracker, client_of, manifest, name};
use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::MANIFEST_LEN_MAX;
use dft_tracker::catalogue::name::Pattern;
use dft_tracker::catalogue::protocol::{BLOCK_LEN_MAX, CatalogueCodec, Hello, Record, Request, Response};
use dft_tracker::client::{Client, ClientError, PutOutcome};
use dft_tracker::server::{IDLE_TIMEOUT, catalogue_behaviour, listen_on, new_swarm};
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::request_response::{self, Message, ProtocolSupport};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use tokio::task::JoinHandle;

fn swarm(support: ProtocolSupport) -> Swarm<request_response::Behaviour<CatalogueCodec>> {
    new_swarm(Keypair::generate_ed25519(), catalogue_behaviour(support), IDLE_TIMEOUT, None)
        .expect("a certificate")
}

/// A tracker that answers whatever `answer` says, and nothing where that is nothing.
struct Liar {
    addr: Multiaddr,
    task: JoinHandle<()>,
}

impl Liar {
    async fn start(mut answer: impl FnMut(Request) -> Option<Response> + Send + 'static) -> Self {
        let mut swarm = swarm(ProtocolSupport::Inbound);
        listen_on(&mut swarm, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let task = tokio::spawn(async move {
            let mut unanswered = Vec::new();
            loop {
                if let SwarmEvent::Behaviour(request_response::Event::Message {
                    message: Message::Request { request, channel, .. },
                    ..
                }) = swarm.select_next_some().await
                {
                    match answer(request) {
                        // The client may have had enough.
                        Some(response) => {
                            drop(swarm.behaviour_mut().send_response(channel, response));
                        }
                        None => unanswered.push(channel),
                    }
                }
            }
        });
        Self { addr, task }
    }

    fn client(&self) -> Client {
        client_of(vec![self.addr.clone()], None)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn record(text: &str, id: ManifestId) -> Record {
    let owner = PeerId::from_bytes(&[7; 38]).expect("38 bytes");
    Record { name: name(text), id, size: 5, pieces: 1, entries: 1, created: 0, owner }
}

fn is_invalid<T: std::fmt::Debug>(result: &Result<T, ClientError>) -> bool {
    matches!(result, Err(ClientError::Invalid { .. }))
}

#[tokio::test]
async fn a_manifest_that_is_not_the_one_of_the_record_is_refused() {
    let (one, two) = (manifest("one", 1), manifest("two", 1));
    let bytes = two.encode();
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a length");
    let found = |text: &str, id, len, block: &[u8]| Response::Found {
        record: record(text, id),
        len,
        block: block.into(),
    };
    let too_long = u32::try_from(MANIFEST_LEN_MAX).expect("64 MiB") + 1;
    let lies = [
        found("n", one.id(), len(&bytes), &bytes),
        found("other", two.id(), len(&bytes), &bytes),
        found("n", two.id(), len(&bytes) - 1, &bytes),
        found("n", two.id(), len(&bytes) + 1, &bytes),
        found("n", two.id(), too_long, &[7; BLOCK_LEN_MAX]),
        found("n", two.id(), 3, &[7; 3]),
        found("n", two.id(), 0, &[]),
        Response::Done,
        Response::Records { records: Vec::new(), next: None },
    ];
    for lie in lies {
        let told = lie.clone();
        let liar = Liar::start(move |_| Some(told.clone())).await;
        let got = liar.client().get(&name("n")).await;
        assert!(is_invalid(&got), "{lie:?}: {got:?}");
    }
}

#[tokio::test]
async fn blocks_that_drip_end_the_get() {
    let id = manifest("one", 1).id();
    let len = u32::try_from(4 * BLOCK_LEN_MAX).expect("1 MiB");
    let first = Response::Found { record: record("n", id), len, block: vec![7; BLOCK_LEN_MAX] };
    let liar = Liar::start(move |request| match request {
        Request::Get { .. } => Some(first.clone()),
        _ => Some(Response::Block(vec![7])),
    })
    .await;
    assert!(is_invalid(&liar.client().get(&name("n")).await));
}

#[tokio::test]
async fn lists_and_holders_without_an_end_end() {
    let mut pages = 0_u64;
    let liar = Liar::start(move |request| {
        pages += 1;
        Some(match request {
            Request::List { .. } => {
                Response::Records { records: Vec::new(), next: Some(name(&format!("n{pages:09}"))) }
            }
            Request::Holders { .. } => {
                Response::Holders { holders: Vec::new(), next: PeerId::from_bytes(&pages.to_be_bytes()) }
            }
            _ => Response::Nodes { nodes: Vec::new(), more: true },
        })
    })
    .await;
    let client = liar.client();
    let asked = async {
        assert!(is_invalid(&client.list(&Pattern::all()).await));
        assert_eq!(client.holders(manifest("one", 1).id()).await, Ok(Vec::new()));
        assert_eq!(client.nodes().await, Ok(Vec::new()));
    };
    tokio::time::timeout(HANG, asked).await.expect("they end");
}

#[tokio::test]
async fn a_list_out_of_order_is_refused() {
    let id = manifest("one", 1).id();
    for records in [vec![record("b", id), record("a", id)], vec![record("a", id), record("a", id)]] {
        let liar =
            Liar::start(move |_| Some(Response::Records { records: records.clone(), next: None })).await;
        assert!(is_invalid(&liar.client().list(&Pattern::all()).await));
    }
}

#[tokio::test]
async fn who_fails_is_passed_over_for_one_who_answers() {
    let tracker = Tracker::start().await;
    let one = manifest("one", 1);
    assert_eq!(tracker.writer().put(&name("n"), &one).await, Ok(PutOutcome::Created));
    let refuses = Liar::start(|_| Some(Response::Refused(dft_tracker::protocol::Reason::new("no")))).await;
    let gone = {
        let gone = Tracker::start().await;
        let addr = gone.addr.clone();
        gone.stop().await;
        addr
    };
    let trackers = vec![gone, refuses.addr.clone(), tracker.addr.clone()];
    let client = client_of(trackers, Some(tracker.token()));
    assert_eq!(client.record(&name("n")).await.expect("an answer").expect("there").id, one.id());
    assert_eq!(client.put(&name("m"), &one).await, Ok(PutOutcome::Created));
    tracker.stop().await;
}

/// What a tracker answers to requests on one connection, one after the other.
async fn answers(tracker: &Tracker, requests: Vec<Request>) -> Vec<Response> {
    let mut swarm = swarm(ProtocolSupport::Outbound);
    swarm.dial(tracker.addr.clone()).expect("a dial");
    let asked = async {
        let peer = loop {
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
                break peer_id;
            }
        };
        let mut responses = Vec::new();
        for request in requests {
            swarm.behaviour_mut().send_request(&peer, request);
            responses.push(loop {
                match swarm.select_next_some().await {
                    SwarmEvent::Behaviour(request_response::Event::Message {
                        message: Message::Response { response, .. },
                        ..
                    }) => break response,
                    SwarmEvent::Behaviour(other) => panic!("{other:?}"),
                    _ => {}
                }
            });
        }
        responses
    };
    tokio::time::timeout(HANG, asked).await.expect("answers")
}

#[tokio::test]
async fn nobody_writes_without_a_proof_for_this_connection() {
    let tracker = Tracker::start().await;
    let one = manifest("one", 1);
    let put = Request::Put { name: name("n"), id: one.id(), manifest: Some(one.encode()) };
    let stage = Request::Stage { id: one.id(), len: 1, offset: 0, bytes: vec![7] };
    let remove = Request::Remove { name: name("n"), id: one.id(), forget: true };
    let prove = Request::Prove { proof: [7; 32], epoch: 1 };
    let requests = vec![prove.clone(), put.clone(), Request::Hello, prove.clone(), put, stage, remove, prove];
    let responses = answers(&tracker, requests).await;
    for (number, response) in responses.iter().enumerate() {
        if number == 2 {
            assert!(matches!(response, Response::Hello(Hello { leads: true, open: false, epoch: 1, .. })));
        } else {
            assert_eq!(*response, Response::Unproven, "request {number}");
        }
    }
    // Each challenge is another one.
    let hellos = answers(&tracker, vec![Request::Hello; 3]).await;
    assert!(hellos.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(tracker.reader().list(&Pattern::all()).await, Ok(Vec::new()));
    tracker.stop().await;
}
