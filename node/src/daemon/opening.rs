//! How a dataset of a daemon is opened: its data are looked at where the record says that they are,
//! hashed where that says too little, and fetched where something is missing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::Manifest;

use super::Daemon;
use super::content::is_same_content;
use super::holding::{Holding, file_name};
use super::table::{Place, Record};
use super::wire::WirePath;
use crate::commands::blocking;
use crate::failure::{Failure, Kind};
use crate::storage::{self, FetchOptions, Scan, ScanOptions, SeedCache, Selection, StorageError, Store};

/// How a dataset is opened.
pub enum Opening {
    /// With the store that was made when it was put.
    With(Arc<Store>),
    /// From what the record says.
    Again,
    /// The same, of what was at rest: as it was found last.
    Rested,
    /// To be fetched.
    New,
    /// To be read, and not kept.
    Read,
    /// Only these files of it, for one request.
    Part {
        /// Which.
        selection: Selection,
        /// In place of what is there.
        force: bool,
    },
}

pub(super) async fn open(
    daemon: &Daemon,
    holding: &Holding,
    opening: Opening,
) -> Result<Arc<Store>, Failure> {
    let rested = matches!(opening, Opening::Rested);
    let (again, force, selection) = match opening {
        Opening::With(store) => return Ok(store),
        Opening::Read => return Ok(Arc::new(Store::passing(holding.manifest.clone()))),
        Opening::Again | Opening::Rested => (true, holding.record().force, None),
        Opening::New => (false, holding.record().force, None),
        Opening::Part { selection, force } => (false, force, Some(selection)),
    };
    let options = FetchOptions { force, selection };
    let data = Data {
        manifest: holding.manifest.clone(),
        record: holding.record(),
        cache: daemon.table.directory(holding.id()),
        stored: daemon.table.data_directory(holding.id()),
        cancel: holding.cancel(),
    };
    let data = Arc::new(data);
    if rested {
        let found = data.clone();
        if let Some(store) = blocking(move || found.as_it_was()).await? {
            return Ok(Arc::new(store));
        }
    }
    if again {
        let looked = data.clone();
        if let Some(store) = blocking(move || looked.look()).await?? {
            return Ok(Arc::new(store));
        }
    }
    // What begins has nothing to check; it must not wait for what has.
    let checks = if again { Some(daemon.checks.acquire().await) } else { None };
    let store = blocking(move || data.check(options)).await??;
    drop(checks);
    Ok(Arc::new(store))
}

/// Whether the data of a dataset at rest are as they were when it was complete, as far as times and sizes
/// tell. Blocks.
pub(super) fn is_as_it_was(daemon: &Daemon, id: ManifestId) -> bool {
    let Ok((manifest, record)) = daemon.table.read(id) else { return false };
    let (cache, stored) = (daemon.table.directory(id), daemon.table.data_directory(id));
    let data = Data { manifest, record, cache, stored, cancel: Arc::default() };
    data.as_it_was().is_some_and(|store| store.changed().is_none())
}

/// Where the data of a dataset are, for the threads that look at them.
struct Data {
    manifest: Arc<Manifest>,
    record: Record,
    cache: PathBuf,
    stored: PathBuf,
    cancel: Arc<AtomicBool>,
}

impl Data {
    /// The paths that were put, or the one that was fetched.
    fn paths(&self) -> Vec<PathBuf> {
        match &self.record.place {
            Place::Put(paths) => paths.iter().map(WirePath::to_path).collect(),
            Place::Fetched(_) | Place::Stored => vec![self.directory().join(file_name(&self.manifest))],
        }
    }

    fn directory(&self) -> PathBuf {
        match &self.record.place {
            Place::Fetched(directory) => directory.to_path(),
            Place::Put(_) | Place::Stored => self.stored.clone(),
        }
    }

    fn is_put(&self) -> bool {
        matches!(self.record.place, Place::Put(_))
    }

    fn scan(&self) -> Result<Scan, Failure> {
        let exclude = self.record.exclude.iter().map(WirePath::to_path).collect();
        let options = ScanOptions { skip_unsafe: self.is_put(), exclude };
        storage::scan(&self.paths(), Some(self.manifest.info().name.clone()), &options)
            .map_err(|error| self.gone_or(error))
    }

    /// What is gone is told from what cannot be read for a moment.
    fn gone_or(&self, error: StorageError) -> Failure {
        if error.is_missing() { self.changed("is gone, or its disk is away") } else { error.into() }
    }

    fn changed(&self, how: &str) -> Failure {
        let paths = self.paths();
        let place = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let what = if self.is_put() { "what was put at " } else { "" };
        Failure::new(Kind::Integrity, format!("{what}{place} {how}"))
    }

    /// What was complete and is unchanged is not hashed again; nothing where that is not so.
    fn look(&self) -> Result<Option<Store>, Failure> {
        if !self.record.complete {
            return Ok(None);
        }
        let scan = self.scan()?;
        let known = SeedCache::load(&self.cache).and_then(|hashes| hashes.matches(&scan));
        if known.is_some_and(|info| is_same_content(&info, self.manifest.info())) {
            return self.seed(scan).map(Some);
        }
        Ok(None)
    }

    /// What was complete, in the state in which it was found so. Whoever reads it notices what changed
    /// since, and serves the rest.
    fn as_it_was(&self) -> Option<Store> {
        let (cache, paths) = (SeedCache::load(&self.cache)?, self.paths());
        let [path] = &paths[..] else { return None };
        let is_it = self.record.complete && is_same_content(cache.info(), self.manifest.info());
        if is_it { self.seed(cache.as_it_was(path).ok()?).ok() } else { None }
    }

    fn seed(&self, mut scan: Scan) -> Result<Store, Failure> {
        scan.entries.clone_from(&self.manifest.info().entries);
        Ok(Store::seed(self.manifest.clone(), scan)?)
    }

    /// Hashes what is there; what is to be fetched goes on with it.
    fn check(&self, options: FetchOptions) -> Result<Store, Failure> {
        if self.is_put() {
            let scan = self.scan()?;
            let piece_size = Some(self.manifest.info().piece_size);
            let info = storage::hash(&scan, piece_size, &|_| {}, &self.cancel);
            let info = info.map_err(|error| match error {
                StorageError::Changed { .. } => self.changed("has changed"),
                error => error.into(),
            })?;
            if !is_same_content(&info, self.manifest.info()) {
                return Err(self.changed("has changed"));
            }
            // Only a speed-up: without it, the next start hashes again.
            if let Some(cache) = SeedCache::new(&scan, &info) {
                let _ = cache.store(&self.cache);
            }
            return self.seed(scan);
        }
        if self.record.place == Place::Stored {
            crate::settings::create_private_dir(&self.stored)?;
        }
        let store =
            Store::fetch(self.manifest.clone(), &self.directory(), options, &|_| {}).map_err(|error| {
                match error {
                    StorageError::Exists { .. } if self.record.complete => self.changed("has changed"),
                    error => error.into(),
                }
            })?;
        if self.record.place == Place::Stored {
            // Of a damaged copy, what is right needs no fetching.
            store.salvage(&self.cancel)?;
        }
        Ok(store)
    }
}
