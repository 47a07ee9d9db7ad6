//! `limit`: how fast payload may leave and arrive, changed while links run and wait.

use crate::daemon::Daemon;
use crate::daemon::serve::Reply;
use crate::daemon::wire::{Item, LimitChange, Limits};
use crate::rate::RateLimit;

pub(super) async fn run(daemon: &Daemon, upload: LimitChange, download: LimitChange, reply: &Reply) {
    change(&daemon.limits.upload, upload);
    change(&daemon.limits.download, download);
    reply.item(Item::Limits(limits(daemon))).await;
}

fn change(limit: &RateLimit, change: LimitChange) {
    match change {
        LimitChange::Keep => {}
        LimitChange::Off => limit.set(None),
        LimitChange::To(rate) => limit.set(Some(rate)),
    }
}

/// The limits that hold.
pub(super) fn limits(daemon: &Daemon) -> Limits {
    Limits { max_upload: daemon.limits.upload.rate(), max_download: daemon.limits.download.rate() }
}
