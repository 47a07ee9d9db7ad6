//! The network of a [`World`]: links between hosts, at the hosts' rates.
//!
//! Each direction of a link is a queue of what its driver wants to send, a socket buffer, and
//! the bytes under way. A host's uplink sends one chunk at a time, in turns over its links; its
//! downlink takes chunks in the order in which they come. A socket buffer is free again when the
//! other end has read: so a slow receiver slows its senders, as TCP does.

use std::collections::VecDeque;

use dft_protocol::geometry::{Geometry, PieceIndex};
use dft_protocol::swarm::{Event, LinkId};
use dft_protocol::time::{Duration, Instant};
use dft_protocol::wire::{FRAME_HEADER_LEN, Message};

use super::{Conduct, Happening, World};

/// What is on the wire as one.
#[derive(Clone, Debug)]
pub(super) enum Chunk {
    Message { message: Message, len: u64 },
    Data { piece: PieceIndex, len: u64, first: bool, last: bool, corrupt: bool },
}

impl Chunk {
    fn len(&self) -> u64 {
        match self {
            Chunk::Message { len, .. } | Chunk::Data { len, .. } => *len,
        }
    }
}

/// What a driver handed over and the socket has not taken yet.
enum Outgoing {
    Message(Chunk),
    Piece { piece: PieceIndex, len: u64, left: u64, corrupt: bool },
}

/// What one end of a link sends.
struct End {
    host: usize,
    open: bool,
    outgoing: VecDeque<Outgoing>,
    socket: VecDeque<Chunk>,
    /// Bytes in the socket.
    unsent: u64,
    /// Bytes in the socket and under way.
    buffered: u64,
}

#[derive(Default)]
struct Port {
    sending: bool,
    /// Link ends with something in their sockets, in turn.
    ready: VecDeque<LinkId>,
    /// When the downlink is through with all that is on its way to it.
    down_free_at: Instant,
}

/// All links, and the hosts' ports to them.
#[derive(Default)]
pub(super) struct Network {
    ends: Vec<End>,
    ports: Vec<Port>,
}

/// Ends are numbered in pairs: 2n is the dialling end, 2n + 1 the other one.
fn slot(link: LinkId) -> usize {
    usize::try_from(link.0).expect("there are fewer links than addresses")
}

fn transfer_time(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos(bytes * 1_000_000_000 / rate.max(1))
}

impl Network {
    pub(super) fn add_host(&mut self) {
        self.ports.push(Port::default());
    }

    pub(super) fn connect(&mut self, from: usize, to: usize) -> (LinkId, LinkId) {
        let ours = LinkId(u64::try_from(self.ends.len()).unwrap());
        for host in [from, to] {
            let (outgoing, socket) = (VecDeque::new(), VecDeque::new());
            self.ends.push(End { host, open: true, outgoing, socket, unsent: 0, buffered: 0 });
        }
        (ours, Self::other_end(ours))
    }

    pub(super) const fn other_end(link: LinkId) -> LinkId {
        LinkId(link.0 ^ 1)
    }

    pub(super) fn host_of(&self, link: LinkId) -> usize {
        self.ends[slot(link)].host
    }

    pub(super) fn is_open(&self, link: LinkId) -> bool {
        self.ends[slot(link)].open
    }

    /// Closes both directions; false where that was done before.
    pub(super) fn close(&mut self, link: LinkId) -> bool {
        let was_open = self.ends[slot(link)].open;
        for end in [link, Self::other_end(link)] {
            let end = &mut self.ends[slot(end)];
            end.open = false;
            end.outgoing.clear();
            end.socket.clear();
            end.unsent = 0;
        }
        was_open
    }

    /// Both ends of every open link between two hosts.
    pub(super) fn links_between(&self, a: usize, b: usize) -> Vec<LinkId> {
        let links = (0..self.ends.len()).map(|slot| LinkId(u64::try_from(slot).unwrap()));
        let between = links.filter(|link| {
            let ends = [self.host_of(*link), self.host_of(Self::other_end(*link))];
            self.is_open(*link) && (ends == [a, b] || ends == [b, a])
        });
        between.collect()
    }

