//! Going on where a fetch stopped, and refusing to where that would harm.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use dft_protocol::geometry::PieceIndex;

use super::fixture::{PIECE, Scratch, Seeded, a_little, bytes, everything, names, put, set_mode};
use crate::storage::{FetchOptions, Selection, StorageError, Store, verify};

/// A source with one of everything, and a fetch of it of which some pieces are there.
struct Begun {
    scratch: Scratch,
    seeded: Seeded,
    target: PathBuf,
    fetched: Vec<PieceIndex>,
}

impl Begun {
    /// Every third piece has been fetched.
    fn new() -> Self {
        let scratch = Scratch::new();
        let source = scratch.directory("source");
        everything(&source);
        let seeded = Seeded::new(&source);
        let target = scratch.directory("target");
        let store = seeded.open(&target).unwrap();
        let at_open = store.durable();
        let missing = seeded.manifest.geometry().pieces().filter(|&piece| !at_open.contains(piece));
        let fetched: Vec<_> = missing.step_by(3).collect();
        for &piece in &fetched {
            store.write(piece, 0, &seeded.piece(piece)).unwrap();
            store.verified(piece);
        }
        assert_eq!(store.flush().unwrap(), fetched);
        Self { scratch, seeded, target, fetched }
    }

    fn part(&self) -> PathBuf {
        self.target.join(".source.dft-part")
    }

    /// What a new fetch finds, and how many bytes it read for that.
    fn open(&self) -> (Store, u64) {
        let checked = Cell::new(0);
        let options = FetchOptions::default();
        let store = Store::fetch(self.seeded.manifest.clone(), &self.target, options, &|progress| {
            checked.set(progress.checked);
        });
        (store.unwrap(), checked.get())
    }

    fn assert_completes(&self) {
        let (store, _) = self.open();
        let path = self.seeded.complete(&store).unwrap();
        self.seeded.assert_equal(&path);
        assert_eq!(names(&self.target), ["source"]);
    }

    fn is_fetched(&self, store: &Store) -> bool {
        let durable = store.durable();
        self.fetched.iter().all(|&piece| durable.contains(piece))
    }
}

#[test]
fn flushed_pieces_are_there_after_a_restart() {
    let begun = Begun::new();
    let (store, _) = begun.open();
    assert!(begun.is_fetched(&store));
    assert!(!store.durable().is_full());
    drop(store);
    begun.assert_completes();
}

#[test]
fn written_pieces_are_found_though_no_flush_recorded_them() {
    let begun = Begun::new();
    let (store, _) = begun.open();
    let durable = store.durable();
    let piece = begun.seeded.manifest.geometry().pieces().find(|&piece| !durable.contains(piece)).unwrap();
    store.write(piece, 0, &begun.seeded.piece(piece)).unwrap();
    drop(store);
    assert!(begun.open().0.durable().contains(piece));
}

#[test]
fn a_damaged_record_costs_no_piece() {
    for damage in [&b""[..], b"garbage", &[0xff; 300]] {
        let begun = Begun::new();
        fs::write(begun.part().join("record"), damage).unwrap();
        assert!(begun.is_fetched(&begun.open().0));
        fs::remove_file(begun.part().join("record")).unwrap();
        assert!(begun.is_fetched(&begun.open().0));
        begun.assert_completes();
    }
}

#[test]
fn a_recorded_piece_whose_file_is_lost_is_not_trusted() {
    type Damage = fn(&std::path::Path);
    let damages: [Damage; 4] = [
        |data| fs::remove_file(data.join("large")).unwrap(),
        |data| fs::remove_dir_all(data.join("small")).unwrap(),
        |data| File::options().write(true).open(data.join("large")).unwrap().set_len(10).unwrap(),
        |data| fs::remove_dir_all(data).unwrap(),
    ];
    for damage in damages {
        let begun = Begun::new();
        damage(&begun.part().join("data"));
        // The files have their length again after the first of these, but not their content.
        for _ in 0..2 {
            let (store, _) = begun.open();
            begun.seeded.assert_pieces(&store.durable(), &begun.part().join("data"));
            let durable = store.durable();
            let mut pieces = begun.seeded.manifest.geometry().pieces();
            let piece = pieces.find(|&piece| begun.fetched.contains(&piece) && !durable.contains(piece));
            store.write(piece.unwrap(), 0, b"x").unwrap();
        }
        begun.assert_completes();
    }
}

