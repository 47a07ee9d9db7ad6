//! Rate limits: how fast payload may leave and arrive, over all links of this process.
//!
//! A [`RateLimit`] is the time from which the next payload may move (the «theoretical arrival
//! time» of the generic cell rate algorithm, ITU-T I.371). Whoever moves payload books its length
//! and waits for its turn; turns are in the order of booking, so all links advance alike. Messages
//! are never booked. Without a limit a booking costs one atomic read.
//!
//! Limits may change while links wait: those book anew.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Payload moves in so many steps a second at the limit, so that no link waits long for others.
const STEPS_PER_SECOND: u64 = 20;
/// Shortest step, in bytes: below, headers and wake-ups would cost more than the payload.
const STEP_LEN_MIN: u64 = 4 * 1024;
/// Timers are late by a millisecond or so: who comes late may catch up by so much.
const CATCH_UP_MAX: Duration = Duration::from_millis(50);

/// The limits of one process, in both directions.
#[derive(Debug, Default)]
pub struct RateLimits {
    /// What is sent.
    pub upload: RateLimit,
    /// What is received.
    pub download: RateLimit,
}

impl RateLimits {
    /// Limits in bytes per second; `None` stands for no limit.
    pub fn new(upload: Option<u64>, download: Option<u64>) -> Self {
        Self { upload: RateLimit::new(upload), download: RateLimit::new(download) }
    }
}

/// A limit of one direction. All links share it.
#[derive(Debug, Default)]
pub struct RateLimit {
    /// Bytes per second; 0 where there is no limit.
    rate: AtomicU64,
    /// When the next payload may move.
    next: Mutex<Option<Instant>>,
    changed: Notify,
}

impl RateLimit {
    /// A limit in bytes per second; `None` stands for no limit.
    pub fn new(rate: Option<u64>) -> Self {
        Self { rate: AtomicU64::new(rate.unwrap_or(0)), ..Self::default() }
    }

    /// The limit in bytes per second, where there is one.
    pub fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// Changes the limit, for those who wait as well.
    pub fn set(&self, rate: Option<u64>) {
        self.rate.store(rate.unwrap_or(0), Ordering::Relaxed);
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_waiters();
    }

    /// How many bytes to move at once, of up to `max`.
    pub fn step_len(&self, max: u32) -> u32 {
        let Some(rate) = self.rate() else {
            return max;
        };
        let step = rate / STEPS_PER_SECOND;
        u32::try_from(step.max(STEP_LEN_MIN)).map_or(max, |step| step.min(max))
    }

    /// Books `len` bytes and waits for their turn.
    pub async fn turn(&self, len: u32) {
        while self.rate().is_some() {
            let changed = self.changed.notified();
            let Some(at) = self.book(len) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                () = changed => {}
            }
        }
    }

    /// When the turn of these bytes is; `None` where that is at once.
    fn book(&self, len: u32) -> Option<Instant> {
        let rate = self.rate()?;
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(CATCH_UP_MAX).unwrap_or(now);
        let at = next.map_or(now, |next| next.max(earliest));
        let nanos = u64::from(len).saturating_mul(1_000_000_000) / rate;
        *next = Some(at + Duration::from_nanos(nanos));
        (at > now).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MIB: u32 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn links_that_share_a_limit_advance_alike_and_keep_it_together() {
        let limit = Arc::new(RateLimit::new(Some(u64::from(MIB))));
        let began = Instant::now();
        let links = [(); 4].map(|()| {
            let limit = limit.clone();
            tokio::spawn(async move {
                for _ in 0..MIB / limit.step_len(MIB) {
                    limit.turn(limit.step_len(MIB)).await;
                }
                began.elapsed()
            })
        });
        let ends = futures::future::join_all(links).await.into_iter().map(|end| end.expect("it ended"));
        let ends: Vec<f64> = ends.map(|end| end.as_secs_f64()).collect();
        assert!(ends.iter().all(|end| (3.5..4.1).contains(end)), "1 MiB each at 1 MiB/s: {ends:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_holds_for_those_who_wait() {
        let limit = Arc::new(RateLimit::new(Some(1)));
        limit.turn(MIB).await;
        let waiting = tokio::spawn({
            let limit = limit.clone();
            async move { limit.turn(MIB).await }
        });
        tokio::task::yield_now().await;
        let began = Instant::now();
        limit.set(None);
        waiting.await.expect("it ended");
        assert_eq!(began.elapsed(), Duration::ZERO, "without a limit nobody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits_and_steps_are_as_long_as_they_may_be() {
        let limit = RateLimit::default();
        let began = Instant::now();
        limit.turn(u32::MAX).await;
        assert_eq!((began.elapsed(), limit.step_len(MIB), limit.rate()), (Duration::ZERO, MIB, None));
    }

    #[test]
    fn steps_are_short_at_low_limits_and_bounded_at_high_ones() {
        let step = |rate| RateLimit::new(Some(rate)).step_len(256 * 1024);
        assert_eq!([step(1), step(1 << 20), step(u64::MAX)], [4096, 52_428, 256 * 1024]);
    }
}
