//! Which name stands for which dataset: the pure core of the catalogue.
//!
//! All rows are in memory, without their manifests: about 400 bytes a name. [`Index::set`] is the
//! only way to change one, and keeps the counts that quotas are held against.
//!
//! Invariant: each name has at most one row, and the counts are those of the rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use dft_protocol::id::{ManifestId, PeerId};
use thiserror::Error;

use super::name::{DatasetName, Pattern};
use super::protocol::{Change, Changed, Record};

/// Most names, removed ones included: bounds the memory to about 100 MiB.
pub const NAMES_MAX: usize = 262_144;
/// Most names of one identity: half of all, so that one daemon cannot keep all others out.
pub const NAMES_PER_IDENTITY_MAX: usize = 131_072;
/// Most bytes of manifests in all: each is about 40 bytes a piece and 60 an entry.
pub const MANIFEST_BYTES_MAX: u64 = 16 << 30;
/// Most bytes of manifests under the names of one identity.
pub const MANIFEST_BYTES_PER_IDENTITY_MAX: u64 = 8 << 30;
/// Most forgotten names that are remembered for followers; one who has missed more copies anew.
pub const FORGOTTEN_MAX: usize = 10_000;
/// Most names that one request looks at: bounds the time that others wait for it, to some
/// milliseconds. The answer says where to go on.
pub const SCAN_MAX: usize = 32_768;

/// A quota is used up: the name was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameQuotaError {
    /// More than [`NAMES_MAX`].
    #[error("the catalogue already has {NAMES_MAX} names")]
    Names,
    /// More than [`NAMES_PER_IDENTITY_MAX`].
    #[error("this identity already has {NAMES_PER_IDENTITY_MAX} names")]
    NamesOfIdentity,
    /// More than [`MANIFEST_BYTES_MAX`].
    #[error("the catalogue already keeps {} GiB of manifests", MANIFEST_BYTES_MAX >> 30)]
    Bytes,
    /// More than [`MANIFEST_BYTES_PER_IDENTITY_MAX`].
    #[error("this identity already keeps {} GiB of manifests", MANIFEST_BYTES_PER_IDENTITY_MAX >> 30)]
    BytesOfIdentity,
}

/// What a name is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It stands for its dataset.
    Live,
    /// It belongs to its dataset, which was removed.
    Removed,
    /// It is free; the row only tells followers.
    Forgotten,
}

/// What is known of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The dataset.
    pub record: Record,
    /// What the name is worth.
    pub state: State,
    /// The step that made the row what it is.
    pub sequence: u64,
    /// How long the manifest is, in bytes.
    pub manifest_len: u32,
}

impl Row {
    /// The step as a follower hears of it.
    pub fn change(&self) -> Change {
        let what = match self.state {
            State::Live => Changed::Put(self.record.clone()),
            State::Removed => Changed::Removed(self.record.clone()),
            State::Forgotten => Changed::Forgotten(self.record.name.clone()),
        };
        Change { sequence: self.sequence, what }
    }
}

/// A manifest that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Its length in bytes.
    pub len: u32,
    /// How many names stand for it.
    pub names: u32,
    /// Bytes, pieces and entries of the dataset.
    pub shape: (u64, u32, u32),
}

#[derive(Default)]
struct Usage {
    names: usize,
    bytes: u64,
}

/// All names.
#[derive(Default)]
pub struct Index {
    rows: BTreeMap<DatasetName, Row>,
    steps: BTreeSet<(u64, DatasetName)>,
    forgotten: BTreeSet<(u64, DatasetName)>,
    manifests: HashMap<ManifestId, Kept>,
    manifest_bytes: u64,
    of_identity: HashMap<PeerId, Usage>,
}

impl Index {
    /// Makes `row` what is known of `name`, and returns what was.
    pub fn set(&mut self, name: &DatasetName, row: Option<Row>) -> Option<Row> {
        let old = self.rows.remove(name);
        if let Some(old) = &old {
            self.uncount(old);
        }
        if let Some(row) = row {
            self.count(&row);
            self.rows.insert(name.clone(), row);
        }
        old
    }

    /// What is known of `name`.
    pub fn get(&self, name: &DatasetName) -> Option<&Row> {
        self.rows.get(name)
    }

    /// The manifest `id`, where a live name stands for it.
    pub fn manifest(&self, id: &ManifestId) -> Option<Kept> {
        self.manifests.get(id).copied()
    }

