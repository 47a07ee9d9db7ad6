//! The sending half of a link's connection, which stays close to the wire.
//!
//! A kernel takes megabytes that no wire has taken yet. Whoever hands them over takes a piece for sent
//! while it waits; so does the next, to somebody else, and soon pieces to all peers share the wire and
//! all arrive late, and what opens a link or asks for a piece waits behind them. So a connection takes
//! payload in *steps*, and the next step only while less than a mark waits to be sent for the first time
//! (`TCP_NOTSENT_LOWAT`, tcp(7)). The kernel looks at that mark where it begins a buffer of segments,
//! which would hold 64 KiB: each step ends its buffer (`MSG_EOR`, send(2)), and is made of whole segments.
//!
//! A link that turns out to be fast does without: there it would cost more than it helps.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::SockRef;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use super::Outgoing;
use super::low_water::set_option;

/// A link is fast where so many bytes …
const FAST_BYTES: u64 = 1 << 20;
/// … leave in less than this: at more than 400 Mbit/s.
const FAST_IN: Duration = Duration::from_millis(20);
/// What a segment holds on Ethernet, beside headers with timestamps: where the kernel doesn't say.
const SEGMENT_LEN: usize = 1448;
/// What is longer than a long step by less than this part of it goes along with it.
const REST_PART: usize = 4;

/// Sends on a connection.
pub(super) struct Sender {
    half: OwnedWriteHalf,
    /// Payload is handed over in so many bytes; unbounded where there is none.
    step: Option<usize>,
    /// What is longer than a step by less goes along with it.
    rest: usize,
    /// Sent since then.
    sent: u64,
    since: Instant,
}

impl Sender {
    /// Unbounded at first.
    pub(super) fn new(half: OwnedWriteHalf) -> Self {
        Self { half, step: None, rest: 0, sent: 0, since: Instant::now() }
    }

    fn socket(&self) -> &TcpStream {
        self.half.as_ref()
    }

    /// Counts what the kernel took, idle times included, and does without steps where the link is fast.
    fn count(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.sent < FAST_BYTES {
            return;
        }
        if self.since.elapsed() < FAST_IN {
            self.step = None;
            set_mark(self.socket(), usize::MAX);
        }
        (self.sent, self.since) = (0, Instant::now());
    }

    /// Hands over a whole step, or what there is room for.
    fn poll_step(&self, cx: &mut Context<'_>, step: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket().poll_write_ready(cx))?;
            let send =
                || SockRef::from(self.socket()).send_with_flags(step, libc::MSG_EOR | libc::MSG_NOSIGNAL);
            match self.socket().try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

/// Where it cannot be set, more waits in the kernel, and the link works as well.
fn set_mark(socket: &TcpStream, bytes: usize) {
    let _ = set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes);
}

/// Whether less than the mark waits; if not, the kernel tells of the moment from when on it does.
fn is_below_mark(socket: &TcpStream) -> io::Result<()> {
    const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&AT_ONCE))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

