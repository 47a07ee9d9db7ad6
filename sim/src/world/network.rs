//! The network of a [`World`]: links between hosts, at the rates of their ports and of the trunks
//! between their sites.
//!
//! Each direction of a link is a queue of what its driver wants to send, a socket buffer, and the
//! bytes under way. A port sends one chunk at a time, in turns over its links; trunks and receiving
//! ports take chunks in the order in which they come. A socket buffer is free again when the other
//! end has read: so a slow receiver slows its senders, as TCP does. Turns at the sources together
//! with bounded buffers give each flow its max-min fair share of every port and trunk, without
//! computing it. (Hahne, «Round-robin scheduling for max-min fairness in data networks», IEEE JSAC
//! 1991; a test holds it against the shares that water-filling gives.)
//!
//! Where the terms say so, what waits before a trunk or a receiving port is bounded over all links, too:
//! each is behind a `gate`, and whoever finds it full waits for its turn there.
//!
//! Messages are short: on a link that has nothing else under way they cost their own time and that
//! of whoever shares the wire; and those that are said to one peer at one moment are one event, as they
//! are one segment in TCP.

use std::collections::VecDeque;

use dft_protocol::geometry::{Geometry, PieceIndex};
use dft_protocol::swarm::LinkId;
use dft_protocol::time::{Duration, Instant};
use dft_protocol::wire::{FRAME_HEADER_LEN, Message};

use super::driver::BLOCKWISE;
use super::gate::{Admitted, Gates};
use super::{Happening, Terms, World};

/// What is on the wire as one.
#[derive(Clone, Debug)]
pub(super) enum Chunk {
    /// What was said at one moment, in order.
    Messages { messages: Vec<Message>, len: u64 },
    Data {
        piece: PieceIndex,
        len: u64,
        first: bool,
        last: bool,
        corrupt: bool,
        /// Bytes of which the sender's socket is free when it arrives; none where it comes without an event, and
        /// the last one of its piece frees them, too.
        frees: u64,
    },
}

impl Chunk {
    pub(super) fn len(&self) -> u64 {
        match self {
            Chunk::Messages { len, .. } | Chunk::Data { len, .. } => *len,
        }
    }

    /// Bytes of which the sender's socket is free when it arrives.
    const fn frees(&self) -> u64 {
        match self {
            Chunk::Messages { len, .. } => *len,
            Chunk::Data { frees, .. } => *frees,
        }
    }

    pub(super) const fn is_data(&self) -> bool {
        matches!(self, Chunk::Data { .. })
    }
}

/// What a driver handed over and the socket has not taken yet.
#[derive(Debug)]
enum Outgoing {
    Message(Chunk),
    Piece {
        piece: PieceIndex,
        len: u64,
        left: u64,
        corrupt: bool,
        /// Bytes in the socket or under way that are free with the last one.
        free_later: u64,
    },
}

/// A host as its links know it: they are many, and do not read all of it at each event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) host: usize,
    pub(super) port: usize,
    pub(super) reads: bool,
}

/// What one end of a link sends. In memory it is as it is here, in two lines of a processor's cache: what
/// arrives reads the first one alone.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct End {
    host: usize,
    /// Its host reads pieces that arrive.
    reads: bool,
    open: bool,
    /// Its host knows of it.
    held: bool,
    /// Bytes in the socket and under way.
    buffered: u64,
    /// When the latest of what is under way arrives: nothing overtakes it.
    arrived_at: Instant,
    outgoing: VecDeque<Outgoing>,

    /// That of its host.
    port: usize,
    /// Bytes in the socket.
    unsent: u64,
    pub(super) socket: VecDeque<Chunk>,
    /// The gates that have room for the next chunk already.
    pub(super) admitted: Admitted,
}

/// The wire of a machine.
#[derive(Debug)]
pub(super) struct Port {
    up: u64,
    down: u64,
    latency: Duration,
    pub(super) site: usize,
    pub(super) sending: bool,
    /// Messages that took the wire from the chunk that is being sent.
    debt: u64,
    /// Link ends with something in their sockets, in turn.
    pub(super) ready: VecDeque<LinkId>,
    /// When the downlink is through with all that is on its way to it.
    down_free_at: Instant,
    pub(super) gate: usize,
}

