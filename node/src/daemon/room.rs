//! Room in the store: the quota, and which copies leave when it is reached.
//!
//! Only copies in the store count: what lies elsewhere is the user's. A copy may leave where it is
//! complete and another node has all of it; the least recently used one goes first. The only copy
//! of something never does.

use std::sync::Arc;

use super::Daemon;
use super::holding::Holding;
use super::table::Place;
use crate::failure::{Failure, Kind};
use crate::report::human_bytes;

impl Daemon {
    /// Bytes of all copies in the store, those that are not complete yet in full.
    pub fn store_bytes(&self) -> u64 {
        self.stored().iter().map(|holding| holding.manifest.total_bytes()).sum()
    }

    fn stored(&self) -> Vec<Arc<Holding>> {
        let mut stored = self.holdings();
        stored.retain(|holding| holding.record().place == Place::Stored);
        stored
    }

    /// Makes room for a copy of `bytes` in the store. The caller holds [`Daemon::room`] until the
    /// copy is in the table.
    pub(super) async fn make_room(self: &Arc<Self>, bytes: u64) -> Result<(), Failure> {
        let Some(quota) = self.quota else { return Ok(()) };
        let full = |kept: usize| {
            let (quota, bytes) = (human_bytes(quota), human_bytes(bytes));
            let message = format!("{bytes} do not fit into the store's quota of {quota}");
            let hint = match kept {
                0 => "raise --quota".into(),
                kept => format!("raise --quota, or dft drop NAME: {kept} copies are in use or the only ones"),
            };
            Failure::new(Kind::Disk, message).hint(hint)
        };
        if bytes > quota {
            return Err(full(0));
        }
        let mut stored = self.stored();
        stored.sort_by_key(|holding| holding.record().last_use_ms);
        let (mut used, mut kept) = (self.store_bytes(), 0);
        for holding in stored {
            if used + bytes <= quota {
                break;
            }
            if holding.is_complete() && self.other_copies(holding.id()).await? > 0 {
                used -= holding.manifest.total_bytes();
                let name = holding.record().name;
                self.give_up(&holding).await?;
                self.say(&format!("{name} left the store to make room; other nodes have it"));
            } else {
                kept += 1;
            }
        }
        if used + bytes <= quota { Ok(()) } else { Err(full(kept)) }
    }
}
