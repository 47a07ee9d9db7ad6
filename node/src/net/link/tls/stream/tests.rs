//! Links between two of our own ends, and between ours and rustls' own record layer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as BlockingStream;

use libp2p::identity::Keypair;
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::net::UnixStream;

use super::super::{Secured, TlsConfigs, Verifier};
use super::*;

/// Records that [`Writer`] would not make.
type Records<'a> = &'a [(Content, &'a [u8])];
type End = Secured<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(future)
}

fn configs() -> TlsConfigs {
    TlsConfigs::new(&Keypair::generate_ed25519()).expect("TLS can be set up")
}

/// Two ends of a link whose connection holds up to `capacity` bytes.
async fn pair(capacity: usize) -> (End, End) {
    let (dialler, listener) = (configs(), configs());
    let (near, far) = duplex(capacity);
    let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
    let (dialled, accepted) = tokio::join!(
        dialler.connect([127, 0, 0, 1].into(), near_read, near_write),
        listener.accept(far_read, far_write)
    );
    let ends = (dialled.expect("it connects"), accepted.expect("it accepts"));
    assert_ne!(ends.0.peer, ends.1.peer, "each end knows the other");
    ends
}

fn bytes(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// Sends a record that [`Writer`] would not make.
async fn inject<W: AsyncWrite + Unpin>(writer: &mut Writer<W>, kind: Content, content: &[u8]) {
    let mut record = vec![0; RECORD_MAX];
    let len = writer.sealer.seal(kind, content, &mut record).expect("it has a key");
    writer.socket.write_all(&record[..len]).await.expect("the socket is open");
    writer.socket.flush().await.expect("the socket is open");
}

fn error_of(error: &io::Error) -> RecordError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<RecordError>());
    *inner.expect("an error of the record layer")
}

/// What the far end makes of records that the near end injects.
fn refusal_of(injected: Records<'_>) -> RecordError {
    block_on(async {
        let (mut near, mut far) = pair(1 << 20).await;
        for (kind, content) in injected {
            inject(&mut near.write, *kind, content).await;
        }
        error_of(&far.read.read_u8().await.expect_err("it is refused"))
    })
}

// ---- bytes ----

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_chunking_gives_the_same_bytes(
        writes in prop::collection::vec(0_usize..100_000, 1..12),
        reads in prop::collection::vec(1_usize..100_000, 1..12),
        capacity in 1_usize..200_000,
        records_per_key in 1_u64..40,
    ) {
        let sent = bytes(writes.iter().sum());
        let received = block_on(async {
            let (mut near, mut far) = pair(capacity.max(64)).await;
            near.write.sealer.wears_after(records_per_key);
            let sending = async {
                let mut rest = &sent[..];
                for len in &writes {
                    let (chunk, behind) = rest.split_at(*len);
                    near.write.write_all(chunk).await?;
                    near.write.flush().await?;
                    rest = behind;
                }
                near.write.shutdown().await
            };
            let receiving = async {
                let mut received = Vec::new();
                for len in reads.iter().cycle() {
                    let mut chunk = vec![0; *len];
                    let len = far.read.read(&mut chunk).await?;
                    if len == 0 {
                        break;
                    }
                    received.extend_from_slice(&chunk[..len]);
                }
                Ok::<_, io::Error>(received)
            };
            let (sent, received) = tokio::join!(sending, receiving);
            sent.and(received)
        });
        prop_assert!(received.is_ok_and(|received| received == sent));
    }
}

#[test]
fn both_directions_are_open_at_once_and_close_one_by_one() {
    block_on(async {
        let (mut near, mut far) = pair(1000).await;
        let sent = bytes(400_000);
        let (mut there, mut back) = (Vec::new(), Vec::new());
        let near_writes = async {
            near.write.write_all(&sent).await?;
            near.write.shutdown().await
        };
        let far_answers = async {
            far.read.read_to_end(&mut there).await?;
            // Its peer has said everything; it has not.
            far.write.write_all(&there).await?;
            far.write.shutdown().await
        };
        let (wrote, answered, read) =
            tokio::join!(near_writes, far_answers, near.read.read_to_end(&mut back));
        assert!(wrote.is_ok() && answered.is_ok() && read.is_ok());
        assert!(back == sent);
        assert!(near.write.write_all(b"more").await.is_err(), "it has said that there is no more");
    });
}

