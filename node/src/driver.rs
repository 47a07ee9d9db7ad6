//! The one loop that drives a swarm: events in, commands out, and no waiting in between.
//!
//! The driver owns the [`Swarm`] and the links of one manifest. Whatever takes time (dialling,
//! hashing, flushing) runs elsewhere and comes back as an input. Others see it through a
//! [`Handle`]: snapshots for whoever draws progress, updates for what happened.

mod durability;
mod readers;
mod remote;
mod tally;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::{Manifest, PeerAddr};
use dft_protocol::piece_set::PieceSet;
use dft_protocol::swarm::{
    Command, Config, DisconnectReason, Event, LinkId, Notification, PieceState, Stats, Swarm,
};
use dft_protocol::time::Instant as SwarmInstant;
use tokio::sync::{mpsc, oneshot, watch};

use self::durability::{Finish, Unflushed};
use self::readers::Readers;
pub use self::remote::{Handle, Reader, Remote, Snapshot, Update};
use self::tally::Tally;
use crate::net::link::intake::Intake;
use crate::net::link::io::{LinkHandle, Report};
use crate::net::link::pack::Packing;
use crate::net::link::{Endpoint, LinkError, Open, Role, Route};
use crate::rate::RateLimits;
use crate::storage::{StorageError, Store};
use crate::trace::Trace;

/// Uploads that run at once: few, as the virtual-time world of protocol/tests suggests; what was run
/// on real hosts is in docs/PERFORMANCE.md.
pub const UPLOAD_SLOTS: usize = 2;
/// How often watchers see a new snapshot.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(200);
/// Reports that wait for the driver; links wait while there are more.
const REPORTS_MAX: usize = 1024;
/// Reports that are taken in before the commands of all of them are carried out.
const REPORTS_PER_TURN: usize = 64;
/// Most waits for pieces at a time: a few readers of one dataset, each a piece ahead.
const AWAITED_MAX: usize = 256;
/// How long links may take to send what is queued when a node leaves.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

enum Control {
    Found(Vec<PeerAddr>),
    Await { piece: PieceIndex, verified: oneshot::Sender<()> },
    Pieces(oneshot::Sender<PieceSet>),
    Read { reader: u64, ahead: Vec<PieceIndex> },
    EndReading(u64),
    Look(oneshot::Sender<bool>),
    Recheck { piece: PieceIndex, rechecked: oneshot::Sender<bool> },
    Shutdown(oneshot::Sender<()>),
}

/// Work that was done elsewhere.
enum Done {
    Dialled { addr: SocketAddr, result: Box<Result<Open, LinkError>> },
    Flushed(Result<Vec<PieceIndex>, StorageError>),
    Finished(Result<PathBuf, StorageError>),
    Rechecked { piece: PieceIndex, valid: Result<bool, StorageError>, asker: Option<oneshot::Sender<bool>> },
    Looked { changed: Option<(StorageError, Vec<PieceIndex>)>, looked: oneshot::Sender<bool> },
}

/// What a driver is made of.
pub struct DriverConfig {
    /// What is sent or fetched.
    pub manifest: Arc<Manifest>,
    /// Where its pieces are.
    pub store: Arc<Store>,
    /// Opens links.
    pub endpoint: Arc<Endpoint>,
    /// Whether missing pieces are fetched.
    pub download: bool,
    /// How fast payload may move; shared by all drivers of a process.
    pub limits: Arc<RateLimits>,
    /// Whether pieces are sent in compressed form.
    pub packing: Packing,
    /// Where what happens is recorded.
    pub trace: Trace,
}

