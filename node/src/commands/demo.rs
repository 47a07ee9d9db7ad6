//! `dft demo`: a whole swarm on this machine, each peer a process of its own, and what it did.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use dft_protocol::manifest::{Entry, Manifest};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::{blocking, print_bytes, read_manifest};
use crate::cli::{DemoArgs, Switch};
use crate::failure::{Failure, Kind};
use crate::report::{Reporter, human_bytes, human_time};
use crate::session::interrupted;

/// The part of the generated dataset that is one large file; the rest are small ones.
const LARGE_PART: f64 = 0.9;
/// The largest of the small files, in bytes.
const SMALL_FILE_MAX: u64 = 32 * 1024;
/// How long the seeder may take to hash and to listen, beyond what it hashes.
const SEEDER_START_MAX: Duration = Duration::from_secs(600);
/// A demo whose peers report nothing for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How much is hashed to learn the speed of one core.
const HASH_SAMPLE_LEN: usize = 64 * 1024 * 1024;
/// How much is written at most to learn the speed of the disk, by all peers together.
const DISK_SAMPLE_LEN_MAX: u64 = 1024 * 1024 * 1024;

pub(super) async fn run(args: DemoArgs) -> Result<(), Failure> {
    if let Some(path) = &args.path {
        path.metadata().map_err(|error| Failure::given("show a swarm with", path, &error))?;
    }
    let reporter = Reporter::new(args.json);
    tokio::select! {
        result = demo(&args, &reporter) => result,
        // The children are killed and the directory is removed as they are dropped.
        () = interrupted() => {
            reporter.end();
            Err(Failure::new(Kind::Interrupted, "interrupted; nothing is left behind"))
        }
    }
}

async fn demo(args: &DemoArgs, reporter: &Reporter) -> Result<(), Failure> {
    let scratch = tempfile::Builder::new().prefix("dft-demo-").tempdir();
    let scratch = scratch.map_err(|error| {
        Failure::new(Kind::Disk, format!("cannot create a directory: {error}"))
            .hint("TMPDIR names another place")
    })?;
    let source = match &args.path {
        Some(path) => path.clone(),
        None => {
            check_space(scratch.path(), args.size.saturating_mul(u64::from(args.peers) + 1))?;
            reporter.say(&format!("generating a dataset of {}", human_bytes(args.size)));
            let (path, size) = (scratch.path().join("dataset"), args.size);
            blocking(move || generate(&path, size).map(|()| path)).await??
        }
    };
    let mut seeder = Peer::seed(args, &source, scratch.path())?;
    let (manifest_path, hash_seconds) = seeder.wait_until_seeding().await?;
    let manifest = read_manifest(&manifest_path)?;
    let total = manifest.total_bytes();
    if args.path.is_some() {
        check_space(scratch.path(), total.saturating_mul(args.peers.into()))?;
    }
    let peers = args.peers;
    reporter.say(&format!(
        "one seeder and {peers} peers on this machine: {}, {} pieces, encryption {}",
        human_bytes(total),
        manifest.geometry().piece_count(),
        if args.encryption == Switch::On { "on" } else { "off" },
    ));
    let started = Instant::now();
    let fetched = fetch_all(args, &manifest_path, scratch.path(), total, reporter).await?;
    let seconds = started.elapsed().as_secs_f64();
    let sent = seeder.finish().await?;
    reporter.say("comparing the copies with the original, byte by byte");
    let copies: Vec<PathBuf> = (0..peers).map(|peer| peer_dir(scratch.path(), peer)).collect();
    let compared = {
        let (manifest, source) = (manifest.clone(), source.clone());
        blocking(move || copies.iter().try_for_each(|copy| compare(&manifest, &source, copy))).await?
    };
    compared?;
    let core_rate = blocking(core_hash_rate).await?;
    let directory = scratch.path().to_owned();
    let disk_rate = blocking(move || disk_rate(&directory, peers, total)).await??;
    let result = DemoResult { total, peers, seconds, hash_seconds, sent, fetched, core_rate, disk_rate };
    if args.json {
        print_bytes(format!("{}\n", result.as_json()).as_bytes())
    } else {
        reporter.say(&result.as_text());
        Ok(())
    }
}

fn check_space(directory: &Path, needed: u64) -> Result<(), Failure> {
    let free = rustix::fs::statvfs(directory).map(|stat| stat.f_bavail * stat.f_frsize);
    match free {
        Ok(free) if free < needed => Err(Failure::new(
            Kind::Disk,
            format!(
                "the demo needs {} in {}, {} are free",
                human_bytes(needed),
                directory.display(),
                human_bytes(free)
            ),
        )
        .hint("choose a smaller --size or fewer --peers, or another place with TMPDIR=DIRECTORY")),
        _ => Ok(()),
    }
}

