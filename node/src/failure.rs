//! How a command fails: what happened, to what, what to try, and the exit code.

use std::fmt;
use std::path::Path;

use crate::storage::StorageError;

/// The kinds of failure that a program may tell apart by the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Anything without a code of its own.
    Other,
    /// What was asked for makes no sense.
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

    /// The same once more, for another who is to be told.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { kind: self.kind, message: self.message.clone(), hint: self.hint.clone() }
    }

    /// A file operation failed.
    pub fn io(operation: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::new(Kind::Disk, format!("cannot {operation} {}: {error}", path.display()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        let failure = Self::new(Kind::Disk, error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