#[test]
fn connection_that_is_cut_is_no_end() {
    block_on(async {
        let (mut near, mut far) = pair(1 << 20).await;
        near.write.write_all(b"half").await.expect("there is room");
        near.write.flush().await.expect("there is room");
        drop(near);
        let mut received = Vec::new();
        let error = far.read.read_to_end(&mut received).await.expect_err("more was to come");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(received, b"half");
    });
}

#[test]
fn what_an_idle_link_holds_is_given_back() {
    block_on(async {
        let (mut near, mut far) = pair(1 << 20).await;
        for _ in 0..3 {
            near.write.write_all(&bytes(100_000)).await.expect("there is room");
            near.write.flush().await.expect("there is room");
            far.read.read_exact(&mut vec![0; 100_000]).await.expect("it comes");
            let pending = std::future::poll_fn(|cx| {
                let mut byte = [0];
                Poll::Ready(Pin::new(&mut far.read).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending())
            });
            assert!(pending.await, "nothing more comes");
            assert!(near.write.outgoing.buffer.is_empty() && far.read.incoming.buffer.is_empty());
        }
        let stock = far.read.incoming.from.0.lock().expect("nobody panicked");
        assert_eq!((stock.made, stock.free.len()), (1, 1), "the same one every time");
    });
}

#[test]
fn links_beyond_the_large_buffers_work_with_small_ones() {
    block_on(async {
        let (mut near, mut far) = pair(1 << 20).await;
        let large: Vec<_> = (0..LARGE_BUFFERS_MAX)
            .flat_map(|_| [near.write.outgoing.from.take(), far.read.incoming.from.take()])
            .collect();
        assert!(large.iter().all(|buffer| buffer.len() == BUFFER_LEN));
        let sent = bytes(300_000);
        near.write.sealer.wears_after(2);
        let mut received = vec![0; sent.len()];
        let writing = async {
            near.write.write_all(&sent).await?;
            near.write.flush().await
        };
        let (written, read) = tokio::join!(writing, far.read.read_exact(&mut received));
        assert!(written.is_ok() && read.is_ok() && received == sent);
        assert_eq!(near.write.outgoing.from.take().len(), SMALL_BUFFER_LEN);
    });
}

// ---- what is not authentic, or out of place ----

#[test]
fn changed_record_ends_the_link_with_an_alert() {
    for position in [0, 1, 3, 4, HEADER_LEN, 20, HEADER_LEN + 5 + 1, HEADER_LEN + 5 + 1 + 15] {
        block_on(async {
            let (mut near, mut far) = pair(1 << 20).await;
            let mut record = vec![0; RECORD_MAX];
            let len = near.write.sealer.seal(Content::Data, b"hello", &mut record).expect("it has a key");
            record[position] ^= 1;
            // Enough bytes for whatever length the header names.
            near.write.socket.write_all(&record[..len]).await.expect("there is room");
            near.write.socket.write_all(&[0; 1 << 10]).await.expect("there is room");
            let error = error_of(&far.read.read_u8().await.expect_err("it is refused"));
            let again = error_of(&far.read.read_u8().await.expect_err("for good"));
            assert_eq!(error, again);
            far.write.write_all(b"answer").await.expect_err("the link is over");
            let told = error_of(&near.read.read_u8().await.expect_err("it hears of it"));
            assert_eq!(RecordError::Alert(error.alert().expect("it has an alert")), told, "{position}");
        });
    }
}

#[test]
fn bytes_before_a_bad_record_arrive() {
    block_on(async {
        let (mut near, mut far) = pair(1 << 20).await;
        near.write.write_all(b"good").await.expect("there is room");
        near.write.flush().await.expect("there is room");
        near.write.socket.write_all(&[23, 3, 3, 0, 20]).await.expect("there is room");
        near.write.socket.write_all(&[0; 20]).await.expect("there is room");
        let mut received = [0; 8];
        assert_eq!(far.read.read(&mut received).await.expect("it is authentic"), 4);
        let error = far.read.read(&mut received).await.expect_err("this is not");
        assert_eq!(error_of(&error), RecordError::NotAuthentic);
    });
}

