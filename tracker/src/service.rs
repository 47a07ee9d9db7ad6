//! The tracker without its network: one thread that owns the [`Registry`] and its [`Store`].
//!
//! Requests wait in a bounded queue. The thread takes all that are waiting, applies them to the
//! registry, makes their changes durable in one transaction (a group commit: under load the
//! disk's latency is paid per batch), and only then answers. A full queue refuses at once.
//!
//! Opening the database happens on the thread too, so that a seeder's start doesn't wait for it.
//!
//! Where to start reading: [`Service::ask`], then `Core::answer`.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::time::Instant;
use rand_xoshiro::Xoshiro256PlusPlus;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::protocol::{Announce, PEERS_PER_RESPONSE_MAX, Reason, Request, Response, Shelve};
use crate::registry::{
    ANNOUNCE_INTERVAL, Asker, FoundPeer, LinkAddrs, RECORD_TTL, Record, Registry, ShelfChange,
};
use crate::state::{StateDir, StateError};
use crate::store::{Change, Damaged, Store, StoreError, StoredRecord, StoredShelf};

/// Most requests that wait for the thread: four full batches.
const QUEUE_LEN_MAX: usize = 1024;
/// Most requests of one transaction: bounds how long the first of them waits for the others.
const BATCH_LEN_MAX: usize = 256;
/// Most peers of one page of holders: they and their hosts fill half a response.
const HOLDERS_MAX: usize = 512;
/// Most peers of the pages of many datasets together, but for those of the last one: with it they fill an
/// answer.
const MANY_HOLDERS_MAX: usize = 1024;
/// The longest that expired records stay in memory and on disk.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);

/// Why the service did not start.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The thread could not be started.
    #[error("no thread for the tracker: {0}")]
    Thread(std::io::Error),
}

/// What an operator should hear of.
#[derive(Debug)]
pub enum Notice {
    /// The database was damaged: the tracker started empty.
    Damaged(Damaged),
    /// Changes cannot be written: their announcements are refused until they can. Said once per
    /// row of failures.
    NotWritten(StoreError),
    /// The catalogue's file cannot be used: everything about names is refused until it can. Said
    /// once per row of failures.
    CatalogueFails(StoreError),
    /// Another tracker was promoted: this one takes no writes any more.
    Deposed {
        /// The other one's epoch.
        epoch: u64,
    },
    /// A follower copies again.
    Follows {
        /// Whom.
        leader: String,
    },
    /// A follower cannot copy. Said once per row of failures.
    NotCopied {
        /// Whom.
        leader: String,
        /// Why not.
        reason: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Damaged(Damaged { reason, moved_to }) => write!(
                f,
                "the tracker's database was damaged ({reason}); it was moved to {} and the tracker starts empty",
                moved_to.display()
            ),
            Notice::NotWritten(error) => write!(f, "the tracker refuses announcements: {error}"),
            Notice::CatalogueFails(error) => write!(f, "the catalogue cannot be used: {error}"),
            Notice::Deposed { epoch } => {
                write!(f, "another tracker was promoted (epoch {epoch}): this one takes no writes any more")
            }
            Notice::Follows { leader } => write!(f, "copies the catalogue of {leader}"),
            Notice::NotCopied { leader, reason } => {
                write!(f, "cannot copy the catalogue of {leader}: {reason}")
            }
        }
    }
}

/// A running tracker. Dropping it ends the thread, after what was taken is durable.
pub struct Service {
    queue: Option<SyncSender<Question>>,
    thread: Option<JoinHandle<()>>,
}

enum Question {
    Request(Asked),
    Holders {
        manifest: ManifestId,
        observed: IpAddr,
        after: Option<PeerId>,
        answer: oneshot::Sender<Holders>,
    },
    ManyHolders {
        manifests: Vec<ManifestId>,
        observed: IpAddr,
        answer: oneshot::Sender<Vec<Holders>>,
    },
}

struct Asked {
    peer: PeerId,
    observed: IpAddr,
    request: Request,
    answer: oneshot::Sender<Response>,
}

/// Peers of a manifest, and whether there are more.
pub type Holders = (Vec<FoundPeer>, bool);

