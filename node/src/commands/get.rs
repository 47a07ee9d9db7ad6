//! `dft get`: fetch by name.

use super::ask::{absolute, ask, no_data};
use super::print_bytes;
use crate::cli::{GetArgs, SelectArgs};
use crate::daemon::wire::{Item, Request};
use crate::failure::Failure;
use crate::report::human_bytes;

pub(super) async fn run(args: GetArgs) -> Result<(), Failure> {
    let into = absolute(&args.into)?.as_path().into();
    let SelectArgs { include, exclude } = args.select;
    let (name, peek, id, force) = (args.name, args.peek, args.id, args.force);
    let request = Request::Get { name, into, peek, id, force, include, exclude };
    let show = |item| match item {
        Item::Got(got) => {
            let (bytes, seconds) = (human_bytes(got.bytes), got.seconds);
            let line = format!("{} is complete: {bytes} in {seconds:.1} s, id {}\n", got.path, got.id);
            print_bytes(line.as_bytes())
        }
        _ => Ok(()),
    };
    ask(&request, args.json, show, no_data).await
}
