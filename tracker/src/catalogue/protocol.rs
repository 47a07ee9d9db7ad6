//! What a catalogue is asked and what it answers: `/dft/catalogue/1`.
//!
//! Each message is one canonical CBOR array `[kind, …]`; docs/PROTOCOL.md has the schema. A
//! message that exists is valid: names, ids, lengths and counts were checked where it was made or
//! decoded. Manifests of more than one block travel block by block, in both directions.
//!
//! Where to start reading: [`Request`], then [`Response`]; the bytes are in [`wire`].

#[cfg(test)]
mod tests;
pub mod wire;

use std::net::IpAddr;

use dft_protocol::id::{ManifestId, PeerId};
use libp2p::StreamProtocol;

use super::name::{DatasetName, Pattern};
use super::node::{FoundNode, HostName, NodeRecord};
use super::token::{Nonce, Proof};
use crate::codec::MessageCodec;
use crate::protocol::Reason;
use crate::registry::LinkAddrs;

/// The libp2p name of the protocol.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/dft/catalogue/1");
/// Longest block of a manifest, in bytes: most manifests are one block, and 64 MiB are 256.
pub const BLOCK_LEN_MAX: usize = 256 * 1024;
/// Longest request, in bytes: a block and what names it.
pub const REQUEST_LEN_MAX: usize = BLOCK_LEN_MAX + 4096;
/// Longest response, in bytes: a page, or a block with its record.
pub const RESPONSE_LEN_MAX: usize = 512 * 1024;
/// A page of an answer is closed once it has this many bytes: one more entry still fits.
pub const PAGE_LEN: usize = RESPONSE_LEN_MAX - 16 * 1024;
/// Most datasets of one question: some thousand holders of them fill an answer.
pub const MANY_MAX: usize = 256;
/// The highest epoch: each promotion takes one, so nobody comes near it in good faith.
pub const EPOCH_MAX: u64 = 1 << 32;

/// The codec of the protocol.
pub type CatalogueCodec = MessageCodec<Request, Response>;
/// Names one catalogue and its copies, whoever serves them.
pub type CatalogueId = [u8; 16];

/// What the catalogue knows of one dataset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it is called.
    pub name: DatasetName,
    /// Its manifest.
    pub id: ManifestId,
    /// Bytes of all its files.
    pub size: u64,
    /// How many pieces it has.
    pub pieces: u32,
    /// How many files, directories and symbolic links it has.
    pub entries: u32,
    /// When the tracker took it, in seconds since 1970 by the tracker's clock.
    pub created: u64,
    /// Who put it.
    pub owner: PeerId,
}

/// One peer that has announced a dataset, or parts of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Who it is.
    pub peer: PeerId,
    /// Where it takes links.
    pub addrs: LinkAddrs,
    /// Whether it has every piece.
    pub complete: bool,
    /// What it calls its host, where it is a node of the directory.
    pub host: Option<HostName>,
}

/// Who has announced one of many datasets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HolderList {
    /// The first ones, in the order of their ids, without their addresses.
    pub holders: Vec<Holder>,
    /// Whether there are more.
    pub more: bool,
}

/// A step of a catalogue's history, as a follower hears of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The step's number; each number is used once.
    pub sequence: u64,
    /// What became of which name.
    pub what: Changed,
}

/// What became of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changed {
    /// It names a dataset.
    Put(Record),
    /// The dataset was removed; the name stays its own.
    Removed(Record),
    /// The name is free.
    Forgotten(DatasetName),
}

impl Changed {
    /// The name.
    pub fn name(&self) -> &DatasetName {
        match self {
            Changed::Put(record) | Changed::Removed(record) => &record.name,
            Changed::Forgotten(name) => name,
        }
    }
}

