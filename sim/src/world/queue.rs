//! What will happen, in order of time and then of planning: ties are broken the same way in every
//! run, so that a run follows from its seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dft_protocol::time::Instant;

/// Happenings and their times. Small keys are sorted, the happenings stay where they are.
#[derive(Debug)]
pub(super) struct Queue<T> {
    heap: BinaryHeap<Reverse<(Instant, u64, usize)>>,
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
        self.heap.push(Reverse((at, self.planned, slot)));
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<(Instant, T)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        let happening = self.slots[slot].take().expect("what is in the heap is in its slot");
        Some((at, happening))
    }
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
