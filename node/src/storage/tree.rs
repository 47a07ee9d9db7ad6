//! Names below a directory handle: the only way from a [`SafePath`] to an open file.
//!
//! No symbolic link is followed on the way and nothing outside of the handle is reached,
//! whatever another process swaps meanwhile: openat2 (Linux 5.6) with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`, or one name at a time with `O_NOFOLLOW` where it is missing.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dft_protocol::manifest::{MODE_MASK, Mtime};
use dft_protocol::path::SafePath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Paths from this length on are walked name by name: the kernel takes PATH_MAX (4096) bytes
/// with the NUL at the end, a manifest's path may have one more.
const KERNEL_PATH_LEN_MAX: usize = 4095;
/// How often a lookup is repeated that a concurrent rename disturbed.
const RETRIES_MAX: u32 = 16;

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    /// A device, a socket or a named pipe.
    Special,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symbolic link",
            Self::Special => "special file",
        }
    }
}

/// Which file it is and in which state: if two of these are equal, so is the content, for all
/// that can be told without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// The filesystem.
    pub device: u64,
    /// The file on it.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// When the content was changed last.
    pub mtime: Mtime,
    /// When content or attributes were changed last; no program can set it.
    pub ctime: Mtime,
}

/// What the filesystem tells about one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attributes {
    pub(super) kind: Kind,
    /// Permission bits within [`MODE_MASK`].
    pub(super) mode: u16,
    pub(super) owner: u32,
    pub(super) identity: Identity,
    /// Bytes on disk, which are fewer than the size where there are holes.
    pub(super) allocated: u64,
    /// It has more than one name.
    pub(super) is_linked: bool,
}

impl Attributes {
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from(rustix::fs::fstat(file)?))
    }

    /// Of a name in a directory; a symbolic link is not followed. `None` where there is none.
    pub(super) fn at(directory: impl AsFd, name: &[u8]) -> io::Result<Option<Self>> {
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Self::from(stat))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl From<Stat> for Attributes {
    fn from(stat: Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            _ => Kind::Special,
        };
        let permissions = stat.st_mode & u32::from(MODE_MASK);
        Self {
            kind,
            mode: u16::try_from(permissions).unwrap_or(MODE_MASK),
            owner: stat.st_uid,
            identity: Identity {
                device: stat.st_dev,
                inode: stat.st_ino,
                size: u64::try_from(stat.st_size).unwrap_or(0),
                mtime: time(stat.st_mtime, stat.st_mtime_nsec),
                ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            },
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            is_linked: stat.st_nlink > 1,
        }
    }
}

fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> Mtime {
    Mtime { seconds, nanoseconds: nanoseconds.try_into().unwrap_or(0) }
}

/// A dataset on disk: its root is the name `base` in `directory`.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) directory: Arc<File>,
    base: Vec<u8>,
    /// Where `directory` is, for messages only.
    shown: PathBuf,
}

impl Tree {
    pub(super) fn new(directory: Arc<File>, base: impl Into<Vec<u8>>, shown: &Path) -> Self {
        Self { directory, base: base.into(), shown: shown.to_owned() }
    }

    /// For messages.
    pub(super) fn shown(&self, path: &SafePath) -> PathBuf {
        self.shown.join(OsStr::from_bytes(&self.bytes(path)))
    }

    /// The path below `directory`.
    pub(super) fn bytes(&self, path: &SafePath) -> Vec<u8> {
        if path.is_root() { self.base.clone() } else { [&self.base, path.as_bytes()].join(&b'/') }
    }

    /// Opens what must exist.
    pub(super) fn open(&self, path: &SafePath, flags: OFlags) -> io::Result<File> {
        resolve(&*self.directory, &self.bytes(path), flags, Mode::empty()).map(File::from)
    }

    /// A way to look at many names in sorted order that opens each directory once.
    pub(super) const fn parents(&self) -> Parents<'_> {
        Parents { tree: self, last: None }
    }
}