impl Service {
    /// Starts on `state`. `notify` is called from the service's thread.
    pub fn start(state: StateDir, notify: impl Fn(Notice) + Send + 'static) -> Result<Self, ServiceError> {
        let (queue, questions) = sync_channel(QUEUE_LEN_MAX);
        let thread = std::thread::Builder::new()
            .name("tracker".into())
            .spawn(move || run(&state, &questions, notify))
            .map_err(ServiceError::Thread)?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Locks the state directory at `path` and starts on it.
    pub fn open(path: &Path, notify: impl Fn(Notice) + Send + 'static) -> Result<Self, ServiceError> {
        Self::start(StateDir::open(path)?, notify)
    }

    /// Puts a request of `peer`, seen at `observed`, into the queue. The future ends with the
    /// answer, once what it says is durable.
    pub fn ask(
        &self,
        peer: PeerId,
        observed: IpAddr,
        request: Request,
    ) -> impl Future<Output = Response> + Send + use<> {
        let (answer, response) = oneshot::channel();
        self.put(Question::Request(Asked { peer, observed: observed.to_canonical(), request, answer }));
        async { response.await.unwrap_or_else(|_| refused("the tracker is overloaded or stopping")) }
    }
}

impl Service {
    /// A page of the peers of `manifest` behind `after`, for an asker at `observed`, and whether
    /// there are more; `None` where the tracker is overloaded.
    pub fn holders(
        &self,
        manifest: ManifestId,
        observed: IpAddr,
        after: Option<PeerId>,
    ) -> impl Future<Output = Option<Holders>> + Send + use<> {
        let (answer, holders) = oneshot::channel();
        self.put(Question::Holders { manifest, observed: observed.to_canonical(), after, answer });
        async { holders.await.ok() }
    }

    /// The first page of the peers of each of `manifests`, of the first ones as far as an answer reaches;
    /// `None` where the tracker is overloaded.
    pub fn many_holders(
        &self,
        manifests: Vec<ManifestId>,
        observed: IpAddr,
    ) -> impl Future<Output = Option<Vec<Holders>>> + Send + use<> {
        let (answer, holders) = oneshot::channel();
        self.put(Question::ManyHolders { manifests, observed: observed.to_canonical(), answer });
        async { holders.await.ok() }
    }

