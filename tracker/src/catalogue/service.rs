//! The catalogue without its network: one thread that owns names, nodes and their [store](super::store).
//!
//! Requests wait in a bounded queue. The thread takes those that are waiting, applies the ones
//! that change something, makes that durable in one transaction (a group commit), and only then
//! answers; what only reads is answered after that, from what is durable. A change that cannot be
//! made durable is taken back.
//!
//! Where to start reading: [`Handle::ask`], then `run`; what each request does is in `core`.

mod core;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use dft_protocol::id::PeerId;
use tokio::sync::oneshot;

use self::core::Core;
use super::name::DatasetName;
use super::protocol::{CatalogueId, Change, Request, Response};
use super::store::Meta;
use super::token::Nonce;
use crate::protocol::Reason;
use crate::registry::FoundPeer;
use crate::service::{Notice, ServiceError};

/// Most requests that wait for the thread: with a block each they are 64 MiB.
const QUEUE_LEN_MAX: usize = 256;
/// Most requests of one transaction: bounds how long the first of them waits for the others.
const BATCH_LEN_MAX: usize = 128;
/// A transaction takes no further request once it has this many bytes of manifests.
const BATCH_BYTES: usize = 32 << 20;
/// The longest that expired nodes and manifests on their way are kept.
const TICK: Duration = Duration::from_secs(10);
/// A file that could not be used is tried again after this: checking a large one takes a while.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How a catalogue is to start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StartAs {
    /// As it was: a new one takes writes.
    #[default]
    AsBefore,
    /// As a follower of the tracker at this address.
    Follow(String),
    /// As the leader, in an epoch of its own where it was a follower.
    Promoted,
}

/// What a catalogue is started with.
#[derive(Debug, Clone)]
pub struct CatalogueConfig {
    /// The database file. Its directory takes manifests on their way.
    pub path: PathBuf,
    /// How it starts.
    pub start_as: StartAs,
    /// Whether writes need no proof.
    pub open: bool,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Who it is: proven by its connection.
    pub peer: PeerId,
    /// Where it was seen.
    pub observed: IpAddr,
    /// Whether its connection has proven to know the token.
    pub proven: bool,
}

/// What a follower has learnt from its leader.
#[derive(Debug)]
pub enum CopyStep {
    /// Whose copy this is; only an empty catalogue can become another's copy.
    Adopt(CatalogueId),
    /// A change, and its manifest where it was [`Response::Wanted`].
    Change(Box<Change>, Option<Vec<u8>>),
    /// All changes up to `sequence` of `epoch` are here. With `only`, nothing else is to be.
    Reached {
        /// The leader's epoch.
        epoch: u64,
        /// The number of the step.
        sequence: u64,
        /// All names that the leader knows, after a full copy.
        only: Option<BTreeSet<DatasetName>>,
    },
}

enum Ask {
    Hello(Nonce),
    Fence(u64),
    Request(Caller, Request),
    Holders(Vec<FoundPeer>, bool),
    ManyHolders(Vec<(Vec<FoundPeer>, bool)>),
    Copy(CopyStep),
    Meta(oneshot::Sender<Meta>),
    Gone(PeerId),
    Stop,
}

impl Ask {
    fn writes(&self) -> bool {
        match self {
            Ask::Fence(_) | Ask::Copy(_) => true,
            Ask::Request(_, request) => request.writes(),
            _ => false,
        }
    }
}

struct Question {
    ask: Ask,
    answer: oneshot::Sender<Response>,
}

/// Asks a running catalogue; cheap to clone.
#[derive(Clone)]
pub struct Handle(SyncSender<Question>);

impl Handle {
    /// What the catalogue answers to a request. `Hello`, `Prove`, `Holders` and `ManyHolders`
    /// concern the connection or the registry as well: see [`Self::hello`], [`Self::fence`],
    /// [`Self::holders`], [`Self::many_holders`].
    pub fn ask(&self, caller: Caller, request: Request) -> impl Future<Output = Response> + Send + use<> {
        self.put(Ask::Request(caller, request))
    }

    /// Who the catalogue is, with `nonce` as the challenge.
    pub fn hello(&self, nonce: Nonce) -> impl Future<Output = Response> + Send + use<> {
        self.put(Ask::Hello(nonce))
    }

