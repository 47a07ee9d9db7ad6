//! `dft seed`: hash, write the manifest, serve.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dft_protocol::id::PeerId;
use dft_protocol::manifest::{Hints, Info, Manifest, PeerAddr, SEEDER_COUNT_MAX, TRACKER_COUNT_MAX};
use dft_protocol::path::Name;
use serde_json::json;

use super::{blocking, by_daemon, packing, read_bounded};
use crate::cli::SeedArgs;
use crate::driver::{Snapshot, Update};
use crate::failure::{Failure, Kind, shown};
use crate::net::discovery;
use crate::net::identity::display_peer;
use crate::report::{Rate, Reporter, counted, human_bytes, human_time};
use crate::session::{Discovering, Happening, Listening, Role, Session, interrupted};
use crate::settings::{Ports, SeedState, reachable_addrs, write_atomically};
use crate::storage::{self, Scan, ScanOptions, SeedCache, StorageError, Store};
use crate::trace::{Phase, Recording};

/// Mode of the manifest: to be copied and read by others.
pub(super) const MANIFEST_MODE: u32 = 0o644;

pub(super) async fn run(args: SeedArgs) -> Result<(), Failure> {
    let recording = Recording::start(args.trace.as_deref(), "seed", Instant::now())?;
    let trace = recording.trace();
    let reporter = Reporter::new(args.json);
    let output = output_path(&args)?;
    let name = dataset_name(&args, &output)?;
    check_paths(&args.paths)?;
    for path in args.paths.iter().filter(|path| is_manifest(path)) {
        let path = shown(path);
        reporter.warn(&format!("{path} is a manifest; to get what it describes: dft fetch {path}"));
    }
    check_output(&output)?;
    let state = SeedState::open(&output)?;
    // One wait for the whole run: a signal between two waits would go unnoticed.
    let mut interrupt = std::pin::pin!(interrupted());
    // Manifests that were given away name the ports of a seeder that ran by itself.
    let alone = args.standalone || args.trace.is_some() || state.ports().is_some();
    let by_daemon = by_daemon::can(&args.net, alone).await?;
    let (scan, info) = tokio::select! {
        prepared = prepare(&args, name, &output, &state, &reporter) => prepared?,
        () = &mut interrupt => {
            reporter.end();
            return Err(Failure::new(Kind::Interrupted, "interrupted while hashing")
                .hint("run the same command again: it begins anew"));
        }
    };
    let manifest = Manifest::new(info, Hints::default()).map_err(StorageError::from)?;
    if by_daemon {
        return by_daemon::seed(&args, (&output, state.cache()), &manifest, reporter, interrupt).await;
    }

    trace.phase(Phase::Manifest);
    let listening = Listening::start(&args.net, &state.identity()?, state.ports(), trace)?;
    let endpoint = listening.endpoint().clone();
    let mut discovering = listening.discover(&manifest, true, Some(state.tracker())).await?;
    let manifest = Arc::new(with_hints(manifest, &args, endpoint.port(), &endpoint, &mut discovering).await?);
    state.remember(Ports { link: endpoint.port(), control: control_port(&manifest) })?;
    write_atomically(&output, &manifest.encode_with_sum(), MANIFEST_MODE)?;

    let store = Arc::new(Store::seed(manifest.clone(), scan)?);
    let listen: Vec<String> = endpoint.listen_addrs().iter().map(ToString::to_string).collect();
    tell_of_seeding(&reporter, (&output, &manifest), &listen, &display_peer(&endpoint.identity().peer()));
    let role = Role::Seeder(packing(args.compress));
    let session = discovering.drive(manifest.clone(), store, role, Vec::new()).await;
    serve(session, &manifest, &args, reporter, interrupt).await
}

