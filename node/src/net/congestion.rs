//! Which congestion control a link between neighbours uses.
//!
//! BBR, the default of some distributions, sends as fast as it lately saw the wire take bytes. Links of
//! a swarm send a piece now and then, and what they saw was a moment of idle wires: pieces from several
//! peers meet before a receiver's wire at full speed, and are dropped there. So links between neighbours
//! do without: they use CUBIC (RFC 9438), or Reno where that is not allowed, and a sender that stays close
//! to the wire (`super::link`) keeps its queue short. Other defaults are left alone, and so are links
//! through routers. What it gave: `docs/PERFORMANCE.md`.

use socket2::SockRef;
use tokio::net::TcpStream;

/// What is replaced.
const PACED: &[u8] = b"bbr";
/// What replaces it, the first that is there and open to this user: the second is built into every kernel.
const UNPACED: [&[u8]; 2] = [b"cubic", b"reno"];

/// Lets a connection between neighbours do without BBR.
pub fn leave_paced(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let current = socket.tcp_congestion().unwrap_or_default();
    if current.split(|byte| *byte == 0).next() == Some(PACED) {
        // Where all are refused, the link is slower and works as well.
        let _ = UNPACED.iter().any(|name| socket.set_tcp_congestion(name).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_paced_connection_is_no_longer_paced_and_others_stay() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let tcp = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let control = || {
            let name = SockRef::from(&tcp).tcp_congestion().expect("TCP says");
            name.split(|byte| *byte == 0).next().expect("a name").to_vec()
        };
        let before = control();
        leave_paced(&tcp);
        if before == PACED {
            assert!(UNPACED.contains(&&*control()), "{:?}", control());
        } else {
            assert_eq!(control(), before);
        }
    }
}
