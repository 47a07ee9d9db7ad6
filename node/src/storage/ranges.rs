//! Which bytes of one piece: a few ranges, for a piece arrives in order or whole.

use std::ops::Range;

/// A set of bytes of one piece, as disjoint ranges in ascending order that do not touch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Ranges(Vec<Range<u32>>);

impl Ranges {
    pub(super) fn insert(&mut self, mut new: Range<u32>) {
        if new.is_empty() {
            return;
        }
        self.0.retain(|old| {
            let apart = old.end < new.start || new.end < old.start;
            if !apart {
                new = old.start.min(new.start)..old.end.max(new.end);
            }
            apart
        });
        let place = self.0.partition_point(|old| old.start < new.start);
        self.0.insert(place, new);
    }

    pub(super) fn overlaps(&self, range: &Range<u32>) -> bool {
        self.0.iter().any(|own| own.start < range.end && range.start < own.end)
    }

    /// Whether all of `range` is in the set.
    pub(super) fn contains(&self, range: &Range<u32>) -> bool {
        range.is_empty() || self.0.iter().any(|own| own.start <= range.start && range.end <= own.end)
    }
}

impl From<Range<u32>> for Ranges {
    fn from(range: Range<u32>) -> Self {
        let mut ranges = Self::default();
        ranges.insert(range);
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_a_set_of_bytes(inserted in proptest::collection::vec((0u32..40, 0u32..10), 0..20),
                                     (start, len) in (0u32..40, 1u32..12)) {
            let mut ranges = Ranges::default();
            let mut bytes = [false; 64];
            for (start, len) in inserted {
                ranges.insert(start..start + len);
                bytes[start as usize..(start + len) as usize].fill(true);
            }
            let asked = &bytes[start as usize..(start + len) as usize];
            let range = start..start + len;
            prop_assert_eq!(ranges.overlaps(&range), asked.contains(&true));
            prop_assert_eq!(ranges.contains(&range), !asked.contains(&false));
        }
    }
}
