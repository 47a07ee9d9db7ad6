//! What the catalogue's thread owns, and what each request does to it.
//!
//! Invariant: between two batches, index and [`Meta`] are what the file holds. Within one they
//! are ahead of it; where the commit fails, both are read from the file again.

use std::collections::BTreeSet;
use std::time::{Instant as WallInstant, SystemTime, UNIX_EPOCH};

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::{Hints, Manifest};
use dft_protocol::time::Instant;

use super::{Ask, Caller, CatalogueConfig, CopyStep, RETRY_AFTER, StartAs, refused};
use crate::catalogue::index::{Index, Kept, Row, State};
use crate::catalogue::name::DatasetName;
use crate::catalogue::node::NodeDirectory;
use crate::catalogue::protocol::wire::{WireLen, wire_len};
use crate::catalogue::protocol::{
    BLOCK_LEN_MAX, CatalogueId, Change, Changed, EPOCH_MAX, Hello, Holder, HolderList, PAGE_LEN, Record,
    Request, Response,
};
use crate::catalogue::staging::Staging;
use crate::catalogue::store::{Content, Meta, Role, Store, Write};
use crate::registry::{FoundPeer, LinkAddrs};
use crate::service::Notice;
use crate::store::StoreError;

/// What is open while the file can be used.
struct Open {
    store: Store,
    index: Index,
    meta: Meta,
}

/// The state of the thread.
pub(super) struct Core<Notify> {
    config: CatalogueConfig,
    notify: Notify,
    // None while the file cannot be used; then everything about names is refused.
    open: Option<Open>,
    tried: WallInstant,
    failing: bool,
    staging: Staging,
    nodes: NodeDirectory,
    started: WallInstant,
    // The batch: what is to be written, and what was known before.
    writes: Vec<Write>,
    pending_bytes: usize,
    before: Option<Meta>,
}

impl<Notify: Fn(Notice)> Core<Notify> {
    pub(super) fn new(config: CatalogueConfig, notify: Notify) -> Self {
        let directory = config.path.parent().map_or_else(Default::default, ToOwned::to_owned);
        let now = WallInstant::now();
        Self {
            config,
            notify,
            open: None,
            tried: now,
            failing: false,
            staging: Staging::new(directory),
            nodes: NodeDirectory::default(),
            started: now,
            writes: Vec::new(),
            pending_bytes: 0,
            before: None,
        }
    }

    fn now(&self) -> Instant {
        Instant::START + self.started.elapsed()
    }

    /// Opens the file and takes the part that was asked for.
    pub(super) fn open(&mut self) {
        self.tried = WallInstant::now();
        let opened = Store::open(&self.config.path).and_then(|(store, Content { mut meta, rows })| {
            let before = meta.clone();
            start_as(&mut meta, &self.config.start_as);
            if meta != before {
                store.commit(&[Write::Meta(meta.clone())])?;
            }
            let mut index = Index::default();
            for row in rows {
                let name = row.record.name.clone();
                index.set(&name, Some(row));
            }
            Ok(Open { store, index, meta })
        });
        match opened {
            Ok(open) => {
                // Opened again after a failure, it is whatever it has become meanwhile.
                self.config.start_as = StartAs::AsBefore;
                self.failing = false;
                self.open = Some(open);
            }
            Err(error) => self.failed(error),
        }
    }

    /// Forgets what has expired, and tries a file again that could not be opened.
    pub(super) fn tick(&mut self) {
        let now = self.now();
        self.staging.expire(now);
        self.nodes.expire(now);
        if self.open.is_none() && self.tried.elapsed() >= RETRY_AFTER {
            self.open();
        }
    }

    fn failed(&mut self, error: StoreError) {
        if !std::mem::replace(&mut self.failing, true) {
            (self.notify)(Notice::CatalogueFails(error));
        }
    }

