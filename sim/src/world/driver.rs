//! The driver of each swarm, as `dft` has one: events in, commands out; and the part of whoever
//! behaves badly.

use std::net::SocketAddr;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::id::ManifestId;
use dft_protocol::manifest::PeerAddr;
use dft_protocol::swarm::{Command, Config, DisconnectReason, Event, LinkId, Notification, Swarm, Violation};
use dft_protocol::time::{Duration, Instant};
use dft_protocol::wire::{Hello, Message, PieceList, RejectReason, Site};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::network::{Chunk, Network, Place};
use super::{
    CONNECT_MAX, Conduct, Happening, Host, Mutation, TRACKER_PAUSES, TRACKER_SAMPLE, UNLIMITED, World,
};

/// How long a flapping host keeps a link, at most.
const FLAP_AFTER_MS: u64 = 400;
/// Pieces longer than this are hashed block by block, and reported as they come.
pub(super) const BLOCKWISE: u32 = 1 << 20;

fn number(host: usize) -> u64 {
    u64::try_from(host).unwrap_or(u64::MAX)
}

impl World {
    // ---- life ----

    pub(super) fn start(&mut self, host: usize) {
        if self.hosts[host].swarm.is_some() {
            return;
        }
        let seed = self.rng.random();
        let geometry = self.geometry_of(host).clone();
        let place = &mut self.hosts[host];
        let site = Site::new(format!("site-{}", place.plan.site));
        let config = Config {
            local: place.peer,
            site,
            download: place.plan.download,
            wanted: None,
            upload_slots: self.terms.upload_slots,
            seed,
        };
        let have = place.durable.clone();
        let complete = have.is_full();
        place.swarm = Some(Swarm::new(config, geometry, have));
        place.life += 1;
        place.started_at = self.now;
        place.finished_at = complete.then_some(self.now);
        place.tracker_asked = 0;
        let life = place.life;
        self.finishes += u64::from(complete);
        self.ledger.started(host, &self.hosts[host].durable);
        self.drain(host);
        self.plan(self.now, Happening::AskTracker { host, life });
    }

    pub(super) fn crash(&mut self, host: usize) {
        self.hosts[host].swarm = None;
        self.hosts[host].wake_at = None;
        self.hosts[host].unflushed.clear();
        self.hosts[host].life += 1;
        for link in std::mem::take(&mut self.hosts[host].links).into_keys() {
            self.network.hold_end(link, false);
            self.ledger.closed(link);
            self.hang_up(link);
        }
    }

    pub(super) fn wake(&mut self, host: usize) {
        if self.hosts[host].wake_at != Some(self.now) {
            return;
        }
        self.hosts[host].wake_at = None;
        self.acting = Some(host);
        if let Some(swarm) = &mut self.hosts[host].swarm {
            if self.mutation.is_some_and(|mutation| !mutation.hears_time()) {
                return;
            }
            self.record.trace(&[self.now.as_nanos(), number(host)]);
            swarm.handle_timeout(self.now);
        }
        self.drain(host);
    }

    /// An event for a swarm, where it still lives that life.
    pub(super) fn tell_alive(&mut self, host: usize, life: u64, event: Event) {
        if self.hosts[host].life == life {
            self.tell(host, event);
        }
    }

    pub(super) fn tell(&mut self, host: usize, event: Event) {
        self.acting = Some(host);
        let Some(event) = self.mutated(host, event) else {
            return;
        };
        if self.hosts[host].swarm.is_none() {
            return;
        }
        if let Event::PieceSent { piece, .. } = &event {
            self.ledger.sent(host, self.geometry_of(host).piece_len(*piece));
        }
        if self.terms.remember > 0 {
            let line = format!("{} > {event:?}", self.now);
            self.hosts[host].memory.note(self.terms.remember, line);
        }
        self.record.trace(&[self.now.as_nanos(), number(host)]);
        let now = self.now;
        if let Some(swarm) = &mut self.hosts[host].swarm {
            swarm.handle(event, now);
        }
        self.drain(host);
    }

    /// The mutation of a host: those who behave badly do so by themselves.
    fn mutation_of(&self, host: usize) -> Option<Mutation> {
        self.mutation.filter(|_| self.hosts[host].plan.conduct == Conduct::Honest)
    }

    fn mutated(&self, host: usize, event: Event) -> Option<Event> {
        match self.mutation_of(host) {
            Some(mutation) => mutation.event(event, self.geometry_of(host)),
            None => Some(event),
        }
    }

    // ---- commands ----

