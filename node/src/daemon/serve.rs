//! The daemon's side of the unix socket: who may speak, and one task for each who does.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::places::{self, SocketName};
use super::wire::{self, Envelope, Event, Item};
use super::{Daemon, verbs};
use crate::failure::{Failure, Kind};

/// Most short requests at a time: a user's terminals and scripts. More wait in the kernel.
const REQUESTS_MAX: usize = 128;
/// Most requests at a time that wait for data, each a task and a descriptor. More are refused; they keep no short
/// one from being answered.
const WAITING_MAX: usize = 512;
/// How long a client may take to say what it wants.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Events that wait for a slow reader; then the request waits.
const EVENTS_MAX: usize = 8;

/// The listening socket. Its file goes with it.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`, in a directory of this user alone. The caller holds the daemon's lock,
    /// so a file that is there is left over.
    pub(super) fn bind(path: &Path) -> Result<Self, Failure> {
        let failure = |error: io::Error| places::cannot("listen on", path, &error);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failure(error)),
            _ => {}
        }
        let name = SocketName::of(path).map_err(failure)?;
        let listener = UnixListener::bind(name.as_path()).map_err(failure)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failure)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes requests, for ever.
pub(super) async fn serve(daemon: &Arc<Daemon>, socket: &Socket) {
    let slots = Arc::new(Semaphore::new(REQUESTS_MAX));
    let waiting = Arc::new(Semaphore::new(WAITING_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match socket.listener.accept().await {
            Ok((stream, _)) if is_ours(&stream) => {
                let (daemon, waiting) = (daemon.clone(), waiting.clone());
                // Whoever went away wants no answer.
                tokio::spawn(async move { attend(&daemon, stream, slot, &waiting).await.ok() });
            }
            // Another user, whatever the mode of the socket says.
            Ok(_) => {}
            // Out of descriptors, most likely: others may be closed meanwhile.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

async fn attend(
    daemon: &Arc<Daemon>,
    mut stream: UnixStream,
    slot: OwnedSemaphorePermit,
    waiting: &Arc<Semaphore>,
) -> io::Result<()> {
    let received = tokio::time::timeout(REQUEST_MAX, wire::receive::<Envelope>(&mut stream)).await;
    let Some(envelope) = received.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? else {
        return Ok(());
    };
    let (reply, mut events) = Reply::new();
    let (mut read, mut write) = stream.into_split();
    let (request, slot) = match wire::open(&envelope) {
        Ok(request) if request.waits_for_data() => match waiting.clone().try_acquire_owned() {
            Ok(waits) => {
                drop(slot);
                (Ok(request), waits)
            }
            Err(_) => (Err(too_many()), slot),
        },
        request => (request, slot),
    };
    let work = async {
        let outcome = match request {
            Ok(request) => verbs::run(daemon, request, &reply).await,
            Err(failure) => Err(failure),
        };
        reply
            .send(match &outcome {
                Ok(()) => Event::Done,
                Err(failure) => failure.into(),
            })
            .await;
        drop(reply);
        // Until the last event is on its way.
        std::future::pending::<()>().await;
    };
    let writing = async {
        while let Some(event) = events.recv().await {
            let last = matches!(event, Event::Done | Event::Failed { .. });
            if wire::send(&mut write, &event).await.is_err() || last {
                return;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = writing => {}
        // The other end hung up: nobody waits for the rest.
        _ = read.read_u8() => {}
    }
    drop(slot);
    Ok(())
}

fn too_many() -> Failure {
    let message = format!("{WAITING_MAX} requests wait for data already");
    Failure::new(Kind::Other, message).hint("wait for some of them; dft get takes several names at once")
}

/// Where the events of a request go.
#[derive(Clone)]
pub(super) struct Reply {
    events: mpsc::Sender<Event>,
    /// It is one of many parts of a request, which tells of them together.
    quiet: bool,
}

impl Reply {
    pub(super) fn new() -> (Self, mpsc::Receiver<Event>) {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        (Self { events: sender, quiet: false }, events)
    }

    /// For one of many parts of the request: how far each is, nobody is told.
    pub(super) fn quiet(&self) -> Self {
        Self { events: self.events.clone(), quiet: true }
    }

    /// Tells the client; waits where it reads slowly.
    pub(super) async fn send(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    pub(super) async fn item(&self, item: Item) {
        self.send(Event::Item(item)).await;
    }

    /// Tells how far it is, where there is room: the next one says it as well.
    pub(super) fn progress(&self, progress: wire::Progress) {
        if !self.quiet {
            let _ = self.events.try_send(Event::Progress(progress));
        }
    }

    /// The client is gone.
    pub(super) fn gone() -> Failure {
        Failure::new(Kind::Interrupted, "nobody waits for the answer")
    }

    /// Sends bytes; a failure where nobody takes them.
    pub(super) async fn data(&self, bytes: Vec<u8>) -> Result<(), Failure> {
        let event = Event::Data(serde_bytes::ByteBuf::from(bytes));
        self.events.send(event).await.map_err(|_| Self::gone())
    }
}
