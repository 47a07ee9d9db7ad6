//! What is scanned, what is left out, what is refused; and files that change.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use dft_protocol::geometry::PieceSize;
use dft_protocol::id::PieceHash;
use dft_protocol::manifest::{Entry, Hints, Manifest};
use dft_protocol::path::Name;

use super::fixture::{PIECE, Scratch, Seeded, a_little, bytes, everything, put, set_mode};
use crate::storage::{ScanOptions, SeedCache, SkipReason, StorageError, Store, hash, is_zeros, scan};

fn paths(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.path().to_string()).collect()
}

fn name(text: &str) -> Option<Name> {
    Some(Name::new(text).unwrap())
}

#[test]
fn entries_come_in_the_order_of_the_manifest() {
    let scratch = Scratch::new();
    let root = scratch.directory("root");
    for path in ["a/c", "a-b", "a.txt", "b/x/y", "b/x.y"] {
        put(&root.join(path), b"x");
    }
    let scanned = scan(&[root], None, &ScanOptions::default()).unwrap();
    assert_eq!(paths(&scanned.entries), ["", "a", "a/c", "a-b", "a.txt", "b", "b/x", "b/x/y", "b/x.y"]);
    assert_eq!(scanned.name, name("root").unwrap());
    assert_eq!(scanned.total_bytes, 5);
}

#[test]
fn several_paths_lie_side_by_side() {
    let scratch = Scratch::new();
    put(&scratch.path().join("one/b/file"), b"1");
    put(&scratch.path().join("two/a"), b"2");
    put(&scratch.path().join("three/b"), b"3");
    let given = |paths: &[&str]| paths.iter().map(|path| scratch.path().join(path)).collect::<Vec<_>>();
    let both = given(&["one/b", "two/a"]);
    let scanned = scan(&both, name("both"), &ScanOptions::default()).unwrap();
    assert_eq!(paths(&scanned.entries), ["", "a", "b", "b/file"]);
    let sources: Vec<PathBuf> = (1..4).map(|entry| scanned.path(entry)).collect();
    assert_eq!(sources, given(&["two/a", "one/b", "one/b/file"]));
    let seeded = Seeded::from_scan(scanned, PieceSize::new(PIECE as u64).unwrap());
    let store = seeded.open(&scratch.directory("target")).unwrap();
    seeded.assert_equal(&seeded.complete(&store).unwrap());
    assert!(matches!(scan(&both, None, &ScanOptions::default()), Err(StorageError::NameNeeded)));
    let same = scan(&given(&["one/b", "three/b"]), name("same"), &ScanOptions::default()).unwrap_err();
    let text = same.to_string();
    assert!(text.contains("one/b") && text.contains("three/b"), "{text}");
}

#[test]
fn the_name_is_that_of_the_directory_meant() {
    let scratch = Scratch::new();
    let root = scratch.directory("real/inner");
    symlink(&root, scratch.path().join("alias")).unwrap();
    let cases = [
        (root.join("."), "inner"),
        (root.join(".."), "real"),
        (scratch.path().join("alias"), "alias"),
        (scratch.path().join("real/"), "real"),
    ];
    for (path, expected) in cases {
        let scanned = scan(&[path], None, &ScanOptions::default()).unwrap();
        assert_eq!(scanned.name.to_string(), expected);
        assert!(matches!(scanned.entries[0], Entry::Directory { .. }));
    }
}

#[test]
fn what_cannot_be_sent_is_left_out_with_a_report() {
    let scratch = Scratch::new();
    let root = scratch.directory("root");
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    put(&root.join(".x.dft-part/data"), b"partial");
    put(&root.join("root.dft"), b"the manifest");
    put(&root.join("file"), b"x");
    let exclude = vec![root.join("root.dft"), root.join("not there")];
    let options = ScanOptions { exclude, ..ScanOptions::default() };
    let scanned = scan(std::slice::from_ref(&root), None, &options).unwrap();
    assert_eq!(paths(&scanned.entries), ["", "file"]);
    let skipped: Vec<_> =
        scanned.skipped.iter().map(|skipped| (skipped.path.clone(), skipped.reason)).collect();
    let expected = [
        (".x.dft-part", SkipReason::PartDirectory),
        ("root.dft", SkipReason::Excluded),
        ("socket", SkipReason::Special),
    ];
    assert_eq!(skipped, expected.map(|(name, reason)| (root.join(name), reason)));
    let error = scan(&[root.join("socket")], None, &ScanOptions::default()).unwrap_err();
    assert!(matches!(error, StorageError::Special(_)), "{error}");
}

