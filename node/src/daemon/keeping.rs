//! The catalogue that this node keeps: how it did so before, and the tracker that runs in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use dft_tracker::catalogue::service::StartAs;
use dft_tracker::server::{self, CatalogueSettings, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cli::NetArgs;
use crate::failure::{Failure, Kind};
use crate::report::to_stderr;
use crate::settings::write_atomically;

/// How long a tracker in this process may take to listen.
const READY_MAX: Duration = Duration::from_secs(10);

/// How the catalogue in a store was kept: a daemon that starts again, by itself or after a crash,
/// keeps it the same way.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    /// Whoever reaches it may write.
    pub open: bool,
    /// It was the catalogue of a private cluster.
    pub private: bool,
}

impl Kept {
    const FILE: &'static str = "kept";

    /// How the catalogue whose state is in this directory was kept; `None` where there is none. What
    /// cannot be read is an error: without it, a node would keep its catalogue no more, unsaid.
    pub(super) fn read(state: &Path) -> Result<Option<Self>, Failure> {
        let path = state.join(Self::FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                Failure::new(Kind::Other, format!("{} is damaged: {error}", path.display()))
                    .hint("it says how this node keeps its catalogue: remove it, and say --embed-tracker")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::io("read", &path, &error)),
        }
    }

    /// The catalogue in this directory is kept no more, until somebody says so; it stays where it is.
    pub(super) fn forget(state: &Path) -> Result<(), Failure> {
        let path = state.join(Self::FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::io("remove", &path, &error))
            }
            _ => Ok(()),
        }
    }

    /// Writes it down, where that is not there already: a full disk keeps no daemon from starting.
    fn write(self, state: &Path) -> Result<(), Failure> {
        if Self::read(state).is_ok_and(|kept| kept == Some(self)) {
            return Ok(());
        }
        write_atomically(&state.join(Self::FILE), serde_json::json!(self).to_string().as_bytes(), 0o600)
    }
}

/// Starts a tracker in this process; returns its addresses once it listens.
pub(super) async fn start_tracker(
    net: &NetArgs,
    state: &Path,
    open: bool,
    network_key: Option<[u8; 32]>,
) -> Result<(JoinHandle<()>, Vec<String>), Failure> {
    // Links have the port that was asked for, discovery the next one.
    let port = net.port.filter(|port| *port != 0).and_then(|port| port.checked_add(2)).unwrap_or(0);
    Kept { open, private: network_key.is_some() }.write(state)?;
    let catalogue = Some(CatalogueSettings { open, start_as: StartAs::AsBefore });
    let listen = SocketAddr::new(net.listen, port);
    let config = ServerConfig { listen, state: state.to_owned(), network_key, catalogue };
    let (ready, is_ready) = oneshot::channel();
    let (failed, failure) = oneshot::channel();
    let task = tokio::spawn(async move {
        let ready = |up: server::Ready| drop(ready.send(up.addrs));
        let notices = |notice: dft_tracker::service::Notice| to_stderr(&format!("warning: {notice}"));
        if let Err(error) = server::run(config, ready, notices, std::future::pending()).await {
            to_stderr(&format!("error: the tracker: {error}"));
            let _ = failed.send(error.to_string());
        }
    });
    let addrs = tokio::time::timeout(READY_MAX, is_ready).await.ok().and_then(Result::ok);
    match addrs {
        Some(addrs) => Ok((task, addrs.iter().map(ToString::to_string).collect())),
        None => {
            let reason = failure.await.unwrap_or_else(|_| "it does not listen".into());
            Err(Failure::new(Kind::Other, format!("the tracker did not start: {reason}")).hint(
                "a tracker that runs here already may have the port or the store: see --port and --store",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_catalogue_was_kept_is_forgotten_only_where_no_file_says_it() {
        let state = tempfile::tempdir().expect("a directory");
        assert_eq!(Kept::read(state.path()).expect("there is none"), None);
        let kept = Kept { open: true, private: false };
        kept.write(state.path()).expect("it can be written");
        assert_eq!(Kept::read(state.path()).expect("it is there"), Some(kept));
        std::fs::write(state.path().join(Kept::FILE), b"half").expect("it can be written");
        assert!(Kept::read(state.path()).is_err());
        for _ in 0..2 {
            Kept::forget(state.path()).expect("it is forgotten");
        }
        assert_eq!(Kept::read(state.path()).expect("there is none"), None);
    }
}
