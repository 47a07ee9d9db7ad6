//! Compares two trees entry by entry: what a copy must have in common with its original.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use sha2::{Digest, Sha256};

/// The bits of a mode that a dataset carries.
const MODE_MASK: u32 = 0o777;
/// What is read at once, and below which a hole need not survive.
const CHUNK_LEN: usize = 64 * 1024;
/// A copy may use this many more bytes on disk than its original, beside one part in 16: file
/// systems allocate in extents of their own.
const ALLOCATION_SLACK: u64 = 512 * 1024;
/// How many differences a failure lists.
const SHOWN_DIFFERENCES: usize = 20;

/// What of one entry must be the same in a copy.
#[derive(PartialEq, Eq, Debug)]
enum Entry {
    File { mode: u32, mtime: (i64, i64), size: u64, sha256: String },
    Directory { mode: u32, mtime: (i64, i64) },
    Symlink { target: PathBuf },
    Other,
}

/// Fails the test unless `copy` is a faithful copy of `original`, files or directories.
pub fn assert_same(original: &Path, copy: &Path) {
    let differences = differences(original, copy);
    let shown = differences.iter().take(SHOWN_DIFFERENCES).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        differences.is_empty(),
        "{} differs from {} in {} entries:\n{shown}",
        copy.display(),
        original.display(),
        differences.len()
    );
}

/// Fails the test unless two files hold the same bytes, whatever their times.
pub fn assert_same_bytes(original: &Path, copy: &Path) {
    let read =
        |path: &Path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(read(original) == read(copy), "{} differs from {}", copy.display(), original.display());
}

/// How `copy` differs from `original`, a line per entry.
pub fn differences(original: &Path, copy: &Path) -> Vec<String> {
    let (expected, found) = (entries(original), entries(copy));
    let mut lines = Vec::new();
    for (path, (entry, allocated)) in &expected {
        match found.get(path) {
            None => lines.push(format!("{path:?}: missing")),
            Some((other, _)) if other != entry => {
                lines.push(format!("{path:?}: {other:?} where {entry:?} is expected"));
            }
            Some((_, bytes)) if *bytes > allocated + allocated / 16 + ALLOCATION_SLACK => {
                lines.push(format!("{path:?}: {bytes} bytes on disk where the original has {allocated}"));
            }
            Some(_) => {}
        }
    }
    let surplus = found.keys().filter(|path| !expected.contains_key(*path));
    lines.extend(surplus.map(|path| format!("{path:?}: not in the original")));
    lines
}

/// The bytes that a file takes on disk.
pub fn allocated_bytes(path: &Path) -> u64 {
    metadata(path).blocks() * 512
}

/// Every entry at and below `root`, and the bytes it takes on disk.
fn entries(root: &Path) -> BTreeMap<PathBuf, (Entry, u64)> {
    let mut entries = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(relative) = waiting.pop() {
        let path = if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(&relative) };
        let metadata = metadata(&path);
        if metadata.is_dir() {
            let read = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            waiting.extend(read.map(|entry| relative.join(entry.expect("a readable entry").file_name())));
        }
        entries.insert(relative, (entry(&path, &metadata), metadata.blocks() * 512));
    }
    entries
}

fn entry(path: &Path, metadata: &Metadata) -> Entry {
    let (mode, mtime) = (metadata.mode() & MODE_MASK, (metadata.mtime(), metadata.mtime_nsec()));
    let kind = metadata.file_type();
    if kind.is_file() {
        Entry::File { mode, mtime, size: metadata.len(), sha256: sha256_of_file(path) }
    } else if kind.is_dir() {
        Entry::Directory { mode, mtime }
    } else if kind.is_symlink() {
        let target = fs::read_link(path);
        Entry::Symlink { target: target.unwrap_or_else(|error| panic!("{}: {error}", path.display())) }
    } else {
        Entry::Other
    }
}

/// A digest of the content: of every chunk that is not all zeros, with its offset, so that it is
/// the same however zeros are stored. Holes aren't read: some file systems are slow at that.
fn sha256_of_file(path: &Path) -> String {
    let fail = |error: std::io::Error| -> ! { panic!("{}: {error}", path.display()) };
    let zeros = [0; CHUNK_LEN];
    let file = File::open(path).unwrap_or_else(|error| fail(error));
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_LEN];
    let mut offset: u64 = 0;
    // Data begins anywhere; chunks begin at multiples of their length, in every copy.
    while let Ok(data) = seek(&file, SeekFrom::Data(offset)) {
        offset = data - data % CHUNK_LEN as u64;
        let mut filled = 0;
        while filled < CHUNK_LEN {
            let place = offset + filled as u64;
            match file.read_at(&mut chunk[filled..], place).unwrap_or_else(|error| fail(error)) {
                0 => break,
                count => filled += count,
            }
        }
        if chunk[..filled] != zeros[..filled] {
            hasher.update(offset.to_le_bytes());
            hasher.update(&chunk[..filled]);
        }
        offset += CHUNK_LEN as u64;
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn metadata(path: &Path) -> Metadata {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