/// Says that it serves from here on.
pub(super) fn tell_of_seeding(
    reporter: &Reporter,
    (output, manifest): (&Path, &Manifest),
    listen: &[String],
    peer: &str,
) {
    reporter.event(&json!({
        "event": "seeding",
        "manifest": output.display().to_string(),
        "id": manifest.id().to_string(),
        "name": manifest.info().name.to_string(),
        "bytes": manifest.total_bytes(),
        "pieces": manifest.geometry().piece_count(),
        "piece_size": manifest.info().piece_size.bytes(),
        "listen": listen,
        "peer": peer,
        "trackers": manifest.hints().trackers,
    }));
    reporter.say(&format!(
        "seeding {} ({}, {})\n  manifest  {}\n  fetch it  dft fetch {}\nCtrl-C ends it",
        manifest.info().name,
        human_bytes(manifest.total_bytes()),
        counted(manifest.geometry().piece_count() as u64, "piece"),
        shown(output),
        shown(output),
    ));
}

/// NAME.dft in the current directory, where the user says nothing else.
fn output_path(args: &SeedArgs) -> Result<PathBuf, Failure> {
    if let Some(output) = &args.output {
        return Ok(output.clone());
    }
    let name = match (&args.name, &args.paths[..]) {
        (Some(name), _) => name.into(),
        (None, [path]) => {
            let real = path.canonicalize().map_err(|error| Failure::given("seed", path, &error))?;
            real.file_name().map(ToOwned::to_owned).ok_or_else(|| {
                Failure::new(Kind::Usage, format!("{} has no name", shown(path)))
                    .hint("give one with --name NAME")
            })?
        }
        (None, _) => {
            return Err(Failure::new(Kind::Usage, "several paths need a common name")
                .hint("give one with --name NAME or -o NAME.dft"));
        }
    };
    let mut file = name;
    file.push(".dft");
    Ok(PathBuf::from(file))
}

/// What is not there is said before anything is made for it.
fn check_paths(paths: &[PathBuf]) -> Result<(), Failure> {
    paths.iter().try_for_each(|path| match path.metadata() {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::given("seed", path, &error)),
    })
}

/// Whether somebody may have meant to fetch.
fn is_manifest(path: &Path) -> bool {
    let is_named_so = path.extension().is_some_and(|extension| extension == "dft");
    is_named_so && read_bounded(path).is_ok_and(|bytes| Manifest::decode(&bytes).is_ok())
}

/// An existing file is replaced only where it is a manifest.
fn check_output(output: &Path) -> Result<(), Failure> {
    let failure = |kind, text: &str| {
        Failure::new(kind, format!("{} {text}", shown(output)))
            .hint("write the manifest elsewhere with -o NAME.dft")
    };
    match read_bounded(output) {
        Ok(bytes) if Manifest::decode(&bytes).is_ok() => Ok(()),
        Ok(_) => Err(failure(Kind::Usage, "exists and is not a manifest; it is left alone")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let directory = output.parent().filter(|parent| !parent.as_os_str().is_empty());
            match directory.map(Path::is_dir) {
                Some(false) => Err(failure(Kind::Usage, "cannot be written: its directory does not exist")),
                _ => Ok(()),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
            Err(failure(Kind::Usage, "is a directory: the manifest needs a name of its own"))
        }
        Err(error) => Err(failure(Kind::Disk, &format!("cannot be written: {error}"))),
    }
}

fn dataset_name(args: &SeedArgs, output: &Path) -> Result<Option<Name>, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = match &args.name {
        Some(name) => name.as_bytes().to_vec(),
        None if args.paths.len() == 1 => return Ok(None),
        None => output.file_stem().unwrap_or_default().as_bytes().to_vec(),
    };
    let printable = bytes.escape_ascii().to_string();
    Name::new(bytes).map(Some).map_err(|error| {
        Failure::new(Kind::Usage, format!("«{printable}» cannot be the name of a dataset: {error}"))
            .hint("a name has no slash in it, is not empty, and has at most 255 bytes: --name results")
    })
}

