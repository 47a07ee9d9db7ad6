//! Every call that changes the disk fails once, or is the last one before the process or the
//! machine dies; then the fetch goes on and must come out equal.

use std::fs;
use std::path::Path;

use dft_protocol::piece_set::PieceSet;

use super::fixture::{Scratch, Seeded, a_little, names, put};
use crate::storage::disk::fault::{self, Effect};
use crate::storage::part::Record;
use crate::storage::{StorageError, verify};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// More calls than any fetch here makes: a bound for the loops.
const CALLS_MAX: u32 = 2000;

/// What is at the final name before the fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Before {
    Nothing,
    /// Something else, which the fetch replaces.
    OldTree,
}

/// How the fetch goes on after the failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    /// With the same store, where one was opened.
    SameStore,
    NextFetch,
}

/// Runs a fetch with `effect` at each call in turn.
fn at_each_call(effect: Effect, before: Before, then: Then) {
    let scratch = Scratch::new();
    let source = scratch.directory("source");
    a_little(&source);
    let seeded = Seeded::new(&source);
    for n in 0..CALLS_MAX {
        let target = scratch.directory(&format!("target-{n}"));
        if before == Before::OldTree {
            put(&target.join("source/old"), b"old");
        }
        let open = || match before {
            Before::Nothing => seeded.open(&target),
            Before::OldTree => seeded.open_forced(&target),
        };
        fault::arm(None, n, effect);
        let opened = open();
        let result = match &opened {
            Ok(store) => seeded.complete(store),
            Err(_) => Ok(target.clone()),
        };
        if let (Ok(store), Then::SameStore) = (&opened, then) {
            seeded.complete_stubbornly(store);
        }
        let failed = opened.is_err() || result.is_err();
        drop(opened);
        let fired = fault::disarm();
        let context = format!("{effect:?} at call {n}, {before:?}");
        assert!(fired || !failed, "{context}: {result:?}");
        assert_state(&seeded, &target, before, &context);
        let store = open().unwrap_or_else(|error| panic!("{context}: {error}"));
        let path = if store.is_finished() { target.join("source") } else { seeded.complete(&store).unwrap() };
        seeded.assert_equal(&path);
        assert_eq!(names(&target), ["source"], "{context}");
        if !fired {
            return;
        }
    }
    panic!("a fetch makes fewer than {CALLS_MAX} calls");
}

/// What must hold at any instant: the final name is as it was or complete, and what the record
/// names is there.
fn assert_state(seeded: &Seeded, target: &Path, before: Before, context: &str) {
    let (path, part) = (target.join("source"), target.join(".source.dft-part"));
    let is_old = match before {
        Before::Nothing => !path.exists(),
        Before::OldTree => fs::read(path.join("old")).is_ok_and(|content| content == b"old"),
    };
    if !is_old {
        let differences = verify(&seeded.manifest, &path, &|_| {}).unwrap();
        let content: Vec<_> = differences.iter().filter(|difference| difference.is_content()).collect();
        assert!(content.is_empty(), "{context}: {content:?}");
    }
    let record = fs::read(part.join("record")).map_or(Record::Damaged, |bytes| Record::decode(&bytes));
    if let (Record::Durable { pieces, .. }, true) = (record, part.join("data").exists()) {
        let piece_count = seeded.manifest.geometry().piece_count();
        seeded.assert_pieces(&PieceSet::from_bytes(&pieces, piece_count).unwrap(), &part.join("data"));
    }
}

#[test]
fn a_failed_call_is_survived_by_the_same_store() {
    at_each_call(Effect::Error(EIO), Before::Nothing, Then::SameStore);
}

#[test]
fn a_full_disk_is_survived_by_the_next_fetch() {
    at_each_call(Effect::Error(ENOSPC), Before::Nothing, Then::NextFetch);
}

#[test]
fn a_failed_call_leaves_the_old_tree_or_the_new_one() {
    at_each_call(Effect::Error(EIO), Before::OldTree, Then::NextFetch);
}

#[test]
fn a_kill_at_any_call_is_survived() {
    at_each_call(Effect::Crash, Before::Nothing, Then::NextFetch);
}

#[test]
fn a_kill_at_any_call_leaves_the_old_tree_or_the_new_one() {
    at_each_call(Effect::Crash, Before::OldTree, Then::NextFetch);
}

#[test]
fn a_power_cut_at_any_call_is_survived() {
    at_each_call(Effect::PowerCut, Before::Nothing, Then::NextFetch);
}

#[test]
fn errors_of_the_disk_have_their_kind() {
    let scratch = Scratch::new();
    let source = scratch.directory("source");
    a_little(&source);
    let seeded = Seeded::new(&source);
    let store = seeded.open(&scratch.directory("target")).unwrap();
    let missing = store.durable();
    let piece = seeded.manifest.geometry().pieces().find(|&piece| !missing.contains(piece)).unwrap();
    let write = |errno| {
        fault::arm(None, 0, Effect::Error(errno));
        let result = store.write(piece, 0, &seeded.piece(piece));
        assert!(fault::disarm());
        result.unwrap_err()
    };
    assert!(matches!(write(ENOSPC), StorageError::DiskFull { .. }));
    assert!(matches!(write(EDQUOT), StorageError::Quota { .. }));
    assert!(matches!(write(EIO), StorageError::Io { .. }));
    assert!(write(ENOSPC).is_out_of_space() && !write(EIO).is_out_of_space());
}