    pub(super) fn drain(&mut self, host: usize) {
        self.ledger.touched(host);
        while let Some(command) = self.hosts[host].swarm.as_mut().and_then(Swarm::poll_command) {
            match self.mutation_of(host) {
                Some(mutation) => {
                    for command in mutation.commands(command, &self.geometry_of(host).clone()) {
                        self.obey(host, command);
                    }
                }
                None => self.obey(host, command),
            }
        }
        let Some(at) = self.hosts[host].swarm.as_ref().and_then(Swarm::poll_timeout) else {
            return;
        };
        if self.hosts[host].wake_at.is_none_or(|planned| at < planned) {
            let at = at.max(self.now);
            self.hosts[host].wake_at = Some(at);
            self.plan(at, Happening::Wake(host));
        }
    }

    fn obey(&mut self, host: usize, command: Command) {
        if self.terms.remember > 0 {
            let line = format!("{} < {command:?}", self.now);
            self.hosts[host].memory.note(self.terms.remember, line);
        }
        match command {
            Command::Connect(to) => {
                // The connection, and one hello each way.
                let wait = self.terms.latency * 3;
                let life = self.hosts[host].life;
                self.plan_in(wait, Happening::Dialled { from: host, life, addr: to.addr });
            }
            Command::Disconnect { link, reason } => self.disconnect(host, link, reason),
            Command::Send { link, message } => {
                if self.network.is_held(link) {
                    self.check_message(host, link, &message);
                    self.send(host, link, message);
                }
            }
            Command::SendPiece { link, piece } => {
                if self.network.is_held(link) {
                    self.check_upload(host, link, piece);
                    self.send_piece(host, link, piece);
                }
            }
            Command::Recheck(piece) => {
                let honest = self.hosts[host].plan.conduct == Conduct::Honest;
                let have = self.hosts[host].swarm.as_ref().is_some_and(|swarm| swarm.have().contains(piece));
                assert!(!honest || have, "host {host} checks {piece} again, which it has");
            }
            Command::Notify(notification) => self.notified(host, &notification),
        }
    }

    fn disconnect(&mut self, host: usize, link: LinkId, reason: DisconnectReason) {
        if let Some(peer) = self.hosts[host].links.remove(&link) {
            self.network.hold_end(link, false);
            self.check_disconnect(host, self.by_peer[&peer], reason);
            self.hosts[host].disconnects.push((peer, reason));
            self.ledger.closed(link);
            self.hang_up(link);
        }
    }

    fn notified(&mut self, host: usize, notification: &Notification) {
        match notification {
            Notification::AllVerified => {
                self.hosts[host].finished_at = Some(self.now);
                self.finishes += 1;
            }
            Notification::PieceVerified { piece, .. } => {
                let len = self.geometry_of(host).piece_len(*piece);
                self.check_verified(host, *piece, len);
                self.record.verified(self.now, u64::from(len));
                let place = &mut self.hosts[host];
                place.unflushed.push(*piece);
                // One flush takes all that was verified by then.
                if place.unflushed.len() == 1 {
                    let life = place.life;
                    self.plan_in(self.terms.durable_delay, Happening::Flush { host, life });
                }
            }
            Notification::Banned { peer, violation, .. } => self.hosts[host].banned.push((*peer, *violation)),
            Notification::PeerCompleted(_) => {}
        }
    }

    /// What was verified since the last flush is on disk for good.
    pub(super) fn flush(&mut self, host: usize, life: u64) {
        let place = &mut self.hosts[host];
        if place.life == life {
            let pieces = std::mem::take(&mut place.unflushed);
            pieces.iter().for_each(|piece| {
                place.durable.insert(*piece);
            });
            self.tell(host, Event::PiecesDurable(pieces));
        }
    }

    // ---- sending ----

    fn send(&mut self, host: usize, link: LinkId, message: Message) {
        match self.hosts[host].plan.conduct {
            Conduct::Silent => return,
            Conduct::Flooding if matches!(message, Message::Request(_)) => {
                self.push_message(link, message.clone());
            }
            _ => {}
        }
        self.push_message(link, message);
    }

    fn send_piece(&mut self, host: usize, link: LinkId, piece: PieceIndex) {
        self.hosts[host].pieces_sent += 1;
        let corrupt = match self.hosts[host].plan.conduct {
            Conduct::Rejecting => {
                self.send(host, link, Message::Reject(piece, RejectReason::Missing));
                self.plan(self.now, Happening::Sent { link, piece });
                return;
            }
            Conduct::Unanswering | Conduct::Silent => return,
            Conduct::Corrupting(every) => self.hosts[host].pieces_sent.is_multiple_of(every),
            _ => false,
        };
        let len = u64::from(self.geometry_of(host).piece_len(piece));
        if self.hosts[host].plan.disk == UNLIMITED {
            self.push_piece(link, piece, len, corrupt);
        } else {
            let at = self.disk_work(host, len);
            self.plan(at, Happening::Read { link, piece, corrupt });
        }
    }