/// One direction of the wire between two sites.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trunk {
    rate: u64,
    latency: Duration,
    free_at: Instant,
    pub(super) gate: usize,
}

/// Some hosts cannot reach the others for a while.
#[derive(Debug)]
struct Partition {
    inside: Vec<bool>,
    /// What the others send still reaches those inside.
    one_way: bool,
}

/// All links, the machines' ports, and what lies between them.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) ends: Vec<End>,
    pub(super) ports: Vec<Port>,
    /// By the site of the sender and that of the receiver.
    trunks: Vec<Vec<Option<Trunk>>>,
    pub(super) gates: Gates,
    partition: Option<Partition>,
    /// What waits for the partition to end, in order.
    held: Vec<Happening>,
}

/// Ends are numbered in pairs: 2n is the dialling end, 2n + 1 the other one.
pub(super) fn slot(link: LinkId) -> usize {
    usize::try_from(link.0).expect("there are fewer links than addresses")
}

/// The time that `bytes` take at `rate` bytes per second.
fn transfer_time(bytes: u64, rate: u64) -> Duration {
    const SECOND: u64 = 1_000_000_000;
    // What is on the wire as one is short: 64 bits do, and are divided sooner.
    let nanos = match bytes.checked_mul(SECOND) {
        Some(product) => product / rate.max(1),
        None => u64::try_from(u128::from(bytes) * u128::from(SECOND) / u128::from(rate.max(1)))
            .unwrap_or(u64::MAX),
    };
    Duration::from_nanos(nanos)
}

/// The length of a message's frame. Short lists, which are nearly all there is, are not encoded for
/// it: a header of 4 bytes, two of the array and the kind, one of the list, and the indices.
fn frame_len(message: &Message) -> usize {
    let (Message::Have(list) | Message::Request(list) | Message::Cancel(list) | Message::Lost(list)) =
        message
    else {
        return FRAME_HEADER_LEN + message.encode().len();
    };
    let index_len = |piece: &PieceIndex| match piece.to_u32() {
        0..24 => 1,
        24..256 => 2,
        256..65_536 => 3,
        _ => 5,
    };
    let header_len = match list.pieces().len() {
        0..24 => 1,
        24..256 => 2,
        _ => 3,
    };
    FRAME_HEADER_LEN + 2 + header_len + list.pieces().iter().map(index_len).sum::<usize>()
}

impl Network {
    pub(super) fn add_port(
        &mut self,
        up: u64,
        down: u64,
        latency: Duration,
        site: usize,
        terms: &Terms,
    ) -> usize {
        let gate = self.gates.add(down, terms);
        self.ports.push(Port {
            up,
            down,
            latency,
            site,
            sending: false,
            debt: 0,
            ready: VecDeque::new(),
            down_free_at: Instant::START,
            gate,
        });
        self.ports.len() - 1
    }

    /// Lays a trunk of `rate` bytes per second each way between two sites.
    pub(super) fn add_trunk(&mut self, a: usize, b: usize, rate: u64, latency: Duration, terms: &Terms) {
        let count = self.trunks.len().max(a + 1).max(b + 1);
        self.trunks.resize(count, Vec::new());
        self.trunks.iter_mut().for_each(|row| row.resize(count, None));
        for (from, to) in [(a, b), (b, a)] {
            let gate = self.gates.add(rate, terms);
            self.trunks[from][to] = Some(Trunk { rate, latency, free_at: Instant::START, gate });
        }
    }

    pub(super) fn trunk(&mut self, from: usize, to: usize) -> Option<&mut Trunk> {
        if from == to {
            return None;
        }
        self.trunks.get_mut(from)?.get_mut(to)?.as_mut()
    }

    /// Opens a link between two hosts.
    pub(super) fn connect(&mut self, from: Place, to: Place, now: Instant) -> (LinkId, LinkId) {
        let ours = LinkId(u64::try_from(self.ends.len()).expect("links can be counted"));
        for Place { host, port, reads } in [from, to] {
            self.ends.push(End {
                host,
                port,
                reads,
                open: true,
                held: false,
                outgoing: VecDeque::new(),
                socket: VecDeque::new(),
                unsent: 0,
                buffered: 0,
                arrived_at: now,
                admitted: Admitted::default(),
            });
        }
        (ours, Self::other_end(ours))
    }

