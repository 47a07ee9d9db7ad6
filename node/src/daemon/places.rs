//! Where a daemon keeps what: its store, its socket, its lock.
//!
//! One daemon per user and host: whoever holds the lock is it. A home directory may be shared by
//! many hosts, so whatever lies in one has the host in its path.

use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::failure::{Failure, Kind};
use crate::settings::{create_private_dir, state_dir};

/// Longest path of a unix socket (unix(7): `sun_path`, with the zero at its end), in bytes.
const SOCKET_PATH_LEN_MAX: usize = 107;

const DAEMON_RUNS: &str = "a daemon runs already";

/// The name of this host.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let valid = |name: &str| !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    if valid(&name) { name } else { "localhost".into() }
}

/// The directory of the socket and the lock: nobody else can look into it.
fn run_dir() -> Result<PathBuf, Failure> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(match runtime {
        Some(runtime) => runtime.join("dft"),
        None => state_dir()?.join("run").join(host_name()),
    })
}

/// Where the daemon of this user and host listens.
pub fn socket_path() -> Result<PathBuf, Failure> {
    let path = run_dir()?.join("daemon.sock");
    if path.as_os_str().len() > SOCKET_PATH_LEN_MAX {
        let message = format!("{} is too long for the path of a socket", path.display());
        return Err(Failure::new(Kind::Other, message).hint("set XDG_RUNTIME_DIR to a shorter path"));
    }
    Ok(path)
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
        let directory = run_dir()?;
        create_private_dir(&directory)?;
        check_private(&directory)?;
        lock(&directory.join("daemon.lock"), DAEMON_RUNS, "dft status tells of it").map(Self::from)
    }
}

/// Whether a daemon runs, or is about to begin or to end.
pub(super) fn is_daemon_locked() -> Result<bool, Failure> {
    match DaemonLock::take() {
        Ok(_) => Ok(false),
        Err(failure) if failure.message == DAEMON_RUNS => Ok(true),
        Err(failure) => Err(failure),
    }
}

impl From<std::fs::File> for DaemonLock {
    fn from(file: std::fs::File) -> Self {
        Self { _file: file }
    }
}

/// The name of a store's lock.
pub(super) const STORE_LOCK: &str = "lock";

/// Held by the one daemon that uses a store.
pub fn lock_store(store: &Path) -> Result<std::fs::File, Failure> {
    create_private_dir(store)?;
    let message = format!("another daemon uses the store {}", store.display());
    lock(&store.join(STORE_LOCK), &message, "name another one: --store DIR")
}

fn lock(path: &Path, taken: &str, hint: &str) -> Result<std::fs::File, Failure> {
    let options = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let file = options.map_err(|error| Failure::io("create", path, &error))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::new(Kind::Disk, taken).hint(hint)),
        Err(errno) => Err(Failure::io("lock", path, &errno.into())),
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