    /// Whether `owner` may have one name more, for a manifest of `len` bytes.
    pub fn check_quotas(&self, record: &Record, len: u32) -> Result<(), NameQuotaError> {
        let old = self.rows.get(&record.name).filter(|row| row.state != State::Forgotten);
        if old.is_none() && self.rows.len() - self.forgotten.len() >= NAMES_MAX {
            return Err(NameQuotaError::Names);
        }
        let usage = self.of_identity.get(&record.owner);
        let (names, bytes) = usage.map_or((0, 0), |usage| (usage.names, usage.bytes));
        let own = old.is_some_and(|row| row.record.owner == record.owner);
        if !own && names >= NAMES_PER_IDENTITY_MAX {
            return Err(NameQuotaError::NamesOfIdentity);
        }
        if bytes + u64::from(len) > MANIFEST_BYTES_PER_IDENTITY_MAX {
            return Err(NameQuotaError::BytesOfIdentity);
        }
        let new = !self.manifests.contains_key(&record.id);
        if new && self.manifest_bytes + u64::from(len) > MANIFEST_BYTES_MAX {
            return Err(NameQuotaError::Bytes);
        }
        Ok(())
    }

    /// The live names behind `after` that match, and where the search ended early: after
    /// [`SCAN_MAX`] names, or when `full` says so of a record that is not part of the answer.
    pub fn list(
        &self,
        pattern: &Pattern,
        after: Option<&DatasetName>,
        mut full: impl FnMut(&Record) -> bool,
    ) -> (Vec<Record>, Option<DatasetName>) {
        let prefix = pattern.prefix();
        let from = match after.map(DatasetName::as_str).filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let rows = self.rows.range::<str, _>((from, Bound::Unbounded));
        let mut records = Vec::new();
        let mut last = None;
        for (looked_at, (name, row)) in rows.enumerate() {
            if !name.as_str().starts_with(prefix) {
                break;
            }
            if looked_at >= SCAN_MAX {
                return (records, last);
            }
            if row.state == State::Live && pattern.matches(name) {
                if full(&row.record) {
                    return (records, last);
                }
                records.push(row.record.clone());
            }
            last = Some(name.clone());
        }
        (records, None)
    }

    /// The rows whose last step came after `since`, in that order.
    pub fn changes(&self, since: u64) -> impl Iterator<Item = &Row> {
        let from = (since.saturating_add(1), DatasetName::first());
        self.steps.range(from..).filter_map(|(_, name)| self.rows.get(name))
    }

    /// The forgotten name that is remembered longest, where there are more than
    /// [`FORGOTTEN_MAX`].
    pub fn surplus(&self) -> Option<&Row> {
        if self.forgotten.len() <= FORGOTTEN_MAX {
            return None;
        }
        self.forgotten.first().and_then(|(_, name)| self.rows.get(name))
    }

    /// All names that are known, in their order.
    pub fn names(&self) -> impl Iterator<Item = &DatasetName> {
        self.rows.keys()
    }

    /// How many names there are, removed ones included.
    pub fn name_count(&self) -> usize {
        self.rows.len() - self.forgotten.len()
    }

    fn count(&mut self, row: &Row) {
        let step = (row.sequence, row.record.name.clone());
        self.steps.insert(step.clone());
        if row.state == State::Forgotten {
            self.forgotten.insert(step);
            return;
        }
        let usage = self.of_identity.entry(row.record.owner).or_default();
        usage.names += 1;
        if row.state == State::Live {
            usage.bytes += u64::from(row.manifest_len);
            let record = &row.record;
            let shape = (record.size, record.pieces, record.entries);
            let kept =
                self.manifests.entry(record.id).or_insert(Kept { len: row.manifest_len, names: 0, shape });
            kept.names += 1;
            if kept.names == 1 {
                self.manifest_bytes += u64::from(kept.len);
            }
        }
    }