/// What is asked of a catalogue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Who are you, and what is your challenge?
    Hello,
    /// The answer to the challenge: from here on, this connection may write.
    Prove {
        /// See [`super::token`].
        proof: Proof,
        /// The highest epoch that the client knows of: a leader of a lower one steps down.
        epoch: u64,
    },
    /// Keep a block of a manifest for a `Put` to come.
    Stage {
        /// Whose block.
        id: ManifestId,
        /// How long the manifest is.
        len: u32,
        /// Where the block begins; blocks come in order, and 0 begins anew.
        offset: u32,
        /// The block.
        bytes: Vec<u8>,
    },
    /// Let this name stand for this dataset.
    Put {
        /// The name.
        name: DatasetName,
        /// The dataset.
        id: ManifestId,
        /// Its manifest, where that is one block and the catalogue may not have it yet.
        manifest: Option<Vec<u8>>,
    },
    /// What does this name stand for?
    Get {
        /// The name.
        name: DatasetName,
        /// Whether the first block of the manifest is wanted as well.
        manifest: bool,
    },
    /// A block of a manifest.
    Block {
        /// Whose.
        id: ManifestId,
        /// Where it begins: a multiple of [`BLOCK_LEN_MAX`].
        offset: u32,
    },
    /// The next names that match, in their order.
    List {
        /// What they match.
        pattern: Pattern,
        /// The name before the first one wanted.
        after: Option<DatasetName>,
    },
    /// Take the dataset from the name.
    Remove {
        /// The name.
        name: DatasetName,
        /// The dataset that it stands for.
        id: ManifestId,
        /// Whether other content may have the name then.
        forget: bool,
    },
    /// Here I am.
    AnnounceNode(Box<NodeRecord>),
    /// I go.
    LeaveNode,
    /// The next nodes, in the order of their ids.
    Nodes {
        /// The node before the first one wanted.
        after: Option<PeerId>,
    },
    /// The next peers that have announced a dataset, in the order of their ids.
    Holders {
        /// The dataset.
        id: ManifestId,
        /// The peer before the first one wanted.
        after: Option<PeerId>,
    },
    /// Who has announced each of these datasets, for the first of them as far as an answer reaches.
    ManyHolders(Vec<ManifestId>),
    /// The next steps of the history.
    Changes {
        /// The number of the last step that is known.
        since: u64,
    },
}

/// Who a catalogue is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The same for all copies.
    pub catalogue: CatalogueId,
    /// How many promotions there were.
    pub epoch: u64,
    /// The number of its last step.
    pub sequence: u64,
    /// Whether it takes writes.
    pub leads: bool,
    /// Whether writes need no proof.
    pub open: bool,
    /// The challenge to this connection.
    pub nonce: Nonce,
}

/// What a catalogue answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// To `Hello`.
    Hello(Hello),
    /// Done; what it says is durable.
    Done,
    /// Not done.
    Refused(Reason),
    /// Not done: this connection has not proven to know the token.
    Unproven,
    /// Not done: another tracker takes writes; its address, where it is known.
    NotLeader(Option<String>),
    /// Not done: the name belongs to another dataset.
    Taken {
        /// That dataset.
        id: ManifestId,
        /// Whether it was removed: then forgetting it frees the name.
        removed: bool,
    },
    /// Not done: the manifest is needed first.
    Wanted,
    /// To `Put`: the name stands for the dataset.
    Stored {
        /// Whether it did not before.
        created: bool,
    },
    /// To `Get`.
    Found {
        /// What is known.
        record: Record,
        /// How long the manifest is; 0 where it was not asked for.
        len: u32,
        /// The first block of it.
        block: Vec<u8>,
    },
    /// To `Get` and `Block`: there is no such thing.
    Missing,
    /// To `Block`.
    Block(Vec<u8>),
    /// To `List`.
    Records {
        /// In the order of their names.
        records: Vec<Record>,
        /// Where to go on; `None` at the end.
        next: Option<DatasetName>,
    },
    /// To `Remove`.
    Removed {
        /// Whether there was something to remove.
        removed: bool,
    },
    /// To `Nodes`.
    Nodes {
        /// In the order of their ids.
        nodes: Vec<FoundNode>,
        /// Whether there are more.
        more: bool,
    },
    /// To `Holders`.
    Holders {
        /// In the order of their ids.
        holders: Vec<Holder>,
        /// Where to go on; `None` at the end.
        next: Option<PeerId>,
    },
    /// To `ManyHolders`: for at least the first of the datasets, in their order.
    ManyHolders(Vec<HolderList>),
    /// To `Changes`.
    Changes {
        /// Whether steps behind `since` are not remembered any more: copy from 0.
        too_old: bool,
        /// In the order of their numbers.
        changes: Vec<Change>,
        /// The number of the catalogue's last step.
        sequence: u64,
    },
}

impl Request {
    /// Whether it changes the catalogue, and so needs a proof and the leader.
    pub fn writes(&self) -> bool {
        matches!(self, Request::Stage { .. } | Request::Put { .. } | Request::Remove { .. })
    }
}

/// `addr` without the form that hides IPv4 in IPv6.
pub(super) fn canonical(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}
