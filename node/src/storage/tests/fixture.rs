//! A source tree, its manifest, and a fetch of it without a network.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dft_protocol::geometry::{PieceIndex, PieceSize};
use dft_protocol::id::PieceHash;
use dft_protocol::manifest::{Entry, Hints, Manifest, Mtime};
use dft_protocol::path::{Name, SafePath};
use dft_protocol::piece_set::PieceSet;
use tempfile::TempDir;

use crate::storage::part::remove_all;
use crate::storage::tree::{Tree, open_directory};
use crate::storage::{FetchOptions, Scan, ScanOptions, Selection, StorageError, Store, hash, scan, verify};

/// The smallest piece size: small files make many pieces.
pub(super) const PIECE: usize = 4096;

/// Bytes that differ from file to file and never are zero.
pub(super) fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + at / 251 + usize::from(seed)) % 255).unwrap() + 1).collect()
}

/// A scratch directory that is removed with all it holds, whatever modes it has by then.
pub(super) struct Scratch(TempDir);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// In memory where there is such a place: for tests that sync thousands of times and lose
    /// data on purpose, not by the disk.
    pub(super) fn in_memory() -> Self {
        tempfile::tempdir_in("/dev/shm").map_or_else(|_| Self::new(), Self)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The standard library's way gives up at closed directories and at great depths.
        let (Some(parent), Some(name)) = (self.path().parent(), self.path().file_name()) else { return };
        if let Ok(directory) = open_directory(parent) {
            let tree = Tree::new(Arc::new(directory), name.as_bytes(), parent);
            let _ = remove_all(&tree, &mut |_| false);
        }
    }
}

