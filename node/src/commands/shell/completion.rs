//! What the Tab key completes at the prompt: verbs, their options, names of the catalogue, nodes, files.

use std::borrow::Cow;
use std::time::Duration;

use clap::CommandFactory;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::cli::Cli;
use crate::daemon::reach::Connection;
use crate::daemon::wire::{Event, Item, Request};

/// How long the daemon has to say which names or nodes there are.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Most of them that are shown.
const SHOWN_MAX: usize = 200;
/// Verbs whose first word is a name of the catalogue.
const OF_NAMES: [&str; 7] = ["get", "cat", "append", "ls", "push", "drop", "rm"];

/// What a word may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted<'line> {
    Verb,
    Option { verb: &'line str },
    Name,
    Node,
    File,
}

/// What the word `typed` may be, behind these.
fn wanted<'line>(before: &[&'line str], typed: &str) -> Wanted<'line> {
    let Some((&verb, before)) = before.split_first() else { return Wanted::Verb };
    if typed.starts_with('-') {
        return Wanted::Option { verb };
    }
    let words = before.iter().filter(|word| !word.starts_with('-')).count();
    let is_behind = |option: &str| before.contains(&option);
    match verb {
        "push" if is_behind("--to") => Wanted::Node,
        "get" if matches!(before.last(), Some(&"-o" | &"--output")) => Wanted::File,
        "get" if is_behind("-o") || is_behind("--output") => Wanted::Name,
        _ if OF_NAMES.contains(&verb) && words == 0 => Wanted::Name,
        _ => Wanted::File,
    }
}

/// Completes what is typed.
pub(super) struct Prompt {
    command: clap::Command,
    files: FilenameCompleter,
}

impl Prompt {
    pub(super) fn new() -> Self {
        let mut command = Cli::command();
        command.build();
        Self { command, files: FilenameCompleter::new() }
    }

    fn verbs(&self) -> Vec<String> {
        self.command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
    }

    fn options(&self, verb: &str) -> Vec<String> {
        let verb = self.command.find_subcommand(verb);
        let options = verb.into_iter().flat_map(clap::Command::get_arguments);
        options.filter_map(|option| Some(format!("--{}", option.get_long()?))).collect()
    }
}

/// The names, or the nodes, that begin so; none where no daemon runs, or it does not answer in time.
fn ask(request: &Request) -> Vec<String> {
    // The thread that reads the terminal is one of the runtime's.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return Vec::new() };
    let mut found = Vec::new();
    let asked = async {
        let mut connection = Connection::open().await.ok().flatten()?;
        connection.ask(request).await.ok()?;
        while found.len() < SHOWN_MAX {
            match connection.next().await.ok()? {
                Event::Item(Item::Listed(listed)) => found.push(listed.name),
                Event::Item(Item::Node(node)) => found.push(node.name),
                Event::Done | Event::Failed { .. } => break,
                _ => {}
            }
        }
        Some(())
    };
    // What came in time is shown.
    let _ = runtime.block_on(async { tokio::time::timeout(ASK_MAX, asked).await });
    found
}

/// Names that begin with what is typed.
fn names(typed: &str) -> Vec<String> {
    if typed.contains(['*', '?', '[']) {
        return Vec::new();
    }
    ask(&Request::List { pattern: Some(format!("{typed}*")), long: false, chunks: false })
}

impl Completer for Prompt {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..at];
        let part = before.rfind(',').map_or(0, |comma| comma + 1);
        let start = before.rfind(char::is_whitespace).map_or(0, |space| space + 1).max(part);
        let (words, typed) = (before[part..start].split_whitespace().collect::<Vec<_>>(), &before[start..]);
        let found = match wanted(&words, typed) {
            Wanted::Verb => self.verbs(),
            Wanted::Option { verb } => self.options(verb),
            Wanted::Name => names(typed),
            Wanted::Node => ask(&Request::Nodes),
            Wanted::File => Vec::new(),
        };
        let matching = found.into_iter().filter(|word| word.starts_with(typed));
        let quoted = |word: String| {
            let replacement = shlex::try_quote(&word).ok().map(|word| format!("{word} "))?;
            Some(Pair { display: word, replacement })
        };
        let pairs: Vec<Pair> = matching.filter_map(quoted).collect();
        // A word that is nothing of that may be a file all the same.
        if pairs.is_empty() && !words.is_empty() {
            return self.files.complete(line, at, context);
        }
        Ok((start, pairs))
    }
}

impl Hinter for Prompt {
    type Hint = String;
}

impl Highlighter for Prompt {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Borrowed(hint)
    }
}

impl Validator for Prompt {}

impl Helper for Prompt {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_word_may_be_follows_from_those_before_it() {
        for (line, expected) in [
            ("", Wanted::Verb),
            ("pu", Wanted::Verb),
            ("get ru", Wanted::Name),
            ("get --peek ru", Wanted::Name),
            ("get a ", Wanted::File),
            ("get a -o ", Wanted::File),
            ("get a -o dir ru", Wanted::Name),
            ("get a --in", Wanted::Option { verb: "get" }),
            ("put ", Wanted::File),
            ("push a ", Wanted::File),
            ("push a --to ", Wanted::Node),
            ("push a --to ada b", Wanted::Node),
            ("append a ", Wanted::File),
        ] {
            let (before, typed) = line.rsplit_once(' ').unwrap_or(("", line));
            let before: Vec<&str> = before.split_whitespace().collect();
            assert_eq!(wanted(&before, typed), expected, "{line}");
        }
    }

    #[test]
    fn options_are_those_of_the_verb() {
        let options = Prompt::new().options("get");
        assert!(options.iter().any(|option| option == "--parents"), "{options:?}");
        assert!(!options.iter().any(|option| option == "--wait"), "{options:?}");
        assert_eq!(Prompt::new().options("nothing"), Vec::<String>::new());
    }
}