    pub(super) const fn other_end(link: LinkId) -> LinkId {
        LinkId(link.0 ^ 1)
    }

    pub(super) fn host_of(&self, link: LinkId) -> usize {
        self.ends[slot(link)].host
    }

    pub(super) fn port_of(&self, link: LinkId) -> usize {
        self.ends[slot(link)].port
    }

    pub(super) fn is_open(&self, link: LinkId) -> bool {
        self.ends[slot(link)].open
    }

    /// Whether the host at this end knows of the link, and did not close it.
    pub(super) fn is_held(&self, link: LinkId) -> bool {
        self.ends[slot(link)].held
    }

    pub(super) fn hold_end(&mut self, link: LinkId, held: bool) {
        self.ends[slot(link)].held = held;
    }

    /// Closes both directions; false where that was done before.
    pub(super) fn close(&mut self, link: LinkId) -> bool {
        let was_open = self.ends[slot(link)].open;
        for end in [link, Self::other_end(link)] {
            let end = &mut self.ends[slot(end)];
            end.open = false;
            end.outgoing = VecDeque::new();
            end.socket = VecDeque::new();
            end.unsent = 0;
        }
        was_open
    }

    /// Whether what `from` sends does not reach `to`.
    pub(super) fn separates(&self, from: usize, to: usize) -> bool {
        self.partition.as_ref().is_some_and(|partition| {
            let (from, to) = (partition.inside[from], partition.inside[to]);
            from != to && (from || !partition.one_way)
        })
    }

    /// Keeps something until the partition ends.
    pub(super) fn hold(&mut self, happening: Happening) {
        self.held.push(happening);
    }
}

impl World {
    /// `inside` can no longer reach the others, nor, unless `one_way`, the others them.
    pub(super) fn separate(&mut self, inside: Vec<bool>, one_way: bool) {
        self.ledger.was_separated = true;
        self.network.partition = Some(Partition { inside, one_way });
    }

    /// The partition is over: what was under way arrives.
    pub(super) fn heal(&mut self) {
        self.network.partition = None;
        for happening in std::mem::take(&mut self.network.held) {
            self.plan(self.now, happening);
        }
    }

    /// Bytes on the wire for `len` bytes that a link carries.
    fn on_wire(&self, len: u64) -> u64 {
        if self.terms.overhead <= 1.0 {
            return len;
        }
        Duration::from_nanos(len).mul_f64(self.terms.overhead).as_nanos().try_into().unwrap_or(len)
    }

    /// Hands a message over.
    pub(super) fn push_message(&mut self, link: LinkId, message: Message) {
        let len = frame_len(&message);
        if self.terms.encode {
            let body = message.encode();
            let geometry: &Geometry = self.geometry_of(self.network.host_of(link));
            assert_eq!(Message::decode(&body, geometry).as_ref(), Ok(&message), "what is sent can be read");
            assert_eq!(len, FRAME_HEADER_LEN + body.len(), "lengths are right: {message:?}");
        }
        let len = u64::try_from(len).expect("a message has a length");
        let site = |end: LinkId| self.network.ports[self.network.port_of(end)].site;
        let near = site(link) == site(Network::other_end(link));
        let end = &mut self.network.ends[slot(link)];
        let nothing_waits = end.socket.is_empty() && end.outgoing.is_empty();
        // What is on a trunk has no time of arrival yet, and must not be overtaken.
        if end.open && nothing_waits && (near || end.buffered == 0) {
            self.send_at_once(link, message, len);
        } else {
            end.outgoing.push_back(Outgoing::Message(Chunk::Messages { messages: vec![message], len }));
            self.pump(link);
        }
    }

    pub(super) fn push_piece(&mut self, link: LinkId, piece: PieceIndex, len: u64, corrupt: bool) {
        self.network.ends[slot(link)].outgoing.push_back(Outgoing::Piece {
            piece,
            len,
            left: len,
            corrupt,
            free_later: 0,
        });
        self.pump(link);
    }

