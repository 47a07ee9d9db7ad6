//! Many small files: each is done when it is written, and what came lately is read from memory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::Entry;

use super::fixture::{Scratch, Seeded, many_small};
use crate::buffers::BufferPool;
use crate::storage::Store;

/// A dataset of many small files, and a store with all of it written and nothing finished.
fn written(scratch: &Scratch) -> (Seeded, Store, PathBuf) {
    let source = scratch.directory("source");
    many_small(&source);
    let seeded = Seeded::new(&source);
    let target = scratch.directory("target");
    let store = seeded.open(&target).unwrap();
    let buffers = BufferPool::new(1, seeded.manifest.geometry().piece_len_max() as usize);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for piece in seeded.manifest.geometry().pieces() {
        let (mut buffer, data) = (runtime.block_on(buffers.take()), seeded.piece(piece));
        buffer[..data.len()].copy_from_slice(&data);
        store.write_whole(piece, &mut buffer).unwrap();
        store.verified(piece);
    }
    (seeded, store, target.join(".source.dft-part/data"))
}

fn read(store: &Store, seeded: &Seeded, piece: PieceIndex) -> Vec<u8> {
    let mut buffer = vec![0; seeded.piece(piece).len()];
    store.read(piece, 0, &mut buffer).unwrap();
    buffer
}

#[test]
fn small_files_have_their_modes_and_times_when_they_are_written() {
    let scratch = Scratch::new();
    let (seeded, store, data) = written(&scratch);
    for entry in &seeded.manifest.info().entries {
        let Entry::File { path, mode, mtime, .. } = entry else { continue };
        let there = fs::metadata(data.join(path.to_string())).unwrap();
        assert_eq!(there.permissions().mode() & 0o777, u32::from(*mode), "{path}");
        assert_eq!((there.mtime(), there.mtime_nsec()), (mtime.seconds, mtime.nanoseconds.into()), "{path}");
    }
    seeded.assert_equal(&store.finish().unwrap());
}

#[test]
fn packs_that_came_lately_are_read_from_memory_until_they_are_forgotten() {
    let scratch = Scratch::new();
    let (seeded, store, data) = written(&scratch);
    let piece = seeded.pieces_of("full/01")[0];
    // Whoever may write to a file with mode 0444 is root.
    fs::set_permissions(data.join("full/01"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(data.join("full/01"), [0; 31]).unwrap();
    assert!(read(&store, &seeded, piece) == seeded.piece(piece));
    assert!(!store.rehash(piece).unwrap(), "what is on disk is another matter");
    store.forget(&[piece]);
    assert!(read(&store, &seeded, piece) != seeded.piece(piece));
    store.write(piece, 0, &seeded.piece(piece)).unwrap();
    store.verified(piece);
    seeded.assert_equal(&store.finish().unwrap());
}

#[test]
fn a_file_that_is_written_again_gets_its_mode_and_time_again() {
    let scratch = Scratch::new();
    let (seeded, store, _) = written(&scratch);
    let pieces: Vec<_> = seeded.manifest.geometry().pieces().collect();
    store.close_files();
    for &piece in &pieces {
        assert!(read(&store, &seeded, piece) == seeded.piece(piece), "it is opened to be read");
    }
    store.forget(&pieces);
    for &piece in &pieces {
        store.write(piece, 0, &seeded.piece(piece)).unwrap();
        store.verified(piece);
    }
    store.close_files();
    for &piece in &pieces {
        assert!(store.rehash(piece).unwrap(), "piece {piece}");
    }
    seeded.assert_equal(&store.finish().unwrap());
}
