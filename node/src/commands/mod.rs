//! One file per verb. Each takes what was typed, and returns when its work is done or failed.

mod ask;
mod by_daemon;
mod cat;
mod config;
mod daemon;
mod demo;
mod fetch;
mod get;
mod limit;
mod list;
mod put;
mod secret;
pub(crate) mod seed;
mod shell;
mod show;
mod spread;
mod trace;
mod tracker;
mod verify;

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use clap::CommandFactory;
use dft_protocol::manifest::{MANIFEST_LEN_MAX, Manifest, ManifestError};

use crate::cli::{Cli, Command, Compress, ConfigCommand, SecretCommand, SelectArgs};
use crate::failure::{Failure, Kind, hint_for, shown};
use crate::net::link::pack::Packing;
use crate::storage::{Selection, SelectionError};

/// Does what was typed: one verb, or several.
///
/// Returns the exit code: a shell tells of failures itself, and ends with that of its last line.
pub async fn run_all(cli: Cli) -> Result<u8, Failure> {
    match (cli.batch, cli.command) {
        (Some(batch), _) => shell::run_batch(&batch).await.map(|()| 0),
        (None, Some(Command::Shell)) => Box::pin(shell::run_shell()).await,
        (None, Some(command)) => run(command).await.map(|()| 0),
        (None, None) => Err(Failure::new(Kind::Usage, "nothing to do").hint("dft --help")),
    }
}

/// Whether a verb's output is for programs.
pub fn wants_json(command: &Command) -> bool {
    match command {
        Command::Seed(args) => args.json,
        Command::Fetch(args) => args.json,
        Command::Tracker(args) => args.json,
        Command::Show(args) => args.json,
        Command::Verify(args) => args.json,
        Command::Trace(args) => args.json,
        Command::Demo(args) => args.json,
        Command::Daemon(args) => args.json,
        Command::Status(args) => args.json,
        Command::Limit(args) => args.json,
        Command::Put(args) => args.json,
        Command::Get(args) => args.json,
        Command::Append(args) => args.json,
        Command::Ls(args) => args.json,
        Command::Nodes(args) => args.json,
        Command::Push(args) => args.json,
        Command::Drop(args) => args.json,
        Command::Rm(args) => args.json,
        Command::Config(args) => match &args.command {
            ConfigCommand::Show { json } => *json,
        },
        Command::Secret(args) => match &args.command {
            SecretCommand::New { json, .. } => *json,
        },
        Command::Cat(_) | Command::Shell | Command::Completions { .. } | Command::Man => false,
    }
}

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
        Command::Daemon(args) => daemon::run(args).await,
        Command::Status(args) => list::status(args).await,
        Command::Limit(args) => limit::run(args).await,
        Command::Put(args) => put::run(args).await,
        Command::Get(args) => get::run(args).await,
        Command::Cat(args) => cat::run(args).await,
        Command::Append(args) => cat::append(args).await,
        Command::Ls(args) => list::names(args).await,
        Command::Nodes(args) => list::nodes(args).await,
        Command::Push(args) => spread::push(args).await,
        Command::Drop(args) => spread::give_up(args).await,
        Command::Rm(args) => spread::remove(args).await,
        Command::Shell => Box::pin(shell::run_shell()).await.map(drop),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "dft", &mut script);
            print_bytes(&script)
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
    write_bytes(bytes).map(drop)
}

/// Writes to stdout; false where nobody reads it any more.
fn write_bytes(bytes: &[u8]) -> Result<bool, Failure> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            let kind = if error.kind() == ErrorKind::StorageFull { Kind::Disk } else { Kind::Other };
            let failure = Failure::new(kind, format!("cannot write to stdout: {error}"));
            Err(failure.hint(hint_for(error.kind()).unwrap_or("redirect it to another place")))
        }
    }
}

/// Reads and checks a manifest.
fn read_manifest(path: &Path) -> Result<Arc<Manifest>, Failure> {
    const SOURCE: &str = "dft seed writes NAME.dft; copy that file here, or name it with its path";
    let failure = |message: String| Failure::new(Kind::Manifest, message);
    let bytes = read_bounded(path).map_err(|error| {
        let mut with_suffix = path.as_os_str().to_owned();
        with_suffix.push(".dft");
        let with_suffix = Path::new(&with_suffix);
        let hint = match error.kind() {
            ErrorKind::NotFound if with_suffix.is_file() => format!("did you mean {}?", shown(with_suffix)),
            ErrorKind::NotFound => SOURCE.into(),
            ErrorKind::IsADirectory => {
                "the manifest, NAME.dft, comes first; to share a directory: dft seed DIRECTORY".into()
            }
            kind => hint_for(kind).unwrap_or(SOURCE).into(),
        };
        failure(format!("cannot read the manifest {}: {error}", shown(path))).hint(hint)
    })?;
    let manifest = Manifest::decode(&bytes).map_err(|error| {
        failure(format!("{} is no valid manifest: {error}", shown(path))).hint(match error {
            ManifestError::Version(_) => "use the same version of dft here and where it is seeded",
            _ => "copy it again from where dft seed wrote it",
        })
    })?;
    Ok(Arc::new(manifest))
}

/// Reads a file that may be a manifest: of an endless or huge one no more than it takes to tell.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MANIFEST_LEN_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What was selected of a dataset.
pub(crate) fn selection(manifest: &Manifest, select: &SelectArgs) -> Result<Selection, Failure> {
    Selection::new(manifest, &select.include, &select.exclude).map_err(|error| {
        let failure = Failure::new(Kind::Usage, error.to_string());
        match error {
            SelectionError::Nothing => failure.hint("dft show MANIFEST lists what there is"),
            _ => failure.hint("a glob is for example '*.csv', 'runs/2024-*' or 'runs/**/log?.txt'"),
        }
    })
}

/// What a source does with the pieces that it sends.
pub(crate) fn packing(compress: Compress) -> Packing {
    match compress {
        Compress::Off => Packing::Off,
        Compress::Auto => Packing::Auto,
        Compress::Zstd => Packing::Always,
    }
}

/// Runs blocking work beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Kind::Other, format!("a worker ended unexpectedly: {error}")))
}
