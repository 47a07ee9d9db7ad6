//! The bytes of `/dft/catalogue/1`: arrays that begin with their kind.
//!
//! `Wire` decodes by kind, field by field, straight into checked types; that the array ends
//! where its fields do, and that the form is canonical, is shown by encoding the result again.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dft_protocol::id::{ManifestId, PeerId};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_bytes::{ByteBuf, Bytes};

use super::{
    BLOCK_LEN_MAX, Change, Changed, EPOCH_MAX, Hello, Holder, HolderList, MANY_MAX, REQUEST_LEN_MAX,
    RESPONSE_LEN_MAX, Record, Request, Response, canonical,
};
use crate::catalogue::name::{DatasetName, Pattern, fools_a_terminal};
use crate::catalogue::node::{
    CONTROL_ADDR_LEN_MAX, CONTROL_ADDRS_MAX, FoundNode, HostName, Label, NodeRecord,
};
use crate::codec::{Message, MessageError, decode_canonical, to_cbor};
use crate::protocol::{Reason, addrs_from_cbor, addrs_to_cbor, manifest_id_from_cbor};

impl Message for Request {
    const LEN_MAX: usize = REQUEST_LEN_MAX;

    fn encode(&self) -> Vec<u8> {
        match self {
            Request::Hello => to_cbor(&(0,)),
            Request::Prove { proof, epoch } => to_cbor(&(1, Bytes::new(proof), epoch)),
            Request::Stage { id, len, offset, bytes } => {
                to_cbor(&(2, id_bytes(id), len, offset, Bytes::new(bytes)))
            }
            Request::Put { name, id, manifest } => {
                to_cbor(&(3, name.as_str(), id_bytes(id), manifest.as_deref().map(Bytes::new)))
            }
            Request::Get { name, manifest } => to_cbor(&(4, name.as_str(), manifest)),
            Request::Block { id, offset } => to_cbor(&(5, id_bytes(id), offset)),
            Request::List { pattern, after } => {
                to_cbor(&(6, pattern.as_str(), after.as_ref().map(DatasetName::as_str)))
            }
            Request::Remove { name, id, forget } => to_cbor(&(7, name.as_str(), id_bytes(id), forget)),
            Request::AnnounceNode(record) => to_cbor(&(8, node_to_wire(record))),
            Request::LeaveNode => to_cbor(&(9,)),
            Request::Nodes { after } => to_cbor(&(10, after.as_ref().map(peer_bytes))),
            Request::Holders { id, after } => to_cbor(&(11, id_bytes(id), after.as_ref().map(peer_bytes))),
            Request::Changes { since } => to_cbor(&(12, since)),
            Request::ManyHolders(ids) => to_cbor(&(13, ids.iter().map(id_bytes).collect::<Vec<_>>())),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        decode_canonical::<Self, Wire<Self>>(bytes)
    }
}

impl Message for Response {
    const LEN_MAX: usize = RESPONSE_LEN_MAX;

