//! Room in the store: the quota, and which copies leave when it is reached.
//!
//! Only copies in the store count: what lies elsewhere is the user's. A copy may leave where it is
//! complete and another node has all of it; the least recently used one goes first. The only copy
//! of something never does, nor does what was put here: that others have it is their word alone.

use std::sync::Arc;
use std::time::Duration;

use dft_protocol::id::{ManifestId, PeerId};
use dft_tracker::server::STREAMS_PER_CONNECTION_MAX;
use tokio::sync::OwnedMutexGuard;

use super::Daemon;
use super::holding::Holding;
use super::table::{Place, Record};
use crate::failure::{Failure, Kind};
use crate::net::discovery::{NodeRequest, NodeResponse};
use crate::report::human_bytes;

/// How often it is looked whether the tracker knows that a node withdrew a copy, or has it again …
const WITHDRAWN_LOOKS_MAX: usize = 50;
/// … and when again: 5 s in all, for a busy tracker.
const WITHDRAWN_LOOK_EVERY: Duration = Duration::from_millis(100);

/// Most nodes that are asked whether they still have a copy before one leaves.
const ASKED_MAX: usize = 8;

/// Copies that leave at a time, for each waits for other nodes and for the tracker: as many as one node may be
/// asked about.
const LEAVING_MAX: usize = STREAMS_PER_CONNECTION_MAX;

/// A copy in the store. They are ordered by their last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StoredCopy {
    last_use_ms: u64,
    id: ManifestId,
    bytes: u64,
    may_leave: bool,
}

/// The first of these that together make room of `bytes`, or as many of them as may leave at a time.
fn enough_of(copies: &[StoredCopy], bytes: u64) -> usize {
    let mut missing = bytes;
    let enough = copies.iter().take(LEAVING_MAX).position(|copy| {
        missing = missing.saturating_sub(copy.bytes);
        missing == 0
    });
    enough.map_or(copies.len().min(LEAVING_MAX), |last| last + 1)
}

/// What was put here goes with `dft drop` alone.
fn may_leave(record: &Record) -> bool {
    record.place == Place::Stored && !record.origin
}

/// Room in the store of a copy that is being made; nobody else writes there.
pub(super) struct TakenRoom {
    daemon: Arc<Daemon>,
    id: ManifestId,
}

impl Drop for TakenRoom {
    fn drop(&mut self) {
        self.daemon.copies.send_if_modified(|copies| copies.remove(&self.id).is_some());
    }
}

impl Daemon {
    /// Bytes of all copies in the store, those that are not complete yet in full.
    pub fn store_bytes(&self) -> u64 {
        let at_work: u64 = self.stored().iter().map(|holding| holding.manifest.total_bytes()).sum();
        let being_made: u64 = self.copies.borrow().values().sum();
        at_work + being_made + self.datasets().at_rest.stored_bytes()
    }

    /// The right to look for room in the store and to take it, once nobody makes a copy of this dataset there.
    pub(super) async fn room_for(&self, id: ManifestId) -> OwnedMutexGuard<()> {
        loop {
            // It ends with the daemon alone.
            let _ = self.copies.subscribe().wait_for(|copies| !copies.contains_key(&id)).await;
            let room = self.room.clone().lock_owned().await;
            if !self.copies.borrow().contains_key(&id) {
                return room;
            }
        }
    }

    /// Takes room for a copy that is about to be made, which no record tells of yet. The caller holds
    /// [`Daemon::room`].
    pub(super) fn take_room(self: &Arc<Self>, id: ManifestId, bytes: u64) -> TakenRoom {
        self.copies.send_if_modified(|copies| copies.insert(id, bytes).is_none());
        TakenRoom { daemon: self.clone(), id }
    }

    fn stored(&self) -> Vec<Arc<Holding>> {
        let mut stored = self.holdings();
        stored.retain(|holding| holding.record().place == Place::Stored && !holding.is_read());
        stored
    }