/// Scans and hashes, or finds that nothing has changed.
async fn prepare(
    args: &SeedArgs,
    name: Option<Name>,
    output: &Path,
    state: &SeedState,
    reporter: &Reporter,
) -> Result<(Scan, Info), Failure> {
    let paths = args.paths.clone();
    let options = ScanOptions { skip_unsafe: args.skip_unsafe, exclude: vec![output.to_owned()] };
    let scan = blocking(move || storage::scan(&paths, name, &options)).await??;
    for skipped in &scan.skipped {
        reporter.warn(&format!("skipped {}: {}", shown(&skipped.path), skipped.reason));
    }
    let started = Instant::now();
    let cached = SeedCache::load(state.cache()).and_then(|cache| cache.matches(&scan));
    let cached =
        cached.filter(|info| !args.rehash && args.piece_size.is_none_or(|size| size == info.piece_size));
    let from_cache = cached.is_some();
    let (scan, info) = match cached {
        Some(info) => (scan, info),
        None => {
            reporter.begin("hashing", scan.total_bytes);
            let (bar, piece_size) = (reporter.bar(), args.piece_size);
            let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
            let cancelled = cancel.0.clone();
            let (scan, info) = blocking(move || {
                let info = storage::hash(&scan, piece_size, &|bytes| bar.set_position(bytes), &cancelled);
                (scan, info)
            })
            .await?;
            reporter.end();
            let info = info?;
            // Only a speed-up: without it, the next run hashes again.
            if let Some(Err(error)) = SeedCache::new(&scan, &info).map(|cache| cache.store(state.cache())) {
                reporter.warn(&format!("the hashes are not kept for the next time: {error}"));
            }
            (scan, info)
        }
    };
    reporter.event(&json!({
        "event": "hashed",
        "bytes": scan.total_bytes,
        "files": scan.entries.iter().filter(|entry| matches!(entry, dft_protocol::manifest::Entry::File { .. })).count(),
        "seconds": started.elapsed().as_secs_f64(),
        "cached": from_cache,
    }));
    Ok((scan, info))
}

/// Stops the hashing threads when nobody waits for them any more.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn with_hints(
    manifest: Manifest,
    args: &SeedArgs,
    port: u16,
    endpoint: &crate::net::link::Endpoint,
    discovering: &mut Discovering,
) -> Result<Manifest, Failure> {
    let peer = Some(endpoint.identity().peer());
    let seeders = reachable_addrs(args.net.listen, port).into_iter().map(|addr| PeerAddr { peer, addr });
    let own = discovering.listening().await.iter().map(ToString::to_string).collect::<Vec<_>>();
    let asked = args.net.tracker.iter().filter_map(|text| discovery::parse_tracker(text).ok());
    let trackers = own.into_iter().chain(asked.map(|addr| addr.to_string()));
    let hints = Hints {
        seeders: seeders.take(SEEDER_COUNT_MAX).collect(),
        trackers: trackers.take(TRACKER_COUNT_MAX).collect(),
    };
    manifest.with_hints(hints).map_err(|error| Failure::new(Kind::Other, error.to_string()))
}

/// The port of this node's libp2p side, as its own tracker's address has it.
fn control_port(manifest: &Manifest) -> u16 {
    let own = manifest.hints().trackers.first();
    let port = own.and_then(|addr| addr.split("/tcp/").nth(1)?.split('/').next()?.parse().ok());
    port.unwrap_or(0)
}

/// Serves until interrupted, or until enough copies exist.
async fn serve(
    mut session: Session,
    manifest: &Manifest,
    args: &SeedArgs,
    mut reporter: Reporter,
    mut interrupt: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mut rate = Rate::default();
    let mut ticks = tokio::time::interval(crate::report::PROGRESS_EVENT_EVERY);
    let mut copies = Copies::default();
    while args.exit_after_copies.is_none_or(|wanted| copies.count() < wanted) {
        tokio::select! {
            () = &mut interrupt => break,
            _ = ticks.tick() => {
                let Snapshot { stats, .. } = session.snapshot();
                show_progress(&mut reporter, (stats.sent, stats.links as u64), copies.count(), &mut rate);
            }
            happening = session.next() => match happening {
                None => return Err(Failure::new(Kind::Other, "the driver ended unexpectedly")),
                Some(Happening::Update(Update::PeerCompleted(peer))) => {
                    if !copies.add(peer) {
                        continue;
                    }
                    tell_of_copy(&reporter, &display_peer(&peer), copies.count());
                }
                Some(happening) => tell(&reporter, happening),
            },
        }
    }
    reporter.end();
    let snapshot = session.shutdown().await;
    let sent = (snapshot.stats.sent, snapshot.saved_bytes);
    tell_of_end(&reporter, manifest, sent, copies.count(), started);
    Ok(())
}

