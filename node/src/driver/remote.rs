//! What others may ask of a running driver.

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::PeerAddr;
use dft_protocol::piece_set::PieceSet;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Control, Snapshot};

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

    /// Asks for these pieces before others, the most urgent first.
    pub async fn prefer(&self, pieces: Vec<PieceIndex>) {
        self.send(Control::Prefer(pieces)).await;
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
