//! A source of something small speaks last: how a crowd that wants the same few bytes spares it.
//!
//! Offers keep a seeder from sending a piece twice while nobody else has it. Something that has a
//! piece or two is with somebody else at once; to announce it to everybody then, and to everybody
//! who comes, would make all of them ask here, for nobody else was so quick to say what it has. So
//! once a peer is told of it, the source of something small is silent. Those who lack it get it from
//! each other. Who still lacks it after a while is told, one at a time at first and then twice as many
//! each time: whoever reaches nobody else waits for a moment, and for no longer than that.

use super::link::Link;
use super::{LinkId, Swarm};
use crate::time::{Duration, Instant};

/// What is no longer small: it takes longer to send than to find out who else has it.
const SMALL_BYTES: u64 = 256 * 1024;
/// How long the source is silent: a few handshakes on busy machines.
const SILENT_AT_FIRST: Duration = Duration::from_millis(250);
/// When those who still lack it are told, again and again.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// So often one is told at a time; then twice as many each time …
const ROUNDS_OF_ONE: u32 = 4;
/// … up to all links.
const DOUBLINGS_MAX: u32 = 6;

/// Whom a source of something small tells, and when.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// When some of those who lack it are told.
    ends_at: Option<Instant>,
    /// How often some were told since all had it.
    rounds: u32,
}

impl Silence {
    /// When the swarm wants to say something.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ends_at
    }
}

impl Swarm {
    /// Whether those who were told already are to be asked first.
    pub(super) fn speaks_last(&self) -> bool {
        self.geometry.total_bytes() <= SMALL_BYTES && !self.config.download && self.have.is_full()
    }

    /// Says nothing for now to those who were not told of anything.
    pub(super) fn be_silent(&mut self, now: Instant) {
        self.silence.ends_at.get_or_insert(now + SILENT_AT_FIRST);
    }

    /// Tells some of those who still lack it.
    pub(super) fn end_silence(&mut self, now: Instant) {
        if self.silence.ends_at.is_none_or(|at| at > now) {
            return;
        }
        let lacks = |link: &Link| !link.told_all && !link.complete();
        let lacking: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| lacks(link)).map(|(id, _)| *id).collect();
        if lacking.is_empty() || self.injector.is_some() {
            self.silence = Silence::default();
            return;
        }
        // Links have ascending numbers: who has waited longest is the first.
        let doublings = (self.silence.rounds + 1).saturating_sub(ROUNDS_OF_ONE).min(DOUBLINGS_MAX);
        for id in lacking.into_iter().take(1 << doublings) {
            self.tell_all(id, now);
        }
        self.silence.rounds = self.silence.rounds.saturating_add(1);
        self.silence.ends_at = Some(now + TELL_EVERY);
    }
}
