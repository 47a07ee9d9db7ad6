//! Reading a dataset without keeping it: what a reader needs passes through memory, and goes with the last
//! reader. Neither the store nor its quota know of it, and nobody hears of it.

use std::sync::Arc;

use dft_protocol::manifest::Manifest;

use super::Daemon;
use super::holding::{Holding, Presence};
use super::opening::Opening;
use super::table::{Place, Record};
use super::taking::{Asker, Held};
use crate::failure::{Failure, Kind};

/// How often it is tried to begin to read what other requests begin and end meanwhile.
const TRIES_MAX: usize = 16;

/// What is read, for as long as this lives.
pub(super) struct Readable {
    daemon: Arc<Daemon>,
    pub(super) holding: Arc<Holding>,
}

impl Readable {
    /// What is kept, and read as well.
    pub(super) fn kept(daemon: &Arc<Daemon>, holding: Arc<Holding>) -> Self {
        Self { daemon: daemon.clone(), holding }
    }
}

impl Drop for Readable {
    fn drop(&mut self) {
        if self.holding.is_read() && self.holding.end_reading() {
            let (daemon, holding) = (self.daemon.clone(), self.holding.clone());
            tokio::spawn(async move { daemon.end_reading(&holding).await });
        }
    }
}

impl Daemon {
    /// A dataset to be read: what is here of it, or what others have, of which nothing is kept. Where what is
    /// here is of no use, it is set aside meanwhile.
    pub(super) async fn readable(
        self: &Arc<Self>,
        name: &str,
        manifest: &Arc<Manifest>,
    ) -> Result<Readable, Failure> {
        for _ in 0..TRIES_MAX {
            let useless = match self.usable_holding(manifest.id(), Asker::Reader).await? {
                Held::Usable(holding) => {
                    if holding.is_read() && !holding.begin_reading() {
                        // Its last reader has just left.
                        self.end_reading(&holding).await?;
                        continue;
                    }
                    holding.touch(self);
                    return Ok(Readable { daemon: self.clone(), holding });
                }
                Held::Useless(holding) => Some(holding),
                Held::Nothing => None,
            };
            let (daemon, name, manifest) = (self.clone(), name.to_owned(), manifest.clone());
            // Once begun, it ends with its readers, also where nobody waits for it any more.
            let begun = tokio::spawn(async move {
                let record = Record::new(&name, Place::Stored);
                let taken =
                    daemon.take_on(useless, manifest, record, Opening::Read, Presence::Selfish).await?;
                if !taken.is_new {
                    return Ok::<_, Failure>(None);
                }
                taken.holding.set_aside(taken.former);
                Ok(Some(Readable { daemon, holding: taken.holding }))
            });
            let ended = |error| Failure::new(Kind::Other, format!("a worker ended unexpectedly: {error}"));
            if let Some(readable) = begun.await.map_err(ended)?? {
                return Ok(readable);
            }
        }
        let message = format!("other requests are at work on {name}");
        Err(Failure::new(Kind::Other, message).hint("run the same command again"))
    }

    /// Nobody reads it any more. What it stood in the way of is held again.
    async fn end_reading(self: &Arc<Self>, holding: &Arc<Holding>) -> Result<(), Failure> {
        self.give_up(holding).await?;
        if let Some(record) = holding.take_aside() {
            // Where it fails, the record is in the table for the next start.
            let _ = self.hold(holding.manifest.clone(), record, Opening::Again, Presence::Shared).await;
        }
        Ok(())
    }
}