    fn encode(&self) -> Vec<u8> {
        match self {
            Response::Hello(hello) => to_cbor(&(
                0,
                Bytes::new(&hello.catalogue),
                hello.epoch,
                hello.sequence,
                hello.leads,
                hello.open,
                Bytes::new(&hello.nonce),
            )),
            Response::Done => to_cbor(&(1,)),
            Response::Refused(reason) => to_cbor(&(2, reason.as_str())),
            Response::Unproven => to_cbor(&(3,)),
            Response::NotLeader(leader) => to_cbor(&(4, leader)),
            Response::Taken { id, removed } => to_cbor(&(5, id_bytes(id), removed)),
            Response::Wanted => to_cbor(&(6,)),
            Response::Stored { created } => to_cbor(&(7, created)),
            Response::Found { record, len, block } => {
                to_cbor(&(8, record_to_wire(record), len, Bytes::new(block)))
            }
            Response::Missing => to_cbor(&(9,)),
            Response::Block(bytes) => to_cbor(&(10, Bytes::new(bytes))),
            Response::Records { records, next } => to_cbor(&(
                11,
                records.iter().map(record_to_wire).collect::<Vec<_>>(),
                next.as_ref().map(DatasetName::as_str),
            )),
            Response::Removed { removed } => to_cbor(&(12, removed)),
            Response::Nodes { nodes, more } => {
                to_cbor(&(13, nodes.iter().map(found_to_wire).collect::<Vec<_>>(), more))
            }
            Response::Holders { holders, next } => to_cbor(&(
                14,
                holders.iter().map(holder_to_wire).collect::<Vec<_>>(),
                next.as_ref().map(peer_bytes),
            )),
            Response::Changes { too_old, changes, sequence } => {
                to_cbor(&(15, too_old, changes.iter().map(change_to_wire).collect::<Vec<_>>(), sequence))
            }
            Response::ManyHolders(lists) => {
                to_cbor(&(16, lists.iter().map(holder_list_to_wire).collect::<Vec<_>>()))
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        decode_canonical::<Self, Wire<Self>>(bytes)
    }
}

/// How many bytes `value` takes in a page.
pub fn wire_len(value: &impl WireLen) -> usize {
    value.wire_len()
}

/// What may be an entry of a page.
pub trait WireLen {
    /// How many bytes it takes.
    fn wire_len(&self) -> usize;
}

impl WireLen for Record {
    fn wire_len(&self) -> usize {
        // Heads and numbers take less than what is added.
        self.name.as_str().len() + self.owner.as_bytes().len() + 96
    }
}

impl WireLen for FoundNode {
    fn wire_len(&self) -> usize {
        to_cbor(&found_to_wire(self)).len()
    }
}

impl WireLen for Change {
    fn wire_len(&self) -> usize {
        32 + match &self.what {
            Changed::Put(record) | Changed::Removed(record) => record.wire_len(),
            Changed::Forgotten(name) => name.as_str().len(),
        }
    }
}

/// A message as it is read: the kind says which fields follow.
struct Wire<T>(T);

trait FromFields: Sized {
    fn from_fields<'de, A: SeqAccess<'de>>(kind: u8, fields: Fields<'de, A>) -> Result<Self, A::Error>;
}

impl TryFrom<Wire<Request>> for Request {
    type Error = MessageError;

    fn try_from(wire: Wire<Request>) -> Result<Self, MessageError> {
        Ok(wire.0)
    }
}

impl TryFrom<Wire<Response>> for Response {
    type Error = MessageError;

    fn try_from(wire: Wire<Response>) -> Result<Self, MessageError> {
        Ok(wire.0)
    }
}

impl<'de, T: FromFields> Deserialize<'de> for Wire<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByKind<T>(PhantomData<T>);
        impl<'de, T: FromFields> Visitor<'de> for ByKind<T> {
            type Value = Wire<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array that begins with its kind")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Wire<T>, A::Error> {
                let mut fields = Fields(seq, PhantomData);
                let kind = fields.next()?;
                T::from_fields(kind, fields).map(Wire)
            }
        }
        deserializer.deserialize_seq(ByKind(PhantomData))
    }
}

/// The fields of a message, one after the other.
struct Fields<'de, A>(A, PhantomData<&'de ()>);

