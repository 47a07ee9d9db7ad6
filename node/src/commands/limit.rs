//! `dft limit`: how fast the daemon sends and receives.

use super::ask::{ask, no_data};
use super::print_bytes;
use crate::cli::{ByteRate, LimitArgs};
use crate::daemon::wire::{Item, LimitChange, Limits, Request};
use crate::failure::Failure;
use crate::report::human_bytes;

pub(super) async fn run(args: LimitArgs) -> Result<(), Failure> {
    let (upload, download) = (change(args.max_upload), change(args.max_download));
    let show = |item| match item {
        Item::Limits(limits) => print_bytes(format!("{}\n", limits_text(&limits)).as_bytes()),
        _ => Ok(()),
    };
    ask(&Request::Limit { upload, download }, args.json, show, no_data).await
}

fn change(rate: Option<ByteRate>) -> LimitChange {
    match rate {
        None => LimitChange::Keep,
        Some(ByteRate(None)) => LimitChange::Off,
        Some(ByteRate(Some(rate))) => LimitChange::To(rate),
    }
}

/// Both limits in a line.
pub(super) fn limits_text(limits: &Limits) -> String {
    let text =
        |rate: Option<u64>| rate.map_or_else(|| "off".into(), |rate| format!("{}/s", human_bytes(rate)));
    format!("upload {}, download {}", text(limits.max_upload), text(limits.max_download))
}