    /// Hands a message over. It goes over the wire as bytes, which must mean the same.
    pub(super) fn push_message(&mut self, link: LinkId, message: &Message, geometry: &Geometry) {
        let body = message.encode();
        assert_eq!(Message::decode(&body, geometry).as_ref(), Ok(message), "what is sent can be read");
        let len = u64::try_from(FRAME_HEADER_LEN + body.len()).unwrap();
        let chunk = Chunk::Message { message: message.clone(), len };
        self.ends[slot(link)].outgoing.push_back(Outgoing::Message(chunk));
    }

    pub(super) fn push_piece(&mut self, link: LinkId, piece: PieceIndex, len: u64, corrupt: bool) {
        self.ends[slot(link)].outgoing.push_back(Outgoing::Piece { piece, len, left: len, corrupt });
    }
}

impl World {
    /// Moves what was handed over into the socket, as far as there is room.
    pub(super) fn pump(&mut self, link: LinkId) {
        let end = &mut self.network.ends[slot(link)];
        let host = end.host;
        let was_empty = end.socket.is_empty();
        let mut sent = Vec::new();
        while end.open && end.buffered < self.terms.socket_buffer && end.unsent < self.terms.unsent_max {
            let chunk = match end.outgoing.front_mut() {
                None => break,
                Some(Outgoing::Message(chunk)) => {
                    let chunk = chunk.clone();
                    end.outgoing.pop_front();
                    chunk
                }
                Some(Outgoing::Piece { piece, len, left, corrupt }) => {
                    let part = (*left).min(self.terms.chunk);
                    let first = *left == *len;
                    *left -= part;
                    let (piece, last, corrupt) = (*piece, *left == 0, *corrupt);
                    if last {
                        sent.push(piece);
                        end.outgoing.pop_front();
                    }
                    Chunk::Data { piece, len: part, first, last, corrupt }
                }
            };
            end.buffered += chunk.len();
            end.unsent += chunk.len();
            end.socket.push_back(chunk);
        }
        if was_empty && !end.socket.is_empty() {
            self.network.ports[host].ready.push_back(link);
        }
        for piece in sent {
            self.hosts[host].sent += u64::from(self.geometry.piece_len(piece));
            let life = self.hosts[host].life;
            self.plan(self.now, Happening::Tell(host, life, Event::PieceSent { link, piece }));
        }
        self.start_sending(host);
    }

    fn start_sending(&mut self, host: usize) {
        if self.network.ports[host].sending {
            return;
        }
        while let Some(link) = self.network.ports[host].ready.pop_front() {
            let Some(chunk) = self.network.ends[slot(link)].socket.pop_front() else {
                continue;
            };
            self.network.ends[slot(link)].unsent -= chunk.len();
            if !self.network.ends[slot(link)].socket.is_empty() {
                self.network.ports[host].ready.push_back(link);
            }
            let now = self.now;
            let other = Network::other_end(link);
            let to = self.network.host_of(other);
            let up = transfer_time(chunk.len(), self.hosts[host].plan.up);
            let down = transfer_time(chunk.len(), self.hosts[to].plan.down);
            // The receiving port may begin as soon as the first bytes come: cut-through.
            let arrives = now + self.terms.latency;
            let port = &mut self.network.ports[to];
            let done = (port.down_free_at.max(arrives) + down).max(arrives + up);
            port.down_free_at = port.down_free_at.max(arrives) + down;
            self.network.ports[host].sending = true;
            self.plan_in(up, Happening::UplinkFree(host));
            self.plan(now, Happening::Pump(link));
            if self.hosts[to].plan.conduct == Conduct::Stuck && matches!(chunk, Chunk::Data { .. }) {
                return;
            }
            self.plan(done, Happening::Delivered { to: other, chunk });
            return;
        }
    }

    pub(super) fn uplink_free(&mut self, host: usize) {
        self.network.ports[host].sending = false;
        self.start_sending(host);
    }

    pub(super) fn delivered(&mut self, to: LinkId, chunk: &Chunk) {
        let from = Network::other_end(to);
        let end = &mut self.network.ends[slot(from)];
        end.buffered -= chunk.len();
        if !end.open {
            return;
        }
        self.pump(from);
        let host = self.network.host_of(to);
        self.arrived(host, to, chunk);
    }
}
