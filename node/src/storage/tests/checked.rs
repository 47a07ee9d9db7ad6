//! Pieces that are held against their hash as they are read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::fixture::{PIECE, Scratch, Seeded, a_little, everything, put, set_mode};
use crate::storage::disk::fault::{self, Effect};
use crate::storage::{ScanOptions, StorageError, Store, scan};

/// More calls than any copy here makes: a bound for the loop.
const CALLS_MAX: u32 = 2000;

/// Changes a byte, as a failing disk would: without a new time.
fn damage(path: &Path, offset: u64) {
    let file = File::options().write(true).open(path).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&[0], offset).unwrap();
    file.set_modified(time).unwrap();
}

#[test]
fn what_is_right_of_a_damaged_tree_is_taken_over() {
    let scratch = Scratch::new();
    let root = scratch.directory("source");
    everything(&root);
    let seeded = Seeded::new(&root);
    let target = scratch.directory("target");
    let path = seeded.complete(&seeded.open(&target).unwrap()).unwrap();
    damage(&path.join("large"), PIECE as u64 + 7);
    fs::remove_file(path.join("exactly one piece")).unwrap();
    fs::remove_file(path.join("one piece and a byte")).unwrap();
    symlink(root.join("one piece and a byte"), path.join("one piece and a byte")).unwrap();
    set_mode(&path.join("read-only"), 0o755);
    put(&path.join("read-only/extra"), b"not of the dataset");
    let store = seeded.open_forced(&target).unwrap();
    store.salvage(&AtomicBool::new(false)).unwrap();

    let durable = store.durable();
    let missing: BTreeSet<_> =
        seeded.manifest.geometry().pieces().filter(|&piece| !durable.contains(piece)).collect();
    let mut expected = BTreeSet::from([seeded.pieces_of("large")[1]]);
    expected.extend(seeded.pieces_of("exactly one piece"));
    // A link is not followed, even to what would be right.
    expected.extend(seeded.pieces_of("one piece and a byte"));
    assert_eq!(missing, expected);
    seeded.assert_pieces(&durable, &target.join(".source.dft-part/data"));
    assert!(path.join("read-only/extra").exists(), "it stays as it is until all is there");
    seeded.assert_equal(&seeded.complete(&store).unwrap());
}

#[test]
fn nothing_is_taken_from_what_may_not_be_replaced() {
    let scratch = Scratch::new();
    let root = scratch.directory("source");
    put(&root.join("file"), &[7; 3 * PIECE]);
    let seeded = Seeded::new(&root);
    let store = seeded.open(&scratch.directory("target")).unwrap();
    let there = scratch.directory("target/source");
    fs::copy(root.join("file"), there.join("file")).unwrap();
    store.salvage(&AtomicBool::new(false)).unwrap();
    assert_eq!(store.durable().count(), 0);
}

#[test]
fn piece_that_a_disk_changed_is_not_read() {
    let scratch = Scratch::new();
    let file = scratch.path().join("file");
    put(&file, &[7; 3 * PIECE]);
    let seeded = Seeded::new(&file);
    damage(&file, PIECE as u64);
    // Nothing but the hash tells.
    let scan = scan(&[file], None, &ScanOptions::default()).unwrap();
    let store = Store::seed(seeded.manifest.clone(), scan).unwrap();
    let (pieces, mut buffer) = (seeded.pieces_of(""), Vec::new());
    store.read_checked(pieces[0], &mut buffer).unwrap();
    assert_eq!(buffer, [7; PIECE]);
    let error = store.read_checked(pieces[1], &mut buffer).unwrap_err();
    assert!(matches!(error, StorageError::Corrupt { piece } if piece == pieces[1]), "{error}");
    store.read_checked(pieces[2], &mut buffer).unwrap();
}

/// Copies all that is missing, with a flush after every third piece, and finishes.
fn copy(seeded: &Seeded, from: &Store, to: &Store) -> Result<PathBuf, StorageError> {
    let (durable, mut buffer) = (to.durable(), Vec::new());
    let missing = seeded.manifest.geometry().pieces().filter(|&piece| !durable.contains(piece));
    for (number, piece) in missing.enumerate() {
        to.copy_checked(piece, from, &mut buffer)?;
        if number % 3 == 2 {
            to.flush()?;
        }
    }
    to.flush()?;
    to.finish()
}

#[test]
fn copy_is_equal_where_files_can_be_cloned_and_where_not() {
    for pretend in [false, true] {
        // A tmpfs, which cannot.
        let scratch = Scratch::in_memory();
        let root = scratch.directory("source");
        everything(&root);
        let seeded = Seeded::new(&root);
        fault::pretend_to_clone(pretend);
        let path = copy(&seeded, &seeded.store, &seeded.open(&scratch.directory("target")).unwrap()).unwrap();
        fault::pretend_to_clone(false);
        seeded.assert_equal(&path);
        let sparse = fs::metadata(path.join("sparse")).unwrap();
        assert!(pretend || sparse.blocks() * 512 < sparse.len() / 4, "holes stay: {}", sparse.blocks());
    }
}

#[test]
fn wrong_piece_of_a_clone_does_not_count() {
    let scratch = Scratch::in_memory();
    let file = scratch.path().join("file");
    put(&file, &[7; 3 * PIECE]);
    let seeded = Seeded::new(&file);
    let pieces = seeded.pieces_of("");
    let right = seeded.piece(pieces[1]);
    damage(&file, PIECE as u64);
    let scan = scan(&[file], None, &ScanOptions::default()).unwrap();
    let damaged = Store::seed(seeded.manifest.clone(), scan).unwrap();
    let store = seeded.open(&scratch.directory("target")).unwrap();
    fault::pretend_to_clone(true);
    let copied = |piece| store.copy_checked(piece, &damaged, &mut Vec::new());
    copied(pieces[0]).unwrap();
    let error = copied(pieces[1]).unwrap_err();
    fault::pretend_to_clone(false);
    assert!(matches!(error, StorageError::Corrupt { piece } if piece == pieces[1]), "{error}");
    assert_eq!(store.flush().unwrap(), [pieces[0]]);
    store.write(pieces[1], 0, &right).unwrap();
    store.verified(pieces[1]);
    copied(pieces[2]).unwrap();
    store.flush().unwrap();
    assert_eq!(fs::read(store.finish().unwrap()).unwrap(), [7; 3 * PIECE]);
}

#[test]
fn no_piece_of_a_clone_counts_before_it_is_synced() {
    for n in 0..CALLS_MAX {
        let scratch = Scratch::in_memory();
        let root = scratch.directory("source");
        a_little(&root);
        let (seeded, target) = (Seeded::new(&root), scratch.directory("target"));
        fault::pretend_to_clone(true);
        fault::arm(None, n, Effect::PowerCut);
        let result = seeded.open(&target).and_then(|store| copy(&seeded, &seeded.store, &store));
        let fired = fault::disarm();
        assert!(fired || result.is_ok(), "{result:?}");
        let store = seeded.open(&target).unwrap_or_else(|error| panic!("call {n}: {error}"));
        if !store.is_finished() {
            seeded.assert_pieces(&store.durable(), &target.join(".source.dft-part/data"));
            copy(&seeded, &seeded.store, &store).unwrap();
        }
        fault::pretend_to_clone(false);
        seeded.assert_equal(&target.join("source"));
        if !fired {
            return;
        }
    }
    panic!("a copy makes fewer than {CALLS_MAX} calls");
}
