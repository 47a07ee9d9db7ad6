//! Datasets at rest: complete, and nobody is at work on them. Of each a line is kept in memory; whoever
//! asks for one, on this node or by a link, has it opened from its record, as after a restart.
//!
//! What always holds: a dataset is at work or at rest, never both; what is at rest is announced; what
//! goes to rest is counted on by no request and has no link.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::Manifest;
use tokio::sync::mpsc;

use super::Daemon;
use super::holding::{self, Holding, Presence, Sent, State, View};
use super::looking::{LOOK_EVERY, remember_hashes};
use super::opening::{self, Opening};
use super::table::{Loaded, Place, Record};
use crate::commands::blocking;
use crate::failure::{Failure, Kind};
use crate::net::discovery::{self, DATASETS_MAX, parse_tracker};
use crate::net::link::endpoint::Wanted;
use crate::storage::SeedCache;

/// So long nobody asks for a dataset before it rests: one that is fetched by many is not opened for each.
const REST_AFTER: Duration = Duration::from_secs(10);
/// How often it is looked what may rest.
const REST_EVERY: Duration = Duration::from_millis(500);
/// Datasets at work of which nobody wants anything; beyond them, the longest idle one rests at once.
const IDLE_MAX: usize = 256;
/// So many datasets are opened at a start, and rest later; beyond them, none of those that may rest.
const OPENED_AT_START_MAX: usize = 256;
/// Most pieces and entries of a dataset that may rest: its manifest is read again in a millisecond or so.
const SMALL_MAX: usize = 4_096;
/// Datasets with links beyond which nothing is opened for a link.
const LINKED_MAX: usize = DATASETS_MAX;
/// How long a link waits for what is being opened for another reason.
const OPENED_BY_OTHERS_MAX: Duration = Duration::from_secs(1);
/// To look at what is at rest takes at most such a part of the time.
const LOOK_AT_REST_SHARE: u32 = 100;
/// How long may be waited until what was at rest is open.
const OPENING_MAX: Duration = Duration::from_secs(10);

/// What is kept of a dataset at rest.
#[derive(Clone)]
pub(super) struct AtRest {
    pub(super) name: Arc<str>,
    pub(super) bytes: u64,
    pub(super) last_use_ms: u64,
    pub(super) is_stored: bool,
    pub(super) is_origin: bool,
    pub(super) sent: Sent,
}

impl AtRest {
    pub(super) fn new(record: &Record, bytes: u64) -> Self {
        Self {
            name: record.name.as_str().into(),
            bytes,
            last_use_ms: record.last_use_ms,
            is_stored: record.place == Place::Stored,
            is_origin: record.origin,
            sent: Sent::default(),
        }
    }
}

/// All datasets at rest.
#[derive(Default)]
pub(super) struct Resting {
    datasets: BTreeMap<ManifestId, (AtRest, Turn)>,
    by_name: BTreeSet<(Arc<str>, ManifestId)>,
    bytes: u64,
    stored_bytes: u64,
    turns: Turn,
}

/// Which of all rests one is: a dataset that rests again rests for another time.
type Turn = u64;

impl Resting {
    pub(super) fn insert(&mut self, id: ManifestId, dataset: AtRest) {
        self.remove(id);
        self.bytes += dataset.bytes;
        self.stored_bytes += if dataset.is_stored { dataset.bytes } else { 0 };
        self.by_name.insert((dataset.name.clone(), id));
        self.turns += 1;
        self.datasets.insert(id, (dataset, self.turns));
    }

    fn remove(&mut self, id: ManifestId) -> Option<AtRest> {
        let (dataset, _) = self.datasets.remove(&id)?;
        self.bytes -= dataset.bytes;
        self.stored_bytes -= if dataset.is_stored { dataset.bytes } else { 0 };
        self.by_name.remove(&(dataset.name.clone(), id));
        Some(dataset)
    }

    /// Which of all rests this is; none where it is not at rest.
    fn turn(&self, id: ManifestId) -> Option<Turn> {
        self.datasets.get(&id).map(|(_, turn)| *turn)
    }

    /// Those that have this name.
    fn named(&self, name: &str) -> Vec<ManifestId> {
        let first = (Arc::from(name), ManifestId::from_bytes([0; 32]));
        self.by_name.range(first..).take_while(|(found, _)| &**found == name).map(|(_, id)| *id).collect()
    }