/// The directory that holds the name asked for, kept for the next name in it.
pub(super) struct Parents<'a> {
    tree: &'a Tree,
    last: Option<(SafePath, Arc<File>)>,
}

impl Parents<'_> {
    /// The directory in which `path` lies and its name there.
    pub(super) fn of(&mut self, path: &SafePath) -> io::Result<(Arc<File>, Vec<u8>)> {
        let Some(name) = path.components().last() else {
            return Ok((self.tree.directory.clone(), self.tree.base.clone()));
        };
        // With the slash, where there is one.
        let above = &path.as_bytes()[..path.as_bytes().len() - name.len()];
        if let Some((last, directory)) = &self.last
            && last.as_bytes() == above.strip_suffix(b"/").unwrap_or(above)
        {
            return Ok((directory.clone(), name.to_vec()));
        }
        let parent = path.parent().unwrap_or_else(SafePath::root);
        let directory = Arc::new(self.tree.open(&parent, OFlags::PATH | OFlags::DIRECTORY)?);
        self.last = Some((parent, directory.clone()));
        Ok((directory, name.to_vec()))
    }
}

/// Whether a lookup failed since a name is not there, or is not what it would have to be.
pub(super) fn is_missing(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Opens a directory by its path, following symbolic links: for what the user names.
pub(super) fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Whether openat2 is known to be missing.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens `path`, whose components have been validated, below `directory`.
pub(super) fn resolve(directory: impl AsFd, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if path.len() >= KERNEL_PATH_LEN_MAX || NO_OPENAT2.load(Ordering::Relaxed) {
        return resolve_stepwise(directory, path, flags, mode);
    }
    for _ in 0..RETRIES_MAX {
        match rustix::fs::openat2(&directory, path, flags, mode, how) {
            Ok(descriptor) => return Ok(descriptor),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS) => {
                NO_OPENAT2.store(true, Ordering::Relaxed);
                return resolve_stepwise(directory, path, flags, mode);
            }
            // Old sandboxes answer EPERM to calls that they do not know.
            Err(Errno::PERM) => return resolve_stepwise(directory, path, flags, mode),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::AGAIN.into())
}

/// As [`resolve`], for kernels without openat2: one name at a time.
fn resolve_stepwise(directory: impl AsFd, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let mut names = path.split(|&byte| byte == b'/').peekable();
    let mut above: Option<OwnedFd> = None;
    while let Some(name) = names.next() {
        let parent = above.as_ref().map_or(directory.as_fd(), |above| above.as_fd());
        if names.peek().is_none() {
            return Ok(rustix::fs::openat(parent, name, flags, mode)?);
        }
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        above = Some(rustix::fs::openat(parent, name, step, Mode::empty())?);
    }
    Err(Errno::NOENT.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn neither_way_of_resolving_follows_a_symlink() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        std::fs::create_dir_all(root.join("real")).unwrap();
        std::fs::write(root.join("real/file"), "content").unwrap();
        std::fs::write(scratch.path().join("outside"), "secret").unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink("../outside", root.join("escape")).unwrap();
        let directory = open_directory(&root).unwrap();
        type Resolve = fn(&File, &[u8], OFlags, Mode) -> io::Result<OwnedFd>;
        let ways: [Resolve; 2] = [
            |directory, path, flags, mode| resolve(directory, path, flags, mode),
            |directory, path, flags, mode| resolve_stepwise(directory, path, flags | OFlags::NOFOLLOW, mode),
        ];
        for way in ways {
            let open = |path: &str| way(&directory, path.as_bytes(), OFlags::RDONLY, Mode::empty());
            assert!(open("real/file").is_ok());
            for path in ["link/file", "escape", "real/none"] {
                let error = open(path).unwrap_err();
                assert!(is_missing(&error), "{path}: {error}");
            }
        }
    }
}
