//! Between libp2p's types and ours: multiaddresses and socket addresses, both kinds of PeerId.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use dft_protocol::id::PeerId;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// Our form of a libp2p PeerId; `None` where it is longer than a peer's identity may be.
pub fn peer_id_from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    PeerId::from_bytes(&peer.to_bytes())
}

/// libp2p's form of a peer's identity; `None` where its bytes are no libp2p PeerId.
pub fn peer_id_to_libp2p(peer: &PeerId) -> Option<libp2p::PeerId> {
    libp2p::PeerId::from_bytes(peer.as_bytes()).ok()
}

/// `/ip4/…/tcp/…` or `/ip6/…/tcp/…` of a socket address.
pub fn to_multiaddr(addr: SocketAddr) -> Multiaddr {
    Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port()))
}

/// The IP address that a multiaddress begins with, IPv4 in its own form.
pub fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip).to_canonical()),
        _ => None,
    }
}

/// The socket address of a multiaddress that begins with an IP address and a TCP port.
pub fn socket_addr_of(addr: &Multiaddr) -> Option<SocketAddr> {
    let ip = ip_of(addr)?;
    match addr.iter().nth(1)? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Whether nobody listens at `addr`.
///
/// libp2p sets SO_REUSEPORT on its listeners, so two processes of one user could take the same
/// port and share its connections at random; this bind, without that option, tells.
pub fn check_port_is_free(addr: SocketAddr) -> io::Result<()> {
    TcpListener::bind(addr).map(drop)
}