    pub(super) fn contains(&self, id: ManifestId) -> bool {
        self.datasets.contains_key(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ManifestId, &AtRest)> {
        self.datasets.iter().map(|(id, (dataset, _))| (*id, dataset))
    }

    /// How many there are, and their bytes.
    pub(super) fn total(&self) -> (u32, u64) {
        (u32::try_from(self.datasets.len()).unwrap_or(u32::MAX), self.bytes)
    }

    /// Bytes of those in the store.
    pub(super) const fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    fn next(&self, after: Option<ManifestId>) -> Option<ManifestId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.datasets.range((from, Bound::Unbounded)).next().map(|(id, _)| *id)
    }
}

/// The bytes of a dataset that may rest, as far as its manifest says: one that names no trackers of its
/// own, which would have to be told of it one by one, and whose manifest is soon read again.
pub(super) fn rest_bytes(manifest: &Manifest) -> Option<u64> {
    let size = manifest.geometry().piece_count() + manifest.info().entries.len();
    (size <= SMALL_MAX && manifest.hints().trackers.is_empty()).then(|| manifest.total_bytes())
}

/// Takes up what the table says that this node holds.
pub(super) async fn take_up(daemon: &Arc<Daemon>) -> Result<(), Failure> {
    let reader = daemon.clone();
    let Loaded { at_rest, to_open, problems } = blocking(move || reader.table.load()).await??;
    problems.iter().for_each(|problem| daemon.reporter.warn(problem));
    // Before anything else, for all of it replaces what trackers know from the process before this one: what
    // turns out not to be there is taken off again.
    daemon.discovery.shelve(at_rest.iter().map(|(id, _)| *id).collect());
    if at_rest.len() > OPENED_AT_START_MAX {
        let mut datasets = daemon.datasets();
        at_rest.into_iter().for_each(|(id, dataset)| datasets.at_rest.insert(id, dataset));
    } else {
        let reader = daemon.clone();
        let read = move || at_rest.into_iter().map(|(id, _)| reader.table.read(id)).collect::<Vec<_>>();
        for read in blocking(read).await? {
            match read {
                Ok((manifest, record)) => daemon.hold_again(manifest, record),
                Err(problem) => daemon.reporter.warn(&problem),
            }
        }
    }
    for (manifest, record) in to_open {
        if record.seeded {
            // Whoever seeded it is gone with the daemon before this one.
            daemon.discovery.remove(manifest.id());
            let (daemon, id) = (daemon.clone(), manifest.id());
            blocking(move || daemon.table.remove(id)).await??;
        } else {
            daemon.hold_again(manifest, record);
        }
    }
    Ok(())
}

impl Daemon {
    /// What is held of this dataset; what is at rest begins to be opened. Where that is nothing, nobody else
    /// takes it on before whoever asked waits for something: there is one thread.
    pub async fn holding(self: &Arc<Self>, id: ManifestId) -> Option<Arc<Holding>> {
        loop {
            let Some(turn) = self.datasets().at_rest.turn(id) else { return self.holding_at_work(id) };
            let daemon = self.clone();
            let read = blocking(move || daemon.table.read(id)).await;
            let mut datasets = self.datasets();
            if datasets.at_rest.turn(id) != Some(turn) {
                // It was opened meanwhile, and what is on disk may be newer than what was read.
                continue;
            }
            return match read.unwrap_or_else(|failure| Err(failure.message)) {
                Ok((manifest, mut record)) => {
                    let AtRest { sent, last_use_ms, .. } = datasets.at_rest.remove(id)?;
                    record.last_use_ms = record.last_use_ms.max(last_use_ms);
                    let opening = (Opening::Rested, None);
                    let holding = holding::start(self, manifest, record, opening, Presence::Shared);
                    holding.go_on_from(sent);
                    datasets.at_work.insert(id, holding.clone());
                    Some(holding)
                }
                // It may be for a moment, for want of descriptors; it stays at rest.
                Err(problem) => {
                    self.reporter.warn(&problem);
                    None
                }
            };
        }
    }

    /// What is here of this dataset cannot be opened: nothing may take its place.
    pub(super) fn check_readable(&self, id: ManifestId) -> Result<(), Failure> {
        if !self.is_at_rest(id) {
            return Ok(());
        }
        let message = format!("what the daemon has on disk of {id} cannot be read");
        Err(Failure::new(Kind::Disk, message).hint("its log says why; try again when that is mended"))
    }

