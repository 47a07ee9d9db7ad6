//! The `dft` command: reads the command line, runs one verb, and turns its result into an exit
//! code.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use dft::cli::Cli;
use dft::config::{self, ConfigFile};
use dft::failure::{Failure, Kind};
use dft::{commands, report, storage};

/// Threads that hash, read and write. The pool of buffers bounds how much they have to do.
const BLOCKING_MAX: usize = 32;

fn main() -> ExitCode {
    storage::raise_descriptors();
    let no_file = ConfigFile::default();
    let file = match ConfigFile::of_process() {
        Ok(file) => file,
        Err(failure) if config_is_needed() => return refuse_config(failure),
        Err(failure) => {
            report::to_stderr(&format!("warning: {}; not needed here", failure.message));
            &no_file
        }
    };
    let cli = match file.read_words(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap says which it is.
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::SUCCESS;
            }
            if report::asks_for_json(std::env::args_os()) {
                report::tell_failure(&Failure::wrong_usage(&error));
            }
            return ExitCode::from(Kind::Usage.exit_code());
        }
    };
    let json = cli.command.as_ref().is_some_and(commands::wants_json);
    // One thread moves all bytes and drives all state: its tasks wake each other without a system
    // call. What takes a core (hashing, the disk) runs on the blocking threads beside it.
    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(BLOCKING_MAX).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(commands::run_all(cli));
            // A blocking read of a dead network disk must not keep us.
            runtime.shutdown_timeout(std::time::Duration::from_millis(200));
            result
        }
        Err(error) => Err(Failure::new(Kind::Other, format!("cannot start: {error}"))),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report::print_failure(&failure, json);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// Whether what was typed depends on the configuration, or is no verb that would not.
fn config_is_needed() -> bool {
    let command = Cli::command();
    let typed = command.clone().try_get_matches();
    !typed.is_ok_and(|typed| typed.subcommand_name().is_some_and(|verb| !config::is_for(&command, verb)))
}

/// The configuration is wrong: nothing is done with half of it, but help is given.
fn refuse_config(failure: &Failure) -> ExitCode {
    match Cli::try_parse() {
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        parsed => {
            let json = parsed.is_ok_and(|cli| cli.command.as_ref().is_some_and(commands::wants_json));
            report::print_failure(failure, json);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}
