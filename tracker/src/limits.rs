//! How many incoming connections a libp2p swarm keeps: in all, per peer, per IP address, and
//! half-open.
//!
//! A behaviour that only says no. Its tables hold live incoming connections and nothing else, so
//! they are bounded by the limits themselves. Connections that this side opens are its own
//! business: others must not be able to use up the room for them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use thiserror::Error;

use crate::address::ip_of;

/// The limits of one swarm.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Incoming connections in all.
    pub total: usize,
    /// Incoming connections of one peer: a second one covers a reconnect whose predecessor
    /// has not been noticed to be dead.
    pub per_peer: usize,
    /// Incoming connections from one IP address, half-open ones included. Loopback is exempt:
    /// it is this machine's own user, and a lab runs hundreds of peers there.
    pub per_ip: usize,
    /// Incoming connections that have not finished their handshake.
    pub half_open: usize,
    /// Those from one IP address, so that one host that never finishes keeps nobody out.
    pub half_open_per_ip: usize,
}

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// See [`ConnectionLimits::total`].
    #[error("too many connections")]
    Total,
    /// See [`ConnectionLimits::per_peer`].
    #[error("too many connections with this peer")]
    Peer,
    /// See [`ConnectionLimits::per_ip`].
    #[error("too many connections from this address")]
    Ip,
    /// See [`ConnectionLimits::half_open`].
    #[error("too many half-open connections")]
    HalfOpen,
}

/// The behaviour that holds the limits.
pub struct Limits {
    limits: ConnectionLimits,
    half_open: HashMap<ConnectionId, Option<IpAddr>>,
    established: HashMap<ConnectionId, (PeerId, Option<IpAddr>)>,
    of_peer: HashMap<PeerId, usize>,
    of_ip: HashMap<IpAddr, usize>,
}

impl Limits {
    /// A behaviour that holds `limits`.
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            half_open: HashMap::new(),
            established: HashMap::new(),
            of_peer: HashMap::new(),
            of_ip: HashMap::new(),
        }
    }

    fn open_half(&mut self, connection: ConnectionId, remote: &Multiaddr) -> Result<(), Refusal> {
        if self.half_open.len() >= self.limits.half_open {
            return Err(Refusal::HalfOpen);
        }
        let ip = ip_of(remote).filter(|ip| !ip.is_loopback());
        if let Some(ip) = ip {
            // At most `half_open` entries to look at, once per connection.
            let half_open = self.half_open.values().filter(|other| **other == Some(ip)).count();
            if half_open >= self.limits.half_open_per_ip {
                return Err(Refusal::HalfOpen);
            }
            let count = self.of_ip.entry(ip).or_default();
            if *count >= self.limits.per_ip {
                return Err(Refusal::Ip);
            }
            *count += 1;
        }
        self.half_open.insert(connection, ip);
        Ok(())
    }

    fn close_half(&mut self, connection: ConnectionId) {
        if let Some(Some(ip)) = self.half_open.remove(&connection) {
            count_down(&mut self.of_ip, &ip);
        }
    }

    fn check_established(&self, peer: PeerId) -> Result<(), Refusal> {
        if self.established.len() >= self.limits.total {
            return Err(Refusal::Total);
        }
        if self.of_peer.get(&peer).is_some_and(|count| *count >= self.limits.per_peer) {
            return Err(Refusal::Peer);
        }
        Ok(())
    }

    /// A connection is established. Only incoming ones were half-open before; the count of
    /// their address moves along.
    fn establish(&mut self, connection: ConnectionId, peer: PeerId) {
        if let Some(ip) = self.half_open.remove(&connection) {
            *self.of_peer.entry(peer).or_default() += 1;
            self.established.insert(connection, (peer, ip));
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        if let Some((peer, ip)) = self.established.remove(&connection) {
            count_down(&mut self.of_peer, &peer);
            if let Some(ip) = ip {
                count_down(&mut self.of_ip, &ip);
            }
        }
    }
}

/// One less for `key`; a count of zero is no entry.
fn count_down<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl NetworkBehaviour for Limits {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.open_half(connection, remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_established(peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(event) => self.establish(event.connection_id, event.peer_id),
            FromSwarm::ConnectionClosed(event) => self.close(event.connection_id),
            FromSwarm::ListenFailure(event) => self.close_half(event.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits =
        ConnectionLimits { total: 4, per_peer: 2, per_ip: 3, half_open: 3, half_open_per_ip: 2 };

    fn remote(ip: &str) -> Multiaddr {
        format!("/ip4/{ip}/tcp/9").parse().expect("a multiaddress")
    }

    fn connect(limits: &mut Limits, number: usize, ip: &str, peer: PeerId) -> Result<(), Refusal> {
        let connection = ConnectionId::new_unchecked(number);
        limits.open_half(connection, &remote(ip))?;
        if let Err(refusal) = limits.check_established(peer) {
            limits.close_half(connection);
            return Err(refusal);
        }
        limits.establish(connection, peer);
        Ok(())
    }

    #[test]
    fn one_address_and_one_peer_get_their_share_only() {
        let mut limits = Limits::new(LIMITS);
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        assert_eq!(connect(&mut limits, 1, "10.0.0.1", peers[0]), Ok(()));
        assert_eq!(connect(&mut limits, 2, "10.0.0.1", peers[0]), Ok(()));
        assert_eq!(connect(&mut limits, 3, "10.0.0.1", peers[0]), Err(Refusal::Peer));
        assert_eq!(connect(&mut limits, 4, "10.0.0.1", peers[1]), Ok(()));
        assert_eq!(connect(&mut limits, 5, "10.0.0.1", peers[2]), Err(Refusal::Ip));
        assert_eq!(connect(&mut limits, 6, "127.0.0.1", peers[2]), Ok(()));
        assert_eq!(connect(&mut limits, 7, "10.0.0.2", peers[3]), Err(Refusal::Total));
        limits.close(ConnectionId::new_unchecked(1));
        assert_eq!(connect(&mut limits, 8, "10.0.0.1", peers[2]), Ok(()));
    }

    #[test]
    fn half_open_connections_are_bounded_and_leave_no_trace() {
        let mut limits = Limits::new(LIMITS);
        let open = |limits: &mut Limits, number: usize| {
            limits.open_half(ConnectionId::new_unchecked(number), &remote(&format!("10.0.1.{}", number / 2)))
        };
        let all = [2, 3, 4].map(|number| open(&mut limits, number));
        assert_eq!(all, [Ok(()); 3]);
        assert_eq!(open(&mut limits, 5), Err(Refusal::HalfOpen), "as many as there may be");
        limits.close_half(ConnectionId::new_unchecked(4));
        assert_eq!(
            limits.open_half(ConnectionId::new_unchecked(6), &remote("10.0.1.1")),
            Err(Refusal::HalfOpen)
        );
        for number in 2..=3 {
            limits.close_half(ConnectionId::new_unchecked(number));
        }
        assert!(limits.half_open.is_empty() && limits.of_ip.is_empty());
        assert_eq!(open(&mut limits, 4), Ok(()));
    }
}
