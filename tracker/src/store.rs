//! What a tracker remembers over a restart, in redb tables: manifest and peer to record, and the shelves.
//!
//! Invariant: what [`Store::commit`] returned for is on disk. A file that is damaged is moved
//! aside and never trusted in part; a tracker that starts empty is whole again after one
//! announce interval.

use std::fs;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dft_protocol::id::{DIGEST_LEN, ManifestId, PeerId};
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use thiserror::Error;

use crate::codec::to_cbor;
use crate::protocol::{addrs_from_cbor, addrs_to_cbor, site_from_cbor, site_to_cbor};
use crate::registry::Record;

/// Memory for redb's cache, in bytes: the table of a busy tracker is a few MiB, and a seeder
/// embeds this.
const CACHE_BYTES: usize = 4 << 20;
/// Most damaged files that are kept aside under a number; the oldest name is reused after that,
/// so that a failing disk doesn't fill itself.
const DAMAGED_KEPT_MAX: u32 = 8;
const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
/// What holds for all on a peer's shelf, by peer.
const SHELVES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("shelves");
/// What is on shelves: peer and manifest.
const SHELVED: TableDefinition<&[u8], ()> = TableDefinition::new("shelved");

/// Why the store cannot be used.
#[derive(Debug, Error)]
#[error("{}: {reason}", .path.display())]
pub struct StoreError {
    /// The database file.
    pub path: PathBuf,
    /// What happened to it.
    pub reason: String,
}

/// A damaged database, moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Where it lies.
    pub moved_to: PathBuf,
    /// What was wrong with it.
    pub reason: String,
}

/// A record as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// The dataset.
    pub manifest: ManifestId,
    /// Who announced it.
    pub peer: PeerId,
    /// What it announced.
    pub record: Record,
    /// When the record expires, by the wall clock.
    pub expires: SystemTime,
}

/// One change of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Write or replace a record.
    Put(StoredRecord),
    /// Remove a record.
    Remove(ManifestId, PeerId),
    /// Change a shelf.
    Shelve(StoredShelf),
    /// Remove a shelf.
    ClearShelf(PeerId),
    /// Remove every shelf.
    ClearShelves,
}

/// A shelf as it was stored, or what comes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredShelf {
    /// Whose it is.
    pub peer: PeerId,
    /// What holds for all on it.
    pub record: Record,
    /// What comes to it.
    pub added: Vec<ManifestId>,
    /// What goes.
    pub removed: Vec<ManifestId>,
}

/// The open database.
pub struct Store {
    path: PathBuf,
    database: Database,
}

impl Store {
    /// Opens the database at `path`, or makes an empty one, and returns what it holds. A damaged
    /// file is moved aside first.
    pub fn open(path: &Path) -> Result<(Self, Vec<StoredRecord>, Option<Damaged>), StoreError> {
        let reason = match Self::load(path) {
            Ok((store, records)) => return Ok((store, records, None)),
            Err(Failure::Disk(reason)) => return Err(StoreError { path: path.to_owned(), reason }),
            Err(Failure::Damaged(reason)) => reason,
        };
        let moved_to = move_aside(path)?;
        match Self::load(path) {
            Ok((store, records)) => Ok((store, records, Some(Damaged { moved_to, reason }))),
            Err(Failure::Disk(reason) | Failure::Damaged(reason)) => {
                Err(StoreError { path: path.to_owned(), reason })
            }
        }
    }

    /// Makes the changes, all or none. They are on disk when this returns.
    pub fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let commit = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(RECORDS)?;
                let mut shelves = Shelves {
                    records: transaction.open_table(SHELVES)?,
                    shelved: transaction.open_table(SHELVED)?,
                };
                for change in changes {
                    match change {
                        Change::Put(record) => {
                            let key = key_of(record.manifest, record.peer);
                            table.insert(key.as_slice(), to_cbor(&RecordCbor::from(record)).as_slice())?;
                        }
                        Change::Remove(manifest, peer) => {
                            table.remove(key_of(*manifest, *peer).as_slice())?;
                        }
                        Change::Shelve(shelf) => shelves.change(shelf)?,
                        Change::ClearShelf(peer) => shelves.clear(*peer)?,
                        Change::ClearShelves => {
                            shelves.records.retain(|_, _| false)?;
                            shelves.shelved.retain(|_, ()| false)?;
                        }
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        };
        commit().map_err(|error| StoreError { path: self.path.clone(), reason: error.to_string() })
    }

