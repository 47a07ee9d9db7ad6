//! Pieces in compressed form: packed once at the source, passed on as they came.
//!
//! A seeder packs a piece (zstd, one frame for the whole piece) where that is worth it: a sample of
//! it, and then the whole, becomes at least 5% smaller, and the link takes longer for what is saved
//! than the compressor for the piece; both rates are measured as it goes. On a link that is too
//! fast for any saving nothing is read twice, and where some pieces in a row did not compress, few of those
//! behind them are looked at. The form is kept for
//! whoever asks next. A fetcher keeps what came to it packed, in a bounded cache, and passes it on
//! as it is; it never compresses by itself, for what is no longer in the cache it sends plain.
//!
//! A hash is always that of the plain piece. Unpacking writes into a buffer of the piece's length
//! and no further, in one step, so a frame that would grow beyond all bounds ends in an error.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::piece_set::PieceSet;
use zstd::bulk::{Compressor, Decompressor};

/// Packed pieces that are kept, in bytes.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// zstd's fastest ordinary level: what it saves comes nearly free.
const LEVEL: i32 = 1;
/// A packed piece has at most so many percent of the plain one's length, or it is not worth the
/// other end's work.
const WORTH_PERCENT: usize = 95;
/// A piece shorter than this is a few packets, packed or not.
const PIECE_LEN_MIN: usize = 4 * 1024;
/// A sample is so many parts of a piece …
const SAMPLE_PARTS: usize = 3;
/// … of this length each.
const SAMPLE_PART_LEN: usize = 4 * 1024;
/// What a piece can lose at the best, in percent: a link that is too fast even so has nothing read
/// twice for its sake.
const SAVED_PERCENT_MAX: u64 = 90;
/// After so many pieces in a row that do not compress …
const MISSES_MAX: u32 = 8;
/// … one of so many is looked at, until one does.
const LOOKED_AT_OF: usize = 8;
/// Idle compressors that are kept: as many pieces are packed at once.
const COMPRESSORS_MAX: usize = 4;

/// Whether pieces are packed here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Packing {
    /// Never; not even what came packed is passed on so.
    Off,
    /// What came packed is passed on so.
    #[default]
    PassOn,
    /// Where it is worth it.
    Auto,
    /// Wherever it makes a piece smaller.
    Always,
}

/// Packs the pieces of one manifest, and keeps packed ones.
pub(super) struct Packer {
    packing: Packing,
    kept: Mutex<Kept>,
    compressors: Mutex<Vec<Compressor<'static>>>,
    /// Bytes per second that the compressor takes in, of the latest pieces; 0 where nothing is known.
    rate: AtomicU64,
    /// How many pieces in a row did not compress.
    misses: AtomicU32,
    /// Bytes that were not sent, since their pieces went packed.
    saved: AtomicU64,
}

#[derive(Default)]
struct Kept {
    packed: BTreeMap<PieceIndex, Arc<[u8]>>,
    /// The oldest first.
    order: VecDeque<PieceIndex>,
    bytes: usize,
    /// Pieces that do not compress.
    plain: Option<PieceSet>,
}

