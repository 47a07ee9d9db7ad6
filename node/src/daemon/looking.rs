//! Whether the files of what is held are as they were, and what is remembered of their state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Daemon;
use super::holding::{Holding, Presence, Running, State};
use crate::commands::blocking;
use crate::storage::{self, ScanOptions, SeedCache};

/// How often it is looked whether the files that are served are as they were …
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(15);
/// … and at most so large a part of the time goes into it: looking at a million files takes a while.
const LOOK_SHARE: u32 = 50;
/// Files are looked at so long after they were made, for what they were hashed to be remembered.
const CACHE_AFTER: Duration = Duration::from_millis(200);

/// Looks, again and again, whether the files that are served are as they were: nobody is to count on
/// a copy that is gone, even where nobody asks for it. What can be mended is.
pub(super) async fn keep_looking(daemon: &Arc<Daemon>) {
    loop {
        let started = Instant::now();
        for holding in daemon.holdings() {
            if let (true, Some(running)) = (holding.is_complete(), holding.view().running) {
                running.remote.look().await;
            }
            daemon.mend(&holding).await;
        }
        tokio::time::sleep(LOOK_EVERY.max(started.elapsed() * LOOK_SHARE)).await;
    }
}

/// Writes down in which state the files are that were hashed, as soon as that can be told. Only a speed-up:
/// without it, the next start hashes again, and the dataset does not rest.
pub(super) async fn remember_hashes(daemon: Arc<Daemon>, holding: Arc<Holding>) {
    let view = holding.view();
    let (State::Complete(path), Some(Running { store, .. })) = (view.state, view.running) else { return };
    // Files that were made this moment may be changed once more without a trace.
    tokio::time::sleep(CACHE_AFTER).await;
    let (manifest, cache) = (holding.manifest.clone(), daemon.table.directory(holding.id()));
    drop((daemon, holding));
    let remember = move || {
        let (name, options) = (manifest.info().name.clone(), ScanOptions::default());
        if let Ok(scan) = storage::scan(&[path], Some(name), &options)
            && scan.entries == manifest.info().entries
            && store.changed().is_none()
            && let Some(hashes) = SeedCache::new(&scan, manifest.info())
        {
            let _ = hashes.store(&cache);
        }
    };
    let _ = blocking(remember).await;
}

/// Some of its data were changed or removed: others are to count on what is left alone.
pub(super) async fn damaged(daemon: &Daemon, holding: &Holding, reason: String, by_hash: bool) {
    let Some(Running { store, remote }) = holding.view().running else { return };
    if !store.is_finished() {
        // It is fetched again, as what is missing is.
        return daemon.say(&format!("{}: {reason}; it is fetched again", holding.record().name));
    }
    if by_hash {
        // The times of its files say nothing: whoever opens it next hashes it.
        let directory = daemon.table.directory(holding.id());
        let _ = blocking(move || SeedCache::remove(&directory)).await;
    }
    holding.set(State::Damaged(reason));
    if holding.presence == Presence::Selfish {
        return;
    }
    let left = remote.pieces().await;
    if left.is_none_or(|left| left.is_empty()) {
        daemon.discovery.remove(holding.id());
    } else {
        daemon.discovery.set_partial(holding.id());
    }
    daemon.tell_news();
}
