//! `dft push`, `dft drop`, `dft rm`: where copies are, and whether the name stays.

use super::ask::{ask, no_data};
use super::print_bytes;
use crate::cli::{DropArgs, PushArgs, RmArgs};
use crate::daemon::wire::{Item, Request};
use crate::failure::Failure;

pub(super) async fn push(args: PushArgs) -> Result<(), Failure> {
    let PushArgs { name, to, all, wait, json: _ } = args;
    let request = Request::Push { name, to, all, wait };
    ask(&request, args.json, show, no_data).await
}

pub(super) async fn give_up(args: DropArgs) -> Result<(), Failure> {
    ask(&Request::Drop { name: args.name, force: args.force, id: args.id }, args.json, show, no_data).await
}

pub(super) async fn remove(args: RmArgs) -> Result<(), Failure> {
    ask(&Request::Remove { name: args.name, forget: args.forget, id: args.id }, args.json, show, no_data)
        .await
}

fn show(item: Item) -> Result<(), Failure> {
    match item {
        Item::Pushed(pushed) => {
            let problem = pushed.problem.map_or_else(String::new, |problem| format!(": {problem}"));
            print_bytes(format!("{:<20} {}{problem}\n", pushed.node, pushed.outcome).as_bytes())
        }
        Item::Gone(gone) => print_bytes(format!("{}: {}\n", gone.name, gone.what).as_bytes()),
        _ => Ok(()),
    }
}
