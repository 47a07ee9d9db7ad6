//! A few open files, the most recently used ones, for all threads.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::{Errno, ReadWriteFlags};

use super::error::StorageError;

/// Files kept open: with 64 descriptors in all, links and directories need the rest.
const OPEN_FILES_MAX: usize = 16;
/// All datasets of a process keep this part of its descriptors in files; with more, each keeps one.
const SHARE: u64 = 4;

/// Files that all datasets of this process keep open.
static KEPT_OPEN: AtomicUsize = AtomicUsize::new(0);

/// The most recently used files of a dataset by entry index, last used first.
#[derive(Default)]
pub(super) struct OpenFiles {
    recent: Mutex<VecDeque<(usize, Arc<File>)>>,
}

/// How many files one dataset may keep open while all of them keep `kept`, of `descriptors`.
fn open_files_max(kept: usize, descriptors: Option<u64>) -> usize {
    let share = descriptors.map_or(usize::MAX, |all| usize::try_from(all / SHARE).unwrap_or(usize::MAX));
    if kept < share { OPEN_FILES_MAX } else { 1 }
}

impl OpenFiles {
    /// The file of `entry`, opened by `open` where it is not open.
    pub(super) fn file(
        &self,
        entry: usize,
        open: impl FnOnce() -> Result<File, StorageError>,
    ) -> Result<Arc<File>, StorageError> {
        let mut recent = self.recent.lock().expect("no thread panics while it holds this lock");
        let file = match recent.iter().position(|(open, _)| *open == entry) {
            Some(place) => recent.remove(place).map(|(_, file)| file),
            None => None,
        };
        let file = match file {
            Some(file) => file,
            None => {
                let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
                let max = open_files_max(KEPT_OPEN.load(Ordering::Relaxed), descriptors);
                close_all_but(&mut recent, max - 1);
                let file = Arc::new(open()?);
                KEPT_OPEN.fetch_add(1, Ordering::Relaxed);
                file
            }
        };
        recent.push_front((entry, file.clone()));
        Ok(file)
    }

    /// Closes all.
    pub(super) fn close(&self) {
        close_all_but(&mut self.recent.lock().unwrap_or_else(PoisonError::into_inner), 0);
    }

    /// The file of `entry`, where it is open.
    pub(super) fn open_file(&self, entry: usize) -> Option<Arc<File>> {
        let recent = self.recent.lock().expect("no thread panics while it holds this lock");
        recent.iter().find(|(open, _)| *open == entry).map(|(_, file)| file.clone())
    }
}

fn close_all_but(recent: &mut VecDeque<(usize, Arc<File>)>, count: usize) {
    let before = recent.len();
    recent.truncate(count);
    KEPT_OPEN.fetch_sub(before - recent.len(), Ordering::Relaxed);
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
            (0, Some(1024), OPEN_FILES_MAX),
            (255, Some(1024), OPEN_FILES_MAX),
            (256, Some(1024), 1),
            (9_999, None, OPEN_FILES_MAX),
        ] {
            assert_eq!(open_files_max(kept, descriptors), max, "{kept} of {descriptors:?}");
        }
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