impl<'de, A: SeqAccess<'de>> Fields<'de, A> {
    fn next<T: Deserialize<'de>>(&mut self) -> Result<T, A::Error> {
        self.0.next_element()?.ok_or_else(|| A::Error::custom("a field is missing"))
    }

    /// A field that is read as `W` and checked.
    fn checked<W: Deserialize<'de>, T>(
        &mut self,
        check: impl FnOnce(W) -> Result<T, MessageError>,
    ) -> Result<T, A::Error> {
        let wire = self.next()?;
        check(wire).map_err(A::Error::custom)
    }

    fn id(&mut self) -> Result<ManifestId, A::Error> {
        self.checked(|bytes: ByteBuf| manifest_id_from_cbor(&bytes))
    }

    fn many_ids(&mut self) -> Result<Vec<ManifestId>, A::Error> {
        self.checked(|wires: Vec<ByteBuf>| {
            if wires.len() > MANY_MAX {
                return Err(MessageError::Invalid("too many datasets"));
            }
            wires.iter().map(|bytes| manifest_id_from_cbor(bytes)).collect()
        })
    }

    fn name(&mut self) -> Result<DatasetName, A::Error> {
        self.checked(|text: String| name_from_wire(&text))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], A::Error> {
        self.checked(|bytes: ByteBuf| {
            <[u8; N]>::try_from(bytes.as_slice()).map_err(|_| MessageError::Invalid("a length is wrong"))
        })
    }

    fn block(&mut self) -> Result<Vec<u8>, A::Error> {
        self.checked(|bytes: ByteBuf| block_from_wire(bytes))
    }

    fn epoch(&mut self) -> Result<u64, A::Error> {
        self.checked(|epoch: u64| {
            (epoch <= EPOCH_MAX).then_some(epoch).ok_or(MessageError::Invalid("an epoch is too high"))
        })
    }

    fn peer_or_none(&mut self) -> Result<Option<PeerId>, A::Error> {
        self.checked(|bytes: Option<ByteBuf>| bytes.map(|bytes| peer_from_wire(&bytes)).transpose())
    }

    fn name_or_none(&mut self) -> Result<Option<DatasetName>, A::Error> {
        self.checked(|text: Option<String>| text.map(|text| name_from_wire(&text)).transpose())
    }

    fn list<W: Deserialize<'de>, T>(
        &mut self,
        check: impl Fn(W) -> Result<T, MessageError>,
    ) -> Result<Vec<T>, A::Error> {
        self.checked(|wires: Vec<W>| wires.into_iter().map(check).collect())
    }
}

impl FromFields for Request {
    fn from_fields<'de, A: SeqAccess<'de>>(kind: u8, mut of: Fields<'de, A>) -> Result<Self, A::Error> {
        Ok(match kind {
            0 => Request::Hello,
            1 => Request::Prove { proof: of.bytes()?, epoch: of.epoch()? },
            2 => Request::Stage { id: of.id()?, len: of.next()?, offset: of.next()?, bytes: of.block()? },
            3 => Request::Put {
                name: of.name()?,
                id: of.id()?,
                manifest: of.checked(|bytes: Option<ByteBuf>| bytes.map(block_from_wire).transpose())?,
            },
            4 => Request::Get { name: of.name()?, manifest: of.next()? },
            5 => Request::Block { id: of.id()?, offset: of.next()? },
            6 => Request::List {
                pattern: of.checked(|text: String| {
                    Pattern::new(&text).map_err(|_| MessageError::Invalid("not a pattern"))
                })?,
                after: of.name_or_none()?,
            },
            7 => Request::Remove { name: of.name()?, id: of.id()?, forget: of.next()? },
            8 => Request::AnnounceNode(Box::new(of.checked(node_from_wire)?)),
            9 => Request::LeaveNode,
            10 => Request::Nodes { after: of.peer_or_none()? },
            11 => Request::Holders { id: of.id()?, after: of.peer_or_none()? },
            12 => Request::Changes { since: of.next()? },
            13 => Request::ManyHolders(of.many_ids()?),
            _ => return Err(A::Error::custom("a request of no known kind")),
        })
    }
}

impl FromFields for Response {
    fn from_fields<'de, A: SeqAccess<'de>>(kind: u8, mut of: Fields<'de, A>) -> Result<Self, A::Error> {
        Ok(match kind {
            0 => Response::Hello(Hello {
                catalogue: of.bytes()?,
                epoch: of.epoch()?,
                sequence: of.next()?,
                leads: of.next()?,
                open: of.next()?,
                nonce: of.bytes()?,
            }),
            1 => Response::Done,
            2 => Response::Refused(of.checked(|text: String| Ok(Reason::new(&text)))?),
            3 => Response::Unproven,
            4 => Response::NotLeader(of.checked(|text: Option<String>| {
                let valid =
                    |text: &String| text.len() <= CONTROL_ADDR_LEN_MAX && !text.chars().any(fools_a_terminal);
                text.as_ref().is_none_or(valid).then_some(text).ok_or(MessageError::Invalid("not an address"))
            })?),
            5 => Response::Taken { id: of.id()?, removed: of.next()? },
            6 => Response::Wanted,
            7 => Response::Stored { created: of.next()? },
            8 => {
                Response::Found { record: of.checked(record_from_wire)?, len: of.next()?, block: of.block()? }
            }
            9 => Response::Missing,
            10 => Response::Block(of.block()?),
            11 => Response::Records { records: of.list(record_from_wire)?, next: of.name_or_none()? },
            12 => Response::Removed { removed: of.next()? },
            13 => Response::Nodes { nodes: of.list(found_from_wire)?, more: of.next()? },
            14 => Response::Holders { holders: of.list(holder_from_wire)?, next: of.peer_or_none()? },
            15 => Response::Changes {
                too_old: of.next()?,
                changes: of.list(change_from_wire)?,
                sequence: of.next()?,
            },
            16 => Response::ManyHolders(of.list(holder_list_from_wire)?),
            _ => return Err(A::Error::custom("a response of no known kind")),
        })
    }
}

