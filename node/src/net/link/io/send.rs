//! The sending end of a link: messages and pieces to bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::swarm::{Event, LinkId};
use dft_protocol::wire::{self, DATA_LEN_MAX, FRAME_HEADER_LEN, Message};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::{BLOCK_LEN, End, MOVING_EVERY, Report, report_end};
use crate::net::link::WriteHalf;
use crate::net::link::intake::Intake;
use crate::storage::StorageError;
use crate::trace;

/// Room in front of a block for the frame that announces it, so that both leave in one write.
const BLOCK_HEADER_MAX: usize = 32;

/// A piece is handed to the kernel in so many steps …
const STEPS: u32 = 4;
/// … of at least so many bytes, a dozen segments …
const STEP_MIN: u32 = 16 * 1024;
/// … and at most so many, as much as one buffer of the kernel holds.
const STEP_MAX: u32 = 64 * 1024;

/// The task that sends what is queued.
pub(super) struct Writer {
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
    pub(super) fn new(
        id: LinkId,
        mut write: WriteHalf,
        (intake, reports): (Arc<Intake>, mpsc::Sender<Report>),
        packs: bool,
    ) -> Self {
        let (frames, block, leaving_at) = (Vec::new(), Vec::new(), Instant::now());
        let piece_len = intake.manifest().geometry().piece_len_max();
        write.set_step((piece_len / STEPS).clamp(STEP_MIN, STEP_MAX) as usize);
        Self { id, write, intake, reports, frames, block, leaving_at, packs, rate: None }
    }

    pub(super) async fn run(
        mut self,
        mut control: mpsc::Receiver<Message>,
        mut pieces: mpsc::Receiver<PieceIndex>,
    ) {
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
