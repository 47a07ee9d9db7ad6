//! Where a trial plays: the hosts of the laboratory as seen from within, the places of its files,
//! and the processes that a peer starts.
//!
//! Invariants: everything below [`ROOT`] is memory of this trial alone, and every process started
//! here ends with it, since the trial is the first process of a namespace of its own. What a process
//! writes to standard error goes to a file, whose end explains a failure.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::tool;
use crate::scenario::Scenario;
use crate::trial::Play;

/// Where a trial keeps its files: a file system in memory that is mounted over it.
const ROOT: &str = "/mnt/trial";
/// How long a daemon may take until it serves.
const PREPARE_PATIENCE: Duration = Duration::from_secs(60);
/// How often one looks whether a daemon serves.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How much of what a failed process wrote is shown, in lines.
const SHOWN_LINES: usize = 6;

/// Why a peer could not do what was asked of it.
pub type Problem = String;

/// How one knows that a process has done its part.
#[derive(Clone, Copy)]
pub enum Ends {
    /// It exits with 0.
    Exits,
    /// It prints a line that holds this; it may go on serving others.
    Says(&'static str),
}

/// Something that happened to a process: of which receiver (0: the sender), when, and whether it has
/// done its part.
pub struct Report {
    /// The receiver from 1, or 0 for the sender.
    pub of: usize,
    /// When.
    pub at: Instant,
    /// Done, or why not.
    pub result: Result<(), Problem>,
}

/// A place for one trial of one peer in one scenario.
pub struct Field {
    /// What is played.
    pub scenario: &'static Scenario,
    /// What everyone is to have: a file or a directory.
    pub dataset: PathBuf,
    /// The `dft` to measure.
    pub dft: PathBuf,
    /// Where each dft writes its trace, if that is wanted.
    pub traces: Option<PathBuf>,
    addresses: Vec<Ipv4Addr>,
    daemons: RefCell<Vec<Child>>,
    /// A process on every host that has one, to read its counters by.
    windows: RefCell<Vec<Option<u32>>>,
    started: Cell<usize>,
    sender: Sender<Report>,
    /// What happens to the processes of receivers and the sender.
    pub reports: Receiver<Report>,
}

impl Field {
    /// An empty field.
    pub fn new(scenario: &'static Scenario, play: &Play) -> Result<Self, Problem> {
        let (sender, reports) = channel();
        let Play { dataset, dft, traces, addresses, .. } = play.clone();
        let windows = RefCell::new(vec![None; addresses.len()]);
        let (daemons, started) = (RefCell::default(), Cell::new(0));
        let field =
            Self { scenario, dataset, dft, traces, addresses, daemons, windows, started, sender, reports };
        if let Some(directory) = &field.traces {
            fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        fs::create_dir_all(ROOT).map_err(|error| format!("{ROOT}: {error}"))?;
        run(tool("mount").args(["-t", "tmpfs", "-o", "size=90%,mode=755", "trial", ROOT]))?;
        for host in 0..field.addresses.len() {
            field.directory(&format!("host-{host}"))?;
            field.directory(&format!("copy-{host}"))?;
        }
        field.directory("logs")?;
        // No name server can be reached here: whoever looks up a name shall learn so at once.
        let resolver = field.file("resolv.conf", "nameserver 127.0.0.1\n")?;
        run(tool("mount").arg("--bind").arg(resolver).arg("/etc/resolv.conf"))?;
        Ok(field)
    }

    /// The numbers of the receivers; host 0 is the source.
    pub fn receivers(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.scenario.receivers
    }

    /// The address of a host.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        self.addresses[host]
    }

    /// The name of the dataset in its directory.
    pub fn dataset_name(&self) -> &str {
        self.dataset.file_name().and_then(|name| name.to_str()).expect("we gave it a plain name")
    }

    /// The directory that holds the dataset.
    pub fn dataset_parent(&self) -> &Path {
        self.dataset.parent().expect("it lies in a directory")
    }