    /// A message on a link on which nothing else is under way.
    fn send_at_once(&mut self, link: LinkId, message: Message, message_len: u64) {
        let len = self.on_wire(message_len);
        let (from, other) = (self.network.port_of(link), Network::other_end(link));
        let to = self.network.port_of(other);
        let (site, other_site) = (self.network.ports[from].site, self.network.ports[to].site);
        let port = &mut self.network.ports[from];
        if port.sending {
            port.debt += len;
        }
        let mut at = self.now + transfer_time(len, port.up) + port.latency + self.terms.latency;
        if let Some(trunk) = self.network.trunk(site, other_site) {
            trunk.free_at = trunk.free_at.max(self.now) + transfer_time(len, trunk.rate);
            at = at.max(trunk.free_at) + trunk.latency;
            self.record.crossed(self.now, len);
        }
        let port = &mut self.network.ports[to];
        at = at + port.latency;
        port.down_free_at = port.down_free_at.max(at) + transfer_time(len, port.down);
        at = port.down_free_at.max(self.network.ends[slot(link)].arrived_at);
        self.network.ends[slot(link)].arrived_at = at;
        self.network.ends[slot(link)].buffered += message_len;
        self.record.carried(self.now, len);
        if let Some(Happening::Delivered { to, chunk: Chunk::Messages { messages, len } }) =
            self.queue.latest_mut()
            && *to == other
        {
            messages.push(message);
            *len += message_len;
            return;
        }
        let chunk = Chunk::Messages { messages: vec![message], len: message_len };
        self.plan(at, Happening::Delivered { to: other, chunk });
    }

    /// Moves what was handed over into the socket, as far as there is room.
    pub(super) fn pump(&mut self, link: LinkId) {
        self.fill(link);
        let port = self.network.port_of(link);
        if !self.network.ports[port].sending {
            self.start_sending(port);
        }
    }

    fn fill(&mut self, link: LinkId) {
        let scarce = self.terms.cpu.is_some() || self.terms.queue_max.is_some();
        let end = &mut self.network.ends[slot(link)];
        let was_empty = end.socket.is_empty();
        let mut sent = None;
        while end.open && end.buffered < self.terms.socket_buffer && end.unsent < self.terms.unsent_max {
            let chunk = match end.outgoing.front_mut() {
                None => break,
                Some(Outgoing::Message(_)) => match end.outgoing.pop_front() {
                    Some(Outgoing::Message(chunk)) => chunk,
                    _ => break,
                },
                Some(Outgoing::Piece { piece, len, left, corrupt, free_later }) => {
                    let part = (*left).min(self.terms.chunk);
                    let first = *left == *len;
                    *left -= part;
                    let (piece, last, corrupt) = (*piece, *left == 0, *corrupt);
                    // Nobody waits for the middle of a piece, unless the socket may be full.
                    let roomy = end.buffered < self.terms.socket_buffer / 2;
                    let frees = if roomy && !scarce && !first && !last && *len <= u64::from(BLOCKWISE) {
                        *free_later += part;
                        0
                    } else {
                        std::mem::take(free_later) + part
                    };
                    if last {
                        end.outgoing.pop_front();
                        sent = Some(piece);
                    }
                    Chunk::Data { piece, len: part, first, last, corrupt, frees }
                }
            };
            end.buffered += chunk.len();
            end.unsent += chunk.len();
            end.socket.push_back(chunk);
            if let Some(piece) = sent.take() {
                self.queue.plan(self.now, Happening::Sent { link, piece });
            }
        }
        if was_empty && !end.socket.is_empty() {
            let port = end.port;
            self.network.ports[port].ready.push_back(link);
        }
    }

    pub(super) fn start_sending(&mut self, port: usize) {
        while let Some(link) = self.network.ports[port].ready.pop_front() {
            if !self.is_admitted(link) {
                continue;
            }
            let end = &mut self.network.ends[slot(link)];
            end.admitted = Admitted::default();
            let Some(chunk) = end.socket.pop_front() else {
                continue;
            };
            end.unsent -= chunk.len();
            let more = !end.socket.is_empty();
            if more {
                self.network.ports[port].ready.push_back(link);
            }
            // Not only where more waits: what is left may have become less than the limit.
            self.fill(link);
            self.transmit(port, link, chunk);
            return;
        }
    }

