//! One file per verb. Each takes what was typed, and returns when its work is done or failed.

mod config;
mod demo;
mod fetch;
mod secret;
mod seed;
mod show;
mod trace;
mod tracker;
mod verify;

use std::path::Path;
use std::sync::Arc;

use clap::CommandFactory;
use dft_protocol::manifest::{MANIFEST_LEN_MAX, Manifest};

use crate::cli::{Cli, Command, SelectArgs};
use crate::failure::{Failure, Kind};
use crate::storage::{Selection, SelectionError};

/// Does what was asked for.
pub async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Seed(args) => seed::run(args).await,
        Command::Fetch(args) => fetch::run(args).await,
        Command::Tracker(args) => tracker::run(args).await,
        Command::Show(args) => show::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Secret(args) => secret::run(&args),
        Command::Demo(args) => demo::run(args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "dft", &mut std::io::stdout());
            Ok(())
        }
        Command::Man => print_man_page(),
    }
}

/// The pages of `dft` and of each verb, one after the other.
fn print_man_page() -> Result<(), Failure> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help").cloned();
    let pages = std::iter::once(command.clone()).chain(verbs.map(|verb| {
        let name = format!("dft-{}", verb.get_name());
        verb.name(name)
    }));
    for command in pages {
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered
            .map_err(|error| Failure::new(Kind::Other, format!("cannot write the manual page: {error}")))?;
    }
    print_bytes(&page)
}

/// Writes to stdout; that nobody reads it is no failure.
fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Kind::Other, format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Reads and checks a manifest.
fn read_manifest(path: &Path) -> Result<Arc<Manifest>, Failure> {
    let failure = |message: String| Failure::new(Kind::Manifest, message);
    let cannot =
        |error: std::io::Error| failure(format!("cannot read the manifest {}: {error}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let failure = cannot(error);
        if missing {
            failure.hint("dft seed writes NAME.dft; copy that file here, or name it with its path")
        } else {
            failure
        }
    })?;
    if metadata.is_dir() {
        return Err(failure(format!("{} is a directory, not a manifest", path.display()))
            .hint("to share a directory, run: dft seed DIRECTORY"));
    }
    let too_large = usize::try_from(metadata.len()).map_or(true, |len| len > MANIFEST_LEN_MAX);
    if too_large {
        return Err(failure(format!("{} is too large for a manifest", path.display())));
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    let manifest = Manifest::decode(&bytes).map_err(|error| {
        failure(format!("{} is no valid manifest: {error}", path.display()))
            .hint("copy it again from where dft seed wrote it; compare with dft show")
    })?;
    Ok(Arc::new(manifest))
}

/// What was selected of a dataset.
fn selection(manifest: &Manifest, select: &SelectArgs) -> Result<Selection, Failure> {
    Selection::new(manifest, &select.include, &select.exclude).map_err(|error| {
        let failure = Failure::new(Kind::Usage, error.to_string());
        match error {
            SelectionError::Nothing => failure.hint("dft show MANIFEST lists what there is"),
            _ => failure.hint("a glob is for example '*.csv', 'runs/2024-*' or 'runs/**/log?.txt'"),
        }
    })
}

/// Runs blocking work beside the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Kind::Other, format!("a worker ended unexpectedly: {error}")))
}
