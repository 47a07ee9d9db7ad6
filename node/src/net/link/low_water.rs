//! When the kernel wakes a reader: not for each segment, but when as much has come as it waits for.
//!
//! A reader that is woken for each segment of a piece spends more on waking than on reading. The
//! low-water mark of a socket (`SO_RCVLOWAT`, socket(7)) says how many bytes must be there; the
//! end of the stream and errors wake the reader all the same. It is set to what is left of a block
//! and taken back behind it, so that a message is never waited for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::{AsyncRead, BufReader};
use tokio::net::tcp::OwnedReadHalf;

use super::tls;

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

/// A mark that cannot be set costs no more than waking.
fn set_mark(socket: &OwnedReadHalf, bytes: usize) {
    let _ = set_receive_low_water(socket.as_ref(), bytes.max(1));
}

#[allow(unsafe_code, reason = "no library that we use has this socket option")]
fn set_receive_low_water(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let len = libc::socklen_t::try_from(size_of_val(&bytes)).expect("an integer is short");
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel reads an integer
    // of that length from a pointer to one.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
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
}
