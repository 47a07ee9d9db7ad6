//! What a catalogue keeps on disk, in one redb file: names, manifests, and who it is.
//!
//! Invariants: what [`Store::commit`] returned for is on disk, all of it or none. A file that is
//! damaged stays where it is and is an error: a catalogue that started empty would give names
//! away that are taken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use dft_protocol::id::{DIGEST_LEN, ManifestId};
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::index::{Row, State};
use super::name::DatasetName;
use super::protocol::wire::{RecordWire, record_from_wire, record_to_wire};
use super::protocol::{BLOCK_LEN_MAX, CatalogueId, EPOCH_MAX};
use super::token::random_bytes;
use crate::codec::to_cbor;
use crate::store::StoreError;

/// Memory for redb's cache, in bytes: rows are in the index, and manifests are read in blocks.
const CACHE_BYTES: usize = 8 << 20;
const NAMES: TableDefinition<&str, &[u8]> = TableDefinition::new("names");
// The id, then the number of the block, big-endian.
const BLOCKS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("blocks");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const META_KEY: &str = "catalogue";

/// Who takes writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// This tracker.
    Leader,
    /// Another one, at this address where it is known.
    Follower(Option<String>),
}

/// What a catalogue knows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The same for all copies.
    pub catalogue: CatalogueId,
    /// How many promotions there were, as far as its content knows.
    pub epoch: u64,
    /// The highest epoch that it was told of.
    pub seen_epoch: u64,
    /// Who takes writes.
    pub role: Role,
    /// The number of its last step.
    pub sequence: u64,
    /// Steps up to this number may have been forgotten.
    pub horizon: u64,
    /// How far a follower has copied, and from which epoch.
    pub copied: Option<(u64, u64)>,
    /// Whom a promoted follower followed: it is told, until it knows.
    pub former: Option<String>,
}

impl Meta {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            catalogue: random_bytes()?,
            epoch: 1,
            seen_epoch: 1,
            role: Role::Leader,
            sequence: 0,
            horizon: 0,
            copied: None,
            former: None,
        })
    }
}

/// One change of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// Write or replace a row.
    Row(Row),
    /// Remove what is known of a name.
    Drop(DatasetName),
    /// Keep a manifest.
    Manifest(ManifestId, Vec<u8>),
    /// Remove a manifest of this length.
    DropManifest(ManifestId, u32),
    /// Replace what the catalogue knows of itself.
    Meta(Meta),
}

/// What a file holds, without the manifests.
#[derive(Debug)]
pub struct Content {
    /// Who it is.
    pub meta: Meta,
    /// Its names.
    pub rows: Vec<Row>,
}

/// A name and what is known of it, as bytes.
type RawRow = (Box<str>, Vec<u8>);

/// The open file.
pub struct Store {
    path: PathBuf,
    database: Database,
}

impl Store {
    /// Opens the file at `path`, or makes an empty one, checks all of it, and returns its rows.
    pub fn open(path: &Path) -> Result<(Self, Content), StoreError> {
        let load = || Self::load(path);
        // Should a file that was written over break an assertion of redb, that is damage too.
        catch_unwind(AssertUnwindSafe(load))
            .unwrap_or_else(|_| Err("its structure is broken".into()))
            .map_err(|reason| StoreError { path: path.to_owned(), reason })
    }

    /// Makes the changes, all or none. They are on disk when this returns.
    pub fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        let commit = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            for write in writes {
                apply(&transaction, write)?;
            }
            transaction.commit()?;
            Ok(())
        };
        commit().map_err(|error| self.error(&error))
    }

    /// Block `number` of the manifest `id`; empty where there is none.
    pub fn block(&self, id: ManifestId, number: u32) -> Result<Vec<u8>, StoreError> {
        let read = || -> Result<Vec<u8>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(BLOCKS)?;
            let block = table.get(block_key(id, number).as_slice())?;
            Ok(block.map_or_else(Vec::new, |block| block.value().to_vec()))
        };
        read().map_err(|error| self.error(&error))
    }

    fn error(&self, error: &redb::Error) -> StoreError {
        StoreError { path: self.path.clone(), reason: error.to_string() }
    }

    fn load(path: &Path) -> Result<(Self, Content), String> {
        let text = |error: redb::Error| error.to_string();
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create(path)
            .map_err(|error| error.to_string())?;
        let open = || -> Result<(Vec<RawRow>, Option<Vec<u8>>), redb::Error> {
            let transaction = database.begin_write()?;
            let (rows, meta) = {
                transaction.open_table(BLOCKS)?;
                let names = transaction.open_table(NAMES)?;
                let mut rows = Vec::new();
                for row in names.iter()? {
                    let (name, value) = row?;
                    rows.push((name.value().into(), value.value().to_vec()));
                }
                let meta = transaction.open_table(META)?;
                let meta = meta.get(META_KEY)?.map(|value| value.value().to_vec());
                (rows, meta)
            };
            transaction.commit()?;
            Ok((rows, meta))
        };
        let (rows, meta) = open().map_err(text)?;
        let rows = rows
            .into_iter()
            .map(|(name, value)| row_from_bytes(&name, &value).ok_or("a name cannot be read"))
            .collect::<Result<Vec<_>, _>>()?;
        let store = Self { path: path.to_owned(), database };
        let meta = match meta {
            Some(bytes) => meta_from_bytes(&bytes).ok_or("what it knows of itself cannot be read")?,
            None if rows.is_empty() => {
                let meta = Meta::new().map_err(|error| error.to_string())?;
                store.commit(&[Write::Meta(meta.clone())]).map_err(|error| error.reason)?;
                meta
            }
            None => return Err("it does not know which catalogue it is".into()),
        };
        Ok((store, Content { meta, rows }))
    }
}

