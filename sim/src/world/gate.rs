//! Bounded queues before trunks and receiving ports, where the terms say so: what a switch does.
//!
//! A chunk of data enters all gates on its way before it is sent, and leaves each behind its wire. Who finds one
//! full waits there, and enters in turn: as if TCP knew at once how fast to send. What it leaves out is what
//! gets lost.

use std::collections::VecDeque;

use dft_protocol::swarm::LinkId;

use super::network::{Network, slot};
use super::{Terms, World};

/// Beside its queue a shaped wire lets so many bytes through at once.
const BURST: u64 = 128 << 10;

/// What is before a wire.
#[derive(Debug)]
struct Gate {
    room: u64,
    /// Bytes that were sent, and are not behind the wire.
    inside: u64,
    /// Who waits for room.
    waiting: VecDeque<LinkId>,
}

/// All gates, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Gates(Vec<Gate>);

/// What a link end entered before its next chunk is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Admitted {
    gates: usize,
    len: u64,
}

impl Gates {
    /// A gate before a wire of `rate` bytes per second.
    pub(super) fn add(&mut self, rate: u64, terms: &Terms) -> usize {
        let bytes_in = |wait: std::time::Duration| u128::from(rate) * wait.as_nanos() / 1_000_000_000;
        let queue =
            terms.queue_max.map_or(u64::MAX, |wait| u64::try_from(bytes_in(wait)).unwrap_or(u64::MAX));
        self.0.push(Gate { room: queue.saturating_add(BURST), inside: 0, waiting: VecDeque::new() });
        self.0.len() - 1
    }
}

impl World {
    /// The gate of the trunk over which a link end sends.
    pub(super) fn trunk_before(&mut self, from: LinkId) -> Option<usize> {
        let site = |end: LinkId| self.network.ports[self.network.port_of(end)].site;
        let (site, other_site) = (site(from), site(Network::other_end(from)));
        self.network.trunk(site, other_site).map(|trunk| trunk.gate)
    }

    /// The gates through which a link end sends, in order.
    pub(super) fn gates_before(&mut self, from: LinkId) -> Vec<usize> {
        let to = self.network.port_of(Network::other_end(from));
        self.trunk_before(from).into_iter().chain([self.network.ports[to].gate]).collect()
    }

    /// Whether the next chunk of a link end may be sent; else it waits for room.
    pub(super) fn is_admitted(&mut self, link: LinkId) -> bool {
        if self.terms.queue_max.is_none() {
            return true;
        }
        let end = &self.network.ends[slot(link)];
        let mut admitted = end.admitted;
        let Some(chunk) = end.socket.front() else {
            // The link was closed: it enters nothing.
            for gate in self.gates_before(link).into_iter().take(admitted.gates) {
                self.leave(gate, admitted.len);
            }
            return true;
        };
        if !chunk.is_data() {
            return true;
        }
        admitted.len = chunk.len();
        for gate in self.gates_before(link).into_iter().skip(admitted.gates) {
            let before = &mut self.network.gates.0[gate];
            if before.inside + admitted.len > before.room {
                before.waiting.push_back(link);
                self.network.ends[slot(link)].admitted = admitted;
                return false;
            }
            before.inside += admitted.len;
            admitted.gates += 1;
        }
        true
    }

    /// So many bytes are behind the wire: whoever waits for room goes on.
    pub(super) fn leave(&mut self, gate: usize, len: u64) {
        if self.terms.queue_max.is_none() {
            return;
        }
        self.network.gates.0[gate].inside -= len;
        while let Some(link) = self.network.gates.0[gate].waiting.front().copied() {
            let end = &mut self.network.ends[slot(link)];
            let before = &mut self.network.gates.0[gate];
            if before.inside + end.admitted.len > before.room {
                return;
            }
            before.waiting.pop_front();
            before.inside += end.admitted.len;
            end.admitted.gates += 1;
            let port = self.network.port_of(link);
            self.network.ports[port].ready.push_back(link);
            if !self.network.ports[port].sending {
                self.start_sending(port);
            }
        }
    }
}
