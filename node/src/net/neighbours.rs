//! Who is on the same network: no router in between, as far as this machine's interfaces say.
//!
//! Two things follow. Where nobody labels sites, neighbours are the site (`dft_protocol::swarm`).
//! And a link between neighbours has a round trip far below a millisecond, and is not paced
//! ([`super::congestion`]).

use std::net::IpAddr;

use if_addrs::{IfAddr, Interface, get_if_addrs};

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
