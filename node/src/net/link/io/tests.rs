//! Links whose other end is a test: what reaches the disk, and who is blamed.

mod any_bytes;

use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use dft_protocol::geometry::{Geometry, PieceSize};
use dft_protocol::manifest::{Hints, Manifest};
use dft_protocol::wire::{PieceList, RejectReason, frame};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf, duplex, split};

use super::*;
use crate::net::link::pack::Packing;
use crate::net::link::{Incoming, Outgoing};
use crate::rate::RateLimits;
use crate::sha256::Sha256;
use crate::storage::{FetchOptions, ScanOptions, Store, hash, scan};
use crate::trace::Trace;

/// A long piece, of eight blocks.
const PIECE_LEN: u32 = 8 * BLOCK_LEN;
/// The last piece, which is a short one.
const SHORT_LEN: u32 = BLOCK_LEN + 1000;
/// Less than a block is under way: what was written but for so many bytes is being read.
const PIPE_LEN: usize = 16 * 1024;

/// The receiving half of a link in memory.
struct Pipe(tokio::io::ReadHalf<DuplexStream>);

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Incoming for Pipe {
    fn wake_at(&mut self, _: usize) {}
}

impl Outgoing for tokio::io::WriteHalf<DuplexStream> {
    fn set_step(&mut self, _bytes: usize, _mark: usize) {}