#[test]
fn a_piece_that_rots_before_the_end_is_written_anew() {
    let begun = Begun::new();
    let (store, _) = begun.open();
    let large = begun.seeded.pieces_of("large");
    let piece = *begun.fetched.iter().find(|piece| large.contains(piece)).unwrap();
    let span = begun.seeded.manifest.layout().spans(piece).next().unwrap();
    let rot = || {
        let file = File::options().write(true).open(begun.part().join("data/large")).unwrap();
        file.write_all_at(b"rot", span.offset).unwrap();
        assert!(!store.rehash(piece).unwrap());
        store.forget(&[piece]);
    };
    rot();
    assert!(!store.durable().contains(piece));
    store.verified(piece);
    assert_eq!(store.flush().unwrap(), [], "nothing of it was written again");
    store.write(piece, 0, &begun.seeded.piece(piece)).unwrap();
    store.verified(piece);
    assert_eq!(store.flush().unwrap(), [piece]);
    assert!(store.rehash(piece).unwrap());
    // Nor does the next fetch trust what was found to be wrong.
    rot();
    store.flush().unwrap();
    drop(store);
    assert!(!begun.open().0.durable().contains(piece));
    begun.assert_completes();
}

#[test]
fn what_does_not_belong_there_goes() {
    let begun = Begun::new();
    let data = begun.part().join("data");
    put(&data.join("extra/file"), b"x");
    fs::remove_file(data.join("dangling")).unwrap();
    std::os::unix::fs::symlink("elsewhere", data.join("dangling")).unwrap();
    fs::remove_file(data.join("large")).unwrap();
    put(&data.join("large/is now/a directory"), b"x");
    fs::remove_dir_all(data.join("empty directory")).unwrap();
    put(&data.join("empty directory"), b"a file");
    set_mode(&data.join("small"), 0o000);
    // Where a hole belongs.
    let sparse = File::options().write(true).open(data.join("sparse")).unwrap();
    sparse.write_all_at(b"not zero", 3 * PIECE as u64).unwrap();
    drop(sparse);
    fs::write(begun.part().join("record"), "damaged").unwrap();
    begun.assert_completes();
    let path = begun.target.join("source/sparse");
    assert!(path.metadata().unwrap().blocks() * 512 < 8 * PIECE as u64, "holes are holes again");
}

#[test]
fn zeros_overwrite_what_a_corrupt_piece_left() {
    let scratch = Scratch::new();
    let source = scratch.directory("source");
    let mut content = bytes(PIECE * 8, 1);
    content[PIECE..3 * PIECE].fill(0);
    put(&source.join("file"), &content);
    let scan = crate::storage::scan(&[source], None, &crate::storage::ScanOptions::default()).unwrap();
    let size = dft_protocol::geometry::PieceSize::new(4 * PIECE as u64).unwrap();
    let seeded = Seeded::from_scan(scan, size);
    let store = seeded.open(&scratch.directory("target")).unwrap();
    let piece = seeded.manifest.geometry().piece(0).unwrap();
    store.write(piece, 0, &bytes(4 * PIECE, 9)).unwrap();
    assert!(!store.rehash(piece).unwrap());
    let path = seeded.complete(&store).unwrap();
    seeded.assert_equal(&path);
}

#[test]
fn a_full_check_hears_of_all_bytes() {
    let begun = Begun::new();
    assert_eq!(begun.open().1, begun.seeded.manifest.total_bytes());
}

#[test]
fn a_second_fetch_into_one_place_is_told() {
    let begun = Begun::new();
    let (_first, _) = begun.open();
    let error = begun.seeded.open(&begun.target).err().unwrap();
    assert!(matches!(&error, StorageError::Busy { path } if *path == begun.part()), "{error}");
    let error = begun.seeded.open_forced(&begun.target).err().unwrap();
    assert!(matches!(error, StorageError::Busy { .. }), "force takes nothing from a running fetch");
}

#[test]
fn another_manifests_partial_fetch_is_kept_unless_forced() {
    let begun = Begun::new();
    let other_source = begun.scratch.directory("other/source");
    a_little(&other_source);
    let other = Seeded::new(&other_source);
    let error = other.open(&begun.target).err().unwrap();
    assert!(
        matches!(error, StorageError::OtherManifest { found, .. } if found == begun.seeded.manifest.id())
    );
    assert!(begun.is_fetched(&begun.open().0));
    let store = other.open_forced(&begun.target).unwrap();
    other.assert_equal(&other.complete(&store).unwrap());
}