// ---- the data ----

/// One large file, and small ones in a few directories; random, so that nothing compresses.
fn generate(root: &Path, size: u64) -> Result<(), Failure> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(size);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rough share"
    )]
    let large = (size as f64 * LARGE_PART) as u64;
    write_random(&root.join("measurements.bin"), large, &mut rng)?;
    let mut rest = size - large;
    let mut number = 0;
    while rest > 0 {
        let len = (rng.next_u64() % SMALL_FILE_MAX + 1).min(rest);
        let path = root.join(format!("run-{:02}/sample-{number:05}.dat", number % 20));
        write_random(&path, len, &mut rng)?;
        rest -= len;
        number += 1;
    }
    // Or the disk would still write the original while the copies are timed.
    let sync = || rustix::fs::syncfs(File::open(root)?).map_err(std::io::Error::from);
    sync().map_err(|error| Failure::io("write", root, &error))
}

fn write_random(path: &Path, len: u64, rng: &mut Xoshiro256PlusPlus) -> Result<(), Failure> {
    let mut write = || -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut file = File::create(path)?;
        let mut block = vec![0; 1 << 20];
        let mut rest = len;
        while rest > 0 {
            let part = usize::try_from(rest).unwrap_or(usize::MAX).min(block.len());
            rng.fill_bytes(&mut block[..part]);
            file.write_all(&block[..part])?;
            rest -= part as u64;
        }
        Ok(())
    };
    write().map_err(|error| Failure::io("write", path, &error))
}

/// Compares each file of a copy with the original's, byte by byte.
fn compare(manifest: &Manifest, source: &Path, directory: &Path) -> Result<(), Failure> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let copy = directory.join(OsStr::from_bytes(manifest.info().name.as_bytes()));
    for entry in &manifest.info().entries {
        if let Entry::File { path, .. } = entry {
            let below = |root: &Path| {
                if path.is_root() { root.to_owned() } else { root.join(OsStr::from_bytes(path.as_bytes())) }
            };
            let (original, copied) = (below(source), below(&copy));
            let same =
                same_bytes(&original, &copied).map_err(|error| Failure::io("compare", &copied, &error))?;
            if !same {
                let message = format!("{} differs from {}", copied.display(), original.display());
                return Err(Failure::new(Kind::Integrity, message));
            }
        }
    }
    Ok(())
}

fn same_bytes(left: &Path, right: &Path) -> std::io::Result<bool> {
    let (left, right) = (File::open(left)?, File::open(right)?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        a.clear();
        b.clear();
        (&left).take(1 << 20).read_to_end(&mut a)?;
        (&right).take(1 << 20).read_to_end(&mut b)?;
        if a != b {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
    }
}

/// Bytes per second that the disk takes from as many writers as there were peers, until they are
/// durable: as the copies were.
fn disk_rate(directory: &Path, writers: u16, total: u64) -> Result<f64, Failure> {
    let each = total.min(DISK_SAMPLE_LEN_MAX / u64::from(writers)).max(1);
    let mut block = vec![0; 1 << 20];
    Xoshiro256PlusPlus::seed_from_u64(each).fill_bytes(&mut block);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let block = &block;
        let write = move |number: u16| {
            let path = directory.join(format!("disk-{number}"));
            let written = write_blocks(&path, each, block);
            let _ = std::fs::remove_file(&path);
            written.map_err(|error| Failure::io("write", &path, &error))
        };
        let threads: Vec<_> = (0..writers).map(|number| scope.spawn(move || write(number))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(written) => written,
            Err(_) => Err(Failure::new(Kind::Other, "a writer of the disk's sample ended unexpectedly")),
        })
    })?;
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let bytes = (each * u64::from(writers)) as f64;
    Ok(bytes / started.elapsed().as_secs_f64().max(1e-9))
}

fn write_blocks(path: &Path, len: u64, block: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mut rest = len;
    while rest > 0 {
        let part = usize::try_from(rest).unwrap_or(usize::MAX).min(block.len());
        file.write_all(&block[..part])?;
        rest -= part as u64;
    }
    file.sync_data()
}

/// Bytes per second that one core hashes.
fn core_hash_rate() -> f64 {
    let data = vec![0x5a; HASH_SAMPLE_LEN];
    let started = Instant::now();
    let digest = Sha256::digest(&data);
    let seconds = started.elapsed().as_secs_f64();
    // The digest is looked at, so that it is computed.
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    if digest[0] == digest[31] && seconds == 0.0 { f64::MAX } else { HASH_SAMPLE_LEN as f64 / seconds }
}

// ---- the processes ----

fn peer_dir(scratch: &Path, peer: u16) -> PathBuf {
    scratch.join(format!("peer-{peer}"))
}