    /// Puts a chunk on the wire.
    fn transmit(&mut self, port: usize, link: LinkId, chunk: Chunk) {
        let (now, len) = (self.now, self.on_wire(chunk.len()));
        let other = Network::other_end(link);
        let to = self.network.port_of(other);
        let (site, other_site) = (self.network.ports[port].site, self.network.ports[to].site);
        let sender = &mut self.network.ports[port];
        sender.sending = true;
        let up = transfer_time(len + std::mem::take(&mut sender.debt), sender.up);
        let latency = sender.latency + self.terms.latency;
        self.plan_in(up, Happening::PortFree(port));
        self.record.carried(now, len);
        if !self.network.ends[slot(other)].reads && chunk.is_data() {
            for gate in self.gates_before(link) {
                self.leave(gate, chunk.len());
            }
            return;
        }
        if let Some(trunk) = self.network.trunk(site, other_site) {
            // The next wire may begin as soon as the first bytes come: cut-through.
            trunk.free_at = trunk.free_at.max(now + latency) + transfer_time(len, trunk.rate);
            let through = trunk.free_at.max(now + latency + up) + trunk.latency;
            self.record.crossed(now, len);
            self.plan(through, Happening::Crossed { to: other, chunk });
        } else {
            self.receive(other, chunk, now + latency, up);
        }
    }

    /// A chunk is through a trunk.
    pub(super) fn crossed(&mut self, to: LinkId, chunk: Chunk) {
        if let (Some(gate), true) = (self.trunk_before(Network::other_end(to)), chunk.is_data()) {
            self.leave(gate, chunk.len());
        }
        self.receive(to, chunk, self.now, Duration::ZERO);
    }

    /// The first bytes of a chunk reach the receiving port at `at`, the last ones `spread` later at
    /// the earliest.
    pub(super) fn receive(&mut self, to: LinkId, chunk: Chunk, at: Instant, spread: Duration) {
        let len = self.on_wire(chunk.len());
        let port = self.network.port_of(to);
        let port = &mut self.network.ports[port];
        let at = at + port.latency;
        port.down_free_at = port.down_free_at.max(at) + transfer_time(len, port.down);
        let end = &mut self.network.ends[slot(Network::other_end(to))];
        let done = port.down_free_at.max(at + spread).max(end.arrived_at);
        end.arrived_at = done;
        if chunk.frees() > 0 {
            self.plan(done, Happening::Delivered { to, chunk });
        }
    }

    pub(super) fn port_free(&mut self, port: usize) {
        self.network.ports[port].sending = false;
        self.start_sending(port);
    }

    pub(super) fn delivered(&mut self, to: LinkId, chunk: Chunk) {
        let from = Network::other_end(to);
        let (sender, host) = (self.network.host_of(from), self.network.host_of(to));
        if self.network.separates(sender, host) {
            self.network.hold(Happening::Delivered { to, chunk });
            return;
        }
        if chunk.is_data() && self.terms.queue_max.is_some() {
            self.leave(self.network.ports[self.network.port_of(to)].gate, chunk.len());
        }
        let end = &mut self.network.ends[slot(from)];
        end.buffered -= chunk.frees();
        if !end.open {
            return;
        }
        if !end.outgoing.is_empty() {
            self.pump(from);
        }
        match self.processed_at(&chunk) {
            Some(at) => {
                let end = &mut self.network.ends[slot(from)];
                end.arrived_at = end.arrived_at.max(at);
                let at = end.arrived_at;
                self.plan(at, Happening::Processed { to, chunk });
            }
            None => self.arrived(host, to, chunk),
        }
    }

    pub(super) fn processed(&mut self, to: LinkId, chunk: Chunk) {
        if self.network.is_open(to) {
            self.arrived(self.network.host_of(to), to, chunk);
        }
    }

    /// When the processors are through with a chunk, where they are scarce.
    fn processed_at(&mut self, chunk: &Chunk) -> Option<Instant> {
        let cpu = self.terms.cpu?;
        let work = match chunk {
            Chunk::Messages { messages, .. } => {
                cpu.message * u32::try_from(messages.len()).unwrap_or(u32::MAX)
            }
            Chunk::Data { len, .. } => transfer_time(*len, 1 << 20).mul_f64(cpu.mebibyte.as_secs_f64()),
        };
        Some(self.work(work))
    }

    /// Gives work to the core that is free first; when it is done.
    pub(super) fn work(&mut self, work: Duration) -> Instant {
        let core = self.cores_free_at.iter_mut().min();
        core.map_or(self.now, |free_at| {
            *free_at = (*free_at).max(self.now) + work;
            *free_at
        })
    }
}