    pub(super) fn read(&mut self, link: LinkId, piece: PieceIndex, corrupt: bool) {
        if self.network.is_open(link) {
            let len = u64::from(self.geometry_of(self.network.host_of(link)).piece_len(piece));
            self.push_piece(link, piece, len, corrupt);
        }
    }

    /// Has the disk of `host` read or write so many bytes; when it is done.
    fn disk_work(&mut self, host: usize, len: u64) -> Instant {
        let place = &mut self.hosts[host];
        if place.plan.disk == UNLIMITED {
            return self.now;
        }
        let time = Duration::from_nanos(len * 1_000_000_000 / place.plan.disk.max(1));
        place.disk_free_at = place.disk_free_at.max(self.now) + time;
        place.disk_free_at
    }

    pub(super) fn sent(&mut self, link: LinkId, piece: PieceIndex) {
        let host = self.network.host_of(link);
        if !self.network.is_held(link) {
            return;
        }
        let len = u64::from(self.geometry_of(host).piece_len(piece));
        if !matches!(self.hosts[host].plan.conduct, Conduct::Rejecting) {
            self.hosts[host].sent += len;
            if self.hosts[host].plan.have.is_full() {
                self.record.seeded(self.now, len);
            }
        }
        self.tell(host, Event::PieceSent { link, piece });
    }

    // ---- finding each other ----

    pub(super) fn found(&mut self, host: usize, others: &[usize]) {
        let addrs = others.iter().map(|other| PeerAddr { peer: None, addr: self.hosts[*other].addr });
        let event = Event::PeersFound(addrs.collect());
        self.tell(host, event);
    }

    /// A host announces itself to the tracker, and learns of some others: near ones first.
    pub(super) fn ask_tracker(&mut self, host: usize, life: u64) {
        if self.hosts[host].life != life || !self.has_tracker {
            return;
        }
        let asked = self.hosts[host].tracker_asked;
        self.hosts[host].tracker_asked += 1;
        let pause = TRACKER_PAUSES[asked.min(TRACKER_PAUSES.len() - 1)];
        self.plan_in(pause, Happening::AskTracker { host, life });
        let Some(known) = &mut self.tracker else {
            return;
        };
        let (site, dataset) = (self.hosts[host].plan.site, self.hosts[host].plan.dataset);
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for other in known.iter().copied().filter(|other| *other != host) {
            let plan = &self.hosts[other].plan;
            if plan.dataset == dataset {
                if plan.site == site { near.push(other) } else { far.push(other) }
            }
        }
        known.insert(host);
        let mut sample = Vec::new();
        for mut others in [near, far] {
            let room = TRACKER_SAMPLE - sample.len();
            let (chosen, _) = others.partial_shuffle(&mut self.rng, room);
            sample.extend_from_slice(chosen);
        }
        if !sample.is_empty() {
            self.found(host, &sample);
        }
    }

    // ---- links ----

    /// A dial arrives: both ends may have a link.
    pub(super) fn dialled(&mut self, from: usize, life: u64, addr: SocketAddr) {
        if self.hosts[from].life != life {
            return;
        }
        let to = self.by_addr.get(&addr).copied();
        let Some(to) =
            to.filter(|to| !self.network.separates(from, *to) && !self.network.separates(*to, from))
        else {
            self.plan_in(CONNECT_MAX, Happening::DialFailed { host: from, life, addr });
            return;
        };
        if self.hosts[to].swarm.is_none() {
            self.tell(from, Event::DialFailed { addr, hopeless: false });
            return;
        }
        let (ours, theirs) = self.network.connect(self.place(from), self.place(to), self.now);
        self.ledger.connected(ours, self.geometry_of(to).piece_count());
        let open = match self.terms.cpu {
            Some(cpu) => self.work(cpu.link),
            None => self.now,
        };
        self.plan(open, Happening::LinkUp { host: to, link: theirs, dialled: false });
        self.plan(open + self.terms.latency, Happening::LinkUp { host: from, link: ours, dialled: true });
    }

