//! Where a daemon keeps what: its store, its socket, its lock.
//!
//! One daemon per user and host: whoever holds the lock is it. A home directory may be shared by
//! many hosts, so whatever lies in one has the host in its path. Nothing here depends on how one logged
//! in: a session's directory vanishes with it, and is none of cron, of Slurm or of `su`.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Failure, Kind, shown};
use crate::settings::{create_private_dir, state_dir};

/// Longest path of a unix socket (unix(7): `sun_path`, with the zero at its end), in bytes.
const SOCKET_PATH_LEN_MAX: usize = 107;
/// Most bytes of a lock file that are read: a pid and a host.
const HOLDER_LEN_MAX: u64 = 256;

const ELSEWHERE: &str = "the socket and the lock of a daemon need a file system that has such: \
                         set XDG_STATE_HOME to a directory of another one";

/// The name of this host.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let valid = |name: &str| !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    if valid(&name) { name } else { "localhost".into() }
}

/// The directory of the socket and the lock: nobody else can look into it.
fn run_dir() -> Result<PathBuf, Failure> {
    Ok(state_dir()?.join("run").join(host_name()))
}

/// Where the daemon of this user and host listens.
pub fn socket_path() -> Result<PathBuf, Failure> {
    Ok(run_dir()?.join("daemon.sock"))
}

/// A name of the socket at a path that is short enough for the system, however long the path is.
pub(super) struct SocketName {
    short: PathBuf,
    /// The directory that a short name counts from.
    _directory: Option<OwnedFd>,
}