    fn uncount(&mut self, row: &Row) {
        let step = (row.sequence, row.record.name.clone());
        self.steps.remove(&step);
        if row.state == State::Forgotten {
            self.forgotten.remove(&step);
            return;
        }
        if let Some(usage) = self.of_identity.get_mut(&row.record.owner) {
            usage.names -= 1;
            if row.state == State::Live {
                usage.bytes -= u64::from(row.manifest_len);
            }
            if usage.names == 0 {
                self.of_identity.remove(&row.record.owner);
            }
        }
        if row.state == State::Live
            && let Some(kept) = self.manifests.get_mut(&row.record.id)
        {
            kept.names -= 1;
            if kept.names == 0 {
                self.manifest_bytes -= u64::from(kept.len);
                self.manifests.remove(&row.record.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> DatasetName {
        DatasetName::new(text).expect("a name")
    }

    fn row(text: &str, content: u8, owner: u8, state: State, sequence: u64) -> Row {
        Row {
            record: Record {
                name: name(text),
                id: ManifestId::from_bytes([content; 32]),
                size: 7,
                pieces: 1,
                entries: 1,
                created: 1_800_000_000,
                owner: PeerId::from_bytes(&[owner; 38]).expect("38 bytes"),
            },
            state,
            sequence,
            manifest_len: 100,
        }
    }

    fn filled(names: &[&str]) -> Index {
        let mut index = Index::default();
        for (text, sequence) in names.iter().zip(1..) {
            index.set(&name(text), Some(row(text, 1, 1, State::Live, sequence)));
        }
        index
    }

    fn listed(index: &Index, pattern: &str, page: usize) -> Vec<String> {
        let pattern = Pattern::new(pattern).expect("a pattern");
        let mut names = Vec::new();
        let mut after = None;
        loop {
            let mut room = page;
            let (records, next) = index.list(&pattern, after.as_ref(), |_| {
                let full = room == 0;
                room = room.saturating_sub(1);
                full
            });
            names.extend(records.iter().map(|record| record.name.to_string()));
            match next {
                Some(next) => after = Some(next),
                None => return names,
            }
        }
    }

    #[test]
    fn patterns_find_their_names_whatever_the_page() {
        let index = filled(&["a", "a-b", "a/b", "a/b/c", "a/c", "aa", "b/a", "ä/x", "z"]);
        let cases: &[(&str, &[&str])] = &[
            ("*", &["a", "a-b", "a/b", "a/b/c", "a/c", "aa", "b/a", "z", "ä/x"]),
            ("a/*", &["a/b", "a/b/c", "a/c"]),
            ("a*", &["a", "a-b", "a/b", "a/b/c", "a/c", "aa"]),
            ("*/b*", &["a/b", "a/b/c"]),
            ("a", &["a"]),
            ("ä/*", &["ä/x"]),
            ("/*", &[]),
            ("q*", &[]),
            ("", &[]),
        ];
        for (pattern, expected) in cases {
            for page in [1, 2, 100] {
                assert_eq!(listed(&index, pattern, page), *expected, "{pattern}, pages of {page}");
            }
        }
    }

    #[test]
    fn one_identity_gets_so_many_names() {
        let mut index = Index::default();
        let usage = Usage { names: NAMES_PER_IDENTITY_MAX, bytes: 0 };
        let full = row("a", 1, 1, State::Live, 1).record;
        index.of_identity.insert(full.owner, usage);
        assert_eq!(index.check_quotas(&full, 1), Err(NameQuotaError::NamesOfIdentity));
        let other = row("a", 1, 2, State::Live, 1).record;
        assert_eq!(index.check_quotas(&other, 1), Ok(()));
        index.of_identity.insert(other.owner, Usage { names: 0, bytes: MANIFEST_BYTES_PER_IDENTITY_MAX });
        assert_eq!(index.check_quotas(&other, 1), Err(NameQuotaError::BytesOfIdentity));
        index.manifest_bytes = MANIFEST_BYTES_MAX;
        let third = row("a", 1, 3, State::Live, 1).record;
        assert_eq!(index.check_quotas(&third, 1), Err(NameQuotaError::Bytes));
    }

    #[test]
    fn forgotten_names_are_told_to_followers_for_a_while() {
        let mut index = Index::default();
        for sequence in 0..=FORGOTTEN_MAX as u64 {
            let text = format!("n{sequence}");
            index.set(&name(&text), Some(row(&text, 1, 1, State::Forgotten, sequence)));
        }
        assert_eq!(index.name_count(), 0);
        let surplus = index.surplus().expect("one too many").record.name.clone();
        assert_eq!(surplus, name("n0"));
        index.set(&surplus, None);
        assert!(index.surplus().is_none());
    }

    fn any_row() -> impl Strategy<Value = (u8, Option<(u8, u8, u8, u64)>)> {
        (0..6_u8, proptest::option::of((0..3_u8, 0..3_u8, 0..3_u8, 1..50_u64)))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever was set and taken back, the counts are those of an index that was filled with
        /// the rows that are left.
        #[test]
        fn counts_are_those_of_the_rows(steps in proptest::collection::vec((any_row(), any::<bool>()), 0..40)) {
            let mut index = Index::default();
            for ((text, content), undo) in steps {
                let text = format!("n{text}");
                let row = content.map(|(content, owner, state, sequence)| {
                    let state = [State::Live, State::Removed, State::Forgotten][usize::from(state)];
                    row(&text, content, owner, state, sequence)
                });
                let old = index.set(&name(&text), row);
                if undo {
                    index.set(&name(&text), old);
                }
            }
            let mut fresh = Index::default();
            for (name, row) in &index.rows {
                fresh.set(name, Some(row.clone()));
            }
            prop_assert_eq!(&index.steps, &fresh.steps);
            prop_assert_eq!(&index.forgotten, &fresh.forgotten);
            prop_assert_eq!(&index.manifests, &fresh.manifests);
            prop_assert_eq!(index.manifest_bytes, fresh.manifest_bytes);
            let usages = |index: &Index| {
                let mut usages: Vec<_> =
                    index.of_identity.iter().map(|(peer, usage)| (*peer, usage.names, usage.bytes)).collect();
                usages.sort_unstable();
                usages
            };
            prop_assert_eq!(usages(&index), usages(&fresh));
            prop_assert!(index.changes(0).map(|row| row.sequence).is_sorted());
        }
    }
}
