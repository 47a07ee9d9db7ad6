//! Peers that misbehave: each is found out and dropped, and the fetch completes bit by bit.
//!
//! A [`HostilePeer`] is a small second implementation of docs/PROTOCOL.md: it listens for
//! plaintext links, proves an identity, claims to have every piece, and then answers requests as
//! its [`Behaviour`] says. The honest seeder is held (SIGSTOP) until the hostile peer was dealt
//! with, so that no run depends on who is asked first.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::Manifest;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::wire::{
    DATA_LEN_MAX, Hello, LIST_LEN_MAX, Message, Opening, PieceList, RejectReason, frame,
};
use libp2p::identity::Keypair;

use crate::lab::hints::read_manifest;
use crate::lab::process::Process;
use crate::lab::scene::Scene;
use crate::steps::{Place, Seeder, assert_fetched, fetch, random_dataset};

/// Opens a plaintext link; see docs/PROTOCOL.md.
const MAGIC: &[u8; 5] = b"dftp\x01";
/// How long a hostile peer waits for a byte: longer than any test.
const READ_MAX: Duration = Duration::from_secs(300);
/// How often the listener looks whether the test is over.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// More requests than any peer may have open at once.
const FLOOD_MESSAGES: usize = 64;
/// Connections that say nothing.
const IDLE_CONNECTIONS: usize = 200;

/// What a hostile peer does.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Answers every request with wrong bytes of the right length.
    CorruptsAll,
    /// Answers with right bytes but for the last one.
    CorruptsTheLastByte,
    /// Claims pieces, and says that it lacks them when asked.
    Lies,
    /// Takes requests and never answers.
    IsSilent,
    /// Sends a piece that nobody asked for.
    SendsUnrequested,
    /// Says that it will not answer a request that was never made.
    RejectsUnrequested,
    /// Asks for everything again and again, and reads no answer.
    Floods,
    /// Sends a frame that is no message.
    TalksNonsense,
    /// Announces a frame of 4 GiB.
    SendsGiantFrame,
    /// Names a piece that does not exist.
    NamesMissingPiece,
    /// Hangs up at the first request, every time.
    HangsUp,
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

impl HostilePeer {
    fn start(behaviour: Behaviour, manifest: &Path, dataset: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        listener.set_nonblocking(true).expect("a socket can poll");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            behaviour,
            manifest: read_manifest(manifest),
            content: std::fs::read(dataset).expect("the dataset is a file"),
            keypair: Keypair::generate_ed25519(),
            links: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            streams: Mutex::default(),
        });
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
            let _ = Link { stream, shared }.run();
        }));
    }
    for stream in shared.streams.lock().expect("no thread panics with it").iter() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for link in links {
        let _ = link.join();
    }
}

/// One link of a hostile peer, which is its listening end.
struct Link {
    stream: TcpStream,
    shared: Arc<Shared>,
}

impl Link {
    fn run(&mut self) -> io::Result<()> {
        self.prove_identity()?;
        let Ok(Opening::Hello(hello)) = Opening::decode(&self.read_frame()?) else { return Ok(()) };
        // It names no port of its own, so that only the fetch comes here.
        let answer = Hello { complete: true, listen_port: 0, ..hello };
        self.stream.write_all(&frame(&Opening::Hello(answer).encode()))?;
        self.send(&Message::Bitfield(PieceSet::full(self.shared.manifest.geometry().piece_count())))?;
        self.shared.links.fetch_add(1, Ordering::Relaxed);
        self.misbehave_unasked()?;
        loop {
            let body = self.read_frame()?;
            let Ok(Message::Request(list)) = Message::decode(&body, self.shared.manifest.geometry()) else {
                continue;
            };
            self.shared.requests.fetch_add(list.pieces().len(), Ordering::Relaxed);
            for &piece in list.pieces() {
                self.answer(piece)?;
            }
        }
    }

    /// The listener's side of the plaintext handshake.
    fn prove_identity(&mut self) -> io::Result<()> {
        let mut opening = [0; 37];
        self.stream.read_exact(&mut opening)?;
        let (their_nonce, their_key) = (opening[5..].to_vec(), self.read_field()?);
        let (nonce, key) = ([7; 32], self.shared.keypair.public().encode_protobuf());
        let text = b"dft plaintext link 1 listener ";
        let signed = [&text[..], &their_nonce, &nonce, &their_key, &key].concat();
        let signature = self.shared.keypair.sign(&signed).map_err(io::Error::other)?;
        self.stream.write_all(&[&MAGIC[..], &nonce].concat())?;
        for field in [key, signature] {
            let len = u8::try_from(field.len()).map_err(io::Error::other)?;
            self.stream.write_all(&[len])?;
            self.stream.write_all(&field)?;
        }
        self.read_field().map(drop)
    }

    fn misbehave_unasked(&mut self) -> io::Result<()> {
        let pieces: Vec<PieceIndex> = self.shared.manifest.geometry().pieces().collect();
        match self.shared.behaviour {
            Behaviour::SendsUnrequested => self.send_piece(pieces[0], 0),
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
            Behaviour::CorruptsAll => self.send_piece(piece, usize::MAX),
            Behaviour::CorruptsTheLastByte => self.send_piece(piece, 1),
            Behaviour::Lies => self.send(&Message::Reject(piece, RejectReason::Missing)),
            Behaviour::HangsUp => self.stream.shutdown(Shutdown::Both),
            _ => Ok(()),
        }
    }

    /// Sends a piece whose last bytes, so many of them, are wrong.
    fn send_piece(&mut self, piece: PieceIndex, wrong: usize) -> io::Result<()> {
        let geometry = self.shared.manifest.geometry();
        let len = geometry.piece_len(piece);
        assert!(len <= DATA_LEN_MAX, "a piece of these tests is one message");
        // The dataset is one file: its pieces lie one behind the other.
        let start = piece.index() * geometry.piece_len_max() as usize;
        let mut payload = self.shared.content[start..start + len as usize].to_vec();
        for byte in payload.iter_mut().rev().take(wrong) {
            *byte ^= 0x01;
        }
        self.send(&Message::Data { piece, offset: 0, len })?;
        self.stream.write_all(&payload)
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
        let scene = Scene::new();
        let dataset = random_dataset(&scene, 4);
        let seeder = Seeder::start(&scene, Place::Here, &dataset, &["--encryption", "off"]);
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
    Story::begin(Behaviour::Floods).ends_with_ban("too many requests");
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
    story.wait_for_requests();
    let links = story.hostile.links();
    story.completes();
    assert!(links < 50, "it was dialled {links} times");
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
