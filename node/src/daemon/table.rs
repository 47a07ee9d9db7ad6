//! What this node holds, on disk: one directory per dataset with its manifest and its record.
//!
//! `datasets/ID/` holds `manifest.dft` and `record`, each written beside, synced and renamed; a
//! directory without a record is one that never came to be. What a record says of the data is a
//! hint: whoever opens the dataset looks at the data themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::Manifest;
use serde::{Deserialize, Serialize};

use super::holding::now_ms;
use super::rest::{self, AtRest};
use super::wire::WirePath;
use crate::cli::Compress;
use crate::failure::{Failure, Kind};
use crate::settings::{create_private_dir, write_atomically};

const MANIFEST: &str = "manifest.dft";
const RECORD: &str = "record";

/// Where the data of a dataset are.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// At these paths, which were put: read, never written to.
    Put(Vec<WirePath>),
    /// In this directory, under the manifest's name: fetched, or being fetched.
    Fetched(WirePath),
    /// In the store, under the manifest's name: the daemon's to remove.
    Stored,
}

/// What is remembered of a dataset.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The name under which it was put or fetched.
    pub name: String,
    /// Where its data are.
    pub place: Place,
    /// Whether all of it was here.
    pub complete: bool,
    /// Whether it was put here.
    pub origin: bool,
    /// When it was last asked for, in milliseconds since 1970.
    pub last_use_ms: u64,
    /// Until it is complete: whether it is to replace what has its name.
    #[serde(default)]
    pub force: bool,
    /// Held for a `dft seed` that runs, and for no longer.
    #[serde(default)]
    pub seeded: bool,
    /// Files that are no part of it, where they lie among those that were put: its manifest.
    #[serde(default)]
    pub exclude: Vec<WirePath>,
    /// Whether it is sent in compressed form; records of older builds say nothing of it.
    #[serde(default)]
    pub compress: Compress,
    /// Its bytes, where it may rest once it is complete; records of older builds say nothing of it.
    #[serde(default)]
    pub rest_bytes: Option<u64>,
}

impl Record {
    /// The record of a dataset that is to be fetched or copied to `place`, and is used at this moment.
    pub fn new(name: &str, place: Place) -> Self {
        Self {
            name: name.to_owned(),
            place,
            complete: false,
            origin: false,
            last_use_ms: now_ms(),
            force: false,
            seeded: false,
            exclude: Vec::new(),
            compress: Compress::default(),
            rest_bytes: None,
        }
    }

    /// The record of this dataset: whether it may rest is known.
    #[must_use]
    pub fn of(self, manifest: &Manifest) -> Self {
        // Of several paths side by side, it is looked at all of them when they are opened.
        let is_one = !matches!(&self.place, Place::Put(paths) if paths.len() > 1);
        Self { rest_bytes: rest::rest_bytes(manifest).filter(|_| is_one), ..self }
    }

    /// Its bytes, where it may rest.
    pub fn may_rest(&self) -> Option<u64> {
        self.rest_bytes.filter(|_| self.complete && !self.force && !self.seeded)
    }
}

/// What a table holds.
#[derive(Default)]
pub struct Loaded {
    /// What is complete and needs no opening.
    pub(super) at_rest: Vec<(ManifestId, AtRest)>,
    /// The rest.
    pub to_open: Vec<Remembered>,
    /// What cannot be read.
    pub problems: Vec<String>,
}

/// A dataset as it is remembered.
pub type Remembered = (Arc<Manifest>, Record);

/// The table.
pub struct Table {
    store: PathBuf,
}

impl Table {
    /// The table in a store.
    pub fn open(store: &Path) -> Result<Self, Failure> {
        refuse_foreign(store)?;
        create_private_dir(&store.join("datasets"))?;
        create_private_dir(&store.join("data"))?;
        let table = Self { store: store.to_owned() };
        table.remove_leftovers()?;
        Ok(table)
    }

    /// Removes copies that the table knows and has no record of: whoever made or removed them died in
    /// between. What the table knows nothing of may be worth much, for it may have lost it; nor is removed
    /// what cannot be looked at for a moment, or what is not named as a dataset.
    fn remove_leftovers(&self) -> Result<(), Failure> {
        for id in self.stored()? {
            if self.is_known(id) && matches!(self.has_record(id), Ok(false)) {
                // Where it cannot be removed, the next start tries again: no daemon would be worse.
                let _ = remove_tree(&self.data_directory(id));
            }
        }
        Ok(())
    }

