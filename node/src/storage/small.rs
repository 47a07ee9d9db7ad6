//! Small files of a dataset that is being assembled, which arrive whole, many in one pack.
//!
//! To open a tiny file takes longer than to write it. So each gets its mode and time along with its bytes,
//! and is closed for good; and the packs that came lately stay in memory, for the peers who ask for them next.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::Mtime;

use super::assembly::write_run;
use super::disk;
use super::tree::{Attributes, Identity};
use crate::buffers::Buffer;

/// Packs of all datasets of a process that are kept in memory, in bytes.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Those of one dataset. Fresh memory costs as much as what it saves: a pack is asked for soon, or much later.
const KEPT_BYTES_OF_ONE_MAX: usize = KEPT_BYTES_MAX / 4;

static KEPT_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The small files of one dataset that are written.
#[derive(Default)]
pub(super) struct Finished {
    /// By entry: as the file was when it had its bytes, its mode and its time. Nobody wrote to it since.
    identities: Mutex<BTreeMap<usize, Identity>>,
}

impl Finished {
    /// Makes the file of `entry` called `name` in `parent`, with all of its bytes, mode and time. False where
    /// that name cannot be made: something has it, or whoever tries it another way can say why not.
    pub(super) fn write(
        &self,
        (parent, name): (&File, &[u8]),
        entry: usize,
        (bytes, mode, mtime): (&[u8], u16, Mtime),
    ) -> io::Result<bool> {
        let Ok(file) = disk::create_new(parent, name, mode) else { return Ok(false) };
        // A last block of zeros would be a hole, and the file too short.
        write_run(&file, 0, bytes, bytes.last().is_some_and(|last| *last != 0))?;
        // Where this fails it is tried again when all bytes are there, and told of then.
        if let Ok(identity) = set_attributes(&file, mode, mtime) {
            self.identities().insert(entry, identity);
        }
        Ok(true)
    }

    /// As the file of `entry` is, where nothing is left to do for it.
    pub(super) fn identity(&self, entry: usize) -> Option<Identity> {
        self.identities().get(&entry).copied()
    }

    /// Somebody writes to that file, or is about to. Whether it was finished.
    pub(super) fn reopen(&self, entry: usize) -> bool {
        self.identities().remove(&entry).is_some()
    }

    fn identities(&self) -> MutexGuard<'_, BTreeMap<usize, Identity>> {
        self.identities.lock().expect("no thread panics while it holds this lock")
    }
}

fn set_attributes(file: &File, mode: u16, mtime: Mtime) -> io::Result<Identity> {
    disk::set_mtime(file, mtime)?;
    let there = Attributes::of(file)?;
    if there.mode == mode {
        return Ok(there.identity);
    }
    // The user's umask took something of it away.
    disk::set_mode(file, mode)?;
    Ok(Attributes::of(file)?.identity)
}

/// The packs of one dataset that came lately.
#[derive(Default)]
pub(super) struct Recent {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    packs: HashMap<PieceIndex, Vec<u8>>,
    /// All of them and some that are gone, oldest first.
    order: VecDeque<PieceIndex>,
    bytes: usize,
}

impl Recent {
    /// Keeps a whole pack, in place of the oldest: the memory of `buffer`, which gets other memory for it.
    pub(super) fn keep(&self, piece: PieceIndex, buffer: &mut Buffer) {
        let mut kept = self.kept();
        kept.remove(piece);
        // Memory that one pack leaves is where the next one goes.
        let mut memory = None;
        while kept.bytes + buffer.len() > KEPT_BYTES_OF_ONE_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            memory = kept.remove(oldest).or(memory);
        }
        if KEPT_BYTES.fetch_add(buffer.len(), Ordering::Relaxed) + buffer.len() > KEPT_BYTES_MAX {
            KEPT_BYTES.fetch_sub(buffer.len(), Ordering::Relaxed);
            return;
        }
        let mut memory = memory.unwrap_or_else(|| vec![0; buffer.len()]);
        buffer.swap(&mut memory);
        kept.bytes += memory.len();
        kept.order.push_back(piece);
        kept.packs.insert(piece, memory);
    }

    /// Fills `buffer` with what begins at `offset` of a pack, where it is here.
    pub(super) fn read(&self, piece: PieceIndex, offset: u32, buffer: &mut [u8]) -> bool {
        let kept = self.kept();
        let part = kept.packs.get(&piece).and_then(|pack| pack.get(offset as usize..)?.get(..buffer.len()));
        part.map(|part| buffer.copy_from_slice(part)).is_some()
    }

    pub(super) fn forget(&self, piece: PieceIndex) {
        self.kept().remove(piece);
    }

    /// Gives all memory back.
    pub(super) fn clear(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        KEPT_BYTES.fetch_sub(kept.bytes, Ordering::Relaxed);
        *kept = Kept::default();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no thread panics while it holds this lock")
    }
}

impl Kept {
    fn remove(&mut self, piece: PieceIndex) -> Option<Vec<u8>> {
        let pack = self.packs.remove(&piece)?;
        self.bytes -= pack.len();
        KEPT_BYTES.fetch_sub(pack.len(), Ordering::Relaxed);
        Some(pack)
    }
}

impl Drop for Recent {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use dft_protocol::geometry::Geometry;

    use super::*;
    use crate::buffers::BufferPool;

    #[tokio::test]
    async fn the_oldest_packs_leave_when_there_is_no_room() {
        const PACK: usize = 1 << 20;
        let geometry = Geometry::new(vec![1 << 20; 10]).expect("few pieces");
        let pieces: Vec<PieceIndex> = geometry.pieces().collect();
        let (recent, buffers) = (Recent::default(), BufferPool::new(1, PACK));
        for (number, &piece) in pieces.iter().enumerate() {
            let mut buffer = buffers.take().await;
            buffer.fill(u8::try_from(number).expect("there are few"));
            recent.keep(piece, &mut buffer);
        }
        // Whoever has the buffer next does not write into what is kept.
        buffers.take().await.fill(77);
        let mut byte = [0];
        let there: Vec<bool> = pieces.iter().map(|piece| recent.read(*piece, 5, &mut byte)).collect();
        assert_eq!(there, [vec![false; 2], vec![true; 8]].concat(), "8 MiB of them");
        assert_eq!(byte, [9]);
        assert!(!recent.read(pieces[9], u32::try_from(PACK).expect("it fits"), &mut byte), "beyond its end");
        recent.forget(pieces[9]);
        assert!(!recent.read(pieces[9], 0, &mut byte));
        recent.keep(pieces[0], &mut buffers.take().await);
        assert!(recent.read(pieces[2], 0, &mut byte), "there was room");
        recent.clear();
        assert!(!recent.read(pieces[0], 0, &mut byte));
    }
}
