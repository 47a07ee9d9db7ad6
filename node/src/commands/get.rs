//! `dft get`: fetch by name.

use super::ask::{absolute, ask, no_data};
use super::print_bytes;
use crate::cli::GetArgs;
use crate::daemon::wire::{Item, Request};
use crate::failure::Failure;
use crate::report::human_bytes;

pub(super) async fn run(args: GetArgs) -> Result<(), Failure> {
    let into = absolute(&args.into)?.as_path().into();
    let request = Request::Get { name: args.name, into, peek: args.peek, id: args.id, force: args.force };
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