    /// The datasets of which there are data in the store.
    fn stored(&self) -> Result<Vec<ManifestId>, Failure> {
        let directory = self.store.join("data");
        let failure = |error: std::io::Error| Failure::io("read", &directory, &error);
        let mut stored = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failure)? {
            let name = entry.map_err(failure)?.file_name();
            stored.extend(name.to_str().and_then(|name| name.parse::<ManifestId>().ok()));
        }
        Ok(stored)
    }

    /// Whether the table has a place for this dataset, with a record or without.
    fn is_known(&self, id: ManifestId) -> bool {
        self.directory(id).is_dir()
    }

    /// Whether there is a record of this dataset.
    pub fn has_record(&self, id: ManifestId) -> Result<bool, Failure> {
        let path = self.directory(id).join(RECORD);
        path.try_exists().map_err(|error| Failure::io("look at", &path, &error))
    }

    /// The directory of a dataset's manifest, record and hashes.
    pub fn directory(&self, id: ManifestId) -> PathBuf {
        self.store.join("datasets").join(id.to_string())
    }

    /// The directory that holds a dataset's data in the store.
    pub fn data_directory(&self, id: ManifestId) -> PathBuf {
        self.store.join("data").join(id.to_string())
    }

    /// The manifest and the record of a dataset; else what is wrong.
    pub fn read(&self, id: ManifestId) -> Result<Remembered, String> {
        let path = self.directory(id);
        let problem = |problem| format!("{}: {problem}", path.display());
        read(&path).map_err(problem)?.ok_or_else(|| problem("there is no record".to_owned()))
    }

    /// All datasets, for a start: of what may rest, the record alone is read. What cannot be read is told
    /// of and left alone.
    pub fn load(&self) -> Result<Loaded, Failure> {
        let directory = self.store.join("datasets");
        let failure = |error: std::io::Error| Failure::io("read", &directory, &error);
        let mut loaded = Loaded::default();
        for entry in std::fs::read_dir(&directory).map_err(failure)? {
            let path = entry.map_err(failure)?.path();
            let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            let record = read_record(&path).ok().flatten();
            let bytes = record.as_ref().and_then(Record::may_rest);
            if let (Some(id), Some(record), Some(bytes)) = (id, record, bytes) {
                loaded.at_rest.push((id, AtRest::new(&record, bytes)));
                continue;
            }
            match read(&path) {
                Ok(Some(dataset)) => loaded.to_open.push(dataset),
                Ok(None) => {}
                Err(problem) => loaded.problems.push(format!("{}: {problem}", path.display())),
            }
        }
        for id in self.stored()?.into_iter().filter(|id| !self.is_known(*id)) {
            let data = self.data_directory(id);
            let text =
                format!("{}: nothing tells what it is; remove it, or put what is in it", data.display());
            loaded.problems.push(text);
        }
        Ok(loaded)
    }

    /// A place in the table for a dataset whose data are about to be written: without a record, a start removes
    /// them. Durable when it returns.
    pub fn begin(&self, id: ManifestId) -> Result<(), Failure> {
        create_private_dir(&self.directory(id))?;
        sync(&self.store.join("datasets"))
    }

    /// Remembers a dataset; durable when it returns.
    pub fn insert(&self, manifest: &Manifest, record: &Record) -> Result<(), Failure> {
        let directory = self.directory(manifest.id());
        create_private_dir(&directory)?;
        let path = directory.join(MANIFEST);
        if !path.exists() {
            write_atomically(&path, &manifest.encode(), 0o600)?;
        }
        self.update(manifest.id(), &record.clone().of(manifest))?;
        sync(&self.store.join("datasets"))
    }

    /// Changes what is remembered of a dataset; durable when it returns.
    pub fn update(&self, id: ManifestId, record: &Record) -> Result<(), Failure> {
        let bytes = serde_cbor::to_vec(record);
        let bytes =
            bytes.map_err(|error| Failure::new(Kind::Other, format!("cannot encode a record: {error}")))?;
        write_atomically(&self.directory(id).join(RECORD), &bytes, 0o600)
    }

    /// Removes the data of a dataset from the store; its record stays.
    pub fn remove_data(&self, id: ManifestId) -> Result<(), Failure> {
        remove_tree(&self.data_directory(id))
    }

    /// Forgets a dataset, and removes its data where they are in the store.
    pub fn remove(&self, id: ManifestId) -> Result<(), Failure> {
        let directory = self.directory(id);
        // The record first: without it, the rest is nothing.
        remove_file(&directory.join(RECORD))?;
        sync(&directory)?;
        remove_tree(&self.data_directory(id))?;
        remove_tree(&directory)
    }
}