    /// All copies in the store, the least recently used first.
    fn stored_by_use(&self) -> Vec<StoredCopy> {
        let copy = |holding: Arc<Holding>| {
            let record = holding.record();
            StoredCopy {
                last_use_ms: record.last_use_ms,
                id: holding.id(),
                bytes: holding.manifest.total_bytes(),
                may_leave: may_leave(&record),
            }
        };
        let mut stored: Vec<_> = self.stored().into_iter().map(copy).collect();
        let datasets = self.datasets();
        let at_rest = datasets.at_rest.iter().filter(|(_, dataset)| dataset.is_stored);
        stored.extend(at_rest.map(|(id, dataset)| StoredCopy {
            last_use_ms: dataset.last_use_ms,
            id,
            bytes: dataset.bytes,
            may_leave: !dataset.is_origin,
        }));
        drop(datasets);
        stored.sort_unstable();
        stored
    }

    /// Makes room for a copy of `bytes` in the store. The caller holds [`Daemon::room`] until the
    /// copy is in the table.
    pub(super) async fn make_room(self: &Arc<Self>, bytes: u64) -> Result<(), Failure> {
        let Some(quota) = self.quota else { return Ok(()) };
        let full = |kept: usize| {
            let (quota, bytes) = (human_bytes(quota), human_bytes(bytes));
            let message = format!("{bytes} do not fit into the store's quota of {quota}");
            let hint = match kept {
                0 => "raise --quota".into(),
                kept => format!("raise --quota, or dft drop NAME: {kept} copies are in use or the only ones"),
            };
            Failure::new(Kind::Disk, message).hint(hint)
        };
        if bytes > quota {
            return Err(full(0));
        }
        let (mut leaving, kept): (Vec<StoredCopy>, Vec<StoredCopy>) =
            self.stored_by_use().into_iter().partition(|copy| copy.may_leave);
        let (mut used, mut kept) = (self.store_bytes(), kept.len());
        while used + bytes > quota && !leaving.is_empty() {
            let now: Vec<StoredCopy> = leaving.drain(..enough_of(&leaving, used + bytes - quota)).collect();
            let left = futures::future::join_all(now.iter().map(|copy| self.leave(copy.id))).await;
            for (copy, left) in now.iter().zip(left) {
                if left? {
                    used -= copy.bytes;
                } else {
                    kept += 1;
                }
            }
        }
        if used + bytes <= quota { Ok(()) } else { Err(full(kept)) }
    }

    /// Gives a copy in the store up, where it is complete and another node has all of it.
    async fn leave(self: &Arc<Self>, id: ManifestId) -> Result<bool, Failure> {
        let Some(holding) = self.opened(id).await else { return Ok(false) };
        let left = holding.is_complete() && self.give_up_if_elsewhere(&holding, may_leave).await?;
        if left {
            let name = holding.record().name;
            self.say(&format!("{name} left the store to make room; other nodes have it"));
        }
        Ok(left)
    }

    /// Gives a dataset up where another node has all of it; false, and it stays, where nobody has, or where it
    /// may not go any more when that is known: somebody may have put it meanwhile.
    /// Once begun, it goes on even where nobody waits for it any more.
    pub(super) async fn give_up_if_elsewhere(
        self: &Arc<Self>,
        holding: &Arc<Holding>,
        may_go: impl Fn(&Record) -> bool + Send + 'static,
    ) -> Result<bool, Failure> {
        let (daemon, holding) = (self.clone(), holding.clone());
        let work = tokio::spawn(async move {
            let asked = daemon.catalogue().await?;
            if !daemon.withdraw(&holding).await? {
                return Ok(false);
            }
            // Another catalogue counted other copies.
            let is_asked = daemon.known_catalogue().is_some_and(|used| Arc::ptr_eq(&used, &asked));
            if !is_asked || !may_go(&holding.record()) {
                daemon.announce(&holding, holding.is_complete());
                return Ok(false);
            }
            // Nothing is waited for from here until it ends: nobody counts on it in between.
            daemon.give_up(&holding).await?;
            Ok(true)
        });
        work.await
            .map_err(|error| Failure::new(Kind::Other, format!("a worker ended unexpectedly: {error}")))?
    }

