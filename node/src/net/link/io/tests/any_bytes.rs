//! Whatever a peer sends after the handshake, and whenever the swarm changes its mind meanwhile:
//! the link ends in good order, within its memory, and no wrong byte is taken for a right one.

use dft_protocol::wire::{DATA_LEN_MAX, FRAME_LEN_MAX};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// One thing that a peer sends.
#[derive(Clone, Debug)]
enum Step {
    /// All of a piece, in blocks of this length; right, or wrong from some byte on.
    Piece { long: bool, block_len: u32, wrong_from: Option<Index> },
    /// A block at any place.
    Block { long: bool, offset: u32, len: u32 },
    /// Packed bytes that are no frame, or some of them.
    Packed { long: bool, len: u32, total: u32 },
    /// A message without payload.
    Said(Message),
    /// Anything.
    Bytes(Vec<u8>),
}

/// What the swarm does when so much of the stream was read.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ask,
    Cancel,
    /// Asks another link.
    Replace,
}

fn steps() -> impl Strategy<Value = Step> {
    let piece = |index: usize| fetched_geometry().pieces().nth(index).expect("there are two");
    let said = prop_oneof![
        Just(Message::KeepAlive),
        Just(Message::Reject(piece(0), RejectReason::Busy)),
        Just(Message::Reject(piece(1), RejectReason::Cancelled)),
        Just(Message::Have(PieceList::one(piece(0)))),
    ];
    let block_len = prop_oneof![Just(BLOCK_LEN), Just(DATA_LEN_MAX), 60_000..DATA_LEN_MAX];
    prop_oneof![
        4 => (any::<bool>(), block_len, any::<Option<Index>>())
            .prop_map(|(long, block_len, wrong_from)| Step::Piece { long, block_len, wrong_from }),
        1 => (any::<bool>(), prop_oneof![Just(0), any::<u32>()], 0..=DATA_LEN_MAX)
            .prop_map(|(long, offset, len)| Step::Block { long, offset, len }),
        1 => (any::<bool>(), 1..2000u32, 1..2000u32)
            .prop_map(|(long, len, total)| Step::Packed { long, len, total }),
        1 => said.prop_map(Step::Said),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Step::Bytes),
    ]
}

/// What the steps put on the wire.
fn stream(steps: &[Step], fetch: &Fetch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let geometry = fetch.intake.manifest().geometry();
    for step in steps {
        let piece = |long: bool| fetch.pieces()[usize::from(!long)];
        let mut block = |piece, offset, len, payload: &[u8]| {
            bytes.extend(frame(&Message::Data { piece, offset, len }.encode()));
            bytes.extend(payload);
        };
        match step {
            Step::Piece { long, block_len, wrong_from } => {
                let piece = piece(*long);
                let mut content = fetch.content_of(piece).to_vec();
                if let Some(from) = wrong_from {
                    let from = from.index(content.len());
                    content[from..].fill(0x5a);
                }
                for offset in (0..geometry.piece_len(piece)).step_by(*block_len as usize) {
                    let len = (*block_len).min(geometry.piece_len(piece) - offset);
                    block(piece, offset, len, &content[offset as usize..][..len as usize]);
                }
            }
            Step::Block { long, offset, len } => {
                block(piece(*long), *offset, *len, &vec![0x5a; *len as usize]);
            }
            Step::Packed { long, len, total } => {
                let (piece, offset) = (piece(*long), 0);
                bytes.extend(frame(&Message::Packed { piece, offset, len: *len, total: *total }.encode()));
                bytes.extend(vec![0x5a; *len as usize]);
            }
            Step::Said(message) => bytes.extend(frame(&message.encode())),
            Step::Bytes(any) => bytes.extend(any),
        }
    }
    bytes
}

/// A stream that ends, read in pieces of some length, during which the swarm acts.
struct Script {
    bytes: Vec<u8>,
    read: usize,
    chunk: usize,
    /// When so much was read, the latest first.
    acts: Vec<(usize, Act)>,
    expected: Expected,
    intake: Arc<Intake>,
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(&(at, act)) = self.acts.last()
            && at <= self.read
        {
            self.acts.pop();
            let pieces: Vec<PieceIndex> = self.intake.manifest().geometry().pieces().collect();
            match act {
                Act::Ask => {
                    // As the swarm: one request, one answer.
                    let missing = |piece: &PieceIndex| !self.expected.lock().contains_key(piece);
                    let pieces: Vec<PieceIndex> = pieces.into_iter().filter(missing).collect();
                    self.expected.ask(&pieces, &self.intake);
                }
                Act::Cancel => self.expected.cancel(&pieces),
                Act::Replace => drop(self.intake.begin_stream(pieces[0])),
            }
            // Others run in between.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let len = self.chunk.min(buffer.remaining()).min(self.bytes.len() - self.read);
        buffer.put_slice(&self.bytes[self.read..][..len]);
        self.read += len;
        Poll::Ready(Ok(()))
    }
}

impl Incoming for Script {
    fn wake_at(&mut self, _: usize) {}
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn any_stream_ends_in_good_order_and_nothing_wrong_is_taken_for_right(
        steps in prop::collection::vec(steps(), 0..8),
        flips in prop::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        cut in any::<Option<Index>>(),
        acts in prop::collection::vec((any::<Index>(), prop_oneof![
            Just(Act::Ask), Just(Act::Cancel), Just(Act::Replace)
        ]), 0..6),
        chunk in 1_000_usize..300_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut fetch = Fetch::new();
            let mut bytes = stream(&steps, &fetch);
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            for (at, flip) in &flips {
                let len = bytes.len();
                if len > 0 {
                    bytes[at.index(len)] ^= flip;
                }
            }
            let mut acts: Vec<(usize, Act)> =
                acts.iter().map(|(at, act)| (at.index(bytes.len() + 1), *act)).collect();
            acts.push((0, Act::Ask));
            acts.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
            let (expected, intake) = (Expected::default(), fetch.intake.clone());
            let script =
                Script { bytes, read: 0, chunk, acts, expected: expected.clone(), intake: intake.clone() };
            let shared = (intake, fetch.reports.0.clone());
            let mut reader = Reader::new(LinkId(1), Box::new(script), shared, expected.clone());
            let reading = tokio::spawn(async move {
                let ended = reader.read_messages().await;
                (matches!(ended, Err(End::Closed | End::Violation(_))), reader.body.capacity())
            });
            let mut right = Vec::new();
            let mut reports = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(60), async {
                tokio::pin!(reading);
                loop {
                    tokio::select! {
                        ended = &mut reading => break ended,
                        Some(report) = fetch.reports.1.recv() => reports.push(report),
                    }
                }
            });
            let (in_good_order, body) = read.await.expect("it ends").expect("nothing panics");
            assert!(in_good_order, "a peer cannot make a disk fail");
            // `resize` may round up.
            assert!(body <= 2 * FRAME_LEN_MAX.max(64 * 1024), "{body} bytes for one frame");
            assert!(expected.lock().len() <= 2, "no more is expected than was asked for");
            fetch.wait_for_workers().await;
            while let Ok(report) = fetch.reports.1.try_recv() {
                reports.push(report);
            }
            for report in &reports {
                match report {
                    Report::Piece { piece, valid: true, .. } => right.push(*piece),
                    Report::StorageFailed(error) => panic!("a peer cannot make a disk fail: {error}"),
                    _ => {}
                }
            }
            for piece in right {
                fetch.assert_stored(piece);
            }
        });
    }
}