    fn put(&self, question: Question) {
        if let Some(queue) = &self.queue {
            // A full queue drops the question, and with it the sender of its answer.
            let _ = queue.try_send(question);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by it; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

/// How often a peer is to say that it is there, in seconds.
fn interval_s() -> u32 {
    u32::try_from(ANNOUNCE_INTERVAL.as_secs()).unwrap_or(u32::MAX)
}

fn refused(reason: &str) -> Response {
    Response::Refused(Reason::new(reason))
}

/// The thread: batch by batch until the last handle is gone.
fn run(state: &StateDir, questions: &Receiver<Question>, notify: impl Fn(Notice)) {
    let mut core = Core::new(std::time::Instant::now());
    let mut disk = Disk { path: state.database(), store: None, failing: false, notify };
    let mut changes = disk.open().map_or_else(Vec::new, |stored| core.restore(stored, SystemTime::now()));
    changes.extend(core.restore_shelves(disk.shelves()));
    loop {
        let mut answers = Vec::new();
        match questions.recv_timeout(EXPIRE_EVERY) {
            Ok(first) => {
                let waiting = std::iter::from_fn(|| questions.try_recv().ok());
                for question in std::iter::once(first).chain(waiting).take(BATCH_LEN_MAX) {
                    match question {
                        Question::Request(asked) => {
                            let response = core.answer(&asked, SystemTime::now(), &mut changes);
                            answers.push((asked.answer, response));
                        }
                        Question::Holders { manifest, observed, after, answer } => {
                            let _ =
                                answer.send(core.registry.holders(manifest, observed, after, HOLDERS_MAX));
                        }
                        Question::ManyHolders { manifests, observed, answer } => {
                            let _ = answer.send(many_holders(&core.registry, manifests, observed));
                        }
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        core.expire(&mut changes);
        if !changes.is_empty() && !disk.commit(&changes, &mut core) {
            for (_, response) in &mut answers {
                *response = refused("the tracker cannot write its state");
            }
        }
        changes.clear();
        for (answer, response) in answers {
            let _ = answer.send(response);
        }
    }
}

fn many_holders(registry: &Registry, manifests: Vec<ManifestId>, observed: IpAddr) -> Vec<Holders> {
    let (mut lists, mut count) = (Vec::new(), 0);
    for manifest in manifests {
        if count >= MANY_HOLDERS_MAX {
            break;
        }
        let page = registry.holders(manifest, observed, None, HOLDERS_MAX);
        count += page.0.len();
        lists.push(page);
    }
    lists
}

/// The store, which is opened again after a failure: redb refuses everything after one failed
/// write, and a full disk may have room again.
struct Disk<Notify> {
    path: PathBuf,
    store: Option<Store>,
    failing: bool,
    notify: Notify,
}

impl<Notify: Fn(Notice)> Disk<Notify> {
    /// Opens the store and returns what it holds; `None` where it cannot be opened now.
    fn open(&mut self) -> Option<Vec<StoredRecord>> {
        match Store::open(&self.path) {
            Ok((store, stored, damaged)) => {
                if let Some(damaged) = damaged {
                    (self.notify)(Notice::Damaged(damaged));
                }
                self.store = Some(store);
                Some(stored)
            }
            Err(error) => {
                self.failed(error);
                None
            }
        }
    }

    /// Whether the changes are durable.
    fn commit(&mut self, changes: &[Change], core: &mut Core) -> bool {
        let left_over = match &self.store {
            Some(_) => Vec::new(),
            None => match self.open() {
                Some(stored) => core.unknown(&stored),
                None => {
                    core.forget_durable();
                    return false;
                }
            },
        };
        let Some(store) = &self.store else { return false };
        let result = if left_over.is_empty() {
            store.commit(changes)
        } else {
            store.commit(&[left_over.as_slice(), changes].concat())
        };
        match result {
            Ok(()) => {
                self.failing = false;
                true
            }
            Err(error) => {
                self.store = None;
                core.forget_durable();
                self.failed(error);
                false
            }
        }
    }

    /// The shelves that the store holds, where it is open.
    fn shelves(&mut self) -> Vec<StoredShelf> {
        match self.store.as_ref().map(Store::shelves) {
            Some(Ok(shelves)) => shelves,
            Some(Err(error)) => {
                self.failed(error);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Says so once per row of failures.
    fn failed(&mut self, error: StoreError) {
        if !std::mem::replace(&mut self.failing, true) {
            (self.notify)(Notice::NotWritten(error));
        }
    }
}

/// The registry and its clock, and what of it is durable.
struct Core {
    registry: Registry,
    rng: Xoshiro256PlusPlus,
    started: std::time::Instant,
    // When each record expires by what is on disk: a mere renewal is written only when a restart
    // could otherwise see it expired within one interval.
    durable_until: HashMap<(ManifestId, PeerId), Instant>,
}

impl Core {
    fn new(started: std::time::Instant) -> Self {
        Self { registry: Registry::default(), rng: rand::make_rng(), started, durable_until: HashMap::new() }
    }

    fn now(&self) -> Instant {
        Instant::START + self.started.elapsed()
    }

    /// Takes what a former run stored. Each record lives for one announce interval at least,
    /// whatever the wall clock did meanwhile, and no longer than after an announcement. What the
    /// quotas refuse is removed from the store.
    fn restore(&mut self, stored: Vec<StoredRecord>, wall: SystemTime) -> Vec<Change> {
        let now = self.now();
        let mut changes = Vec::new();
        for StoredRecord { manifest, peer, record, expires } in stored {
            let left = expires.duration_since(wall).unwrap_or_default().clamp(ANNOUNCE_INTERVAL, RECORD_TTL);
            match self.registry.announce(manifest, peer, record, now + left) {
                Ok(()) => {
                    self.durable_until.insert((manifest, peer), now + left);
                }
                Err(_) => changes.push(Change::Remove(manifest, peer)),
            }
        }
        changes
    }

    /// Takes the shelves that a former run stored, each for as long as after a message of its node. What
    /// the quotas refuse is removed from the store.
    fn restore_shelves(&mut self, stored: Vec<StoredShelf>) -> Vec<Change> {
        let expires = self.now() + RECORD_TTL;
        let mut changes = Vec::new();
        for StoredShelf { peer, record, added, .. } in stored {
            let change = ShelfChange { anew: true, added, ..ShelfChange::default() };
            if self.registry.shelve(peer, &record, &change, expires).is_err() {
                changes.push(Change::ClearShelf(peer));
            }
        }
        changes
    }

    /// What is on disk is not known any more: records are written at their next turn, and nodes tell of
    /// what is on their shelves anew.
    fn forget_durable(&mut self) {
        self.durable_until.clear();
        self.registry.forget_shelves();
    }

    fn shelve(&mut self, question: &Asked, shelve: &Shelve, changes: &mut Vec<Change>) -> Response {
        let Shelve { link_port, addrs, site, change } = shelve;
        let (peer, observed) = (question.peer, question.observed);
        let addrs = LinkAddrs::of_announcement(observed, *link_port, addrs.as_slice());
        let record = Record { observed, addrs, complete: true, site: site.clone() };
        let had_shelf = self.registry.shelf_record(peer).is_some();
        let unchanged = self.registry.shelf_record(peer) == Some(&record);
        let expires = self.now() + RECORD_TTL;
        let (there, made) = match self.registry.shelve(peer, &record, change, expires) {
            Ok(outcome) => outcome,
            Err(quota) => return refused(&quota.to_string()),
        };
        // What comes to the shelf has no record of its own beside it.
        for &manifest in change.added.iter().filter(|_| made) {
            if self.registry.leave(manifest, peer) {
                self.durable_until.remove(&(manifest, peer));
                changes.push(Change::Remove(manifest, peer));
            }
        }
        if made && had_shelf && (change.anew || there.count == 0) {
            changes.push(Change::ClearShelf(peer));
        }
        if made && there.count > 0 && !(unchanged && change.added.is_empty() && change.removed.is_empty()) {
            let (added, removed) = (change.added.clone(), change.removed.clone());
            changes.push(Change::Shelve(StoredShelf { peer, record, added, removed }));
        }
        Response::Shelved { interval_s: interval_s(), there }
    }

    fn answer(&mut self, question: &Asked, wall: SystemTime, changes: &mut Vec<Change>) -> Response {
        match &question.request {
            Request::Announce(announce) => {
                if announce.link_port != 0
                    && let Err(response) = self.take(question, announce, wall, changes)
                {
                    return response;
                }
                let asker =
                    Asker { peer: question.peer, observed: question.observed, site: announce.site.as_ref() };
                let max = usize::from(announce.want.min(PEERS_PER_RESPONSE_MAX));
                Response::Peers {
                    interval_s: interval_s(),
                    peers: self.registry.peers(announce.manifest, asker, max, &mut self.rng),
                }
            }
            Request::Shelve(shelve) => self.shelve(question, shelve, changes),
            Request::Leave { manifest } => {
                if self.registry.leave(*manifest, question.peer) {
                    self.durable_until.remove(&(*manifest, question.peer));
                    changes.push(Change::Remove(*manifest, question.peer));
                }
                Response::Done
            }
        }
    }

    fn take(
        &mut self,
        question: &Asked,
        announce: &Announce,
        wall: SystemTime,
        changes: &mut Vec<Change>,
    ) -> Result<(), Response> {
        let key = (announce.manifest, question.peer);
        let addrs =
            LinkAddrs::of_announcement(question.observed, announce.link_port, announce.addrs.as_slice());
        let record = Record {
            observed: question.observed,
            addrs,
            complete: announce.complete,
            site: announce.site.clone(),
        };
        let now = self.now();
        let unchanged = self.registry.record(key.0, key.1) == Some(&record);
        let durable = self.durable_until.get(&key).is_some_and(|until| *until >= now + ANNOUNCE_INTERVAL);
        self.registry
            .announce(key.0, key.1, record.clone(), now + RECORD_TTL)
            .map_err(|quota| refused(&quota.to_string()))?;
        if !(unchanged && durable) {
            self.durable_until.insert(key, now + RECORD_TTL);
            changes.push(Change::Put(StoredRecord {
                manifest: key.0,
                peer: key.1,
                record,
                expires: wall + RECORD_TTL,
            }));
        }
        Ok(())
    }

    fn expire(&mut self, changes: &mut Vec<Change>) {
        let now = self.now();
        for key in self.registry.expire(now) {
            self.durable_until.remove(&key);
            changes.push(Change::Remove(key.0, key.1));
        }
        changes.extend(self.registry.expire_shelves(now).into_iter().map(Change::ClearShelf));
    }

    /// Removals of what the store holds and the registry doesn't: it left while the store could
    /// not be written. Shelves were forgotten when that began; changes that follow tell of all on them.
    fn unknown(&self, stored: &[StoredRecord]) -> Vec<Change> {
        let gone = stored
            .iter()
            .filter(|stored| self.registry.record(stored.manifest, stored.peer).is_none())
            .map(|stored| Change::Remove(stored.manifest, stored.peer));
        std::iter::once(Change::ClearShelves).chain(gone).collect()
    }
}

#[cfg(test)]
mod tests;
