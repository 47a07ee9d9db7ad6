//! `status`, `ls`, `nodes`: what there is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::Entry;
use dft_tracker::catalogue::protocol::{MANY_MAX, Record};
use futures::StreamExt;

use crate::commands::blocking;
use crate::daemon::Daemon;
use crate::daemon::catalogue::{Catalogue, Holder, SeenNode, parse_name, parse_pattern};
use crate::daemon::holding::{Holding, State, path_by_record};
use crate::daemon::neighbours::{own_node, runs_of};
use crate::daemon::rest::AtRest;
use crate::daemon::serve::Reply;
use crate::daemon::table::Place;
use crate::daemon::wire::{self, Item};
use crate::failure::Failure;
use crate::net::discovery::{NodeRequest, NodeResponse};
use crate::net::identity::display_peer;

/// Records that are read at a time.
const RECORDS_PER_TURN: usize = 256;
/// Questions to trackers and nodes at a time.
pub(super) const QUESTIONS_MAX: usize = 8;

pub(super) async fn status(daemon: &Arc<Daemon>, reply: &Reply) -> Result<(), Failure> {
    let trackers = daemon.known_catalogue().map(|catalogue| catalogue.trackers.clone());
    reply
        .item(Item::Status(wire::Status {
            node: daemon.name.clone(),
            peer: display_peer(&daemon.peer()),
            pid: std::process::id(),
            store: daemon.store.display().to_string(),
            store_bytes: daemon.store_bytes(),
            quota: daemon.quota,
            listen: daemon.endpoint.listen_addrs().iter().map(ToString::to_string).collect(),
            trackers: trackers.unwrap_or_default(),
            catalogue_problems: daemon.catalogue_problems(),
            embeds_tracker: !daemon.own_tracker.is_empty(),
            limits: super::limit::limits(daemon),
        }))
        .await;
    for datasets in by_name(daemon).chunks(RECORDS_PER_TURN) {
        let (daemon, datasets) = (daemon.clone(), datasets.to_vec());
        let read = blocking(move || {
            let held = |(_, id, dataset)| match dataset {
                Dataset::AtWork(holding) => held(&daemon, &holding),
                Dataset::AtRest(dataset) => held_at_rest(&daemon, id, dataset),
            };
            datasets.into_iter().map(held).collect::<Vec<_>>()
        });
        for held in read.await? {
            reply.item(Item::Held(held)).await;
        }
    }
    Ok(())
}

/// A dataset of this node.
#[derive(Clone)]
enum Dataset {
    AtWork(Arc<Holding>),
    AtRest(AtRest),
}

/// All that this node holds, by name. Both at once: what goes to rest meanwhile is told of once.
fn by_name(daemon: &Daemon) -> Vec<(String, ManifestId, Dataset)> {
    let datasets = daemon.datasets();
    let at_work = datasets.at_work.iter();
    let at_work = at_work.map(|(id, held)| (held.record().name, *id, Dataset::AtWork(held.clone())));
    let at_rest = datasets.at_rest.iter();
    let at_rest = at_rest.map(|(id, held)| (held.name.to_string(), id, Dataset::AtRest(held.clone())));
    let mut all: Vec<_> = at_work.chain(at_rest).collect();
    all.sort_unstable_by(|(one, one_id, _), (other, other_id, _)| (one, one_id).cmp(&(other, other_id)));
    all
}

