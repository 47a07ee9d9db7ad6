//! How a command fails: what happened, to what, what to try, and the exit code.
//!
//! The rule behind the codes: what was typed and cannot be meant so is wrong usage, whether it is an
//! option or a path that is not there. A path that is there and that the disk refuses is the disk's
//! fault. A manifest has a code of its own, and so has data that was compared with it.

use std::fmt::{self, Write};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::storage::StorageError;

/// The kinds of failure that a program may tell apart by the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Anything without a code of its own.
    Other,
    /// What was asked for makes no sense, or is about a path that is not there.
    Usage,
    /// The manifest is missing, damaged or not valid.
    Manifest,
    /// Nobody has the data, or all refuse.
    NoSource,
    /// The disk is full, read-only, in use or failing.
    Disk,
    /// Data is not what the manifest says.
    Integrity,
    /// The catalogue does not know the name, or has other content under it.
    Name,
    /// Ended by a signal before it was complete.
    Interrupted,
}

impl Kind {
    /// The exit code; documented in the help and in the README.
    pub const fn exit_code(self) -> u8 {
        match self {
            Kind::Other => 1,
            Kind::Usage => 2,
            Kind::Manifest => 3,
            Kind::NoSource => 4,
            Kind::Disk => 5,
            Kind::Integrity => 6,
            Kind::Name => 7,
            Kind::Interrupted => 130,
        }
    }

    /// The kind that a process which ended with this code meant.
    pub const fn from_exit_code(code: u8) -> Self {
        match code {
            2 => Kind::Usage,
            3 => Kind::Manifest,
            4 => Kind::NoSource,
            5 => Kind::Disk,
            6 => Kind::Integrity,
            7 => Kind::Name,
            130 => Kind::Interrupted,
            _ => Kind::Other,
        }
    }
}

/// Why a command ends without having done its work.
#[derive(Debug)]
pub struct Failure {
    /// What kind it is.
    pub kind: Kind,
    /// What happened, to what.
    pub message: String,
    /// What to try.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with this advice, where it has none.
    #[must_use]
    pub fn hint_else(self, hint: &str) -> Self {
        if self.hint.is_some() { self } else { self.hint(hint) }
    }

    /// The same once more, for another who is to be told.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { kind: self.kind, message: self.message.clone(), hint: self.hint.clone() }
    }

    /// A file operation failed.
    pub fn io(operation: &str, path: &Path, error: &std::io::Error) -> Self {
        let failure = Self::new(Kind::Disk, format!("cannot {operation} {}: {error}", shown(path)));
        match hint_for(error.kind()) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// A file operation failed on a path that somebody typed: where there is no such thing, what was
    /// typed is wrong, and not the disk.
    pub fn given(operation: &str, path: &Path, error: &std::io::Error) -> Self {
        let failure = Self::io(operation, path, error);
        if !is_wrong_path(error.kind()) {
            return failure;
        }
        let kind = Kind::Usage;
        if error.kind() == ErrorKind::NotFound {
            let message = format!("cannot {operation} {}: there is no such file or directory", shown(path));
            return Self { kind, message, ..failure };
        }
        Self { kind, ..failure }
    }

    /// What was typed makes no sense, for programs: the first paragraph of what clap says to people.
    pub fn wrong_usage(error: &clap::Error) -> Self {
        let text = error.to_string();
        let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        let message = match error.kind() {
            clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "nothing to do".into(),
            _ => first.join(" "),
        };
        let message = message.strip_prefix("error: ").unwrap_or(&message);
        Self::new(Kind::Usage, message).hint("dft --help, or dft VERB --help")
    }
}

/// Whether a path is not one of what is asked for, rather than out of reach.
fn is_wrong_path(kind: ErrorKind) -> bool {
    use ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    matches!(kind, NotFound | NotADirectory | IsADirectory | InvalidFilename)
}

/// What to try where the system says this of a path.
pub fn hint_for(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::NotFound => "check the spelling; a relative path counts from the working directory",
        ErrorKind::NotADirectory => "a part of the path is a file, where a directory has to be",
        ErrorKind::IsADirectory => "name a file, not a directory",
        ErrorKind::InvalidFilename => "a name has at most 255 bytes",
        ErrorKind::PermissionDenied => "check who owns it, and its permissions: ls -ld PATH",
        ErrorKind::StorageFull => "free some space: df PATH",
        ErrorKind::QuotaExceeded => "your quota there is used up: free some space",
        ErrorKind::ReadOnlyFilesystem => "choose a place that can be written to",
        _ => return None,
    })
}

/// A path for messages: what no terminal should get is escaped, control characters and bytes that are
/// no UTF-8.
pub fn shown(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            match character.is_control() {
                true => text.extend(character.escape_default()),
                false => text.push(character),
            }
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{}", chunk.invalid().escape_ascii());
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        let failure = Self::new(kind_of(&error), error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// What kind of failure one of storage is.
fn kind_of(error: &StorageError) -> Kind {
    match error {
        StorageError::NoSuchPath(_)
        | StorageError::NothingToSeed
        | StorageError::NoName(_)
        | StorageError::NameNeeded
        | StorageError::SameName { .. }
        | StorageError::UnsafeSymlink { .. }
        | StorageError::UnsafePath { .. }
        | StorageError::Special(_)
        | StorageError::Manifest(_) => Kind::Usage,
        StorageError::ReservedName { .. } => Kind::Manifest,
        StorageError::Changed { .. } | StorageError::Corrupt { .. } | StorageError::NotTheDataset(_) => {
            Kind::Integrity
        }
        StorageError::Cancelled => Kind::Interrupted,
        StorageError::Unfinished { .. }
        | StorageError::OutOfPiece { .. }
        | StorageError::Passed { .. }
        | StorageError::ReadOnly => Kind::Other,
        StorageError::NotDurable { cause, .. } => kind_of(cause),
        _ => Kind::Disk,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn what_no_terminal_should_get_is_escaped() {
        for (bytes, text) in [
            (&b"plain/p\xc3\xa4th"[..], "plain/p\u{e4}th"),
            (b"caf\xe9/x", "caf\\xe9/x"),
            (b"a\x1b[31m\nb", "a\\u{1b}[31m\\nb"),
        ] {
            assert_eq!(shown(Path::new(OsStr::from_bytes(bytes))), text);
        }
    }

    #[test]
    fn only_what_is_there_can_be_the_disks_fault() {
        let kind = |kind: ErrorKind| Failure::given("read", Path::new("x"), &kind.into()).kind;
        assert_eq!(kind(ErrorKind::NotFound), Kind::Usage);
        assert_eq!(kind(ErrorKind::NotADirectory), Kind::Usage);
        assert_eq!(kind(ErrorKind::PermissionDenied), Kind::Disk);
        assert_eq!(kind(ErrorKind::StorageFull), Kind::Disk);
    }
}