// The parts of messages, as they are written, and back.

/// Name, manifest id, size, pieces, entries, created, owner; borrowed, because a list has many.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(in crate::catalogue) struct RecordWire<'a>(
    &'a str,
    #[serde(borrow)] &'a Bytes,
    u64,
    u32,
    u32,
    u64,
    #[serde(borrow)] &'a Bytes,
);

#[derive(Serialize, Deserialize)]
struct NodeWire(String, Vec<String>, Vec<ByteBuf>, u64, u64, u32, u64, u64, String);

#[derive(Serialize, Deserialize)]
struct FoundWire(ByteBuf, ByteBuf, NodeWire, u32);

#[derive(Serialize, Deserialize)]
struct HolderWire(ByteBuf, Vec<ByteBuf>, bool, Option<String>);

/// Sequence, kind, name, and for all but forgotten names what [`RecordWire`] has besides.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct ChangeWire<'a>(u64, u8, #[serde(borrow)] Option<RecordWire<'a>>, Option<&'a str>);

fn id_bytes(id: &ManifestId) -> &Bytes {
    Bytes::new(id.as_bytes())
}

fn peer_bytes(peer: &PeerId) -> ByteBuf {
    ByteBuf::from(peer.as_bytes())
}

fn name_from_wire(text: &str) -> Result<DatasetName, MessageError> {
    DatasetName::new(text).map_err(|_| MessageError::Invalid("a name of a dataset is not valid"))
}

fn peer_from_wire(bytes: &[u8]) -> Result<PeerId, MessageError> {
    PeerId::from_bytes(bytes).ok_or(MessageError::Invalid("a peer's id is empty or too long"))
}

fn block_from_wire(bytes: ByteBuf) -> Result<Vec<u8>, MessageError> {
    if bytes.len() > BLOCK_LEN_MAX {
        return Err(MessageError::Invalid("a block is too long"));
    }
    Ok(bytes.into_vec())
}

/// The last second of the year 9999: later ones have no written form (RFC 3339).
pub(in crate::catalogue) const CREATED_MAX: u64 = 253_402_300_799;

fn label_from_wire<const MAX: usize>(text: &str) -> Result<Label<MAX>, MessageError> {
    Label::new(text).ok_or(MessageError::Invalid("a line about a node is not valid"))
}

pub(in crate::catalogue) fn record_to_wire(record: &Record) -> RecordWire<'_> {
    RecordWire(
        record.name.as_str(),
        id_bytes(&record.id),
        record.size,
        record.pieces,
        record.entries,
        record.created,
        Bytes::new(record.owner.as_bytes()),
    )
}

pub(in crate::catalogue) fn record_from_wire(wire: RecordWire<'_>) -> Result<Record, MessageError> {
    let RecordWire(name, id, size, pieces, entries, created, owner) = wire;
    if created > CREATED_MAX {
        return Err(MessageError::Invalid("a record is from beyond the year 9999"));
    }
    Ok(Record {
        name: name_from_wire(name)?,
        id: manifest_id_from_cbor(id)?,
        size,
        pieces,
        entries,
        created,
        owner: peer_from_wire(owner)?,
    })
}