fn held(daemon: &Daemon, holding: &Holding) -> wire::Held {
    let (record, view, snapshot) = (holding.record(), holding.view(), holding.snapshot());
    let (bytes, sent) = (holding.wanted_bytes(), holding.sent());
    let (state, problem) = match &view.state {
        State::Opening => ("opening", None),
        State::Fetching if holding.is_read() => ("reading", None),
        State::Fetching => ("fetching", None),
        State::Complete(_) => ("complete", None),
        State::Damaged(reason) => ("damaged", Some(reason.clone())),
        State::Failed(problem) => ("failed", Some(problem.message.clone())),
    };
    let path = match (&view.state, &record.place) {
        (State::Complete(path), _) => path.clone(),
        (_, Place::Put(paths)) => paths.first().map(wire::WirePath::to_path).unwrap_or_default(),
        (_, Place::Fetched(directory)) => directory.to_path(),
        (_, Place::Stored) if holding.is_read() => PathBuf::new(),
        (_, Place::Stored) => daemon.table.data_directory(holding.id()),
    };
    wire::Held {
        name: record.name,
        id: holding.id().to_string(),
        bytes,
        have_bytes: if matches!(view.state, State::Complete(_)) { bytes } else { snapshot.have_bytes },
        state: state.into(),
        problem,
        path: path.display().to_string(),
        in_store: record.place == Place::Stored && !holding.is_read(),
        origin: record.origin,
        peers: snapshot.stats.links as u64,
        sent_bytes: sent.bytes,
        saved_bytes: sent.saved_bytes,
    }
}

/// What is told of a dataset at rest: where it is, its record alone says.
fn held_at_rest(daemon: &Daemon, id: ManifestId, dataset: AtRest) -> wire::Held {
    let AtRest { name, bytes, sent, .. } = dataset;
    let (state, problem, path) = match daemon.table.read(id) {
        Ok((manifest, record)) => ("complete", None, path_by_record(daemon, &manifest, &record)),
        Err(problem) => ("failed", Some(problem), daemon.table.directory(id)),
    };
    wire::Held {
        name: name.to_string(),
        id: id.to_string(),
        bytes,
        have_bytes: if problem.is_none() { bytes } else { 0 },
        state: state.into(),
        problem,
        path: path.display().to_string(),
        in_store: dataset.is_stored,
        origin: dataset.is_origin,
        peers: 0,
        sent_bytes: sent.bytes,
        saved_bytes: sent.saved_bytes,
    }
}

pub(super) async fn names(
    daemon: &Arc<Daemon>,
    pattern: Option<&str>,
    long: bool,
    chunks: bool,
    reply: &Reply,
) -> Result<(), Failure> {
    let catalogue = daemon.catalogue().await?;
    let records = catalogue.list(&parse_pattern(pattern)?).await?;
    let mut nodes: Option<Arc<BTreeMap<PeerId, SeenNode>>> = None;
    for records in records.chunks(MANY_MAX) {
        let ids: Vec<ManifestId> = records.iter().map(|record| record.id).collect();
        let holders = if long || chunks { catalogue.many_holders(&ids).await? } else { Vec::new() };
        let mut holders = holders.into_iter();
        let mut names = Vec::new();
        for record in records {
            let mut holders = holders.next();
            let listed = listed(daemon, record, holders.as_deref());
            let mut told = holders.take().unwrap_or_default();
            told.retain(|holder| chunks || !holder.complete);
            // Where the others are has to be known only where one of them is to be asked.
            if !told.is_empty() && nodes.is_none() {
                nodes = Some(Arc::new(nodes_by_peer(&catalogue).await?));
            }
            names.push((listed, record.clone(), told));
        }
        let asked = futures::stream::iter(names.into_iter().map(|(listed, record, told)| {
            let (daemon, nodes) = (daemon.clone(), nodes.clone().unwrap_or_default());
            async move { (listed, pieces(&daemon, &record, &told, &nodes).await) }
        }));
        let mut answers = asked.buffered(QUESTIONS_MAX);
        while let Some((listed, pieces)) = answers.next().await {
            reply.item(Item::Listed(listed)).await;
            for item in pieces {
                reply.item(Item::Pieces(item)).await;
            }
        }
    }
    Ok(())
}

/// The entries of a dataset, the first one's own included where that is a file.
pub(super) async fn files(daemon: &Arc<Daemon>, name: &str, reply: &Reply) -> Result<(), Failure> {
    let (record, manifest) = daemon.catalogue().await?.get(&parse_name(name)?).await?;
    for entry in &manifest.info().entries {
        let path = entry.path().to_string();
        let name = record.name.to_string();
        let file = match entry {
            Entry::Directory { .. } if entry.path().is_root() => continue,
            Entry::File { size, mtime, .. } => {
                let kind = "file".into();
                wire::File { name, kind, path, bytes: *size, mtime_s: mtime.seconds, target: None }
            }
            Entry::Directory { mtime, .. } => {
                let kind = "directory".into();
                wire::File { name, kind, path, bytes: 0, mtime_s: mtime.seconds, target: None }
            }
            Entry::Symlink { target, .. } => {
                let target = Some(String::from_utf8_lossy(target.as_bytes()).into_owned());
                wire::File { name, kind: "symlink".into(), path, bytes: 0, mtime_s: 0, target }
            }
        };
        reply.item(Item::File(file)).await;
    }
    Ok(())
}

