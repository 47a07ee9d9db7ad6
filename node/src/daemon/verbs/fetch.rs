//! `fetch`: what a manifest describes, by the daemon; a `get` that needs no catalogue.

use std::sync::Arc;
use std::time::Instant;

use dft_protocol::manifest::Manifest;
use serde_bytes::ByteBuf;

use super::get::{Target, check_directory, obtain};
use crate::cli::SelectArgs;
use crate::commands::{blocking, selection};
use crate::daemon::Daemon;
use crate::daemon::holding::file_name;
use crate::daemon::serve::Reply;
use crate::daemon::wire::{Complete, Ended, Item};
use crate::failure::{Failure, Kind};

pub(super) async fn run(
    daemon: &Arc<Daemon>,
    manifest: ByteBuf,
    select: &SelectArgs,
    target: &Target,
    reply: &Reply,
) -> Result<(), Failure> {
    let started = Instant::now();
    let manifest = blocking(move || Manifest::decode(&manifest))
        .await?
        .map_err(|error| Failure::new(Kind::Manifest, format!("no valid manifest: {error}")))?;
    let manifest = Arc::new(manifest);
    let selection = selection(&manifest, select)?;
    check_directory(&target.into).await?;
    let path = target.into.join(file_name(&manifest));
    let there = blocking(move || path.symlink_metadata().is_ok()).await?;
    let name = manifest.info().name.to_string();
    let obtained = obtain(daemon, &name, &manifest, &selection, target, reply).await?;
    let (path, stats) = (obtained.path.display().to_string(), obtained.snapshot.stats);
    let already = there && obtained.snapshot.arrived_bytes == 0;
    reply
        .item(Item::Complete(Complete {
            path: path.clone(),
            bytes: selection.bytes(&manifest),
            seconds: if already { 0.0 } else { started.elapsed().as_secs_f64() },
            from_seeders: stats.from_seeders,
            from_peers: stats.from_peers,
            sent_bytes: stats.sent,
            wasted: stats.wasted,
            arrived_bytes: obtained.snapshot.arrived_bytes,
            whole: selection.is_all(),
            already,
        }))
        .await;
    reply.item(Item::Done(Ended { path, sent_bytes: stats.sent })).await;
    Ok(())
}