    /// Opens, checks every page's checksum and reads everything. Should a
    /// file that was written over still break an assertion of redb, that is damage too.
    fn load(path: &Path) -> Result<(Self, Vec<StoredRecord>), Failure> {
        let load = || -> Result<(Self, Vec<StoredRecord>), Failure> {
            let database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create(path)
                .map_err(failure_of_open)?;
            let transaction = database.begin_write().map_err(failure)?;
            let mut records = Vec::new();
            {
                let table = transaction.open_table(RECORDS).map_err(failure)?;
                for row in table.iter().map_err(failure)? {
                    let (key, value) = row.map_err(failure)?;
                    let record = decode_row(key.value(), value.value())
                        .ok_or_else(|| Failure::Damaged("a record cannot be read".into()))?;
                    records.push(record);
                }
            }
            transaction.commit().map_err(failure)?;
            Ok((Self { path: path.to_owned(), database }, records))
        };
        catch_unwind(AssertUnwindSafe(load))
            .unwrap_or_else(|_| Err(Failure::Damaged("its structure is broken".into())))
    }

    /// The shelves; what of them cannot be read is left out, for their nodes tell of it anew.
    pub fn shelves(&self) -> Result<Vec<StoredShelf>, StoreError> {
        let read = || -> Result<Vec<StoredShelf>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let mut shelves = Vec::new();
            let records = match transaction.open_table(SHELVES) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(shelves),
                records => records?,
            };
            let shelved = transaction.open_table(SHELVED)?;
            for row in records.iter()? {
                let (key, value) = row?;
                let Some(peer) = PeerId::from_bytes(key.value()) else { continue };
                let Some((record, _)) = decode_record(value.value()) else { continue };
                let mut added = Vec::new();
                for row in shelved.range::<&[u8]>(shelf_range(peer).as_slices())? {
                    let key = row?.0;
                    let id = key.value().split_last_chunk::<DIGEST_LEN>();
                    added.extend(id.map(|(_, id)| ManifestId::from_bytes(*id)));
                }
                shelves.push(StoredShelf { peer, record, added, removed: Vec::new() });
            }
            Ok(shelves)
        };
        read().map_err(|error| StoreError { path: self.path.clone(), reason: error.to_string() })
    }

    /// How many records the table holds.
    pub fn record_count(&self) -> Result<usize, StoreError> {
        let count = || -> Result<usize, redb::Error> {
            let transaction = self.database.begin_read()?;
            Ok(transaction.open_table(RECORDS)?.iter()?.count())
        };
        count().map_err(|error| StoreError { path: self.path.clone(), reason: error.to_string() })
    }
}

/// The tables of shelves, in a transaction.
struct Shelves<'a> {
    records: redb::Table<'a, &'static [u8], &'static [u8]>,
    shelved: redb::Table<'a, &'static [u8], ()>,
}

impl Shelves<'_> {
    fn change(&mut self, shelf: &StoredShelf) -> Result<(), redb::Error> {
        let record = to_cbor(&RecordCbor::new(&shelf.record, 0));
        self.records.insert(shelf.peer.as_bytes(), record.as_slice())?;
        for manifest in &shelf.removed {
            self.shelved.remove(shelved_key(shelf.peer, *manifest).as_slice())?;
        }
        for manifest in &shelf.added {
            self.shelved.insert(shelved_key(shelf.peer, *manifest).as_slice(), ())?;
        }
        Ok(())
    }

    fn clear(&mut self, peer: PeerId) -> Result<(), redb::Error> {
        self.records.remove(peer.as_bytes())?;
        self.shelved.retain_in::<&[u8], _>(shelf_range(peer).as_slices(), |_, ()| false)?;
        Ok(())
    }
}

/// The first and the last key that one shelf can have. Its length comes first in a key, so that no id of
/// a peer begins another's.
struct ShelfRange {
    first: Vec<u8>,
    last: Vec<u8>,
}

impl ShelfRange {
    fn as_slices(&self) -> std::ops::RangeInclusive<&[u8]> {
        &self.first[..]..=&self.last[..]
    }
}

fn shelf_range(peer: PeerId) -> ShelfRange {
    let of = |byte| shelved_key(peer, ManifestId::from_bytes([byte; DIGEST_LEN]));
    ShelfRange { first: of(0), last: of(u8::MAX) }
}

fn shelved_key(peer: PeerId, manifest: ManifestId) -> Vec<u8> {
    let len = u8::try_from(peer.as_bytes().len()).expect("an id of a peer has at most 64 bytes");
    [&[len], peer.as_bytes(), manifest.as_bytes().as_slice()].concat()
}