/// A directory with something in it that is no store: the user's own, most likely.
fn refuse_foreign(store: &Path) -> Result<(), Failure> {
    let failure = |error: std::io::Error| Failure::io("read", store, &error);
    if store.join("datasets").try_exists().map_err(failure)? {
        return Ok(());
    }
    let entries = match std::fs::read_dir(store) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failure(error)),
    };
    for entry in entries {
        let name = entry.map_err(failure)?.file_name();
        // The lock is there before anything else; a disk of its own comes with the other.
        if name != super::places::STORE_LOCK && name != "lost+found" {
            let message = format!("{} is no store of dft, and not empty", store.display());
            return Err(Failure::new(Kind::Usage, message).hint("name a new directory: --store DIR"));
        }
    }
    Ok(())
}

fn read_record(directory: &Path) -> Result<Option<Record>, String> {
    match std::fs::read(directory.join(RECORD)) {
        Ok(bytes) => serde_cbor::from_slice(&bytes).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn read(directory: &Path) -> Result<Option<Remembered>, String> {
    let Some(record) = read_record(directory)? else { return Ok(None) };
    let bytes = std::fs::read(directory.join(MANIFEST)).map_err(|error| error.to_string())?;
    let manifest = Manifest::decode(&bytes).map_err(|error| error.to_string())?;
    let named = directory.file_name().is_some_and(|name| *name == *manifest.id().to_string());
    if named { Ok(Some((Arc::new(manifest), record))) } else { Err("it holds another manifest".into()) }
}

fn sync(directory: &Path) -> Result<(), Failure> {
    let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Failure::io("sync", directory, &error))
}

fn remove_file(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::io("remove", path, &error))
        }
        _ => Ok(()),
    }
}

/// Datasets may have directories that are closed to their owner: they are opened first.
pub(super) fn remove_tree(path: &Path) -> Result<(), Failure> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io("look at", path, &error)),
        Ok(metadata) if metadata.is_dir() => open_directories(path),
        Ok(_) => {}
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::io("remove", path, &error))
        }
        _ => Ok(()),
    }
}

