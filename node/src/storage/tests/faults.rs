//! Every call that changes the disk fails once, or is the last one before the process or the
//! machine dies; then the fetch goes on and must come out equal.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::piece_set::PieceSet;

use super::fixture::{PIECE, Scratch, Seeded, a_little, bytes, many_small, names, put, set_mode};
use crate::storage::disk::Operation;
use crate::storage::disk::fault::{self, Effect};
use crate::storage::part::Record;
use crate::storage::{FetchOptions, Selection, StorageError, Store, verify};

const EPERM: i32 = 1;
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// What a tree that grows has at first: a file with pieces of its own, and one of a pack.
const PART: [&str; 2] = ["large", "small"];

/// More calls than any fetch here makes: a bound for the loops.
const CALLS_MAX: u32 = 2000;

/// What is at the final name before the fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Before {
    Nothing,
    /// Something else, which the fetch replaces.
    OldTree,
    /// A part of the dataset, to which the fetch adds.
    Part,
}

/// How the fetch goes on after the failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    /// With the same store, where one was opened.
    SameStore,
    NextFetch,
    /// With the next fetch, after someone removed what has the final name.
    FinalLost,
}

/// Runs a fetch of a few entries with `effect` at each call in turn.
fn at_each_call(effect: Effect, before: Before, then: Then) {
    at_each_call_for(a_little, effect, before, then);
}

