//! Open files of a dataset, those that were used lately, for all threads.
//!
//! To open a tiny file takes longer than to write it: what was written stays open for whoever asks for the
//! piece next, and for its mode and time, as far as the process has descriptors.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::io::{Errno, ReadWriteFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::StorageError;

/// All datasets of a process keep this part of its descriptors in files; links and directories need the
/// rest. Beyond it, each keeps one.
const SHARE: usize = 4;
/// One dataset keeps half of that …
const SHARE_OF_ONE: usize = 2 * SHARE;
/// … but no fewer than these: with 64 descriptors in all there is room for as many …
const OPEN_FILES_MIN: usize = 16;
/// … and no more than these: each costs the kernel some hundred bytes.
const OPEN_FILES_MAX: usize = 8192;

/// So many descriptors the kernel's table has room for at once.
const TABLE_LEN: i32 = 8191;

/// Files that all datasets of this process keep open.
static KEPT_OPEN: AtomicUsize = AtomicUsize::new(0);

/// Lets this process have as many descriptors as the system gives, which is far more than where
/// processes usually start. To be called before there are threads.
pub fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it is not allowed, what there is has to do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // The kernel's table grows now, at once: with several threads it would grow in steps, each of which waits for
    // all processors, some 10 ms.
    if let Ok(any) = File::open("/dev/null") {
        let _ = rustix::io::fcntl_dupfd_cloexec(&any, TABLE_LEN);
    }
}

/// How many descriptors this process may have.
fn descriptors() -> Option<u64> {
    static LIMIT: OnceLock<Option<u64>> = OnceLock::new();
    *LIMIT.get_or_init(|| getrlimit(Resource::Nofile).current)
}

/// The open files of a dataset by entry index.
#[derive(Default)]
pub(super) struct OpenFiles {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    files: HashMap<usize, Open>,
    /// All of them, in the order in which they are looked at when one has to go: whoever was used since it
    /// was looked at last stays. (The clock algorithm: Corbató, 1968.)
    clock: VecDeque<usize>,
}

struct Open {
    file: Arc<File>,
    used: bool,
}

/// How many files one dataset may keep open while all of them keep `kept`, of `descriptors`.
fn open_files_max(kept: usize, descriptors: Option<u64>) -> usize {
    let all = descriptors.map_or(usize::MAX, |all| usize::try_from(all).unwrap_or(usize::MAX));
    if kept < all / SHARE { (all / SHARE_OF_ONE).clamp(OPEN_FILES_MIN, OPEN_FILES_MAX) } else { 1 }
}

impl OpenFiles {
    /// The file of `entry`, opened by `open` where it is not open.
    pub(super) fn file(
        &self,
        entry: usize,
        open: impl FnOnce() -> Result<File, StorageError>,
    ) -> Result<Arc<File>, StorageError> {
        if let Some(file) = self.open_file(entry) {
            return Ok(file);
        }
        let max = open_files_max(KEPT_OPEN.load(Ordering::Relaxed), descriptors());
        self.kept().shrink(max - 1);
        // Others go on meanwhile; whoever opened the same file sooner has the one that is kept.
        let file = Arc::new(open()?);
        Ok(self.kept().keep(entry, file))
    }

    /// Closes one.
    pub(super) fn close_one(&self, entry: usize) {
        if self.kept().files.remove(&entry).is_some() {
            KEPT_OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Closes all.
    pub(super) fn close(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).shrink(0);
    }

    /// The file of `entry`, where it is open.
    pub(super) fn open_file(&self, entry: usize) -> Option<Arc<File>> {
        let mut kept = self.kept();
        let open = kept.files.get_mut(&entry)?;
        open.used = true;
        Some(open.file.clone())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no thread panics while it holds this lock")
    }
}

impl Kept {
    fn keep(&mut self, entry: usize, file: Arc<File>) -> Arc<File> {
        if let Some(open) = self.files.get(&entry) {
            return open.file.clone();
        }
        KEPT_OPEN.fetch_add(1, Ordering::Relaxed);
        self.clock.push_back(entry);
        self.files.insert(entry, Open { file: file.clone(), used: false });
        file
    }

    /// Closes files until so many are left.
    fn shrink(&mut self, count: usize) {
        while self.files.len() > count
            && let Some(entry) = self.clock.pop_front()
        {
            match self.files.get_mut(&entry) {
                Some(open) if open.used && count > 0 => {
                    open.used = false;
                    self.clock.push_back(entry);
                }
                Some(_) => {
                    self.files.remove(&entry);
                    KEPT_OPEN.fetch_sub(1, Ordering::Relaxed);
                }
                // It was closed by itself.
                None => {}
            }
        }
    }
}

impl Drop for OpenFiles {
    fn drop(&mut self) {
        self.close();
    }
}

/// Fills `buffer` from memory alone; false where the disk would have to be waited for.
pub(super) fn read_from_memory(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
    const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
    let len = buffer.len();
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(read == len),
        Err(Errno::AGAIN) => Ok(false),
        // Not every filesystem can tell; what lies in a tmpfs is in memory in any case.
        Err(Errno::OPNOTSUPP) if rustix::fs::fstatfs(file)?.f_type == TMPFS_MAGIC => {
            file.read_exact_at(buffer, offset).map(|()| true)
        }
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_datasets_keep_few_files_each() {
        // all that are kept, descriptors, how many one may keep
        for (kept, descriptors, max) in [
            (0, Some(64), OPEN_FILES_MIN),
            (0, Some(1024), 128),
            (255, Some(1024), 128),
            (256, Some(1024), 1),
            (9_999, None, OPEN_FILES_MAX),
        ] {
            assert_eq!(open_files_max(kept, descriptors), max, "{kept} of {descriptors:?}");
        }
    }

    #[test]
    fn what_is_used_stays_open_and_what_is_not_goes_first() {
        let files = OpenFiles::default();
        let null = || Arc::new(File::open("/dev/null").expect("it is there"));
        for entry in 0..4 {
            files.kept().keep(entry, null());
        }
        let again = files.open_file(1).expect("it is kept");
        assert!(Arc::ptr_eq(&again, &files.kept().keep(1, null())), "the first one that was opened");
        files.kept().shrink(2);
        let open: Vec<usize> = (0..4).filter(|entry| files.open_file(*entry).is_some()).collect();
        assert_eq!(open, [1, 3], "0 and 2 were not used");
    }

    #[test]
    fn closed_files_are_opened_again() {
        let files = OpenFiles::default();
        let open = || Ok(File::open("/dev/null").expect("it is there"));
        files.file(0, open).expect("it opens");
        assert!(files.open_file(0).is_some());
        files.close();
        assert!(files.open_file(0).is_none());
        files.file(0, open).expect("it opens");
    }
}