enum Failure {
    /// The disk refuses: another file would not help.
    Disk(String),
    /// The content is not what was written.
    Damaged(String),
}

fn failure_of_open(error: DatabaseError) -> Failure {
    match error {
        DatabaseError::Storage(StorageError::Io(error))
            if matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData
                    | std::io::ErrorKind::UnexpectedEof
                    | std::io::ErrorKind::InvalidInput
            ) =>
        {
            Failure::Damaged(error.to_string())
        }
        DatabaseError::UpgradeRequired(_)
        | DatabaseError::RepairAborted
        | DatabaseError::Storage(StorageError::Corrupted(_)) => Failure::Damaged(error.to_string()),
        error => Failure::Disk(error.to_string()),
    }
}

fn failure(error: impl Into<redb::Error>) -> Failure {
    match error.into() {
        error @ (redb::Error::Io(_) | redb::Error::PreviousIo) => Failure::Disk(error.to_string()),
        error => Failure::Damaged(error.to_string()),
    }
}

fn move_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let aside = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        PathBuf::from(name)
    };
    let target =
        (1..=DAMAGED_KEPT_MAX).map(aside).find(|target| !target.exists()).unwrap_or_else(|| aside(1));
    fs::rename(path, &target).map_err(|error| StoreError {
        path: path.to_owned(),
        reason: format!("cannot be moved aside: {error}"),
    })?;
    Ok(target)
}

fn key_of(manifest: ManifestId, peer: PeerId) -> Vec<u8> {
    [manifest.as_bytes(), peer.as_bytes()].concat()
}

fn decode_row(key: &[u8], value: &[u8]) -> Option<StoredRecord> {
    let (manifest, peer) = key.split_first_chunk::<DIGEST_LEN>()?;
    let (record, expires_ms) = decode_record(value)?;
    Some(StoredRecord {
        manifest: ManifestId::from_bytes(*manifest),
        peer: PeerId::from_bytes(peer)?,
        record,
        expires: UNIX_EPOCH.checked_add(Duration::from_millis(expires_ms))?,
    })
}

fn decode_record(value: &[u8]) -> Option<(Record, u64)> {
    let RecordCbor(observed, addrs, complete, site, expires_ms) = serde_cbor::from_slice(value).ok()?;
    let record = Record {
        observed: observed.parse().ok()?,
        addrs: addrs_from_cbor(&addrs).ok()?,
        complete,
        site: site_from_cbor(site).ok()?,
    };
    Some((record, expires_ms))
}

/// Observed address, link addresses, complete, site, expiry in milliseconds since 1970.
#[derive(Serialize, Deserialize)]
struct RecordCbor(String, Vec<ByteBuf>, bool, Option<String>, u64);

impl RecordCbor {
    fn new(record: &Record, expires_ms: u64) -> Self {
        let observed: IpAddr = record.observed;
        let (addrs, site) = (addrs_to_cbor(&record.addrs), site_to_cbor(record.site.as_ref()));
        Self(observed.to_string(), addrs, record.complete, site, expires_ms)
    }
}

