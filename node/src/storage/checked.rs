//! Pieces that are held against their hash as they are read: whatever a disk did to them meanwhile,
//! what is handed on is right. And what is right of a damaged copy, for the fetch that replaces it.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::Manifest;
use rustix::fs::OFlags;

use super::error::StorageError;
use super::files::OpenFiles;
use super::pieces::{PieceHasher, runs};
use super::store::Store;
use super::tree::Tree;

/// Bytes that are made durable at once.
pub const FLUSH_BYTES: u64 = 256 * 1024 * 1024;

impl Store {
    /// Reads all of a piece into `buffer`, which gets its length. Where that is not what the manifest
    /// says, it is [`StorageError::Corrupt`] and `buffer` is of no meaning.
    pub fn read_checked(&self, piece: PieceIndex, buffer: &mut Vec<u8>) -> Result<(), StorageError> {
        let manifest = self.manifest();
        buffer.resize(manifest.geometry().piece_len(piece) as usize, 0);
        self.read(piece, 0, buffer)?;
        if is_right(manifest, piece, buffer) { Ok(()) } else { Err(StorageError::Corrupt { piece }) }
    }

    /// Makes a piece be here, and verified, that `from` has. Large files share the blocks of that, where the
    /// filesystem can; what they share is read here, and what is wrong is written over. `buffer` is scratch.
    pub fn copy_checked(
        &self,
        piece: PieceIndex,
        from: &Self,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StorageError> {
        self.clone_file(piece, from)?;
        if !self.is_written_right(piece) {
            from.read_checked(piece, buffer)?;
            self.write(piece, 0, buffer)?;
        }
        self.verified(piece);
        Ok(())
    }

    /// Takes over the pieces that are right in what has the final name, where this fetch is to replace
    /// that: only the others are left to be fetched. What is there is read and never written to.
    /// Ends within a piece once `cancel` is set. Blocks.
    pub fn salvage(&self, cancel: &AtomicBool) -> Result<(), StorageError> {
        let Some(tree) = self.replaced() else { return Ok(()) };
        let manifest = self.manifest();
        let (files, have, mut buffer, mut unflushed) = (OpenFiles::default(), self.durable(), Vec::new(), 0);
        let missing = self.selection().pieces(manifest);
        for piece in missing.iter().filter(|piece| !have.contains(*piece)) {
            if cancel.load(Ordering::Relaxed) {
                return Err(StorageError::Cancelled);
            }
            buffer.resize(manifest.geometry().piece_len(piece) as usize, 0);
            if !read_damaged(manifest, tree, &files, piece, &mut buffer) {
                continue;
            }
            self.write(piece, 0, &buffer)?;
            self.verified(piece);
            unflushed += buffer.len() as u64;
            if unflushed >= FLUSH_BYTES {
                self.flush()?;
                unflushed = 0;
            }
        }
        self.flush().map(drop)
    }
}

fn is_right(manifest: &Manifest, piece: PieceIndex, bytes: &[u8]) -> bool {
    PieceHasher::of(bytes).matches(manifest.hash(piece))
}

/// Reads a piece where it may be; false where it cannot be read, or is not what it should be.
fn read_damaged(
    manifest: &Manifest,
    tree: &Tree,
    files: &OpenFiles,
    piece: PieceIndex,
    buffer: &mut [u8],
) -> bool {
    let Some(mut runs) = runs(manifest.layout(), piece, 0, buffer.len()) else { return false };
    let is_read = runs.all(|(run, range)| {
        let file = files.file(run.entry, || {
            let path = manifest.info().entries[run.entry].path();
            let opened = tree.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY);
            opened.map_err(StorageError::at("read", &tree.shown(path)))
        });
        file.is_ok_and(|file| file.read_exact_at(&mut buffer[range], run.offset).is_ok())
    });
    is_read && is_right(manifest, piece, buffer)
}
