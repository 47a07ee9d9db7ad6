//! The command line's side of the socket: find the daemon, start one where none runs, ask.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;

use super::places;
use super::wire::{self, Event, Request};
use crate::failure::{Failure, Kind};
use crate::report::Reporter;
use crate::settings::create_private_dir;

/// How long a daemon that was started may take to listen.
const START_MAX: Duration = Duration::from_secs(15);
/// How often it is started meanwhile: what ended since another one was about to end works then.
const STARTS_MAX: u32 = 3;
/// How often it is looked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Variables that name files, for the daemon as well, which has a working directory of its own.
const PATH_VARIABLES: [&str; 4] = ["DFT_CONFIG", "DFT_SECRET_FILE", "DFT_STORE", "DFT_TOKEN_FILE"];
/// Lines of a daemon's log that explain why it did not start.
const LOG_LINES: usize = 5;

/// A request on its way.
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Reaches the daemon; `None` where none runs.
    pub async fn open() -> Result<Option<Self>, Failure> {
        let path = places::socket_path()?;
        let Some(directory) = path.parent().filter(|directory| directory.exists()) else { return Ok(None) };
        // Another user's socket could take what is asked, and answer anything.
        places::check_private(directory)?;
        let cannot = |error| places::cannot("reach the daemon at", &path, &error);
        let name = places::SocketName::of(&path).map_err(cannot)?;
        match UnixStream::connect(name.as_path()).await {
            Ok(stream) => Ok(Some(Self { stream })),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(error) => Err(cannot(error)),
        }
    }

    /// Reaches the daemon, and starts one where none runs.
    pub async fn open_or_start(reporter: &Reporter) -> Result<Self, Failure> {
        if let Some(connection) = Self::open().await? {
            return Ok(connection);
        }
        let log = places::log_path()?;
        let deadline = Instant::now() + START_MAX;
        let (mut child, mut starts) = (start(&log)?, 1);
        loop {
            if let Some(connection) = Self::open().await? {
                let log = log.display();
                reporter
                    .say(&format!("started a daemon (pid {}); it stays, and writes to {log}", child.id()));
                return Ok(connection);
            }
            // It may also end because another command started one at the same time, or because the
            // one before it is still about to end: either lasts as long as the daemon's lock is held.
            if matches!(child.try_wait(), Ok(Some(_))) && !places::is_daemon_locked()? {
                if let Some(connection) = Self::open().await? {
                    return Ok(connection);
                }
                if starts == STARTS_MAX {
                    return Err(did_not_start(&log, "it ended"));
                }
                (child, starts) = (start(&log)?, starts + 1);
            }
            if Instant::now() >= deadline {
                return Err(did_not_start(&log, "it does not listen"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends the one request of a connection.
    pub async fn ask(&mut self, request: &Request) -> Result<(), Failure> {
        let envelope = wire::envelope(request).map_err(|error| lost(&error))?;
        wire::send(&mut self.stream, &envelope).await.map_err(|error| lost(&error))
    }

    /// The next event; a failure where the daemon ends before it said that it is done.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        let event = wire::receive(&mut self.stream).await.map_err(|error| lost(&error))?;
        event.ok_or_else(|| lost(&io::ErrorKind::UnexpectedEof.into()))
    }
}

fn lost(error: &io::Error) -> Failure {
    Failure::new(Kind::Other, format!("lost the daemon: {error}"))
        .hint("the next command starts it again; nothing that was acknowledged is lost")
}

fn start(log: &Path) -> Result<std::process::Child, Failure> {
    if let Some(directory) = log.parent() {
        create_private_dir(directory)?;
    }
    let file = std::fs::File::create(log).map_err(|error| Failure::io("write", log, &error))?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Kind::Other, format!("cannot find this program: {error}")))?;
    let path_of = |name: &'static str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        Some((name, std::path::absolute(value).ok()?))
    };
    let child = std::process::Command::new(program)
        .args(["daemon", "--detached"])
        .envs(PATH_VARIABLES.into_iter().filter_map(path_of))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn();
    child.map_err(|error| Failure::new(Kind::Other, format!("cannot start a daemon: {error}")))
}

fn did_not_start(log: &Path, what: &str) -> Failure {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
    Failure::new(Kind::Other, format!("the daemon did not start: {what}\n  {last}"))
        .hint("start it by hand to see more: dft daemon")
}