    /// What is held of this dataset, open where that does not take long.
    pub(super) async fn opened(self: &Arc<Self>, id: ManifestId) -> Option<Arc<Holding>> {
        let holding = self.holding(id).await?;
        let is_open = |view: &View| !matches!(view.state, State::Opening);
        let _ = tokio::time::timeout(OPENING_MAX, holding.watch().wait_for(is_open)).await;
        Some(holding)
    }

    /// How many datasets have links.
    fn linked_count(&self) -> usize {
        self.datasets().at_work.values().filter(|holding| holding.snapshot().stats.links > 0).count()
    }

    /// Whether it is at rest.
    pub(super) fn is_at_rest(&self, id: ManifestId) -> bool {
        self.datasets().at_rest.contains(id)
    }

    /// The datasets that are held under this name: more than one where the name was freed for other content.
    pub(super) fn held_as(&self, name: &str) -> Vec<ManifestId> {
        let mut at_work = self.holdings();
        at_work.retain(|holding| holding.record().name == name && !holding.is_read());
        let ids = at_work.iter().map(|holding| holding.id());
        ids.chain(self.datasets().at_rest.named(name)).collect()
    }

    /// Tells trackers, and whoever asks, that a dataset is here, or that what is missing of it is wanted.
    pub(super) fn announce(&self, holding: &Holding, complete: bool) {
        let (id, hints) = (holding.id(), &holding.manifest.hints().trackers);
        if complete && hints.is_empty() {
            return self.discovery.shelve(vec![id]);
        }
        let trackers = hints.iter().filter_map(|text| parse_tracker(text).ok()).collect();
        let asks_lan_in = (!complete).then(|| self.asks_lan_in());
        let quiet_for = Duration::ZERO;
        self.discovery.add(discovery::Dataset { manifest: id, complete, trackers, asks_lan_in, quiet_for });
    }

    /// Lets rest what nobody has asked for in a while, or the longest idle of too many.
    fn let_rest(self: &Arc<Self>) {
        let mut datasets = self.datasets();
        let mut idle: Vec<(Instant, ManifestId)> =
            datasets.at_work.values().filter(|holding| may_rest(holding)).map(idle_since).collect();
        idle.sort_unstable();
        let surplus = idle.len().saturating_sub(IDLE_MAX);
        for (number, (since, id)) in idle.into_iter().enumerate() {
            if number >= surplus && since.elapsed() < REST_AFTER {
                break;
            }
            if let Some(holding) = datasets.at_work.get(&id).filter(|holding| !self.has_hashes(holding)) {
                // Without them, each opening would hash all of it.
                holding.use_now();
                drop(tokio::spawn(remember_hashes(self.clone(), holding.clone())));
                continue;
            }
            let Some(holding) = datasets.at_work.remove(&id) else { continue };
            // No link comes to what ends; the next one has it opened again.
            self.endpoint.forget(id);
            let stats = holding.snapshot().stats;
            datasets.moved.0 += stats.from_seeders + stats.from_peers;
            datasets.moved.1 += stats.sent;
            holding.rest();
            let dataset = AtRest::new(&holding.record(), holding.manifest.total_bytes());
            datasets.at_rest.insert(id, AtRest { sent: holding.sent(), ..dataset });
        }
    }
}

impl Daemon {
    /// Whether it can be opened without hashing its data.
    fn has_hashes(&self, holding: &Holding) -> bool {
        SeedCache::is_in(&self.table.directory(holding.id()))
    }
}

fn idle_since(holding: &Arc<Holding>) -> (Instant, ManifestId) {
    (holding.last_used(), holding.id())
}

/// Whether nothing is lost where it ends, and nobody notices.
fn may_rest(holding: &Arc<Holding>) -> bool {
    // The table and its own task know it; whoever else does counts on it.
    const OWN_HOLDERS: usize = 2;
    let snapshot = holding.snapshot();
    if snapshot.stats.links > 0 || snapshot.dialling > 0 {
        holding.use_now();
        return false;
    }
    let record = holding.record();
    Arc::strong_count(holding) == OWN_HOLDERS
        && holding.presence == Presence::Shared
        && holding.is_complete()
        && record.may_rest().is_some()
}