#[test]
fn symlinks_that_leave_the_tree_are_refused_or_left_out() {
    for target in ["/etc/passwd", "../outside", "a/../../outside"] {
        let scratch = Scratch::new();
        let root = scratch.directory("root");
        symlink(target, root.join("link")).unwrap();
        put(&root.join("z"), b"x");
        let error = scan(std::slice::from_ref(&root), None, &ScanOptions::default()).unwrap_err();
        assert!(matches!(error, StorageError::UnsafeSymlink { .. }), "{error}");
        assert!(error.hint().is_some());
        let options = ScanOptions { skip_unsafe: true, ..ScanOptions::default() };
        let scanned = scan(&[root], None, &options).unwrap();
        assert_eq!(paths(&scanned.entries), ["", "z"]);
        assert_eq!(scanned.skipped[0].reason, SkipReason::UnsafeSymlink);
    }
}

#[test]
fn setuid_setgid_and_sticky_are_dropped() {
    let scratch = Scratch::new();
    let root = scratch.directory("root");
    put(&root.join("file"), b"x");
    set_mode(&root.join("file"), 0o6755);
    set_mode(&root, 0o1777);
    let scanned = scan(&[root], None, &ScanOptions::default()).unwrap();
    let modes: Vec<_> = scanned
        .entries
        .iter()
        .map(|entry| match entry {
            Entry::File { mode, .. } | Entry::Directory { mode, .. } => *mode,
            Entry::Symlink { .. } => 0,
        })
        .collect();
    assert_eq!(modes, [0o777, 0o755]);
}

#[test]
fn a_missing_path_is_named() {
    let error = scan(&[PathBuf::from("/no/such/path")], None, &ScanOptions::default()).unwrap_err();
    assert!(error.to_string().contains("/no/such/path"), "{error}");
    assert!(matches!(scan(&[], None, &ScanOptions::default()), Err(StorageError::NothingToSeed)));
}

#[test]
fn hashes_are_those_of_the_bytes() {
    use sha2::{Digest, Sha256};
    let scratch = Scratch::new();
    let root = scratch.directory("source");
    everything(&root);
    let seeded = Seeded::new(&root);
    for piece in seeded.manifest.geometry().pieces() {
        let bytes = seeded.piece(piece);
        let expected = if is_zeros(&bytes) {
            PieceHash::ZEROS
        } else {
            PieceHash::from_bytes(Sha256::digest(&bytes).into())
        };
        assert_eq!(seeded.manifest.hash(piece), expected, "{piece}");
    }
}

#[test]
fn zeros_are_found_at_any_place() {
    for len in [0, 1, 63, 4096, 70_000, 200_000] {
        let mut bytes = vec![0; len];
        assert!(is_zeros(&bytes));
        for at in [0, len / 2, len.saturating_sub(1)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = 1;
                assert!(!is_zeros(&bytes));
                bytes[at] = 0;
            }
        }
    }
}

#[test]
fn progress_ends_at_the_total_and_a_cancelled_hash_stops() {
    let scratch = Scratch::new();
    let root = scratch.directory("source");
    everything(&root);
    let scanned = scan(&[root], None, &ScanOptions::default()).unwrap();
    let heard = Mutex::new(Vec::new());
    hash(&scanned, None, &|bytes| heard.lock().unwrap().push(bytes), &AtomicBool::new(false)).unwrap();
    let heard = heard.into_inner().unwrap();
    assert!(heard.is_sorted() && heard.last() == Some(&scanned.total_bytes));
    let error = hash(&scanned, None, &|_| {}, &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(error, StorageError::Cancelled));
}

/// Ways to change a file, of which none keeps its identity.
fn changes() -> [fn(&std::path::Path); 5] {
    [
        |path| File::options().write(true).open(path).unwrap().write_all_at(b"y", 9).unwrap(),
        |path| File::options().write(true).open(path).unwrap().set_len(5).unwrap(),
        |path| fs::remove_file(path).unwrap(),
        |path| {
            fs::rename(path, path.with_extension("old")).unwrap();
            fs::copy(path.with_extension("old"), path).unwrap();
        },
        |path| {
            fs::rename(path, path.with_extension("old")).unwrap();
            symlink(path.with_extension("old"), path).unwrap();
        },
    ]
}