    /// Somebody who knows the token has heard of `epoch`: a leader of a lower one steps down.
    pub fn fence(&self, epoch: u64) -> impl Future<Output = Response> + Send + use<> {
        self.put(Ask::Fence(epoch))
    }

    /// The answer to `Holders`, where `found` are those that the registry knows.
    pub fn holders(
        &self,
        found: Vec<FoundPeer>,
        more: bool,
    ) -> impl Future<Output = Response> + Send + use<> {
        self.put(Ask::Holders(found, more))
    }

    /// The answer to `ManyHolders`, where `found` are those that the registry knows.
    pub fn many_holders(
        &self,
        found: Vec<(Vec<FoundPeer>, bool)>,
    ) -> impl Future<Output = Response> + Send + use<> {
        self.put(Ask::ManyHolders(found))
    }

    /// Takes a step of the leader's history.
    pub fn copy(&self, step: CopyStep) -> impl Future<Output = Response> + Send + use<> {
        self.put(Ask::Copy(step))
    }

    /// What the catalogue knows of itself; `None` where it cannot say.
    pub async fn meta(&self) -> Option<Meta> {
        let (sender, meta) = oneshot::channel();
        let asked = self.put(Ask::Meta(sender));
        drop(asked.await);
        meta.await.ok()
    }

    /// The last connection of `peer` is gone.
    pub fn gone(&self, peer: PeerId) {
        // Where the queue is full, the node's record expires a little later.
        drop(self.put(Ask::Gone(peer)));
    }

    fn put(&self, ask: Ask) -> impl Future<Output = Response> + Send + use<> {
        let (answer, response) = oneshot::channel();
        // A full queue drops the question, and with it the sender of its answer.
        let _ = self.0.try_send(Question { ask, answer });
        async { response.await.unwrap_or_else(|_| refused("the tracker is overloaded or stopping")) }
    }
}

/// A running catalogue. Dropping it ends the thread, after what was taken is durable.
pub struct Catalogue {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Catalogue {
    /// Starts. `notify` is called from the catalogue's thread.
    pub fn start(
        config: CatalogueConfig,
        notify: impl Fn(Notice) + Send + 'static,
    ) -> Result<Self, ServiceError> {
        let (queue, questions) = sync_channel(QUEUE_LEN_MAX);
        let thread = std::thread::Builder::new()
            .name("catalogue".into())
            .spawn(move || run(Core::new(config, notify), &questions))
            .map_err(ServiceError::Thread)?;
        Ok(Self { handle: Handle(queue), thread: Some(thread) })
    }

    /// What asks it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        // Waits for room in the queue; where the thread is gone, so is the queue.
        let (answer, _) = oneshot::channel();
        let _ = self.handle.0.send(Question { ask: Ask::Stop, answer });
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by it; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

fn refused(reason: &str) -> Response {
    Response::Refused(Reason::new(reason))
}

/// The thread: batch by batch until it is told to stop.
fn run<Notify: Fn(Notice)>(mut core: Core<Notify>, questions: &Receiver<Question>) {
    core.open();
    loop {
        let mut batch = Vec::new();
        match questions.recv_timeout(TICK) {
            Ok(first) => batch.push(first),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        core.tick();
        let stops = !serve(&mut core, batch, questions);
        if stops {
            return;
        }
    }
}

/// Answers `batch` and what waits behind it; whether the thread is to go on.
fn serve<Notify: Fn(Notice)>(
    core: &mut Core<Notify>,
    mut batch: Vec<Question>,
    questions: &Receiver<Question>,
) -> bool {
    let mut written = Vec::new();
    let mut read = Vec::new();
    let mut goes_on = true;
    while let Some(Question { ask, answer }) = batch.pop() {
        if matches!(ask, Ask::Stop) {
            goes_on = false;
            break;
        }
        if ask.writes() {
            let response = core.write(ask, SystemTime::now());
            written.push((answer, response));
        } else {
            read.push((ask, answer));
        }
        let room = written.len() + read.len() < BATCH_LEN_MAX && core.pending_bytes() < BATCH_BYTES;
        if room && let Ok(next) = questions.try_recv() {
            batch.push(next);
        }
    }
    let durable = core.commit();
    for (answer, response) in written {
        let response = if durable { response } else { refused("the tracker cannot write its state") };
        let _ = answer.send(response);
    }
    for (ask, answer) in read {
        let _ = answer.send(core.read(ask));
    }
    goes_on
}
