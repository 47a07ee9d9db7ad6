//! Trackers with a catalogue, clients of theirs, and manifests of nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dft_protocol::geometry::PieceSize;
use dft_protocol::id::PieceHash;
use dft_protocol::manifest::{Entry, Hints, Info, Manifest, Mtime};
use dft_protocol::path::{Name, SafePath};
use dft_tracker::catalogue::name::DatasetName;
use dft_tracker::catalogue::token::Token;
use dft_tracker::client::{Client, ClientConfig};
use dft_tracker::server::{self, CatalogueSettings, ServerConfig, ServerError};
use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use tempfile::TempDir;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

/// A bound for what would otherwise hang; nothing here takes a tenth of it.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// A running tracker.
pub(crate) struct Tracker {
    pub(crate) directory: TempDir,
    pub(crate) addr: Multiaddr,
    /// What its operator is told.
    pub(crate) notices: Mutex<mpsc::UnboundedReceiver<String>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Tracker {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), CatalogueSettings::default()).await
    }

    pub(crate) async fn start_in(directory: TempDir, settings: CatalogueSettings) -> Self {
        Self::start_with(directory, Some(settings)).await
    }

    pub(crate) async fn start_with(directory: TempDir, catalogue: Option<CatalogueSettings>) -> Self {
        Self::start_private(directory, catalogue, None).await
    }

    pub(crate) async fn start_private(
        directory: TempDir,
        catalogue: Option<CatalogueSettings>,
        network_key: Option<[u8; 32]>,
    ) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let state = directory.path().to_owned();
        let config = ServerConfig { listen, state, catalogue, network_key };
        let (ready, is_ready) = oneshot::channel();
        let (notify, notices) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server::run(
            config,
            |up| ready.send(up.addrs).expect("the test waits"),
            move |notice| {
                // Nobody may listen any more.
                let _ = notify.send(notice.to_string());
            },
            async { drop(stopped.await) },
        ));
        let addrs = tokio::time::timeout(HANG, is_ready).await.expect("no hang").expect("it starts");
        Self { directory, addr: addrs[0].clone(), notices: Mutex::new(notices), stop, task }
    }

    /// Stops it; its directory is left.
    pub(crate) async fn stop(self) -> TempDir {
        self.stop.send(()).expect("it runs");
        self.task.await.expect("no panic").expect("no error");
        self.directory
    }

    pub(crate) fn token(&self) -> Token {
        Token::read(&self.directory.path().join("token")).expect("a token")
    }

    /// A client of this tracker alone that may write.
    pub(crate) fn writer(&self) -> Client {
        client(&[self], Some(self.token()))
    }

    /// A client of this tracker alone that may read.
    pub(crate) fn reader(&self) -> Client {
        client(&[self], None)
    }
}

pub(crate) fn client(trackers: &[&Tracker], token: Option<Token>) -> Client {
    client_of(trackers.iter().map(|tracker| tracker.addr.clone()).collect(), token)
}

pub(crate) fn client_of(trackers: Vec<Multiaddr>, token: Option<Token>) -> Client {
    let keypair = Keypair::generate_ed25519();
    Client::start(ClientConfig { keypair, trackers, token, network_key: None }).expect("a client")
}

pub(crate) fn name(text: &str) -> DatasetName {
    DatasetName::new(text).expect("a name")
}

/// The manifest of one file of `pieces` pieces, whose content is named by `content`.
pub(crate) fn manifest(content: &str, pieces: usize) -> Manifest {
    let mut first = [0xff; 32];
    for (byte, letter) in first.iter_mut().zip(content.bytes()) {
        *byte = letter;
    }
    let hash = |number: usize| {
        let mut hash = first;
        hash[24..].copy_from_slice(&(number as u64).to_be_bytes());
        PieceHash::from_bytes(hash)
    };
    let size = 4096 * pieces as u64;
    let info = Info {
        name: Name::new("data").expect("a name"),
        piece_size: PieceSize::new(4096).expect("a piece size"),
        entries: vec![Entry::File { path: SafePath::root(), size, mode: 0o644, mtime: Mtime::default() }],
        packs: Vec::new(),
        hashes: (0..pieces).map(hash).collect(),
    };
    Manifest::new(info, Hints::default()).expect("a valid manifest")
}
