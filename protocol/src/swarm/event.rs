//! What goes into the swarm and what comes out of it.

use std::fmt;
use std::net::SocketAddr;

use thiserror::Error;

use crate::geometry::PieceIndex;
use crate::id::PeerId;
use crate::manifest::PeerAddr;
use crate::wire::{Hello, Message, WireError};

/// A link, as numbered by whoever drives the swarm; never used twice in one run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.0)
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Addresses of peers of this manifest, from a manifest, a tracker, mDNS or the user.
    PeersFound(Vec<PeerAddr>),
    /// A [`Command::Connect`] came to nothing.
    DialFailed {
        /// The address of the command.
        addr: SocketAddr,
        /// Trying again is pointless for long: it is this very peer, or of another manifest.
        hopeless: bool,
    },
    /// A link is open: both ends are authenticated and said hello.
    LinkUp {
        /// Its number.
        link: LinkId,
        /// Who is at the other end.
        peer: PeerId,
        /// The other end's address.
        remote: SocketAddr,
        /// Whether this end dialled.
        dialled: bool,
        /// Whether both ends are on one network, with no router in between.
        neighbour: bool,
        /// What the other end said.
        hello: Hello,
    },
    /// A link is gone; nothing more comes from it.
    LinkDown {
        /// Its number.
        link: LinkId,
    },
    /// A message arrived; never [`Message::Data`] or [`Message::Packed`], which events of their own stand for.
    Message {
        /// Where it came from.
        link: LinkId,
        /// What it says.
        message: Message,
    },
    /// Payload is arriving: the peer at the other end is at work.
    DataArriving {
        /// The link that carries it.
        link: LinkId,
    },
    /// Payload is leaving: the peer at the other end takes it, or this end holds it back.
    DataLeaving {
        /// The link that carries it.
        link: LinkId,
    },
    /// This node lets payload move at most so fast, in bytes per second over all its links.
    RatesLimited {
        /// What is sent; `None` where there is no limit.
        upload: Option<u64>,
        /// What is received; `None` where there is no limit.
        download: Option<u64>,
    },
    /// All bytes of a requested piece arrived; it is being hashed and written.
    PieceReceived {
        /// The link that carried it.
        link: LinkId,
        /// The piece.
        piece: PieceIndex,
    },
    /// All bytes of a piece arrived whose request was cancelled; they were dropped.
    PieceDiscarded {
        /// The link that carried it.
        link: LinkId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A received piece was hashed, and written where the hash is right.
    PieceChecked {
        /// The link that had carried it.
        link: LinkId,
        /// The piece.
        piece: PieceIndex,
        /// Whether the hash is the manifest's.
        valid: bool,
    },
    /// Verified pieces are on disk for good, and recorded.
    PiecesDurable(Vec<PieceIndex>),
    /// Somebody reads the dataset and waits for these pieces, the most urgent first: they are
    /// asked for before rarer ones. Replaces what was preferred before.
    Preferred(Vec<PieceIndex>),
    /// Somebody reads the dataset, and nothing of it is kept: exactly these pieces are wanted now, the most
    /// urgent first, and what is here besides them is gone. Peers are told that nothing is wanted, and of no
    /// piece: this node brings none any further.
    Reading(Vec<PieceIndex>),
    /// Pieces that were here can no longer be read, or have to be fetched again.
    PiecesLost(Vec<PieceIndex>),
    /// Pieces that were here are given up for good: they are neither served nor fetched again.
    PiecesDropped(Vec<PieceIndex>),
    /// All data of a [`Command::SendPiece`] was handed to the network.
    PieceSent {
        /// The link that carries it.
        link: LinkId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A [`Command::SendPiece`] failed: the piece cannot be read.
    PieceUnreadable {
        /// The link that waits for it.
        link: LinkId,
        /// The piece.
        piece: PieceIndex,
    },
    /// The link saw bytes that break the protocol.
    Misbehaved {
        /// The link that carried them.
        link: LinkId,
        /// What was wrong.
        violation: Violation,
    },
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Open a link; answer with [`Event::LinkUp`] or [`Event::DialFailed`].
    Connect(PeerAddr),
    /// Close a link. Its [`Event::LinkDown`] is not waited for.
    Disconnect {
        /// Its number.
        link: LinkId,
        /// Why.
        reason: DisconnectReason,
    },
    /// Send a message; never [`Message::Data`]. After a [`Message::Request`] the link may carry
    /// data of these pieces.
    Send {
        /// Where to.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// Send all data of a piece, then answer with [`Event::PieceSent`].
    SendPiece {
        /// Where to.
        link: LinkId,
        /// What.
        piece: PieceIndex,
    },
    /// A peer says that this piece is corrupt here: hash it again, and report
    /// [`Event::PiecesLost`] where it is.
    Recheck(PieceIndex),
    /// For whoever watches.
    Notify(Notification),
}

/// What a watcher may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notification {
    /// A piece was verified: serve it, count it.
    PieceVerified {
        /// The piece.
        piece: PieceIndex,
        /// Whether it came from a peer that had been complete from the start.
        from_seeder: bool,
    },
    /// Every piece is verified.
    AllVerified,
    /// A peer says that it has every piece, and had not before on this link. It may say so again on
    /// another, or after it lost some.
    PeerCompleted(PeerId),
    /// A peer broke the rules and is not talked to any more.
    Banned {
        /// Who.
        peer: PeerId,
        /// From where.
        remote: SocketAddr,
        /// What it did.
        violation: Violation,
    },
}

/// Why a link is closed from this end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DisconnectReason {
    /// The peer broke the rules.
    Violation(Violation),
    /// There is another link to the same peer.
    Duplicate,
    /// No place for another link.
    Full,
    /// The other end is this very peer.
    Oneself,
    /// Nothing was heard for too long.
    Silent,
    /// Both ends have every piece.
    Done,
}

/// What a peer did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// Its bytes are no message.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// It sent pieces with a wrong hash.
    #[error("it sent corrupt data")]
    Corrupt,
    /// It sent data that was not asked for, or out of order.
    #[error("it sent data that was not asked for")]
    UnrequestedData,
    /// It announced pieces and then did not have them, too often.
    #[error("it announced pieces that it does not have")]
    Lied,
    /// It took requests and sent nothing, or asked for data and does not read it.
    #[error("it takes requests, or asks for data, and then does nothing")]
    Unresponsive,
    /// More requests than allowed wait for an answer.
    #[error("it sent too many requests")]
    RequestFlood,
    /// It answered a request that was not made.
    #[error("it answered a request that was not made")]
    UnrequestedAnswer,
}
