//! dft and its peers, one after another on the same data, and how far each is from what the network
//! or the processor allows.
//!
//! ```text
//! cargo bench -p dft --bench compare -- --list
//! cargo bench -p dft --bench compare -- A C --peers dft,nc,nfs --runs 3 --json FILE --plot FILE
//! ```
//!
//! The pieces: [`scenario`] says what is played and what its bound is, the peers (`../peers`) how
//! each program plays, [`trial`] plays one peer once in a process of its own on a [`field`],
//! [`tournament`] lets them take turns, [`record`] keeps what was measured, [`render`] and [`plot`]
//! show it. docs/benchmarks/README.md explains how to read it.
//!
//! Invariant: nothing is left behind, however it ends. All data lie in a file system in memory that
//! only this program's mount namespace has; it vanishes with the last process of it, and every
//! process started here dies with its parent.

#![allow(unreachable_pub, reason = "a bench has no one to export to")]

#[allow(dead_code, reason = "shared with the end-to-end tests, which use other parts of it")]
#[path = "../../lab/mod.rs"]
mod lab;

mod account;
mod check;
mod field;
mod install;
#[path = "../machine.rs"]
mod machine;
mod options;
#[path = "../peers/mod.rs"]
mod peers;
mod plot;
mod record;
mod render;
mod scenario;
mod smoke;
#[allow(dead_code, reason = "shared with the figures")]
#[path = "../table.rs"]
mod table;
mod tournament;
mod trial;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use options::{Options, USAGE};
use record::Record;

/// Said by the program to itself: it already is in its own mount namespace.
const INSIDE: &str = "inside";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let part = arguments.first().cloned().unwrap_or_default();
    let result = match part.as_str() {
        "trial" => {
            trial::main();
            Ok(())
        }
        "floor" => peers::floor_main(&arguments[1..]).map_err(|error| error.to_string()),
        INSIDE => compare(arguments.split_off(1), true),
        _ if arguments.iter().any(|argument| argument == "--bench") => {
            arguments.retain(|argument| argument != "--bench");
            compare(arguments, false)
        }
        // `cargo test` and `cargo nextest` start it so.
        _ => smoke::main(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: Vec<String>, inside: bool) -> Result<(), String> {
    let options =
        Options::parse(arguments.iter().cloned()).map_err(|problem| format!("{problem}\n\n{USAGE}"))?;
    if options.list {
        list();
        return Ok(());
    }
    if let Some(path) = &options.render {
        let record = Record::read(path)?;
        println!("{}", render::markdown(&record));
        return write_views(&record, &options);
    }
    if !inside {
        if options.install {
            install::install_missing()?;
        }
        return Err(enter(arguments));
    }
    let record = tournament::play(&options)?;
    write_views(&record, &options)
}

/// Becomes this program again with a mount namespace of its own, as root or as root of a user
/// namespace; returns only where that is impossible.
fn enter(arguments: Vec<String>) -> String {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return format!("this very program: {error}"),
    };
    let mut command = lab::tool("unshare");
    if !machine::is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "--"]).arg(program).arg(INSIDE).args(arguments);
    format!("cannot run unshare: {}", command.exec())
}

fn write_views(record: &Record, options: &Options) -> Result<(), String> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    if let Some(path) = &options.markdown {
        write(path, render::markdown(record))?;
    }
    if let Some(path) = &options.plot {
        write(path, plot::svg(record))?;
    }
    Ok(())
}

fn list() {
    println!("scenarios:");
    for scenario in scenario::SCENARIOS {
        println!("  {:15} {}", scenario.name, scenario.about);
    }
    println!("\npeers:");
    for peer in peers::PEERS {
        let missing = install::missing(*peer);
        let missing = if missing.is_empty() {
            String::new()
        } else {
            format!(" (not installed: {})", missing.join(", "))
        };
        println!("  {:15} {}{missing}", peer.name(), peer.about());
    }
}
