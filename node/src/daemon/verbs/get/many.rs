//! Several datasets at once, into one directory: what the names and patterns stand for, and how far
//! all of them are.
//!
//! One that cannot be fetched does not keep the others from it; the request fails in the end, and
//! says how many are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dft_protocol::manifest::Manifest;
use futures::StreamExt;

use super::{Wanted, find, one, parents_of};
use crate::daemon::Daemon;
use crate::daemon::catalogue::{parse_name, parse_pattern};
use crate::daemon::holding::file_name;
use crate::daemon::serve::Reply;
use crate::daemon::wire::{Event, Progress};
use crate::failure::{Failure, Kind};

/// Most names of one request: each costs a question to the catalogue.
const NAMES_MAX: usize = 10_000;
/// Most manifests that are asked for at a time …
const FINDS_MAX: usize = 16;
/// … and most datasets that are fetched at a time: enough that round trips hide behind each other.
const FETCHES_MAX: usize = 32;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Whether a text may stand for several names. One that is a name is that name alone.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

pub(super) async fn run(daemon: &Arc<Daemon>, wanted: &Wanted, reply: &Reply) -> Result<(), Failure> {
    if wanted.id.is_some() {
        return Err(Failure::new(Kind::Usage, "--id is about one name, not several")
            .hint("dft get NAME --id ID, once for each"));
    }
    let names = names(daemon, &wanted.names).await?;
    let count = names.len();
    let mut failures = Vec::new();
    let mut found = Vec::new();
    let mut finds = futures::stream::iter(names.into_iter().map(|name| async move {
        let manifest = find(daemon, &name, wanted).await;
        (name, manifest)
    }))
    .buffered(FINDS_MAX);
    while let Some((name, manifest)) = finds.next().await {
        match manifest {
            Ok(manifest) => found.push((name, manifest)),
            Err(failure) => failures.push((name, failure)),
        }
    }
    drop(finds);
    check_clashes(&found, wanted.parents)?;
    for (name, failure) in &failures {
        warn(name, failure, reply).await;
    }
    let total = found.iter().map(|(_, manifest)| manifest.total_bytes()).sum();
    let done = AtomicU64::new(0);
    let (quiet, done) = (&reply.quiet(), &done);
    let fetches = futures::stream::iter(found.into_iter().map(|(name, manifest)| async move {
        let outcome = one(daemon, &name, &manifest, wanted, quiet).await;
        if let Err(failure) = &outcome {
            warn(&name, failure, quiet).await;
        }
        done.fetch_add(manifest.total_bytes(), Ordering::Relaxed);
        (name, outcome)
    }));
    let outcomes = fetches.buffer_unordered(FETCHES_MAX).collect::<Vec<_>>();
    let outcomes = tokio::select! {
        outcomes = outcomes => outcomes,
        never = tell(done, total, reply) => match never {},
    };
    failures.extend(outcomes.into_iter().filter_map(|(name, outcome)| Some((name, outcome.err()?))));
    let missing = failures.len();
    match failures.into_iter().next() {
        None => Ok(()),
        Some((name, failure)) => {
            let message = format!("{missing} of {count} datasets are not there; {name}: {}", failure.message);
            Err(Failure { message, ..failure })
        }
    }
}

async fn warn(name: &str, failure: &Failure, reply: &Reply) {
    reply.send(Event::Warning(format!("{name}: {}", failure.message))).await;
}

async fn tell(done: &AtomicU64, total: u64, reply: &Reply) -> Infallible {
    loop {
        let bytes = done.load(Ordering::Relaxed);
        reply.progress(Progress { verb: "fetching".into(), bytes, total, ..Progress::default() });
        tokio::time::sleep(TELL_EVERY).await;
    }
}

/// What the names and patterns stand for, each once.
async fn names(daemon: &Daemon, texts: &[String]) -> Result<BTreeSet<String>, Failure> {
    let catalogue = daemon.catalogue().await?;
    let mut names = BTreeSet::new();
    for text in texts {
        if !is_pattern(text) {
            names.insert(text.clone());
            continue;
        }
        let is_name = match parse_name(text) {
            Ok(name) => catalogue.find(&name).await?.is_some(),
            Err(_) => false,
        };
        if is_name {
            names.insert(text.clone());
            continue;
        }
        let matching = catalogue.list(&parse_pattern(Some(text))?).await?;
        if matching.is_empty() {
            return Err(Failure::new(Kind::Name, format!("the catalogue knows no name like {text}"))
                .hint("dft ls shows what there is"));
        }
        names.extend(matching.into_iter().map(|record| record.name.to_string()));
    }
    if names.len() > NAMES_MAX {
        let message = format!("{} names are more than {NAMES_MAX}", names.len());
        return Err(Failure::new(Kind::Usage, message).hint("get them in several steps"));
    }
    Ok(names)
}

/// Two datasets cannot have one place: nothing is fetched where that is asked for.
fn check_clashes(found: &[(String, Arc<Manifest>)], parents: bool) -> Result<(), Failure> {
    let mut places: BTreeMap<PathBuf, &(String, Arc<Manifest>)> = BTreeMap::new();
    for dataset in found {
        let place = parents_of(&dataset.0, parents).join(file_name(&dataset.1));
        match places.get(&place) {
            Some(other) if other.1.id() != dataset.1.id() => {
                let (one, other, place) = (&other.0, &dataset.0, place.display());
                let message = format!("{one} and {other} would both be called {place}");
                return Err(Failure::new(Kind::Usage, message)
                    .hint("--parents makes the directories of their names as well"));
            }
            _ => {
                places.insert(place, dataset);
            }
        }
    }
    Ok(())
}