/// Lets datasets rest, again and again.
pub(super) async fn keep_resting(daemon: &Arc<Daemon>) {
    let mut ticks = tokio::time::interval(REST_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        daemon.let_rest();
    }
}

/// Opens what links come for, for ever.
pub(super) async fn keep_opening(daemon: &Arc<Daemon>, wanted: &mut mpsc::Receiver<Wanted>) {
    while let Some(Wanted { manifest, opened }) = wanted.recv().await {
        let was_at_rest = daemon.is_at_rest(manifest);
        // Most links that come here are for what this node has nothing of.
        if !was_at_rest && !daemon.is_at_work(manifest) || daemon.linked_count() >= LINKED_MAX {
            continue;
        }
        let daemon = daemon.clone();
        tokio::spawn(async move {
            // What is hashed at a start may take longer: a peer tries again.
            let limit = if was_at_rest { OPENING_MAX } else { OPENED_BY_OTHERS_MAX };
            let _ = tokio::time::timeout(limit, daemon.opened(manifest)).await;
            // Whoever waits may have gone.
            let _ = opened.send(());
        });
    }
    std::future::pending::<()>().await;
}

/// Looks, one after the other, whether the data of what is at rest are as they were; what is not is
/// opened, which tells of it.
pub(super) async fn keep_looking(daemon: &Arc<Daemon>) {
    loop {
        let round = Instant::now();
        let mut last = None;
        loop {
            let next = daemon.datasets().at_rest.next(last);
            let Some(id) = next else { break };
            last = next;
            let started = Instant::now();
            let looking = daemon.clone();
            let looked = blocking(move || opening::is_as_it_was(&looking, id)).await;
            let took = started.elapsed();
            if !matches!(looked, Ok(true)) && daemon.is_at_rest(id) {
                drop(daemon.opened(id).await);
            }
            tokio::time::sleep(took * LOOK_AT_REST_SHARE).await;
        }
        tokio::time::sleep(LOOK_EVERY.saturating_sub(round.elapsed()).max(LOOK_EVERY / 2)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_rest(name: &str, bytes: u64, is_stored: bool) -> AtRest {
        let (name, sent) = (name.into(), Sent::default());
        AtRest { name, bytes, last_use_ms: 0, is_stored, is_origin: false, sent }
    }

    fn id(number: u8) -> ManifestId {
        ManifestId::from_bytes([number; 32])
    }

    #[test]
    fn what_is_at_rest_is_counted() {
        let mut resting = Resting::default();
        resting.insert(id(1), at_rest("a", 10, true));
        resting.insert(id(2), at_rest("a", 5, false));
        resting.insert(id(1), at_rest("a", 20, true));
        assert_eq!((resting.total(), resting.stored_bytes()), ((2, 25), 20));
        assert_eq!(
            [None, Some(id(1)), Some(id(2))].map(|at| resting.next(at)),
            [Some(id(1)), Some(id(2)), None]
        );
        assert_eq!(resting.remove(id(1)).map(|dataset| dataset.bytes), Some(20));
        assert!(resting.remove(id(1)).is_none() && resting.contains(id(2)));
        assert_eq!((resting.total(), resting.stored_bytes()), ((1, 5), 0));
    }

    #[test]
    fn what_is_at_rest_is_found_by_its_name_and_known_from_what_rested_before() {
        let mut resting = Resting::default();
        for (number, name) in [(1, "b"), (2, "a"), (3, "a"), (4, "ab")] {
            resting.insert(id(number), at_rest(name, 1, true));
        }
        let expected: [&[u8]; 5] = [&[2, 3], &[1], &[4], &[], &[]];
        for (name, numbers) in ["a", "b", "ab", "", "c"].into_iter().zip(expected) {
            let ids: Vec<ManifestId> = numbers.iter().copied().map(id).collect();
            assert_eq!(resting.named(name), ids, "«{name}»");
        }
        let first = resting.turn(id(2)).expect("it rests");
        resting.remove(id(2));
        assert_eq!((resting.named("a"), resting.turn(id(2))), (vec![id(3)], None));
        resting.insert(id(2), at_rest("c", 1, true));
        assert_eq!((resting.named("a"), resting.named("c")), (vec![id(3)], vec![id(2)]));
        assert_ne!(resting.turn(id(2)), Some(first));
    }
}