    /// How many bytes of manifests the batch has.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Makes the batch durable, or takes it back; which of both.
    pub(super) fn commit(&mut self) -> bool {
        // Without a file, everything was refused already.
        let Some(open) = &mut self.open else { return true };
        let meta_changed = self.before.take().filter(|before| *before != open.meta);
        if meta_changed.is_some() {
            self.writes.push(Write::Meta(open.meta.clone()));
        }
        let result = if self.writes.is_empty() { Ok(()) } else { open.store.commit(&self.writes) };
        self.writes.clear();
        self.pending_bytes = 0;
        let Err(error) = result else { return true };
        // Whether the file took it is not known: what it holds is read again before the next
        // write. Nobody was told meanwhile.
        self.open = None;
        self.failed(error);
        self.open();
        false
    }

    /// Changes something, up to the commit.
    pub(super) fn write(&mut self, ask: Ask, wall: SystemTime) -> Response {
        let now = self.now();
        let Some(open) = &mut self.open else { return refused("the catalogue cannot be read") };
        self.before.get_or_insert_with(|| open.meta.clone());
        match ask {
            Ask::Fence(epoch) => self.fence(epoch),
            Ask::Copy(step) => self.copy(step),
            Ask::Request(caller, request) => {
                if let Role::Follower(leader) = &open.meta.role {
                    return Response::NotLeader(leader.clone());
                }
                if !self.config.open && !caller.proven {
                    return Response::Unproven;
                }
                match request {
                    Request::Stage { id, len, offset, bytes } => {
                        match self.staging.take((caller.peer, id), (len, offset), &bytes, now) {
                            Ok(()) => Response::Done,
                            Err(error) => refused(&error.to_string()),
                        }
                    }
                    Request::Put { name, id, manifest } => self.put(caller, name, id, manifest, wall),
                    Request::Remove { name, id, forget } => self.remove(&name, id, forget),
                    _ => refused("this is no change"),
                }
            }
            _ => refused("this is no change"),
        }
    }

    fn put(
        &mut self,
        caller: Caller,
        name: DatasetName,
        id: ManifestId,
        manifest: Option<Vec<u8>>,
        wall: SystemTime,
    ) -> Response {
        let Some(open) = &mut self.open else { return refused("the catalogue cannot be read") };
        match open.index.get(&name) {
            Some(row) if row.state == State::Live && row.record.id == id => {
                return Response::Stored { created: false };
            }
            Some(row) if row.state != State::Forgotten && row.record.id != id => {
                return Response::Taken { id: row.record.id, removed: row.state == State::Removed };
            }
            _ => {}
        }
        let (kept, bytes) = match open.index.manifest(&id) {
            Some(kept) => (kept, None),
            None => match wanted_manifest(&mut self.staging, caller.peer, id, manifest) {
                Ok((kept, bytes)) => (kept, Some(bytes)),
                Err(not_taken) => return not_taken.into(),
            },
        };
        let (size, pieces, entries) = kept.shape;
        let created = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let record = Record { name, id, size, pieces, entries, created, owner: caller.peer };
        if let Err(quota) = open.index.check_quotas(&record, kept.len) {
            return refused(&quota.to_string());
        }
        if let Some(bytes) = bytes {
            self.pending_bytes += bytes.len();
            self.writes.push(Write::Manifest(id, bytes));
        }
        open.meta.sequence += 1;
        let sequence = open.meta.sequence;
        self.set(Row { record, state: State::Live, sequence, manifest_len: kept.len });
        Response::Stored { created: true }
    }

    fn remove(&mut self, name: &DatasetName, id: ManifestId, forget: bool) -> Response {
        let Some(open) = &mut self.open else { return refused("the catalogue cannot be read") };
        let row = match open.index.get(name) {
            None => return Response::Removed { removed: false },
            Some(row) if row.state == State::Forgotten => return Response::Removed { removed: false },
            Some(row) if row.record.id != id => {
                return Response::Taken { id: row.record.id, removed: row.state == State::Removed };
            }
            Some(row) if row.state == State::Removed && !forget => {
                return Response::Removed { removed: false };
            }
            Some(row) => row.clone(),
        };
        open.meta.sequence += 1;
        let state = if forget { State::Forgotten } else { State::Removed };
        let sequence = open.meta.sequence;
        self.set(Row { state, sequence, ..row });
        Response::Removed { removed: true }
    }