/// A peer has everything.
pub(super) fn tell_of_copy(reporter: &Reporter, peer: &str, copies: u64) {
    reporter.event(&json!({"event": "peer_complete", "peer": peer, "copies": copies}));
    reporter.say(&format!("{peer} has everything ({copies} so far)"));
}

/// What was sent, and what compression spared, in bytes; how many copies there are.
pub(super) fn tell_of_end(
    reporter: &Reporter,
    manifest: &Manifest,
    (sent, saved): (u64, u64),
    copies: u64,
    started: Instant,
) {
    let total = manifest.total_bytes();
    reporter.event(&json!({
        "event": "done", "sent_bytes": sent, "saved_bytes": saved, "copies": copies, "seconds": started.elapsed().as_secs_f64(),
    }));
    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    let ratio = if total == 0 { 0.0 } else { sent as f64 / total as f64 };
    reporter.say(&format!(
        "{} everything; {} sent from here ({ratio:.2} copies) in {}",
        if copies == 1 { "1 peer has".to_owned() } else { format!("{copies} peers have") },
        human_bytes(sent),
        human_time(started.elapsed()),
    ));
}

/// The peers that have everything: each counts once, however often it says so.
#[derive(Default)]
pub(crate) struct Copies(BTreeSet<PeerId>);

impl Copies {
    /// Most that are counted, so that made-up identities fill no memory: more than any network of
    /// these has machines.
    const MAX: usize = 1 << 16;

    /// Whether it is one more.
    pub(crate) fn add(&mut self, peer: PeerId) -> bool {
        self.0.len() < Self::MAX && self.0.insert(peer)
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Shows how many bytes were sent, and to how many linked peers.
pub(super) fn show_progress(
    reporter: &mut Reporter,
    (sent, peers): (u64, u64),
    copies: u64,
    rate: &mut Rate,
) {
    let rate = rate.update(sent);
    if reporter.progress_event_due() {
        reporter.event(&json!({
            "event": "progress", "sent_bytes": sent, "rate": rate, "peers": peers, "copies": copies,
        }));
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and for people"
    )]
    let rate = human_bytes(rate as u64);
    reporter.status(format!("{} sent, {rate}/s, {}", human_bytes(sent), counted(peers, "peer")));
}

/// What happens to a seeder and to a fetch alike.
pub(super) fn tell(reporter: &Reporter, happening: Happening) {
    match happening {
        Happening::Update(Update::Banned { peer, remote, violation }) => {
            let peer = display_peer(&peer);
            reporter.event(&json!({
                "event": "banned", "peer": peer, "addr": remote.to_string(), "reason": violation.to_string(),
            }));
            reporter.warn(&format!("dropped the peer {peer} at {remote}: {violation}"));
        }
        Happening::Update(Update::Changed { reason, pieces, .. }) => {
            reporter.event(&json!({"event": "changed", "reason": reason, "pieces": pieces}));
            reporter.warn(&format!("{reason}; its {pieces} pieces are not offered any more"));
        }
        Happening::Discovery(discovery::Event::Warning(text)) => reporter.warn(&text),
        Happening::Discovery(discovery::Event::TrackerDown { addr, reason }) => {
            reporter.event(&json!({"event": "tracker_down", "addr": addr.to_string(), "reason": reason}));
            reporter.say(&format!("the tracker {addr} does not answer ({reason}); going on without it"));
        }
        Happening::Discovery(discovery::Event::TrackerUp { addr }) => {
            reporter.event(&json!({"event": "tracker_up", "addr": addr.to_string()}));
        }
        Happening::Discovery(discovery::Event::Listening { .. } | discovery::Event::PeersFound { .. })
        | Happening::Update(
            Update::DialFailed { .. }
            | Update::PeerCompleted(_)
            | Update::Complete { .. }
            | Update::StorageFailed(_),
        ) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_is_one_copy_however_often_it_says_so() {
        let peer = |number: u8| PeerId::from_bytes(&[number]).expect("short enough");
        let mut copies = Copies::default();
        let added = [1, 1, 2, 1].map(|number| copies.add(peer(number)));
        assert_eq!((added, copies.count()), ([true, false, true, false], 2));
    }
}
