//! `dft fetch`: get what a manifest describes, and share it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dft_protocol::manifest::Manifest;
use dft_protocol::path::Name;
use dft_protocol::wire::Refusal;
use serde_json::json;

use super::seed::tell;
use super::{blocking, by_daemon, read_manifest, selection};
use crate::cli::FetchArgs;
use crate::driver::{Snapshot, Update};
use crate::failure::{Failure, Kind, shown};
use crate::net::identity::Identity;
use crate::net::link::LinkError;
use crate::report::{Rate, Reporter, eta, human_bytes, human_time};
use crate::session::{Happening, Listening, Role, Session, interrupted};
use crate::settings::resolve_peers;
use crate::storage::{FetchOptions, Selection, Store};
use crate::trace::{Phase, Recording};

/// Without any peer, a fetch gives up after this time: long enough to start the seeder second.
const NO_PEER_MAX: Duration = Duration::from_secs(60);
/// With peers, but nothing new from them, after this time: a stopped seeder may come back.
const NO_PROGRESS_MAX: Duration = Duration::from_secs(300);
/// Where every known peer refuses for good, others get this long to show up.
const ALL_REFUSE_MAX: Duration = Duration::from_secs(3);
/// Pieces that nobody offers any more are told of when nothing has come for so long.
const LOSS_AFTER: Duration = Duration::from_secs(2);
/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn run(args: FetchArgs) -> Result<(), Failure> {
    if by_daemon::can(&args.net, args.standalone || args.trace.is_some()).await? {
        return by_daemon::fetch(args).await;
    }
    let recording = Recording::start(args.trace.as_deref(), "fetch", Instant::now())?;
    let trace = recording.trace();
    let reporter = Reporter::new(args.json);
    let manifest = read_manifest(&args.manifest)?;
    trace.phase(Phase::Manifest);
    check_target(&args.output)?;
    let selection = selection(&manifest, &args.select)?;
    let peers = resolve_peers(&args.peer).await?;
    let mut interrupt = std::pin::pin!(interrupted());
    let store = tokio::select! {
        store = open_store(&args, &manifest, selection, &reporter) => store?,
        () = &mut interrupt => {
            reporter.end();
            return Err(interrupted_failure());
        }
    };
    trace.phase(Phase::Store);
    let mut fetch = Fetch::new(args, manifest, store.selection().clone(), reporter);
    if store.is_finished() {
        return fetch.already_complete(store.final_path());
    }
    let listening = Listening::start(&fetch.args.net, &Identity::generate(), None, trace)?;
    let listen = listening.endpoint().listen_addrs().iter().map(ToString::to_string).collect::<Vec<_>>();
    let have = store.durable();
    let wanted = fetch.selection.pieces(&fetch.manifest);
    let have_count = have.count_common(&wanted);
    let discovering = listening.discover(&fetch.manifest, have.is_full(), None).await?;
    fetch.reporter.event(&json!({
        "event": "fetching",
        "id": fetch.manifest.id().to_string(),
        "name": fetch.manifest.info().name.to_string(),
        "bytes": fetch.bytes(),
        "pieces": wanted.count(),
        "have_pieces": have_count,
        "listen": listen,
    }));
    // Holes need no fetching: they are no earlier run's work.
    let zeros = wanted.iter().filter(|piece| fetch.manifest.hash(*piece).is_zeros()).count();
    if have_count > zeros && have_count < wanted.count() {
        fetch.reporter.say(&format!("going on with {have_count} of {} pieces", wanted.count()));
    }
    fetch.reporter.begin("fetching", fetch.bytes());
    let mut session = discovering.drive(fetch.manifest.clone(), store, Role::Fetcher, peers).await;
    let fetched = tokio::select! {
        fetched = fetch.until_complete(&mut session) => fetched,
        () = &mut interrupt => Err(interrupted_failure()),
    };
    fetch.reporter.end();
    let path = match fetched {
        Ok(path) => path,
        Err(failure) => {
            session.shutdown().await;
            return Err(failure);
        }
    };
    if fetch.selection.is_all() {
        session.set_complete();
    }
    fetch.report_complete(&path, &session.snapshot());
    tokio::select! {
        () = fetch.linger(&mut session) => {}
        () = &mut interrupt => {}
    }
    fetch.reporter.end();
    let snapshot = session.shutdown().await;
    fetch.reporter.event(
        &json!({"event": "done", "path": path.display().to_string(), "sent_bytes": snapshot.stats.sent}),
    );
    Ok(())
}

