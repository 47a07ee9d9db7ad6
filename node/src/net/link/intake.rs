//! Where received payload goes: hashed, compared with the manifest, written.
//!
//! A piece of up to [`DATA_LEN_MAX`] is held in memory until its hash is known to be right, and
//! only then written. A longer one is hashed and written as it arrives, block by block, by the
//! link that was asked last (`stream.rs`), and by no other.
//!
//! Hashing is the dearest step, and two messages at once cost little more than one
//! ([`sha256::update_two`]). So payload of all links waits in one queue, and a worker takes two
//! jobs from it and replaces each as it ends. A worker lives as long as there is work; a second
//! one starts only when more waits than the first can take up, because two workers with one job
//! each would cost twice as much as one worker with two.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::Manifest;
use dft_protocol::swarm::LinkId;
use dft_protocol::wire::DATA_LEN_MAX;
use tokio::sync::{mpsc, oneshot};

use super::io::Report;
use super::pack::{Packer, Packing, Unpacker};
use super::stream::{Stream, Streams};
use crate::buffers::{Buffer, BufferPool};
use crate::rate::RateLimits;
use crate::sha256::{self, Sha256};
use crate::storage::{StorageError, Store};
use crate::trace::Trace;

/// Memory for received payload, per manifest.
const POOL_BYTES: usize = 24 * 1024 * 1024;
/// Fewest buffers: two for each of some links, or they would wait for each other.
const POOL_BUFFERS_MIN: usize = 16;
/// A job that is alone is hashed so many bytes at a time: a newcomer beside it waits no longer.
const STEP_LEN: usize = 64 * 1024;
/// Jobs that wait for each worker before another starts: it will take up two soon.
const WAITING_PER_WORKER: usize = 2;

/// Where received payload goes; shared by all links of a manifest.
pub struct Intake {
    manifest: Arc<Manifest>,
    store: Arc<Store>,
    buffers: BufferPool,
    queue: Mutex<Queue>,
    /// Workers at most: as many as cores.
    workers_max: usize,
    /// Held while a whole piece is written: a lock that sleeps, in front of the kernel's lock of a
    /// file, which spins.
    writing: Mutex<()>,
    /// Whose turn it is to write a long piece as it arrives.
    streams: Streams,
    limits: Arc<RateLimits>,
    packer: Packer,
    /// Payload that arrived.
    arrived_bytes: AtomicU64,
    trace: Trace,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    workers: usize,
}

/// Payload to be hashed and stored.
struct Job {
    /// What came before of the same piece, and what of this is hashed.
    hash: Sha256,
    buffer: Buffer,
    /// How much of the buffer is payload, and how much of that is hashed.
    len: usize,
    hashed: usize,
    /// The buffer holds a packed form of this length, rather than the piece.
    packed: Option<usize>,
    /// What it held before it was unpacked.
    packed_form: Option<Arc<[u8]>>,
    /// Nothing that could be the piece came out of it.
    broken: bool,
    then: Then,
}

enum Then {
    /// It is a whole piece, from this link: who wants to know whether it is right.
    Whole { link: LinkId, piece: PieceIndex, reports: mpsc::Sender<Report> },
    /// It is a block at this offset of a longer piece: who waits for the hash so far.
    Block { stream: Stream, offset: u32, reply: oneshot::Sender<Result<Sha256, StorageError>> },
}

/// A block on its way to the disk: gives the hash of its piece so far.
pub(super) type Storing = oneshot::Receiver<Result<Sha256, StorageError>>;