fn node_to_wire(node: &NodeRecord) -> NodeWire {
    NodeWire(
        node.host.as_str().to_owned(),
        node.control.iter().map(|addr| addr.as_str().to_owned()).collect(),
        addrs_to_cbor(&node.links),
        node.quota_bytes,
        node.used_bytes,
        node.datasets,
        node.up_rate,
        node.down_rate,
        node.version.as_str().to_owned(),
    )
}

fn node_from_wire(wire: NodeWire) -> Result<NodeRecord, MessageError> {
    let NodeWire(host, control, links, quota_bytes, used_bytes, datasets, up_rate, down_rate, version) = wire;
    if control.len() > CONTROL_ADDRS_MAX {
        return Err(MessageError::Invalid("too many control addresses"));
    }
    Ok(NodeRecord {
        host: label_from_wire(&host)?,
        control: control.iter().map(|addr| label_from_wire(addr)).collect::<Result<_, _>>()?,
        links: addrs_from_cbor(&links)?,
        quota_bytes,
        used_bytes,
        datasets,
        up_rate,
        down_rate,
        version: label_from_wire(&version)?,
    })
}

fn found_to_wire(found: &FoundNode) -> FoundWire {
    let observed = match canonical(found.observed) {
        IpAddr::V4(ip) => ByteBuf::from(ip.octets()),
        IpAddr::V6(ip) => ByteBuf::from(ip.octets()),
    };
    FoundWire(peer_bytes(&found.peer), observed, node_to_wire(&found.record), found.age_s)
}

fn found_from_wire(FoundWire(peer, observed, node, age_s): FoundWire) -> Result<FoundNode, MessageError> {
    let observed = if let Ok(octets) = <[u8; 4]>::try_from(observed.as_slice()) {
        IpAddr::V4(Ipv4Addr::from(octets))
    } else if let Ok(octets) = <[u8; 16]>::try_from(observed.as_slice()) {
        IpAddr::V6(Ipv6Addr::from(octets))
    } else {
        return Err(MessageError::Invalid("an IP address has 4 or 16 bytes"));
    };
    Ok(FoundNode { peer: peer_from_wire(&peer)?, observed, record: node_from_wire(node)?, age_s })
}

fn holder_to_wire(holder: &Holder) -> HolderWire {
    HolderWire(
        peer_bytes(&holder.peer),
        addrs_to_cbor(&holder.addrs),
        holder.complete,
        holder.host.as_ref().map(|host| host.as_str().to_owned()),
    )
}

fn holder_from_wire(HolderWire(peer, addrs, complete, host): HolderWire) -> Result<Holder, MessageError> {
    Ok(Holder {
        peer: peer_from_wire(&peer)?,
        addrs: addrs_from_cbor(&addrs)?,
        complete,
        host: host.map(|host| label_from_wire(&host)).transpose()? as Option<HostName>,
    })
}

fn holder_list_to_wire(list: &HolderList) -> (Vec<HolderWire>, bool) {
    (list.holders.iter().map(holder_to_wire).collect(), list.more)
}

fn holder_list_from_wire((holders, more): (Vec<HolderWire>, bool)) -> Result<HolderList, MessageError> {
    let holders = holders.into_iter().map(holder_from_wire).collect::<Result<_, _>>()?;
    Ok(HolderList { holders, more })
}

fn change_to_wire(change: &Change) -> ChangeWire<'_> {
    match &change.what {
        Changed::Put(record) => ChangeWire(change.sequence, 0, Some(record_to_wire(record)), None),
        Changed::Removed(record) => ChangeWire(change.sequence, 1, Some(record_to_wire(record)), None),
        Changed::Forgotten(name) => ChangeWire(change.sequence, 2, None, Some(name.as_str())),
    }
}

fn change_from_wire(wire: ChangeWire<'_>) -> Result<Change, MessageError> {
    let what = match wire {
        ChangeWire(_, 0, Some(record), None) => Changed::Put(record_from_wire(record)?),
        ChangeWire(_, 1, Some(record), None) => Changed::Removed(record_from_wire(record)?),
        ChangeWire(_, 2, None, Some(name)) => Changed::Forgotten(name_from_wire(name)?),
        _ => return Err(MessageError::Invalid("a change of no known kind")),
    };
    Ok(Change { sequence: wire.0, what })
}