#[test]
fn a_complete_target_is_found_and_served() {
    let begun = Begun::new();
    begun.assert_completes();
    let path = begun.target.join("source");
    set_mode(&path.join("one byte"), 0o600);
    File::open(path.join("small")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let (store, checked) = begun.open();
    assert!(store.is_finished() && store.durable().is_full());
    assert_eq!(checked, begun.seeded.manifest.total_bytes());
    begun.seeded.assert_equal(&path);
    assert_eq!(store.finish().unwrap(), path);
    for piece in begun.seeded.manifest.geometry().pieces() {
        assert!(store.rehash(piece).unwrap());
    }
    store.write(begun.fetched[0], 0, b"x").unwrap();
    assert!(store.rehash(begun.fetched[0]).unwrap(), "what comes once more is dropped");
    set_mode(&path.join("large"), 0o600);
    fs::write(path.join("large"), "changed").unwrap();
    let mut buffer = [0; 8];
    let error = store.read(begun.seeded.pieces_of("large")[0], 0, &mut buffer).unwrap_err();
    assert!(matches!(error, StorageError::Changed { .. }), "{error}");
}

#[test]
fn what_differs_at_the_final_name_is_kept_unless_forced() {
    let scratch = Scratch::new();
    let source = scratch.directory("source");
    a_little(&source);
    let seeded = Seeded::new(&source);
    for is_directory in [true, false] {
        let target = scratch.directory(&format!("target {is_directory}"));
        let old = if is_directory { target.join("source/mine") } else { target.join("source") };
        put(&old, b"mine");
        if is_directory {
            set_mode(&target.join("source"), 0o500);
        }
        let error = seeded.open(&target).err().unwrap();
        assert!(matches!(error, StorageError::Exists { .. }), "{error}");
        assert!(error.hint().unwrap().contains("--force"));
        assert_eq!(names(&target), ["source"], "nothing is left behind");
        let store = seeded.open_forced(&target).unwrap();
        assert_eq!(fs::read(&old).unwrap(), b"mine", "it stays until the new one is complete");
        let path = seeded.complete(&store).unwrap();
        seeded.assert_equal(&path);
        assert_eq!(names(&target), ["source"]);
    }
}

#[test]
fn a_final_name_that_appears_meanwhile_is_not_replaced() {
    let begun = Begun::new();
    let (store, _) = begun.open();
    put(&begun.target.join("source"), b"appeared");
    let error = begun.seeded.complete(&store).unwrap_err();
    assert!(matches!(error, StorageError::Exists { .. }), "{error}");
    assert_eq!(fs::read(begun.target.join("source")).unwrap(), b"appeared");
    fs::remove_file(begun.target.join("source")).unwrap();
    let path = store.finish().unwrap();
    begun.seeded.assert_equal(&path);
}

#[test]
fn nothing_is_written_through_a_symlink() {
    let begun = Begun::new();
    let outside = begun.scratch.directory("outside");
    put(&outside.join("large"), b"precious");
    let data = begun.part().join("data");
    fs::rename(&data, begun.scratch.path().join("moved")).unwrap();
    std::os::unix::fs::symlink(&outside, &data).unwrap();
    begun.assert_completes();
    assert_eq!(fs::read(outside.join("large")).unwrap(), b"precious");
    assert_eq!(names(&outside), ["large"]);
}

#[test]
fn a_part_directory_of_someone_else_is_refused() {
    let scratch = Scratch::new();
    let source = scratch.directory("source");
    a_little(&source);
    let seeded = Seeded::new(&source);
    let target = scratch.directory("target");
    let part = target.join(".source.dft-part");
    fs::create_dir(&part).unwrap();
    set_mode(&part, 0o777);
    let error = seeded.open(&target).err().unwrap();
    assert!(matches!(error, StorageError::ForeignPart { .. }), "{error}");
    fs::remove_dir(&part).unwrap();
    std::os::unix::fs::symlink(scratch.path(), &part).unwrap();
    let error = seeded.open(&target).err().unwrap();
    assert!(matches!(error, StorageError::ForeignPart { .. }), "{error}");
}

#[test]
fn a_dataset_without_bytes_finishes_at_once() {
    let scratch = Scratch::new();
    let source = scratch.directory("source");
    put(&source.join("empty"), b"");
    fs::create_dir(source.join("directory")).unwrap();
    let file = scratch.path().join("empty file");
    put(&file, b"");
    for root in [source, file] {
        let seeded = Seeded::new(&root);
        let target = scratch.directory("target");
        let store = seeded.open(&target).unwrap();
        assert!(store.durable().is_full() && !store.is_finished());
        seeded.assert_equal(&store.finish().unwrap());
        assert!(store.is_finished());
    }
}

#[test]
fn a_single_file_is_a_dataset_with_any_name() {
    let scratch = Scratch::new();
    let long = "n".repeat(255);
    let file = scratch.path().join(&long);
    put(&file, &bytes(3 * PIECE + 5, 3));
    set_mode(&file, 0o640);
    let seeded = Seeded::new(&file);
    let target = scratch.directory("target");
    let store = seeded.open(&target).unwrap();
    let path = seeded.complete(&store).unwrap();
    assert_eq!(names(&target), [long]);
    seeded.assert_equal(&path);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
    let mut buffer = [0; 5];
    let last = seeded.manifest.geometry().piece(3).unwrap();
    store.read(last, 0, &mut buffer).unwrap();
    assert_eq!(buffer[..], bytes(3 * PIECE + 5, 3)[3 * PIECE..]);
    let error = store.read(last, 1, &mut buffer).unwrap_err();
    assert!(matches!(error, StorageError::OutOfPiece { end: 6, .. }), "{error}");
}

#[test]
fn too_little_space_is_found_before_anything_is_written() {
    let scratch = Scratch::new();
    let source = scratch.path().join("huge");
    put(&source, b"");
    let scan = crate::storage::scan(&[source], None, &crate::storage::ScanOptions::default()).unwrap();
    let seeded = Seeded::with_huge_file(scan);
    let target = scratch.directory("target");
    let error = seeded.open(&target).err().unwrap();
    assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
    assert!(names(&target).is_empty());
}

#[test]
fn threads_write_read_and_flush_at_once() {
    let begun = Begun::new();
    let (store, _) = begun.open();
    let missing: Vec<_> = {
        let durable = store.durable();
        begun.seeded.manifest.geometry().pieces().filter(|&piece| !durable.contains(piece)).collect()
    };
    std::thread::scope(|scope| {
        for part in missing.chunks(missing.len().div_ceil(4)) {
            let (store, seeded) = (&store, &begun.seeded);
            scope.spawn(move || {
                for &piece in part {
                    let mut bytes = seeded.piece(piece);
                    store.write(piece, 0, &bytes).unwrap();
                    store.verified(piece);
                    store.flush().unwrap();
                    bytes.fill(0);
                    store.read(piece, 0, &mut bytes).unwrap();
                    assert!(bytes == seeded.piece(piece));
                }
            });
        }
    });
    assert!(store.durable().is_full());
    begun.seeded.assert_equal(&store.finish().unwrap());
}

#[test]
fn a_dataset_that_brings_a_part_directory_is_refused() {
    let scratch = Scratch::new();
    let cases: [(&str, &[&str]); 4] = [
        (".other.dft-part", &[]),
        ("data", &[".other.dft-part"]),
        ("data", &["a", "a/.other.DFT-part"]),
        ("data", &[".other.dft-part", ".other.dft-part/data"]),
    ];
    for (name, directories) in cases {
        let seeded = Seeded::made_up(name, directories);
        let error = seeded.open(scratch.path()).err().unwrap();
        assert!(matches!(error, StorageError::ReservedName { .. }), "{error}");
        assert!(names(scratch.path()).is_empty());
    }
}

#[test]
fn the_longest_path_is_created_and_found() {
    // Longer by one than the kernel takes in one call.
    let scratch = Scratch::new();
    let name = "n".repeat(255);
    let longest = [format!("{name}/").repeat(15), "n".repeat(254), "/n".to_owned()].concat();
    assert_eq!(longest.len(), dft_protocol::path::PATH_LEN_MAX);
    let slashes = longest.match_indices('/').map(|(at, _)| &longest[..at]);
    let directories: Vec<&str> = slashes.chain([&longest[..]]).collect();
    let seeded = Seeded::made_up("deep", &directories);
    let store = seeded.open(scratch.path()).unwrap();
    drop(store);
    let path = seeded.open(scratch.path()).unwrap().finish().unwrap();
    let differences = verify(&seeded.manifest, &path, &Selection::all(&seeded.manifest), &|_| {}).unwrap();
    assert!(differences.is_empty());
}
