//! What is seen of a dataset: what it is doing, and its parts that run.

use std::path::PathBuf;
use std::sync::Arc;

use crate::driver::Remote;
use crate::failure::{Failure, Kind};
use crate::storage::Store;

/// What a dataset is doing.
#[derive(Clone, Debug)]
pub enum State {
    /// Its data are being looked at.
    Opening,
    /// Something is missing.
    Fetching,
    /// All of it is here, at this path.
    Complete(PathBuf),
    /// All of it was here; some was changed or removed.
    Damaged(String),
    /// It cannot go on; a restart or another request tries again.
    Failed(Problem),
}

/// Why a dataset cannot go on: a [`Failure`] that many can be told of.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What kind it is.
    pub kind: Kind,
    /// What happened.
    pub message: String,
    hint: Option<String>,
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let Failure { kind, message, hint } = failure;
        Self { kind, message, hint }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let Problem { kind, message, hint } = problem;
        Self { kind, message, hint }
    }
}

/// What is seen of a dataset.
#[derive(Clone)]
pub struct View {
    /// What it is doing.
    pub state: State,
    /// Its store and driver, while it has them.
    pub running: Option<Running>,
}

/// The parts of a dataset that runs.
#[derive(Clone)]
pub struct Running {
    /// Where its pieces are.
    pub store: Arc<Store>,
    /// Its driver.
    pub remote: Remote,
}
