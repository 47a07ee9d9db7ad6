//! Peers that misbehave: each is found out and dropped, and the fetch completes bit by bit.
//!
//! A [`HostilePeer`] is a small second implementation of docs/PROTOCOL.md: it listens for
//! plaintext links, proves an identity, claims to have every piece, and then answers requests as
//! its [`Behaviour`] says. The honest seeder is held (SIGSTOP) until the hostile peer was dealt
//! with, so that no run depends on who is asked first.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::Manifest;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::wire::{Hello, LIST_LEN_MAX, Message, Opening, PieceList, RejectReason, frame};
use libp2p::identity::Keypair;

use crate::lab::hints::read_manifest;
use crate::lab::process::Process;
use crate::lab::scene::Scene;
use crate::steps::{Place, Seeder, assert_fetched, fetch, random_dataset};

/// Opens a plaintext link; see docs/PROTOCOL.md.
const MAGIC: &[u8] = b"dftp\x01";
const NONCE_LEN: usize = 32;
/// How long a hostile peer waits for a byte: longer than any test.
const READ_MAX: Duration = Duration::from_secs(300);
/// How often the listener looks whether the test is over.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// More requests than any peer may have open at once.
const FLOOD_MESSAGES: usize = 64;
/// Connections that say nothing.
const IDLE_CONNECTIONS: usize = 200;
/// Payload of one data message here: long pieces come in many.
const BLOCK_LEN: u32 = 256 * 1024;
/// A piece of several blocks and messages, which goes to the disk before its hash is known.
const LONG_PIECES: [&str; 4] = ["--encryption", "off", "--piece-size", "4M"];
/// How long after a cancel a late block comes: the one who is asked then has begun.
const LATE_BY: Duration = Duration::from_millis(250);
/// The honest seeder takes a second for a long piece, so that it is at work by then.
const SLOWLY: [&str; 2] = ["--max-upload", "4M"];

/// What a hostile peer does.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Answers every request with wrong bytes of the right length.
    CorruptsAll,
    /// Answers with right bytes but for the last one.
    CorruptsTheLastByte,
    /// Sends packed pieces that unpack to a quarter of a gigabyte.
    PacksBombs,
    /// Sends packed pieces that are no frames.
    PacksNoise,
    /// Begins a piece in packed form and goes on in plain form.
    MixesForms,
    /// Claims pieces, and says that it lacks them when asked.
    Lies,
    /// Takes requests and never answers.
    IsSilent,
    /// Sends a piece that nobody asked for.
    SendsUnrequested,
    /// Says that it will not answer a request that was never made.
    RejectsUnrequested,
    /// Asks for everything again and again.
    Floods,
    /// Sends a frame that is no message.
    TalksNonsense,
    /// Announces a frame of 4 GiB.
    SendsGiantFrame,
    /// Names a piece that does not exist.
    NamesMissingPiece,
    /// Hangs up at the first request, every time.
    HangsUp,
    /// Sends half of the first piece and hangs up, every time.
    HangsUpHalfway,
    /// Changes a byte in the middle of each piece.
    CorruptsTheMiddle,
    /// Sends the first block of a piece but for its last byte; that one, and all the rest, when
    /// another peer has been asked for the piece. All of it wrong.
    ComesLate,
}

/// A hostile peer, and what it has seen.
struct HostilePeer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    behaviour: Behaviour,
    manifest: Manifest,
    /// The original, for those who corrupt only a little.
    content: Vec<u8>,
    keypair: Keypair,
    links: AtomicUsize,
    requests: AtomicUsize,
    over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Shared {
    fn new(behaviour: Behaviour, manifest: &Path, dataset: &Path) -> Self {
        Self {
            behaviour,
            manifest: read_manifest(manifest),
            content: std::fs::read(dataset).expect("the dataset is a file"),
            keypair: Keypair::generate_ed25519(),
            links: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            streams: Mutex::default(),
        }
    }
}

impl HostilePeer {
    fn start(behaviour: Behaviour, manifest: &Path, dataset: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        listener.set_nonblocking(true).expect("a socket can poll");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::new(behaviour, manifest, dataset));
        let listening = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || listen(&listener, &shared))
        };
        Self { addr, shared, listener: Some(listening) }
    }

    fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    fn links(&self) -> usize {
        self.shared.links.load(Ordering::Relaxed)
    }
}