    fn place(&self, host: usize) -> Place {
        let Host { port, plan, .. } = &self.hosts[host];
        Place { host, port: *port, reads: plan.conduct != Conduct::Stuck }
    }

    pub(super) fn link_up(&mut self, host: usize, link: LinkId, dialled: bool) {
        let other = self.network.host_of(Network::other_end(link));
        if !self.network.is_open(link) || self.hosts[host].swarm.is_none() {
            // The other end closed it, or this one died in between.
            if dialled {
                let addr = self.hosts[other].addr;
                self.tell(host, Event::DialFailed { addr, hopeless: false });
            }
            self.hang_up(link);
            return;
        }
        let (peer, remote) = (self.hosts[other].peer, self.hosts[other].addr);
        let remote = if dialled { remote } else { SocketAddr::new(remote.ip(), 50_000) };
        let complete = self.hosts[other].swarm.as_ref().is_some_and(|swarm| swarm.have().is_full());
        let site = Site::new(format!("site-{}", self.hosts[other].plan.site));
        let listen_port = self.hosts[other].addr.port();
        let hello =
            Hello { version: 2, manifest: ManifestId::from_bytes([7; 32]), complete, listen_port, site };
        self.hosts[host].links.insert(link, peer);
        self.network.hold_end(link, true);
        self.tell(host, Event::LinkUp { link, peer, remote, dialled, neighbour: true, hello });
        if !self.network.is_held(link) {
            return;
        }
        match self.hosts[host].plan.conduct {
            Conduct::Flooding => {
                let pieces: Vec<PieceIndex> = self.geometry_of(host).pieces().collect();
                for list in PieceList::split(&pieces).flat_map(|list| [list.clone(), list]) {
                    self.push_message(link, Message::Request(list));
                }
            }
            Conduct::Flapping => {
                let wait = Duration::from_millis(self.rng.random_range(0..FLAP_AFTER_MS));
                self.plan_in(wait, Happening::Flap(link));
            }
            _ => {}
        }
    }

    /// This end of a link is closed: nothing more is sent, and the other end hears of it.
    pub(super) fn hang_up(&mut self, link: LinkId) {
        if self.network.close(link) {
            let other = Network::other_end(link);
            let host = self.network.host_of(other);
            self.plan_in(self.terms.latency, Happening::LinkDown { host, link: other });
        }
    }

    pub(super) fn link_down(&mut self, host: usize, link: LinkId) {
        if self.network.separates(self.network.host_of(Network::other_end(link)), host) {
            self.network.hold(Happening::LinkDown { host, link });
        } else if self.hosts[host].links.remove(&link).is_some() {
            self.network.hold_end(link, false);
            self.ledger.closed(link);
            self.tell(host, Event::LinkDown { link });
        }
    }

    /// A link is lost, with what it carries.
    pub(super) fn cut(&mut self, link: LinkId) {
        self.link_down(self.network.host_of(link), link);
        self.hang_up(link);
    }

    // ---- what arrives ----

    pub(super) fn arrived(&mut self, host: usize, link: LinkId, chunk: Chunk) {
        match chunk {
            Chunk::Messages { messages, .. } => {
                for message in messages {
                    // What one says may end the link.
                    if self.network.is_held(link) {
                        self.hear(link, &message);
                        self.tell(host, Event::Message { link, message });
                    }
                }
            }
            Chunk::Data { piece, first, last, corrupt, .. } if self.network.is_held(link) => {
                if first || self.geometry_of(host).piece_len(piece) > BLOCKWISE {
                    self.tell(host, Event::DataArriving { link });
                }
                if last && self.network.is_held(link) {
                    self.piece_arrived(host, link, piece, corrupt);
                }
            }
            Chunk::Data { .. } => {}
        }
    }

    fn piece_arrived(&mut self, host: usize, link: LinkId, piece: PieceIndex, corrupt: bool) {
        let len = u64::from(self.geometry_of(host).piece_len(piece));
        match self.answered(host, link, piece) {
            None => {
                let violation = Violation::UnrequestedData;
                self.tell(host, Event::Misbehaved { link, violation });
            }
            Some(cancelled) if cancelled => {
                self.hosts[host].wasted += len;
                self.tell(host, Event::PieceDiscarded { link, piece });
            }
            Some(_) => {
                self.ledger.arrived(host, piece, !corrupt);
                self.tell(host, Event::PieceReceived { link, piece });
                let at = self.disk_work(host, len) + self.terms.hash_delay;
                let life = self.hosts[host].life;
                self.plan(at, Happening::Checked { host, life, link, piece, valid: !corrupt });
            }
        }
    }
}
