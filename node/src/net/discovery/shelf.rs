//! What this node has in full and at rest, and what each tracker knows of that: a pure table.
//!
//! A tracker is told of all of it once, some hundred datasets at a time, and then of what changes. Both
//! ends compare how many there are and the sum of their ids; where these differ, all is told anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use dft_protocol::id::ManifestId;
use dft_tracker::protocol::SHELVED_PER_REQUEST_MAX;
use dft_tracker::registry::{ShelfChange, Tally};

/// The schedule of what is told of the shelf stands among those of datasets, under this id, which no
/// dataset has.
pub(super) const SHELF: ManifestId = ManifestId::from_bytes(*b"the shelf: no id of any dataset ");
/// Most changes that a tracker has not heard of; beyond them it is told of all anew.
const CHANGES_MAX: usize = 16_384;
/// So often a tracker hangs up on what it is told of the shelf until it counts as one that knows none.
const HUNG_UP_MAX: u32 = 2;

/// How far a tracker was told of all there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Walk {
    /// Of nothing; whatever it has there is to go first.
    Anew,
    /// Up to this one.
    UpTo(ManifestId),
    /// Of all.
    Done,
}

/// What is on its way to a tracker.
#[derive(Debug)]
struct Sent {
    change: ShelfChange,
    /// What is there, if it was taken.
    expected: Tally,
}

/// What a tracker knows.
struct Told {
    there: Tally,
    walk: Walk,
    /// What changed of that of which it was told: whether it came.
    changes: BTreeMap<ManifestId, bool>,
    under_way: Option<Sent>,
    /// It may have been taken, or not.
    doubtful: Option<Sent>,
    /// It has no room for more: for once, it is told that what it has is there still.
    full: bool,
    hung_up: u32,
}

impl Told {
    fn new() -> Self {
        Self {
            there: Tally::default(),
            walk: Walk::Anew,
            changes: BTreeMap::new(),
            under_way: None,
            doubtful: None,
            full: false,
            hung_up: 0,
        }
    }

    /// It is told of all anew.
    fn begin_anew(&mut self) {
        self.walk = Walk::Anew;
        self.changes.clear();
        self.doubtful = None;
    }

    /// Whether it was told of `manifest`, or that it is not there, by its place.
    fn has_passed(&self, manifest: ManifestId) -> bool {
        match self.walk {
            Walk::Anew => false,
            Walk::UpTo(last) => manifest <= last,
            Walk::Done => true,
        }
    }

    fn note(&mut self, manifest: ManifestId, came: bool) {
        if !self.has_passed(manifest) {
            return;
        }
        // What came and went meanwhile is as it was.
        if self.changes.get(&manifest).is_some_and(|before| *before != came) {
            self.changes.remove(&manifest);
        } else {
            self.changes.insert(manifest, came);
        }
        if self.changes.len() > CHANGES_MAX {
            self.begin_anew();
        }
    }

    /// What was not taken is told once more.
    fn take_back(&mut self, change: ShelfChange) {
        if change.anew || self.walk == Walk::Anew {
            return self.begin_anew();
        }
        let (added, removed) = (change.added.into_iter(), change.removed.into_iter());
        let all = added.map(|manifest| (manifest, true)).chain(removed.map(|manifest| (manifest, false)));
        for (manifest, came) in all {
            match self.changes.get(&manifest) {
                Some(after) if *after != came => drop(self.changes.remove(&manifest)),
                _ => drop(self.changes.insert(manifest, came)),
            }
        }
    }
}

/// All that is at rest on this node.
#[derive(Default)]
pub(super) struct Shelf {
    manifests: BTreeSet<ManifestId>,
    // By the number of the tracker; as many as there are trackers.
    told: HashMap<usize, Told>,
}

impl Shelf {
    /// Whether `manifest` is there.
    pub(super) fn contains(&self, manifest: &ManifestId) -> bool {
        self.manifests.contains(manifest)
    }