/// A dft process whose events are read; killed when dropped.
struct Peer {
    child: Child,
    events: mpsc::Receiver<Value>,
}

impl Peer {
    fn start(command: &mut Command) -> Result<Self, Failure> {
        let cannot =
            |error: std::io::Error| Failure::new(Kind::Other, format!("cannot start a peer: {error}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn().map_err(cannot)?;
        let (sender, events) = mpsc::channel(64);
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Ok(event) = serde_json::from_str(&line)
                        && sender.send(event).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, events })
    }

    fn command(args: &DemoArgs, scratch: &Path, verb: &str) -> Result<Command, Failure> {
        let program = std::env::current_exe();
        let program = program
            .map_err(|error| Failure::new(Kind::Other, format!("cannot find this program: {error}")))?;
        let mut command = Command::new(program);
        let encryption = if args.encryption == Switch::On { "on" } else { "off" };
        command.env("XDG_STATE_HOME", scratch.join("state"));
        // A demonstration of dft, not of the settings here.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("DFT_") {
                command.env_remove(variable);
            }
        }
        command.env(crate::config::FILE_VARIABLE, "");
        command.args([verb, "--json", "--listen", "127.0.0.1", "--encryption", encryption]);
        Ok(command)
    }

    fn seed(args: &DemoArgs, source: &Path, scratch: &Path) -> Result<Self, Failure> {
        let mut command = Self::command(args, scratch, "seed")?;
        Self::start(command.arg("-o").arg(scratch.join("demo.dft")).arg(source))
    }

    fn fetch(args: &DemoArgs, manifest: &Path, scratch: &Path, peer: u16) -> Result<Self, Failure> {
        let directory = peer_dir(scratch, peer);
        std::fs::create_dir(&directory).map_err(|error| Failure::io("create", &directory, &error))?;
        let mut command = Self::command(args, scratch, "fetch")?;
        Self::start(command.arg("-o").arg(directory).arg(manifest))
    }

    /// The next event of this kind.
    async fn event(&mut self, kind: &str, limit: Duration) -> Result<Value, Failure> {
        let wait = async {
            while let Some(event) = self.events.recv().await {
                if event["event"] == kind {
                    return Some(event);
                }
            }
            None
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(self.failed().await),
            Err(_) => Err(Failure::new(
                Kind::Other,
                format!("a peer did not get to «{kind}» in {}", human_time(limit)),
            )),
        }
    }

    /// The path of the manifest, and the seconds that hashing took.
    async fn wait_until_seeding(&mut self) -> Result<(PathBuf, f64), Failure> {
        let hashed = self.event("hashed", SEEDER_START_MAX).await?;
        let seeding = self.event("seeding", SEEDER_START_MAX).await?;
        let path = seeding["manifest"].as_str().unwrap_or_default();
        Ok((PathBuf::from(path), hashed["seconds"].as_f64().unwrap_or_default()))
    }

    /// Ends a seeder; returns how many bytes it sent.
    async fn finish(&mut self) -> Result<u64, Failure> {
        if let Some(pid) =
            self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let done = self.event("done", Duration::from_secs(10)).await?;
        let _ = self.child.wait().await;
        Ok(done["sent_bytes"].as_u64().unwrap_or_default())
    }

    async fn failed(&mut self) -> Failure {
        let status = self.child.wait().await;
        // Its reason is the demo's.
        let code = status.as_ref().ok().and_then(std::process::ExitStatus::code);
        let kind = code.and_then(|code| u8::try_from(code).ok()).map_or(Kind::Other, Kind::from_exit_code);
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        Failure::new(kind, format!("a peer ended early ({status}); what it said is above"))
    }
}

/// What became of one peer.
struct Fetched {
    seconds: f64,
    from_seeder: u64,
    from_peers: u64,
}