impl Outgoing for Sender {
    fn set_step(&mut self, bytes: usize, mark: usize) {
        let segment = SockRef::from(self.socket()).tcp_mss().map_or(SEGMENT_LEN, |len| len as usize).max(1);
        let step = (bytes / segment).max(1) * segment;
        set_mark(self.socket(), mark.max(segment));
        // Between short ones each rest waits for its turn, too.
        self.rest = if step > mark { step / REST_PART } else { 0 };
        (self.step, self.sent, self.since) = (Some(step), 0, Instant::now());
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.step.is_some() {
            ready!(self.socket().poll_write_ready(cx))?;
            match self.socket().try_io(Interest::WRITABLE, || is_below_mark(self.socket())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                known => return Poll::Ready(known),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sender {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(step) = this.step else {
            return Pin::new(&mut this.half).poll_write(cx, data);
        };
        let sent = if data.len() >= step + this.rest {
            ready!(this.poll_step(cx, &data[..step]))?
        } else {
            // What is short, and the end of what is long, shares a buffer with what comes next, and packets.
            ready!(Pin::new(&mut this.half).poll_write(cx, data))?
        };
        this.count(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().half).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().half).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::c_int;
    use std::future::poll_fn;
    use std::os::fd::AsRawFd;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Bytes that were never sent (tcp(7)).
    const SIOCOUTQNSD: libc::c_ulong = 0x894B;

    async fn pair() -> (Sender, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let tcp = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (receiver, _) = listener.accept().await.expect("accepts");
        // The halves of a connection that is only written to.
        let (read, write) = tcp.into_split();
        drop(read);
        (Sender::new(write), receiver)
    }

    /// Writes until the kernel takes no more for a moment; how much it took.
    async fn fill(sender: &mut Sender) -> usize {
        let (mut taken, data) = (0, vec![0; 1 << 20]);
        loop {
            match tokio::time::timeout(Duration::from_millis(100), sender.write(&data)).await {
                Ok(len) => taken += len.expect("writes"),
                Err(_) => return taken,
            }
        }
    }

    fn unsent(sender: &Sender) -> usize {
        let mut bytes: c_int = 0;
        #[allow(unsafe_code, reason = "no library that we use has this call")]
        // SAFETY: the kernel writes an integer to a pointer to one.
        let result = unsafe { libc::ioctl(sender.socket().as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) };
        assert_eq!(result, 0);
        usize::try_from(bytes).expect("a number of bytes")
    }

    #[tokio::test]
    async fn no_more_than_two_steps_wait_before_a_wire_that_does_not_move() {
        let (mut sender, _receiver) = pair().await;
        sender.set_step(0, 0);
        let step = sender.step.expect("it is bounded");
        // What never ends is not fast.
        sender.since =
            Instant::now().checked_sub(Duration::from_secs(60)).expect("the machine runs for longer");
        fill(&mut sender).await;
        let waits = unsent(&sender);
        assert!(waits < 2 * step, "{waits} bytes wait, of steps of {step}");
    }

    #[tokio::test]
    async fn what_waits_has_left_once_it_is_less_than_the_mark() {
        let (mut sender, mut receiver) = pair().await;
        let mark = 32 * 1024;
        sender.set_step(0, mark);
        sender.since =
            Instant::now().checked_sub(Duration::from_secs(60)).expect("the machine runs for longer");
        fill(&mut sender).await;
        let waiting = unsent(&sender);
        assert!(sender.step.is_some() && waiting >= mark, "{waiting} bytes wait");
        let left = tokio::time::timeout(Duration::from_millis(50), poll_fn(|cx| sender.poll_left(cx))).await;
        assert!(left.is_err(), "nobody reads");
        let reading = tokio::spawn(async move { receiver.read_to_end(&mut Vec::new()).await });
        let left = tokio::time::timeout(Duration::from_secs(60), poll_fn(|cx| sender.poll_left(cx))).await;
        left.expect("the kernel tells of it").expect("the link stands");
        assert!(unsent(&sender) < mark);
        drop(sender);
        reading.await.expect("it does not panic").expect("reads");
    }

    #[tokio::test]
    async fn a_fast_link_does_without_steps_and_a_slow_one_keeps_them() {
        let (mut sender, mut receiver) = pair().await;
        sender.set_step(0, 0);
        let some = usize::try_from(FAST_BYTES).expect("small");
        sender.since = Instant::now().checked_sub(FAST_IN).expect("the machine runs for longer");
        sender.count(some);
        assert!(sender.step.is_some(), "it was slow");
        sender.since = Instant::now() + FAST_IN;
        sender.count(some);
        assert_eq!(sender.step, None);
        let taken = fill(&mut sender).await;
        assert!(unsent(&sender) > 256 * 1024, "the kernel takes what it has room for");
        drop(sender);
        let mut got = Vec::new();
        receiver.read_to_end(&mut got).await.expect("reads");
        assert_eq!(got.len(), taken);
    }

    #[tokio::test]
    async fn what_goes_in_steps_arrives_as_it_was() {
        let (mut sender, mut receiver) = pair().await;
        sender.set_step(0, 0);
        let sent: Vec<u8> = (0..3_000_001_u32).map(|i| (i % 251) as u8).collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            sender.write_all(&copy[..10]).await.expect("writes");
            sender.write_all(&copy[10..]).await.expect("writes");
        });
        let mut got = Vec::new();
        receiver.read_to_end(&mut got).await.expect("reads");
        writing.await.expect("it does not panic");
        assert!(got == sent, "{} bytes came", got.len());
    }
}
