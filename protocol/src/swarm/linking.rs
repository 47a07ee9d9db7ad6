//! How links come and go: which are kept, what is said first, and what their end leaves behind.

use super::link::Link;
use super::upload::CAME_EARLY;
use super::{
    BANNED_MAX, Command, DisconnectReason, LINKS_MAX, LinkId, Notification, Swarm, Violation, WANTED_SINCE,
};
use crate::manifest::PeerAddr;
use crate::piece_set::PieceSet;
use crate::time::{Duration, Instant};
use crate::wire::Message;

impl Swarm {
    pub(super) fn handle_link_up(&mut self, id: LinkId, mut link: Link, now: Instant) {
        let (peer, remote, dialled) = (link.peer, link.remote, link.dialled);
        if dialled {
            self.book.succeeded(remote, peer);
        }
        self.make_room_for(&link, now);
        if let Some(reason) = self.reason_to_refuse(&link) {
            let hopeless = matches!(reason, DisconnectReason::Oneself | DisconnectReason::Violation(_));
            let wait = Duration::from_secs(if hopeless { 600 } else { 10 });
            self.book.link_ended(remote, wait, now);
            self.commands.push_back(Command::Disconnect { link: id, reason });
            return;
        }
        if let Some(old) = self.peers.get(&peer).copied() {
            self.close(old, DisconnectReason::Duplicate, Duration::ZERO, now);
        }
        (link.corrupt_count, link.lie_count) = self.offences.remove(&peer).unwrap_or_default();
        if let Some(addr) = link.listens_at {
            self.book.add(PeerAddr { peer: Some(peer), addr }, now);
        }
        self.near += usize::from(link.same_site);
        if self.links.is_empty() {
            self.first_link_at = now;
        }
        link.came_early = now.since(self.first_link_at) < CAME_EARLY;
        self.links.insert(id, link);
        self.peers.insert(peer, id);
        let window = self.window_min();
        if let Some(link) = self.links.get_mut(&id) {
            link.window = window;
        }
        self.tell_wanted(id, now);
        self.introduce(id, now);
        self.announce_at_link_up(id, now);
    }

    /// Says what this node fetches, where that is not everything.
    pub(super) fn tell_wanted(&mut self, id: LinkId, now: Instant) {
        if self.config.download
            && self.links.get(&id).is_some_and(|link| link.version >= WANTED_SINCE)
            && let Some(wanted) = &self.config.wanted
        {
            let nothing = || PieceSet::empty(wanted.capacity());
            let message = Message::Wanted(if self.reads { nothing() } else { wanted.clone() });
            self.send(id, message, now);
        }
    }

    /// Why a link to `peer` is not wanted. Where both ends dialled each other, both keep the link
    /// that the lower identity dialled.
    fn reason_to_refuse(&self, link: &Link) -> Option<DisconnectReason> {
        let (peer, dialled) = (link.peer, link.dialled);
        if peer == self.config.local {
            return Some(DisconnectReason::Oneself);
        }
        if self.banned.contains(&peer) {
            return Some(DisconnectReason::Violation(Violation::Corrupt));
        }
        if let Some(old) = self.peers.get(&peer).and_then(|id| self.links.get(id)) {
            let dialler_of_new = if dialled { self.config.local } else { peer };
            let keeps_old = old.dialled != dialled && dialler_of_new > peer.min(self.config.local);
            return keeps_old.then_some(DisconnectReason::Duplicate);
        }
        let full = self.links.len() >= LINKS_MAX || (!link.same_site && self.has_enough_far());
        full.then_some(DisconnectReason::Full)
    }

    /// Closes a link from this end, and forgets it.
    pub(super) fn close(&mut self, id: LinkId, reason: DisconnectReason, wait: Duration, now: Instant) {
        self.commands.push_back(Command::Disconnect { link: id, reason });
        self.drop_link(id, wait, now);
    }

    /// Forgets a link: its requests are open again, what only it had is rare again.
    pub(super) fn drop_link(&mut self, id: LinkId, wait: Duration, now: Instant) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        self.queued -= link.queue.len();
        self.uploads -= link.sending.len();
        self.near -= usize::from(link.same_site);
        self.idleness.forget(id);
        if self.peers.get(&link.peer) == Some(&id) {
            self.peers.remove(&link.peer);
        }
        if link.corrupt_count + link.lie_count > 0 && self.offences.len() < BANNED_MAX {
            self.offences.insert(link.peer, (link.corrupt_count, link.lie_count));
        }
        for piece in link.have.iter() {
            self.picker.subtract(piece);
        }
        for piece in link.requested.pieces() {
            self.release(piece, id);
        }
        self.take_back_offers(&link, now);
        self.take_back_entrusted(id, now);
        // A peer that was dialled and names no port of its own is dialled there again.
        if let Some(addr) = link.listens_at.or_else(|| link.dialled.then_some(link.remote)) {
            self.book.link_ended(addr, wait.max(Duration::from_millis(250)), now);
        }
        self.request_from_all(now);
        self.serve(now);
    }

    /// Ends the link to a peer that broke the rules, and does not talk to it again.
    pub(super) fn punish(&mut self, id: LinkId, violation: Violation, now: Instant) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        let (peer, remote) = (link.peer, link.remote);
        // A peer that just does not answer may be stopped or overloaded: it may come back later.
        let wait = if violation == Violation::Unresponsive {
            Duration::from_secs(60)
        } else {
            if self.banned.len() < BANNED_MAX {
                self.banned.insert(peer);
            }
            Duration::from_secs(600)
        };
        self.commands.push_back(Command::Notify(Notification::Banned { peer, remote, violation }));
        self.close(id, DisconnectReason::Violation(violation), wait, now);
    }
}
