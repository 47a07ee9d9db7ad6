//! The place of one test: a directory of its own, and the `dft` processes that run in it.
//!
//! A [`Scene`] that is dropped by a panicking test prints the end of what every process of the
//! test wrote, so that a failure is explained by all who took part.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process::{Outcome, Process};
use super::{Host, tool};

/// How many lines of each process's output a failing test shows.
const SHOWN_LINES: usize = 40;

/// The binary under test.
pub const DFT: &str = env!("CARGO_BIN_EXE_dft");

/// The directory and the processes of one test. Declared before the processes, it is dropped
/// after them.
pub struct Scene {
    directory: TempDir,
    started: Cell<usize>,
}

impl Scene {
    /// An empty scene.
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// An empty scene whose files are memory, so that no disk is waited for; an ordinary one where
    /// there is no such place.
    pub fn in_memory() -> Self {
        let shared = Path::new("/dev/shm");
        if shared.is_dir() { Self::within(shared) } else { Self::new() }
    }

    fn within(parent: &Path) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("dft-test-")
            .tempdir_in(parent)
            .unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
        fs::create_dir(directory.path().join("logs")).expect("a new directory is writable");
        Self { directory, started: Cell::new(0) }
    }

    /// The path of `name` in the scene's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A new directory with this name.
    pub fn new_directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Where the daemon of this name has its socket: a directory for each host of its user.
    pub fn socket_directory(&self, name: &str) -> PathBuf {
        let hosts = self.path(&format!("{name}.state/dft/run"));
        let mut found = fs::read_dir(&hosts).unwrap_or_else(|error| panic!("{}: {error}", hosts.display()));
        let host = found.next().expect("a daemon runs or ran").expect("an entry").path();
        assert!(found.next().is_none(), "one host, one directory");
        host
    }

    /// `dft` on this machine, in a directory and with a state directory of its own, both called
    /// `name`: the same name continues where an earlier process stopped.
    pub fn dft(&self, name: &str) -> Dft {
        let mut command = tool("setpriv");
        let directory = self.new_directory(name);
        command.args(["--pdeathsig", "KILL"]).current_dir(&directory);
        self.prepared(name, directory, command)
    }

    /// `dft` on a host of a lab; the same otherwise.
    pub fn dft_on(&self, host: Host<'_>, name: &str) -> Dft {
        let directory = self.new_directory(name);
        let command = host.command("env", &directory);
        self.prepared(name, directory, command)
    }

    fn prepared(&self, name: &str, directory: PathBuf, mut command: Command) -> Dft {
        let state = self.new_directory(&format!("{name}.state"));
        // A daemon of this name has its socket and its store there.
        command.env("XDG_STATE_HOME", &state).env("HOME", &state).env("XDG_DATA_HOME", state.join("data"));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("DFT_") {
                command.env_remove(variable);
            }
        }
        for variable in
            ["XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "RUST_LOG", "RUST_BACKTRACE", "NO_COLOR", "CLICOLOR_FORCE"]
        {
            command.env_remove(variable);
        }
        let number = self.started.replace(self.started.get() + 1);
        let log = self.path("logs").join(format!("{number:02} {name}"));
        Dft { command, name: name.to_owned(), directory, log, program_given: false }
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_logs(&self.path("logs"));
        }
        make_removable(self.directory.path());
    }
}

/// A `dft` command that is being put together.
pub struct Dft {
    command: Command,
    name: String,
    directory: PathBuf,
    log: PathBuf,
    program_given: bool,
}

impl Dft {
    /// The directory that it runs in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Allows this many open files.
    pub fn open_files_max(mut self, count: u32) -> Self {
        assert!(!self.program_given, "limits come before arguments");
        self.command.arg("prlimit").arg(format!("--nofile={count}"));
        self
    }

    /// Adds an argument.
    pub fn arg(self, argument: impl AsRef<OsStr>) -> Self {
        self.args([argument])
    }

    /// Adds arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.program();
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable for it.
    pub fn env(mut self, variable: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(variable, value);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Process {
        self.program();
        Process::start(self.command, self.name, &self.log)
    }

    /// `dft shell`, on a terminal of its own that script(1) makes.
    pub fn shell_on_terminal(mut self) -> Command {
        assert!(!self.program_given, "it has no other argument");
        let shell = format!("'{DFT}' shell");
        self.command.args(["script", "--quiet", "--return", "--command", &shell, "/dev/null"]);
        self.command
    }

    /// Runs a line of a shell, which calls it `dft`.
    pub fn run_in_shell(mut self, line: &str) -> Outcome {
        assert!(!self.program_given, "the line has the arguments");
        self.command.args(["sh", "-c", &format!("dft() {{ '{DFT}' \"$@\"; }}\n{line}")]);
        Process::start(self.command, self.name, &self.log).wait()
    }

    /// Starts it and waits for its end.
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    fn program(&mut self) {
        if !self.program_given {
            self.command.arg(DFT);
            self.program_given = true;
        }
    }
}

/// The end of each log, in the order in which the processes were started.
fn print_logs(directory: &Path) {
    let Ok(logs) = fs::read_dir(directory) else { return };
    let mut logs: Vec<PathBuf> = logs.flatten().map(|entry| entry.path()).collect();
    logs.sort();
    for log in logs {
        let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
        eprintln!("---- {name}\n{}", tail(&log));
    }
}

/// The last lines of a file, and of progress events only the latest in a row.
pub(super) fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.reverse();
    lines.dedup_by_key(|line| if is_progress(line) { "" } else { line });
    lines.reverse();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

fn is_progress(line: &str) -> bool {
    line.contains(r#""event":"progress""#)
}

/// Datasets have read-only directories, which only root could empty.
fn make_removable(directory: &Path) {
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_removable(&entry.path());
        }
    }
}
