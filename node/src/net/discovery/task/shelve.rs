//! The shelf in the loop: what comes to it, and what trackers say of it.

use dft_protocol::id::ManifestId;
use dft_tracker::protocol::{Request, Response, Shelve};
use dft_tracker::registry::ShelfChange;
use libp2p::PeerId;
use tokio::time::Instant;

use super::followed::Followed;
use super::{DATASETS_MAX, Dataset, Event, Task};
use crate::net::discovery::shelf::SHELF;

/// When a tracker that knows no shelves is tried again, in seconds: it may be a newer one by then.
const UNKNOWN_AGAIN_S: u32 = 600;

impl Task {
    /// Datasets that are here in full, of which nobody is looked for: whoever asks is told of them.
    pub(super) fn shelve(&mut self, manifests: Vec<ManifestId>, now: Instant) {
        let mut came = false;
        for manifest in manifests {
            if self.shelf.add(manifest) {
                came = true;
                // A record of its own gives way to the shelf, at each tracker.
                self.datasets.remove(&manifest);
                if self.shelf.is_unknown_somewhere() {
                    self.follow_shelved(manifest, now);
                }
            }
        }
        // What an earlier process of this node had there goes, even where nothing comes.
        if came || !self.datasets.contains_key(&SHELF) {
            self.tell_of_shelf(now);
        }
    }

    /// Takes a dataset off the shelf.
    pub(super) fn unshelve(&mut self, manifest: ManifestId, now: Instant) -> bool {
        let was_there = self.shelf.remove(manifest);
        if was_there {
            self.tell_of_shelf(now);
        }
        was_there
    }

    fn tell_of_shelf(&mut self, now: Instant) {
        let (trackers, own) = (&self.config.trackers, *self.swarm.local_peer_id());
        let schedule =
            self.datasets.entry(SHELF).or_insert_with(|| new_followed(SHELF, true, trackers, own, now));
        schedule.announce_now(now);
    }

    /// A tracker that knows no shelves is told of datasets one by one, as far as that reaches.
    fn follow_shelved(&mut self, manifest: ManifestId, now: Instant) {
        if self.datasets.len() < DATASETS_MAX {
            let (trackers, own) = (&self.config.trackers, *self.swarm.local_peer_id());
            let new = || new_followed(manifest, true, trackers, own, now);
            self.datasets.entry(manifest).or_insert_with(new);
        }
    }

    /// What a tracker is to hear of the shelf.
    pub(super) fn request_about_shelf(&mut self, tracker: usize) -> Request {
        let change = self.shelf.next_change(tracker);
        self.shelf_request(change)
    }

    /// Nothing of it is here any more.
    pub(super) fn leave_shelf(&self) -> Request {
        self.shelf_request(ShelfChange { anew: true, ..ShelfChange::default() })
    }

    fn shelf_request(&self, change: ShelfChange) -> Request {
        let (link_port, site) = (self.config.link_port, self.config.site.clone());
        Request::Shelve(Box::new(Shelve { link_port, addrs: self.link_addrs(), site, change }))
    }

    pub(super) fn on_shelf_response(
        &mut self,
        (tracker, peer): (usize, PeerId),
        response: Response,
        now: Instant,
    ) {
        match response {
            Response::Shelved { interval_s, there } => {
                let was_unknown = self.shelf.is_unknown_somewhere();
                let more = self.shelf.answered(tracker, there);
                if was_unknown && !self.shelf.is_unknown_somewhere() {
                    self.datasets.retain(|manifest, _| !self.shelf.contains(manifest));
                }
                let Some(schedule) = self.datasets.get_mut(&SHELF) else { return };
                let change = schedule.trackers.answered(tracker, interval_s, now);
                if more {
                    schedule.trackers.connected(tracker, peer, now);
                }
                self.tell_change(change);
            }
            Response::Refused(reason) if self.shelf.refused(tracker) => {
                let Some(schedule) = self.datasets.get_mut(&SHELF) else { return };
                schedule.trackers.connected(tracker, peer, now);
                let addr = schedule.trackers.addr(tracker).clone();
                if self.told_full.insert(addr.clone()) {
                    let reason = reason.as_str();
                    let text = format!("{addr} does not hear of all datasets ({reason}): the LAN does");
                    self.tell(Event::Warning(text));
                }
            }
            Response::Refused(reason) => {
                self.tracker_failed(SHELF, tracker, format!("it refuses: {}", reason.as_str()), now);
            }
            Response::Peers { .. } | Response::Done => {
                self.tracker_failed(SHELF, tracker, "it gave an answer that was not asked".into(), now);
            }
        }
    }

    /// A tracker ended the stream on which it was told of the shelf: an older one does.
    pub(super) fn on_shelf_unknown(&mut self, tracker: usize, now: Instant) {
        let is_unknown = self.shelf.hung_up(tracker);
        let Some(schedule) = self.datasets.get_mut(&SHELF) else { return };
        // It is there; a change between up and down is told by what it does take.
        let again_s = if is_unknown { UNKNOWN_AGAIN_S } else { 0 };
        let _ = schedule.trackers.answered(tracker, again_s, now);
        if is_unknown {
            let some: Vec<ManifestId> = self.shelf.iter().take(DATASETS_MAX).collect();
            some.into_iter().for_each(|manifest| self.follow_shelved(manifest, now));
        }
    }
}

pub(super) fn new_followed(
    manifest: ManifestId,
    complete: bool,
    trackers: &[libp2p::Multiaddr],
    own: PeerId,
    now: Instant,
) -> Followed {
    let (asks_lan_in, quiet_for) = (None, std::time::Duration::ZERO);
    let dataset = Dataset { manifest, complete, trackers: Vec::new(), asks_lan_in, quiet_for };
    Followed::new(dataset, trackers, own, now)
}
