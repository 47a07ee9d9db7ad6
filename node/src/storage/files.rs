//! A few open files, the most recently used ones, for all threads.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Mutex};

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
}