    /// Whether the dataset is a directory.
    pub fn is_tree(&self) -> bool {
        self.dataset.is_dir()
    }

    /// The directory in which a receiver is to have the dataset, under its own name.
    pub fn copies(&self, receiver: usize) -> PathBuf {
        self.path(&format!("copy-{receiver}"))
    }

    /// Where a receiver is to have the dataset.
    pub fn copy(&self, receiver: usize) -> PathBuf {
        self.copies(receiver).join(self.dataset_name())
    }

    /// A path among the files of this trial.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(ROOT).join(name)
    }

    /// A directory among them.
    pub fn directory(&self, name: &str) -> Result<PathBuf, Problem> {
        let path = self.path(name);
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// A file among them with this content.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf, Problem> {
        let path = self.path(name);
        fs::write(&path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// A command that runs `program` on a host, in a directory and with a home of that host's own.
    pub fn command(&self, host: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let directory = self.path(&format!("host-{host}"));
        let mut command = tool("ip");
        command.args(["netns", "exec", &format!("h{host}")]).arg(program);
        command.env("HOME", &directory).env("XDG_STATE_HOME", &directory).current_dir(&directory);
        command.env_remove("DFT_LOG").env_remove("RUST_LOG");
        command
    }

    /// A shell script that runs on a host.
    pub fn shell(&self, host: usize, script: &str) -> Command {
        let mut command = self.command(host, "bash");
        command.args(["-o", "pipefail", "-ec", script]);
        command
    }

    /// Starts a daemon that listens on a TCP port, and waits until it does.
    pub fn daemon(&self, host: usize, command: &mut Command, port: u16) -> Result<(), Problem> {
        let log = self.log(command);
        let child = command.stdin(Stdio::null()).stdout(log.1).stderr(log.2).spawn();
        let mut child = child.map_err(|error| format!("{command:?}: {error}"))?;
        let result = self.wait_until_listening(&mut child, port);
        self.open_window(host, &child);
        self.daemons.borrow_mut().push(child);
        result.map_err(|error| format!("{command:?}: {error}; {}", tail(&log.0)))
    }

    /// Starts a daemon and waits until it prints a line that holds `text`; returns that line.
    pub fn daemon_that_says(
        &self,
        host: usize,
        command: &mut Command,
        text: &str,
    ) -> Result<String, Problem> {
        let log = self.log(command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.2).spawn();
        let mut child = child.map_err(|error| format!("{command:?}: {error}"))?;
        self.open_window(host, &child);
        let mut lines = BufReader::new(child.stdout.take().expect("it was asked for"));
        self.daemons.borrow_mut().push(child);
        let (said, saying) = channel();
        let wanted = text.to_owned();
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|count| count > 0) {
                if line.contains(&wanted) {
                    let _ = said.send(line.clone());
                }
                line.clear();
            }
        });
        saying
            .recv_timeout(PREPARE_PATIENCE)
            .map_err(|_| format!("{command:?} has not said «{text}»; {}", tail(&log.0)))
    }

    /// Starts the process that receives for a receiver, or that sends to them all (0).
    pub fn start(&self, of: usize, command: &mut Command, ends: Ends) -> Result<u32, Problem> {
        let log = self.log(command);
        command.stdin(Stdio::null()).stderr(log.2);
        match ends {
            Ends::Exits => command.stdout(log.1),
            Ends::Says(_) => command.stdout(Stdio::piped()),
        };
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let (id, sender) = (child.id(), self.sender.clone());
        self.open_window(of, &child);
        std::thread::spawn(move || {
            if let Ends::Says(text) = ends {
                let lines = BufReader::new(child.stdout.take().expect("it was asked for")).split(b'\n');
                for line in lines.map_while(Result::ok) {
                    if String::from_utf8_lossy(&line).contains(text) {
                        let _ = sender.send(Report { of, at: Instant::now(), result: Ok(()) });
                    }
                }
            }
            let status = child.wait();
            let at = Instant::now();
            let result = match status {
                Ok(status) if status.success() && matches!(ends, Ends::Exits) => Ok(()),
                Ok(status) => Err(format!("{status}; {}", tail(&log.0))),
                Err(error) => Err(error.to_string()),
            };
            let _ = sender.send(Report { of, at, result });
        });
        Ok(id)
    }

    /// Waits until a process that was started listens on a TCP port of its host.
    pub fn wait_for_port(&self, process: u32, port: u16) -> Result<(), Problem> {
        let deadline = Instant::now() + PREPARE_PATIENCE;
        while !listens(process, port) {
            if Instant::now() > deadline {
                return Err(format!("nothing listens on port {port}"));
            }
            sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn wait_until_listening(&self, child: &mut Child, port: u16) -> Result<(), Problem> {
        let deadline = Instant::now() + PREPARE_PATIENCE;
        while !listens(child.id(), port) {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("ended: {status}"));
            }
            if Instant::now() > deadline {
                return Err(format!("does not listen on port {port}"));
            }
            sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Bytes that a host has received, as one of its processes sees it; 0 where none runs.
    pub fn received_bytes(&self, host: usize) -> u64 {
        let process = self.windows.borrow()[host];
        process
            .and_then(|process| interface_bytes(&format!("/proc/{process}/net/dev"), "eth0"))
            .map_or(0, |bytes| bytes.0)
    }

    /// Bytes that a host has sent since the laboratory was built.
    pub fn sent_bytes(&self, host: usize) -> u64 {
        let output = tool("ip").args(["netns", "exec", &format!("h{host}"), "cat", "/proc/net/dev"]).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        parse_interface_bytes(&text, "eth0").map_or(0, |bytes| bytes.1)
    }

    /// Bytes that crossed the trunk into a site since the laboratory was built.
    pub fn trunk_bytes_into(&self, site: usize) -> u64 {
        interface_bytes("/proc/net/dev", &format!("br{site}")).map_or(0, |bytes| bytes.1)
    }

    /// Kills every process that runs on a host, as a crash would.
    pub fn kill_host(&self, host: usize) {
        let inode = |path: String| fs::metadata(path).map(|metadata| metadata.ino()).ok();
        let network = inode(format!("/run/netns/h{host}"));
        for process in crate::account::processes() {
            if network.is_some() && inode(format!("/proc/{process}/ns/net")) == network {
                crate::account::kill(process);
            }
        }
    }

    fn open_window(&self, host: usize, child: &Child) {
        self.windows.borrow_mut()[host] = Some(child.id());
    }

    /// A file for each stream of a process; the path is that of standard error.
    fn log(&self, command: &Command) -> (PathBuf, File, File) {
        let number = self.started.replace(self.started.get() + 1);
        let stderr = self.path(&format!("logs/{number:03}"));
        let create = |path: &Path| File::create(path).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = create(&stderr.with_extension("out"));
        (stderr.clone(), stdout, create(&stderr))
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<String, Problem> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {}", output.status, stderr.trim()))
}

/// Whether a TCP socket listens on this port of the host on which a process runs.
fn listens(process: u32, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|family| {
        let table = fs::read_to_string(format!("/proc/{process}/net/{family}")).unwrap_or_default();
        table.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (local, state) = (fields.next(), fields.nth(1));
            state == Some("0A") && local.is_some_and(|local| local.ends_with(&wanted))
        })
    })
}

/// Bytes received and sent by an interface.
fn interface_bytes(path: &str, interface: &str) -> Option<(u64, u64)> {
    parse_interface_bytes(&fs::read_to_string(path).ok()?, interface)
}

fn parse_interface_bytes(table: &str, interface: &str) -> Option<(u64, u64)> {
    let line = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut fields = line.split_ascii_whitespace();
    Some((fields.next()?.parse().ok()?, fields.nth(7)?.parse().ok()?))
}

/// The last lines that a process wrote, in one.
fn tail(log: &Path) -> String {
    let lines_of = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let mut text = lines_of(log);
    if text.trim().is_empty() {
        text = lines_of(&log.with_extension("out"));
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join(" / ")
}
