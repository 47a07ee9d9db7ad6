//! The daemon's half of the loop: `/dft/node/1`, asked and answered.

use std::net::SocketAddr;

use dft_tracker::address::{peer_id_from_libp2p, peer_id_to_libp2p, socket_addr_of, to_multiaddr};
use libp2p::request_response::{self, Message, ResponseChannel};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use super::Task;
use crate::net::discovery::node::{NodeRequest, NodeResponse};
use crate::net::discovery::{AskNode, Neighbourly, NodeError};

/// Questions to this node that wait for an answer; more are refused.
const ANSWERING_MAX: usize = 64;

impl Task {
    /// mDNS told of a node.
    pub(super) fn heard_of_node(&self, peer: &PeerId, addr: &Multiaddr) {
        let (Some(neighbours), Some(node)) = (&self.config.neighbours, peer_id_from_libp2p(peer)) else {
            return;
        };
        if let Some(addr) = socket_addr_of(addr) {
            // Where nobody keeps up, mDNS tells again.
            let _ = neighbours.try_send(Neighbourly::Heard { node, addr });
        }
    }

    pub(super) fn ask_node(&mut self, ask: AskNode) {
        let AskNode { node, addrs, request, answer } = ask;
        let Some(peer) = peer_id_to_libp2p(&node) else {
            let _ = answer.send(Err(NodeError("its identity is not valid".into())));
            return;
        };
        let addrs: Vec<Multiaddr> = addrs.into_iter().map(to_multiaddr).collect();
        let behaviour = &mut self.swarm.behaviour_mut().nodes;
        let request = if addrs.is_empty() {
            behaviour.send_request(&peer, request)
        } else {
            behaviour.send_request_with_addresses(&peer, request, addrs)
        };
        self.node_questions.insert(request, answer);
    }

    pub(super) fn on_nodes(&mut self, event: request_response::Event<NodeRequest, NodeResponse>) {
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                Message::Request { request, channel, .. } => {
                    let ip = self.remotes.get(&connection_id).copied();
                    let from = ip.map(|ip| SocketAddr::new(ip, 0));
                    self.on_node_request(&peer, from, request, channel);
                }
                Message::Response { request_id, response } => {
                    if let Some(answer) = self.node_questions.remove(&request_id) {
                        let _ = answer.send(Ok(response));
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                if let Some(answer) = self.node_questions.remove(&request_id) {
                    let _ = answer.send(Err(NodeError(error.to_string())));
                }
            }
            _ => {}
        }
    }

    fn on_node_request(
        &mut self,
        peer: &PeerId,
        from: Option<SocketAddr>,
        request: NodeRequest,
        channel: ResponseChannel<NodeResponse>,
    ) {
        let (Some(neighbours), Some(node)) = (&self.config.neighbours, peer_id_from_libp2p(peer)) else {
            return;
        };
        let (answer, answered) = oneshot::channel();
        let asked = Neighbourly::Asked { node, from: from.map(|from| from.ip()), request, answer };
        let busy = self.node_answers.len() >= ANSWERING_MAX;
        if busy || matches!(neighbours.try_send(asked), Err(mpsc::error::TrySendError::Full(_))) {
            let _ =
                self.swarm.behaviour_mut().nodes.send_response(channel, NodeResponse::refused("it is busy"));
            return;
        }
        self.node_answers.push(Box::pin(async move { (channel, answered.await.ok()) }));
    }

    pub(super) fn answer_node(
        &mut self,
        channel: ResponseChannel<NodeResponse>,
        answer: Option<NodeResponse>,
    ) {
        let answer = answer.unwrap_or_else(|| NodeResponse::refused("it is ending"));
        // The asker may have gone meanwhile.
        let _ = self.swarm.behaviour_mut().nodes.send_response(channel, answer);
    }
}
