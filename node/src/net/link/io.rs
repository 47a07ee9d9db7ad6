//! The path a byte takes: read from disk, send; receive, verify, write.
//!
//! Each link has two tasks. The *reader* (`receive`) turns bytes into [`Report`]s for the driver;
//! payload goes from the socket straight into a pooled buffer, and from there to the [`Intake`],
//! which hashes and writes it. The *writer* (`send`) sends messages and pieces; a message waits for
//! at most one block.
//!
//! Cost per GiB received, by the figures of docs/PERFORMANCE.md: one copy out of the socket, one
//! SHA-256, one copy into the page cache; no allocation once the pool is warm.

mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::swarm::{Event, LinkId, Violation};
use dft_protocol::wire::{Message, WireError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::receive::Reader;
use self::send::Writer;
use super::intake::Intake;
use super::stream::Stream;
use super::{ReadHalf, WriteHalf};
use crate::storage::StorageError;

/// Payload that is read from disk and sent at once: a message waits for no more than this.
const BLOCK_LEN: u32 = 256 * 1024;
/// Messages that wait for a peer to read; beyond, the peer is too slow to be kept.
const CONTROL_QUEUE_MAX: usize = 4096;
/// Pieces that wait to be sent on one link; the swarm hands out no more.
const PIECE_QUEUE_MAX: usize = 8;
/// The version of the peer protocol in which pieces may come packed.
const PACKED_SINCE: u8 = 2;
/// While payload trickles in or out, the driver is told at least this often.
const MOVING_EVERY: Duration = Duration::from_millis(500);

/// What a link tells its driver.
#[derive(Debug)]
pub enum Report {
    /// For the swarm.
    Event(Event),
    /// A whole piece arrived and was hashed: two events for the swarm, in one report.
    Piece {
        /// The link that carried it.
        link: LinkId,
        /// The piece.
        piece: PieceIndex,
        /// Whether its hash is right; it is written then.
        valid: bool,
    },
    /// The disk refused received data: nothing more can be stored.
    StorageFailed(StorageError),
    /// A piece that should be sent cannot be read.
    Unreadable {
        /// The link that waits for it.
        link: LinkId,
        /// The piece.
        piece: PieceIndex,
        /// Why.
        error: StorageError,
    },
}

/// The requests that wait on one link, shared by the driver (which makes them) and the reader
/// (which lets only them in).
#[derive(Clone, Default)]
struct Expected(Arc<Mutex<HashMap<PieceIndex, Asked>>>);

/// A request that waits.
struct Asked {
    /// It was taken back: its data is to be dropped.
    cancelled: bool,
    /// The turn to write it, where it is a long piece.
    stream: Option<Stream>,
}

impl Expected {
    fn lock(&self) -> MutexGuard<'_, HashMap<PieceIndex, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, pieces: &[PieceIndex], intake: &Intake) {
        let asked = |piece: &PieceIndex| Asked { cancelled: false, stream: intake.begin_stream(*piece) };
        self.lock().extend(pieces.iter().map(|piece| (*piece, asked(piece))));
    }

    fn cancel(&self, pieces: &[PieceIndex]) {
        let mut expected = self.lock();
        for piece in pieces {
            if let Some(asked) = expected.get_mut(piece) {
                asked.cancelled = true;
                asked.stream.as_ref().inspect(|stream| stream.give_up());
            }
        }
    }
}

/// The driver's hold on a link. Dropped, the link ends at once.
pub struct LinkHandle {
    expected: Expected,
    intake: Arc<Intake>,
    control: mpsc::Sender<Message>,
    pieces: mpsc::Sender<PieceIndex>,
    reader: JoinHandle<()>,
    writer: Option<JoinHandle<()>>,
}

/// A peer reads more slowly than it is written to.
#[derive(Debug)]
pub struct TooSlow;

impl LinkHandle {
    /// Starts the two tasks of a link, on which this version of the protocol is spoken.
    pub fn start(
        (id, version): (LinkId, u8),
        read: ReadHalf,
        write: WriteHalf,
        intake: Arc<Intake>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let expected = Expected::default();
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (pieces, piece_queue) = mpsc::channel(PIECE_QUEUE_MAX);
        let shared = (intake.clone(), reports.clone());
        let writer = Writer::new(id, write, shared, version >= PACKED_SINCE);
        let reader = Reader::new(id, read, (intake.clone(), reports), expected.clone());
        let writer = tokio::spawn(writer.run(control_queue, piece_queue));
        let reader = tokio::spawn(reader.run());
        Self { expected, intake, control, pieces, reader, writer: Some(writer) }
    }

    /// Queues a message.
    pub fn send(&self, message: Message) -> Result<(), TooSlow> {
        match &message {
            Message::Request(list) => self.expected.ask(list.pieces(), &self.intake),
            Message::Cancel(list) => self.expected.cancel(list.pieces()),
            _ => {}
        }
        self.control.try_send(message).map_err(|_| TooSlow)
    }

    /// Queues a piece.
    pub fn send_piece(&self, piece: PieceIndex) -> Result<(), TooSlow> {
        self.pieces.try_send(piece).map_err(|_| TooSlow)
    }

    /// Ends the link after what is queued was sent, but waits no longer than `limit`.
    pub fn finish(mut self, limit: Duration) -> impl Future<Output = ()> + Send + use<> {
        let writer = self.writer.take();
        // The queues close, and with them the writer, before the wait begins.
        drop(self);
        async move {
            if let Some(mut writer) = writer
                && tokio::time::timeout(limit, &mut writer).await.is_err()
            {
                writer.abort();
            }
        }
    }
}

impl Drop for LinkHandle {
    fn drop(&mut self) {
        self.reader.abort();
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }
}

/// Why a reader or writer ends.
enum End {
    /// The other end is gone, or the driver is.
    Closed,
    /// The peer broke the protocol.
    Violation(Violation),
    /// The disk failed.
    Storage(StorageError),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        End::Closed
    }
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        End::Violation(Violation::Wire(error))
    }
}

impl<T> From<mpsc::error::SendError<T>> for End {
    fn from(_: mpsc::error::SendError<T>) -> Self {
        End::Closed
    }
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        End::Violation(violation)
    }
}

async fn report_end(id: LinkId, end: End, reports: &mpsc::Sender<Report>) {
    let report = match end {
        End::Closed => Report::Event(Event::LinkDown { link: id }),
        End::Violation(violation) => Report::Event(Event::Misbehaved { link: id, violation }),
        End::Storage(error) => Report::StorageFailed(error),
    };
    // Where the driver is gone, nobody is left to be told.
    let _ = reports.send(report).await;
}
