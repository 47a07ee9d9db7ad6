//! Copies a dataset from one place on this node to another: pieces are read, checked, written (or shared,
//! where the filesystem can) and flushed as those of a fetch are, so that a copy appears under its name
//! complete or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dft_protocol::manifest::Manifest;

use crate::storage::{FLUSH_BYTES, FetchOptions, StorageError, Store};

/// Stops threads that hash or copy when nobody waits for them any more.
#[derive(Default)]
pub(super) struct CancelOnDrop(Arc<AtomicBool>);

impl CancelOnDrop {
    /// What the threads look at.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes `directory` hold what `options` select of what `from` has all of; returns the path of the
/// copy. `progress` hears how many bytes are there; once `cancel` is set it ends within a piece.
/// Blocks.
pub(super) fn copy(
    from: &Store,
    manifest: &Arc<Manifest>,
    directory: &Path,
    options: FetchOptions,
    (progress, cancel): (&dyn Fn(u64), &AtomicBool),
) -> Result<PathBuf, StorageError> {
    let to = Store::fetch(manifest.clone(), directory, options, &|_| {})?;
    if to.is_finished() {
        return Ok(to.final_path().unwrap_or_default());
    }
    let geometry = manifest.geometry();
    let (have, mut bytes, mut unflushed) = (to.durable(), 0, 0);
    let mut buffer = Vec::new();
    for piece in to.selection().pieces(manifest).iter() {
        if cancel.load(Ordering::Relaxed) {
            return Err(StorageError::Cancelled);
        }
        let len = geometry.piece_len(piece);
        if !have.contains(piece) {
            to.copy_checked(piece, from, &mut buffer)?;
            unflushed += u64::from(len);
            if unflushed >= FLUSH_BYTES {
                to.flush()?;
                unflushed = 0;
            }
        }
        bytes += u64::from(len);
        progress(bytes);
    }
    to.flush()?;
    to.finish()
}