    /// A leader steps down when it hears of a higher epoch.
    fn fence(&mut self, epoch: u64) -> Response {
        let Some(open) = &mut self.open else { return refused("the catalogue cannot be read") };
        let meta = &mut open.meta;
        if epoch > meta.seen_epoch {
            meta.seen_epoch = epoch;
            if epoch > meta.epoch && meta.role == Role::Leader {
                meta.role = Role::Follower(None);
                meta.copied = None;
                (self.notify)(Notice::Deposed { epoch });
            }
        }
        Response::Done
    }

    fn copy(&mut self, step: CopyStep) -> Response {
        let Some(open) = &mut self.open else { return refused("the catalogue cannot be read") };
        if open.meta.role == Role::Leader {
            return refused("a leader copies nobody");
        }
        match step {
            CopyStep::Adopt(catalogue) => adopt(open, catalogue),
            CopyStep::Change(change, manifest) => self.copy_change(*change, manifest),
            CopyStep::Reached { epoch, sequence, only } => {
                self.reached(epoch, sequence, only.as_ref());
                Response::Done
            }
        }
    }

    fn copy_change(&mut self, Change { sequence, what }: Change, manifest: Option<Vec<u8>>) -> Response {
        let Some(open) = &mut self.open else { return refused("the catalogue cannot be read") };
        let (record, state) = match what {
            Changed::Put(record) => (record, State::Live),
            Changed::Removed(record) => (record, State::Removed),
            Changed::Forgotten(name) => match open.index.get(&name) {
                Some(row) => (row.record.clone(), State::Forgotten),
                None => return Response::Done,
            },
        };
        let mut manifest_len = 0;
        if state == State::Live {
            let kept = match (open.index.manifest(&record.id), manifest) {
                (Some(kept), _) => kept,
                (None, None) => return Response::Wanted,
                (None, Some(bytes)) => match checked_manifest(record.id, &bytes) {
                    Ok((kept, bytes)) => {
                        self.pending_bytes += bytes.len();
                        self.writes.push(Write::Manifest(record.id, bytes));
                        kept
                    }
                    Err(not_taken) => return not_taken.into(),
                },
            };
            manifest_len = kept.len;
        }
        if let Err(quota) = open.index.check_quotas(&record, manifest_len) {
            return refused(&quota.to_string());
        }
        open.meta.sequence = open.meta.sequence.max(sequence);
        self.set(Row { record, state, sequence, manifest_len });
        Response::Done
    }

    fn reached(&mut self, epoch: u64, sequence: u64, only: Option<&BTreeSet<DatasetName>>) {
        let Some(open) = &mut self.open else { return };
        let surplus: Vec<DatasetName> = only.map_or_else(Vec::new, |only| {
            open.index.names().filter(|name| !only.contains(*name)).cloned().collect()
        });
        let meta = &mut open.meta;
        meta.copied = Some((epoch, sequence));
        meta.epoch = epoch;
        meta.seen_epoch = meta.seen_epoch.max(epoch);
        meta.sequence = sequence;
        if only.is_some() {
            // What was dropped is told to nobody: who copies this copy begins anew.
            meta.horizon = sequence;
        }
        for name in surplus {
            self.drop_row(&name);
        }
    }

    /// Makes `row` what is known of its name, and drops what nobody needs any more.
    fn set(&mut self, row: Row) {
        let Some(open) = &mut self.open else { return };
        let name = row.record.name.clone();
        self.writes.push(Write::Row(row.clone()));
        let old = open.index.set(&name, Some(row));
        self.drop_manifest(old.as_ref());
        while let Some(surplus) = self.open.as_ref().and_then(|open| open.index.surplus().cloned()) {
            if let Some(open) = &mut self.open {
                open.meta.horizon = open.meta.horizon.max(surplus.sequence);
            }
            self.drop_row(&surplus.record.name);
        }
    }

    fn drop_row(&mut self, name: &DatasetName) {
        let Some(open) = &mut self.open else { return };
        let old = open.index.set(name, None);
        self.writes.push(Write::Drop(name.clone()));
        self.drop_manifest(old.as_ref());
    }