async fn fetch_all(
    args: &DemoArgs,
    manifest: &Path,
    scratch: &Path,
    total: u64,
    reporter: &Reporter,
) -> Result<Vec<Fetched>, Failure> {
    let count = usize::from(args.peers);
    let (sender, mut progress) = mpsc::channel(64);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..args.peers {
        let mut peer = Peer::fetch(args, manifest, scratch, number)?;
        let sender = sender.clone();
        tasks.spawn(async move {
            let started = Instant::now();
            let mut complete = None;
            while let Ok(Some(event)) = tokio::time::timeout(SILENCE_MAX, peer.events.recv()).await {
                let have = event["have_bytes"].as_u64();
                match event["event"].as_str() {
                    Some("progress") => {
                        let _ = sender.send((number, have.unwrap_or_default())).await;
                    }
                    Some("complete") => {
                        let bytes = |field: &str| event[field].as_u64().unwrap_or_default();
                        let seconds = started.elapsed().as_secs_f64();
                        let (from_seeder, from_peers) = (bytes("from_seeders"), bytes("from_peers"));
                        complete = Some(Fetched { seconds, from_seeder, from_peers });
                        let _ = sender.send((number, total)).await;
                    }
                    Some("done") => {
                        if let Some(fetched) = complete {
                            return Ok(fetched);
                        }
                        break;
                    }
                    _ => {}
                }
            }
            Err(peer.failed().await)
        });
    }
    drop(sender);
    reporter.begin("fetching", total * count as u64);
    let mut have = vec![0; count];
    while let Some((number, bytes)) = progress.recv().await {
        have[usize::from(number)] = bytes;
        let complete = have.iter().filter(|bytes| **bytes == total).count();
        reporter.progress(have.iter().sum(), format!("{complete} of {count} peers complete"));
    }
    reporter.end();
    let mut fetched = Vec::new();
    while let Some(task) = tasks.join_next().await {
        fetched.push(task.map_err(|error| Failure::new(Kind::Other, error.to_string()))??);
    }
    fetched.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    Ok(fetched)
}

// ---- the result ----

struct DemoResult {
    total: u64,
    peers: u16,
    seconds: f64,
    hash_seconds: f64,
    sent: u64,
    fetched: Vec<Fetched>,
    core_rate: f64,
    disk_rate: f64,
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
impl DemoResult {
    /// Copies of the dataset that left the seeder.
    fn copies(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sent as f64 / self.total as f64 }
    }

    /// Bytes of all copies together.
    fn copied(&self) -> f64 {
        self.total as f64 * f64::from(self.peers)
    }

    /// Each copy has to be hashed once, and there are only so many cores.
    fn hash_bound_seconds(&self) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        self.copied() / (cores * self.core_rate)
    }

    /// All copies have to be on the one disk.
    fn disk_bound_seconds(&self) -> f64 {
        self.copied() / self.disk_rate
    }

    /// What bounds a swarm on one machine.
    fn bound_seconds(&self) -> f64 {
        self.hash_bound_seconds().max(self.disk_bound_seconds())
    }

    fn last_seconds(&self) -> f64 {
        self.fetched.last().map_or(0.0, |fetched| fetched.seconds)
    }

    fn share_of_peers(&self) -> f64 {
        let (from_seeder, from_peers) = self.fetched.iter().fold((0, 0), |(seeder, peers), fetched| {
            (seeder + fetched.from_seeder, peers + fetched.from_peers)
        });
        if from_seeder + from_peers == 0 {
            0.0
        } else {
            100.0 * from_peers as f64 / (from_seeder + from_peers) as f64
        }
    }

    fn as_json(&self) -> Value {
        json!({
            "event": "demo",
            "bytes": self.total,
            "peers": self.peers,
            "identical_copies": self.fetched.len(),
            "hash_seconds": self.hash_seconds,
            "first_seconds": self.fetched.first().map(|fetched| fetched.seconds),
            "last_seconds": self.last_seconds(),
            "bound_seconds": self.bound_seconds(),
            "core_hash_bytes_per_second": self.core_rate,
            "disk_write_bytes_per_second": self.disk_rate,
            "seeder_sent_bytes": self.sent,
            "seeder_copies": self.copies(),
            "from_peers_percent": self.share_of_peers(),
            "seconds": self.seconds,
        })
    }

    fn as_text(&self) -> String {
        let delivered = self.copied() / self.last_seconds().max(1e-9);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive rate for people"
        )]
        let rate = human_bytes(delivered as u64);
        let first = self.fetched.first().map_or(0.0, |fetched| fetched.seconds);
        let bound = match self.total {
            // Of nothing, nothing bounds the rate.
            0 => String::new(),
            _ => format!(
                "\x20 bound            about {:.2} s: hashing all copies takes these cores {:.2} s, writing them this disk {:.2} s\n\
                 \x20                  (measured just now); took {:.1} x that\n",
                self.bound_seconds(),
                self.hash_bound_seconds(),
                self.disk_bound_seconds(),
                self.last_seconds() / self.bound_seconds().max(1e-9),
            ),
        };
        format!(
            "\n{} identical copies of {}\n\
             \x20 hashing          {:.2} s\n\
             \x20 first complete   {first:.2} s\n\
             \x20 last complete    {:.2} s ({rate}/s delivered in all)\n\
             {bound}\
             \x20 the seeder sent  {} ({:.2} copies); {:.0}% of all bytes came from other peers",
            self.fetched.len(),
            human_bytes(self.total),
            self.hash_seconds,
            self.last_seconds(),
            human_bytes(self.sent),
            self.copies(),
            self.share_of_peers(),
        )
    }
}
