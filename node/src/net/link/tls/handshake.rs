//! The handshake of TLS 1.3: rustls decides what is said, here it is carried.
//!
//! rustls is shown one record at a time. So it never decrypts what follows the handshake: when it
//! hands its keys over, what has come too early for it is still sealed, and goes to the reader.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{Error, ExtractedSecrets};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::LinkError;
use super::record::{HEADER_LEN, NextKeys};

/// Read at once: a handshake is three flights of 1 KiB or less.
const READ_LEN: usize = 4 * 1024;
/// What a peer can make us hold before it has proved anything. The longest flight has a
/// certificate of less than 1 KiB, and leaves room for others' longer ones.
const HELD_MAX: usize = 32 * 1024;

/// rustls' two kinds of connections, which share their ways but no type.
pub(super) trait Connection: Send {
    /// What rustls tells them apart by.
    type Data: Send;

    /// Makes the next step with what has come.
    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Whether there are records that were not yet encoded: an alert, after an error.
    fn has_unsent(&self) -> bool;

    /// The keys that the handshake led to, and what gives the ones after them.
    fn into_keys(self) -> Result<(ExtractedSecrets, Box<dyn NextKeys>), Error>;
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_unsent(&self) -> bool {
        self.wants_write()
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Box<dyn NextKeys>), Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, next)| (secrets, Box::new(next) as _))
    }
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_unsent(&self) -> bool {
        self.wants_write()
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Box<dyn NextKeys>), Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, next)| (secrets, Box::new(next) as _))
    }
}

/// What a handshake leaves behind.
pub(super) struct Finished {
    pub(super) secrets: ExtractedSecrets,
    pub(super) next: Box<dyn NextKeys>,
    /// Came after the handshake, still sealed.
    pub(super) early: Vec<u8>,
}

/// What to do after a step.
enum Step {
    /// Another one.
    Again,
    /// Send what is outgoing, then go on.
    Send,
    /// Nothing more can be done with what was shown.
    Starved,
    /// The handshake is over.
    Done,
}

/// Carries a handshake to its end.
pub(super) async fn complete<C, R, W>(
    mut connection: C,
    read: &mut R,
    write: &mut W,
) -> Result<Finished, LinkError>
where
    C: Connection,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut incoming = Incoming::default();
    let mut outgoing = Vec::new();
    loop {
        let UnbufferedStatus { discard, state } = connection.step(incoming.shown());
        let step = state.and_then(|state| next_step(state, &mut outgoing));
        incoming.discard(discard);
        match step {
            Ok(Step::Again) => {}
            Ok(Step::Send) => {
                write.write_all(&outgoing).await?;
                write.flush().await?;
                outgoing.clear();
            }
            Ok(Step::Starved) => incoming.show_more(read).await?,
            Ok(Step::Done) => break,
            Err(error) => {
                give_up(&mut connection, &mut incoming, &mut outgoing, write).await;
                return Err(LinkError::from_tls(error));
            }
        }
    }
    let (secrets, next) = connection.into_keys().map_err(LinkError::from_tls)?;
    Ok(Finished { secrets, next, early: incoming.into_unseen()? })
}

/// What has come, and how much of it rustls was shown.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    /// Where the records end that rustls was shown as a whole.
    whole: usize,
    /// Where what rustls was shown ends: perhaps within a record.
    shown: usize,
}

impl Incoming {
    fn shown(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.shown]
    }

    fn discard(&mut self, len: usize) {
        self.bytes.drain(..len);
        self.whole -= len;
        self.shown -= len;
    }

    /// Shows one more record to rustls, or as much of it as there is: it knows best what is none.
    async fn show_more<R: AsyncRead + Unpin>(&mut self, read: &mut R) -> Result<(), LinkError> {
        loop {
            let rest = &self.bytes[self.whole..];
            let record_len = rest
                .first_chunk::<HEADER_LEN>()
                .map(|header| HEADER_LEN + usize::from(u16::from_be_bytes([header[3], header[4]])));
            if let Some(len) = record_len.filter(|len| *len <= rest.len()) {
                self.whole += len;
                self.shown = self.whole;
                return Ok(());
            }
            if self.shown < self.bytes.len() {
                self.shown = self.bytes.len();
                return Ok(());
            }
            if self.bytes.len() >= HELD_MAX {
                return Err(LinkError::NotDft);
            }
            self.bytes.reserve(READ_LEN);
            if read.read_buf(&mut self.bytes).await? == 0 {
                return Err(LinkError::NotDft);
            }
        }
    }

    /// What rustls was not shown as a whole record; it has used up all others.
    fn into_unseen(self) -> Result<Vec<u8>, LinkError> {
        if self.whole == 0 { Ok(self.bytes) } else { Err(LinkError::NotDft) }
    }
}

fn next_step<Data>(state: ConnectionState<'_, '_, Data>, outgoing: &mut Vec<u8>) -> Result<Step, Error> {
    match state {
        ConnectionState::EncodeTlsData(mut record) => {
            let sent = outgoing.len();
            let len = match record.encode(&mut []) {
                Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => required_size,
                _ => return Err(Error::General("rustls has an empty record to send".into())),
            };
            outgoing.resize(sent + len, 0);
            record.encode(&mut outgoing[sent..]).map_err(|error| Error::General(error.to_string()))?;
            Ok(Step::Again)
        }
        ConnectionState::TransmitTlsData(sent) => {
            sent.done();
            Ok(Step::Send)
        }
        ConnectionState::BlockedHandshake => Ok(Step::Starved),
        ConnectionState::WriteTraffic(_) => Ok(Step::Done),
        // Nothing of this can come of records that belong to a handshake.
        _ => Err(Error::HandshakeNotComplete),
    }
}

/// Tells the other end why, if it still listens.
async fn give_up<C: Connection, W: AsyncWrite + Unpin>(
    connection: &mut C,
    incoming: &mut Incoming,
    outgoing: &mut Vec<u8>,
    write: &mut W,
) {
    while connection.has_unsent() {
        let UnbufferedStatus { discard, state } = connection.step(incoming.shown());
        let encoded = state.and_then(|state| next_step(state, outgoing));
        incoming.discard(discard);
        if encoded.is_err() {
            break;
        }
    }
    // The other end may be gone; the error is told to our own side in any case.
    if write.write_all(outgoing).await.is_ok() {
        let _ = write.flush().await;
    }
}