    /// Drops the manifest of a row that was replaced, where no name stands for it any more.
    fn drop_manifest(&mut self, old: Option<&Row>) {
        if let (Some(open), Some(old)) = (&self.open, old)
            && old.state == State::Live
            && open.index.manifest(&old.record.id).is_none()
        {
            self.writes.push(Write::DropManifest(old.record.id, old.manifest_len));
        }
    }

    /// Answers from what is durable.
    pub(super) fn read(&mut self, ask: Ask) -> Response {
        let now = self.now();
        match ask {
            Ask::Gone(peer) => {
                self.nodes.away(&peer);
                self.staging.forget(peer);
                Response::Done
            }
            Ask::Holders(found, more) => {
                let next = found.last().map(|last| last.peer).filter(|_| more);
                Response::Holders { holders: self.present(found), next }
            }
            Ask::ManyHolders(found) => {
                let without_addrs = |found: FoundPeer| FoundPeer { addrs: LinkAddrs::default(), ..found };
                let list = |(found, more): (Vec<FoundPeer>, bool)| HolderList {
                    holders: self.present(found.into_iter().map(without_addrs)),
                    more,
                };
                Response::ManyHolders(found.into_iter().map(list).collect())
            }
            Ask::Request(caller, Request::AnnounceNode(record)) => {
                match self.nodes.announce(caller.peer, caller.observed, *record, now) {
                    Ok(()) => Response::Done,
                    Err(quota) => refused(&quota.to_string()),
                }
            }
            Ask::Request(caller, Request::LeaveNode) => {
                // What it announced may be known still: of one that is away, nothing counts.
                self.nodes.away(&caller.peer);
                Response::Done
            }
            Ask::Request(_, Request::Nodes { after }) => {
                let (nodes, more) = page(self.nodes.nodes(after.as_ref(), now));
                Response::Nodes { nodes, more }
            }
            ask => self.read_names(ask),
        }
    }

    /// Those of `found` that are not known to be gone, with the names of their hosts. The
    /// registry's pages are short enough for one answer.
    fn present(&self, found: impl IntoIterator<Item = FoundPeer>) -> Vec<Holder> {
        let now = self.now();
        let present = found.into_iter().filter(|found| !self.nodes.is_away(&found.peer, now));
        present
            .map(|found| Holder {
                host: self.nodes.host(&found.peer).cloned(),
                peer: found.peer,
                addrs: found.addrs,
                complete: found.complete,
            })
            .collect()
    }

    fn read_names(&mut self, ask: Ask) -> Response {
        let Some(open) = &self.open else { return refused("the catalogue cannot be read") };
        match ask {
            Ask::Hello(nonce) => Response::Hello(Hello {
                catalogue: open.meta.catalogue,
                epoch: open.meta.epoch,
                sequence: open.meta.sequence,
                leads: open.meta.role == Role::Leader,
                open: self.config.open,
                nonce,
            }),
            Ask::Meta(sender) => {
                let _ = sender.send(open.meta.clone());
                Response::Done
            }
            Ask::Request(_, Request::Get { name, manifest }) => {
                let Some(row) = open.index.get(&name).filter(|row| row.state == State::Live) else {
                    return Response::Missing;
                };
                let record = row.record.clone();
                if !manifest {
                    return Response::Found { record, len: 0, block: Vec::new() };
                }
                let len = row.manifest_len;
                self.block(record.id, 0, |block| Response::Found { record, len, block })
            }
            Ask::Request(_, Request::Block { id, offset }) => {
                let block_len = u32::try_from(BLOCK_LEN_MAX).expect("a block is far below 4 GiB");
                match open.index.manifest(&id) {
                    Some(kept) if offset < kept.len && offset.is_multiple_of(block_len) => {
                        self.block(id, offset / block_len, Response::Block)
                    }
                    _ => Response::Missing,
                }
            }
            Ask::Request(_, Request::List { pattern, after }) => {
                let mut len = 0;
                let (records, next) = open.index.list(&pattern, after.as_ref(), |record| {
                    len += wire_len(record);
                    len > PAGE_LEN
                });
                Response::Records { records, next }
            }
            Ask::Request(_, Request::Changes { since }) => {
                let too_old = (since != 0 && since < open.meta.horizon) || since > open.meta.sequence;
                let rows = open.index.changes(since).map(Row::change);
                let changes = if too_old { Vec::new() } else { page(rows).0 };
                Response::Changes { too_old, changes, sequence: open.meta.sequence }
            }
            _ => refused("this is no question"),
        }
    }

