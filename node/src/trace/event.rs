//! What a trace holds: the events, and with them the format of a line. docs/TRACE.md is written
//! from here.

use serde::{Deserialize, Serialize};

/// The version of the format. Readers skip events that they don't know; a version changes when
/// one that they know would mean something else.
pub const VERSION: u32 = 1;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// When, in microseconds of the monotonic clock since the process started.
    pub us: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// A part of a process's life; it ends where the next one begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The process runs its first line.
    Start,
    /// A fetch: the manifest is read. A seeder: everything is hashed.
    Manifest,
    /// A fetch: what is on disk from before is known.
    Store,
    /// Links are taken, but go to nobody yet.
    Listening,
    /// Discovery runs.
    Discovering,
    /// The driver runs: links are opened and pieces move.
    Driving,
    /// Every piece is verified.
    Verified,
    /// Every piece is durable, and the final name is in place.
    Complete,
    /// The node takes leave of everybody.
    Leaving,
    /// The verb is over.
    Exit,
}

/// How peers were found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// The hints of the manifest, and peers that the user named.
    Manifest,
    /// A tracker.
    Tracker,
    /// The tracker inside of this process.
    EmbeddedTracker,
    /// Multicast on the LAN.
    Mdns,
    /// A peer passed them on.
    Peer,
}

/// How a link's end was prepared, in microseconds for each step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Opening {
    /// Until the TCP connection stood; 0 where it was accepted.
    pub connect_us: u64,
    /// From then until the other end was authenticated: the TLS handshake.
    pub handshake_us: u64,
    /// From then until both hellos were said.
    pub hello_us: u64,
}

/// Something that happened in a node. Links are numbered by the node, pieces by the manifest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first line.
    Trace {
        /// Of the format.
        version: u32,
        /// The wall clock at `us` = 0, in microseconds since 1970: aligns traces of one machine.
        wall_us: u64,
        /// `seed` or `fetch`.
        verb: String,
        /// What wrote it.
        program: String,
        /// Where.
        host: String,
        /// Which process.
        pid: u32,
    },
    /// Who this node is and what it sends or fetches, once both are known.
    Node {
        /// Its identity.
        peer: String,
        /// The manifest's id.
        manifest: String,
        /// The dataset's name.
        name: String,
        /// How many pieces there are.
        pieces: u32,
        /// How many of them were here from the start.
        have: u32,
        /// Bytes of all pieces.
        bytes: u64,
    },
    /// A part of the process's life begins.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// Addresses of peers were found.
    PeersFound {
        /// How.
        means: Means,
        /// How many, known ones included.
        count: u32,
    },
    /// A link is dialled.
    Dial {
        /// Where.
        addr: String,
    },
    /// Dialling came to nothing.
    DialFailed {
        /// Where.
        addr: String,
        /// Why.
        reason: String,
    },
    /// A link is open. Its [`Opening`] was measured at this end.
    LinkUp {
        /// Its number.
        link: u64,
        /// Who is at the other end.
        peer: String,
        /// The other end's address.
        remote: String,
        /// Whether this end dialled.
        dialled: bool,
        /// Whether the other end has everything.
        complete: bool,
        /// How long it took.
        #[serde(flatten)]
        opening: Opening,
    },
    /// A link is gone.
    LinkDown {
        /// Its number.
        link: u64,
        /// Why, where this end closed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A piece was asked for.
    RequestSent {
        /// Of whom.
        link: u64,
        /// Which.
        piece: u32,
    },
    /// A peer asked for a piece.
    RequestReceived {
        /// Who.
        link: u64,
        /// Which.
        piece: u32,
    },
    /// A request was taken back.
    CancelSent {
        /// Of whom.
        link: u64,
        /// Which.
        piece: u32,
    },
    /// A peer took a request back.
    CancelReceived {
        /// Who.
        link: u64,
        /// Which.
        piece: u32,
    },
    /// A request is not answered with data.
    RejectSent {
        /// Whose.
        link: u64,
        /// Which.
        piece: u32,
    },
    /// A peer does not answer a request with data.
    RejectReceived {
        /// Who.
        link: u64,
        /// Which.
        piece: u32,
    },
    /// Pieces were announced.
    HaveSent {
        /// To whom.
        link: u64,
        /// How many: with a bitfield, all that are here.
        count: u32,
    },
    /// A peer announced pieces.
    HaveReceived {
        /// Who.
        link: u64,
        /// How many: with a bitfield, all that are there.
        count: u32,
    },
    /// The first bytes of a piece arrive.
    Arriving {
        /// From whom.
        link: u64,
        /// Which.
        piece: u32,
    },
    /// The last byte of a piece arrived.
    Arrived {
        /// From whom.
        link: u64,
        /// Which.
        piece: u32,
        /// Its length.
        bytes: u32,
        /// It was dropped, because its request had been cancelled.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        dropped: bool,
    },
    /// A piece was hashed, and written where it is right.
    Checked {
        /// Who sent it.
        link: u64,
        /// Which.
        piece: u32,
        /// Whether its hash is the manifest's.
        valid: bool,
    },
    /// Verified pieces are on disk for good.
    Durable {
        /// How many.
        count: u32,
    },
    /// An upload has a slot: its link is to send it next.
    UploadGranted {
        /// To whom.
        link: u64,
        /// Which.
        piece: u32,
    },
    /// A link begins to send a piece.
    Sending {
        /// To whom.
        link: u64,
        /// Which.
        piece: u32,
    },
    /// A piece was handed to the network.
    Sent {
        /// To whom.
        link: u64,
        /// Which.
        piece: u32,
        /// Its length.
        bytes: u32,
    },
    /// The last line.
    End {
        /// How many events were not recorded, because the disk did not keep up.
        dropped: u64,
    },
    /// What a later version wrote.
    #[serde(other, skip_serializing)]
    Unknown,
}
