//! Which congestion control a link between neighbours uses.
//!
//! BBR, the default of some distributions, models bandwidth by pacing, with a timer for every few
//! packets. On a wire of some hundred Mbit/s that is cheap, and keeps the queues short that new links
//! and requests wait in. Where two hosts exchange many Gbit/s, those timers cost more than congestion
//! does. So a link starts with the machine's default; between neighbours it leaves BBR when it turns
//! out to be fast.

use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::neighbours::is_neighbour;

/// What is replaced.
const PACED: &[u8] = b"bbr";
/// What replaces it: built into every kernel, and open to every user. Its slow growth after a loss
/// does not matter at the round trips between neighbours.
const UNPACED: &[u8] = b"reno";
/// A link is judged by so much payload: more than the kernels' buffers and shapers' bursts hide.
const JUDGED_BYTES: u64 = 8 << 20;
/// Above so many bytes per second, a link does without pacing: a wire of 1 Gbit/s stays below.
const FAST: u64 = 150_000_000;

/// How fast a link sends, until it is known to be fast.
#[derive(Default)]
pub struct Pacing {
    bytes: u64,
    took: Duration,
    is_over: bool,
}

impl Pacing {
    /// Counts `bytes` that took so long to be handed to `socket`, and replaces its congestion
    /// control where it is fast, paced, and to a neighbour.
    pub fn count(&mut self, bytes: u32, took: Duration, socket: &TcpStream) {
        if !self.is_over && self.is_fast(bytes, took) {
            self.is_over = true;
            leave_paced(socket);
        }
    }

    /// Whether what was counted since the last judgement was fast.
    fn is_fast(&mut self, bytes: u32, took: Duration) -> bool {
        self.bytes += u64::from(bytes);
        self.took += took;
        if self.bytes < JUDGED_BYTES {
            return false;
        }
        let (bytes, took) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.took));
        u128::from(bytes) * 1_000_000_000 >= u128::from(FAST) * took.as_nanos()
    }
}

fn leave_paced(tcp: &TcpStream) {
    if !tcp.peer_addr().is_ok_and(|remote| is_neighbour(remote.ip())) {
        return;
    }
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

    fn is_fast_at(rate: u64) -> bool {
        let mut pacing = Pacing::default();
        let piece = 128 * 1024;
        let took = Duration::from_nanos(u64::from(piece) * 1_000_000_000 / rate);
        // A burst first, which the kernel's buffer takes at once.
        pacing.is_fast(2 << 20, Duration::ZERO);
        (0..200).any(|_| pacing.is_fast(piece, took))
    }

    #[test]
    fn a_wire_of_a_gigabit_is_paced_and_ten_are_not() {
        assert!(!is_fast_at(50_000_000 / 8));
        assert!(!is_fast_at(112_000_000), "2 MiB of a burst make it look faster");
        assert!(is_fast_at(10_000_000_000 / 8));
    }

    #[tokio::test]
    async fn a_paced_socket_is_no_longer_paced_and_others_stay() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let tcp = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let control = || {
            let name = SockRef::from(&tcp).tcp_congestion().expect("TCP says");
            name.split(|byte| *byte == 0).next().expect("a name").to_vec()
        };
        let before = control();
        let mut pacing = Pacing::default();
        pacing.count(16 << 20, Duration::from_millis(1), &tcp);
        let expected = if before == PACED { UNPACED.to_vec() } else { before };
        assert_eq!(control(), expected);
        pacing.count(16 << 20, Duration::from_millis(1), &tcp);
        assert_eq!(control(), expected);
    }
}
