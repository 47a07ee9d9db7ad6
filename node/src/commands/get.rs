//! `dft get`: fetch by name.

use std::ffi::OsString;
use std::path::PathBuf;

use super::ask::{absolute, ask, no_data};
use super::print_bytes;
use crate::cli::{GetArgs, SelectArgs};
use crate::daemon::wire::{Item, Request};
use crate::failure::{Failure, Kind};
use crate::report::human_bytes;

pub(super) async fn run(args: GetArgs) -> Result<(), Failure> {
    let (names, into) = names_and_directory(args.names, args.output)?;
    let into = absolute(&into)?.as_path().into();
    let SelectArgs { include, exclude } = args.select;
    let (parents, peek, id, force) = (args.parents, args.peek, args.id, args.force);
    let timeout_ms = args.timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    let request = Request::Get { names, into, parents, peek, id, force, include, exclude, timeout_ms };
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

/// With `-o`, all are names; without, the second of two is the directory.
fn names_and_directory(
    mut names: Vec<OsString>,
    output: Option<PathBuf>,
) -> Result<(Vec<String>, PathBuf), Failure> {
    let into = match (output, names.len()) {
        (Some(output), _) => output,
        (None, 0 | 1) => PathBuf::from("."),
        (None, 2) => names.pop().map(PathBuf::from).unwrap_or_default(),
        (None, _) => {
            return Err(Failure::new(Kind::Usage, "several names need a directory")
                .hint("dft get NAME NAME … -o DIR; or a pattern: dft get 'runs/*' DIR"));
        }
    };
    let names = names.into_iter().map(OsString::into_string).collect::<Result<Vec<_>, _>>();
    let names = names.map_err(|_| Failure::new(Kind::Usage, "a name is UTF-8 text"))?;
    Ok((names, into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_word_is_the_directory_unless_it_is_named() {
        let parse = |words: &[&str], output: Option<&str>| {
            let words = words.iter().map(OsString::from).collect();
            names_and_directory(words, output.map(PathBuf::from)).ok()
        };
        let split = |names: &[&str], into: &str| {
            Some((names.iter().map(ToString::to_string).collect::<Vec<_>>(), PathBuf::from(into)))
        };
        assert_eq!(parse(&["a"], None), split(&["a"], "."));
        assert_eq!(parse(&["a", "d"], None), split(&["a"], "d"));
        assert_eq!(parse(&["a", "b"], Some("d")), split(&["a", "b"], "d"));
        assert_eq!(parse(&["a", "b", "d"], None), None);
    }
}
