//! What others see of a running driver, and what they may ask of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::id::PeerId;
use dft_protocol::manifest::PeerAddr;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{Stats, Violation};
use tokio::sync::{mpsc, oneshot, watch};

use super::Control;
use crate::net::link::LinkError;
use crate::storage::StorageError;

/// Something that a person or a program may want to know.
#[derive(Debug)]
pub enum Update {
    /// Every piece is verified and on disk, and the final name is in place.
    Complete {
        /// Where.
        path: PathBuf,
    },
    /// The disk failed.
    StorageFailed(StorageError),
    /// A peer says that it has every piece; it may say so more than once.
    PeerCompleted(PeerId),
    /// A peer broke the rules.
    Banned {
        /// Who.
        peer: PeerId,
        /// From where.
        remote: SocketAddr,
        /// What it did.
        violation: Violation,
    },
    /// A seeded file is not as it was: its pieces are not offered any more.
    Changed {
        /// What the storage says.
        reason: String,
        /// How many pieces are gone.
        pieces: usize,
        /// A hash told so, whatever the file's times say.
        by_hash: bool,
    },
    /// A peer could not be reached, or refused.
    DialFailed {
        /// Where.
        addr: SocketAddr,
        /// Why.
        error: LinkError,
    },
}

/// How things stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// Selected bytes of verified pieces.
    pub have_bytes: u64,
    /// Payload that arrived, of whatever worth: it tells a slow fetch from one that stands still.
    pub arrived_bytes: u64,
    /// Bytes that were not sent, since their pieces went compressed.
    pub saved_bytes: u64,
    /// The swarm's counters; of what came, the selected bytes alone.
    pub stats: Stats,
    /// Wanted pieces that a peer took back, and that no linked peer offers.
    pub taken_back: usize,
    /// Dials that are under way.
    pub dialling: usize,
    /// A linked peer lacks something that is here.
    pub needed: bool,
}

/// The outside's hold on a running driver.
pub struct Handle {
    pub(super) control: mpsc::Sender<Control>,
    pub(super) updates: mpsc::UnboundedReceiver<Update>,
    pub(super) snapshots: watch::Receiver<Snapshot>,
}

impl Handle {
    /// Passes on addresses of peers.
    pub async fn found(&self, peers: Vec<PeerAddr>) {
        let _ = self.control.send(Control::Found(peers)).await;
    }

    /// The next thing that happened; `None` when the driver is gone.
    pub async fn update(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// What others may ask of this driver, while it runs.
    pub fn remote(&self) -> Remote {
        Remote::new(self.control.downgrade(), self.snapshots.clone())
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> Snapshot {
        *self.snapshots.borrow()
    }

    /// All snapshots to come.
    pub fn snapshots(&self) -> watch::Receiver<Snapshot> {
        self.snapshots.clone()
    }

    /// Ends all links in good order. What is verified is made durable.
    pub async fn shutdown(self) -> Snapshot {
        let (done, wait) = oneshot::channel();
        if self.control.send(Control::Shutdown(done)).await.is_ok() {
            let _ = wait.await;
        }
        *self.snapshots.borrow()
    }
}

static READERS: AtomicU64 = AtomicU64::new(0);

/// Somebody who reads the dataset in order, until this is dropped.
pub struct Reader {
    remote: Remote,
    number: u64,
}

impl Reader {
    /// Asks for these pieces before others, the most urgent first, in place of those before. Where nothing is
    /// kept, only they and what other readers want are there.
    pub async fn go_on(&self, ahead: Vec<PieceIndex>) {
        self.remote.send(Control::Read { reader: self.number, ahead }).await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let (remote, number) = (self.remote.clone(), self.number);
        // Where there is no runtime any more, there is no driver either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { remote.send(Control::EndReading(number)).await });
        }
    }
}

/// A hold on a running driver for whoever does not wait for its updates. Cheap to clone; the
/// driver ends without regard to it.
#[derive(Clone)]
pub struct Remote {
    control: mpsc::WeakSender<Control>,
    snapshots: watch::Receiver<Snapshot>,
}

impl Remote {
    pub(super) fn new(control: mpsc::WeakSender<Control>, snapshots: watch::Receiver<Snapshot>) -> Self {
        Self { control, snapshots }
    }

    /// Passes on addresses of peers.
    pub async fn found(&self, peers: Vec<PeerAddr>) {
        self.send(Control::Found(peers)).await;
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> Snapshot {
        *self.snapshots.borrow()
    }

    /// Waits until `piece` is verified; false where the driver ended before it was.
    pub async fn has(&self, piece: PieceIndex) -> bool {
        let (verified, wait) = oneshot::channel();
        self.send(Control::Await { piece, verified }).await;
        wait.await.is_ok()
    }

    /// The pieces that are verified; nothing where the driver has ended.
    pub async fn pieces(&self) -> Option<PieceSet> {
        let (answer, wait) = oneshot::channel();
        self.send(Control::Pieces(answer)).await;
        wait.await.ok()
    }

    /// Somebody begins to read.
    pub fn reader(&self) -> Reader {
        Reader { remote: self.clone(), number: READERS.fetch_add(1, Ordering::Relaxed) }
    }

    /// Looks whether the files that are served are as they were, and tells of those that are not as
    /// a failed read would; whether there are any.
    pub async fn look(&self) -> bool {
        let (looked, wait) = oneshot::channel();
        self.send(Control::Look(looked)).await;
        wait.await.unwrap_or(false)
    }

    /// Holds a piece against its hash once more; whether it was there, and is wrong: then it is lost.
    pub async fn recheck(&self, piece: PieceIndex) -> bool {
        let (rechecked, wait) = oneshot::channel();
        self.send(Control::Recheck { piece, rechecked }).await;
        wait.await.unwrap_or(false)
    }

    async fn send(&self, control: Control) {
        if let Some(sender) = self.control.upgrade() {
            let _ = sender.send(control).await;
        }
    }
}
