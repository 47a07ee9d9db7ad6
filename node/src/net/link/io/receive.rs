//! The receiving end of a link: messages to reports, payload to the [`Intake`].
//!
//! Only what was asked for is let in, and only while it is still wanted.

use std::sync::Arc;
use std::time::Instant;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::swarm::{Event, LinkId, Violation};
use dft_protocol::wire::{FRAME_LEN_MAX, Message, WireError};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::{End, Expected, MOVING_EVERY, Report, report_end};
use crate::buffers::Buffer;
use crate::net::link::ReadHalf;
use crate::net::link::intake::{Intake, Storing};
use crate::net::link::low_water::Mark;
use crate::net::link::stream::Stream;
use crate::sha256::Sha256;
use crate::trace;

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

/// The task that takes in what the other end sends.
pub(super) struct Reader {
    id: LinkId,
    read: ReadHalf,
    intake: Arc<Intake>,
    reports: mpsc::Sender<Report>,
    expected: Expected,
    /// The frame that is being read.
    pub(super) body: Vec<u8>,
    /// The piece on its way, how much of it arrived, and where that is.
    assembly: Option<(PieceIndex, u32, Assembly)>,
    arriving_at: Instant,
}

impl Reader {
    pub(super) fn new(
        id: LinkId,
        read: ReadHalf,
        (intake, reports): (Arc<Intake>, mpsc::Sender<Report>),
        expected: Expected,
    ) -> Self {
        let arriving_at = Instant::now();
        Self { id, read, intake, reports, expected, body: Vec::new(), assembly: None, arriving_at }
    }

    pub(super) async fn run(mut self) {
        let end = match self.read_messages().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        report_end(self.id, end, &self.reports).await;
    }

    pub(super) async fn read_messages(&mut self) -> Result<std::convert::Infallible, End> {
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