fn open_directories(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_directories(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use dft_protocol::geometry::PieceSize;
    use dft_protocol::id::PieceHash;
    use dft_protocol::manifest::{Entry, Hints, Info, Mtime};
    use dft_protocol::path::{Name, SafePath};

    use super::*;

    fn manifest() -> Manifest {
        let file = Entry::File {
            path: SafePath::root(),
            size: 1,
            mode: 0o644,
            mtime: Mtime { seconds: 0, nanoseconds: 0 },
        };
        let info = Info {
            name: Name::new("a").expect("a name"),
            piece_size: PieceSize::new(4096).expect("a size"),
            entries: vec![file],
            packs: vec![1],
            hashes: vec![PieceHash::from_bytes([1; 32])],
        };
        Manifest::new(info, Hints::default()).expect("it is valid")
    }

    fn record() -> Record {
        let path = WirePath::from(Path::new("/a"));
        Record {
            name: "a".into(),
            place: Place::Put(vec![path]),
            complete: true,
            origin: true,
            last_use_ms: 7,
            force: false,
            seeded: false,
            exclude: Vec::new(),
            compress: Compress::Off,
            rest_bytes: None,
        }
    }

    #[test]
    fn what_is_remembered_is_there_again_and_what_is_removed_is_not() {
        let store = tempfile::tempdir().expect("a directory");
        let manifest = manifest();
        let record = Record { complete: false, ..record().of(&manifest) };
        Table::open(store.path()).and_then(|table| table.insert(&manifest, &record)).expect("it is written");
        let table = Table::open(store.path()).expect("it opens");
        let loaded = table.load().expect("it reads");
        assert_eq!((loaded.to_open[0].0.id(), &loaded.to_open[0].1), (manifest.id(), &record));
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        table.remove(manifest.id()).expect("it is removed");
        assert!(table.load().expect("it reads").to_open.is_empty());
    }

    #[test]
    fn of_what_may_rest_a_start_reads_the_record_alone() {
        let store = tempfile::tempdir().expect("a directory");
        let (manifest, table) = (manifest(), Table::open(store.path()).expect("it opens"));
        table.insert(&manifest, &record()).expect("it is written");
        std::fs::write(table.directory(manifest.id()).join("manifest.dft"), b"?").expect("it is written");
        let loaded = table.load().expect("it reads");
        let (id, dataset) = &loaded.at_rest[0];
        assert_eq!((*id, dataset.bytes, &*dataset.name), (manifest.id(), 1, "a"));
        assert!(table.read(manifest.id()).is_err(), "whoever opens it looks");
    }

    #[test]
    fn a_directory_that_is_no_store_is_refused_and_nothing_of_it_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let mine = directory.path().join("data").join("mine");
        std::fs::create_dir_all(&mine).expect("it is made");
        let refused = Table::open(directory.path()).err().expect("it is refused");
        assert!(refused.message.contains("is no store"), "{}", refused.message);
        assert!(mine.exists());
        // What is not named as a dataset stays in a store as well.
        std::fs::create_dir(directory.path().join("datasets")).expect("it is made");
        Table::open(directory.path()).expect("it opens");
        assert!(mine.exists());
    }

    #[test]
    fn a_copy_stays_where_the_table_cannot_be_read_or_is_lost() {
        let store = tempfile::tempdir().expect("a directory");
        let table = Table::open(store.path()).expect("it opens");
        let id = manifest().id();
        let copy = table.data_directory(id);
        std::fs::create_dir(&copy).expect("it is made");
        let stays = |problems: usize| {
            let loaded = Table::open(store.path()).and_then(|table| table.load()).expect("it opens");
            assert_eq!((loaded.to_open.len(), loaded.problems.len()), (0, problems), "{:?}", loaded.problems);
            assert!(copy.exists());
        };
        // All that was remembered is lost.
        stays(1);
        // A loop of links does not say «there is none».
        let directory = table.directory(id);
        std::os::unix::fs::symlink(id.to_string(), &directory).expect("it is made");
        stays(2);
        std::fs::remove_file(&directory).expect("it is a link");
        // Nor does a record that is a loop, or cut off.
        table.begin(id).expect("it is written");
        std::os::unix::fs::symlink(RECORD, directory.join(RECORD)).expect("it is made");
        stays(1);
        std::fs::remove_file(directory.join(RECORD)).expect("it is a link");
        std::fs::write(directory.join(RECORD), b"").expect("it is written");
        stays(1);
        // Whoever made it died before it was whole.
        std::fs::remove_file(directory.join(RECORD)).expect("it is a file");
        Table::open(store.path()).expect("it opens");
        assert!(!copy.exists());
    }

    #[test]
    fn a_damaged_dataset_is_told_of_and_keeps_nobody_out() {
        let store = tempfile::tempdir().expect("a directory");
        let (manifest, table) = (manifest(), Table::open(store.path()).expect("it opens"));
        table.insert(&manifest, &Record { complete: false, ..record() }).expect("it is written");
        let directory = table.directory(manifest.id());
        for (file, bytes) in [("record", &b"?"[..]), ("manifest.dft", b"?")] {
            let whole = std::fs::read(directory.join(file)).expect("it is there");
            std::fs::write(directory.join(file), bytes).expect("it is written");
            let loaded = table.load().expect("it reads");
            assert_eq!((loaded.to_open.len(), loaded.problems.len()), (0, 1), "{file}");
            std::fs::write(directory.join(file), whole).expect("it is written");
        }
        std::fs::remove_file(directory.join("record")).expect("it is removed");
        let copy = table.data_directory(manifest.id());
        std::fs::create_dir(&copy).expect("it is made");
        let table = Table::open(store.path()).expect("it opens");
        assert!(!copy.exists(), "a copy without a record is a leftover");
        let loaded = table.load().expect("it reads");
        assert_eq!((loaded.to_open.len(), loaded.problems.len()), (0, 0), "it never came to be");
    }
}
