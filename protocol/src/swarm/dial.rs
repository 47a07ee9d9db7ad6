//! Whom a swarm dials, and who is told of whom. The addresses themselves are kept in the `book`.

use std::collections::BTreeSet;

use rand::seq::SliceRandom;

use super::{Command, DisconnectReason, LINKS_DIALLED_MAX, LINKS_MAX, LinkId, Swarm};
use crate::id::PeerId;
use crate::manifest::PeerAddr;
use crate::time::{Duration, Instant};
use crate::wire::{Message, PEERS_LEN_MAX};

/// How long the higher of two identities waits for the lower one to dial: longer than a handshake
/// takes on a busy machine.
const DIAL_AFTER: Duration = Duration::from_millis(300);
/// With more links than this, others are not told of a newcomer: it would be a message to each of them.
const INTRODUCED_MAX: usize = 16;
/// A node that finds nothing to ask for looks for other peers after so long, and again as often.
const STARVED_AFTER: Duration = Duration::from_secs(2);
/// How many others it dials then at a time.
const STARVED_DIALS: usize = 4;

impl Swarm {
    pub(super) fn handle_peers_found(&mut self, found: Vec<PeerAddr>, now: Instant) {
        // Of two links the one that the lower identity dialled stays, so the higher one gives it
        // time to do so; unless there is nobody else to fetch from.
        let has_others = !self.links.is_empty() || self.book.is_dialling();
        for peer in found {
            if peer.peer != Some(self.config.local) {
                let waits = has_others && peer.peer.is_some_and(|it| it < self.config.local);
                self.book.add(peer, if waits { now + DIAL_AFTER } else { now });
            }
        }
        self.dial(now);
    }

    /// Whether this node looks for others. A complete one waits to be found.
    pub(super) fn dials(&self) -> bool {
        self.config.download && !self.is_satisfied()
    }

    pub(super) fn dial(&mut self, now: Instant) {
        if !self.dials() {
            return;
        }
        let wanted = LINKS_DIALLED_MAX.saturating_sub(self.links_that_count());
        self.dial_some(wanted, now);
    }

    fn dial_some(&mut self, wanted: usize, now: Instant) {
        if wanted == 0 {
            return;
        }
        let skip: BTreeSet<PeerId> = self.peers.keys().chain(&self.banned).copied().collect();
        let linked = self.links.values().filter_map(|link| link.listens_at).collect();
        for addr in self.book.dial(wanted, &skip, &linked, now, &mut self.rng) {
            self.commands.push_back(Command::Connect(addr));
        }
    }

    /// A node whose peers have nothing for it makes room for others, and dials some. Else a crowd that
    /// found only itself, and has links enough, would never reach a seeder.
    pub(super) fn look_elsewhere(&mut self, now: Instant) {
        if !self.dials() || self.picker.open().is_empty() || !self.requested.is_empty() {
            self.starved_since = None;
            return;
        }
        let since = *self.starved_since.get_or_insert(now);
        if self.links.len() < LINKS_DIALLED_MAX || now.since(since) < STARVED_AFTER {
            return;
        }
        self.starved_since = Some(now);
        if self.links.len() + STARVED_DIALS > LINKS_MAX {
            let mut poorest: Vec<(usize, LinkId)> =
                self.links.iter().map(|(id, link)| (link.have.count(), *id)).collect();
            poorest.sort_unstable();
            for (_, id) in poorest.into_iter().take(STARVED_DIALS) {
                self.close(id, DisconnectReason::Full, Duration::from_secs(10), now);
            }
        }
        self.dial_some(STARVED_DIALS, now);
    }

    /// A remote peer's word on loopback addresses would make this node dial itself or its
    /// neighbours on this machine.
    pub(super) fn handle_peers_message(&mut self, id: LinkId, mut peers: Vec<PeerAddr>, now: Instant) {
        let local = self.links.get(&id).is_some_and(|link| link.remote.ip().is_loopback());
        peers.retain(|peer| local || !peer.addr.ip().is_loopback());
        self.handle_peers_found(peers, now);
    }

    /// Tells a new peer of others; and where these are few, whoever has everything tells those of lower
    /// identity of the new one: of two, the lower one dials at once, the higher one later. Else the tracker
    /// tells the others in time.
    pub(super) fn introduce(&mut self, newcomer: LinkId, now: Instant) {
        let others = self.links.iter().filter(|(id, _)| **id != newcomer);
        let mut peers: Vec<PeerAddr> = others
            .filter_map(|(_, link)| Some(PeerAddr { peer: Some(link.peer), addr: link.listens_at? }))
            .collect();
        if peers.len() > PEERS_LEN_MAX {
            peers.shuffle(&mut self.rng);
            peers.truncate(PEERS_LEN_MAX);
        }
        if !peers.is_empty() {
            self.send(newcomer, Message::Peers(peers), now);
        }
        let Some(link) = self.links.get(&newcomer) else {
            return;
        };
        let Some(addr) =
            link.listens_at.filter(|_| self.have.is_full() && self.links.len() <= INTRODUCED_MAX)
        else {
            return;
        };
        let peer = link.peer;
        let lower: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.peer < peer && !link.complete())
            .map(|(id, _)| *id)
            .collect();
        for id in lower {
            self.send(id, Message::Peers(vec![PeerAddr { peer: Some(peer), addr }]), now);
        }
    }
}