/// Whether NAME can be created there, as far as a look tells.
fn check_target(directory: &Path) -> Result<(), Failure> {
    const HINT: &str = "-o names the directory in which NAME is created: make it, or name another one";
    match directory.metadata() {
        Ok(attributes) if attributes.is_dir() => Ok(()),
        Ok(_) => {
            let message = format!("{} is a file, not a directory", shown(directory));
            Err(Failure::new(Kind::Usage, message).hint(HINT))
        }
        Err(error) => Err(Failure::given("fetch into", directory, &error).hint(HINT)),
    }
}

fn interrupted_failure() -> Failure {
    Failure::new(Kind::Interrupted, "interrupted before it was complete")
        .hint("run the same command again: it goes on where it stopped")
}

async fn open_store(
    args: &FetchArgs,
    manifest: &Arc<Manifest>,
    selection: Selection,
    reporter: &Reporter,
) -> Result<Arc<Store>, Failure> {
    reporter.begin("checking", manifest.total_bytes());
    let bar = reporter.bar();
    let (manifest, directory, force) = (manifest.clone(), args.output.clone(), args.force);
    let store = blocking(move || {
        let options = FetchOptions { force, selection: Some(selection) };
        Store::fetch(manifest, &directory, options, &|check| {
            bar.set_length(check.total);
            bar.set_position(check.checked);
        })
    });
    let store = store.await?;
    reporter.end();
    Ok(Arc::new(store?))
}

/// A fetch at work, as far as a person sees it.
struct Fetch {
    args: FetchArgs,
    manifest: Arc<Manifest>,
    selection: Selection,
    reporter: Reporter,
    started: Instant,
    rate: Rate,
    /// The latest reason of each address that could not be reached.
    refusals: BTreeMap<SocketAddr, LinkError>,
    /// What was verified and what had arrived when anything last did, and when that was.
    progress: (u64, u64, Instant),
    linked_at: Option<Instant>,
    /// It was said that pieces are offered by nobody any more.
    told_of_loss: bool,
}

impl Fetch {
    fn new(args: FetchArgs, manifest: Arc<Manifest>, selection: Selection, reporter: Reporter) -> Self {
        let now = Instant::now();
        Self {
            args,
            manifest,
            selection,
            reporter,
            started: now,
            rate: Rate::default(),
            refusals: BTreeMap::new(),
            progress: (0, 0, now),
            linked_at: None,
            told_of_loss: false,
        }
    }

    /// Bytes of the selected files.
    fn bytes(&self) -> u64 {
        self.selection.bytes(&self.manifest)
    }

    fn already_complete(&self, path: Option<PathBuf>) -> Result<(), Failure> {
        let path = path.unwrap_or_default();
        let (bytes, path) = (self.bytes(), path.display().to_string());
        self.reporter.event(&json!({
            "event": "complete", "path": path, "bytes": bytes, "seconds": 0.0,
            "from_seeders": 0, "from_peers": 0, "sent_bytes": 0,
        }));
        self.reporter.event(&json!({"event": "done", "path": path, "sent_bytes": 0}));
        self.reporter.say(&format!("{path} is complete already ({})", human_bytes(bytes)));
        Ok(())
    }