    /// All of it.
    pub(super) fn iter(&self) -> impl Iterator<Item = ManifestId> + '_ {
        self.manifests.iter().copied()
    }

    /// It comes; false where it is there.
    pub(super) fn add(&mut self, manifest: ManifestId) -> bool {
        let came = self.manifests.insert(manifest);
        if came {
            self.told.values_mut().for_each(|told| told.note(manifest, true));
        }
        came
    }

    /// It goes; false where it is not there.
    pub(super) fn remove(&mut self, manifest: ManifestId) -> bool {
        let went = self.manifests.remove(&manifest);
        if went {
            self.told.values_mut().for_each(|told| told.note(manifest, false));
        }
        went
    }

    /// What `tracker` is to hear next.
    pub(super) fn next_change(&mut self, tracker: usize) -> ShelfChange {
        let told = self.told.entry(tracker).or_insert_with(Told::new);
        let mut change = ShelfChange { before: told.there, ..ShelfChange::default() };
        if told.doubtful.is_none() {
            let room = |manifests: &Vec<ManifestId>| manifests.len() < SHELVED_PER_REQUEST_MAX;
            change.anew = told.walk == Walk::Anew;
            let is_sent = |came: bool| !came || !told.full;
            let sent = told.changes.iter().filter(|(_, came)| is_sent(**came));
            let sent: Vec<(ManifestId, bool)> =
                sent.take(SHELVED_PER_REQUEST_MAX).map(|(manifest, came)| (*manifest, *came)).collect();
            for (manifest, came) in sent {
                told.changes.remove(&manifest);
                if came { change.added.push(manifest) } else { change.removed.push(manifest) }
            }
            if told.walk != Walk::Done && !told.full {
                let from = match told.walk {
                    Walk::UpTo(last) => Bound::Excluded(last),
                    Walk::Anew | Walk::Done => Bound::Unbounded,
                };
                let mut walked = told.walk;
                told.walk = Walk::Done;
                for manifest in self.manifests.range((from, Bound::Unbounded)) {
                    if !room(&change.added) {
                        told.walk = walked;
                        break;
                    }
                    change.added.push(*manifest);
                    walked = Walk::UpTo(*manifest);
                }
            }
        }
        let mut expected = if change.anew { Tally::default() } else { told.there };
        change.removed.iter().for_each(|manifest| expected.remove(*manifest));
        change.added.iter().for_each(|manifest| expected.add(*manifest));
        told.under_way = Some(Sent { change: change.clone(), expected });
        change
    }

    /// `tracker` says what is there. Whether it is to hear more at once.
    pub(super) fn answered(&mut self, tracker: usize, there: Tally) -> bool {
        let Some(told) = self.told.get_mut(&tracker) else { return false };
        let Some(sent) = told.under_way.take() else { return false };
        told.hung_up = 0;
        let was_full = std::mem::take(&mut told.full);
        match told.doubtful.take() {
            None if there == sent.expected => told.there = there,
            Some(doubtful) if there == doubtful.expected => told.there = there,
            Some(doubtful) if there == told.there => told.take_back(doubtful.change),
            _ => {
                // One that never agrees is told of all once in each interval, not without end.
                let was_done = told.walk == Walk::Done && !sent.change.anew;
                told.begin_anew();
                return was_done;
            }
        }
        !was_full && (!told.changes.is_empty() || told.walk != Walk::Done)
    }

    /// `tracker` has no room. Whether it is to hear that what it has is there still; else it refuses that
    /// as well.
    pub(super) fn refused(&mut self, tracker: usize) -> bool {
        let Some(told) = self.told.get_mut(&tracker) else { return false };
        let Some(sent) = told.under_way.take() else { return false };
        if told.doubtful.is_some() || sent.change.added.is_empty() {
            told.take_back(sent.change);
            return false;
        }
        told.full = true;
        told.take_back(sent.change);
        true
    }

    /// What was told last may have been taken, or not.
    pub(super) fn failed(&mut self, tracker: usize) {
        let Some(told) = self.told.get_mut(&tracker) else { return };
        told.full = false;
        if let Some(sent) = told.under_way.take() {
            if sent.change.anew {
                told.begin_anew();
            } else {
                told.doubtful.get_or_insert(sent);
            }
        }
    }

    /// `tracker` hangs up on what it is told. Whether it counts as one that knows no shelves.
    pub(super) fn hung_up(&mut self, tracker: usize) -> bool {
        self.failed(tracker);
        let Some(told) = self.told.get_mut(&tracker) else { return false };
        told.hung_up = told.hung_up.saturating_add(1);
        told.hung_up >= HUNG_UP_MAX
    }

    /// Whether a tracker knows no shelves.
    pub(super) fn is_unknown_somewhere(&self) -> bool {
        self.told.values().any(|told| told.hung_up >= HUNG_UP_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> ManifestId {
        ManifestId::of_info(&number.to_be_bytes())
    }

    fn add(shelf: &mut Shelf, numbers: impl IntoIterator<Item = usize>) {
        numbers.into_iter().for_each(|number| assert!(shelf.add(id(number)) || number < 2000));
    }

    fn take(shelf: &mut Shelf, numbers: impl IntoIterator<Item = usize>) {
        numbers.into_iter().for_each(|number| assert!(shelf.remove(id(number))));
    }

    /// A tracker that takes what it is told, as the real one does.
    #[derive(Default)]
    struct There(BTreeSet<ManifestId>);

    impl There {
        fn tally(&self) -> Tally {
            let mut tally = Tally::default();
            self.0.iter().for_each(|manifest| tally.add(*manifest));
            tally
        }

        fn take(&mut self, change: &ShelfChange) -> Tally {
            if change.anew {
                self.0.clear();
            }
            if change.anew || change.before == self.tally() {
                self.0.retain(|manifest| !change.removed.contains(manifest));
                self.0.extend(&change.added);
            }
            self.tally()
        }
    }

    /// Tells all that is to be told; how many messages that took.
    fn tell(shelf: &mut Shelf, there: &mut There) -> usize {
        for count in 1..100 {
            let change = shelf.next_change(0);
            assert!(change.added.len().max(change.removed.len()) <= SHELVED_PER_REQUEST_MAX);
            if !shelf.answered(0, there.take(&change)) {
                assert_eq!(there.0, shelf.manifests);
                return count;
            }
        }
        panic!("it never ends");
    }

    #[test]
    fn all_is_told_once_and_then_what_changes() {
        let (mut shelf, mut there) = (Shelf::default(), There::default());
        add(&mut shelf, 0..5000);
        assert_eq!(tell(&mut shelf, &mut there), 5000_usize.div_ceil(SHELVED_PER_REQUEST_MAX));
        assert!(shelf.remove(id(7)) && shelf.add(id(6000)) && !shelf.add(id(6000)));
        let change = shelf.next_change(0);
        assert_eq!((change.anew, change.added.len(), change.removed.len()), (false, 1, 1));
        assert!(!shelf.answered(0, there.take(&change)));
        assert!(shelf.remove(id(8)) && shelf.add(id(8)));
        let change = shelf.next_change(0);
        assert!(change.added.is_empty() && change.removed.is_empty(), "nothing changed");
        assert!(!shelf.answered(0, there.take(&change)));
    }

    #[test]
    fn what_changes_meanwhile_is_not_lost() {
        let (mut shelf, mut there) = (Shelf::default(), There::default());
        add(&mut shelf, 0..2000);
        let first = shelf.next_change(0);
        // Of what was told and of what is still to come, some goes and some comes.
        add(&mut shelf, (1000..3000).step_by(3));
        take(&mut shelf, (0..2000).step_by(7));
        assert!(shelf.answered(0, there.take(&first)));
        tell(&mut shelf, &mut there);
        // As many came behind the place that was reached as one message holds, and more.
        let (mut shelf, mut there) = (Shelf::default(), There::default());
        (0..2000).map(|number| number + 10_000).for_each(|number| assert!(shelf.add(id(number))));
        let first = shelf.next_change(0);
        (0..4000).map(|number| number + 20_000).for_each(|number| assert!(shelf.add(id(number))));
        assert!(shelf.answered(0, there.take(&first)));
        tell(&mut shelf, &mut there);
    }

    #[test]
    fn a_lost_answer_leaves_no_doubt() {
        for arrived in [true, false] {
            let (mut shelf, mut there) = (Shelf::default(), There::default());
            add(&mut shelf, 0..10);
            tell(&mut shelf, &mut there);
            assert!(shelf.add(id(10)) && shelf.remove(id(0)));
            let change = shelf.next_change(0);
            if arrived {
                there.take(&change);
            }
            shelf.failed(0);
            assert!(shelf.remove(id(10)) && shelf.add(id(11)));
            assert_eq!(tell(&mut shelf, &mut there), 2, "once to ask, and once to tell");
        }
    }

    #[test]
    fn a_tracker_that_forgot_is_told_anew_and_one_that_lies_is_not_heard_without_end() {
        let (mut shelf, mut there) = (Shelf::default(), There::default());
        add(&mut shelf, 0..1000);
        tell(&mut shelf, &mut there);
        there.0.clear();
        assert_eq!(tell(&mut shelf, &mut there), 3);
        let lies = Tally { count: 1, digest: 1 };
        shelf.next_change(0);
        assert!(shelf.answered(0, lies), "all anew");
        shelf.next_change(0);
        assert!(!shelf.answered(0, lies), "at its next turn");
    }

    #[test]
    fn a_full_tracker_keeps_what_it_has() {
        let (mut shelf, mut there) = (Shelf::default(), There::default());
        add(&mut shelf, 0..10);
        tell(&mut shelf, &mut there);
        assert!(shelf.add(id(10)) && shelf.remove(id(1)));
        let change = shelf.next_change(0);
        assert_eq!(change.added, [id(10)]);
        assert!(shelf.refused(0));
        let keep = shelf.next_change(0);
        assert_eq!((keep.added.len(), &keep.removed[..]), (0, &[id(1)][..]));
        assert!(!shelf.answered(0, there.take(&keep)), "the next one is tried at its next turn");
        assert_eq!(tell(&mut shelf, &mut there), 1);
    }

    #[test]
    fn a_tracker_that_knows_no_shelf_is_recognized() {
        let mut shelf = Shelf::default();
        shelf.add(id(1));
        let hangs_up = |shelf: &mut Shelf| {
            shelf.next_change(0);
            shelf.hung_up(0)
        };
        assert!(!hangs_up(&mut shelf) && hangs_up(&mut shelf) && shelf.is_unknown_somewhere());
        tell(&mut shelf, &mut There::default());
        assert!(!shelf.is_unknown_somewhere());
    }
}
