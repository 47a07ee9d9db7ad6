//! The results that a daemon sends to the command line; as JSON lines they are what programs read.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// A result.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Item {
    /// The daemon and what it holds.
    Status(Status),
    /// How fast payload may leave and arrive.
    Limits(Limits),
    /// A dataset that this node holds.
    Held(Held),
    /// A dataset was published.
    Put(Put),
    /// What lies at some paths is served.
    Seeding(Seeding),
    /// How much of that was sent.
    Serving(Serving),
    /// A peer has all of it.
    PeerComplete(PeerComplete),
    /// A dataset was fetched.
    Got(Got),
    /// What a manifest describes is about to be fetched.
    Fetching(Fetching),
    /// What a manifest describes was fetched.
    Complete(Complete),
    /// The end of what a manifest describes; only for programs.
    Done(Ended),
    /// A name of the catalogue.
    Listed(Listed),
    /// Which pieces a node has of the dataset named before.
    Pieces(Pieces),
    /// An entry of a dataset.
    File(File),
    /// A node.
    Node(Node),
    /// A node was asked to fetch.
    Pushed(Pushed),
    /// A dataset was given up, or a name removed.
    Gone(Gone),
}

/// The daemon.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Status {
    /// The name of this node.
    pub node: String,
    /// Its identity.
    pub peer: String,
    /// Its process.
    pub pid: u32,
    /// Where its store is.
    pub store: String,
    /// Bytes of the copies in its store.
    pub store_bytes: u64,
    /// Most bytes of these.
    pub quota: Option<u64>,
    /// The addresses that take links.
    pub listen: Vec<String>,
    /// The trackers whose catalogue is used.
    pub trackers: Vec<String>,
    /// What a person should know of the catalogue: it does not answer, or there is another.
    pub catalogue_problems: Vec<String>,
    /// Whether it runs a tracker.
    pub embeds_tracker: bool,
    /// How fast payload may leave and arrive.
    pub limits: Limits,
}

/// How fast payload may leave and arrive, in bytes a second; `None` where there is no limit.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Limits {
    /// What is sent.
    pub max_upload: Option<u64>,
    /// What is received.
    pub max_download: Option<u64>,
}

/// A dataset on this node.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Held {
    /// The name under which it was put or fetched.
    pub name: String,
    /// Its manifest's id.
    pub id: String,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes that are here.
    pub have_bytes: u64,
    /// «opening», «fetching», «complete», «damaged» or «failed».
    pub state: String,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// Where its data are.
    pub path: String,
    /// Whether they are in the store.
    pub in_store: bool,
    /// Whether it was put here.
    pub origin: bool,
    /// Linked peers.
    pub peers: u64,
    /// Bytes of pieces that were sent.
    pub sent_bytes: u64,
    /// Bytes that compression spared.
    pub saved_bytes: u64,
}

/// What was published.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Put {
    /// The name.
    pub name: String,
    /// The manifest's id.
    pub id: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its pieces.
    pub pieces: u64,
    /// The name was there already, with this content.
    pub already: bool,
    /// What was left out.
    pub skipped: u64,
}

/// What is served from here on.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Seeding {
    /// The manifest, with the addresses of this node.
    pub manifest: ByteBuf,
    /// The addresses that take links.
    pub listen: Vec<String>,
    /// Who serves it.
    pub peer: String,
}

/// What was sent of it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Serving {
    /// Bytes of pieces.
    pub sent_bytes: u64,
    /// Bytes that compression spared.
    pub saved_bytes: u64,
    /// Linked peers.
    pub peers: u64,
}

/// A peer has all of it.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct PeerComplete {
    /// Which one.
    pub peer: String,
    /// Peers that have it so far.
    pub copies: u64,
}

/// What was fetched.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Got {
    /// The name.
    pub name: String,
    /// The manifest's id.
    pub id: String,
    /// Where it is.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes that came over the network for it.
    pub received_bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What is about to be fetched.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Fetching {
    /// The manifest's id.
    pub id: String,
    /// The dataset's name.
    pub name: String,
    /// Bytes of what was selected.
    pub bytes: u64,
    /// Pieces of it.
    pub pieces: u64,
    /// Pieces that are here.
    pub have_pieces: u64,
    /// The addresses that take links.
    pub listen: Vec<String>,
}

/// What was fetched.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Complete {
    /// Where it is.
    pub path: String,
    /// Bytes of what was selected.
    pub bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Bytes that came from peers that were complete.
    pub from_seeders: u64,
    /// Bytes that came from others.
    pub from_peers: u64,
    /// Bytes that were sent meanwhile.
    pub sent_bytes: u64,
    /// Bytes that came in vain.
    pub wasted: u64,
    /// Payload that arrived.
    pub arrived_bytes: u64,
    /// All of it, and not a part.
    pub whole: bool,
    /// It was there already.
    pub already: bool,
}

/// A fetch is over.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Ended {
    /// Where it is.
    pub path: String,
    /// Bytes that were sent meanwhile.
    pub sent_bytes: u64,
}

/// A name of the catalogue.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// The manifest's id.
    pub id: String,
    /// Bytes.
    pub bytes: u64,
    /// Pieces.
    pub pieces: u64,
    /// When it was put, in seconds since 1970.
    pub created_s: u64,
    /// Nodes that hold all of it; only where it was asked for.
    pub replicas: Option<u64>,
    /// Nodes that hold a part of it; only where it was asked for.
    pub partial: Option<u64>,
    /// The names of the nodes that hold all of it; only where it was asked for.
    pub holders: Option<Vec<String>>,
    /// Whether this node holds all of it.
    pub here: bool,
}

/// A file of a dataset, or what else it holds.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct File {
    /// The dataset's name.
    pub name: String,
    /// «file», «directory» or «symlink».
    pub kind: String,
    /// Its path in the dataset; empty where the dataset is a file.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was changed last, in seconds since 1970.
    pub mtime_s: i64,
    /// What a symbolic link leads to.
    pub target: Option<String>,
}

/// Which pieces a node has.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Pieces {
    /// The dataset's name.
    pub name: String,
    /// The node.
    pub node: String,
    /// The first and the last piece of each run.
    pub runs: Vec<(u32, u32)>,
    /// Why nothing is known.
    pub problem: Option<String>,
}

/// A node.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub peer: String,
    /// The addresses of its libp2p side.
    pub addrs: Vec<String>,
    /// Datasets that it holds completely.
    pub datasets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes a second that it receives.
    pub down_rate: u64,
    /// Bytes a second that it sends.
    pub up_rate: u64,
    /// Whether it is this node.
    pub here: bool,
}

/// A node was asked to fetch.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Pushed {
    /// The dataset's name.
    pub name: String,
    /// The node.
    pub node: String,
    /// «fetching», «complete» or «failed».
    pub outcome: String,
    /// Why it failed.
    pub problem: Option<String>,
}

/// Something is not there any more.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Gone {
    /// The name.
    pub name: String,
    /// The manifest's id.
    pub id: String,
    /// What happened, for a person.
    pub what: String,
}