impl Packer {
    pub(super) fn new(packing: Packing, piece_count: usize) -> Self {
        let kept = Kept { plain: Some(PieceSet::empty(piece_count)), ..Kept::default() };
        Self {
            packing,
            kept: Mutex::new(kept),
            compressors: Mutex::default(),
            rate: AtomicU64::new(0),
            misses: AtomicU32::new(0),
            saved: AtomicU64::new(0),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece in packed form, where it is at hand.
    pub(super) fn find(&self, piece: PieceIndex) -> Option<Arc<[u8]>> {
        if self.packing == Packing::Off {
            return None;
        }
        self.kept().packed.get(&piece).cloned()
    }

    /// Whether to try to pack a piece of `len` bytes for a link that sends so many bytes per second,
    /// as far as that is known.
    pub(super) fn is_worth(&self, piece: PieceIndex, len: usize, link_rate: Option<u64>) -> bool {
        let wanted = match self.packing {
            Packing::Off | Packing::PassOn => false,
            Packing::Always => true,
            Packing::Auto => {
                self.looks_at(piece) && link_rate.is_some_and(|it| self.is_faster(it, SAVED_PERCENT_MAX))
            }
        };
        let is_plain = || self.kept().plain.as_ref().is_some_and(|plain| plain.contains(piece));
        wanted && len >= PIECE_LEN_MIN && !is_plain()
    }

    /// Whether to look at a piece, by what became of the latest ones.
    fn looks_at(&self, piece: PieceIndex) -> bool {
        self.misses.load(Ordering::Relaxed) < MISSES_MAX || piece.index().is_multiple_of(LOOKED_AT_OF)
    }

    /// Whether packing takes less time than it saves where so many percent are saved:
    /// saved / link_rate against 1 / rate. Where nothing is known yet, a sample is worth a try.
    fn is_faster(&self, link_rate: u64, saved_percent: u64) -> bool {
        let rate = self.rate.load(Ordering::Relaxed);
        rate == 0 || u128::from(saved_percent) * u128::from(rate) > 100 * u128::from(link_rate)
    }

    /// Packs a piece of `len` bytes, which `read` fills a buffer with from an offset on; `None` where
    /// that is not worth it on a link of this rate, or it cannot be read. Blocks for as long as it takes.
    pub(super) fn pack<E>(
        &self,
        piece: PieceIndex,
        len: usize,
        link_rate: Option<u64>,
        read: impl Fn(u32, &mut [u8]) -> Result<(), E>,
    ) -> Option<Arc<[u8]>> {
        let pooled = self.compressors.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut compressor = pooled.map_or_else(|| Compressor::new(LEVEL).ok(), Some)?;
        let packed = self.compress(&mut compressor, len, link_rate, read);
        let mut pool = self.compressors.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < COMPRESSORS_MAX {
            pool.push(compressor);
        }
        drop(pool);
        let packed = packed?;
        // Two that are counted at once may count as one.
        let misses = self.misses.load(Ordering::Relaxed);
        let is_miss = matches!(packed, Outcome::Incompressible);
        self.misses.store(if is_miss { misses.saturating_add(1) } else { 0 }, Ordering::Relaxed);
        match packed {
            Outcome::Packed(packed) => {
                self.keep(piece, packed.clone());
                Some(packed)
            }
            Outcome::NotWorth => None,
            Outcome::Incompressible => {
                if let Some(plain) = &mut self.kept().plain {
                    plain.insert(piece);
                }
                None
            }
        }
    }

    fn compress<E>(
        &self,
        compressor: &mut Compressor<'static>,
        len: usize,
        link_rate: Option<u64>,
        read: impl Fn(u32, &mut [u8]) -> Result<(), E>,
    ) -> Option<Outcome> {
        let mut sample = vec![0; SAMPLE_PARTS * SAMPLE_PART_LEN.min(len / SAMPLE_PARTS)];
        let part_len = sample.len() / SAMPLE_PARTS;
        for (number, part) in sample.chunks_mut(part_len).enumerate() {
            let offset = number * (len - part_len) / (SAMPLE_PARTS - 1);
            read(u32::try_from(offset).ok()?, part).ok()?;
        }
        let began = Instant::now();
        let packed = compressor.compress(&sample).ok()?;
        if self.rate.load(Ordering::Relaxed) == 0 {
            self.learn(sample.len(), began.elapsed());
        }
        if !is_smaller(&packed, &sample) {
            return Some(Outcome::Incompressible);
        }
        let saved_percent = (sample.len() - packed.len()) * 100 / sample.len();
        let link_rate = link_rate.filter(|_| self.packing == Packing::Auto);
        if link_rate.is_some_and(|link_rate| !self.is_faster(link_rate, saved_percent as u64)) {
            return Some(Outcome::NotWorth);
        }
        let mut data = vec![0; len];
        read(0, &mut data).ok()?;
        let began = Instant::now();
        let packed = compressor.compress(&data).ok()?;
        self.learn(data.len(), began.elapsed());
        Some(if is_smaller(&packed, &data) {
            Outcome::Packed(packed.into())
        } else {
            Outcome::Incompressible
        })
    }

    /// The latest piece counts for as much as all before.
    fn learn(&self, len: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let new = ((len as u64).saturating_mul(1_000_000_000) / nanos).max(1);
        let old = self.rate.load(Ordering::Relaxed);
        self.rate.store(if old == 0 { new } else { old.midpoint(new) }, Ordering::Relaxed);
    }

    /// Keeps a packed piece for others; the oldest go.
    pub(super) fn keep(&self, piece: PieceIndex, packed: Arc<[u8]>) {
        if self.packing == Packing::Off || packed.len() > KEPT_BYTES_MAX {
            return;
        }
        let mut kept = self.kept();
        if kept.packed.contains_key(&piece) {
            return;
        }
        kept.bytes += packed.len();
        kept.packed.insert(piece, packed);
        kept.order.push_back(piece);
        while kept.bytes > KEPT_BYTES_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.bytes -= kept.packed.remove(&oldest).map_or(0, |packed| packed.len());
        }
    }

    /// A piece went packed.
    pub(super) fn count(&self, len: usize, packed_len: usize) {
        self.saved.fetch_add(len.saturating_sub(packed_len) as u64, Ordering::Relaxed);
    }

    /// Bytes that were not sent, since their pieces went packed.
    pub(super) fn saved_bytes(&self) -> u64 {
        self.saved.load(Ordering::Relaxed)
    }
}

fn is_smaller(packed: &[u8], plain: &[u8]) -> bool {
    packed.len() * 100 <= plain.len() * WORTH_PERCENT
}

/// What came of an attempt to pack a piece.
enum Outcome {
    Packed(Arc<[u8]>),
    /// It would become smaller, but that takes longer than it saves on this link.
    NotWorth,
    Incompressible,
}

/// Unpacks pieces, with memory that it keeps.
#[derive(Default)]
pub(super) struct Unpacker {
    decompressor: Option<Decompressor<'static>>,
}

impl Unpacker {
    /// Unpacks `packed` into all of `plain`; false where it is not of exactly that length, or no
    /// frame.
    pub(super) fn unpack(&mut self, packed: &[u8], plain: &mut [u8]) -> bool {
        if self.decompressor.is_none() {
            self.decompressor = Decompressor::new().ok();
        }
        let Some(decompressor) = &mut self.decompressor else {
            return false;
        };
        let len = plain.len();
        // The buffer's end is the frame's end: nothing is allocated for its window.
        decompressor.decompress_to_buffer(packed, plain).is_ok_and(|written| written == len)
    }
}

#[cfg(test)]
mod tests {
    use dft_protocol::geometry::Geometry;
    use rand::{Rng, SeedableRng};

