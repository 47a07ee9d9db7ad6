//! Waiting for a dataset: how far it is, why nothing comes, and when to give up. Every wait has a
//! bound.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::daemon::holding::{Holding, Running, State};
use crate::daemon::serve::Reply;
use crate::daemon::wire::{Event, Progress};
use crate::driver::Snapshot;
use crate::failure::{Failure, Kind};
use crate::net::identity::display_peer;
use crate::report::human_bytes;

/// Without any peer, a request gives up after this time.
const NO_PEER_MAX: Duration = Duration::from_secs(60);
/// With peers, but nothing new from them, after this time.
pub(super) const NO_PROGRESS_MAX: Duration = Duration::from_secs(300);
/// When nothing comes for so long, whoever waits is told why.
pub(super) const WHY_AFTER: Duration = Duration::from_secs(3);
/// How often it is looked whether that is still the reason.
const WHY_EVERY: Duration = Duration::from_secs(5);
/// How long the catalogue may take to say who has a dataset.
const HOLDERS_MAX: Duration = Duration::from_secs(3);
/// Most nodes that are named.
const NAMED_MAX: usize = 5;
/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Follows whether a dataset gets anywhere.
struct Patience {
    /// Bytes that are verified, and that have arrived.
    bytes: (u64, u64),
    since: Instant,
    linked: Instant,
    /// How long it may get nowhere; as is usual where nobody says.
    limit: Option<Duration>,
}

impl Patience {
    fn new(limit: Option<Duration>) -> Self {
        let now = Instant::now();
        Self { bytes: (0, 0), since: now, linked: now, limit }
    }

    /// How long it has got nowhere.
    fn idle(&mut self, snapshot: &Snapshot) -> Duration {
        let now = Instant::now();
        let bytes = (snapshot.have_bytes, snapshot.arrived_bytes);
        if bytes != self.bytes {
            (self.bytes, self.since) = (bytes, now);
        }
        if snapshot.stats.links > 0 {
            self.linked = now;
        }
        now.duration_since(self.since)
    }

    fn look(&mut self, holding: &Holding) -> Result<(), Failure> {
        let snapshot = holding.snapshot();
        let idle = self.idle(&snapshot);
        let alone = idle.min(self.linked.elapsed());
        let (idle_max, alone_max) = self.limit.map_or((NO_PROGRESS_MAX, NO_PEER_MAX), |limit| (limit, limit));
        if alone < alone_max && idle < idle_max {
            return Ok(());
        }
        let name = holding.record().name;
        let message = match snapshot.stats.links {
            0 => format!("nobody who has {name} can be reached"),
            links => format!("none of {links} peers has the rest of {name}"),
        };
        Err(Failure::new(Kind::NoSource, message)
            .hint("the daemon goes on trying; dft ls --chunks NAME shows who has it"))
    }
}

/// Tells whoever waits for a dataset why nothing comes, whenever the reason is another one.
async fn explain(daemon: &Daemon, holding: &Holding, reply: &Reply) -> Infallible {
    let (mut looks, mut patience) = (tokio::time::interval(LOOK_EVERY), Patience::new(None));
    let mut told = String::new();
    loop {
        looks.tick().await;
        if !matches!(holding.view().state, State::Fetching) {
            patience = Patience::new(None);
            continue;
        }
        if patience.idle(&holding.snapshot()) < WHY_AFTER {
            told.clear();
            continue;
        }
        let reason = reason(daemon, holding).await;
        if reason != told {
            reply.send(Event::Warning(reason.clone())).await;
            told = reason;
        }
        tokio::time::sleep(WHY_EVERY).await;
    }
}

async fn reason(daemon: &Daemon, holding: &Holding) -> String {
    let name = holding.record().name;
    let snapshot = holding.snapshot();
    let left = if holding.is_read() {
        format!("waiting for the next piece of {name}")
    } else {
        let wanted = holding.wanted_bytes();
        let missing = human_bytes(wanted.saturating_sub(snapshot.have_bytes));
        format!("waiting for {missing} of {} of {name}", human_bytes(wanted))
    };
    let linked = match snapshot.stats.links {
        0 => "no node that has it answers".to_owned(),
        1 => "the node that is linked does not send what is missing".to_owned(),
        links => format!("none of {links} linked nodes sends what is missing"),
    };
    let Some(catalogue) = daemon.known_catalogue() else {
        return format!("{left}: {linked}, and no catalogue is known that says who has it");
    };
    let holders = tokio::time::timeout(HOLDERS_MAX, catalogue.holders(holding.id())).await;
    let Ok(Ok(holders)) = holders else {
        return format!("{left}: {linked}, and the catalogue does not answer who has it");
    };
    let others = holders.iter().filter(|holder| holder.peer != daemon.peer());
    let named: Vec<String> = others
        .map(|holder| {
            let node = holder.name.clone().unwrap_or_else(|| display_peer(&holder.peer));
            format!("{node} ({})", if holder.complete { "all" } else { "a part" })
        })
        .collect();
    let rest = named.len().saturating_sub(NAMED_MAX);
    let and_more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
    let shown = named[..named.len() - rest].join(", ");
    match named.len() {
        0 => format!("{left}: no node that runs has any of it, by the catalogue"),
        _ => format!("{left}: {linked}; by the catalogue, it is at {shown}{and_more}"),
    }
}

/// Waits until all of a dataset is here, or until it has got nowhere for `timeout`.
pub(super) async fn complete(
    daemon: &Daemon,
    holding: &Holding,
    timeout: Option<Duration>,
    reply: &Reply,
) -> Result<(), Failure> {
    tokio::select! {
        outcome = until_complete(holding, timeout, reply) => outcome,
        never = explain(daemon, holding, reply) => match never {},
    }
}

async fn until_complete(holding: &Holding, timeout: Option<Duration>, reply: &Reply) -> Result<(), Failure> {
    let mut views = holding.watch();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let mut patience = Patience::new(timeout);
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
        from_seeders: snapshot.stats.from_seeders,
        from_peers: snapshot.stats.from_peers,
    });
}

/// Waits until a dataset's store and driver are there.
pub(in crate::daemon) async fn running(holding: &Holding) -> Result<Running, Failure> {
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
pub(super) async fn stalled(daemon: &Daemon, holding: &Holding, reply: &Reply) -> Failure {
    tokio::select! {
        failure = until_stalled(holding) => failure,
        never = explain(daemon, holding, reply) => match never {},
    }
}

async fn until_stalled(holding: &Holding) -> Failure {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let mut patience = Patience::new(None);
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
