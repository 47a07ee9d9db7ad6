//! `push`, `drop`, `rm`: where copies are, and whether the name stays.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dft_protocol::id::ManifestId;
use dft_tracker::catalogue::protocol::Record;
use futures::StreamExt;

use super::list::QUESTIONS_MAX;
use crate::commands::blocking;
use crate::daemon::Daemon;
use crate::daemon::catalogue::{SeenNode, parse_name, unknown};
use crate::daemon::holding::Holding;
use crate::daemon::neighbours::runs_of;
use crate::daemon::serve::Reply;
use crate::daemon::table::Place;
use crate::daemon::wire::{self, Item};
use crate::failure::{Failure, Kind};
use crate::net::discovery::{NodeRequest, NodeResponse};
use crate::net::identity::display_peer;
use crate::storage::Store;

/// How often a node that fetches is asked whether it has all of it.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// Most nodes that a hint names.
const NAMED_MAX: usize = 8;
/// When it has had nothing new for so long, nobody waits for it any more.
const NO_PROGRESS_MAX: Duration = Duration::from_secs(300);

/// Makes other nodes fetch a dataset; with `wait`, until they have it.
pub(super) async fn push(
    daemon: &Arc<Daemon>,
    name: &str,
    to: &[String],
    all: bool,
    wait: bool,
    reply: &Reply,
) -> Result<(), Failure> {
    let catalogue = daemon.catalogue().await?;
    let record = catalogue.record(&parse_name(name)?).await?;
    let nodes = catalogue.nodes().await?;
    let named = |node: &SeenNode| to.iter().any(|wanted| is_called(node, wanted));
    let (targets, others): (Vec<SeenNode>, Vec<SeenNode>) =
        nodes.into_iter().partition(|node| if all { node.peer != daemon.peer() } else { named(node) });
    let known = whom_there_is(targets.iter().chain(&others));
    drop(others);
    let unknown: BTreeSet<&String> =
        to.iter().filter(|wanted| !targets.iter().any(|node| is_called(node, wanted))).collect();
    let (mut failed, mut first) = (unknown.len(), None);
    let hint = match unknown.is_empty() {
        true => "dft status there shows what it holds, and what keeps it from more".to_owned(),
        false => known.clone(),
    };
    let not_taken = |node: &str, problem: &str| format!("{node} does not take {name}: {problem}");
    for node in unknown {
        let problem = "the catalogue knows no such node".to_owned();
        first.get_or_insert_with(|| not_taken(node, &problem));
        tell(reply, name, node, "failed", Some(problem)).await;
    }
    let record = &record;
    let asked = futures::stream::iter(targets.into_iter().map(|node| async move {
        let mut outcome = ask(daemon, name, record.id, &node).await;
        if wait && outcome == Ok("fetching") {
            outcome = until_complete(daemon, record, &node).await;
        }
        (node.name, outcome)
    }));
    let mut answers = asked.buffer_unordered(QUESTIONS_MAX);
    let mut reached = 0;
    while let Some((node, outcome)) = answers.next().await {
        match outcome {
            Ok(outcome) => {
                reached += 1;
                tell(reply, name, &node, outcome, None).await;
            }
            Err(problem) => {
                failed += 1;
                first.get_or_insert_with(|| not_taken(&node, &problem));
                tell(reply, name, &node, "failed", Some(problem)).await;
            }
        }
    }
    match (failed, reached) {
        (0, 0) => Err(Failure::new(Kind::NoSource, "there is no other node").hint(known)),
        (0, _) => Ok(()),
        (1, _) => Err(Failure::new(Kind::NoSource, first.unwrap_or_default()).hint(hint)),
        (failed, _) => {
            let message = format!("{failed} nodes do not take {name}; {}", first.unwrap_or_default());
            Err(Failure::new(Kind::NoSource, message).hint(hint))
        }
    }
}

/// A few of the nodes by name, and where to see the rest.
fn whom_there_is<'node>(nodes: impl Iterator<Item = &'node SeenNode>) -> String {
    let mut names: Vec<&str> = nodes.map(|node| node.name.as_str()).collect();
    names.sort_unstable();
    let more = if names.len() > NAMED_MAX { ", …" } else { "" };
    names.truncate(NAMED_MAX);
    format!("the nodes are {}{more}; dft nodes shows who is there", names.join(", "))
}