    fn block(&mut self, id: ManifestId, number: u32, respond: impl FnOnce(Vec<u8>) -> Response) -> Response {
        let Some(open) = &self.open else { return refused("the catalogue cannot be read") };
        match open.store.block(id, number) {
            Ok(block) => respond(block),
            Err(error) => {
                self.failed(error);
                refused("the tracker cannot read the manifest")
            }
        }
    }
}

/// Why a manifest was not taken.
enum NotTaken {
    Wanted,
    Because(String),
}

impl From<NotTaken> for Response {
    fn from(not_taken: NotTaken) -> Self {
        match not_taken {
            NotTaken::Wanted => Response::Wanted,
            NotTaken::Because(reason) => refused(&reason),
        }
    }
}

/// The part that was asked for.
fn start_as(meta: &mut Meta, start_as: &StartAs) {
    match start_as {
        StartAs::AsBefore => {}
        StartAs::Follow(leader) => {
            if meta.role == Role::Leader {
                meta.copied = None;
            }
            meta.role = Role::Follower(Some(leader.clone()));
            meta.former = None;
        }
        StartAs::Promoted => {
            if let Role::Follower(leader) = meta.role.clone() {
                meta.epoch = (meta.epoch.max(meta.seen_epoch) + 1).min(EPOCH_MAX);
                meta.seen_epoch = meta.epoch;
                meta.role = Role::Leader;
                meta.copied = None;
                meta.former = leader;
            }
        }
    }
}

fn adopt(open: &mut Open, catalogue: CatalogueId) -> Response {
    if open.meta.catalogue != catalogue {
        if open.index.names().next().is_some() {
            return refused("it is another catalogue, and this one has names");
        }
        open.meta.catalogue = catalogue;
    }
    Response::Done
}

/// The manifest `id` of a `Put`: as it came along, or block by block before.
fn wanted_manifest(
    staging: &mut Staging,
    peer: PeerId,
    id: ManifestId,
    inline: Option<Vec<u8>>,
) -> Result<(Kept, Vec<u8>), NotTaken> {
    let bytes = match inline {
        Some(bytes) => bytes,
        None => match staging.finish(peer, id) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(NotTaken::Wanted),
            Err(error) => return Err(NotTaken::Because(error.to_string())),
        },
    };
    checked_manifest(id, &bytes)
}

/// What `bytes` say, and the bytes without hints, where they are the manifest `id`.
fn checked_manifest(id: ManifestId, bytes: &[u8]) -> Result<(Kept, Vec<u8>), NotTaken> {
    let manifest = Manifest::decode(bytes)
        .and_then(|manifest| manifest.with_hints(Hints::default()))
        .map_err(|error| NotTaken::Because(format!("the manifest is not valid: {error}")))?;
    if manifest.id() != id {
        return Err(NotTaken::Because("the manifest has another id".into()));
    }
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let shape = (
        manifest.total_bytes(),
        count(manifest.geometry().piece_count()),
        count(manifest.info().entries.len()),
    );
    let bytes = manifest.encode();
    Ok((Kept { len: count(bytes.len()), names: 0, shape }, bytes))
}

/// As many entries as fit into one answer, and whether there are more.
fn page<T: WireLen>(entries: impl Iterator<Item = T>) -> (Vec<T>, bool) {
    let mut len = 0;
    let mut taken = Vec::new();
    for entry in entries {
        len += wire_len(&entry);
        if len > PAGE_LEN {
            return (taken, true);
        }
        taken.push(entry);
    }
    (taken, false)
}
