//! When verified pieces are made durable, when the last step gives the final name, and what becomes of
//! pieces that were here and are not.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::swarm::Event;

use super::{Done, Driver, GOODBYE_MAX, Update};
use crate::storage::StorageError;
use crate::trace::Phase;

/// Verified bytes are made durable at the latest when they are so many …
const FLUSH_BYTES: u64 = 256 * 1024 * 1024;
/// … or so old. A kill costs nothing of them (they are hashed again), a power cut these.
const FLUSH_AFTER: Duration = Duration::from_secs(5);

/// The last step of a fetch, which gives the final name.
pub(super) enum Finish {
    /// Something is missing yet.
    Ahead,
    /// It is under way; what was found wrong meanwhile. Only its outcome says what becomes of that.
    UnderWay(Vec<Loss>),
    /// The final name is in place, or could not be given; or this node only seeds, or keeps nothing.
    Done,
}

/// Pieces that were here and are not.
pub(super) struct Loss {
    pieces: Vec<PieceIndex>,
    reason: String,
    /// A hash told so.
    by_hash: bool,
}

/// Verified pieces that are not yet durable.
#[derive(Default)]
pub(super) struct Unflushed {
    pub(super) bytes: u64,
    pub(super) since: Option<Instant>,
    pub(super) flushing: bool,
}

impl Driver {
    /// What lies outside of the selected tree goes with the last step: it is served no more.
    pub(super) fn drop_unselected(&mut self) {
        let whole = self.store.selection().whole_pieces(&self.manifest);
        let dropped: Vec<PieceIndex> =
            self.swarm.have().iter().filter(|piece| !whole.contains(*piece)).collect();
        if !dropped.is_empty() {
            self.event(Event::PiecesDropped(dropped));
        }
    }

    /// Of these pieces, those that were here are lost; whether there are any.
    pub(super) fn lose(&mut self, pieces: Vec<PieceIndex>, reason: String, by_hash: bool) -> bool {
        let lost: Vec<PieceIndex> =
            pieces.into_iter().filter(|piece| self.swarm.have().contains(*piece)).collect();
        if lost.is_empty() {
            return false;
        }
        if !matches!(self.finish, Finish::Done) {
            self.store.forget(&lost);
        }
        if let Finish::UnderWay(losses) = &mut self.finish {
            losses.push(Loss { pieces: lost, reason, by_hash });
            return true;
        }
        self.update(Update::Changed { reason, pieces: lost.len(), by_hash });
        lost.iter().for_each(|piece| self.tally.remove(*piece));
        self.complete.store(false, Ordering::Relaxed);
        // What has its final name is never written to.
        self.event(match self.finish {
            Finish::Done => Event::PiecesDropped(lost),
            _ => Event::PiecesLost(lost),
        });
        true
    }

    /// The last step ended. What was found wrong meanwhile is fetched again, where there is no final name
    /// yet, and else told of after it.
    pub(super) fn handle_finished(&mut self, result: Result<PathBuf, StorageError>) {
        let Finish::UnderWay(losses) = std::mem::replace(&mut self.finish, Finish::Done) else {
            unreachable!("a last step ends once it has begun");
        };
        match result {
            Ok(path) => {
                self.trace.phase(Phase::Complete);
                self.publish();
                self.update(Update::Complete { path });
            }
            Err(StorageError::Unfinished { .. }) if !losses.is_empty() => self.finish = Finish::Ahead,
            Err(error) => self.update(Update::StorageFailed(error)),
        }
        for Loss { pieces, reason, by_hash } in losses {
            self.lose(pieces, reason, by_hash);
        }
    }

    /// Makes verified pieces durable when it is time, and finishes when all are.
    pub(super) fn flush_if_due(&mut self) {
        if !matches!(self.finish, Finish::Ahead) || self.unflushed.flushing {
            return;
        }
        let complete = self.swarm.is_satisfied();
        if self.unflushed.bytes == 0 {
            if complete {
                self.finish = Finish::UnderWay(Vec::new());
                self.drop_unselected();
                let store = self.store.clone();
                self.elsewhere(move || Done::Finished(store.finish()));
            }
            return;
        }
        let old = self.unflushed.since.is_some_and(|since| since.elapsed() >= FLUSH_AFTER);
        if complete || old || self.unflushed.bytes >= FLUSH_BYTES {
            self.unflushed = Unflushed { flushing: true, ..Unflushed::default() };
            let store = self.store.clone();
            self.elsewhere(move || Done::Flushed(store.flush()));
        }
    }

    /// Ends all links in good order.
    pub(super) async fn leave(&mut self) {
        self.publish();
        let links = self.links.drain().map(|(_, handle)| handle.finish(GOODBYE_MAX));
        futures::future::join_all(links).await;
        if matches!(self.finish, Finish::Ahead) {
            let store = self.store.clone();
            let _ = tokio::task::spawn_blocking(move || store.flush()).await;
        }
    }
}
