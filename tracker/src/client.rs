//! Asks the catalogues of one or several trackers.
//!
//! Cheap to clone; a task of its own keeps a small libp2p swarm with one connection to each
//! tracker that is asked. Every wait has a bound. Reads are answered by the first tracker that
//! can; writes go to the leader of the highest epoch; nodes announce themselves to all.
//!
//! A write whose answer is lost may have been done: asking again finds it so
//! ([`PutOutcome::Already`]).
//!
//! Where to start reading: [`Client::put`], then `write`.

mod error;
mod task;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::{Hints, MANIFEST_LEN_MAX, Manifest};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use self::error::ClientError;
use self::task::{Ask, AskError, Task};
use self::write::Leader;
use crate::address::{peer_id_from_libp2p, to_multiaddr};
use crate::catalogue::index::NAMES_MAX;
use crate::catalogue::name::{DatasetName, Pattern};
use crate::catalogue::node::{FoundNode, NODES_MAX, NodeRecord};
use crate::catalogue::protocol::{BLOCK_LEN_MAX, Change, Hello, Holder, MANY_MAX, Record, Request, Response};
use crate::catalogue::token::Token;
use crate::registry::PEERS_PER_MANIFEST_MAX;

/// Most trackers of one client: as many as a manifest names.
pub const TRACKERS_MAX: usize = 16;
/// How long one question may take, the dial included: above the limits of its parts.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a host name may take to be looked up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Most pages of one answer: 262,144 names are a tenth of that, whatever their length.
const PAGES_MAX: usize = 1024;
/// How often a question is asked whose connection ended meanwhile: the other end may have closed
/// it for idleness, and every question may be asked again.
const ATTEMPTS_MAX: usize = 3;
/// Questions to one tracker at a time: half of what it takes on one connection, because an
/// answered one counts there until its stream is closed.
const ASKED_AT_ONCE_MAX: usize = 4;

/// What a client is started with.
#[derive(Clone)]
pub struct ClientConfig {
    /// Who it is.
    pub keypair: Keypair,
    /// Whom it may ask, at most [`TRACKERS_MAX`]; `/dns/…` addresses are looked up.
    pub trackers: Vec<Multiaddr>,
    /// What writes are proven with, where the trackers want a proof.
    pub token: Option<Token>,
    /// The key of a private cluster, where the trackers are in one.
    pub network_key: Option<[u8; 32]>,
}

/// What became of a [`Client::put`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutOutcome {
    /// The name stands for the dataset.
    Created,
    /// It did so before.
    Already,
}

/// What became of a [`Client::remove`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoveOutcome {
    /// The name stands for nothing.
    Removed,
    /// It did not before.
    Already,
}

/// See the [module](self).
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    asks: mpsc::Sender<Ask>,
    local: PeerId,
    trackers: Vec<Known>,
    token: Mutex<Option<Token>>,
    // The tracker that answered last: asked first.
    preferred: AtomicUsize,
    leader: Mutex<Option<Leader>>,
    // When any of them answered last.
    answered: Mutex<Option<Instant>>,
}

struct Known {
    addr: Multiaddr,
    slots: Semaphore,
}

impl Client {
    /// Starts a client on the current tokio runtime. It ends with its last clone.
    pub fn start(config: ClientConfig) -> Result<Self, ClientError> {
        if config.trackers.is_empty() {
            return Err(ClientError::NoTracker);
        }
        let runtime = Handle::try_current().map_err(|_| ClientError::NoRuntime)?;
        let local = peer_id_from_libp2p(&config.keypair.public().to_peer_id())
            .ok_or_else(|| ClientError::Identity("it is too long".into()))?;
        let (asks, task) = Task::new(config.keypair, config.network_key)
            .map_err(|error| ClientError::Identity(error.to_string()))?;
        runtime.spawn(task.run());
        let known = |addr| Known { addr, slots: Semaphore::new(ASKED_AT_ONCE_MAX) };
        Ok(Self(Arc::new(Inner {
            asks,
            local,
            trackers: config.trackers.into_iter().take(TRACKERS_MAX).map(known).collect(),
            token: Mutex::new(config.token),
            preferred: AtomicUsize::new(0),
            leader: Mutex::new(None),
            answered: Mutex::new(None),
        })))
    }