impl SocketName {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let (Some(directory), Some(file)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if path.as_os_str().len() <= SOCKET_PATH_LEN_MAX {
            return Ok(Self { short: path.to_owned(), _directory: None });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(file);
        Ok(Self { short, _directory: Some(directory) })
    }

    /// What the system takes, as long as this lives.
    pub(super) fn as_path(&self) -> &Path {
        &self.short
    }
}

/// What cannot be done with the socket or the lock, and what to try.
pub(super) fn cannot(operation: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::io(operation, path, error);
    // Some file systems say so of what they do not have.
    let is_not_permitted = error.raw_os_error() == Some(Errno::PERM.raw_os_error());
    if is_not_permitted { failure.hint(ELSEWHERE) } else { failure.hint_else(ELSEWHERE) }
}

/// Where a daemon that was started on demand writes what it has to say.
pub fn log_path() -> Result<PathBuf, Failure> {
    Ok(run_dir()?.join("daemon.log"))
}

/// The store that is used where none is named: `$XDG_DATA_HOME/dft/HOST`.
pub fn default_store() -> Result<PathBuf, Failure> {
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().map(|home| home.join(".local/share"));
    let base = base.or_else(home).ok_or_else(|| {
        Failure::new(Kind::Other, "there is no home directory to keep a store in")
            .hint("name one: --store DIR")
    })?;
    Ok(base.join("dft").join(host_name()))
}

/// Held by the one daemon of this user and host. It goes with the process, however that ends.
pub struct DaemonLock {
    _file: std::fs::File,
}

impl DaemonLock {
    /// Takes it; a failure where another daemon has it.
    pub fn take() -> Result<Self, Failure> {
        let path = lock_path()?;
        match lock(&path).map_err(|error| cannot("lock", &path, &error))? {
            Locked::Ours(file) => Ok(Self { _file: file }),
            Locked::By(holder) => {
                let pid = holder.map(|holder| format!(" (pid {})", holder.pid)).unwrap_or_default();
                Err(Failure::new(Kind::Disk, format!("a daemon runs already{pid}"))
                    .hint("dft status tells of it, dft status --stop ends it"))
            }
        }
    }
}

/// Where the lock is, in a directory of this user alone.
fn lock_path() -> Result<PathBuf, Failure> {
    let directory = run_dir()?;
    create_private_dir(&directory)?;
    check_private(&directory)?;
    Ok(directory.join("daemon.lock"))
}

/// Whether a daemon runs, or is about to begin or to end.
pub fn is_daemon_locked() -> Result<bool, Failure> {
    let path = lock_path()?;
    let file = open_lock(&path).and_then(|file| try_lock(&file));
    Ok(!file.map_err(|error| cannot("lock", &path, &error))?)
}

/// The name of a store's lock.
pub(super) const STORE_LOCK: &str = "lock";

/// Held by the one daemon that uses a store.
pub fn lock_store(store: &Path) -> Result<std::fs::File, Failure> {
    create_private_dir(store)?;
    let path = store.join(STORE_LOCK);
    const ANOTHER: &str =
        "end that one, or name another store: --store DIR; where XDG_STATE_HOME is another, it is not found";
    match lock(&path).map_err(|error| Failure::io("lock", &path, &error).hint_else(ANOTHER))? {
        Locked::Ours(file) => Ok(file),
        Locked::By(holder) => {
            let who = holder.map(|Holder { pid, host }| format!(" (pid {pid} on host {host})"));
            let (who, store) = (who.unwrap_or_default(), shown(store));
            Err(Failure::new(Kind::Disk, format!("another daemon{who} uses the store {store}")).hint(ANOTHER))
        }
    }
}

enum Locked {
    Ours(std::fs::File),
    /// Another process has it: the one that wrote down who it is.
    By(Option<Holder>),
}

/// Who holds a lock.
#[derive(PartialEq, Eq, Debug)]
struct Holder {
    pid: u32,
    host: String,
}

impl Holder {
    fn of_text(text: &str) -> Option<Self> {
        let (pid, host) = text.trim_end().split_once(' ')?;
        let host = Some(host).filter(|host| !host.is_empty() && !host.chars().any(char::is_control))?;
        Some(Self { pid: pid.parse().ok()?, host: host.to_owned() })
    }
}

/// Takes a lock, and writes down who has it.
fn lock(path: &Path) -> io::Result<Locked> {
    let mut file = open_lock(path)?;
    if try_lock(&file)? {
        // Whom a full disk lets write nothing holds the lock all the same.
        let _ = file.set_len(0).and_then(|()| {
            writeln!(file, "{} {}", std::process::id(), host_name())?;
            file.sync_data()
        });
        return Ok(Locked::Ours(file));
    }
    let mut text = String::new();
    let read = file.take(HOLDER_LEN_MAX).read_to_string(&mut text);
    Ok(Locked::By(read.ok().and_then(|_| Holder::of_text(&text))))
}

fn open_lock(path: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// False where another process has the lock.
fn try_lock(file: &std::fs::File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Refuses a directory that others can look into or that is another's: the socket in it would
/// not be ours alone.
pub fn check_private(directory: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(directory);
    let metadata = metadata.map_err(|error| Failure::io("look at", directory, &error))?;
    let ours = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    if ours && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    let message = format!("{} is not a directory of this user alone", directory.display());
    Err(Failure::new(Kind::Other, message).hint(format!("chmod 700 {}", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_a_lock_taken_reads_who_has_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        // What a longer one left behind goes.
        std::fs::write(&path, "4000000000 a-host-with-a-long-name\n").expect("it is written");
        let Locked::Ours(held) = lock(&path).expect("it can be locked") else { panic!("nobody had it") };
        let own = Holder { pid: std::process::id(), host: host_name() };
        match lock(&path).expect("it can be asked for") {
            Locked::By(holder) => assert_eq!(holder, Some(own)),
            Locked::Ours(_) => panic!("two have it"),
        }
        let said = lock_store(directory.path()).expect_err("it is taken").message;
        assert!(said.contains(&format!("(pid {} on host {})", std::process::id(), host_name())), "{said}");
        drop(held);
        assert!(matches!(lock(&path), Ok(Locked::Ours(_))));
        for nonsense in ["", "4711", "4711 ", "x lab3", "4711 lab\x1b"] {
            assert_eq!(Holder::of_text(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn file_system_without_sockets_or_locks_is_told_with_a_way_out() {
        for errno in [Errno::PERM, Errno::OPNOTSUPP, Errno::NOLCK, Errno::NOSYS] {
            let hint = cannot("lock", Path::new("/there/daemon.lock"), &errno.into()).hint;
            assert!(hint.is_some_and(|hint| hint.contains("XDG_STATE_HOME")), "{errno}");
        }
        let full = cannot("listen on", Path::new("/there/daemon.sock"), &Errno::NOSPC.into()).hint;
        assert!(full.is_some_and(|hint| hint.contains("free some space")));
    }

    #[test]
    fn socket_with_a_long_path_is_reached() {
        let directory = tempfile::tempdir().expect("a directory");
        let long = directory.path().join("a".repeat(100)).join("b".repeat(100));
        std::fs::create_dir_all(&long).expect("it can be made");
        let path = long.join("daemon.sock");
        let name = || SocketName::of(&path).expect("it has a name");
        let listener = std::os::unix::net::UnixListener::bind(name().as_path()).expect("it listens");
        assert!(path.exists());
        std::os::unix::net::UnixStream::connect(name().as_path()).expect("it is reached");
        drop(listener);
    }
}