    use super::*;

    const LEN: usize = 256 * 1024;

    fn text(seed: usize) -> Vec<u8> {
        (0..).flat_map(|line: usize| format!("{line} {}\n", line * seed).into_bytes()).take(LEN).collect()
    }

    fn noise() -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        rand_xoshiro::Xoshiro256StarStar::seed_from_u64(1).fill_bytes(&mut bytes);
        bytes
    }

    fn reader(data: &[u8]) -> impl Fn(u32, &mut [u8]) -> Result<(), ()> {
        |offset, buffer| {
            buffer.copy_from_slice(&data[offset as usize..][..buffer.len()]);
            Ok(())
        }
    }

    fn pieces(count: usize) -> Vec<PieceIndex> {
        Geometry::new(vec![u32::try_from(LEN).unwrap(); count]).unwrap().pieces().collect()
    }

    #[test]
    fn what_is_packed_is_unpacked_and_noise_stays_as_it_is() {
        let packer = Packer::new(Packing::Always, 2);
        let [piece, other] = pieces(2)[..] else { unreachable!() };
        let packed = packer.pack(piece, LEN, None, reader(&text(7))).expect("text compresses");
        assert!(packed.len() < LEN / 2 && packer.find(piece).is_some());
        let mut plain = vec![0; LEN];
        assert!(Unpacker::default().unpack(&packed, &mut plain));
        assert_eq!(plain, text(7));

        assert!(packer.is_worth(other, LEN, None));
        assert!(packer.pack(other, LEN, None, reader(&noise())).is_none());
        assert!(!packer.is_worth(other, LEN, None), "it is not tried again");
    }

