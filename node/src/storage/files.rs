//! A few open files, the most recently used ones, for all threads.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use rustix::io::{Errno, ReadWriteFlags};

use super::error::StorageError;

/// Files kept open: with 64 descriptors in all, links and directories need the rest.
const OPEN_FILES_MAX: usize = 16;

/// The most recently used files of a dataset by entry index, last used first.
#[derive(Default)]
pub(super) struct OpenFiles {
    recent: Mutex<VecDeque<(usize, Arc<File>)>>,
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
                recent.truncate(OPEN_FILES_MAX - 1);
                Arc::new(open()?)
            }
        };
        recent.push_front((entry, file.clone()));
        Ok(file)
    }

    /// The file of `entry`, where it is open.
    pub(super) fn open_file(&self, entry: usize) -> Option<Arc<File>> {
        let recent = self.recent.lock().expect("no thread panics while it holds this lock");
        recent.iter().find(|(open, _)| *open == entry).map(|(_, file)| file.clone())
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
