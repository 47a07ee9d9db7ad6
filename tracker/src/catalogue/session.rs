//! What the tracker knows of each connection: its challenge, and whether it may write.
//!
//! Bounded by the connection limits. A nonce is good for one proof.

use std::collections::HashMap;
use std::net::IpAddr;

use dft_protocol::id::PeerId;
use libp2p::swarm::ConnectionId;

use super::token::{Challenge, Nonce, Proof, Token, random_bytes};

/// One connection.
#[derive(Debug)]
pub struct Session {
    /// Who it is.
    pub peer: PeerId,
    /// Where it comes from.
    pub observed: IpAddr,
    /// Whether it has proven to know the token.
    pub proven: bool,
    nonce: Option<Nonce>,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Sessions(HashMap<ConnectionId, Session>);

impl Sessions {
    /// A connection of `peer` from `observed` is open.
    pub fn open(&mut self, connection: ConnectionId, peer: PeerId, observed: IpAddr) {
        self.0.insert(connection, Session { peer, observed, proven: false, nonce: None });
    }

    /// A connection is gone; whose it was, where that was the last one of its peer.
    pub fn close(&mut self, connection: ConnectionId) -> Option<PeerId> {
        let peer = self.0.remove(&connection)?.peer;
        // At most as many as the connection limits allow, once per connection.
        self.0.values().all(|session| session.peer != peer).then_some(peer)
    }

    /// What is known of a connection.
    pub fn get(&self, connection: ConnectionId) -> Option<&Session> {
        self.0.get(&connection)
    }

    /// A new challenge for a connection; `None` where there is no such connection, or no
    /// randomness.
    pub fn challenge(&mut self, connection: ConnectionId) -> Option<Nonce> {
        let session = self.0.get_mut(&connection)?;
        session.nonce = random_bytes().ok();
        session.nonce
    }

    /// Whether `proof` answers the last challenge of a connection, which `tracker` gave. The
    /// connection may write from then on.
    pub fn prove(
        &mut self,
        connection: ConnectionId,
        (token, tracker): (&Token, PeerId),
        proof: &Proof,
        epoch: u64,
    ) -> bool {
        let Some(session) = self.0.get_mut(&connection) else { return false };
        let Some(nonce) = session.nonce.take() else { return false };
        let challenge = Challenge { nonce: &nonce, client: session.peer, tracker, epoch };
        let accepted = token.accepts(&challenge, proof);
        session.proven |= accepted;
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes(&[number; 38]).expect("38 bytes")
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_nonce_is_good_for_one_proof() {
        let mut sessions = Sessions::default();
        let connection = ConnectionId::new_unchecked(1);
        sessions.open(connection, peer(1), HERE);
        let token = Token::random().expect("randomness");
        let nonce = sessions.challenge(connection).expect("a challenge");
        let challenge = Challenge { nonce: &nonce, client: peer(1), tracker: peer(9), epoch: 1 };
        let proof = token.prove(&challenge);
        let here = (&token, peer(9));
        assert!(!sessions.prove(connection, here, &[0; 32], 1));
        assert!(!sessions.prove(connection, here, &proof, 1), "the nonce is used up");
        let nonce = sessions.challenge(connection).expect("a challenge");
        let proof = token.prove(&Challenge { nonce: &nonce, ..challenge });
        assert!(!sessions.get(connection).expect("open").proven);
        assert!(sessions.prove(connection, here, &proof, 1));
        assert!(!sessions.prove(connection, here, &proof, 1), "a replay");
        assert!(sessions.get(connection).expect("open").proven, "it stays proven");
    }

    #[test]
    fn a_peer_is_gone_with_its_last_connection() {
        let mut sessions = Sessions::default();
        for (number, who) in [(1, 1), (2, 1), (3, 2)] {
            sessions.open(ConnectionId::new_unchecked(number), peer(who), HERE);
        }
        assert_eq!(sessions.close(ConnectionId::new_unchecked(1)), None);
        assert_eq!(sessions.close(ConnectionId::new_unchecked(2)), Some(peer(1)));
        assert_eq!(sessions.close(ConnectionId::new_unchecked(2)), None);
        assert_eq!(sessions.close(ConnectionId::new_unchecked(3)), Some(peer(2)));
    }
}
