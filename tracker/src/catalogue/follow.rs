//! How a follower copies its leader, and how a promoted one tells its former leader.
//!
//! A follower asks for the steps behind the last one that it has, and takes each with its
//! manifest. It begins anew, and drops what the leader does not know, when the leader has
//! forgotten steps in between, or is in another epoch than the one copied from: histories are
//! comparable only within one epoch.
//!
//! There is no consensus here: copies lag behind by a moment, and a promotion is a person's
//! decision (docs/decisions/0024).

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use libp2p::Multiaddr;
use libp2p::identity::Keypair;

use super::name::DatasetName;
use super::protocol::{Change, Changed, EPOCH_MAX, Hello, Response};
use super::service::{CopyStep, Handle};
use super::store::Role;
use super::token::Token;
use crate::client::{Client, ClientConfig};
use crate::service::Notice;

/// How often a follower asks for what is new: that long it may lag behind.
pub const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// Changes that are taken at once, so that they share commits: as many as a client asks for at a
/// time; four of the largest manifests are 256 MiB.
const COPIED_AT_ONCE: usize = 4;
/// How often a promoted tracker tries to tell its former leader.
pub const TELL_EVERY: Duration = Duration::from_secs(10);

/// How this tracker speaks to another one.
#[derive(Clone)]
pub struct Access {
    /// Who it is.
    pub keypair: Keypair,
    /// Proves what it writes.
    pub token: Token,
    /// The key of a private cluster, where both are in one.
    pub network_key: Option<[u8; 32]>,
}

/// Copies or tells, whichever part the catalogue has; never ends.
pub async fn run(catalogue: Handle, access: Access, notify: impl Fn(Notice)) {
    let mut last_failure = None;
    loop {
        let pause = match step(&catalogue, &access, &notify, &mut last_failure).await {
            Some(pause) => pause,
            // There is nothing to do, until it is deposed: then there is nobody to copy.
            None => return std::future::pending().await,
        };
        tokio::time::sleep(pause).await;
    }
}

/// One look at the part, and a round of it; when to look again.
async fn step(
    catalogue: &Handle,
    access: &Access,
    notify: &impl Fn(Notice),
    last_failure: &mut Option<Option<String>>,
) -> Option<Duration> {
    let Some(meta) = catalogue.meta().await else { return Some(FOLLOW_EVERY) };
    let other = match (&meta.role, &meta.former) {
        (Role::Follower(Some(leader)), _) => leader.clone(),
        (Role::Leader, Some(former)) => former.clone(),
        _ => return None,
    };
    let client = client_of(&other, access)?;
    if meta.role == Role::Leader {
        let told = client.prove_at_first(meta.epoch).await;
        return (!told).then_some(TELL_EVERY);
    }
    loop {
        let result = copy_round(catalogue, &client).await;
        let failure = result.err();
        if last_failure.as_ref() != Some(&failure) {
            *last_failure = Some(failure.clone());
            let leader = other.clone();
            notify(match failure {
                None => Notice::Follows { leader },
                Some(reason) => Notice::NotCopied { leader, reason },
            });
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

fn client_of(addr: &str, access: &Access) -> Option<Client> {
    let addr: Multiaddr = addr.parse().ok()?;
    let Access { keypair, token, network_key } = access.clone();
    Client::start(ClientConfig { keypair, trackers: vec![addr], token: Some(token), network_key }).ok()
}

/// Takes all that is new.
async fn copy_round(catalogue: &Handle, leader: &Client) -> Result<(), String> {
    let hello = match leader.hellos().await.pop().flatten() {
        Some(hello) => hello,
        None => return Err("it cannot be asked".into()),
    };
    let meta = catalogue.meta().await.ok_or("the catalogue cannot be read")?;
    if hello.epoch < meta.epoch.max(meta.seen_epoch) {
        return Err(format!("its epoch {} is over: there is one of {}", hello.epoch, meta.seen_epoch));
    }
    if hello.epoch > EPOCH_MAX {
        return Err("its epoch is too high".into());
    }
    take(catalogue, CopyStep::Adopt(hello.catalogue)).await?;
    if let Some((epoch, sequence)) = meta.copied
        && epoch == hello.epoch
        && copy_from(catalogue, leader, &hello, sequence, None).await?
    {
        return Ok(());
    }
    let mut names = BTreeSet::new();
    copy_from(catalogue, leader, &hello, 0, Some(&mut names)).await?;
    Ok(())
}

/// Takes the steps behind `since`; whether that was possible. With `names`, the copy is a full
/// one, and they become the names that it has.
async fn copy_from(
    catalogue: &Handle,
    leader: &Client,
    hello: &Hello,
    mut since: u64,
    mut names: Option<&mut BTreeSet<DatasetName>>,
) -> Result<bool, String> {
    loop {
        let (too_old, changes, sequence) = leader.changes(since).await.map_err(|error| error.to_string())?;
        if too_old {
            return Ok(false);
        }
        let Some(last) = changes.last().map(|change| change.sequence) else {
            let only = names.as_deref_mut().map(std::mem::take);
            if only.is_some() || since != sequence {
                let reached = CopyStep::Reached { epoch: hello.epoch, sequence: since.max(sequence), only };
                take(catalogue, reached).await?;
            }
            return Ok(true);
        };
        let ascending = changes.iter().map(|change| change.sequence).is_sorted();
        if last <= since || !ascending {
            return Err("its history goes backwards".into());
        }
        since = last;
        if let Some(names) = names.as_deref_mut() {
            names.extend(changes.iter().map(|change| change.what.name().clone()));
        }
        // A history has each name once, so the order within a page is free.
        let takes = changes.into_iter().map(|change| take_change(catalogue, leader, change));
        stream::iter(takes).buffer_unordered(COPIED_AT_ONCE).try_collect::<()>().await?;
        if names.is_none() {
            take(catalogue, CopyStep::Reached { epoch: hello.epoch, sequence: since, only: None }).await?;
        }
    }
}

async fn take_change(catalogue: &Handle, leader: &Client, change: Change) -> Result<(), String> {
    let step = |manifest| CopyStep::Change(Box::new(change.clone()), manifest);
    match catalogue.copy(step(None)).await {
        Response::Done => Ok(()),
        Response::Wanted => {
            let Changed::Put(record) = &change.what else { return Err("nothing is wanted for it".into()) };
            match leader.manifest(record).await.map_err(|error| error.to_string())? {
                Some(bytes) => take(catalogue, step(Some(bytes))).await,
                // It is gone meanwhile: a later step says so.
                None => Ok(()),
            }
        }
        Response::Refused(reason) => Err(reason.as_str().to_owned()),
        _ => Err("the catalogue cannot take it".into()),
    }
}

async fn take(catalogue: &Handle, step: CopyStep) -> Result<(), String> {
    match catalogue.copy(step).await {
        Response::Done => Ok(()),
        Response::Refused(reason) => Err(reason.as_str().to_owned()),
        _ => Err("the catalogue cannot take it".into()),
    }
}
