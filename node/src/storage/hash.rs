//! Cuts a scanned dataset into pieces and hashes them: what the manifest says of it.

use std::sync::atomic::{AtomicBool, Ordering};

use dft_protocol::geometry::{PIECE_COUNT_MAX, PieceIndex, PieceSize};
use dft_protocol::id::PieceHash;
use dft_protocol::layout::{Layout, PackCutter};
use dft_protocol::manifest::{Entry, Info, ManifestError};

use super::error::StorageError;
use super::pieces::{Examine, PieceHasher, PieceReader, for_each_piece};
use super::scan::Scan;

/// Hashes a dataset on all cores, each byte read once and holes not at all. Without
/// `piece_size` the total decides. `progress` hears how many bytes are hashed; once `cancel` is
/// set it ends within a piece. A file that changes meanwhile is an error that names it.
pub fn hash(
    scan: &Scan,
    piece_size: Option<PieceSize>,
    progress: &(dyn Fn(u64) + Sync),
    cancel: &AtomicBool,
) -> Result<Info, StorageError> {
    let piece_size = piece_size.unwrap_or_else(|| PieceSize::for_total(scan.total_bytes));
    if scan.total_bytes.div_ceil(piece_size.bytes().into()) > PIECE_COUNT_MAX as u64 {
        return Err(ManifestError::TooManyPieces.into());
    }
    let packs = cut_packs(&scan.entries, piece_size);
    let layout = Layout::new(&scan.entries, piece_size, &packs)?;
    let geometry = layout.geometry();
    let pieces: Vec<_> = geometry.pieces().collect();
    let contents = scan.in_place();
    let mut bytes = 0;
    let hashes = for_each_piece(&pieces, (&layout, &contents), &Hashing { cancel }, &mut |piece| {
        bytes += u64::from(geometry.piece_len(piece));
        progress(bytes);
    })?;
    Ok(Info { name: scan.name.clone(), piece_size, entries: scan.entries.clone(), packs, hashes })
}

/// Finds out the hash of each piece, until cancelled.
struct Hashing<'a> {
    cancel: &'a AtomicBool,
}

impl Examine for Hashing<'_> {
    type Finding = PieceHash;

    fn known(&self, _: PieceIndex, _: &mut PieceReader<'_>) -> Result<Option<PieceHash>, StorageError> {
        if self.cancel.load(Ordering::Relaxed) { Err(StorageError::Cancelled) } else { Ok(None) }
    }

    fn judge(
        &self,
        _: PieceIndex,
        hash: Result<PieceHasher, StorageError>,
    ) -> Result<PieceHash, StorageError> {
        hash.map(PieceHasher::finish)
    }
}

fn cut_packs(entries: &[Entry], piece_size: PieceSize) -> Vec<u32> {
    let mut cutter = PackCutter::new(piece_size);
    for entry in entries {
        match u32::try_from(entry.size()) {
            Ok(size) if size > 0 && size < piece_size.bytes() => cutter.push(entry.path(), size),
            _ => {}
        }
    }
    cutter.finish()
}