#[test]
fn record_that_is_repeated_is_refused() {
    block_on(async {
        let (mut near, mut far) = pair(1 << 20).await;
        let mut record = vec![0; RECORD_MAX];
        let len = near.write.sealer.seal(Content::Data, b"x", &mut record).expect("it has a key");
        near.write.socket.write_all(&record[..len]).await.expect("there is room");
        near.write.socket.write_all(&record[..len]).await.expect("there is room");
        assert_eq!(far.read.read_u8().await.expect("the first time"), b'x');
        let error = far.read.read_u8().await.expect_err("not again");
        assert_eq!(error_of(&error), RecordError::NotAuthentic);
    });
}

#[test]
fn misplaced_content_is_refused() {
    let tickets = [(Content::Handshake, &[4, 0, 0, 1, 0][..]); 33];
    let cases: [(&str, Records<'_>, RecordError); 11] = [
        ("a client hello", &[(Content::Handshake, &[1, 0, 0, 0])], RecordError::Unexpected),
        ("an empty handshake record", &[(Content::Handshake, &[])], RecordError::Unexpected),
        (
            "a change of keys that says nothing",
            &[(Content::Handshake, &[24, 0, 0, 0])],
            RecordError::Malformed,
        ),
        ("one that says too much", &[(Content::Handshake, &[24, 0, 0, 1, 2])], RecordError::Malformed),
        (
            "one with a message behind it",
            &[(Content::Handshake, &[24, 0, 0, 1, 0, 4, 0, 0, 0])],
            RecordError::Unexpected,
        ),
        (
            "data in a message",
            &[(Content::Handshake, &[24, 0]), (Content::Data, &[0])],
            RecordError::Unexpected,
        ),
        ("a short alert", &[(Content::Alert, &[1])], RecordError::Malformed),
        ("a fatal alert", &[(Content::Alert, &[2, 80])], RecordError::Alert(AlertDescription::InternalError)),
        (
            "a message without end",
            &[(Content::Handshake, &[4, 0, 255, 255]), (Content::Handshake, &[0; CONTENT_MAX])],
            RecordError::Unexpected,
        ),
        ("tickets without end", &tickets, RecordError::Barren),
        ("empty records", &[(Content::Data, &[][..]); 33], RecordError::Barren),
    ];
    for (name, injected, expected) in cases {
        assert_eq!(refusal_of(injected), expected, "{name}");
    }
}

#[test]
fn tickets_and_changes_of_keys_in_parts_are_taken() {
    block_on(async {
        let (mut near, mut far) = pair(1 << 20).await;
        inject(&mut near.write, Content::Handshake, &[4, 0, 0, 2, 9, 9, 24, 0]).await;
        inject(&mut near.write, Content::Handshake, &[0, 1, 0]).await;
        let keys = near.write.sealer.next_key();
        assert!(keys.is_ok());
        near.write.write_all(b"new").await.expect("there is room");
        near.write.flush().await.expect("there is room");
        let mut received = [0; 3];
        far.read.read_exact(&mut received).await.expect("it follows");
        assert_eq!(&received, b"new");
    });
}

#[test]
fn record_that_is_too_long_is_refused_by_its_header() {
    block_on(async {
        let (mut near, mut far) = pair(1 << 20).await;
        let len = u16::try_from(RECORD_MAX - HEADER_LEN + 1).expect("a record is short").to_be_bytes();
        near.write.socket.write_all(&[23, 3, 3, len[0], len[1]]).await.expect("there is room");
        let error = far.read.read_u8().await.expect_err("it is refused");
        assert_eq!(error_of(&error), RecordError::TooLong);
    });
}

// ---- rustls' own records at the other end ----

/// rustls as a whole, on a socket that blocks.
struct Reference {
    connection: rustls::Connection,
    socket: BlockingStream,
}

impl Read for Reference {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.connection.complete_io(&mut self.socket)?;
                }
                read => return read,
            }
        }
    }
}