    /// Takes a dataset out of what this node announces, where another node has all of it; false,
    /// and it stays, where nobody has.
    ///
    /// Two nodes may do so at the same time, each counting on the other. So a node looks for the
    /// other copy once more when its own is not counted any more: of two that withdraw, the one
    /// that looks later finds nobody. Where both look too late, both keep their copy: then the one
    /// of the lowest id stays, and the others try once more when a copy is counted again.
    async fn withdraw(&self, holding: &Holding) -> Result<bool, Failure> {
        let id = holding.id();
        let others = self.lasting_copies(id).await?;
        if others.is_empty() || !self.is_kept_by_one_of(&others, holding).await? {
            return Ok(false);
        }
        if self.withdraw_once(holding).await? {
            return Ok(true);
        }
        let stays = others.iter().all(|other| self.peer() < *other);
        if stays || !self.is_counted_elsewhere(id).await? {
            return Ok(false);
        }
        self.withdraw_once(holding).await
    }

    /// The other daemons that have all of this dataset, as far as the tracker knows. Who is none, a `dft seed` or
    /// a `dft fetch` that runs, keeps nothing once that ends.
    async fn lasting_copies(&self, id: ManifestId) -> Result<Vec<PeerId>, Failure> {
        let mut copies = self.other_copies(id).await?;
        if !copies.is_empty() {
            let nodes = self.catalogue().await?.nodes().await?;
            copies.retain(|copy| nodes.iter().any(|node| node.peer == *copy));
        }
        Ok(copies)
    }

    /// Whether one of these nodes says that it has all of it, once it has looked at its files: the tracker
    /// knows of what is at rest how it was when it was looked at last.
    async fn is_kept_by_one_of(&self, others: &[PeerId], holding: &Holding) -> Result<bool, Failure> {
        let nodes = self.catalogue().await?.nodes().await?;
        let found = others.iter().filter_map(|other| nodes.iter().find(|node| node.peer == *other));
        for node in found.take(ASKED_MAX) {
            let request = NodeRequest::Pieces { manifest: holding.id() };
            let answer = self.discovery.ask_node(node.peer, node.control.clone(), request).await;
            if let Ok(NodeResponse::Pieces(runs)) = answer
                && runs.iter().map(|(first, last)| (last - first) as usize + 1).sum::<usize>()
                    == holding.manifest.geometry().piece_count()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn withdraw_once(&self, holding: &Holding) -> Result<bool, Failure> {
        let id = holding.id();
        self.discovery.remove(id);
        let withdrawn = self.is_withdrawn(id).await;
        if matches!(withdrawn, Ok(true))
            && self.lasting_copies(id).await.is_ok_and(|others| !others.is_empty())
        {
            return Ok(true);
        }
        self.announce(holding, holding.is_complete());
        withdrawn.map(|_| false)
    }

    /// Waits until the tracker counts a copy of another node (again).
    async fn is_counted_elsewhere(&self, id: ManifestId) -> Result<bool, Failure> {
        for _ in 0..WITHDRAWN_LOOKS_MAX {
            if !self.lasting_copies(id).await?.is_empty() {
                return Ok(true);
            }
            tokio::time::sleep(WITHDRAWN_LOOK_EVERY).await;
        }
        Ok(false)
    }

    /// Waits until the tracker does not count this node among the holders any more.
    async fn is_withdrawn(&self, id: ManifestId) -> Result<bool, Failure> {
        let (own, catalogue) = (self.peer(), self.catalogue().await?);
        for _ in 0..WITHDRAWN_LOOKS_MAX {
            if catalogue.holders(id).await?.iter().all(|holder| holder.peer != own) {
                return Ok(true);
            }
            tokio::time::sleep(WITHDRAWN_LOOK_EVERY).await;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_copies_leave_than_make_room() {
        let copies = |sizes: &[u64]| -> Vec<StoredCopy> {
            let copy = |bytes: &u64| StoredCopy {
                last_use_ms: 0,
                id: ManifestId::from_bytes([0; 32]),
                bytes: *bytes,
                may_leave: true,
            };
            sizes.iter().map(copy).collect()
        };
        assert_eq!(enough_of(&copies(&[5, 5, 5]), 1), 1);
        assert_eq!(enough_of(&copies(&[5, 5, 5]), 5), 1);
        assert_eq!(enough_of(&copies(&[5, 0, 5]), 6), 3);
        assert_eq!(enough_of(&copies(&[5, 5]), 100), 2);
        assert_eq!(enough_of(&copies(&[1; 100]), 100), LEAVING_MAX);
        assert_eq!(enough_of(&[], 1), 0);
    }
}
