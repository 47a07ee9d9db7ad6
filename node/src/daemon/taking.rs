//! Which holding a request gets: the one that is there, that one opened anew, or one in its place.
//!
//! What went wrong with the data of a dataset is no reason to forget it: the disk may come back. So
//! what failed is opened anew, from its own record. Only where that fails as well, and nobody but
//! this node's user could miss it, another place takes the former one's.

use std::sync::Arc;
use std::time::Duration;

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::Manifest;

use super::Daemon;
use super::holding::{Holding, Presence, State, View};
use super::opening::Opening;
use super::table::{Place, Record};
use crate::failure::{Failure, Kind};

/// How long is waited for what is opened anew; after that it may be waited for as what is fetched.
const OPENING_MAX: Duration = Duration::from_secs(10);

/// Who wants a dataset.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Whoever has all of it, at another place.
    Putter,
    /// Whoever lacks it: this node's user, or another node.
    Fetcher,
    /// Whoever reads it, and keeps nothing.
    Reader,
}

/// What is held of a dataset.
pub(super) enum Held {
    /// This.
    Usable(Arc<Holding>),
    /// This, which is of no use, and nobody counts on it.
    Useless(Arc<Holding>),
    Nothing,
}

/// What a request got.
pub(super) struct Taken {
    pub(super) holding: Arc<Holding>,
    /// It began with this request.
    pub(super) is_new: bool,
    /// What was remembered of it before.
    pub(super) former: Option<Record>,
}

impl Daemon {
    /// What is held of a dataset, opened anew where it failed. A failure where that cannot be used
    /// and must not be replaced. What goes with its request is of use to that alone: its end is
    /// waited for.
    pub(super) async fn usable_holding(
        self: &Arc<Self>,
        id: ManifestId,
        asker: Asker,
    ) -> Result<Held, Failure> {
        let (mut opened_anew, was_at_rest) = (false, self.is_at_rest(id));
        loop {
            let Some(holding) = self.holding(id).await else {
                return self.check_readable(id).map(|()| Held::Nothing);
            };
            let mut views = holding.watch();
            if holding.is_read() {
                if asker == Asker::Reader {
                    return Ok(Held::Usable(holding));
                }
                // Its place is taken by whoever keeps it, once that is sure.
                return self.check_readable(id).map(|()| Held::Nothing);
            }
            if holding.presence == Presence::Selfish {
                // It ends with its request, which has a bound of its own.
                let ends = |view: &View| matches!(view.state, State::Failed(_) | State::Damaged(_));
                let _ = views.wait_for(ends).await;
                self.give_up(&holding).await?;
                continue;
            }
            if !holding.claim() {
                // It is being given up: this waits for it.
                self.give_up(&holding).await?;
                continue;
            }
            if opened_anew || was_at_rest {
                let is_open = |view: &View| !matches!(view.state, State::Opening);
                let _ = tokio::time::timeout(OPENING_MAX, views.wait_for(is_open)).await;
            }
            let failure = match holding.view().state {
                State::Opening | State::Fetching | State::Complete(_) => return Ok(Held::Usable(holding)),
                State::Failed(problem) => Failure::from(problem),
                State::Damaged(reason) => Failure::new(Kind::Integrity, reason),
            };
            let is_put_anew = asker == Asker::Putter && holding.record().place != Place::Stored;
            if is_put_anew {
                // Whoever asks has just looked at all of it.
                return Ok(Held::Useless(holding));
            } else if !opened_anew {
                opened_anew = true;
                self.hold_anew(&holding).await?;
            } else if asker == Asker::Putter || is_replaceable(&holding.record(), &failure) {
                return Ok(Held::Useless(holding));
            } else if self.can_be_fetched_again(&holding, &failure).await {
                let record = Record { complete: false, force: true, ..holding.record() };
                self.hold_elsewhere(&holding, record, Opening::Again).await?;
            } else {
                let Record { name, place, .. } = holding.record();
                let is_mended = place == Place::Stored && failure.kind == Kind::Integrity;
                return Err(failure.hint(if is_mended {
                    format!("it is mended once another node has all of {name}; dft drop {name} forgets it")
                } else {
                    format!("once it is there again, so is {name}; dft drop {name} forgets it")
                }));
            }
        }
    }