    /// Waits until the dataset has its final name.
    async fn until_complete(&mut self, session: &mut Session) -> Result<PathBuf, Failure> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let snapshot = session.snapshot();
        self.progress = (snapshot.have_bytes, snapshot.arrived_bytes, Instant::now());
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    let snapshot = session.snapshot();
                    self.show_progress(&snapshot);
                    self.give_up_if_hopeless(&snapshot)?;
                }
                happening = session.next() => match happening {
                    None => return Err(Failure::new(Kind::Other, "the driver ended unexpectedly")),
                    Some(Happening::Update(Update::Complete { path })) => return Ok(path),
                    Some(Happening::Update(Update::StorageFailed(error))) => return Err(error.into()),
                    Some(Happening::Update(Update::DialFailed { addr, error })) => {
                        const REFUSALS_MAX: usize = 64;
                        if self.refusals.len() < REFUSALS_MAX || self.refusals.contains_key(&addr) {
                            self.refusals.insert(addr, error);
                        }
                    }
                    Some(happening) => tell(&self.reporter, happening),
                },
            }
        }
    }

    fn show_progress(&mut self, snapshot: &Snapshot) {
        if (snapshot.have_bytes, snapshot.arrived_bytes) != (self.progress.0, self.progress.1) {
            self.progress = (snapshot.have_bytes, snapshot.arrived_bytes, Instant::now());
        }
        if snapshot.stats.links > 0 {
            self.linked_at = Some(Instant::now());
        }
        self.tell_of_loss(snapshot);
        let total = self.bytes();
        let rate = self.rate.update(snapshot.have_bytes);
        let left = eta(total.saturating_sub(snapshot.have_bytes), rate);
        let stats = snapshot.stats;
        if self.reporter.progress_event_due() {
            self.reporter.event(&json!({
                "event": "progress", "bytes": total, "have_bytes": snapshot.have_bytes, "rate": rate,
                "eta_s": left.map(|left| left.as_secs_f64()), "peers": stats.links,
                "from_seeders": stats.from_seeders, "from_peers": stats.from_peers,
            }));
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is positive and for people"
        )]
        let rate = human_bytes(rate as u64);
        let left = left.map_or_else(|| "--".into(), human_time);
        let share = share_of_peers(stats.from_seeders, stats.from_peers);
        self.reporter.progress(
            snapshot.have_bytes,
            format!("{rate}/s, {left} left, {} peers, {share}% from peers", stats.links),
        );
    }

    /// Says once that pieces are gone from the seeder, when nothing else comes.
    fn tell_of_loss(&mut self, snapshot: &Snapshot) {
        if snapshot.taken_back == 0 || self.told_of_loss || self.progress.2.elapsed() < LOSS_AFTER {
            return;
        }
        self.told_of_loss = true;
        self.reporter.warn(&format!(
            "{}: their data changed, or they gave it up; waiting for somebody else who has the rest",
            no_longer_offered(snapshot.taken_back, &self.manifest.info().name)
        ));
    }

    /// Every wait has a bound.
    fn give_up_if_hopeless(&self, snapshot: &Snapshot) -> Result<(), Failure> {
        let (waited, linked) = (self.progress.2.elapsed(), snapshot.stats.links > 0);
        // Peers that do not have what is missing are as good as none.
        let hopeful = linked && snapshot.taken_back == 0;
        let limit = self.args.timeout.unwrap_or(if hopeful { NO_PROGRESS_MAX } else { NO_PEER_MAX });
        // Whoever lost its last peer just now waits for another as long as one that never had any.
        let alone = self.linked_at.map_or(waited, |at| waited.min(at.elapsed()));
        let idle = if linked { waited } else { alone };
        let all_refuse = !linked
            && snapshot.dialling == 0
            && !self.refusals.is_empty()
            && self
                .refusals
                .values()
                .all(|error| matches!(error, LinkError::Refused(_)) && error.is_hopeless());
        if idle >= limit || (all_refuse && idle >= ALL_REFUSE_MAX) {
            return Err(self.no_source(snapshot));
        }
        Ok(())
    }

    fn no_source(&self, snapshot: &Snapshot) -> Failure {
        let name = &self.manifest.info().name;
        let fetched =
            format!("{} of {} are fetched", human_bytes(self.progress.0), human_bytes(self.bytes()));
        let mut message = match (snapshot.stats.links, self.progress.0) {
            _ if snapshot.taken_back > 0 => {
                format!("{}; {fetched}", no_longer_offered(snapshot.taken_back, name))
            }
            (0, 0) => format!("found nobody to fetch {name} from"),
            (0, have) => format!("lost everybody who has {name}, with {} fetched", human_bytes(have)),
            (1, _) => format!("the only peer does not have the rest of {name}; {fetched}"),
            (links, _) => format!("none of the {links} peers has the rest of {name}; {fetched}"),
        };
        for (addr, error) in self.refusals.iter().take(4) {
            message.push_str(&format!("\n  {addr}: {error}"));
        }
        let encryption = |error: &LinkError| {
            matches!(error, LinkError::Refused(Refusal::EncryptionOff | Refusal::EncryptionRequired))
        };
        let secret = |error: &LinkError| {
            use dft_protocol::wire::Refusal::{SecretRequired, SecretUnknown, SecretWrong};
            matches!(error, LinkError::Refused(SecretRequired | SecretUnknown | SecretWrong))
        };
        let other_manifest =
            |error: &LinkError| matches!(error, LinkError::Refused(Refusal::UnknownManifest));
        let hint = if snapshot.taken_back > 0 {
            "the data changed where it was seeded, or was given up: run dft seed there again, and fetch with the \
             manifest that it writes; if somebody else has the rest, the same command goes on"
        } else if snapshot.stats.links > 0 {
            "run dft seed again where all of it is; what is fetched is kept: the same command goes on; \
             --timeout waits longer"
        } else if self.refusals.values().any(secret) {
            "use the same --secret FILE on both ends, or none"
        } else if self.refusals.values().any(encryption) {
            "use the same --encryption on both ends"
        } else if self.refusals.values().any(other_manifest) {
            "who answers there seeds something else by now, as after a change of the data: copy the manifest from \
             there again; what is fetched is kept for this one"
        } else if self.args.net.secret.is_some() && self.refusals.is_empty() {
            "is dft seed still running, and reachable? trackers and nodes with another --secret, or with none, \
             cannot be told from those that are not there; what is fetched is kept: the same command goes on"
        } else {
            "is dft seed still running, and reachable? what is fetched is kept: the same command goes on; \
             --peer HOST:PORT names a peer, --timeout waits longer"
        };
        Failure::new(Kind::NoSource, message).hint(hint)
    }

    fn report_complete(&mut self, path: &Path, snapshot: &Snapshot) {
        let (stats, seconds) = (snapshot.stats, self.started.elapsed().as_secs_f64());
        let bytes = self.bytes();
        self.reporter.event(&json!({
            "event": "complete", "path": path.display().to_string(), "bytes": bytes, "seconds": seconds,
            "from_seeders": stats.from_seeders, "from_peers": stats.from_peers, "sent_bytes": stats.sent,
            "wasted": stats.wasted, "arrived_bytes": snapshot.arrived_bytes,
        }));
        let what = if self.selection.is_all() { "" } else { ", as far as it is selected" };
        self.reporter.say(&format!(
            "{} is complete{what}: {} in {}, {}% from peers other than the seeder",
            shown(path),
            human_bytes(bytes),
            human_time(self.started.elapsed()),
            share_of_peers(stats.from_seeders, stats.from_peers),
        ));
    }

    /// Shares while connected peers still need something, within the limit.
    async fn linger(&mut self, session: &mut Session) {
        let deadline = tokio::time::sleep(self.args.linger);
        let mut deadline = std::pin::pin!(deadline);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let mut said = false;
        loop {
            let snapshot = session.snapshot();
            if !snapshot.needed {
                return;
            }
            if !said {
                self.reporter.say("sharing with peers that are not complete; Ctrl-C ends it");
                said = true;
            }
            tokio::select! {
                () = &mut deadline => return,
                _ = looks.tick() => {
                    let sent = human_bytes(snapshot.stats.sent);
                    self.reporter.status(format!("sharing: {sent} sent, {} peers", snapshot.stats.links));
                }
                happening = session.next() => match happening {
                    Some(happening) => tell(&self.reporter, happening),
                    None => return,
                },
            }
        }
    }
}

fn no_longer_offered(pieces: usize, name: &Name) -> String {
    let (pieces, are) =
        if pieces == 1 { ("1 piece".into(), "is") } else { (format!("{pieces} pieces"), "are") };
    format!("{pieces} of {name} {are} no longer offered by those who had them")
}

/// Which part of the bytes came from peers that were not complete from the start, in percent.
pub(super) fn share_of_peers(from_seeders: u64, from_peers: u64) -> u64 {
    (100 * from_peers).checked_div(from_seeders + from_peers).unwrap_or(0)
}