    #[test]
    fn frames_of_another_length_cut_ones_and_bombs_are_refused() {
        let packed = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        assert!(packed.len() < 16 * 1024, "64 MiB in {} bytes", packed.len());
        let mut unpacker = Unpacker::default();
        let mut plain = vec![0; LEN];
        assert!(!unpacker.unpack(&packed, &mut plain), "it would not fit");
        let short = zstd::bulk::compress(&text(3)[1..], LEVEL).unwrap();
        assert!(!unpacker.unpack(&short, &mut plain), "one byte is missing");
        let right = zstd::bulk::compress(&text(3), LEVEL).unwrap();
        for len in (0..right.len()).step_by(997) {
            assert!(!unpacker.unpack(&right[..len], &mut plain), "cut at {len}");
        }
        assert!(!unpacker.unpack(&noise(), &mut plain));
        assert!(unpacker.unpack(&right, &mut plain) && plain == text(3), "and it goes on");
    }

    #[test]
    fn packing_by_itself_is_for_links_slower_than_the_compressor() {
        let packer = Packer::new(Packing::Auto, 1);
        let piece = pieces(1)[0];
        assert!(!packer.is_worth(piece, LEN, None), "nothing is known of the link");
        packer.learn(1_000_000, Duration::from_millis(10));
        assert!(packer.is_worth(piece, LEN, Some(89_000_000)), "90% of 100 MB/s might be saved");
        assert!(!packer.is_worth(piece, LEN, Some(91_000_000)));
        assert!(packer.pack(piece, LEN, Some(85_000_000), reader(&text(7))).is_none(), "it is not so much");
        assert!(packer.is_worth(piece, LEN, Some(1_000_000)), "on a slower link it is tried again");
        assert!(packer.pack(piece, LEN, Some(1_000_000), reader(&text(7))).is_some());
        assert!(!Packer::new(Packing::PassOn, 1).is_worth(piece, LEN, Some(1)));
    }

    #[test]
    fn behind_pieces_that_do_not_compress_few_are_looked_at_until_one_does() {
        let packer = Packer::new(Packing::Auto, 40);
        let pieces = pieces(40);
        packer.learn(1_000_000, Duration::from_millis(10));
        let looked_at = |packer: &Packer, from: usize| -> Vec<usize> {
            (from..40).filter(|index| packer.is_worth(pieces[*index], LEN, Some(1_000_000))).collect()
        };
        for piece in &pieces[..8] {
            assert!(packer.pack(*piece, LEN, Some(1_000_000), reader(&noise())).is_none());
        }
        assert_eq!(looked_at(&packer, 8), [8, 16, 24, 32]);
        assert!(packer.pack(pieces[8], LEN, Some(1_000_000), reader(&text(7))).is_some());
        assert_eq!(looked_at(&packer, 9), (9..40).collect::<Vec<_>>());
        // Who says «always» has each one looked at.
        let packer = Packer::new(Packing::Always, 40);
        for piece in &pieces[..8] {
            assert!(packer.pack(*piece, LEN, None, reader(&noise())).is_none());
        }
        assert_eq!(looked_at(&packer, 8).len(), 32);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let packer = Packer::new(Packing::PassOn, 5);
        let pieces = pieces(5);
        for piece in &pieces {
            packer.keep(*piece, vec![0; KEPT_BYTES_MAX / 4].into());
        }
        assert!(packer.find(pieces[0]).is_none() && packer.find(pieces[1]).is_some());
        assert_eq!(packer.kept().bytes, KEPT_BYTES_MAX);
        let off = Packer::new(Packing::Off, 5);
        off.keep(pieces[0], vec![0; 10].into());
        assert!(off.find(pieces[0]).is_none());
    }
}
