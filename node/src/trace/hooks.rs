//! What goes into a swarm and what comes out of it, as events of a trace.

use dft_protocol::swarm::{Command, Event as SwarmEvent, Notification};
use dft_protocol::wire::{Message, PieceList};

use super::Trace;
use super::event::{Event, Means, Opening, Phase};
use crate::net::identity::display_peer;
use crate::net::link::{LinkError, Timing};

impl Trace {
    /// A swarm is about to be told this. (Link up, which the swarm is not told all of, and dials
    /// that fail, whose cause it does not know, have functions of their own.)
    pub fn input(&self, event: &SwarmEvent) {
        if !self.is_on() {
            return;
        }
        match event {
            SwarmEvent::LinkDown { link } => {
                self.record(|| Event::LinkDown { link: link.0, reason: None });
            }
            SwarmEvent::Misbehaved { link, violation } => {
                self.record(|| Event::LinkDown { link: link.0, reason: Some(violation.to_string()) });
            }
            SwarmEvent::Message { link, message } => self.received(link.0, message),
            &SwarmEvent::PieceChecked { link, piece, valid } => {
                self.record(|| Event::Checked { link: link.0, piece: piece.to_u32(), valid });
            }
            SwarmEvent::PiecesDurable(pieces) => {
                self.record(|| Event::Durable { count: count(pieces.len()) });
            }
            _ => {}
        }
    }

    /// A link is about to be told of.
    pub fn link_up(&self, event: &SwarmEvent, timing: Timing) {
        if let SwarmEvent::LinkUp { link, peer, remote, dialled, hello, .. } = event {
            self.record(|| Event::LinkUp {
                link: link.0,
                peer: display_peer(peer),
                remote: remote.to_string(),
                dialled: *dialled,
                complete: hello.complete,
                opening: Opening {
                    connect_us: microseconds(timing.connect),
                    handshake_us: microseconds(timing.handshake),
                    hello_us: microseconds(timing.hello),
                },
            });
        }
    }

    /// A dial came to nothing.
    pub fn dial_failed(&self, addr: std::net::SocketAddr, error: &LinkError) {
        self.record(|| Event::DialFailed { addr: addr.to_string(), reason: error.to_string() });
    }

    /// A swarm wants this done.
    pub fn output(&self, command: &Command) {
        if !self.is_on() {
            return;
        }
        match command {
            Command::Connect(peer) => self.record(|| Event::Dial { addr: peer.addr.to_string() }),
            Command::Disconnect { link, reason } => {
                self.record(|| Event::LinkDown { link: link.0, reason: Some(format!("{reason:?}")) });
            }
            Command::Send { link, message } => self.sent(link.0, message),
            Command::SendPiece { link, piece } => {
                self.record(|| Event::UploadGranted { link: link.0, piece: piece.to_u32() });
            }
            Command::Notify(Notification::AllVerified) => self.phase(Phase::Verified),
            Command::Notify(_) | Command::Recheck(_) => {}
        }
    }

    fn received(&self, link: u64, message: &Message) {
        match message {
            Message::Bitfield(set) => self.record(|| Event::HaveReceived { link, count: count(set.count()) }),
            Message::Have(list) => {
                self.record(|| Event::HaveReceived { link, count: count(list.pieces().len()) });
            }
            Message::Request(list) => self.each(list, |piece| Event::RequestReceived { link, piece }),
            Message::Cancel(list) => self.each(list, |piece| Event::CancelReceived { link, piece }),
            Message::Reject(piece, _) => {
                self.record(|| Event::RejectReceived { link, piece: piece.to_u32() });
            }
            Message::Peers(peers) => {
                self.record(|| Event::PeersFound { means: Means::Peer, count: count(peers.len()) });
            }
            _ => {}
        }
    }

    fn sent(&self, link: u64, message: &Message) {
        match message {
            Message::Bitfield(set) => self.record(|| Event::HaveSent { link, count: count(set.count()) }),
            Message::Have(list) => {
                self.record(|| Event::HaveSent { link, count: count(list.pieces().len()) });
            }
            Message::Request(list) => self.each(list, |piece| Event::RequestSent { link, piece }),
            Message::Cancel(list) => self.each(list, |piece| Event::CancelSent { link, piece }),
            Message::Reject(piece, _) => self.record(|| Event::RejectSent { link, piece: piece.to_u32() }),
            _ => {}
        }
    }

    fn each(&self, list: &PieceList, event: impl Fn(u32) -> Event) {
        for piece in list.pieces() {
            self.record(|| event(piece.to_u32()));
        }
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn microseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
