//! A source tree, its manifest, and a fetch of it without a network.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dft_protocol::geometry::{PieceIndex, PieceSize};
use dft_protocol::manifest::{Hints, Manifest};
use tempfile::TempDir;

use crate::storage::{FetchOptions, ScanOptions, StorageError, Store, hash, scan, verify};

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
        fn open_up(path: &Path) {
            let Ok(metadata) = path.symlink_metadata() else { return };
            if metadata.is_dir() {
                let _ = fs::set_permissions(path, Permissions::from_mode(0o700));
                fs::read_dir(path).into_iter().flatten().flatten().for_each(|entry| open_up(&entry.path()));
            }
        }
        open_up(self.path());
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

/// A seeded dataset.
pub(super) struct Seeded {
    pub(super) manifest: Arc<Manifest>,
    pub(super) store: Store,
    pub(super) root: PathBuf,
}

impl Seeded {
    pub(super) fn new(root: &Path) -> Self {
        let scan = scan(&[root.to_owned()], None, &ScanOptions::default()).unwrap();
        let piece_size = PieceSize::new(PIECE as u64).unwrap();
        let info = hash(&scan, Some(piece_size), &|_| {}, &AtomicBool::new(false)).unwrap();
        let manifest = Arc::new(Manifest::new(info, Hints::default()).unwrap());
        let store = Store::seed(manifest.clone(), scan).unwrap();
        Self { manifest, store, root: root.to_owned() }
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
        Store::fetch(self.manifest.clone(), directory, FetchOptions { force: true }, &|_| {})
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

    /// The tree at `path` is the source in all that the manifest says.
    pub(super) fn assert_equal(&self, path: &Path) {
        let differences = verify(&self.manifest, path, &|_| {}).unwrap();
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
