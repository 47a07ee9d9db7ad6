//! What the daemon does for each request: one function each, in files by subject.

mod cat;
mod get;
mod limit;
mod list;
mod put;
mod spread;
mod wait;

use std::sync::Arc;

use super::Daemon;
use super::serve::Reply;
use super::wire::{Request, WirePath};
use crate::cli::SelectArgs;
use crate::failure::Failure;

/// Does what was asked for; what there is to say goes to `reply`.
pub(super) async fn run(daemon: &Arc<Daemon>, request: Request, reply: &Reply) -> Result<(), Failure> {
    match request {
        Request::Status => list::status(daemon, reply).await,
        Request::Limit { upload, download } => {
            limit::run(daemon, upload, download, reply).await;
            Ok(())
        }
        Request::Put { paths, name, copy, compress } => {
            let paths = paths.iter().map(WirePath::to_path).collect();
            put::run(daemon, &put::Wanted { paths, name, copy, compress }, reply).await
        }
        Request::Get { name, into, peek, id, force, include, exclude } => {
            let select = SelectArgs { include, exclude };
            let wanted = get::Wanted { name, into: into.to_path(), peek, id, force, select };
            get::run(daemon, wanted, reply).await
        }
        Request::Cat { name, path, from, to } => {
            cat::run(daemon, &cat::Part { name, path, from, to }, reply).await
        }
        Request::List { pattern, long, chunks } => {
            list::names(daemon, pattern.as_deref(), long, chunks, reply).await
        }
        Request::Nodes => list::nodes(daemon, reply).await,
        Request::Push { name, to, all } => spread::push(daemon, &name, &to, all, reply).await,
        Request::Drop { name, force } => spread::give_up(daemon, &name, force, reply).await,
        Request::Remove { name } => spread::remove(daemon, &name, reply).await,
        Request::Stop => {
            daemon.end();
            Ok(())
        }
    }
}