fn is_called(node: &SeenNode, wanted: &str) -> bool {
    node.name == wanted || display_peer(&node.peer) == wanted
}

async fn ask(
    daemon: &Arc<Daemon>,
    name: &str,
    id: ManifestId,
    node: &SeenNode,
) -> Result<&'static str, String> {
    if node.peer == daemon.peer() {
        let (_, manifest) = async {
            let catalogue = daemon.catalogue().await?;
            catalogue.get(&parse_name(name)?).await
        }
        .await
        .map_err(|failure| failure.message)?;
        let holding = daemon.keep_in_store(name, manifest).await.map_err(|failure| failure.message)?;
        return Ok(if holding.is_complete() { "complete" } else { "fetching" });
    }
    let request = NodeRequest::Fetch { name: name.to_owned(), manifest: id };
    match daemon.discovery.ask_node(node.peer, node.control.clone(), request).await {
        Ok(NodeResponse::Accepted) => Ok("fetching"),
        Ok(NodeResponse::Complete) => Ok("complete"),
        Ok(NodeResponse::Refused { reason }) => Err(reason),
        Ok(_) => Err("it gave an answer that was not asked".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until a node that fetches has all of it; every wait has a bound. It is not asked to fetch again: its user
/// may have given it up.
async fn until_complete(
    daemon: &Arc<Daemon>,
    record: &Record,
    node: &SeenNode,
) -> Result<&'static str, String> {
    let (mut had, mut since) = (0, Instant::now());
    while since.elapsed() < NO_PROGRESS_MAX {
        tokio::time::sleep(ASK_EVERY).await;
        // One that does not answer may be back in a moment: it goes on where it was.
        let Some(has) = pieces_at(daemon, record.id, node).await else { continue };
        // All that is left is its final name.
        let is_all = has >= u64::from(record.pieces);
        if is_all && ask(daemon, record.name.as_str(), record.id, node).await == Ok("complete") {
            return Ok("complete");
        }
        if has == 0 && had > 0 {
            return Err("it was given up there".into());
        }
        if has > had {
            (had, since) = (has, Instant::now());
        }
    }
    Err(format!("it has got nowhere for {} s", NO_PROGRESS_MAX.as_secs()))
}

/// How many pieces a node has; nothing where it does not answer.
async fn pieces_at(daemon: &Arc<Daemon>, id: ManifestId, node: &SeenNode) -> Option<u64> {
    let count = |runs: &[(u32, u32)]| runs.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
    if node.peer == daemon.peer() {
        return Some(count(&runs_of(daemon, id).await));
    }
    let request = NodeRequest::Pieces { manifest: id };
    match daemon.discovery.ask_node(node.peer, node.control.clone(), request).await {
        Ok(NodeResponse::Pieces(runs)) => Some(count(&runs)),
        _ => None,
    }
}

async fn tell(reply: &Reply, name: &str, node: &str, outcome: &str, problem: Option<String>) {
    let (name, node, outcome) = (name.to_owned(), node.to_owned(), outcome.to_owned());
    reply.item(Item::Pushed(wire::Pushed { name, node, outcome, problem })).await;
}

/// Gives a dataset up on this node.
pub(super) async fn give_up(
    daemon: &Arc<Daemon>,
    name: &str,
    (force, named): (bool, Option<&str>),
    reply: &Reply,
) -> Result<(), Failure> {
    let holding = held_as(daemon, name, named).await?;
    let (place, complete) = (holding.record().place, holding.record().complete);
    if force {
        daemon.give_up(&holding).await?;
    } else {
        let elsewhere = daemon.give_up_if_elsewhere(&holding, |_| true).await.map_err(|failure| {
            let message = format!("whether others have {name} cannot be asked: {}", failure.message);
            Failure::new(failure.kind, message).hint("--force gives it up nevertheless")
        })?;
        if !elsewhere {
            let message = format!("no other node has all of {name}");
            return Err(Failure::new(Kind::NoSource, message)
                .hint("dft push NAME --to NODE makes a copy; --force gives it up nevertheless"));
        }
    }
    if let (Place::Fetched(directory), false) = (&place, complete) {
        let (manifest, directory) = (holding.manifest.clone(), directory.to_path());
        blocking(move || Store::discard(&manifest, &directory)).await??;
    }
    let what = match place {
        Place::Fetched(_) if !complete => "it is not fetched any more, and what was there of it is removed",
        Place::Stored => "its copy in the store was removed",
        Place::Put(_) | Place::Fetched(_) => "it is not served any more; the files stay where they are",
    };
    gone(reply, name, holding.id(), what).await;
    Ok(())
}

/// What this node holds of that name: by its own table, so that it works without a catalogue; of several, the
/// one with the id that is `named`, else what the name stands for.
async fn held_as(daemon: &Arc<Daemon>, name: &str, named: Option<&str>) -> Result<Arc<Holding>, Failure> {
    let missing = || {
        Failure::new(Kind::Name, format!("this node holds no {name}")).hint("dft status shows what it holds")
    };
    let mut held = daemon.held_as(name);
    if let Some(named) = named {
        held.retain(|id| id.to_string().starts_with(named));
    } else if held.len() != 1 {
        // Or another name of the same dataset.
        let catalogue = daemon.known_catalogue().ok_or_else(missing);
        let record = match catalogue {
            Ok(catalogue) => catalogue.record(&parse_name(name)?).await.map(Some),
            Err(failure) if held.is_empty() => Err(failure),
            Err(_) => Ok(None),
        };
        match record {
            Ok(Some(record)) if held.is_empty() || held.contains(&record.id) => held = vec![record.id],
            Err(failure) if held.is_empty() => return Err(failure),
            Ok(_) | Err(_) => {}
        }
    }
    match held[..] {
        [id] => daemon.opened(id).await.filter(|holding| !holding.is_read()).ok_or_else(missing),
        [] => Err(missing()),
        _ => {
            let ids: Vec<String> = held.iter().map(|id| id.short().to_string()).collect();
            let message = format!("this node holds several datasets as {name}: {}", ids.join(", "));
            Err(Failure::new(Kind::Usage, message).hint("say which: dft drop NAME --id ID"))
        }
    }
}

/// Takes a name out of the catalogue, or frees it for other content; copies stay where they are. `named` is
/// the dataset that is meant, where that is given: of a name that was removed before, nobody else knows it.
pub(super) async fn remove(
    daemon: &Arc<Daemon>,
    name: &str,
    (forget, named): (bool, Option<&str>),
    reply: &Reply,
) -> Result<(), Failure> {
    let catalogue = daemon.catalogue().await?;
    let dataset = parse_name(name)?;
    let id = match (catalogue.find(&dataset).await?, named) {
        (Some(record), Some(named)) if !record.id.to_string().starts_with(named) => {
            let message = format!("{name} is {} in the catalogue, not {named}", record.id);
            return Err(Failure::new(Kind::Name, message).hint("dft ls -l shows what there is"));
        }
        (Some(record), _) => record.id,
        (None, Some(named)) if forget => named.parse().map_err(|_| {
            Failure::new(Kind::Usage, format!("«{named}» is no whole id of a dataset")).hint(
                "of a name that was removed, all 64 digits are needed; a put under that name tells them",
            )
        })?,
        (None, _) if forget => {
            return Err(unknown(&dataset).hint(
                "of a name that was removed before, --id says which dataset it was: a put under the name tells it",
            ));
        }
        (None, _) => return Err(unknown(&dataset)),
    };
    let what = if forget {
        catalogue.forget(&dataset, id).await?;
        "the name is free for other content; nodes keep their copies until dft drop"
    } else {
        catalogue.remove(&dataset, id).await?;
        "the name is gone, and stays this dataset's own; nodes keep their copies until dft drop"
    };
    gone(reply, name, id, what).await;
    Ok(())
}

async fn gone(reply: &Reply, name: &str, id: ManifestId, what: &str) {
    reply
        .item(Item::Gone(wire::Gone { name: name.to_owned(), id: id.to_string(), what: what.to_owned() }))
        .await;
}
