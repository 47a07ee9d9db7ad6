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
            tokio::spawn(async move { daemon.give_up(&holding).await });
        }
    }
}

impl Daemon {
    /// A dataset to be read: what is here of it, or what others have, of which nothing is kept. `None` where
    /// what is here is of no use, and would be in the way.
    pub(super) async fn readable(
        self: &Arc<Self>,
        name: &str,
        manifest: &Arc<Manifest>,
    ) -> Result<Option<Readable>, Failure> {
        for _ in 0..TRIES_MAX {
            match self.usable_holding(manifest.id(), Asker::Reader).await? {
                Held::Usable(holding) => {
                    if holding.is_read() && !holding.begin_reading() {
                        // Its last reader has just left.
                        self.give_up(&holding).await?;
                        continue;
                    }
                    holding.touch(self);
                    return Ok(Some(Readable { daemon: self.clone(), holding }));
                }
                Held::Useless(_) => return Ok(None),
                Held::Nothing => {}
            }
            let record = Record::new(name, Place::Stored);
            let (holding, is_new) =
                self.hold(manifest.clone(), record, Opening::Read, Presence::Selfish).await?;
            if is_new {
                return Ok(Some(Readable { daemon: self.clone(), holding }));
            }
        }
        let message = format!("other requests are at work on {name}");
        Err(Failure::new(Kind::Other, message).hint("run the same command again"))
    }
}
