//! Why a catalogue did not do what was asked.

use dft_protocol::id::ManifestId;
use thiserror::Error;

use crate::catalogue::name::DatasetName;

/// Why a catalogue did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientError {
    /// None was configured.
    #[error("no tracker is known")]
    NoTracker,
    /// The client was started outside of a tokio runtime.
    #[error("no runtime to run in")]
    NoRuntime,
    /// The identity cannot be used.
    #[error("the identity cannot be used: {0}")]
    Identity(String),
    /// No tracker answers.
    #[error("no tracker answers at {}: {reason}", addrs.join(", "))]
    Unreachable {
        /// Where they were asked.
        addrs: Vec<String>,
        /// What the last one failed with.
        reason: String,
    },
    /// A tracker refuses.
    #[error("the tracker refuses: {reason}")]
    Refused {
        /// Why, in a line for a person.
        reason: String,
    },
    /// The name belongs to another dataset.
    #[error("the name {name} belongs to dataset {id}{}", if *removed { ", which was removed" } else { "" })]
    NameTaken {
        /// The name.
        name: DatasetName,
        /// The dataset that has it.
        id: ManifestId,
        /// Whether that one was removed: forgetting it frees the name.
        removed: bool,
    },
    /// Writes need the tracker's token, and it is missing or another one.
    #[error("the tracker {tracker} wants its token for writes")]
    NotAuthorised {
        /// Where it is.
        tracker: String,
    },
    /// No tracker that answers takes writes.
    #[error("no tracker here takes writes{}", leader.as_ref().map(|leader| format!(", but {leader} may")).unwrap_or_default())]
    NotLeader {
        /// Who may, as far as is known.
        leader: Option<String>,
    },
    /// A tracker answers what makes no sense.
    #[error("the tracker's answer is not valid: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// The client's runtime ends.
    #[error("the client has stopped")]
    Stopped,
}
