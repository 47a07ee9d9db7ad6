//! What will happen, in order of time and then of planning: ties are broken the same way in every
//! run, so that a run follows from its seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use dft_protocol::time::Instant;

/// A key holds the time, the number of the plan and that of the slot, the last in so many bits.
const SLOT_BITS: u32 = 24;
/// And a number of a plan has so many.
const PLAN_BITS: u32 = 64 - SLOT_BITS;

/// Keys are sorted in stretches of about so many nanoseconds, as a power of two: a heap of all that is planned
/// would not fit into the caches of a processor.
const STRETCH_BITS: u32 = 19;

/// Happenings and their times. Small keys are sorted, the happenings stay where they are.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Of what is planned, all up to the end of a stretch; empty only where nothing is planned.
    soon: BinaryHeap<Reverse<u128>>,
    /// The number of that stretch.
    stretch: u64,
    /// What comes later, by stretches.
    later: BTreeMap<u64, Vec<Reverse<u128>>>,
    slots: Vec<Option<T>>,
    free: Vec<usize>,
    planned: u64,
    /// Where that is which was planned last, while nothing else happened.
    latest: Option<usize>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            soon: BinaryHeap::new(),
            stretch: 0,
            later: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            planned: 0,
            latest: None,
        }
    }
}

impl<T> Queue<T> {
    pub(super) fn plan(&mut self, at: Instant, happening: T) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(happening);
        self.latest = Some(slot);
        self.planned += 1;
        let slot = u64::try_from(slot).expect("slots can be counted");
        assert!(slot >> SLOT_BITS == 0 && self.planned >> PLAN_BITS == 0, "what is planned can be numbered");
        let order = self.planned << SLOT_BITS | slot;
        let key = Reverse(u128::from(at.as_nanos()) << 64 | u128::from(order));
        let stretch = at.as_nanos() >> STRETCH_BITS;
        if self.soon.is_empty() {
            self.stretch = self.stretch.max(stretch);
        }
        if stretch <= self.stretch {
            self.soon.push(key);
        } else {
            self.later.entry(stretch).or_default().push(key);
        }
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.soon.peek().map(|Reverse(key)| time_of(*key))
    }

    /// What was planned last, where that is still to happen and nothing happened since.
    pub(super) fn latest_mut(&mut self) -> Option<&mut T> {
        self.slots[self.latest?].as_mut()
    }

    pub(super) fn pop(&mut self) -> Option<(Instant, T)> {
        self.latest = None;
        let Reverse(key) = self.soon.pop()?;
        if self.soon.is_empty()
            && let Some((stretch, keys)) = self.later.pop_first()
        {
            self.stretch = stretch;
            self.soon = BinaryHeap::from(keys);
        }
        let slot = usize::try_from(key & ((1 << SLOT_BITS) - 1)).expect("slots can be counted");
        self.free.push(slot);
        let happening = self.slots[slot].take().expect("what is in the heap is in its slot");
        Some((time_of(key), happening))
    }
}

fn time_of(key: u128) -> Instant {
    Instant::from_nanos(u64::try_from(key >> 64).expect("half of a key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_comes_first_and_ties_keep_their_order() {
        let mut queue = Queue::default();
        let late = 3 << 30;
        for (at, name) in
            [(2, "c"), (late, "f"), (1, "a"), (2, "d"), (late + 1, "g"), (1, "b"), (3 << 20, "e")]
        {
            queue.plan(Instant::from_nanos(at), name);
        }
        assert_eq!(queue.latest_mut(), Some(&mut "e"));
        assert_eq!(queue.next_at(), Some(Instant::from_nanos(1)));
        let order: Vec<&str> = std::iter::from_fn(|| queue.pop()).map(|(_, name)| name).collect();
        assert_eq!(queue.latest_mut(), None);
        assert_eq!(order, ["a", "b", "c", "d", "e", "f", "g"]);
    }
}