/// Starts the driver of a manifest.
pub fn start(config: DriverConfig) -> Handle {
    let DriverConfig { manifest, store, endpoint, download, limits, packing, trace } = config;
    let have = store.durable();
    let selection = store.selection();
    // What is only read is wanted as readers come to it.
    let nothing = || PieceSet::empty(manifest.geometry().piece_count());
    let wanted = match () {
        () if store.is_passing() => Some(nothing()),
        () => (download && !selection.is_all()).then(|| selection.pieces(&manifest)),
    };
    let swarm_config = Config {
        local: endpoint.identity().peer(),
        site: endpoint.site().cloned(),
        download,
        wanted,
        upload_slots: UPLOAD_SLOTS,
        seed: rand::random(),
    };
    let swarm = Swarm::new(swarm_config, manifest.geometry().clone(), have);
    let complete = Arc::new(AtomicBool::new(swarm.have().is_full()));
    let (opened_sender, opened) = mpsc::channel(64);
    endpoint.serve(
        manifest.id(),
        Route {
            opened: opened_sender,
            complete: complete.clone(),
            piece_len_max: manifest.geometry().piece_len_max(),
        },
    );
    let (report_sender, reports) = mpsc::channel(REPORTS_MAX);
    let (done_sender, done) = mpsc::unbounded_channel();
    let (control, control_receiver) = mpsc::channel(16);
    let (updates, update_receiver) = mpsc::unbounded_channel();
    let tally = Tally::new(&manifest, store.selection(), swarm.have());
    let (snapshot, snapshots) = watch::channel(Snapshot { have_bytes: tally.have, ..Snapshot::default() });
    let store_passes = store.is_passing();
    let driver = Driver {
        intake: Intake::new(manifest.clone(), store.clone(), limits, packing, trace.clone()),
        told_limits: (None, None),
        manifest,
        store,
        endpoint,
        swarm,
        complete,
        links: HashMap::new(),
        next_link: 0,
        started: Instant::now(),
        report_sender,
        done_sender,
        updates,
        snapshot,
        tally,
        dialling: 0,
        unflushed: Unflushed::default(),
        awaited: Vec::new(),
        finish: if download && !store_passes { Finish::Ahead } else { Finish::Done },
        readers: Readers::default(),
        trace,
    };
    tokio::spawn(driver.run(opened, reports, done, control_receiver));
    Handle { control, updates: update_receiver, snapshots }
}

struct Driver {
    manifest: Arc<Manifest>,
    store: Arc<Store>,
    endpoint: Arc<Endpoint>,
    intake: Arc<Intake>,
    swarm: Swarm,
    complete: Arc<AtomicBool>,
    links: HashMap<LinkId, LinkHandle>,
    next_link: u64,
    started: Instant,
    report_sender: mpsc::Sender<Report>,
    done_sender: mpsc::UnboundedSender<Done>,
    updates: mpsc::UnboundedSender<Update>,
    snapshot: watch::Sender<Snapshot>,
    tally: Tally,
    dialling: usize,
    unflushed: Unflushed,
    /// Who waits for a piece.
    awaited: Vec<(PieceIndex, oneshot::Sender<()>)>,
    finish: Finish,
    readers: Readers,
    /// The rate limits of which the swarm knows: upload, download.
    told_limits: (Option<u64>, Option<u64>),
    trace: Trace,
}

impl Driver {
    async fn run(
        mut self,
        mut opened: mpsc::Receiver<Open>,
        mut reports: mpsc::Receiver<Report>,
        mut done: mpsc::UnboundedReceiver<Done>,
        mut control: mpsc::Receiver<Control>,
    ) {
        let mut snapshots = tokio::time::interval(SNAPSHOT_EVERY);
        snapshots.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        self.flush_if_due();
        self.tell_limits();
        loop {
            let timeout =
                self.swarm.poll_timeout().map(|at| self.started + Duration::from_nanos(at.as_nanos()));
            tokio::select! {
                Some(report) = reports.recv() => {
                    self.handle_report(report);
                    for _ in 1..REPORTS_PER_TURN {
                        match reports.try_recv() {
                            Ok(report) => self.handle_report(report),
                            Err(_) => break,
                        }
                    }
                }
                Some(open) = opened.recv() => self.handle_opened(open),
                Some(done) = done.recv() => self.handle_done(done),
                message = control.recv() => match message {
                    Some(Control::Found(peers)) => self.event(Event::PeersFound(peers)),
                    Some(Control::Await { piece, verified }) => self.await_piece(piece, verified),
                    Some(Control::Read { reader, ahead }) => {
                        self.readers.go_on(reader, ahead);
                        self.read_on();
                    }
                    Some(Control::EndReading(reader)) => {
                        self.readers.end(reader);
                        self.read_on();
                    }
                    Some(Control::Look(looked)) => self.look(looked),
                    Some(Control::Recheck { piece, rechecked }) => self.recheck(piece, Some(rechecked)),
                    Some(Control::Pieces(answer)) => drop(answer.send(self.swarm.have().clone())),
                    Some(Control::Shutdown(done)) => {
                        self.leave().await;
                        let _ = done.send(());
                        return;
                    }
                    None => return self.leave().await,
                },
                () = sleep_until(timeout) => {
                    let now = self.now();
                    self.swarm.handle_timeout(now);
                    self.carry_out();
                }
                // A node may hold thousands of datasets of which nobody wants anything.
                _ = snapshots.tick(), if !self.is_idle() => {
                    self.tell_limits();
                    self.flush_if_due();
                    self.publish();
                    if self.is_idle() {
                        self.store.close_files();
                    }
                }
            }
        }
    }

