//! Pieces that pass through memory: they are read by somebody who waits for them, and nothing of them is kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::Manifest;

use super::error::StorageError;
use super::pieces::PieceHasher;

/// The pieces of one dataset that are in memory, whole or in part. Whoever fetches bounds how many.
#[derive(Default)]
pub(super) struct Passing {
    pieces: Mutex<BTreeMap<PieceIndex, Vec<u8>>>,
}

impl Passing {
    fn pieces(&self) -> MutexGuard<'_, BTreeMap<PieceIndex, Vec<u8>>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(
        &self,
        manifest: &Manifest,
        piece: PieceIndex,
        offset: u32,
        data: &[u8],
    ) -> Result<(), StorageError> {
        let len = manifest.geometry().piece_len(piece) as usize;
        let mut pieces = self.pieces();
        if offset == 0 && data.len() == len {
            pieces.insert(piece, data.to_vec());
            return Ok(());
        }
        let bytes = pieces.entry(piece).or_insert_with(|| vec![0; len]);
        let end = u64::from(offset) + data.len() as u64;
        let place = bytes.get_mut(offset as usize..offset as usize + data.len());
        place.ok_or(StorageError::OutOfPiece { piece, end })?.copy_from_slice(data);
        Ok(())
    }

    pub(super) fn read(&self, piece: PieceIndex, offset: u32, buffer: &mut [u8]) -> Result<(), StorageError> {
        let pieces = self.pieces();
        let bytes = pieces.get(&piece).ok_or(StorageError::Passed { piece })?;
        let end = u64::from(offset) + buffer.len() as u64;
        let place = bytes.get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(place.ok_or(StorageError::OutOfPiece { piece, end })?);
        Ok(())
    }

    pub(super) fn is_right(&self, manifest: &Manifest, piece: PieceIndex) -> Result<bool, StorageError> {
        let pieces = self.pieces();
        let bytes = pieces.get(&piece).ok_or(StorageError::Passed { piece })?;
        Ok(PieceHasher::of(bytes).matches(manifest.hash(piece)))
    }

    /// Gives back the memory of all other pieces.
    pub(super) fn keep(&self, stays: impl Fn(PieceIndex) -> bool) {
        self.pieces().retain(|piece, _| stays(*piece));
    }
}
