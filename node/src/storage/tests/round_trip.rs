//! From a tree to an equal tree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use dft_protocol::geometry::PieceSize;

use super::fixture::{Scratch, Seeded, everything, names};
use crate::storage::{ScanOptions, scan};

/// All that we promise to keep of one name, found without any code of ours.
#[derive(PartialEq, Eq, Debug)]
struct Kept {
    mode: u32,
    mtime: Option<(i64, i64)>,
    content: Vec<u8>,
}

fn kept(root: &Path) -> BTreeMap<Vec<u8>, Kept> {
    let mut all = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let mut mtime = Some((metadata.mtime(), metadata.mtime_nsec()));
        let content = if metadata.is_symlink() {
            mtime = None;
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        all.insert(name, Kept { mode: metadata.mode(), mtime, content });
    }
    all
}

#[test]
fn a_tree_is_fetched_entry_by_entry() {
    let scratch = Scratch::new();
    let source = scratch.directory("source");
    everything(&source);
    let seeded = Seeded::new(&source);
    let target = scratch.directory("target");
    let store = seeded.open(&target).unwrap();
    let path = seeded.complete(&store).unwrap();
    assert_eq!(path, target.join("source"));
    assert_eq!(names(&target), ["source"], "the part directory is gone");
    let (expected, found) = (kept(&source), kept(&path));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in &expected {
        let found = &found[name];
        let same = found == expected;
        assert!(
            same,
            "{}: {:?} {:?}",
            name.escape_ascii(),
            (found.mode, found.mtime),
            (expected.mode, expected.mtime)
        );
    }
    let blocks = |root: &Path| root.join("sparse").metadata().unwrap().blocks();
    assert!(blocks(&path) <= blocks(&source), "holes stay holes");
    for piece in seeded.manifest.geometry().pieces() {
        let mut bytes = seeded.piece(piece);
        let expected = bytes.clone();
        bytes.fill(0);
        store.read(piece, 0, &mut bytes).unwrap();
        assert_eq!(bytes, expected, "a finished store serves piece {piece}");
    }
}

#[test]
fn a_sparse_file_costs_what_its_data_cost() {
    let scratch = Scratch::new();
    let source = scratch.path().join("sparse");
    let file = fs::File::create(&source).unwrap();
    file.set_len(2 << 40).unwrap();
    file.write_all_at(b"data", 1 << 40).unwrap();
    drop(file);
    let scan = scan(&[source], None, &ScanOptions::default()).unwrap();
    let size = PieceSize::for_total(scan.total_bytes);
    let seeded = Seeded::from_scan(scan, size);
    let store = seeded.open(&scratch.directory("target")).unwrap();
    let durable = store.durable();
    assert_eq!(durable.count() + 1, durable.capacity(), "all but one piece are zeros");
    let path = seeded.complete(&store).unwrap();
    seeded.assert_equal(&path);
    assert!(path.metadata().unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn a_piece_that_comes_once_more_does_not_harm_what_is_finished() {
    let scratch = Scratch::new();
    let source = scratch.directory("source");
    everything(&source);
    let seeded = Seeded::new(&source);
    let store = seeded.open(&scratch.directory("target")).unwrap();
    let path = seeded.complete(&store).unwrap();
    for piece in seeded.manifest.geometry().pieces() {
        let noise = vec![0x5a; seeded.piece(piece).len()];
        store.write(piece, 0, &noise).unwrap();
    }
    seeded.assert_equal(&path);
    let piece = seeded.manifest.geometry().pieces().next().unwrap();
    assert!(seeded.store.write(piece, 0, b"x").is_err(), "what is seeded was never fetched");
}
