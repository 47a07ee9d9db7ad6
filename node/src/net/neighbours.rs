//! Who is on the same network: no router in between, as far as this machine's interfaces say.
//!
//! Two things follow. Where nobody labels sites, neighbours are the site (`dft_protocol::swarm`).
//! And a link between neighbours has a round trip far below a millisecond, for which
//! [`suit_congestion_control`] picks what TCP uses.

use std::net::IpAddr;

use if_addrs::{IfAddr, Interface, get_if_addrs};
use socket2::SockRef;
use tokio::net::TcpStream;

/// What is replaced between neighbours: it models bandwidth by pacing, with a timer for every few
/// packets. Between two hosts on one switch, those timers cost more than congestion does.
const PACED: &[u8] = b"bbr";
/// What replaces it: built into every kernel, and open to every user. Its slow growth after a loss
/// does not matter at such round trips.
const UNPACED: &[u8] = b"reno";

/// Whether `remote` is on a network of one of this machine's interfaces.
pub fn is_neighbour(remote: IpAddr) -> bool {
    // Where the interfaces are not known, nobody is told apart.
    get_if_addrs().map_or(true, |interfaces| is_on_any(&interfaces, remote))
}

fn is_on_any(interfaces: &[Interface], remote: IpAddr) -> bool {
    interfaces.iter().any(|interface| match (&interface.addr, remote) {
        (IfAddr::V4(own), IpAddr::V4(remote)) => {
            same_prefix(&own.ip.octets(), &remote.octets(), own.prefixlen)
        }
        (IfAddr::V6(own), IpAddr::V6(remote)) => {
            same_prefix(&own.ip.octets(), &remote.octets(), own.prefixlen)
        }
        _ => false,
    })
}

/// Whether the first `bits` bits are the same.
fn same_prefix(a: &[u8], b: &[u8], bits: u8) -> bool {
    let (whole, rest) = (usize::from(bits / 8), bits % 8);
    let head =
        |bytes: &[u8]| bytes.get(whole).map_or(0, |byte| byte.checked_shr(8 - u32::from(rest)).unwrap_or(0));
    a.iter().take(whole).eq(b.iter().take(whole)) && head(a) == head(b)
}

/// Takes the congestion control that suits a link between neighbours. It matters on machines whose
/// default is BBR: docs/PERFORMANCE.md has the figures.
pub fn suit_congestion_control(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let current = socket.tcp_congestion().unwrap_or_default();
    if current.split(|byte| *byte == 0).next() == Some(PACED) {
        // Where it is refused, the link is slower and works as well.
        let _ = socket.set_tcp_congestion(UNPACED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_the_prefix() {
        let cases = [
            ("10.0.0.1", "10.0.0.200", 24, true),
            ("10.0.0.1", "10.0.1.1", 24, false),
            ("10.0.0.1", "10.0.1.1", 23, true),
            ("10.0.0.1", "10.0.2.1", 23, false),
            ("10.0.0.1", "10.0.0.1", 32, true),
            ("10.0.0.1", "10.0.0.2", 32, false),
            ("10.0.0.1", "192.168.0.2", 0, true),
            ("fd00::1", "fd00::ffff:1", 64, true),
            ("fd00::1", "fd00:0:0:1::1", 64, false),
        ];
        for (own, remote, bits, expected) in cases {
            let bytes = |text: &str| match text.parse().expect("an address") {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            assert_eq!(same_prefix(&bytes(own), &bytes(remote), bits), expected, "{own} {remote} /{bits}");
        }
    }

    #[test]
    fn this_machine_is_its_own_neighbour() {
        assert!(is_neighbour(IpAddr::from([127, 0, 0, 1])));
    }
}