    /// Nothing can change until something comes from outside; the last snapshot says so.
    fn is_idle(&self) -> bool {
        matches!(self.finish, Finish::Done)
            && self.links.is_empty()
            && self.dialling == 0
            && self.snapshot.borrow().stats.links == 0
    }

    fn now(&self) -> SwarmInstant {
        let nanos = self.started.elapsed().as_nanos();
        SwarmInstant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    // ---- inputs ----

    fn await_piece(&mut self, piece: PieceIndex, verified: oneshot::Sender<()>) {
        if self.swarm.have().contains(piece) {
            let _ = verified.send(());
            return;
        }
        // Who does not wait any more makes room for who does.
        self.awaited.retain(|(_, verified)| !verified.is_closed());
        if self.awaited.len() < AWAITED_MAX {
            self.awaited.push((piece, verified));
        }
    }

    /// Readers have come further: other pieces are waited for.
    fn read_on(&mut self) {
        let ahead = self.readers.ahead(self.manifest.geometry());
        if !self.store.is_passing() {
            return self.event(Event::Preferred(ahead));
        }
        let before = self.swarm.have().clone();
        self.event(Event::Reading(ahead));
        let have = self.swarm.have();
        before.iter().filter(|piece| !have.contains(*piece)).for_each(|piece| self.tally.remove(piece));
        // What is not wanted any more, and not on its way, is missing by now.
        self.store.keep(|piece| self.swarm.piece_state(piece) != PieceState::Missing);
    }

    fn event(&mut self, event: Event) {
        self.trace.input(&event);
        let now = self.now();
        self.swarm.handle(event, now);
        self.carry_out();
    }

    /// The swarm knows how fast this node lets payload move.
    fn tell_limits(&mut self) {
        let limits = self.intake.limits();
        let (upload, download) = (limits.upload.rate(), limits.download.rate());
        if self.told_limits != (upload, download) {
            self.told_limits = (upload, download);
            self.event(Event::RatesLimited { upload, download });
        }
    }

    fn handle_report(&mut self, report: Report) {
        match report {
            Report::Event(event) => {
                if let Event::LinkDown { link } | Event::Misbehaved { link, .. } = &event {
                    self.links.remove(link);
                }
                self.event(event);
            }
            Report::Piece { link, piece, valid } => {
                let now = self.now();
                self.swarm.handle(Event::PieceReceived { link, piece }, now);
                self.event(Event::PieceChecked { link, piece, valid });
            }
            Report::StorageFailed(error) => self.update(Update::StorageFailed(error)),
            Report::Unreadable { link, piece, error } => {
                self.event(Event::PieceUnreadable { link, piece });
                // Whatever else keeps a read from working (no descriptors, a disk that is away for a
                // moment) says nothing about the data.
                if let StorageError::Changed { entry, .. } = &error {
                    self.lose(self.store.pieces_of(&[*entry]), error.to_string(), false);
                }
            }
        }
    }

    /// Looks whether the files that are served are as they were.
    fn look(&self, looked: oneshot::Sender<bool>) {
        let store = self.store.clone();
        self.elsewhere(move || Done::Looked { changed: store.changed(), looked });
    }

    fn recheck(&self, piece: PieceIndex, asker: Option<oneshot::Sender<bool>>) {
        let store = self.store.clone();
        self.elsewhere(move || Done::Rechecked { piece, valid: store.rehash(piece), asker });
    }

    fn handle_opened(&mut self, open: Open) {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let Open { peer, remote, role, neighbour, hello, timing, read, write } = open;
        let (intake, reports) = (self.intake.clone(), self.report_sender.clone());
        let handle = LinkHandle::start((link, hello.version), read, write, intake, reports);
        self.links.insert(link, handle);
        let event = Event::LinkUp { link, peer, remote, dialled: role == Role::Dialler, neighbour, hello };
        self.trace.link_up(&event, timing);
        self.event(event);
    }

    fn handle_done(&mut self, done: Done) {
        match done {
            Done::Dialled { addr, result } => {
                self.dialling -= 1;
                match *result {
                    Ok(open) => self.handle_opened(open),
                    Err(error) => {
                        self.trace.dial_failed(addr, &error);
                        self.event(Event::DialFailed { addr, hopeless: error.is_hopeless() });
                        self.update(Update::DialFailed { addr, error });
                    }
                }
            }
            Done::Flushed(Ok(pieces)) => {
                self.unflushed.flushing = false;
                self.event(Event::PiecesDurable(pieces));
                self.flush_if_due();
            }
            Done::Flushed(Err(error)) => {
                self.unflushed.flushing = false;
                self.update(Update::StorageFailed(error));
            }
            Done::Finished(result) => self.handle_finished(result),
            Done::Rechecked { piece, valid, asker } => {
                let reason = || StorageError::Corrupt { piece }.to_string();
                let is_lost = matches!(valid, Ok(false)) && self.lose(vec![piece], reason(), true);
                if let Some(asker) = asker {
                    let _ = asker.send(is_lost);
                }
            }
            Done::Looked { changed, looked } => {
                let has_changed = changed.is_some();
                if let Some((error, lost)) = changed {
                    self.lose(lost, error.to_string(), false);
                }
                let _ = looked.send(has_changed);
            }
        }
    }

    // ---- commands ----

    fn carry_out(&mut self) {
        while let Some(command) = self.swarm.poll_command() {
            self.trace.output(&command);
            match command {
                Command::Connect(peer) => self.dial(peer.addr),
                Command::Disconnect { link, reason } => self.disconnect(link, reason),
                Command::Send { link, message } => {
                    if self.links.get(&link).is_some_and(|handle| handle.send(message).is_err()) {
                        self.drop_slow(link);
                    }
                }
                Command::SendPiece { link, piece } => {
                    if self.links.get(&link).is_some_and(|handle| handle.send_piece(piece).is_err()) {
                        self.drop_slow(link);
                    }
                }
                Command::Recheck(piece) => self.recheck(piece, None),
                Command::Notify(notification) => self.notify(&notification),
            }
        }
    }

    fn notify(&mut self, notification: &Notification) {
        match *notification {
            Notification::PieceVerified { piece, from_seeder } => {
                self.tally.add(piece, from_seeder);
                self.unflushed.bytes += u64::from(self.manifest.geometry().piece_len(piece));
                self.unflushed.since.get_or_insert_with(Instant::now);
                for (_, verified) in self.awaited.extract_if(.., |(awaited, _)| *awaited == piece) {
                    let _ = verified.send(());
                }
            }
            Notification::AllVerified => {
                let is_kept = !self.store.is_passing();
                self.complete.store(is_kept && self.swarm.have().is_full(), Ordering::Relaxed);
                self.flush_if_due();
            }
            Notification::PeerCompleted(peer) => self.update(Update::PeerCompleted(peer)),
            Notification::Banned { peer, remote, violation } => {
                self.update(Update::Banned { peer, remote, violation });
            }
        }
    }

    fn dial(&mut self, addr: SocketAddr) {
        self.dialling += 1;
        let (endpoint, manifest, done) =
            (self.endpoint.clone(), self.manifest.id(), self.done_sender.clone());
        tokio::spawn(async move {
            let result = Box::new(endpoint.dial(addr, manifest).await);
            let _ = done.send(Done::Dialled { addr, result });
        });
    }

    fn disconnect(&mut self, link: LinkId, reason: DisconnectReason) {
        let Some(handle) = self.links.remove(&link) else {
            return;
        };
        match reason {
            // Lets the peer know what it did (a corrupt piece), bounded by its own reading.
            DisconnectReason::Violation(_) => drop(tokio::spawn(handle.finish(GOODBYE_MAX))),
            _ => drop(handle),
        }
    }

    /// Drops a peer that does not read what it is sent. (The swarm hears of it as of any lost link.)
    fn drop_slow(&mut self, link: LinkId) {
        self.links.remove(&link);
        let report = Report::Event(Event::LinkDown { link });
        let sender = self.report_sender.clone();
        tokio::spawn(async move { sender.send(report).await });
    }

    /// Runs blocking work, whose result comes back as an input.
    fn elsewhere(&self, work: impl FnOnce() -> Done + Send + 'static) {
        let done = self.done_sender.clone();
        tokio::task::spawn_blocking(move || {
            let _ = done.send(work());
        });
    }

    fn update(&self, update: Update) {
        let _ = self.updates.send(update);
    }

    fn publish(&self) {
        let Tally { have, from_seeders, from_peers, .. } = self.tally;
        let _ = self.snapshot.send(Snapshot {
            have_bytes: have,
            arrived_bytes: self.intake.arrived_bytes(),
            saved_bytes: self.intake.saved_bytes(),
            stats: Stats { from_seeders, from_peers, ..self.swarm.stats() },
            taken_back: self.swarm.taken_back(),
            dialling: self.dialling,
            needed: self.swarm.is_needed(),
        });
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