/// The same for what `fill` puts into a directory.
fn at_each_call_for(fill: fn(&Path), effect: Effect, before: Before, then: Then) {
    let scratch = Scratch::in_memory();
    let source = scratch.directory("source");
    fill(&source);
    let seeded = Seeded::new(&source);
    for n in 0..CALLS_MAX {
        let target = scratch.directory(&format!("target-{n}"));
        if before == Before::OldTree {
            put(&target.join("source/old"), b"old");
        }
        if before == Before::Part {
            let options = FetchOptions { force: false, selection: Some(part_of(&seeded)) };
            let part = Store::fetch(seeded.manifest.clone(), &target, options, &|_| {}).unwrap();
            seeded.complete(&part).unwrap();
        }
        let open = || match before {
            Before::Nothing | Before::Part => seeded.open(&target),
            Before::OldTree => seeded.open_forced(&target),
        };
        let operation = (effect == Effect::LostSync).then_some(Operation::Sync);
        fault::arm(operation, n, effect);
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
        if then == Then::FinalLost && target.join("source").exists() {
            set_mode(&target.join("source"), 0o700);
            let _ = fs::set_permissions(target.join("source/read-only"), Permissions::from_mode(0o700));
            fs::remove_dir_all(target.join("source")).unwrap();
        }
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

#[test]
fn piece_that_is_found_wrong_before_the_final_name_is_there_keeps_it_from_being_there() {
    for operation in [Operation::Attributes, Operation::Sync] {
        let scratch = Scratch::in_memory();
        let source = scratch.directory("source");
        a_little(&source);
        let (seeded, target) = (Seeded::new(&source), scratch.directory("target"));
        let store = Arc::new(seeded.open(&target).unwrap());
        let piece = seeded.pieces_of("large")[0];
        for piece in seeded.manifest.geometry().pieces() {
            store.write(piece, 0, &seeded.piece(piece)).unwrap();
            store.verified(piece);
        }
        store.flush().unwrap();
        let found_wrong = store.clone();
        fault::before(operation, move || found_wrong.forget(&[piece]));
        assert!(matches!(store.finish(), Err(StorageError::Unfinished { missing: 1 })), "{operation:?}");
        assert!(!store.is_finished() && !target.join("source").exists(), "{operation:?}");
        let path = seeded.complete(&store).unwrap();
        seeded.assert_equal(&path);
    }
}

fn part_of(seeded: &Seeded) -> Selection {
    Selection::new(&seeded.manifest, &PART.map(str::to_owned), &[]).unwrap()
}

/// What must hold at any instant: the final name is as it was or complete, and what the record
/// names is there.
fn assert_state(seeded: &Seeded, target: &Path, before: Before, context: &str) {
    let (path, part) = (target.join("source"), target.join(".source.dft-part"));
    let is_old = match before {
        Before::Nothing => !path.exists(),
        Before::OldTree => fs::read(path.join("old")).is_ok_and(|content| content == b"old"),
        Before::Part => false,
    };
    if !is_old {
        let selection =
            if before == Before::Part { part_of(seeded) } else { Selection::all(&seeded.manifest) };
        let differences = verify(&seeded.manifest, &path, &selection, &|_| {}).unwrap();
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
fn an_old_tree_is_replaced_where_names_cannot_be_exchanged() {
    at_each_call(Effect::Error(EINVAL), Before::OldTree, Then::NextFetch);
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
fn a_kill_at_any_call_leaves_a_growing_tree_as_it_was_or_complete() {
    at_each_call(Effect::Crash, Before::Part, Then::NextFetch);
    at_each_call(Effect::Crash, Before::Part, Then::FinalLost);
}

#[test]
fn a_failed_call_leaves_a_growing_tree_as_it_was_or_complete() {
    at_each_call(Effect::Error(EIO), Before::Part, Then::SameStore);
    at_each_call(Effect::Error(ENOSPC), Before::Part, Then::NextFetch);
}

#[test]
fn a_tree_grows_where_names_cannot_be_exchanged_or_linked() {
    at_each_call(Effect::Error(EINVAL), Before::Part, Then::NextFetch);
    at_each_call(Effect::Error(EPERM), Before::Part, Then::NextFetch);
}

#[test]
fn a_power_cut_leaves_a_growing_tree_as_it_was_or_complete() {
    at_each_call(Effect::PowerCut, Before::Part, Then::NextFetch);
}

#[test]
fn a_grown_tree_is_served_without_a_doubt() {
    let scratch = Scratch::in_memory();
    let source = scratch.directory("source");
    a_little(&source);
    let seeded = Seeded::new(&source);
    let target = scratch.directory("target");
    let options = FetchOptions { force: false, selection: Some(part_of(&seeded)) };
    let part = Store::fetch(seeded.manifest.clone(), &target, options, &|_| {}).unwrap();
    seeded.complete(&part).unwrap();
    drop(part);
    let store = seeded.open(&target).unwrap();
    seeded.complete(&store).unwrap();
    // Its files lost a name with the tree that it replaced.
    for piece in seeded.manifest.geometry().pieces() {
        assert!(store.rehash(piece).unwrap(), "piece {piece}");
        let mut bytes = vec![0; seeded.piece(piece).len()];
        store.read(piece, 0, &mut bytes).unwrap();
    }
}

#[test]
fn a_kill_and_a_loss_of_the_final_tree_are_survived() {
    at_each_call(Effect::Crash, Before::Nothing, Then::FinalLost);
    at_each_call(Effect::Crash, Before::OldTree, Then::FinalLost);
}

#[test]
fn what_a_failed_sync_drops_is_fetched_again() {
    at_each_call(Effect::LostSync, Before::Nothing, Then::SameStore);
}

#[test]
fn a_power_cut_at_any_call_is_survived() {
    at_each_call(Effect::PowerCut, Before::Nothing, Then::NextFetch);
}

#[test]
fn many_small_files_survive_as_few_do() {
    at_each_call_for(many_small, Effect::Error(EIO), Before::Nothing, Then::SameStore);
    at_each_call_for(many_small, Effect::PowerCut, Before::Nothing, Then::NextFetch);
    at_each_call_for(many_small, Effect::LostSync, Before::Nothing, Then::SameStore);
}

#[test]
fn errors_of_the_disk_have_their_kind() {
    let scratch = Scratch::in_memory();
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

/// A store with one piece that is not there yet, and that piece.
fn one_piece_to_fetch(scratch: &Scratch) -> (Seeded, Store, PieceIndex) {
    let source = scratch.directory("source");
    put(&source.join("file"), &bytes(PIECE, 1));
    let seeded = Seeded::new(&source);
    let store = seeded.open(&scratch.directory("target")).unwrap();
    let piece = seeded.manifest.geometry().piece(0).unwrap();
    (seeded, store, piece)
}

#[test]
fn no_later_flush_vouches_for_what_a_failed_one_dropped() {
    let scratch = Scratch::in_memory();
    let (seeded, store, piece) = one_piece_to_fetch(&scratch);
    let bytes = seeded.piece(piece);
    store.write(piece, 0, &bytes).unwrap();
    store.verified(piece);
    fault::arm(Some(Operation::Sync), 0, Effect::LostSync);
    let error = store.flush().unwrap_err();
    assert!(fault::disarm());
    assert!(matches!(&error, StorageError::NotDurable { pieces, .. } if pieces[..] == [piece]), "{error}");
    store.verified(piece);
    assert_eq!(store.flush().unwrap(), []);
    store.write(piece, 1, &bytes[1..]).unwrap();
    store.verified(piece);
    assert_eq!(store.flush().unwrap(), [], "its first byte was not written again");
    store.write(piece, 0, &bytes[..1]).unwrap();
    store.verified(piece);
    assert_eq!(store.flush().unwrap(), [piece]);
    assert!(store.rehash(piece).unwrap());
}

#[test]
fn a_piece_that_was_half_written_at_a_failed_flush_does_not_count() {
    let scratch = Scratch::in_memory();
    let source = scratch.directory("source");
    put(&source.join("file"), &bytes(2 * PIECE, 1));
    let seeded = Seeded::new(&source);
    let store = seeded.open(&scratch.directory("target")).unwrap();
    let pieces: Vec<_> = seeded.manifest.geometry().pieces().collect();
    let halves = seeded.piece(pieces[0]);
    let (first, second) = halves.split_at(PIECE / 2);
    store.write(pieces[0], 0, first).unwrap();
    store.write(pieces[1], 0, &seeded.piece(pieces[1])).unwrap();
    store.verified(pieces[1]);
    fault::arm(Some(Operation::Sync), 0, Effect::LostSync);
    let error = store.flush().unwrap_err();
    fault::disarm();
    assert!(matches!(error, StorageError::NotDurable { pieces: lost, .. } if lost == pieces));
    store.write(pieces[0], u32::try_from(first.len()).unwrap(), second).unwrap();
    store.verified(pieces[0]);
    assert_eq!(store.flush().unwrap(), []);
}

#[test]
fn a_record_that_cannot_be_written_costs_no_piece() {
    let scratch = Scratch::in_memory();
    let (seeded, store, piece) = one_piece_to_fetch(&scratch);
    store.write(piece, 0, &seeded.piece(piece)).unwrap();
    store.verified(piece);
    fault::arm(Some(Operation::Rename), 0, Effect::Error(ENOSPC));
    let error = store.flush().unwrap_err();
    fault::disarm();
    assert!(matches!(error, StorageError::DiskFull { .. }), "{error}");
    assert_eq!(store.flush().unwrap(), [piece], "the same bytes are recorded by the next flush");
}