impl From<&StoredRecord> for RecordCbor {
    fn from(stored: &StoredRecord) -> Self {
        let expires = stored.expires.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::new(&stored.record, u64::try_from(expires.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use dft_protocol::wire::Site;

    use super::*;
    use crate::registry::LinkAddrs;

    fn stored(number: u8) -> StoredRecord {
        let observed = IpAddr::from([10, 0, 0, number]);
        let claimed = SocketAddr::from(([10, 1, 0, number], 7));
        StoredRecord {
            manifest: ManifestId::from_bytes([number; 32]),
            peer: PeerId::from_bytes(&[number; 38]).expect("38 bytes"),
            record: Record {
                observed,
                addrs: LinkAddrs::of_announcement(observed, 7, &[claimed]),
                complete: number.is_multiple_of(2),
                site: Site::new("hall"),
            },
            expires: UNIX_EPOCH + Duration::from_secs(1_800_000_000 + u64::from(number)),
        }
    }

    fn open(path: &Path) -> (Store, Vec<StoredRecord>, Option<Damaged>) {
        Store::open(path).expect("the store opens")
    }

    #[test]
    fn what_was_committed_is_there_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tracker.redb");
        let (store, records, damaged) = open(&path);
        assert_eq!((records, damaged), (vec![], None));
        store
            .commit(&[Change::Put(stored(1)), Change::Put(stored(2)), Change::Put(stored(3))])
            .expect("commit");
        let newer = StoredRecord { expires: UNIX_EPOCH, ..stored(3) };
        let gone = stored(1);
        store
            .commit(&[Change::Remove(gone.manifest, gone.peer), Change::Put(newer.clone())])
            .expect("commit");
        drop(store);
        let (_, records, damaged) = open(&path);
        assert_eq!((records, damaged), (vec![stored(2), newer], None));
    }

    #[test]
    fn shelves_are_there_again_and_end_as_a_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tracker.redb");
        let (store, ..) = open(&path);
        assert_eq!(store.shelves().expect("it reads"), []);
        let id = |number: u8| ManifestId::from_bytes([number; 32]);
        // The id of one begins that of the other.
        let peers = [&[7; 4][..], &[7; 5]].map(|bytes| PeerId::from_bytes(bytes).expect("an id"));
        let shelf = |peer, added: &[u8]| StoredShelf {
            peer,
            record: stored(1).record,
            added: added.iter().map(|number| id(*number)).collect(),
            removed: Vec::new(),
        };
        let all = [0, 1, 200, 255];
        store.commit(&peers.map(|peer| Change::Shelve(shelf(peer, &all)))).expect("commit");
        let less = StoredShelf { removed: vec![id(1)], ..shelf(peers[0], &[3]) };
        store.commit(&[Change::Shelve(less)]).expect("commit");
        drop(store);
        let (store, ..) = open(&path);
        let both = [shelf(peers[0], &[0, 3, 200, 255]), shelf(peers[1], &all)];
        assert_eq!(store.shelves().expect("it reads"), both);
        store.commit(&[Change::ClearShelf(peers[0])]).expect("commit");
        assert_eq!(store.shelves().expect("it reads"), both[1..]);
        store.commit(&[Change::ClearShelves]).expect("commit");
        assert_eq!(store.shelves().expect("it reads"), []);
    }

    #[test]
    fn a_damaged_file_is_moved_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tracker.redb");
        let (store, ..) = open(&path);
        store
            .commit(&(1..=100).map(|number| Change::Put(stored(number))).collect::<Vec<_>>())
            .expect("commit");
        drop(store);
        let whole = fs::read(&path).expect("the file");
        let page = 4096;
        // How the file is damaged; an empty file is a new one.
        let damages: [(&str, Vec<u8>); 5] = [
            ("text", b"this is no database".repeat(1000)),
            ("cut", whole[..whole.len() / 2].to_vec()),
            ("cut in the header", whole[..100].to_vec()),
            ("header", [vec![0xff; 512], whole[512..].to_vec()].concat()),
            ("pages", [whole[..page].to_vec(), vec![0x5a; whole.len() - page]].concat()),
        ];
        for (number, (damage, content)) in damages.into_iter().enumerate() {
            fs::write(&path, &content).expect("write");
            let (store, records, damaged) = open(&path);
            assert_eq!(records, [], "{damage}");
            let moved_to = damaged.unwrap_or_else(|| panic!("{damage} was not noticed")).moved_to;
            assert_eq!(moved_to, directory.path().join(format!("tracker.redb.damaged-{}", number + 1)));
            assert!(
                fs::read(&moved_to).expect("the damaged file").len() >= content.len().min(512),
                "{damage}"
            );
            store.commit(&[Change::Put(stored(1))]).expect("commit");
        }
    }

    #[test]
    fn any_flipped_byte_is_noticed_or_harmless() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tracker.redb");
        let (store, ..) = open(&path);
        let all: Vec<StoredRecord> = (1..=20).map(stored).collect();
        store.commit(&all.iter().cloned().map(Change::Put).collect::<Vec<_>>()).expect("commit");
        drop(store);
        let whole = fs::read(&path).expect("the file");
        for offset in (0..whole.len()).step_by(whole.len() / 97) {
            let mut flipped = whole.clone();
            flipped[offset] ^= 0x40;
            fs::write(&path, &flipped).expect("write");
            let (_, records, damaged) = open(&path);
            assert!(records == all || damaged.is_some(), "byte {offset}: {} records", records.len());
        }
    }

    #[test]
    fn a_path_that_cannot_be_used_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = Store::open(directory.path()).err().expect("a directory is no file");
        assert_eq!(error.path, directory.path());
        assert!(directory.path().exists(), "it stays where it was");
    }
}
