//! The path a byte takes: read from disk, send; receive, verify, write.
//!
//! Each link has two tasks. The *reader* turns bytes into [`Report`]s for the driver; payload goes
//! from the socket straight into a pooled buffer, and from there to the [`Intake`], which hashes
//! and writes it. The *writer* sends messages and pieces; a message waits for at most one block.
//!
//! Cost per GiB received, by the figures of docs/PERFORMANCE.md: one copy out of the socket, one
//! SHA-256, one copy into the page cache; no allocation once the pool is warm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::swarm::{Event, LinkId, Violation};
use dft_protocol::wire::{self, DATA_LEN_MAX, FRAME_HEADER_LEN, FRAME_LEN_MAX, Message, WireError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::intake::{Intake, Storing};
use super::low_water::Mark;
use super::stream::Stream;
use super::{ReadHalf, WriteHalf};
use crate::buffers::Buffer;
use crate::sha256::Sha256;
use crate::storage::StorageError;
use crate::trace;

/// Payload that is read from disk and sent at once: a message waits for no more than this.
const BLOCK_LEN: u32 = 256 * 1024;
/// Room in front of a block for the frame that announces it, so that both leave in one write.
const BLOCK_HEADER_MAX: usize = 32;
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
        let writer = Writer {
            id,
            write,
            intake: intake.clone(),
            reports: reports.clone(),
            frames: Vec::new(),
            block: Vec::new(),
            leaving_at: Instant::now(),
            packs: version >= PACKED_SINCE,
            rate: None,
        };
        let reader = Reader {
            id,
            read,
            intake: intake.clone(),
            reports,
            expected: expected.clone(),
            body: Vec::new(),
            assembly: None,
            arriving_at: Instant::now(),
        };
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

// ---- receiving ----

/// What has arrived of the piece that is on its way.
enum Assembly {
    /// In memory, to be checked as a whole.
    Whole { buffer: Buffer },
    /// The packed form of this length, in memory.
    Packed { buffer: Buffer, total: u32 },
    /// Hashed and written block by block: the last block.
    Streamed { stream: Stream, storing: Option<Storing> },
    /// Dropped: the request was cancelled, or is another link's turn.
    Dropped,
}

struct Reader {
    id: LinkId,
    read: ReadHalf,
    intake: Arc<Intake>,
    reports: mpsc::Sender<Report>,
    expected: Expected,
    body: Vec<u8>,
    /// The piece on its way, how much of it arrived, and where that is.
    assembly: Option<(PieceIndex, u32, Assembly)>,
    arriving_at: Instant,
}

impl Reader {
    async fn run(mut self) {
        let end = match self.read_messages().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        report_end(self.id, end, &self.reports).await;
    }

    async fn read_messages(&mut self) -> Result<std::convert::Infallible, End> {
        let intake = self.intake.clone();
        let geometry = intake.manifest().geometry();
        loop {
            let len = self.read.read_u32().await? as usize;
            if len > FRAME_LEN_MAX {
                return Err(WireError::Size.into());
            }
            self.body.resize(len, 0);
            self.read.read_exact(&mut self.body).await?;
            match Message::decode(&self.body, geometry)? {
                Message::Data { piece, offset, len } => self.receive(piece, offset, len, None).await?,
                Message::Packed { piece, offset, len, total } => {
                    self.receive(piece, offset, len, Some(total)).await?;
                }
                message => {
                    if let Message::Reject(piece, _) = message {
                        self.expected.lock().remove(&piece);
                        self.assembly.take_if(|(arriving, ..)| *arriving == piece);
                    }
                    self.report(Event::Message { link: self.id, message }).await?;
                }
            }
        }
    }

    async fn report(&self, event: Event) -> Result<(), End> {
        Ok(self.reports.send(Report::Event(event)).await?)
    }

    /// Takes in one block of payload: of the piece, or of its packed form of this length.
    async fn receive(
        &mut self,
        piece: PieceIndex,
        offset: u32,
        len: u32,
        packed: Option<u32>,
    ) -> Result<(), End> {
        let piece_len = self.intake.manifest().geometry().piece_len(piece);
        let (cancelled, stream) = {
            let expected = self.expected.lock();
            let asked = expected.get(&piece).ok_or(Violation::UnrequestedData)?;
            (asked.cancelled, asked.stream.as_ref().filter(|_| offset == 0).cloned())
        };
        if offset == 0 {
            self.intake.trace().record(|| trace::Event::Arriving { link: self.id.0, piece: piece.to_u32() });
        }
        let mut assembly = match self.assembly.take() {
            Some((arriving, arrived, assembly)) if arriving == piece && arrived == offset => assembly,
            None if offset == 0 && cancelled => Assembly::Dropped,
            None if offset == 0
                && let Some(total) = packed =>
            {
                Assembly::Packed { buffer: self.intake.buffer().await, total }
            }
            None if offset == 0 => match stream {
                Some(stream) => Assembly::Streamed { stream, storing: None },
                None => Assembly::Whole { buffer: self.intake.buffer().await },
            },
            _ => return Err(Violation::UnrequestedData.into()),
        };
        let form = match &assembly {
            Assembly::Packed { total, .. } => Some(*total),
            Assembly::Whole { .. } | Assembly::Streamed { .. } => None,
            Assembly::Dropped => packed,
        };
        if form != packed {
            // Half of a piece in one form, half in another.
            return Err(Violation::UnrequestedData.into());
        }
        if cancelled {
            assembly = Assembly::Dropped;
        }
        match &mut assembly {
            Assembly::Whole { buffer } | Assembly::Packed { buffer, .. } => {
                let range = offset as usize..(offset + len) as usize;
                self.fill(&mut buffer[range]).await?;
            }
            Assembly::Streamed { stream, storing } => {
                let mut buffer = self.intake.buffer().await;
                let part = &mut buffer[..len as usize];
                self.fill(part).await?;
                let hash = match storing.take() {
                    Some(storing) => stored(storing).await?,
                    None => Sha256::new(),
                };
                // While it arrived, somebody else may have been asked.
                if stream.is_current() {
                    *storing = Some(self.intake.store_block(stream.clone(), hash, (buffer, len), offset));
                } else {
                    assembly = Assembly::Dropped;
                }
            }
            Assembly::Dropped => self.skip(len).await?,
        }
        if offset + len < packed.unwrap_or(piece_len) {
            self.assembly = Some((piece, offset + len, assembly));
            return Ok(());
        }
        self.complete(piece, assembly).await
    }

    async fn fill(&mut self, buffer: &mut [u8]) -> Result<(), End> {
        fill(&mut self.read, buffer, self.id, &self.intake, &self.reports, &mut self.arriving_at).await
    }

    /// All bytes of a piece arrived.
    async fn complete(&mut self, piece: PieceIndex, assembly: Assembly) -> Result<(), End> {
        let link = self.id;
        let cancelled = self.expected.lock().remove(&piece).is_none_or(|asked| asked.cancelled);
        let dropped = cancelled || matches!(assembly, Assembly::Dropped);
        let bytes = self.intake.manifest().geometry().piece_len(piece);
        self.intake.trace().record(|| trace::Event::Arrived {
            link: link.0,
            piece: piece.to_u32(),
            bytes,
            dropped,
        });
        if dropped {
            return self.report(Event::PieceDiscarded { link, piece }).await;
        }
        match assembly {
            Assembly::Whole { buffer } => {
                self.intake.check_piece(link, piece, (buffer, None), self.reports.clone());
            }
            Assembly::Packed { buffer, total } => {
                self.intake.check_piece(link, piece, (buffer, Some(total)), self.reports.clone());
            }
            Assembly::Streamed { stream, storing: Some(storing) } => {
                let hash = stored(storing).await?;
                match self.intake.finish_stream(&stream, hash) {
                    Some(valid) => self.reports.send(Report::Piece { link, piece, valid }).await?,
                    // Nobody's fault: it came too late.
                    None => self.report(Event::PieceDiscarded { link, piece }).await?,
                }
            }
            Assembly::Streamed { storing: None, .. } | Assembly::Dropped => {
                unreachable!("a piece has at least one block, and dropped ones were reported")
            }
        }
        Ok(())
    }

    /// Reads payload that nobody wants any more.
    async fn skip(&mut self, len: u32) -> Result<(), End> {
        let mut rest = len as usize;
        self.body.resize(rest.min(64 * 1024), 0);
        while rest > 0 {
            let part = rest.min(self.body.len());
            let mut body = std::mem::take(&mut self.body);
            let filled = self.fill(&mut body[..part]).await;
            self.body = body;
            filled?;
            rest -= part;
        }
        Ok(())
    }
}

/// Reads until `buffer` is full, at most as fast as the limit allows, and tells the driver now
/// and then that the peer is at work.
async fn fill(
    read: &mut ReadHalf,
    buffer: &mut [u8],
    link: LinkId,
    intake: &Intake,
    reports: &mpsc::Sender<Report>,
    arriving_at: &mut Instant,
) -> Result<(), End> {
    let limit = &intake.limits().download;
    let mut mark = Mark::default();
    let mut filled = 0;
    while filled < buffer.len() {
        let len_max = u32::try_from(buffer.len() - filled).unwrap_or(u32::MAX);
        let rest = limit.step_len(len_max) as usize;
        let len = mark.read(&mut **read, &mut buffer[filled..filled + rest]).await?;
        if len == 0 {
            return Err(End::Closed);
        }
        filled += len;
        intake.add_arrived(len);
        if limit.rate().is_some() {
            // The peer is not late: this end takes its time.
            let mut turn = std::pin::pin!(limit.turn(u32::try_from(len).unwrap_or(u32::MAX)));
            while tokio::time::timeout(MOVING_EVERY, &mut turn).await.is_err() {
                reports.send(Report::Event(Event::DataArriving { link })).await?;
            }
        }
        if arriving_at.elapsed() >= MOVING_EVERY {
            *arriving_at = Instant::now();
            reports.send(Report::Event(Event::DataArriving { link })).await?;
        }
    }
    mark.take_back(&mut **read);
    Ok(())
}

async fn stored(storing: Storing) -> Result<Sha256, End> {
    match storing.await {
        Ok(stored) => stored.map_err(End::Storage),
        // The runtime is shutting down.
        Err(_) => Err(End::Closed),
    }
}

// ---- sending ----

struct Writer {
    id: LinkId,
    write: WriteHalf,
    intake: Arc<Intake>,
    reports: mpsc::Sender<Report>,
    frames: Vec<u8>,
    /// The buffer of the block before, to be used again.
    block: Vec<u8>,
    /// When the driver was last told that the peer takes what is sent.
    leaving_at: Instant,
    /// Whether the peer takes packed pieces.
    packs: bool,
    /// Bytes per second of the latest pieces, while there was something to send.
    rate: Option<u64>,
}

impl Writer {
    async fn run(mut self, mut control: mpsc::Receiver<Message>, mut pieces: mpsc::Receiver<PieceIndex>) {
        if let Err(end) = self.write_all(&mut control, &mut pieces).await {
            report_end(self.id, end, &self.reports).await;
        }
        let _ = self.write.shutdown().await;
    }

    async fn write_all(
        &mut self,
        control: &mut mpsc::Receiver<Message>,
        pieces: &mut mpsc::Receiver<PieceIndex>,
    ) -> Result<(), End> {
        loop {
            tokio::select! {
                biased;
                message = control.recv() => match message {
                    Some(message) => {
                        self.push(&message);
                        self.write_messages(control).await?;
                    }
                    None => return Ok(()),
                },
                Some(piece) = pieces.recv() => self.write_piece(piece, control).await?,
            }
        }
    }

    fn push(&mut self, message: &Message) {
        self.frames.extend_from_slice(&wire::frame(&message.encode()));
    }

    /// Writes the messages that are queued, all in one.
    async fn write_messages(&mut self, control: &mut mpsc::Receiver<Message>) -> Result<(), End> {
        while self.frames.len() < BLOCK_LEN as usize
            && let Ok(message) = control.try_recv()
        {
            self.push(&message);
        }
        if !self.frames.is_empty() {
            self.write.write_all(&self.frames).await?;
            self.frames.clear();
            self.write.flush().await?;
        }
        Ok(())
    }

    async fn write_piece(
        &mut self,
        piece: PieceIndex,
        control: &mut mpsc::Receiver<Message>,
    ) -> Result<(), End> {
        let link = self.id;
        let piece_len = self.intake.manifest().geometry().piece_len(piece);
        self.intake.trace().record(|| trace::Event::Sending { link: link.0, piece: piece.to_u32() });
        let sent = match self.packed_form(piece, piece_len).await? {
            Some(packed) => self.write_packed(piece, &packed, control).await?,
            None => match self.write_plain(piece, piece_len, control).await? {
                Ok(sent) => sent,
                Err(error) => {
                    self.reports.send(Report::Unreadable { link, piece, error }).await?;
                    return Ok(());
                }
            },
        };
        self.write.flush().await?;
        self.learn_rate(sent);
        self.intake.trace().record(|| trace::Event::Sent {
            link: link.0,
            piece: piece.to_u32(),
            bytes: piece_len,
        });
        self.reports.send(Report::Event(Event::PieceSent { link, piece })).await?;
        Ok(())
    }

    /// The latest piece counts for as much as all before.
    fn learn_rate(&mut self, (bytes, took): (u32, Duration)) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let rate = u64::from(bytes).saturating_mul(1_000_000_000) / nanos;
        self.rate = Some(self.rate.map_or(rate, |known| known.midpoint(rate)));
    }

    /// The packed form of a piece, where it is at hand or worth its making.
    async fn packed_form(&self, piece: PieceIndex, piece_len: u32) -> Result<Option<Arc<[u8]>>, End> {
        if !self.packs || piece_len > DATA_LEN_MAX {
            return Ok(None);
        }
        let packer = self.intake.packer();
        if let Some(packed) = packer.find(piece) {
            return Ok(Some(packed));
        }
        if !packer.is_worth(piece, piece_len as usize, self.rate) {
            return Ok(None);
        }
        let intake = self.intake.clone();
        let (link_rate, len) = (self.rate, piece_len as usize);
        let pack = move || {
            // What cannot be read is sent plain, and that finds out what is wrong.
            let read = |offset, buffer: &mut [u8]| intake.store().read(piece, offset, buffer);
            intake.packer().pack(piece, len, link_rate, read)
        };
        tokio::task::spawn_blocking(pack).await.map_err(|_| End::Closed)
    }

    async fn write_packed(
        &mut self,
        piece: PieceIndex,
        packed: &[u8],
        control: &mut mpsc::Receiver<Message>,
    ) -> Result<(u32, Duration), End> {
        let piece_len = self.intake.manifest().geometry().piece_len(piece);
        let total = u32::try_from(packed.len()).expect("a packed piece is shorter than the piece");
        let (mut offset, began) = (0, Instant::now());
        while offset < total {
            let len = self.intake.limits().upload.step_len(BLOCK_LEN).min(total - offset);
            self.wait_for_turn(len, control).await?;
            self.push(&Message::Packed { piece, offset, len, total });
            self.frames.extend_from_slice(&packed[offset as usize..][..len as usize]);
            let frames = std::mem::take(&mut self.frames);
            self.write.write_all(&frames).await?;
            self.frames = frames;
            self.frames.clear();
            offset += len;
            self.after_block(control).await?;
        }
        self.intake.packer().count(piece_len as usize, packed.len());
        Ok((total, began.elapsed()))
    }

    async fn write_plain(
        &mut self,
        piece: PieceIndex,
        piece_len: u32,
        control: &mut mpsc::Receiver<Message>,
    ) -> Result<Result<(u32, Duration), StorageError>, End> {
        let (mut offset, began) = (0, Instant::now());
        while offset < piece_len {
            let len = self.intake.limits().upload.step_len(BLOCK_LEN).min(piece_len - offset);
            self.wait_for_turn(len, control).await?;
            match self.read_block(piece, offset, len).await? {
                Ok((block, start)) => {
                    self.write.write_all(&block[start..]).await?;
                    self.block = block;
                }
                Err(error) => return Ok(Err(error)),
            }
            offset += len;
            self.after_block(control).await?;
        }
        Ok(Ok((piece_len, began.elapsed())))
    }

    /// Messages go between two blocks.
    async fn after_block(&mut self, control: &mut mpsc::Receiver<Message>) -> Result<(), End> {
        self.write_messages(control).await?;
        if self.leaving_at.elapsed() >= MOVING_EVERY {
            self.say_leaving().await?;
        }
        Ok(())
    }

    /// Waits until the limit lets `len` bytes go; messages go meanwhile.
    async fn wait_for_turn(&mut self, len: u32, control: &mut mpsc::Receiver<Message>) -> Result<(), End> {
        let intake = self.intake.clone();
        if intake.limits().upload.rate().is_none() {
            return Ok(());
        }
        let mut turn = std::pin::pin!(intake.limits().upload.turn(len));
        loop {
            tokio::select! {
                () = &mut turn => return Ok(()),
                Some(message) = control.recv() => {
                    self.push(&message);
                    self.write_messages(control).await?;
                }
                () = tokio::time::sleep(MOVING_EVERY) => self.say_leaving().await?,
            }
        }
    }

    /// The peer is not to blame for the time that the rest takes.
    async fn say_leaving(&mut self) -> Result<(), End> {
        self.leaving_at = Instant::now();
        Ok(self.reports.send(Report::Event(Event::DataLeaving { link: self.id })).await?)
    }

    /// A block with its frame in front of it, and where the frame begins.
    async fn read_block(
        &mut self,
        piece: PieceIndex,
        offset: u32,
        len: u32,
    ) -> Result<Result<(Vec<u8>, usize), StorageError>, End> {
        let frame = wire::frame(&Message::Data { piece, offset, len }.encode());
        assert!(frame.len() <= BLOCK_HEADER_MAX && frame.len() > FRAME_HEADER_LEN, "a data frame is short");
        let start = BLOCK_HEADER_MAX - frame.len();
        let mut block = std::mem::take(&mut self.block);
        block.resize(BLOCK_HEADER_MAX + len as usize, 0);
        block[start..BLOCK_HEADER_MAX].copy_from_slice(&frame);
        // What is in memory is read here and now: to wake a thread for it would cost more.
        match self.intake.store().read_cached(piece, offset, &mut block[BLOCK_HEADER_MAX..]) {
            Ok(true) => return Ok(Ok((block, start))),
            Ok(false) => {}
            Err(error) => return Ok(Err(error)),
        }
        let store = self.intake.store().clone();
        let read = move || {
            store.read(piece, offset, &mut block[BLOCK_HEADER_MAX..])?;
            Ok((block, start))
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| End::Closed)
    }
}

#[cfg(test)]
mod tests;