/// A file with these bytes, with directories above it.
pub(super) fn put(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub(super) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// One of everything that a tree can hold, in `root`.
pub(super) fn everything(root: &Path) {
    let named = |name: &[u8]| root.join(std::ffi::OsStr::from_bytes(name));
    put(&named(b"large"), &bytes(5 * PIECE + 123, 1));
    put(&named(b"exactly one piece"), &bytes(PIECE, 2));
    put(&named(b"one piece and a byte"), &bytes(PIECE + 1, 3));
    put(&named(b"one byte"), b"x");
    put(&named(b"empty"), b"");
    put(&named(b"small/zeros"), &[0; 700]);
    for number in 0..12 {
        put(&named(format!("small/{number}").as_bytes()), &bytes(100 + number * 90, 4));
    }
    put(&named(b"latin \xe9, escape \x1b[31m, newline \n, -rf"), b"odd");
    put(&named("ümläut/深い/ディレクトリ".as_bytes()), b"deep");
    put(&named(&[b'n'; 255]), b"a long name");
    fs::create_dir_all(named(b"empty directory/in another")).unwrap();
    let sparse = File::create(named(b"sparse")).unwrap();
    sparse.set_len(64 * PIECE as u64 + 17).unwrap();
    sparse.write_all_at(&bytes(PIECE / 2, 5), 20 * PIECE as u64 + 1000).unwrap();
    put(&named(b"read-only/file"), &bytes(3000, 6));
    put(&named(b"read-only/below/large"), &bytes(2 * PIECE, 7));
    symlink("../large", named(b"small/link")).unwrap();
    symlink("nowhere", named(b"dangling")).unwrap();
    symlink("read-only", named(b"link to a directory")).unwrap();
    set_mode(&named(b"one byte"), 0o755);
    set_mode(&named(b"exactly one piece"), 0o444);
    set_mode(&named(b"read-only/below/large"), 0o400);
    let times = [("large", -1_000_000_000, 1), ("small", 1_000_000_000, 999_999_999), ("empty", 0, 0)];
    for (name, seconds, nanoseconds) in times {
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        let offset = std::time::Duration::from_secs(u64::from_ne_bytes(i64::abs(seconds).to_ne_bytes()));
        let time = if seconds < 0 { epoch - offset } else { epoch + offset };
        let time = time + std::time::Duration::from_nanos(nanoseconds);
        File::open(root.join(name)).unwrap().set_modified(time).unwrap();
    }
    for directory in ["read-only/below", "read-only"] {
        set_mode(&root.join(directory), 0o555);
    }
}

/// A few entries with all the ways to write them: for tests that repeat a fetch many times.
pub(super) fn a_little(root: &Path) {
    put(&root.join("large"), &bytes(2 * PIECE + 99, 1));
    put(&root.join("read-only/small"), &bytes(900, 2));
    put(&root.join("read-only/\u{1b}odd"), &bytes(500, 3));
    put(&root.join("empty"), b"");
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(9 * PIECE as u64).unwrap();
    sparse.write_all_at(&bytes(100, 5), 4 * PIECE as u64).unwrap();
    symlink("large", root.join("link")).unwrap();
    set_mode(&root.join("large"), 0o400);
    set_mode(&root.join("read-only"), 0o555);
}

/// More small files than are synced one by one, in few packs.
pub(super) fn many_small(root: &Path) {
    for number in 0..68 {
        let directory = if number < 60 { "full" } else { "read-only" };
        put(&root.join(format!("{directory}/{number:02}")), &bytes(30 + number, 1));
    }
    for (name, mode) in [("full/01", 0o444), ("full/02", 0o777), ("full/03", 0o600), ("read-only", 0o555)] {
        set_mode(&root.join(name), mode);
    }
}

/// A seeded dataset.
pub(super) struct Seeded {
    pub(super) manifest: Arc<Manifest>,
    pub(super) store: Store,
}

impl Seeded {
    pub(super) fn new(root: &Path) -> Self {
        let scan = scan(&[root.to_owned()], None, &ScanOptions::default()).unwrap();
        Self::from_scan(scan, PieceSize::new(PIECE as u64).unwrap())
    }

    pub(super) fn from_scan(scan: Scan, piece_size: PieceSize) -> Self {
        let info = hash(&scan, Some(piece_size), &|_| {}, &AtomicBool::new(false)).unwrap();
        let manifest = Arc::new(Manifest::new(info, Hints::default()).unwrap());
        let store = Store::seed(manifest.clone(), scan).unwrap();
        Self { manifest, store }
    }

    /// A dataset of 24 TiB, made up: it is never read.
    pub(super) fn with_huge_file(scan: Scan) -> Self {
        let seeded = Self::from_scan(scan, PieceSize::new(16 << 20).unwrap());
        let mut info = seeded.manifest.info().clone();
        if let Some(Entry::File { size, .. }) = info.entries.first_mut() {
            *size = 24 << 40;
        }
        info.hashes = vec![PieceHash::from_bytes([1; 32]); 3 << 19];
        let manifest = Arc::new(Manifest::new(info, Hints::default()).unwrap());
        Self { manifest, ..seeded }
    }

    /// A dataset of empty directories at these paths, which need not exist.
    pub(super) fn made_up(name: &str, directories: &[&str]) -> Self {
        let scratch = Scratch::new();
        let seeded = Self::new(&scratch.directory("empty"));
        let mut info = seeded.manifest.info().clone();
        info.name = Name::new(name).unwrap();
        let (mode, mtime) = (0o755, Mtime::default());
        info.entries.extend(directories.iter().map(|path| {
            let path = SafePath::new(*path).unwrap();
            Entry::Directory { path, mode, mtime }
        }));
        let manifest = Arc::new(Manifest::new(info, Hints::default()).unwrap());
        Self { manifest, ..seeded }
    }

    /// The pieces of the file at this path.
    pub(super) fn pieces_of(&self, path: &str) -> Vec<PieceIndex> {
        let entries = &self.manifest.info().entries;
        let entry = entries.iter().position(|entry| entry.path().as_bytes() == path.as_bytes());
        self.store.pieces_of(&[entry.unwrap()])
    }

    pub(super) fn piece(&self, piece: PieceIndex) -> Vec<u8> {
        let mut bytes = vec![0; self.manifest.geometry().piece_len(piece) as usize];
        self.store.read(piece, 0, &mut bytes).unwrap();
        bytes
    }

    pub(super) fn open(&self, directory: &Path) -> Result<Store, StorageError> {
        Store::fetch(self.manifest.clone(), directory, FetchOptions::default(), &|_| {})
    }

    pub(super) fn open_forced(&self, directory: &Path) -> Result<Store, StorageError> {
        Store::fetch(
            self.manifest.clone(),
            directory,
            FetchOptions { force: true, ..FetchOptions::default() },
            &|_| {},
        )
    }

    /// Fetches what is missing, with a flush after every third piece, and finishes.
    pub(super) fn complete(&self, store: &Store) -> Result<PathBuf, StorageError> {
        let durable = store.durable();
        let missing = self.manifest.geometry().pieces().filter(|&piece| !durable.contains(piece));
        for (number, piece) in missing.enumerate() {
            let bytes = self.piece(piece);
            let half = bytes.len() / 2;
            store.write(piece, 0, &bytes[..half])?;
            store.write(piece, u32::try_from(half).unwrap(), &bytes[half..])?;
            store.verified(piece);
            if number % 3 == 2 {
                store.flush()?;
            }
        }
        store.flush()?;
        store.finish()
    }

    /// Tries to complete on one store again and again, as long as errors are reported.
    pub(super) fn complete_stubbornly(&self, store: &Store) -> PathBuf {
        const ATTEMPTS_MAX: u32 = 4;
        for _ in 1..ATTEMPTS_MAX {
            if let Ok(path) = self.complete(store) {
                return path;
            }
        }
        self.complete(store).unwrap()
    }

    /// Whether `bytes_of` reads each piece of the set as it is in the source.
    pub(super) fn assert_pieces(&self, pieces: &PieceSet, data: &Path) {
        for piece in pieces.iter() {
            let mut found = Vec::new();
            for span in self.manifest.layout().spans(piece) {
                let name =
                    std::ffi::OsStr::from_bytes(self.manifest.info().entries[span.entry].path().as_bytes());
                let path = if name.is_empty() { data.to_owned() } else { data.join(name) };
                let mut part = vec![0; span.len as usize];
                File::open(path).unwrap().read_exact_at(&mut part, span.offset).unwrap();
                found.extend(part);
            }
            assert!(found == self.piece(piece), "piece {piece} is recorded, but not there");
        }
    }

    /// The tree at `path` is the source in all that the manifest says.
    pub(super) fn assert_equal(&self, path: &Path) {
        let differences = verify(&self.manifest, path, &Selection::all(&self.manifest), &|_| {}).unwrap();
        let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}

/// The names in a directory.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