impl Intake {
    /// The intake of a manifest whose pieces are kept in `store`.
    pub fn new(
        manifest: Arc<Manifest>,
        store: Arc<Store>,
        limits: Arc<RateLimits>,
        packing: Packing,
        trace: Trace,
    ) -> Arc<Self> {
        let packer = Packer::new(packing, manifest.geometry().piece_count());
        let len = manifest.geometry().piece_len_max().clamp(1, DATA_LEN_MAX) as usize;
        let buffers = BufferPool::new((POOL_BYTES / len).max(POOL_BUFFERS_MIN), len);
        Arc::new(Self {
            manifest,
            store,
            buffers,
            queue: Mutex::default(),
            workers_max: std::thread::available_parallelism().map_or(1, usize::from),
            writing: Mutex::default(),
            streams: Streams::default(),
            limits,
            packer,
            arrived_bytes: AtomicU64::new(0),
            trace,
        })
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// How fast payload may move.
    pub fn limits(&self) -> &RateLimits {
        &self.limits
    }

    /// Payload that arrived, in bytes, of whatever worth it is.
    pub fn arrived_bytes(&self) -> u64 {
        self.arrived_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that were not sent, since their pieces went packed.
    pub fn saved_bytes(&self) -> u64 {
        self.packer.saved_bytes()
    }

    pub(super) fn packer(&self) -> &Packer {
        &self.packer
    }

    pub(super) fn add_arrived(&self, len: usize) {
        self.arrived_bytes.fetch_add(len as u64, Ordering::Relaxed);
    }

    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// A buffer for a whole piece, or for a block of a longer one. Waits while all are in use.
    pub(super) async fn buffer(&self) -> Buffer {
        self.buffers.take().await
    }

    /// Checks a whole piece, writes it where its hash is right, and reports. `packed` is the length
    /// of its packed form, where it came so.
    pub(super) fn check_piece(
        self: &Arc<Self>,
        link: LinkId,
        piece: PieceIndex,
        (buffer, packed): (Buffer, Option<u32>),
        reports: mpsc::Sender<Report>,
    ) {
        let len = self.manifest.geometry().piece_len(piece) as usize;
        let then = Then::Whole { link, piece, reports };
        let mut job = Job::new(Sha256::new(), (buffer, len), then);
        job.packed = packed.map(|len| len as usize);
        self.push(job);
    }

    /// A link is asked for a piece: where that is a long one, its turn to write it.
    pub(super) fn begin_stream(&self, piece: PieceIndex) -> Option<Stream> {
        let is_long = self.manifest.geometry().piece_len(piece) > DATA_LEN_MAX;
        is_long.then(|| self.streams.begin(piece))
    }

    /// Hashes and writes the first `len` bytes of `buffer`, which belong at `offset` of a long
    /// piece, after all that `hash` has taken in.
    pub(super) fn store_block(
        self: &Arc<Self>,
        stream: Stream,
        hash: Sha256,
        (buffer, len): (Buffer, u32),
        offset: u32,
    ) -> Storing {
        let (reply, storing) = oneshot::channel();
        let then = Then::Block { stream, offset, reply };
        self.push(Job::new(hash, (buffer, len as usize), then));
        storing
    }

    /// The last block of a long piece was stored: is the piece right? `None` where it is another
    /// link's turn: what is on disk is not what was hashed.
    pub(super) fn finish_stream(&self, stream: &Stream, hash: Sha256) -> Option<bool> {
        let piece = stream.piece();
        let valid = hash.finish() == *self.manifest.hash(piece).as_bytes();
        // First closed to all writes, then forgotten: in between nobody else can write.
        stream.while_current(|| {
            if valid {
                self.store.verified(piece);
            }
        })?;
        self.streams.end(stream);
        Some(valid)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something waits to be hashed and written, or is being.
    #[cfg(test)]
    pub(super) fn is_at_work(&self) -> bool {
        self.queue().workers > 0
    }

    fn push(self: &Arc<Self>, job: Job) {
        let mut queue = self.queue();
        queue.jobs.push_back(job);
        let is_enough = queue.jobs.len() <= queue.workers * WAITING_PER_WORKER;
        if is_enough || queue.workers >= self.workers_max {
            return;
        }
        queue.workers += 1;
        drop(queue);
        let intake = self.clone();
        tokio::task::spawn_blocking(move || intake.work());
    }

    /// Does jobs, two at a time, until there are none.
    fn work(&self) {
        let mut lanes: [Option<Job>; 2] = [None, None];
        let (mut unpacker, mut scratch) = (Unpacker::default(), Vec::new());
        loop {
            if lanes.iter().any(Option::is_none) {
                let mut queue = self.queue();
                for lane in lanes.iter_mut().filter(|lane| lane.is_none()) {
                    *lane = queue.jobs.pop_front();
                }
                if lanes.iter().all(Option::is_none) {
                    // Under the lock: whoever pushes next starts a worker.
                    queue.workers -= 1;
                    return;
                }
                drop(queue);
                lanes.iter_mut().flatten().for_each(|job| job.unpack(&mut unpacker, &mut scratch));
            }
            match &mut lanes {
                [Some(first), Some(second)] => {
                    let len = first.rest().len().min(second.rest().len());
                    let (a, b) =
                        (&first.buffer[first.hashed..][..len], &second.buffer[second.hashed..][..len]);
                    sha256::update_two((&mut first.hash, a), (&mut second.hash, b));
                    first.hashed += len;
                    second.hashed += len;
                }
                [Some(job), None] | [None, Some(job)] => {
                    let len = job.rest().len().min(STEP_LEN);
                    job.hash.update(&job.buffer[job.hashed..][..len]);
                    job.hashed += len;
                }
                [None, None] => unreachable!("a worker without work has returned"),
            }
            for lane in &mut lanes {
                if let Some(job) = lane.take_if(|job| job.rest().is_empty()) {
                    self.finish(job);
                }
            }
        }
    }

    /// All of a job is hashed.
    fn finish(&self, job: Job) {
        let Job { hash, mut buffer, len, packed_form, broken, then, .. } = job;
        match then {
            Then::Whole { link, piece, reports } => {
                let stored = if broken { Ok(false) } else { self.store_whole(piece, hash, &mut buffer) };
                if let (Ok(true), Some(packed)) = (&stored, packed_form) {
                    self.packer.keep(piece, packed);
                }
                drop(buffer);
                let report = match stored {
                    Ok(valid) => Report::Piece { link, piece, valid },
                    Err(error) => Report::StorageFailed(error),
                };
                // Where the driver is gone, nobody is left to be told.
                let _ = reports.blocking_send(report);
            }
            Then::Block { stream, offset, reply } => {
                let write = || self.store.write(stream.piece(), offset, &buffer[..len]);
                let stored = stream.while_current(write).unwrap_or(Ok(()));
                drop(buffer);
                // Where the link is gone, so is its piece.
                let _ = reply.send(stored.map(|()| hash));
            }
        }
    }

    /// Writes a whole piece where its hash is right.
    fn store_whole(
        &self,
        piece: PieceIndex,
        hash: Sha256,
        buffer: &mut Buffer,
    ) -> Result<bool, StorageError> {
        let valid = hash.finish() == *self.manifest.hash(piece).as_bytes();
        if valid {
            let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            self.store.write_whole(piece, buffer)?;
            self.store.verified(piece);
        }
        Ok(valid)
    }
}

impl Job {
    fn new(hash: Sha256, (buffer, len): (Buffer, usize), then: Then) -> Self {
        let (packed, packed_form, broken) = (None, None, false);
        Self { hash, buffer, len, hashed: 0, packed, packed_form, broken, then }
    }

    /// Makes a packed piece plain.
    fn unpack(&mut self, unpacker: &mut Unpacker, scratch: &mut Vec<u8>) {
        let Some(packed_len) = self.packed.take() else {
            return;
        };
        scratch.resize(self.buffer.len(), 0);
        let packed = &self.buffer[..packed_len];
        if unpacker.unpack(packed, &mut scratch[..self.len]) {
            self.packed_form = Some(Arc::from(packed));
            self.buffer.swap(scratch);
        } else {
            self.broken = true;
            self.hashed = self.len;
        }
    }

    /// What is still to be hashed.
    fn rest(&self) -> &[u8] {
        &self.buffer[self.hashed..self.len]
    }
}