impl Drop for HostilePeer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut links = Vec::new();
    while !shared.over.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(POLL_INTERVAL);
            continue;
        };
        let prepared = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(READ_MAX)));
        let Ok(copy) = prepared.and_then(|()| stream.try_clone()) else { continue };
        shared.streams.lock().expect("no thread panics with it").push(copy);
        let shared = Arc::clone(shared);
        links.push(std::thread::spawn(move || {
            // Being dropped is what it expects.
            let _ = Link::new(stream, shared).run();
        }));
    }
    for stream in shared.streams.lock().expect("no thread panics with it").iter() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for link in links {
        let _ = link.join();
    }
}

/// One link of a hostile peer.
struct Link {
    stream: TcpStream,
    shared: Arc<Shared>,
    /// Who comes late: what was asked for, the first of it begun.
    held: VecDeque<PieceIndex>,
    cancelled: BTreeSet<PieceIndex>,
}

impl Link {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        Self { stream, shared, held: VecDeque::new(), cancelled: BTreeSet::new() }
    }

    fn run(&mut self) -> io::Result<()> {
        self.prove_identity()?;
        let Ok(Opening::Hello(hello)) = Opening::decode(&self.read_frame()?) else { return Ok(()) };
        // It names no port of its own, so that only the fetch comes here.
        let answer = Hello { complete: true, listen_port: 0, ..hello };
        self.stream.write_all(&frame(&Opening::Hello(answer).encode()))?;
        self.send(&Message::Bitfield(PieceSet::full(self.shared.manifest.geometry().piece_count())))?;
        self.misbehave()
    }

    /// The same as the end that dials.
    fn run_dialling(&mut self) -> io::Result<()> {
        self.prove_identity_dialling()?;
        let manifest = self.shared.manifest.id();
        let hello =
            Opening::Hello(Hello { version: 2, manifest, complete: false, listen_port: 0, site: None });
        self.stream.write_all(&frame(&hello.encode()))?;
        self.read_frame()?;
        self.misbehave()
    }

    fn misbehave(&mut self) -> io::Result<()> {
        self.shared.links.fetch_add(1, Ordering::Relaxed);
        self.misbehave_unasked()?;
        loop {
            let body = self.read_frame()?;
            match Message::decode(&body, self.shared.manifest.geometry()) {
                Ok(Message::Request(list)) => {
                    self.shared.requests.fetch_add(list.pieces().len(), Ordering::Relaxed);
                    // The lowest first: others are asked for late pieces in this order.
                    let pieces: BTreeSet<PieceIndex> = list.pieces().iter().copied().collect();
                    pieces.into_iter().try_for_each(|piece| self.answer(piece))?;
                }
                Ok(Message::Cancel(list)) => {
                    self.cancelled.extend(list.pieces());
                    self.come_late()?;
                }
                _ => {}
            }
        }
    }

    /// The listener's side of the plaintext handshake.
    fn prove_identity(&mut self) -> io::Result<()> {
        let (their_nonce, their_key) = self.read_opening()?;
        let (nonce, key) = self.own_opening();
        let transcript = [&their_nonce[..], &nonce, &their_key, &key].concat();
        self.write_opening(&nonce, &key)?;
        self.write_signature("listener", &transcript)?;
        self.read_field().map(drop)
    }

    /// The dialler's side of it. Whoever answers is believed.
    fn prove_identity_dialling(&mut self) -> io::Result<()> {
        let (nonce, key) = self.own_opening();
        self.write_opening(&nonce, &key)?;
        let (their_nonce, their_key) = self.read_opening()?;
        self.read_field()?;
        let transcript = [&nonce[..], &their_nonce, &key, &their_key].concat();
        self.write_signature("dialler", &transcript)
    }

    fn own_opening(&self) -> (Vec<u8>, Vec<u8>) {
        (vec![7; NONCE_LEN], self.shared.keypair.public().encode_protobuf())
    }

    fn read_opening(&mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut opening = [0; MAGIC.len() + NONCE_LEN];
        self.stream.read_exact(&mut opening)?;
        Ok((opening[MAGIC.len()..].to_vec(), self.read_field()?))
    }

    fn write_opening(&mut self, nonce: &[u8], key: &[u8]) -> io::Result<()> {
        self.stream.write_all(&[MAGIC, nonce].concat())?;
        self.write_field(key)
    }

    fn write_signature(&mut self, role: &str, transcript: &[u8]) -> io::Result<()> {
        let signed = [b"dft plaintext link 1 ", role.as_bytes(), b" ", transcript].concat();
        let signature = self.shared.keypair.sign(&signed).map_err(io::Error::other)?;
        self.write_field(&signature)
    }

    fn misbehave_unasked(&mut self) -> io::Result<()> {
        let pieces: Vec<PieceIndex> = self.shared.manifest.geometry().pieces().collect();
        match self.shared.behaviour {
            Behaviour::SendsUnrequested => self.send_piece(pieces[0], 0..0),
            Behaviour::RejectsUnrequested => self.send(&Message::Reject(pieces[0], RejectReason::Missing)),
            Behaviour::Floods => {
                let all: Vec<_> = pieces.into_iter().cycle().take(LIST_LEN_MAX).collect();
                let list = PieceList::new(all).expect("it is as long as a list may be");
                (0..FLOOD_MESSAGES).try_for_each(|_| self.send(&Message::Request(list.clone())))
            }
            Behaviour::TalksNonsense => self.stream.write_all(&frame(b"\x82\x18\xff\xff")),
            Behaviour::SendsGiantFrame => self.stream.write_all(&[0xff; 64]),
            // A have of the piece with the highest number there is: [2, [2^32 - 1]].
            Behaviour::NamesMissingPiece => {
                self.stream.write_all(&frame(b"\x82\x02\x81\x1a\xff\xff\xff\xff"))
            }
            _ => Ok(()),
        }
    }

    fn answer(&mut self, piece: PieceIndex) -> io::Result<()> {
        match self.shared.behaviour {
            Behaviour::CorruptsAll => self.send_piece(piece, 0..self.len_of(piece)),
            Behaviour::CorruptsTheLastByte => {
                self.send_piece(piece, self.len_of(piece) - 1..self.len_of(piece))
            }
            Behaviour::CorruptsTheMiddle => {
                self.send_piece(piece, self.len_of(piece) / 2..self.len_of(piece) / 2 + 1)
            }
            Behaviour::HangsUpHalfway => {
                self.send_blocks(piece, 0..self.len_of(piece) / 2, 0..0)?;
                self.stream.shutdown(Shutdown::Both)
            }
            Behaviour::ComesLate => {
                self.held.push_back(piece);
                if self.held.len() == 1 { self.begin_late(piece) } else { Ok(()) }
            }
            Behaviour::PacksBombs => {
                let bomb = zstd::bulk::compress(&vec![0; 1 << 28], 1)?;
                let small =
                    &bomb[..bomb.len().min(self.shared.manifest.geometry().piece_len(piece) as usize - 1)];
                self.send_packed(piece, small, small.len())
            }
            Behaviour::PacksNoise => self.send_packed(piece, &[7; 1000], 1000),
            Behaviour::MixesForms => {
                self.send_packed(piece, &[7; 500], 1000)?;
                self.send(&Message::Data { piece, offset: 500, len: 500 })?;
                self.stream.write_all(&[7; 500])
            }
            Behaviour::Lies => self.send(&Message::Reject(piece, RejectReason::Missing)),
            Behaviour::HangsUp => self.stream.shutdown(Shutdown::Both),
            _ => Ok(()),
        }
    }

    fn len_of(&self, piece: PieceIndex) -> u32 {
        self.shared.manifest.geometry().piece_len(piece)
    }

    /// Sends a piece of which these bytes are wrong.
    fn send_piece(&mut self, piece: PieceIndex, wrong: Range<u32>) -> io::Result<()> {
        self.send_blocks(piece, 0..self.len_of(piece), wrong)
    }

    /// Sends these bytes of a piece, in blocks; those in `wrong` are.
    fn send_blocks(&mut self, piece: PieceIndex, bytes: Range<u32>, wrong: Range<u32>) -> io::Result<()> {
        for offset in bytes.clone().step_by(BLOCK_LEN as usize) {
            let len = BLOCK_LEN.min(bytes.end - offset);
            self.send(&Message::Data { piece, offset, len })?;
            let payload = self.payload(piece, offset..offset + len, wrong.clone());
            self.stream.write_all(&payload)?;
        }
        Ok(())
    }

    fn payload(&self, piece: PieceIndex, bytes: Range<u32>, wrong: Range<u32>) -> Vec<u8> {
        // The dataset is one file: its pieces lie one behind the other.
        let start = piece.index() * self.shared.manifest.geometry().piece_len_max() as usize;
        let content = &self.shared.content[start..];
        let byte = |at: u32| content[at as usize] ^ u8::from(wrong.contains(&at));
        bytes.map(byte).collect()
    }

    fn begin_late(&mut self, piece: PieceIndex) -> io::Result<()> {
        self.send(&Message::Data { piece, offset: 0, len: BLOCK_LEN })?;
        let first = self.payload(piece, 0..BLOCK_LEN - 1, 0..BLOCK_LEN);
        self.stream.write_all(&first)
    }

    /// Sends the rest of what was begun and then cancelled, and begins what was asked for next.
    fn come_late(&mut self) -> io::Result<()> {
        while let Some(&piece) = self.held.front()
            && self.cancelled.remove(&piece)
        {
            std::thread::sleep(LATE_BY);
            let last = self.payload(piece, BLOCK_LEN - 1..BLOCK_LEN, 0..BLOCK_LEN);
            self.stream.write_all(&last)?;
            let len = self.len_of(piece);
            self.send_blocks(piece, BLOCK_LEN..len, 0..len)?;
            self.held.pop_front();
            if let Some(&next) = self.held.front() {
                self.begin_late(next)?;
            }
        }
        Ok(())
    }

    /// Sends the first bytes of a packed form of this length.
    fn send_packed(&mut self, piece: PieceIndex, bytes: &[u8], total: usize) -> io::Result<()> {
        let number = |len: usize| u32::try_from(len).map_err(io::Error::other);
        let (len, total) = (number(bytes.len())?, number(total)?);
        self.send(&Message::Packed { piece, offset: 0, len, total })?;
        self.stream.write_all(bytes)
    }

    fn send(&mut self, message: &Message) -> io::Result<()> {
        self.stream.write_all(&frame(&message.encode()))
    }

    fn read_frame(&mut self) -> io::Result<Vec<u8>> {
        let mut len = [0; 4];
        self.stream.read_exact(&mut len)?;
        let mut body = vec![0; u32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn write_field(&mut self, field: &[u8]) -> io::Result<()> {
        let len = u8::try_from(field.len()).map_err(io::Error::other)?;
        self.stream.write_all(&[len])?;
        self.stream.write_all(field)
    }

    fn read_field(&mut self) -> io::Result<Vec<u8>> {
        let mut len = [0];
        self.stream.read_exact(&mut len)?;
        let mut field = vec![0; usize::from(len[0])];
        self.stream.read_exact(&mut field)?;
        Ok(field)
    }
}

/// A dataset, its seeder (on hold) and a fetch that knows both the seeder and a hostile peer.
struct Story {
    // Dropped in this order: processes end before their directory goes.
    fetcher: Process,
    seeder: Seeder,
    hostile: HostilePeer,
    dataset: PathBuf,
    scene: Scene,
}

impl Story {
    fn begin(behaviour: Behaviour) -> Self {
        Self::begin_with(behaviour, 4, &["--encryption", "off"])
    }

    /// With two pieces that go to the disk block by block: the hostile peer is asked for both.
    fn begin_long(behaviour: Behaviour) -> Self {
        Self::begin_with(behaviour, 8, &[&LONG_PIECES[..], &SLOWLY].concat())
    }

    fn begin_with(behaviour: Behaviour, mib: u64, options: &[&str]) -> Self {
        let scene = Scene::new();
        let dataset = random_dataset(&scene, mib);
        let seeder = Seeder::start(&scene, Place::Here, &dataset, options);
        let hostile = HostilePeer::start(behaviour, &seeder.manifest, &dataset);
        seeder.process.stop();
        let peer = hostile.addr.to_string();
        let options = ["--encryption", "off", "--linger", "0", "--peer", &peer];
        let fetcher = fetch(&scene, Place::Here, "fetcher", &seeder.manifest, &options);
        Self { fetcher, seeder, hostile, dataset, scene }
    }

    /// The hostile peer is banned for this reason; then the fetch completes.
    fn ends_with_ban(self, reason: &str) {
        let banned = self.fetcher.wait_for("banned");
        assert_eq!(banned.text("addr"), self.hostile.addr.to_string());
        assert!(banned.text("reason").contains(reason), "{banned:?}");
        self.completes();
    }

    fn completes(self) {
        self.seeder.process.cont();
        let outcome = self.fetcher.wait().expect_code(0);
        assert_fetched(&self.scene, "fetcher", &self.dataset);
        let bans = outcome.events.iter().filter(|event| event.name() == "banned");
        let others: Vec<_> = bans.filter(|ban| ban.text("addr") != self.hostile.addr.to_string()).collect();
        assert!(others.is_empty(), "nobody else is banned: {others:?}");
    }

    fn wait_for_requests(&self) {
        self.fetcher.wait_until("requests to the hostile peer", |_| self.hostile.requests() > 0);
    }
}

#[test]
fn peer_that_corrupts_all_is_banned() {
    Story::begin(Behaviour::CorruptsAll).ends_with_ban("corrupt");
}

#[test]
fn peer_that_corrupts_one_byte_is_banned() {
    Story::begin(Behaviour::CorruptsTheLastByte).ends_with_ban("corrupt");
}

#[test]
fn peer_that_corrupts_long_pieces_is_banned() {
    Story::begin_long(Behaviour::CorruptsAll).ends_with_ban("corrupt");
    Story::begin_long(Behaviour::CorruptsTheLastByte).ends_with_ban("corrupt");
    Story::begin_long(Behaviour::CorruptsTheMiddle).ends_with_ban("corrupt");
}

#[test]
fn peer_whose_blocks_come_after_a_cancel_gets_no_one_banned() {
    let story = Story::begin_long(Behaviour::ComesLate);
    story.wait_for_requests();
    story.completes();
}

#[test]
fn peer_whose_long_pieces_end_halfway_holds_up_no_one() {
    let story = Story::begin_long(Behaviour::HangsUpHalfway);
    story.wait_for_requests();
    story.completes();
}

#[test]
fn peer_whose_packed_pieces_burst_or_are_none_is_banned() {
    Story::begin(Behaviour::PacksBombs).ends_with_ban("corrupt");
    Story::begin(Behaviour::PacksNoise).ends_with_ban("corrupt");
}

#[test]
fn peer_that_changes_the_form_of_a_piece_is_banned() {
    Story::begin(Behaviour::MixesForms).ends_with_ban("not asked for");
}

#[test]
fn peer_that_lies_about_what_it_has_is_banned() {
    Story::begin(Behaviour::Lies).ends_with_ban("does not have");
}

#[test]
fn peer_that_sends_what_nobody_asked_for_is_banned() {
    Story::begin(Behaviour::SendsUnrequested).ends_with_ban("not asked for");
}

#[test]
fn peer_that_answers_no_question_is_banned() {
    Story::begin(Behaviour::RejectsUnrequested).ends_with_ban("not made");
}

#[test]
fn peer_that_floods_with_requests_is_banned() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 4);
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &["--encryption", "off"]);
    let stream = TcpStream::connect(seeder.seeding.texts("listen").remove(0)).expect("it listens");
    let shared = Arc::new(Shared::new(Behaviour::Floods, &seeder.manifest, &dataset));
    let flood = std::thread::spawn(move || Link::new(stream, shared).run_dialling());
    let banned = seeder.process.wait_for("banned");
    assert!(banned.text("reason").contains("too many requests"), "{banned:?}");
    assert!(flood.join().is_ok_and(|ended| ended.is_err()), "its link was closed");
    let options = ["--encryption", "off", "--linger", "0"];
    fetch(&scene, Place::Here, "fetcher", &seeder.manifest, &options).wait().expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
}

