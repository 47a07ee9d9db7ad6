//! Datasets that a seed determines: the same seed gives the same bytes, names and attributes.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What is written at once.
const CHUNK_LEN: usize = 1 << 20;
/// Tiny files per directory: as people's datasets have them.
const FILES_PER_DIRECTORY: usize = 500;
/// The longest tiny file.
const TINY_LEN_MAX: u64 = 8 * 1024;

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, and good enough that nothing compresses.
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A new file of `len` random bytes.
pub fn random_file(path: &Path, seed: u64, len: u64) {
    let mut file = create(path);
    let mut random = Random::new(seed);
    let mut buffer = vec![0; CHUNK_LEN];
    let mut left = len;
    while left > 0 {
        let count = usize::try_from(left).map_or(CHUNK_LEN, |left| left.min(CHUNK_LEN));
        random.fill(&mut buffer[..count]);
        write(path, &mut file, &buffer[..count]);
        left -= count as u64;
    }
}

/// A new directory of `count` files of 0 to 8 KiB in directories of 500, together `total` bytes
/// where that is given. Returns the bytes of all files.
pub fn tiny_files(root: &Path, seed: u64, count: usize, total: Option<u64>) -> u64 {
    let mut random = Random::new(seed);
    let mut sizes: Vec<u64> = (0..count).map(|_| random.below(TINY_LEN_MAX + 1)).collect();
    if let Some(total) = total {
        scale_to(&mut sizes, total);
    }
    let mut buffer = vec![0; 2 * CHUNK_LEN];
    for (number, &size) in sizes.iter().enumerate() {
        let directory = root.join(format!("part-{:03}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            make_directory(&directory);
        }
        let path = directory.join(format!("sample-{number:06}.dat"));
        let content = &mut buffer[..usize::try_from(size).expect("a tiny file is small")];
        random.fill(content);
        write(&path, &mut create(&path), content);
    }
    sizes.iter().sum()
}

/// Scales the sizes so that they sum up to `total`: the last takes what rounding left.
fn scale_to(sizes: &mut [u64], total: u64) {
    let sum: u64 = sizes.iter().sum();
    for size in sizes.iter_mut() {
        *size = *size * total / sum.max(1);
    }
    let rest = total - sizes.iter().sum::<u64>();
    if let Some(last) = sizes.last_mut() {
        *last += rest;
    }
}

/// A new file of `len` bytes that is a hole but for `islands` blocks of 64 KiB of random bytes,
/// spread evenly; the last island ends the file.
pub fn sparse_file(path: &Path, seed: u64, len: u64, islands: u64) {
    const ISLAND_LEN: u64 = 64 * 1024;
    let file = create(path);
    file.set_len(len).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut random = Random::new(seed);
    let mut island = vec![0; usize::try_from(ISLAND_LEN).expect("it is 64 KiB")];
    for number in 1..=islands {
        random.fill(&mut island);
        let end = len / islands * number + if number == islands { len % islands } else { 0 };
        file.write_all_at(&island, end - ISLAND_LEN)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// A new directory with one of everything that is hard to carry over: odd names, empty files and
/// directories, links, holes, modes and times.
pub fn odd_tree(root: &Path, seed: u64) {
    make_directory(root);
    let mut random = Random::new(seed);
    odd_names(root, &mut random);
    odd_sizes(root, &mut random);
    symbolic_links(root);
    deep_path(root, &mut random);
    modes(root, &mut random);
    // Last, since every change of a directory sets its time.
    times(root);
}

/// The name of the directory of [`odd_tree`] that nobody may write.
pub const READ_ONLY_DIRECTORY: &str = "read-only";

fn odd_names(root: &Path, random: &mut Random) {
    let longest = [b'n'; 255];
    let names: [&[u8]; 17] = [
        b"not utf-8 \xff\xfe\x80",
        b"new\nline",
        b"-rf",
        b"--help",
        b" leading and trailing blank ",
        b".hidden",
        b"...",
        b"quote ' and \" and `",
        b"back\\slash",
        b"$HOME",
        b"star * question ?",
        b"tab\tbell\x07escape\x1b[31m",
        "\u{e9}t\u{e9}".as_bytes(),
        "e\u{301}te\u{301}".as_bytes(),
        b"Readme",
        b"README",
        &longest,
    ];
    let directory = root.join("odd names");
    make_directory(&directory);
    for name in names {
        small_file(&directory.join(OsStr::from_bytes(name)), random);
    }
    let inner = directory.join(OsStr::from_bytes(b"directory \xc3\x28\n"));
    make_directory(&inner);
    small_file(&inner.join(OsStr::from_bytes(b"\x01")), random);
}

fn odd_sizes(root: &Path, random: &mut Random) {
    let directory = root.join("sizes");
    make_directory(&directory);
    let piece = 64 * 1024;
    for size in [0, 1, 4095, 4096, 4097, piece - 1, piece, piece + 1, 3 * piece + 17] {
        random_file(&directory.join(format!("{size:07}")), random.next(), size);
    }
    make_directory(&root.join("empty directory"));
    make_directory(&root.join("nested/empty/directories"));
    sparse_file(&root.join("sparse"), random.next(), 16 << 20, 3);
    let all_hole = create(&root.join("all hole"));
    all_hole.set_len(5 << 20).expect("a file can be extended");
}

fn symbolic_links(root: &Path) {
    let directory = root.join("links");
    make_directory(&directory);
    let links = [
        ("to a file", "../sizes/0004096"),
        ("to a directory", "../sizes"),
        ("to a link", "to a file"),
        ("to nothing", "there is nothing here"),
        ("up to the root", ".."),
    ];
    for (name, target) in links {
        let link = directory.join(name);
        symlink(target, &link).unwrap_or_else(|error| panic!("{}: {error}", link.display()));
    }
}

fn deep_path(root: &Path, random: &mut Random) {
    let mut directory = root.join("deep");
    for level in 0..40 {
        directory.push(format!("level {level:02} of many levels"));
    }
    make_directory(&directory);
    small_file(&directory.join("at the end"), random);
}

fn modes(root: &Path, random: &mut Random) {
    let directory = root.join("modes");
    make_directory(&directory);
    for mode in [0o400, 0o444, 0o600, 0o644, 0o664, 0o666, 0o700, 0o755, 0o777] {
        let path = directory.join(format!("{mode:o}"));
        small_file(&path, random);
        set_mode(&path, mode);
    }
    for mode in [0o700, 0o750, 0o775, 0o777] {
        let path = directory.join(format!("directory {mode:o}"));
        make_directory(&path);
        small_file(&path.join("inside"), random);
        set_mode(&path, mode);
    }
}

fn times(root: &Path) {
    let at = |seconds: i64, nanoseconds: u32| {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let base = if seconds < 0 { SystemTime::UNIX_EPOCH - whole } else { SystemTime::UNIX_EPOCH + whole };
        base + Duration::from_nanos(nanoseconds.into())
    };
    let read_only = root.join(READ_ONLY_DIRECTORY);
    make_directory(&read_only);
    small_file(&read_only.join("inside"), &mut Random::new(1));
    set_mtime(&root.join("sizes/0000000"), at(0, 0));
    set_mtime(&root.join("sizes/0000001"), at(-86_400, 999_999_999));
    set_mtime(&root.join("sizes/0004096"), at(4_102_444_800, 1));
    set_mtime(&root.join("sparse"), at(1_234_567_890, 123_456_789));
    set_mtime(&root.join("empty directory"), at(1_000_000_000, 500));
    set_mtime(&root.join("nested"), at(1_000_000_001, 7));
    set_mtime(&read_only, at(946_684_800, 42));
    set_mode(&read_only, 0o555);
    set_mtime(root, at(1_111_111_111, 111_111_111));
}

/// Overwrites one byte of a file with another value, and keeps its length.
pub fn change_byte(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the byte is there");
    file.write_all_at(&[byte[0] ^ 0x55], offset).expect("the file is writable");
}

/// Sets the permission bits.
pub fn set_mode(path: &Path, mode: u32) {
    let result = fs::set_permissions(path, Permissions::from_mode(mode));
    result.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Sets the modification time.
pub fn set_mtime(path: &Path, time: SystemTime) {
    let set = |file: File| file.set_times(FileTimes::new().set_modified(time));
    File::open(path).and_then(set).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// All regular files below a directory, sorted.
pub fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

fn small_file(path: &Path, random: &mut Random) {
    let len = 1 + random.below(3000);
    random_file(path, random.next(), len);
}

fn make_directory(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn create(path: &Path) -> File {
    File::create_new(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(path: &Path, file: &mut File, bytes: &[u8]) {
    file.write_all(bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