    /// Fetches a copy in the store again that is damaged, where another node has it: others counted
    /// on it, whether anybody asks for it here or not.
    pub(super) async fn mend(self: &Arc<Self>, holding: &Holding) {
        let is_damaged = match holding.view().state {
            State::Damaged(_) => true,
            State::Failed(problem) => problem.kind == Kind::Integrity,
            State::Opening | State::Fetching | State::Complete(_) => false,
        };
        let is_copy = holding.presence == Presence::Shared && holding.record().place == Place::Stored;
        // To look at it once more is to hash it: not before there is somebody to fetch it from.
        if is_damaged && is_copy && self.known_catalogue().is_some() && self.is_elsewhere(holding.id()).await
        {
            // What keeps it from being mended is in its state.
            let _ = self.usable_holding(holding.id(), Asker::Fetcher).await;
        }
    }

    async fn is_elsewhere(&self, id: ManifestId) -> bool {
        self.other_copies(id).await.is_ok_and(|copies| !copies.is_empty())
    }

    /// Whether a damaged copy in the store gets a successor: it stays until that is complete.
    async fn can_be_fetched_again(&self, holding: &Holding, failure: &Failure) -> bool {
        let record = holding.record();
        let is_damaged = record.place == Place::Stored && failure.kind == Kind::Integrity;
        is_damaged && !record.force && self.is_elsewhere(holding.id()).await
    }

    /// Takes a dataset on, in place of what is of no use.
    pub(super) async fn take_on(
        self: &Arc<Self>,
        useless: Option<Arc<Holding>>,
        manifest: Arc<Manifest>,
        record: Record,
        opening: Opening,
        presence: Presence,
    ) -> Result<Taken, Failure> {
        let Some(useless) = useless else {
            let (holding, is_new) = self.hold(manifest, record, opening, presence).await?;
            return Ok(Taken { holding, is_new, former: None });
        };
        let former = useless.record();
        if presence == Presence::Selfish {
            // It is remembered as it was, and held so again when the request has ended.
            self.set_aside(&useless).await?;
            let (holding, is_new) = self.hold(manifest, record, opening, presence).await?;
            return Ok(Taken { holding, is_new, former: Some(former) });
        }
        self.hold_elsewhere(&useless, record.clone(), opening).await?;
        let lost = || Failure::new(Kind::Other, format!("{} was given up meanwhile", record.name));
        let holding = self.holding(manifest.id()).await.ok_or_else(lost)?;
        let is_new = holding.record().place == record.place;
        Ok(Taken { holding, is_new, former: Some(former) })
    }
}

/// Whether nothing is lost where the record tells of another place: what was not complete yet, and
/// what this node's user fetched, and moved or changed. In the store, what mends a copy has that to lose.
fn is_replaceable(record: &Record, failure: &Failure) -> bool {
    match record.place {
        _ if record.origin => false,
        Place::Stored => !record.complete && !record.force,
        Place::Put(_) | Place::Fetched(_) => !record.complete || failure.kind == Kind::Integrity,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::Compress;

    #[test]
    fn only_what_nobody_else_counts_on_is_replaced() {
        let fetched = || Place::Fetched(Path::new("/d").into());
        let (gone, disk) = (Kind::Integrity, Kind::Disk);
        // place, put here, complete, what failed, replaced
        for (place, origin, complete, kind, expected) in [
            (fetched(), false, true, gone, true),
            (fetched(), false, true, disk, false),
            (fetched(), false, false, disk, true),
            (fetched(), true, true, gone, false),
            (Place::Put(vec![Path::new("/p").into()]), true, true, gone, false),
            (Place::Stored, false, true, gone, false),
            (Place::Stored, false, false, disk, true),
            (Place::Stored, true, false, disk, false),
        ] {
            let record = Record {
                name: "a".into(),
                place,
                complete,
                origin,
                last_use_ms: 0,
                force: false,
                seeded: false,
                exclude: Vec::new(),
                compress: Compress::Off,
                rest_bytes: None,
            };
            let replaced = is_replaceable(&record, &Failure::new(kind, "it failed"));
            assert_eq!(replaced, expected, "{record:?}");
        }
    }
}