impl Write for Reference {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let len = self.connection.writer().write(data)?;
        self.flush()?;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

/// Talks to rustls, which plays the part of `theirs` on a thread of its own.
fn with_rustls<T: Send + 'static>(
    dialling: bool,
    theirs: impl FnOnce(Reference) -> T + Send + 'static,
    ours: impl AsyncFnOnce(Secured<ReadHalf<UnixStream>, WriteHalf<UnixStream>>),
) -> T {
    let (near, far) = BlockingStream::pair().expect("sockets can be made");
    let configs = configs();
    let connection = if dialling {
        let config = configs.server(Arc::<Verifier>::default()).expect("it is valid");
        rustls::ServerConnection::new(Arc::new(config)).map(rustls::Connection::from)
    } else {
        let config = configs.client(Arc::<Verifier>::default()).expect("it is valid");
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        rustls::ClientConnection::new(Arc::new(config), name).map(rustls::Connection::from)
    };
    let connection = connection.expect("it is valid");
    let thread = std::thread::spawn(move || theirs(Reference { connection, socket: far }));
    block_on(async {
        near.set_nonblocking(true).expect("a socket can be so");
        let (read, write) = split(UnixStream::from_std(near).expect("there is a runtime"));
        let configs = self::configs();
        let secured = if dialling {
            configs.connect([127, 0, 0, 1].into(), read, write).await
        } else {
            configs.accept(read, write).await
        };
        ours(secured.expect("the handshake succeeds")).await;
    });
    thread.join().expect("rustls' side succeeds")
}

#[test]
fn rustls_reads_what_is_written_and_is_read() {
    for dialling in [true, false] {
        let sent = bytes(500_000);
        let expected = sent.clone();
        let theirs = move |mut stream: Reference| {
            let mut received = vec![0; expected.len()];
            stream.read_exact(&mut received).expect("it comes");
            assert!(received == expected);
            for part in received.chunks(50_000) {
                stream.write_all(part).expect("it goes");
                // It asks for new keys of ours, and has new ones.
                stream.connection.refresh_traffic_keys().expect("the handshake is over");
            }
            let mut last = [0; 4];
            stream.read_exact(&mut last).expect("it comes");
            stream.connection.send_close_notify();
            stream.flush().expect("it goes");
            assert_eq!(stream.read(&mut last).expect("it is a clean end"), 0);
            last
        };
        let last = with_rustls(dialling, theirs, async |mut link| {
            // Our keys change in the middle.
            link.write.sealer.wears_after(7);
            link.write.write_all(&sent).await.expect("it goes");
            link.write.flush().await.expect("it goes");
            let mut received = vec![0; sent.len()];
            link.read.read_exact(&mut received).await.expect("it comes");
            assert!(received == sent);
            link.write.write_all(b"last").await.expect("it goes");
            link.write.flush().await.expect("it goes");
            assert_eq!(link.read.read(&mut received).await.expect("it is a clean end"), 0);
            link.write.shutdown().await.expect("it goes");
        });
        assert_eq!(&last, b"last", "sealed by the key that rustls asked for");
    }
}

#[test]
fn rustls_hears_why_a_link_ends() {
    let theirs = |mut stream: Reference| {
        let (mut ready, mut rest) = ([0], Vec::new());
        stream.read_exact(&mut ready).expect("it comes");
        stream.socket.write_all(&[&[23, 3, 3, 0, 20][..], &[1; 20]].concat()).expect("it goes");
        let error = stream.read_to_end(&mut rest).expect_err("the link is over");
        error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned()
    };
    let heard = with_rustls(true, theirs, async |mut link| {
        link.write.write_all(b"!").await.expect("it goes");
        link.write.flush().await.expect("it goes");
        link.read.read_u8().await.expect_err("it is refused");
        link.write.shutdown().await.expect("it goes");
    });
    assert_eq!(heard, Some(rustls::Error::AlertReceived(AlertDescription::BadRecordMac)));
}
