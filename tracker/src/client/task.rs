//! The client's libp2p swarm: one connection to each address that is asked, and who waits for
//! which answer.

use std::collections::HashMap;

use futures::StreamExt;
use libp2p::core::Endpoint;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{
    Behaviour, Event, Message, OutboundFailure, OutboundRequestId, ProtocolSupport,
};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, tls};
use tokio::sync::{mpsc, oneshot};

use crate::catalogue::protocol::{CatalogueCodec, Request, Response};
use crate::server::{IDLE_TIMEOUT, catalogue_behaviour, new_swarm};

/// Questions that wait for the task: the client's callers wait for their turn.
const ASKS_MAX: usize = 64;

/// Why a tracker gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AskError {
    /// It cannot be asked.
    Unreachable(String),
    /// It refuses.
    Refused(String),
    /// The connection ended with the question on its way: a new one may do.
    Lost,
}

impl AskError {
    pub(super) fn stopped() -> Self {
        Self::Unreachable("the client has stopped".into())
    }
}

/// An answer, and whose it is.
pub(super) struct Answered {
    pub(super) response: Response,
    pub(super) peer: PeerId,
}

/// A question to whoever is at `addr`.
pub(super) struct Ask {
    pub(super) addr: Multiaddr,
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Result<Answered, AskError>>,
}

enum Connection {
    Dialling(ConnectionId, Vec<Ask>),
    Open(ConnectionId, PeerId),
}

/// The task. Its tables are bounded by the addresses that a client asks, and by the questions
/// that it asks at once.
pub(super) struct Task {
    swarm: Swarm<Behaviour<CatalogueCodec>>,
    asks: mpsc::Receiver<Ask>,
    connections: HashMap<Multiaddr, Connection>,
    waiting: HashMap<OutboundRequestId, (PeerId, oneshot::Sender<Result<Answered, AskError>>)>,
}

impl Task {
    pub(super) fn new(
        keypair: Keypair,
        network_key: Option<[u8; 32]>,
    ) -> Result<(mpsc::Sender<Ask>, Self), tls::certificate::GenError> {
        let behaviour = catalogue_behaviour(ProtocolSupport::Outbound);
        let swarm = new_swarm(keypair, behaviour, IDLE_TIMEOUT, network_key)?;
        let (sender, asks) = mpsc::channel(ASKS_MAX);
        Ok((sender, Self { swarm, asks, connections: HashMap::new(), waiting: HashMap::new() }))
    }

    /// Ends when nobody can ask any more.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.ask(ask),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.handle(event),
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        match self.connections.get_mut(&ask.addr) {
            Some(Connection::Open(_, peer)) => {
                let peer = *peer;
                self.send(peer, ask);
            }
            Some(Connection::Dialling(_, asks)) => asks.push(ask),
            None => self.dial(ask),
        }
    }

    fn dial(&mut self, ask: Ask) {
        let expected = ask.addr.iter().find_map(|part| match part {
            Protocol::P2p(peer) => Some(peer),
            _ => None,
        });
        let opts = match expected {
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(vec![ask.addr.clone()])
                .build(),
            None => DialOpts::unknown_peer_id().address(ask.addr.clone()).build(),
        };
        let connection = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.connections.insert(ask.addr.clone(), Connection::Dialling(connection, vec![ask]));
            }
            Err(error) => fail(ask, &reason_of(&error)),
        }
    }

    fn send(&mut self, peer: PeerId, ask: Ask) {
        let id = self.swarm.behaviour_mut().send_request(&peer, ask.request);
        self.waiting.insert(id, (peer, ask.answer));
    }

    fn handle(&mut self, event: SwarmEvent<Event<Request, Response>>) {
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, peer_id, endpoint, .. }
                if endpoint.to_endpoint() == Endpoint::Dialer =>
            {
                for ask in self.dialled(connection_id, Some(peer_id)) {
                    self.send(peer_id, ask);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                for ask in self.dialled(connection_id, None) {
                    fail(ask, &reason_of(&error));
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => self.forget(connection_id),
            SwarmEvent::Behaviour(Event::Message {
                message: Message::Response { request_id, response },
                ..
            }) => {
                if let Some((peer, answer)) = self.waiting.remove(&request_id) {
                    let _ = answer.send(Ok(Answered { response, peer }));
                }
            }
            SwarmEvent::Behaviour(Event::OutboundFailure { request_id, error, connection_id, .. }) => {
                let unreachable = |reason: &str| AskError::Unreachable(reason.to_owned());
                let failure = match error {
                    OutboundFailure::UnsupportedProtocols => unreachable("it has no catalogue"),
                    OutboundFailure::Timeout => unreachable("it does not answer in time"),
                    OutboundFailure::ConnectionClosed | OutboundFailure::DialFailure => AskError::Lost,
                    OutboundFailure::Io(error) => AskError::Unreachable(error.to_string()),
                };
                // Whatever comes next gets a connection that may work.
                self.forget(connection_id);
                self.swarm.close_connection(connection_id);
                if let Some((_, answer)) = self.waiting.remove(&request_id) {
                    let _ = answer.send(Err(failure));
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, connection: ConnectionId) {
        self.connections.retain(|_, open| !matches!(open, Connection::Open(id, _) if *id == connection));
    }

    /// A dial has ended, with a connection to `peer` or with none; who waited for it.
    fn dialled(&mut self, connection: ConnectionId, peer: Option<PeerId>) -> Vec<Ask> {
        let addr = self.connections.iter().find_map(|(addr, state)| match state {
            Connection::Dialling(id, _) if *id == connection => Some(addr.clone()),
            _ => None,
        });
        let Some(addr) = addr else { return Vec::new() };
        let state = match peer {
            Some(peer) => self.connections.insert(addr, Connection::Open(connection, peer)),
            None => self.connections.remove(&addr),
        };
        match state {
            Some(Connection::Dialling(_, asks)) => asks,
            _ => Vec::new(),
        }
    }
}

fn fail(ask: Ask, reason: &str) {
    let _ = ask.answer.send(Err(AskError::Unreachable(reason.to_owned())));
}

/// The innermost cause, which says most.
fn reason_of(error: &DialError) -> String {
    match error {
        DialError::WrongPeerId { .. } => "another identity answers there".into(),
        DialError::Transport(failures) => failures.first().map_or_else(
            || error.to_string(),
            |(_, failure)| {
                let mut cause: &dyn std::error::Error = failure;
                while let Some(inner) = cause.source() {
                    cause = inner;
                }
                cause.to_string()
            },
        ),
        other => other.to_string(),
    }
}