    fn poll_left(&mut self, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A node that fetches a dataset of a long and a short piece.
struct Fetch {
    content: Vec<u8>,
    store: Arc<Store>,
    intake: Arc<Intake>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    _directory: TempDir,
}

impl Fetch {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut content = vec![0; (PIECE_LEN + SHORT_LEN) as usize];
        Xoshiro256StarStar::seed_from_u64(1).fill_bytes(&mut content);
        let source = directory.path().join("data");
        std::fs::write(&source, &content).expect("a file");
        let manifest = Arc::new(manifest_of(&source));
        let options = FetchOptions::default();
        let target = directory.path().join("target");
        std::fs::create_dir(&target).expect("a directory");
        let store =
            Arc::new(Store::fetch(manifest.clone(), &target, options, &|_| {}).expect("an empty store"));
        let limits = Arc::new(RateLimits::default());
        let intake = Intake::new(manifest, store.clone(), limits, Packing::Off, Trace::default());
        Self { content, store, intake, reports: mpsc::channel(64), _directory: directory }
    }

    /// The long piece, and the short one.
    fn pieces(&self) -> Vec<PieceIndex> {
        self.intake.manifest().geometry().pieces().collect()
    }

    /// The long piece.
    fn piece(&self) -> PieceIndex {
        self.pieces()[0]
    }

    fn content_of(&self, piece: PieceIndex) -> &[u8] {
        let len = self.intake.manifest().geometry().piece_len(piece);
        &self.content[piece.index() * PIECE_LEN as usize..][..len as usize]
    }

    fn link(&self, number: u64) -> Peer {
        let (here, there) = duplex(PIPE_LEN);
        let (read, write) = split(here);
        let (read, write) = (Box::new(Pipe(read)), Box::new(write));
        let (intake, reports) = (self.intake.clone(), self.reports.0.clone());
        let handle = LinkHandle::start((LinkId(number), PACKED_SINCE), read, write, intake, reports);
        Peer { handle, there, sent: 0 }
    }

    /// The next report that is no sign of life.
    async fn report(&mut self) -> Report {
        loop {
            let report = tokio::time::timeout(Duration::from_secs(60), self.reports.1.recv()).await;
            match report.expect("a report comes").expect("this end holds a sender") {
                Report::Event(Event::DataArriving { .. }) => {}
                report => return report,
            }
        }
    }

    /// Until all that waits to be hashed and written is.
    async fn wait_for_workers(&self) {
        while self.intake.is_at_work() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The piece is on disk, and what it should be.
    fn assert_stored(&self, piece: PieceIndex) {
        let mut found = vec![0; self.content_of(piece).len()];
        self.store.read(piece, 0, &mut found).expect("it can be read");
        assert!(found == self.content_of(piece), "what was verified is what is there");
        self.store.flush().expect("it can be synced");
        assert!(self.store.durable().contains(piece));
    }
}

fn fetched_geometry() -> Geometry {
    Geometry::new(vec![PIECE_LEN, SHORT_LEN]).expect("a geometry")
}

fn manifest_of(source: &Path) -> Manifest {
    let scan = scan(&[source.to_owned()], None, &ScanOptions::default()).expect("a file");
    let size = PieceSize::new(PIECE_LEN.into()).expect("a piece size");
    let info = hash(&scan, Some(size), &|_| {}, &AtomicBool::new(false)).expect("it can be read");
    Manifest::new(info, Hints::default()).expect("a manifest")
}

/// The other end of a link, and the driver's hold on this one.
struct Peer {
    handle: LinkHandle,
    there: DuplexStream,
    /// How much of the piece it has sent.
    sent: u32,
}

impl Peer {
    fn tell(&self, message: fn(PieceList) -> Message, piece: PieceIndex) {
        self.handle.send(message(PieceList::one(piece))).expect("the queue is empty");
    }

    /// Sends blocks of the piece up to `end`, but for the last `held` bytes.
    async fn send(&mut self, piece: PieceIndex, content: &[u8], end: u32, held: usize) {
        while self.sent < end {
            let len = BLOCK_LEN.min(end - self.sent);
            let held = if self.sent + len < end { 0 } else { held };
            let header = frame(&Message::Data { piece, offset: self.sent, len }.encode());
            let block = &content[self.sent as usize..][..len as usize];
            self.write(&header).await;
            self.write(&block[..block.len() - held]).await;
            self.sent += len;
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        let written = tokio::time::timeout(Duration::from_secs(60), self.there.write_all(bytes)).await;
        written.expect("the reader reads").expect("the link is open");
    }
}

/// Wrong bytes, of the right length.
fn noise() -> Vec<u8> {
    vec![0x5a; PIECE_LEN as usize]
}

#[tokio::test]
async fn a_late_block_of_a_cancelled_peer_takes_no_piece_over() {
    let mut fetch = Fetch::new();
    let (piece, content) = (fetch.piece(), fetch.content.clone());
    let (mut late, mut honest) = (fetch.link(1), fetch.link(2));
    late.tell(Message::Request, piece);
    // All of its first block but a byte: its reader waits for that one.
    late.send(piece, &noise(), BLOCK_LEN, 1).await;
    late.tell(Message::Cancel, piece);
    honest.tell(Message::Request, piece);
    honest.send(piece, &content, PIECE_LEN - BLOCK_LEN, 0).await;
    late.write(&[0x5a]).await;
    late.send(piece, &noise(), PIECE_LEN, 0).await;
    let report = fetch.report().await;
    let discarded = matches!(report, Report::Event(Event::PieceDiscarded { link: LinkId(1), .. }));
    assert!(discarded, "its data are dropped: {report:?}");
    honest.send(piece, &content, PIECE_LEN, 0).await;
    let report = fetch.report().await;
    let right = matches!(report, Report::Piece { link: LinkId(2), valid: true, .. });
    assert!(right, "a good piece is good whatever others send: {report:?}");
    fetch.assert_stored(piece);
}

#[tokio::test]
async fn a_peer_that_was_replaced_at_the_last_block_is_not_called_corrupt() {
    let mut fetch = Fetch::new();
    let (piece, content) = (fetch.piece(), fetch.content.clone());
    let (mut late, mut honest) = (fetch.link(1), fetch.link(2));
    late.tell(Message::Request, piece);
    late.send(piece, &content, PIECE_LEN, 1).await;
    // The request of the other comes first to the disk: nobody told this link's reader.
    honest.tell(Message::Request, piece);
    late.write(&content[content.len() - 1..]).await;
    let report = fetch.report().await;
    let discarded = matches!(report, Report::Event(Event::PieceDiscarded { link: LinkId(1), .. }));
    assert!(discarded, "it sent nothing wrong: {report:?}");
    honest.send(piece, &content, PIECE_LEN, 0).await;
    let report = fetch.report().await;
    assert!(matches!(report, Report::Piece { link: LinkId(2), valid: true, .. }), "{report:?}");
    fetch.assert_stored(piece);
}

#[tokio::test]
async fn a_verified_piece_is_closed_to_all_who_were_asked_before() {
    let mut fetch = Fetch::new();
    let (piece, content) = (fetch.piece(), fetch.content.clone());
    let straggler = fetch.intake.begin_stream(piece).expect("a long piece");
    let mut honest = fetch.link(2);
    honest.tell(Message::Request, piece);
    honest.send(piece, &content, PIECE_LEN, 0).await;
    let report = fetch.report().await;
    assert!(matches!(report, Report::Piece { link: LinkId(2), valid: true, .. }), "{report:?}");
    // A block that had waited all the time.
    let mut buffer = fetch.intake.buffer().await;
    buffer.fill(0x5a);
    let storing = fetch.intake.store_block(straggler.clone(), Sha256::new(), (buffer, BLOCK_LEN), 0);
    let hash = storing.await.expect("a worker answers").expect("nothing is written");
    assert_eq!(fetch.intake.finish_stream(&straggler, hash), None, "nor is it judged");
    fetch.assert_stored(piece);
}

#[tokio::test]
async fn a_peer_that_gave_a_piece_up_begins_anew_when_it_is_asked_again() {
    let mut fetch = Fetch::new();
    let (piece, content) = (fetch.piece(), fetch.content.clone());
    let mut fickle = fetch.link(1);
    fickle.tell(Message::Request, piece);
    fickle.send(piece, &noise(), PIECE_LEN / 2, 0).await;
    fickle.write(&frame(&Message::Reject(piece, RejectReason::Busy).encode())).await;
    let report = fetch.report().await;
    let rejected = matches!(report, Report::Event(Event::Message { message: Message::Reject(..), .. }));
    assert!(rejected, "{report:?}");
    fickle.tell(Message::Request, piece);
    fickle.sent = 0;
    fickle.send(piece, &content, PIECE_LEN, 0).await;
    let report = fetch.report().await;
    assert!(matches!(report, Report::Piece { link: LinkId(1), valid: true, .. }), "{report:?}");
    fetch.assert_stored(piece);
}

#[tokio::test]
async fn a_stream_that_ends_short_leaves_the_piece_to_the_next() {
    let mut fetch = Fetch::new();
    let (piece, content) = (fetch.piece(), fetch.content.clone());
    let mut short = fetch.link(1);
    short.tell(Message::Request, piece);
    short.send(piece, &noise(), PIECE_LEN / 2, 100).await;
    drop(short.there);
    let report = fetch.report().await;
    assert!(matches!(report, Report::Event(Event::LinkDown { link: LinkId(1) })), "{report:?}");
    let mut honest = fetch.link(2);
    honest.tell(Message::Request, piece);
    honest.send(piece, &content, PIECE_LEN, 0).await;
    let report = fetch.report().await;
    assert!(matches!(report, Report::Piece { link: LinkId(2), valid: true, .. }), "{report:?}");
    fetch.assert_stored(piece);
}