fn apply(transaction: &WriteTransaction, write: &Write) -> Result<(), redb::Error> {
    match write {
        Write::Row(row) => {
            let mut names = transaction.open_table(NAMES)?;
            names.insert(row.record.name.as_str(), row_to_bytes(row).as_slice())?;
        }
        Write::Drop(name) => {
            transaction.open_table(NAMES)?.remove(name.as_str())?;
        }
        Write::Manifest(id, bytes) => {
            let mut blocks = transaction.open_table(BLOCKS)?;
            for (number, block) in (0..).zip(bytes.chunks(BLOCK_LEN_MAX)) {
                blocks.insert(block_key(*id, number).as_slice(), block)?;
            }
        }
        Write::DropManifest(id, len) => {
            let mut blocks = transaction.open_table(BLOCKS)?;
            for number in 0..block_count(*len) {
                blocks.remove(block_key(*id, number).as_slice())?;
            }
        }
        Write::Meta(meta) => {
            transaction.open_table(META)?.insert(META_KEY, meta_to_bytes(meta).as_slice())?;
        }
    }
    Ok(())
}

/// How many blocks a manifest of `len` bytes has.
fn block_count(len: u32) -> u32 {
    // Lossless: it is less than `len`.
    (u64::from(len).div_ceil(BLOCK_LEN_MAX as u64)).try_into().unwrap_or(u32::MAX)
}

fn block_key(id: ManifestId, number: u32) -> [u8; DIGEST_LEN + 4] {
    let mut key = [0; DIGEST_LEN + 4];
    key[..DIGEST_LEN].copy_from_slice(id.as_bytes());
    key[DIGEST_LEN..].copy_from_slice(&number.to_be_bytes());
    key
}

/// State, sequence, length of the manifest, record.
#[derive(Serialize, Deserialize)]
struct RowCbor<'a>(u8, u64, u32, #[serde(borrow)] RecordWire<'a>);

/// Catalogue, epoch, highest epoch seen, whether it follows, whom, sequence, horizon, epoch and
/// step copied, former leader.
#[derive(Serialize, Deserialize)]
struct MetaCbor(ByteBuf, u64, u64, bool, Option<String>, u64, u64, Option<(u64, u64)>, Option<String>);

fn row_to_bytes(row: &Row) -> Vec<u8> {
    let state = match row.state {
        State::Live => 0,
        State::Removed => 1,
        State::Forgotten => 2,
    };
    to_cbor(&RowCbor(state, row.sequence, row.manifest_len, record_to_wire(&row.record)))
}

fn row_from_bytes(name: &str, bytes: &[u8]) -> Option<Row> {
    let RowCbor(state, sequence, manifest_len, record) = serde_cbor::from_slice(bytes).ok()?;
    let record = record_from_wire(record).ok()?;
    let state = *[State::Live, State::Removed, State::Forgotten].get(usize::from(state))?;
    (record.name.as_str() == name).then_some(Row { record, state, sequence, manifest_len })
}

fn meta_to_bytes(meta: &Meta) -> Vec<u8> {
    let (follows, leader) = match &meta.role {
        Role::Leader => (false, None),
        Role::Follower(leader) => (true, leader.clone()),
    };
    to_cbor(&MetaCbor(
        ByteBuf::from(meta.catalogue),
        meta.epoch,
        meta.seen_epoch,
        follows,
        leader,
        meta.sequence,
        meta.horizon,
        meta.copied,
        meta.former.clone(),
    ))
}

fn meta_from_bytes(bytes: &[u8]) -> Option<Meta> {
    let MetaCbor(catalogue, epoch, seen_epoch, follows, leader, sequence, horizon, copied, former) =
        serde_cbor::from_slice(bytes).ok()?;
    let role = if follows { Role::Follower(leader) } else { Role::Leader };
    let catalogue = CatalogueId::try_from(catalogue.as_slice()).ok()?;
    (epoch <= EPOCH_MAX && seen_epoch <= EPOCH_MAX).then_some(Meta {
        catalogue,
        epoch,
        seen_epoch,
        role,
        sequence,
        horizon,
        copied,
        former,
    })
}
