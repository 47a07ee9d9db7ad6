//! The sending end of a link: messages and pieces to bytes.

use std::future::poll_fn;
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
/// On a link that carries so many bytes per second, each step is that long, for steps cost CPU time …
const LONG_STEPS_FROM: u64 = 8_000_000;
/// … by what is known once so many have left, for what a wire takes in a burst says nothing …
const KNOWN_FROM: u64 = 192 * 1024;
/// … and a piece is sent once no more than a half of one waits.
const LONG_STEP_MARK: u32 = STEP_MAX / 2;
/// So many pieces say what a link carries: the weight of each that came before fades.
const LATEST: u64 = 8;

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
    pace: Pace,
    has_long_steps: bool,
}

/// How fast payload leaves on a link, while there is something to send.
#[derive(Default)]
struct Pace {
    /// What left of the [`LATEST`] pieces or so …
    bytes: u64,
    /// … and in how many nanoseconds.
    nanos: u64,
}

impl Pace {
    fn learn(&mut self, bytes: u32, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let fades = |sum: u64| sum - sum / LATEST;
        self.bytes = fades(self.bytes) + u64::from(bytes);
        self.nanos = fades(self.nanos).saturating_add(nanos);
    }

    /// Bytes per second, where something has left.
    fn rate(&self) -> Option<u64> {
        (self.nanos > 0).then(|| self.bytes.saturating_mul(1_000_000_000) / self.nanos)
    }

    fn is_quick(&self) -> bool {
        self.bytes >= KNOWN_FROM && self.rate().is_some_and(|rate| rate >= LONG_STEPS_FROM)
    }
}

impl Writer {
    pub(super) fn new(
        id: LinkId,
        write: WriteHalf,
        (intake, reports): (Arc<Intake>, mpsc::Sender<Report>),
        packs: bool,
    ) -> Self {
        let (frames, block, leaving_at) = (Vec::new(), Vec::new(), Instant::now());
        let (pace, has_long_steps) = (Pace::default(), false);
        let mut writer =
            Self { id, write, intake, reports, frames, block, leaving_at, packs, pace, has_long_steps };
        let step = writer.short_step() as usize;
        writer.write.set_step(step, step);
        writer
    }

    fn short_step(&self) -> u32 {
        (self.intake.manifest().geometry().piece_len_max() / STEPS).clamp(STEP_MIN, STEP_MAX)
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
        let packed = self.packed_form(piece, piece_len).await?;
        let began = Instant::now();
        let sent = match packed {
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
        if self.has_long_steps {
            self.wait_until_left(control).await?;
        }
        self.learn_pace(sent, began.elapsed());
        self.intake.trace().record(|| trace::Event::Sent {
            link: link.0,
            piece: piece.to_u32(),
            bytes: piece_len,
        });
        self.reports.send(Report::Event(Event::PieceSent { link, piece })).await?;
        Ok(())
    }

    /// Waits until most of a piece has left the kernel; messages go meanwhile. The driver is told of nothing: whoever
    /// takes nothing is to blame for it.
    async fn wait_until_left(&mut self, control: &mut mpsc::Receiver<Message>) -> Result<(), End> {
        loop {
            tokio::select! {
                left = poll_fn(|cx| self.write.poll_left(cx)) => return Ok(left?),
                Some(message) = control.recv() => {
                    self.push(&message);
                    self.write_messages(control).await?;
                }
            }
        }
    }

    /// Learns how fast a piece left, but for what may still wait in the kernel, and whether steps are to be long.
    fn learn_pace(&mut self, bytes: u32, took: Duration) {
        let short = self.short_step();
        let waits = if self.has_long_steps { LONG_STEP_MARK } else { short };
        self.pace.learn(if bytes > waits { bytes - waits } else { bytes }, took);
        let is_quick = self.pace.is_quick();
        if short < LONG_STEP_MARK && is_quick != self.has_long_steps {
            self.has_long_steps = is_quick;
            let (step, mark) = if is_quick { (STEP_MAX, LONG_STEP_MARK) } else { (short, short) };
            self.write.set_step(step as usize, mark as usize);
        }
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
        if !packer.is_worth(piece, piece_len as usize, self.pace.rate()) {
            return Ok(None);
        }
        let intake = self.intake.clone();
        let (link_rate, len) = (self.pace.rate(), piece_len as usize);
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
    ) -> Result<u32, End> {
        let piece_len = self.intake.manifest().geometry().piece_len(piece);
        let total = u32::try_from(packed.len()).expect("a packed piece is shorter than the piece");
        let mut offset = 0;
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
        Ok(total)
    }

    async fn write_plain(
        &mut self,
        piece: PieceIndex,
        piece_len: u32,
        control: &mut mpsc::Receiver<Message>,
    ) -> Result<Result<u32, StorageError>, End> {
        let mut offset = 0;
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
        Ok(Ok(piece_len))
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
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_that_of_the_latest_pieces_and_no_burst_hides_it() {
        let mut pace = Pace::default();
        assert_eq!((pace.rate(), pace.is_quick()), (None, false));
        // Two pieces that a token bucket takes at once, and then its rate, 5 MB a second.
        pace.learn(50_000, Duration::from_nanos(1));
        pace.learn(50_000, Duration::from_nanos(1));
        assert!(!pace.is_quick(), "too little is known");
        for _ in 0..100 {
            pace.learn(50_000, Duration::from_millis(10));
            assert!(!pace.is_quick());
        }
        assert_eq!(pace.rate().map(|rate| rate / 100_000), Some(50));
        pace.learn(50_000, Duration::from_nanos(1));
        assert!(!pace.is_quick(), "a burst");
        for _ in 0..20 {
            pace.learn(50_000, Duration::from_millis(2));
        }
        assert!(pace.is_quick());
        for _ in 0..4 {
            pace.learn(u32::MAX, Duration::MAX);
        }
        assert_eq!((pace.rate(), pace.is_quick()), (Some(0), false));
    }

    #[test]
    fn what_is_known_of_a_quick_link_stays_enough() {
        let mut pace = Pace::default();
        for _ in 0..1000 {
            pace.learn(STEP_MAX - LONG_STEP_MARK, Duration::from_millis(1));
        }
        assert!(pace.is_quick());
    }
}
