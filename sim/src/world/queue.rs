//! What will happen, in order of time and then of planning: ties are broken the same way in every
//! run, so that a run follows from its seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dft_protocol::time::Instant;

/// A key holds the time, the number of the plan and that of the slot, the last in so many bits.
const SLOT_BITS: u32 = 24;
/// And a number of a plan has so many.
const PLAN_BITS: u32 = 64 - SLOT_BITS;

/// Happenings and their times. Small keys are sorted, the happenings stay where they are.
#[derive(Debug)]
pub(super) struct Queue<T> {
    heap: BinaryHeap<Reverse<u128>>,
    slots: Vec<Option<T>>,
    free: Vec<usize>,
    planned: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), planned: 0 }
    }
}

impl<T> Queue<T> {
    pub(super) fn plan(&mut self, at: Instant, happening: T) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(happening);
        self.planned += 1;
        let slot = u64::try_from(slot).expect("slots can be counted");
        assert!(slot >> SLOT_BITS == 0 && self.planned >> PLAN_BITS == 0, "what is planned can be numbered");
        let order = self.planned << SLOT_BITS | slot;
        self.heap.push(Reverse(u128::from(at.as_nanos()) << 64 | u128::from(order)));
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(key)| time_of(*key))
    }

    pub(super) fn pop(&mut self) -> Option<(Instant, T)> {
        let Reverse(key) = self.heap.pop()?;
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
        for (at, name) in [(2, "c"), (1, "a"), (2, "d"), (1, "b"), (3, "e")] {
            queue.plan(Instant::from_nanos(at), name);
        }
        assert_eq!(queue.next_at(), Some(Instant::from_nanos(1)));
        let order: Vec<&str> = std::iter::from_fn(|| queue.pop()).map(|(_, name)| name).collect();
        assert_eq!(order, ["a", "b", "c", "d", "e"]);
    }
}