#[test]
fn peer_that_floods_one_who_has_nothing_holds_up_no_one() {
    let story = Story::begin(Behaviour::Floods);
    story.fetcher.wait_until("a link of the hostile peer", |_| story.hostile.links() > 0);
    story.completes();
}

#[test]
fn peer_that_talks_nonsense_is_banned() {
    Story::begin(Behaviour::TalksNonsense).ends_with_ban("schema");
}

#[test]
fn peer_that_sends_a_giant_frame_is_banned() {
    Story::begin(Behaviour::SendsGiantFrame).ends_with_ban("size");
}

#[test]
fn peer_that_names_a_piece_that_does_not_exist_is_banned() {
    Story::begin(Behaviour::NamesMissingPiece).ends_with_ban("does not exist");
}

#[test]
fn peer_that_never_answers_holds_up_no_one() {
    let story = Story::begin(Behaviour::IsSilent);
    story.wait_for_requests();
    story.completes();
}

#[test]
fn peer_that_hangs_up_again_and_again_holds_up_no_one() {
    let story = Story::begin(Behaviour::HangsUp);
    // It may be dialled again, but not as fast as it hangs up.
    story
        .fetcher
        .wait_until("progress events", |event| event.name() == "progress" && story.hostile.links() > 1);
    let (links, time) = (story.hostile.links(), story.fetcher.started().elapsed());
    story.completes();
    assert!(links as u128 <= 3 + time.as_millis() / 200, "it was dialled {links} times in {time:?}");
}

#[test]
fn connections_that_say_nothing_keep_no_one_out() {
    let scene = Scene::new();
    let dataset = random_dataset(&scene, 2);
    let seeder = Seeder::start(&scene, Place::Here, &dataset, &[]);
    let listen = seeder.seeding.texts("listen").remove(0);
    let idle: Vec<TcpStream> =
        (0..IDLE_CONNECTIONS).filter_map(|_| TcpStream::connect(&listen).ok()).collect();
    fetch(&scene, Place::Here, "fetcher", &seeder.manifest, &["--linger", "0"]).wait().expect_code(0);
    assert_fetched(&scene, "fetcher", &dataset);
    drop(idle);
}
