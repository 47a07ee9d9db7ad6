//! When the kernel wakes a reader.
//!
//! A reader that is woken for each segment of a piece spends more on waking than on reading. The
//! low-water mark of a socket (`SO_RCVLOWAT`, socket(7)) says how many bytes must be there; the
//! end of the stream and errors wake the reader all the same, and so does a receive window that
//! has no room for as many. It is set to what is left of a block and taken back behind it, so that
//! a message is never waited for.

use std::ffi::c_int;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;

use tokio::io::{AsyncRead, BufReader, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use super::tls;

/// Less payload than this is not worth two calls of the system to be woken once.
const WAKE_LEN_MIN: usize = 16 * 1024;

/// The receiving half of a link.
pub trait Incoming: AsyncRead + Send + Sync + Unpin {
    /// Whoever reads is going to take at least `bytes` more, and need not be woken for fewer. With
    /// 1, everything wakes it.
    fn wake_at(&mut self, bytes: usize);
}

impl Incoming for BufReader<OwnedReadHalf> {
    fn wake_at(&mut self, bytes: usize) {
        set_mark(self.get_ref(), bytes.saturating_sub(self.buffer().len()));
    }
}

impl Incoming for tls::Reader<OwnedReadHalf> {
    fn wake_at(&mut self, bytes: usize) {
        // Sealed bytes are more than what they carry: it is never too much.
        set_mark(self.socket(), bytes.saturating_sub(self.buffered()));
    }
}

/// The mark of a reader while it takes in one block: never above what is still to come, or the
/// last bytes of the block would wake nobody.
#[derive(Default)]
pub(super) struct Mark {
    is_set: bool,
}

impl Mark {
    /// Reads at most as much as `buffer` holds, and at least a byte unless the stream ended. Where
    /// nothing is there yet, it waits until `buffer` can be filled, or until the kernel has no room
    /// for as much.
    pub(super) async fn read(&mut self, read: &mut dyn Incoming, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len();
        poll_fn(|cx| {
            let mut room = ReadBuf::new(&mut *buffer);
            let polled = Pin::new(&mut *read).poll_read(cx, &mut room);
            // Also to lower it: who was woken early may have left less than the mark to come.
            if polled.is_pending() && (self.is_set || len >= WAKE_LEN_MIN) {
                read.wake_at(len);
                self.is_set = true;
            }
            polled.map_ok(|()| room.filled().len())
        })
        .await
    }

    /// From here on, everything wakes the reader.
    pub(super) fn take_back(&mut self, read: &mut dyn Incoming) {
        if std::mem::take(&mut self.is_set) {
            read.wake_at(1);
        }
    }
}

/// A mark that cannot be set costs no more than waking.
fn set_mark(socket: &OwnedReadHalf, bytes: usize) {
    let _ = set_option(socket.as_ref(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes.max(1));
}

#[allow(unsafe_code, reason = "no library that we use has these socket options")]
pub(super) fn set_option(socket: &impl AsFd, level: c_int, name: c_int, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    let len = libc::socklen_t::try_from(size_of_val(&bytes)).expect("an integer is short");
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel reads an integer
    // of that length from a pointer to one.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const bytes).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, BufReader<OwnedReadHalf>, tokio::net::tcp::OwnedWriteHalf) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let sender = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (receiver, _) = listener.accept().await.expect("accepts");
        let (read, write) = receiver.into_split();
        (sender, BufReader::new(read), write)
    }

    #[tokio::test]
    async fn a_reader_is_woken_by_what_it_waits_for_by_the_end_and_without_a_mark_by_anything() {
        let (mut sender, mut reader, _open) = pair().await;
        let mut buffer = vec![0; 200_000];
        reader.wake_at(100_000);
        sender.write_all(&[1; 100_000]).await.expect("sends");
        let len = tokio::time::timeout(Duration::from_secs(60), reader.read(&mut buffer)).await;
        let len = len.expect("it is woken").expect("reads");
        reader.wake_at(1);
        reader.read_exact(&mut buffer[len..100_000]).await.expect("reads the rest");
        sender.write_all(&[1]).await.expect("sends");
        let len = tokio::time::timeout(Duration::from_secs(60), reader.read(&mut buffer)).await;
        assert_eq!(len.expect("it is woken").expect("reads"), 1);

        reader.wake_at(100_000);
        sender.write_all(&[1; 10]).await.expect("sends");
        drop(sender);
        let len = tokio::time::timeout(Duration::from_secs(60), reader.read(&mut buffer)).await;
        assert_eq!(len.expect("it is woken").expect("reads"), 10);
    }

    /// A socket into whose window no more than `window` bytes fit: so many wake the reader whatever
    /// the mark says, as with the kernel. Fewer, and fewer than the mark, wake nobody: an error here.
    struct Narrow {
        window: usize,
        coming: usize,
        arrived: usize,
        mark: usize,
        is_awaited: bool,
    }

    impl AsyncRead for Narrow {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            room: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if std::mem::take(&mut self.is_awaited) {
                let arriving = self.coming.min(self.window);
                if arriving < self.mark.min(self.window) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                (self.coming, self.arrived) = (self.coming - arriving, arriving);
            }
            if self.arrived == 0 {
                // It is decided at the next poll, when the mark is known.
                self.is_awaited = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let len = self.arrived.min(room.remaining());
            room.put_slice(&vec![7; len]);
            self.arrived -= len;
            Poll::Ready(Ok(()))
        }
    }

    impl Incoming for Narrow {
        fn wake_at(&mut self, bytes: usize) {
            self.mark = bytes;
        }
    }

    #[tokio::test]
    async fn the_end_of_a_block_wakes_a_reader_that_was_woken_early() {
        // Two windows, and less than a mark is worth.
        let len = 2 * 64 * 1024 + WAKE_LEN_MIN / 2;
        let mut narrow = Narrow { window: 64 * 1024, coming: len, arrived: 0, mark: 1, is_awaited: false };
        let mut buffer = vec![0; len];
        let (mut mark, mut filled) = (Mark::default(), 0);
        while filled < len {
            filled += mark.read(&mut narrow, &mut buffer[filled..]).await.expect("it is woken");
        }
        mark.take_back(&mut narrow);
        assert_eq!((narrow.mark, buffer), (1, vec![7; len]));
    }
}