/// Waits until the filesystem's clock has moved, so that a change gets another time.
fn next_tick(scratch: &Scratch) {
    let probe = scratch.path().join("probe");
    let time = || {
        fs::write(&probe, "x").unwrap();
        probe.metadata().unwrap().modified().unwrap()
    };
    let before = time();
    while time() == before {
        std::thread::yield_now();
    }
}

#[test]
fn a_file_that_changes_is_named_and_its_pieces_known() {
    for change in changes() {
        let scratch = Scratch::new();
        let root = scratch.directory("source");
        put(&root.join("file"), &bytes(3 * PIECE, 1));
        put(&root.join("other"), &bytes(PIECE, 2));
        let scanned = scan(std::slice::from_ref(&root), None, &ScanOptions::default()).unwrap();
        let seeded = Seeded::from_scan(scanned.clone(), PieceSize::new(PIECE as u64).unwrap());
        let pieces: Vec<_> = seeded.manifest.geometry().pieces().collect();
        assert_eq!(seeded.piece(pieces[2]).len(), PIECE, "it may be open when it changes");
        next_tick(&scratch);
        change(&root.join("file"));
        let error = seeded.store.read(pieces[0], 0, &mut [0; 100]).unwrap_err();
        let StorageError::Changed { path, entry } = error else { panic!("{error}") };
        assert_eq!(path, root.join("file"));
        assert_eq!(seeded.store.pieces_of(&[entry]), pieces[..3]);
        assert_eq!(seeded.piece(pieces[3]), bytes(PIECE, 2), "others are served on");
        let error = hash(&scanned, None, &|_| {}, &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(error, StorageError::Changed { .. }), "{error}");
    }
}

#[test]
fn a_manifest_of_other_entries_is_not_served() {
    let scratch = Scratch::new();
    let root = scratch.directory("source");
    a_little(&root);
    let manifest = Seeded::new(&root).manifest;
    set_mode(&root.join("large"), 0o600);
    let scanned = scan(&[root], None, &ScanOptions::default()).unwrap();
    assert!(matches!(Store::seed(manifest, scanned), Err(StorageError::NotTheDataset(_))));
}

#[test]
fn what_was_hashed_before_is_not_hashed_again() {
    let scratch = Scratch::new();
    let (root, cache) = (scratch.directory("source"), scratch.directory("cache"));
    everything(&root);
    let scan_it = || scan(std::slice::from_ref(&root), None, &ScanOptions::default()).unwrap();
    let scanned = scan_it();
    let info = hash(&scanned, None, &|_| {}, &AtomicBool::new(false)).unwrap();
    assert!(SeedCache::new(&scanned, &info).is_none(), "it was made just before");
    let settled = crate::storage::Scan { started: far_future(), ..scanned };
    assert!(SeedCache::load(&cache).is_none());
    SeedCache::new(&settled, &info).unwrap().store(&cache).unwrap();
    let loaded = SeedCache::load(&cache).unwrap();
    assert_eq!(loaded.matches(&scan_it()), Some(info));
    // A directory that changed needs no hashing, and is described as it is.
    put(&root.join("small/new, but empty"), b"");
    assert_eq!(loaded.matches(&scan_it()), None);
    fs::remove_file(root.join("small/new, but empty")).unwrap();
    let again = loaded.matches(&scan_it()).unwrap();
    assert_eq!(again.entries, scan_it().entries);
    assert!(Manifest::new(again, Hints::default()).is_ok());
    next_tick(&scratch);
    fs::write(root.join("one byte"), "y").unwrap();
    assert_eq!(loaded.matches(&scan_it()), None);
}

fn far_future() -> std::time::SystemTime {
    std::time::SystemTime::now() + std::time::Duration::from_secs(3600)
}

#[test]
fn a_damaged_cache_is_as_good_as_none() {
    let scratch = Scratch::new();
    let (root, cache) = (scratch.directory("source"), scratch.directory("cache"));
    a_little(&root);
    let scanned = scan(&[root], None, &ScanOptions::default()).unwrap();
    let info = hash(&scanned, None, &|_| {}, &AtomicBool::new(false)).unwrap();
    let settled = crate::storage::Scan { started: far_future(), ..scanned };
    SeedCache::new(&settled, &info).unwrap().store(&cache).unwrap();
    let file = cache.join("seed-cache");
    let whole = fs::read(&file).unwrap();
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(SeedCache::load(&cache).is_none(), "cut at {length}");
    }
    for byte in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[byte] ^= 0x41;
        fs::write(&file, &flipped).unwrap();
        assert!(SeedCache::load(&cache).is_none(), "byte {byte}");
    }
}