fn listed(daemon: &Daemon, record: &Record, holders: Option<&[Holder]>) -> wire::Listed {
    let complete = holders.map(|holders| holders.iter().filter(|holder| holder.complete));
    let count = complete.clone().map(Iterator::count);
    wire::Listed {
        name: record.name.to_string(),
        id: record.id.to_string(),
        bytes: record.size,
        pieces: record.pieces.into(),
        created_s: record.created,
        replicas: count.map(|count| count as u64),
        partial: holders.zip(count).map(|(holders, count)| (holders.len() - count) as u64),
        holders: complete.map(|complete| complete.map(name_of).collect()),
        here: daemon.is_at_rest(record.id)
            || daemon.holding_at_work(record.id).is_some_and(|holding| holding.is_complete()),
    }
}

fn name_of(holder: &Holder) -> String {
    holder.name.clone().unwrap_or_else(|| display_peer(&holder.peer))
}

async fn nodes_by_peer(catalogue: &Catalogue) -> Result<BTreeMap<PeerId, SeenNode>, Failure> {
    let nodes = catalogue.nodes().await?;
    Ok(nodes.into_iter().map(|node| (node.peer, node)).collect())
}

/// Which pieces these holders have; each that has not all is asked itself.
async fn pieces(
    daemon: &Arc<Daemon>,
    record: &Record,
    holders: &[Holder],
    nodes: &BTreeMap<PeerId, SeenNode>,
) -> Vec<wire::Pieces> {
    let ask = |holder: &Holder| {
        let node = nodes.get(&holder.peer);
        let label = node.map_or_else(|| name_of(holder), |node| node.name.clone());
        let (peer, complete) = (holder.peer, holder.complete);
        let addrs: Vec<SocketAddr> = node.map(|node| node.control.clone()).unwrap_or_default();
        let (name, id) = (record.name.to_string(), record.id);
        let all = (record.pieces > 0).then(|| (0, record.pieces - 1));
        async move {
            let (runs, problem) = if peer == daemon.peer() {
                (runs_of(daemon, id).await, None)
            } else if complete {
                (all.into_iter().collect(), None)
            } else {
                match daemon.discovery.ask_node(peer, addrs, NodeRequest::Pieces { manifest: id }).await {
                    Ok(NodeResponse::Pieces(runs)) => (runs, None),
                    Ok(_) => (Vec::new(), Some("it gave an answer that was not asked".to_owned())),
                    Err(error) => (Vec::new(), Some(error.to_string())),
                }
            };
            wire::Pieces { name, node: label, runs, problem }
        }
    };
    futures::stream::iter(holders.iter().map(ask)).buffered(QUESTIONS_MAX).collect().await
}

pub(super) async fn nodes(daemon: &Arc<Daemon>, reply: &Reply) -> Result<(), Failure> {
    let catalogue = daemon.catalogue().await?;
    // What it says of this node is to be of this moment; where it takes no news, it is a bit older.
    let _ = catalogue.announce(&own_node(daemon)).await;
    let mut nodes = catalogue.nodes().await?;
    nodes.sort_by(|one, other| (&one.name, one.peer).cmp(&(&other.name, other.peer)));
    for node in nodes {
        reply
            .item(Item::Node(wire::Node {
                here: node.peer == daemon.peer(),
                name: node.name,
                peer: display_peer(&node.peer),
                addrs: node.control.iter().map(ToString::to_string).collect(),
                datasets: node.datasets,
                bytes: node.bytes,
                down_rate: node.down_rate,
                up_rate: node.up_rate,
            }))
            .await;
    }
    Ok(())
}
