//! Waiting for a dataset: how far it is, and when to give up. Every wait has a bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::daemon::holding::{Holding, Running, State, View};
use crate::daemon::serve::Reply;
use crate::daemon::wire::Progress;
use crate::failure::{Failure, Kind};

/// Without any peer, a request gives up after this time.
const NO_PEER_MAX: Duration = Duration::from_secs(60);
/// With peers, but nothing new from them, after this time.
const NO_PROGRESS_MAX: Duration = Duration::from_secs(300);
/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Follows whether a dataset gets anywhere.
struct Patience {
    bytes: u64,
    since: Instant,
    linked: Instant,
}

impl Patience {
    fn new() -> Self {
        let now = Instant::now();
        Self { bytes: 0, since: now, linked: now }
    }

    fn look(&mut self, holding: &Holding) -> Result<(), Failure> {
        let snapshot = holding.snapshot();
        let now = Instant::now();
        if snapshot.have_bytes != self.bytes {
            (self.bytes, self.since) = (snapshot.have_bytes, now);
        }
        if snapshot.stats.links > 0 {
            self.linked = now;
        }
        let alone = now.duration_since(self.linked).min(now.duration_since(self.since)) >= NO_PEER_MAX;
        if !alone && now.duration_since(self.since) < NO_PROGRESS_MAX {
            return Ok(());
        }
        let name = holding.record().name;
        let message = match snapshot.stats.links {
            0 => format!("nobody who has {name} can be reached"),
            links => format!("none of {links} peers has the rest of {name}"),
        };
        Err(Failure::new(Kind::NoSource, message)
            .hint("the daemon goes on trying; dft ls -l NAME shows who has it"))
    }
}

/// Waits until all of a dataset is here.
pub(super) async fn complete(holding: &Holding, reply: &Reply) -> Result<(), Failure> {
    let mut views = holding.watch();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let mut patience = Patience::new();
    loop {
        let state = views.borrow_and_update().state.clone();
        match state {
            State::Complete(_) => return Ok(()),
            State::Failed(problem) => return Err(problem.into()),
            State::Damaged(reason) => return Err(Failure::new(Kind::Integrity, reason)),
            State::Opening | State::Fetching => {}
        }
        tokio::select! {
            changed = views.changed() => {
                if changed.is_err() {
                    return Err(gone(holding));
                }
            }
            _ = looks.tick() => {
                tell(holding, &state, reply);
                if matches!(state, State::Fetching) {
                    patience.look(holding)?;
                }
            }
        }
    }
}

fn tell(holding: &Holding, state: &State, reply: &Reply) {
    let snapshot = holding.snapshot();
    let verb = if matches!(state, State::Opening) { "checking" } else { "fetching" };
    reply.progress(Progress {
        verb: verb.into(),
        bytes: snapshot.have_bytes,
        total: holding.wanted_bytes(),
        peers: snapshot.stats.links as u64,
    });
}

/// Waits until a dataset's store and driver are there.
pub(super) async fn running(holding: &Holding) -> Result<Running, Failure> {
    let mut views = holding.watch();
    loop {
        {
            let view = views.borrow_and_update();
            match (&view.running, &view.state) {
                (Some(running), _) => return Ok(running.clone()),
                (None, State::Failed(problem)) => return Err(problem.clone().into()),
                (None, _) => {}
            }
        }
        views.changed().await.map_err(|_| gone(holding))?;
    }
}

/// Ends, with a failure, when a dataset gets nowhere or fails.
pub(super) async fn stalled(holding: &Holding) -> Failure {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let mut patience = Patience::new();
    loop {
        looks.tick().await;
        match holding.view().state {
            State::Failed(problem) => return problem.into(),
            State::Damaged(reason) => return Failure::new(Kind::Integrity, reason),
            State::Fetching => {
                if let Err(failure) = patience.look(holding) {
                    return failure;
                }
            }
            State::Opening | State::Complete(_) => {}
        }
    }
}

fn gone(holding: &Holding) -> Failure {
    Failure::new(Kind::Other, format!("{} was given up meanwhile", holding.record().name))
        .hint("run the same command again")
}

impl Daemon {
    /// What is held of a dataset, where it is of use: what failed is let go, what was changed is
    /// given up, so that it can be taken on again. A part is of use to its own request alone: it is
    /// waited for.
    pub(in crate::daemon) async fn usable_holding(
        self: &Arc<Self>,
        id: dft_protocol::id::ManifestId,
    ) -> Option<Arc<Holding>> {
        loop {
            let holding = self.holding(id)?;
            match holding.view().state {
                State::Failed(_) => self.let_go(&holding).await,
                State::Damaged(_) => {
                    let _ = self.give_up(&holding).await;
                }
                State::Opening | State::Fetching | State::Complete(_) if holding.is_part() => {
                    // It ends with its request, which has a bound of its own.
                    let mut views = holding.watch();
                    let ends = |view: &View| matches!(view.state, State::Failed(_) | State::Damaged(_));
                    let _ = views.wait_for(ends).await;
                    continue;
                }
                State::Opening | State::Fetching | State::Complete(_) => return Some(holding),
            }
            return None;
        }
    }
}