    /// Proves with this token from now on.
    pub fn set_token(&self, token: Token) {
        *self.0.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
    }

    fn token(&self) -> Option<Token> {
        self.0.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets `name` stand for the dataset of `manifest`, whose hints are not kept.
    pub async fn put(&self, name: &DatasetName, manifest: &Manifest) -> Result<PutOutcome, ClientError> {
        let id = manifest.id();
        let manifest = manifest.clone();
        let bytes = blocking(move || manifest.with_hints(Hints::default()).map(|manifest| manifest.encode()))
            .await?
            .map_err(|error| ClientError::Invalid { reason: error.to_string() })?;
        self.write_manifest(name, id, &bytes).await
    }

    /// What `name` stands for, with the manifest.
    pub async fn get(&self, name: &DatasetName) -> Result<Option<(Record, Manifest)>, ClientError> {
        let request = Request::Get { name: name.clone(), manifest: true };
        let (record, len, first) = match self.read(request).await? {
            Response::Found { record, len, block } => (record, len, block),
            Response::Missing => return Ok(None),
            other => return Err(unexpected(&other)),
        };
        let Some(bytes) = self.manifest_bytes(record.id, len, first).await? else { return Ok(None) };
        let manifest = blocking(move || Manifest::decode(&bytes))
            .await?
            .map_err(|error| ClientError::Invalid { reason: error.to_string() })?;
        if manifest.id() != record.id || record.name != *name {
            return Err(ClientError::Invalid { reason: "the manifest is another one".into() });
        }
        Ok(Some((record, manifest)))
    }

    /// What `name` stands for.
    pub async fn record(&self, name: &DatasetName) -> Result<Option<Record>, ClientError> {
        match self.read(Request::Get { name: name.clone(), manifest: false }).await? {
            Response::Found { record, .. } if record.name == *name => Ok(Some(record)),
            Response::Missing => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    /// The names that match, in their order.
    pub async fn list(&self, pattern: &Pattern) -> Result<Vec<Record>, ClientError> {
        let mut all: Vec<Record> = Vec::new();
        let mut after = None;
        for _ in 0..PAGES_MAX {
            let request = Request::List { pattern: pattern.clone(), after: after.clone() };
            let (records, next) = match self.read(request).await? {
                Response::Records { records, next } => (records, next),
                other => return Err(unexpected(&other)),
            };
            all.extend(records);
            match next {
                Some(next) if all.len() <= NAMES_MAX => after = Some(next),
                Some(_) => break,
                None if all.is_sorted_by(|one, other| one.name < other.name) => return Ok(all),
                None => return Err(ClientError::Invalid { reason: "a list out of order".into() }),
            }
        }
        Err(ClientError::Invalid { reason: "a list that does not end".into() })
    }

    /// Takes the dataset `id` from `name`. Only this dataset can have the name again.
    pub async fn remove(&self, name: &DatasetName, id: ManifestId) -> Result<RemoveOutcome, ClientError> {
        self.write_removal(name, id, false).await
    }

    /// Takes the dataset `id` from `name`, now or before, so that any other can have the name.
    pub async fn forget(&self, name: &DatasetName, id: ManifestId) -> Result<RemoveOutcome, ClientError> {
        self.write_removal(name, id, true).await
    }

    /// Announces this node to every tracker; fine where one has taken it. To be repeated every
    /// [`NODE_INTERVAL`](crate::catalogue::node::NODE_INTERVAL).
    pub async fn announce_node(&self, node: &NodeRecord) -> Result<(), ClientError> {
        self.tell_all(&Request::AnnounceNode(Box::new(node.clone()))).await
    }

    /// Tells every tracker that this node goes.
    pub async fn leave_node(&self) -> Result<(), ClientError> {
        self.tell_all(&Request::LeaveNode).await
    }

    /// The nodes that any tracker knows, in the order of their ids.
    pub async fn nodes(&self) -> Result<Vec<FoundNode>, ClientError> {
        let pages = |tracker| async move {
            let mut all: Vec<FoundNode> = Vec::new();
            loop {
                let after = all.last().map(|node| node.peer);
                match self.ask_at(tracker, Request::Nodes { after }).await? {
                    Response::Nodes { nodes, more } => {
                        let more = more && !nodes.is_empty() && all.len() < NODES_MAX;
                        all.extend(nodes);
                        if !more {
                            return Ok(all);
                        }
                    }
                    other => return Err(failure_of(&other)),
                }
            }
        };
        let mut found: BTreeMap<PeerId, FoundNode> = BTreeMap::new();
        for node in self.gather(pages).await? {
            let newer = found.get(&node.peer).is_none_or(|known| node.age_s < known.age_s);
            if newer {
                found.insert(node.peer, node);
            }
        }
        Ok(found.into_values().collect())
    }

    /// The peers that any tracker knows to have announced `id`, in the order of their ids.
    pub async fn holders(&self, id: ManifestId) -> Result<Vec<Holder>, ClientError> {
        let pages = |tracker| async move {
            let mut all: Vec<Holder> = Vec::new();
            let mut after = None;
            for _ in 0..PAGES_MAX {
                match self.ask_at(tracker, Request::Holders { id, after }).await? {
                    Response::Holders { holders, next } => {
                        all.extend(holders);
                        if next.is_none() || all.len() > PEERS_PER_MANIFEST_MAX {
                            return Ok(all);
                        }
                        after = next;
                    }
                    other => return Err(failure_of(&other)),
                }
            }
            Ok(all)
        };
        let mut found: BTreeMap<PeerId, Holder> = BTreeMap::new();
        for holder in self.gather(pages).await? {
            merge(&mut found, holder);
        }
        Ok(found.into_values().collect())
    }

    /// The peers that any tracker knows to have announced each of `ids`, without their addresses: as many
    /// lists as ids.
    pub async fn many_holders(&self, ids: &[ManifestId]) -> Result<Vec<Vec<Holder>>, ClientError> {
        let known = |tracker| async move {
            let (mut all, mut done, mut long) = (Vec::new(), 0, Vec::new());
            while done < ids.len() {
                let asked = ids[done..].iter().take(MANY_MAX).copied().collect();
                match self.ask_at(tracker, Request::ManyHolders(asked)).await? {
                    Response::ManyHolders(lists) if !lists.is_empty() => {
                        for (list, number) in lists.into_iter().zip(done..ids.len()) {
                            done = number + 1;
                            if list.more {
                                long.push(number);
                            }
                            all.extend(list.holders.into_iter().map(|holder| (number, holder)));
                        }
                    }
                    other => return Err(failure_of(&other)),
                }
            }
            Ok((all, long))
        };
        let known = |tracker| async move { known(tracker).await.map(|known| vec![known]) };
        let mut found = vec![BTreeMap::<PeerId, Holder>::new(); ids.len()];
        let mut long = BTreeSet::new();
        for (all, longer) in self.gather(known).await? {
            long.extend(longer);
            all.into_iter().for_each(|(number, holder)| merge(&mut found[number], holder));
        }
        let mut found: Vec<Vec<Holder>> =
            found.into_iter().map(|holders| holders.into_values().collect()).collect();
        for number in long {
            found[number] = self.holders(ids[number]).await?;
        }
        Ok(found)
    }

    /// When any of the trackers answered last; `None` before the first answer.
    pub fn answered(&self) -> Option<Instant> {
        *self.0.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who each tracker is, in the order of the configuration; `None` where it cannot be asked.
    pub async fn hellos(&self) -> Vec<Option<Hello>> {
        join_all((0..self.0.trackers.len()).map(|tracker| async move {
            match tokio::time::timeout(ASK_TIMEOUT, self.ask_at(tracker, Request::Hello)).await {
                Ok(Ok(Response::Hello(hello))) => Some(hello),
                _ => None,
            }
        }))
        .await
    }

    /// What the first tracker says that answers within `limit`.
    pub async fn first_hello(&self, limit: Duration) -> Option<Hello> {
        let ask = |tracker| async move {
            match self.ask_at(tracker, Request::Hello).await {
                Ok(Response::Hello(hello)) => Some(hello),
                _ => None,
            }
        };
        let mut answers: FuturesUnordered<_> = (0..self.0.trackers.len()).map(ask).collect();
        let first = async {
            while let Some(answer) = answers.next().await {
                if answer.is_some() {
                    return answer;
                }
            }
            None
        };
        tokio::time::timeout(limit, first).await.ok().flatten()
    }

    /// The steps behind `since`, for a follower: whether that is too old, the next steps, and the
    /// number of the last one.
    pub(crate) async fn changes(&self, since: u64) -> Result<(bool, Vec<Change>, u64), ClientError> {
        match self.read(Request::Changes { since }).await? {
            Response::Changes { too_old, changes, sequence } => Ok((too_old, changes, sequence)),
            other => Err(unexpected(&other)),
        }
    }

    /// The bytes of the manifest `id`; `None` where no name stands for it any more.
    pub(crate) async fn manifest(&self, record: &Record) -> Result<Option<Vec<u8>>, ClientError> {
        match self.read(Request::Get { name: record.name.clone(), manifest: true }).await? {
            Response::Found { record: found, len, block } if found.id == record.id => {
                self.manifest_bytes(record.id, len, block).await
            }
            Response::Found { .. } | Response::Missing => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    async fn manifest_bytes(
        &self,
        id: ManifestId,
        len: u32,
        first: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, ClientError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > MANIFEST_LEN_MAX {
            return Err(ClientError::Invalid { reason: "a manifest that is too long".into() });
        }
        let mut bytes = first;
        if bytes.len() != len.min(BLOCK_LEN_MAX) {
            return Err(ClientError::Invalid { reason: "a block of another length".into() });
        }
        while bytes.len() < len {
            let offset = u32::try_from(bytes.len()).expect("a manifest is far below 4 GiB");
            match self.read(Request::Block { id, offset }).await? {
                Response::Block(block) if block.len() == BLOCK_LEN_MAX.min(len - bytes.len()) => {
                    bytes.extend(block);
                }
                Response::Missing => return Ok(None),
                other => return Err(unexpected(&other)),
            }
        }
        Ok(Some(bytes))
    }

    /// The answer of the first tracker that has one.
    async fn read(&self, request: Request) -> Result<Response, ClientError> {
        let count = self.0.trackers.len();
        let first = self.0.preferred.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for tracker in (0..count).map(|offset| (first + offset) % count) {
            match self.ask_at(tracker, request.clone()).await {
                Ok(Response::Refused(reason)) => {
                    failures.push((tracker, AskError::Refused(reason.as_str().to_owned())));
                }
                Ok(response) => {
                    self.0.preferred.store(tracker, Ordering::Relaxed);
                    return Ok(response);
                }
                Err(error) => failures.push((tracker, error)),
            }
        }
        Err(self.failure(failures))
    }

    /// What all trackers know together; an error where none answers.
    async fn gather<T, F: Future<Output = Result<Vec<T>, AskError>>>(
        &self,
        of_tracker: impl Fn(usize) -> F,
    ) -> Result<Vec<T>, ClientError> {
        let answers = join_all((0..self.0.trackers.len()).map(of_tracker)).await;
        let mut all = Vec::new();
        let mut failures = Vec::new();
        for (tracker, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(part) => all.extend(part),
                Err(error) => failures.push((tracker, error)),
            }
        }
        if failures.len() == self.0.trackers.len() { Err(self.failure(failures)) } else { Ok(all) }
    }

    async fn tell_all(&self, request: &Request) -> Result<(), ClientError> {
        self.gather(|tracker| {
            let request = request.clone();
            async move {
                match self.ask_at(tracker, request).await? {
                    Response::Done => Ok(Vec::<()>::new()),
                    other => Err(failure_of(&other)),
                }
            }
        })
        .await
        .map(|_| ())
    }

    /// What one tracker answers.
    async fn ask_at(&self, tracker: usize, request: Request) -> Result<Response, AskError> {
        self.ask_whom(tracker, request).await.map(|(response, _)| response)
    }

    /// What one tracker answers, and who it is.
    async fn ask_whom(
        &self,
        tracker: usize,
        request: Request,
    ) -> Result<(Response, libp2p::PeerId), AskError> {
        let known = &self.0.trackers[tracker];
        // Whoever has a slot gives it back in time.
        let _slot = known.slots.acquire().await.map_err(|_| AskError::stopped())?;
        let asked = async {
            let mut failure = AskError::Unreachable("its name has no address".into());
            for addr in resolve(&known.addr).await? {
                for _ in 0..ATTEMPTS_MAX {
                    let (answer, answered) = oneshot::channel();
                    let ask = Ask { addr: addr.clone(), request: request.clone(), answer };
                    self.0.asks.send(ask).await.map_err(|_| AskError::stopped())?;
                    match answered.await.map_err(|_| AskError::stopped())? {
                        Ok(answered) => {
                            *self.0.answered.lock().unwrap_or_else(PoisonError::into_inner) =
                                Some(Instant::now());
                            return Ok((answered.response, answered.peer));
                        }
                        Err(error) => failure = error,
                    }
                    if failure != AskError::Lost {
                        break;
                    }
                }
            }
            Err(failure)
        };
        tokio::time::timeout(ASK_TIMEOUT, asked)
            .await
            .unwrap_or_else(|_| Err(AskError::Unreachable("it does not answer".into())))
    }

    /// What a person should know of the failures of all trackers: a refusal says most.
    fn failure(&self, failures: Vec<(usize, AskError)>) -> ClientError {
        let mut reasons = Vec::new();
        for (tracker, error) in failures {
            match error {
                AskError::Refused(reason) => return ClientError::Refused { reason },
                AskError::Unreachable(reason) => {
                    reasons.push((self.0.trackers[tracker].addr.to_string(), reason));
                }
                AskError::Lost => {
                    let reason = "its connections end".to_owned();
                    reasons.push((self.0.trackers[tracker].addr.to_string(), reason));
                }
            }
        }
        let (addrs, mut reasons): (Vec<_>, Vec<_>) = reasons.into_iter().unzip();
        ClientError::Unreachable { addrs, reason: reasons.pop().unwrap_or_default() }
    }
}

/// What one more tracker says of a holder.
fn merge(found: &mut BTreeMap<PeerId, Holder>, holder: Holder) {
    let known = found.entry(holder.peer).or_insert_with(|| holder.clone());
    known.complete |= holder.complete;
    known.host = known.host.take().or(holder.host);
}

fn unexpected(response: &Response) -> ClientError {
    match failure_of(response) {
        AskError::Refused(reason) => ClientError::Refused { reason },
        AskError::Unreachable(reason) => ClientError::Invalid { reason },
        AskError::Lost => ClientError::Invalid { reason: String::new() },
    }
}

fn failure_of(response: &Response) -> AskError {
    match response {
        Response::Refused(reason) => AskError::Refused(reason.as_str().to_owned()),
        _ => AskError::Unreachable("it answers something else".into()),
    }
}

/// Does what takes long where the runtime's threads don't wait for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ClientError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ClientError::Stopped)
}

/// The addresses that `addr` stands for: itself, or those of its host name.
async fn resolve(addr: &Multiaddr) -> Result<Vec<Multiaddr>, AskError> {
    let mut parts = addr.iter();
    let (host, port) = match (parts.next(), parts.next()) {
        (
            Some(Protocol::Dns(host) | Protocol::Dns4(host) | Protocol::Dns6(host)),
            Some(Protocol::Tcp(port)),
        ) => (host.into_owned(), port),
        _ => return Ok(vec![addr.clone()]),
    };
    let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port)));
    let found: Vec<SocketAddr> = match lookup.await {
        Ok(Ok(found)) => found.take(TRACKERS_MAX).collect(),
        Ok(Err(error)) => return Err(AskError::Unreachable(error.to_string())),
        Err(_) => return Err(AskError::Unreachable("its name is not found in time".into())),
    };
    let rest: Multiaddr = parts.collect();
    Ok(found.into_iter().map(|addr| to_multiaddr(addr).iter().chain(rest.iter()).collect()).collect())
}
