//! `dft shell` and `dft -c`: several verbs, one after the other.
//!
//! A line is split at commas and each part into words, both as a shell does it: quotes and
//! backslashes keep what is within. `!command` runs a command of the system's shell.

mod completion;

use std::ffi::OsStr;
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor};

use self::completion::Prompt;
use super::run;
use crate::cli::Command;
use crate::config::ConfigFile;
use crate::failure::{Failure, Kind};
use crate::report::{asks_for_json, print_failure, tell_failure};
use crate::settings::{create_private_dir, state_dir};

/// Lines that are remembered.
const HISTORY_LEN_MAX: usize = 1000;

/// Runs the verbs of `text`; ends with the first that fails. Where that one was asked for JSON, the
/// failure is told as an event here; who calls this tells people of it.
pub(super) async fn run_batch(text: &str) -> Result<(), Failure> {
    for part in split(text).inspect_err(|failure| tell_programs(failure, text.split_whitespace()))? {
        run_part(&part).await?;
    }
    Ok(())
}

fn tell_programs(failure: &Failure, words: impl IntoIterator<Item = impl AsRef<OsStr>>) {
    if asks_for_json(words) {
        tell_failure(failure);
    }
}

/// Reads lines until there are none, and runs each; a failure ends its line, not the shell. Returns
/// the exit code of the last line, as shells do.
pub(super) async fn run_shell() -> Result<u8, Failure> {
    let failure =
        |error: ReadlineError| Failure::new(Kind::Other, format!("cannot read the terminal: {error}"));
    let config = Config::builder().max_history_size(HISTORY_LEN_MAX).map_err(failure)?.build();
    let mut editor = Editor::<Prompt, DefaultHistory>::with_config(config).map_err(failure)?;
    editor.set_helper(Some(Prompt::new()));
    let history = history_path()?;
    // A new user has none.
    let _ = editor.load_history(&history);
    let mut code = 0;
    loop {
        let read = super::blocking(move || {
            let line = editor.readline("dft> ");
            (editor, line)
        });
        let line;
        (editor, line) = read.await?;
        match line {
            Ok(line) if matches!(line.trim(), "exit" | "quit") => break,
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                let _ = editor.add_history_entry(&line);
                code = 0;
                if let Err(failure) = Box::pin(run_batch(&line)).await {
                    print_failure(&failure, false);
                    code = failure.kind.exit_code();
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failure(error)),
        }
    }
    editor.save_history(&history).map_err(failure)?;
    Ok(code)
}

fn history_path() -> Result<PathBuf, Failure> {
    let directory = state_dir()?;
    create_private_dir(&directory)?;
    Ok(directory.join("history"))
}

async fn run_part(part: &str) -> Result<(), Failure> {
    let part = part.trim();
    if let Some(command) = part.strip_prefix('!') {
        return run_command(command).await;
    }
    let words = shlex::split(part)
        .ok_or_else(unclosed)
        .inspect_err(|failure| tell_programs(failure, part.split_whitespace()))?;
    if words.is_empty() {
        return Ok(());
    }
    let file = ConfigFile::of_process().map_err(Failure::copy)?;
    let cli = match file.read_words(std::iter::once("dft").chain(words.iter().map(String::as_str))) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            tell_programs(&Failure::wrong_usage(&error), &words);
            let text = error.to_string();
            // Whoever prints the failure says that it is an error.
            let text = text.trim_end().strip_prefix("error: ").unwrap_or(text.trim_end());
            return Err(Failure::new(Kind::Usage, text.to_owned()));
        }
        Err(help) => return super::print_bytes(help.to_string().as_bytes()),
    };
    let done = match cli.command {
        Some(Command::Shell) | None => {
            Err(Failure::new(Kind::Usage, "a shell within a shell").hint("type the verb alone: ls -l"))
        }
        Some(command) => Box::pin(run(command)).await,
    };
    done.inspect_err(|failure| tell_programs(failure, &words))
}

fn unclosed() -> Failure {
    Failure::new(Kind::Usage, "a quote is not closed").hint("\\' or \\\" stands for the letter itself")
}

async fn run_command(command: &str) -> Result<(), Failure> {
    let status = tokio::process::Command::new("sh").arg("-c").arg(command).status().await;
    let status = status.map_err(|error| Failure::new(Kind::Other, format!("cannot run sh: {error}")))?;
    if status.success() { Ok(()) } else { Err(Failure::new(Kind::Other, format!("{command}: {status}"))) }
}

/// The parts of a line between commas that no quote or backslash keeps. What follows a `!` at the
/// start of a part is one part to the end of the line: a command may have commas.
fn split(text: &str) -> Result<Vec<String>, Failure> {
    let (mut parts, mut part, mut quote) = (Vec::new(), String::new(), None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, ',') => parts.push(std::mem::take(&mut part)),
            (None, '!') if part.trim().is_empty() => {
                part.push('!');
                part.extend(letters.by_ref());
            }
            (None, '"' | '\'') => {
                quote = Some(letter);
                part.push(letter);
            }
            (Some(open), _) if open == letter => {
                quote = None;
                part.push(letter);
            }
            (None | Some('"'), '\\') => {
                part.push(letter);
                part.extend(letters.next());
            }
            _ => part.push(letter),
        }
    }
    if quote.is_some() {
        return Err(unclosed());
    }
    parts.push(part);
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_at_commas_that_stand_alone() {
        // line, its parts
        let cases: [(&str, &[&str]); 6] = [
            ("put a, ls -l,get b", &["put a", " ls -l", "get b"]),
            ("put 'a, b', ls", &["put 'a, b'", " ls"]),
            ("put \"a\\\", b\", ls", &["put \"a\\\", b\"", " ls"]),
            ("put a\\,b", &["put a\\,b"]),
            ("ls, !echo a, b", &["ls", " !echo a, b"]),
            ("", &[""]),
        ];
        for (line, parts) in cases {
            assert_eq!(split(line).expect("it is split"), parts, "{line}");
        }
        assert!(split("put 'a").is_err());
    }
}
