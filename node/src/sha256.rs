//! SHA-256, two messages at a time on one core.
//!
//! The SHA instructions of x86 have a long latency: a second, independent message fits into the
//! gaps of the first. [`update_two`] takes two running hashes forward by interleaving their
//! blocks; whoever has several pieces to hash keeps two of them going and refills a lane when its
//! piece ends ([`crate::storage`] for reading, [`crate::net::link::intake`] for what arrives). More lanes
//! gain nothing. Where the instructions are missing, or for one message alone, all work is done by
//! [`sha2`], which is also what the tests hold this against.
//!
//! Its only `unsafe` is the call of a function for a processor that was asked, at run time,
//! whether it is one.

use sha2::block_api::compress256;

#[cfg(target_arch = "x86_64")]
mod pair_x86;

const BLOCK_LEN: usize = 64;
/// FIPS 180-4, 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A SHA-256 in progress.
#[derive(Clone)]
pub struct Sha256 {
    state: [u32; 8],
    /// Bytes taken in so far.
    len: u64,
    /// The last `len % 64` of them.
    tail: [u8; BLOCK_LEN],
}

impl Default for Sha256 {
    fn default() -> Self {
        Self { state: INITIAL, len: 0, tail: [0; BLOCK_LEN] }
    }
}

impl Sha256 {
    /// The hash of nothing so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// The SHA-256 of `bytes`.
    pub fn digest(bytes: &[u8]) -> [u8; 32] {
        let mut hash = Self::new();
        hash.update(bytes);
        hash.finish()
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = self.fill_tail(bytes).as_chunks::<BLOCK_LEN>();
        compress256(&mut self.state, blocks);
        self.keep(blocks.len(), rest);
    }

    /// The SHA-256 of all bytes taken in.
    pub fn finish(mut self) -> [u8; 32] {
        let bits = self.len.wrapping_mul(8);
        let mut padding = [0; 2 * BLOCK_LEN];
        padding[0] = 0x80;
        // Up to the length field, which ends a block.
        let used = self.tail_len();
        let end = if used < BLOCK_LEN - 8 { BLOCK_LEN } else { 2 * BLOCK_LEN } - used;
        padding[end - 8..end].copy_from_slice(&bits.to_be_bytes());
        self.update(&padding[..end]);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    fn tail_len(&self) -> usize {
        // 64 divides 256: the last byte of the length tells.
        usize::from(self.len.to_le_bytes()[0]) % BLOCK_LEN
    }

    /// Completes the block that is begun; returns the bytes that are left.
    fn fill_tail<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let used = self.tail_len();
        if used == 0 {
            return bytes;
        }
        let (head, rest) = bytes.split_at(bytes.len().min(BLOCK_LEN - used));
        self.tail[used..used + head.len()].copy_from_slice(head);
        self.len += head.len() as u64;
        if used + head.len() == BLOCK_LEN {
            compress256(&mut self.state, &[self.tail]);
        }
        rest
    }

    /// Counts blocks that were compressed, and keeps what is no whole block.
    fn keep(&mut self, blocks: usize, rest: &[u8]) {
        self.len += (blocks * BLOCK_LEN) as u64;
        if !rest.is_empty() {
            self.tail[..rest.len()].copy_from_slice(rest);
            self.len += rest.len() as u64;
        }
    }
}

/// Takes in more bytes of two messages: as [`Sha256::update`] on each, in up to half the time.
pub fn update_two(first: (&mut Sha256, &[u8]), second: (&mut Sha256, &[u8])) {
    let (first, bytes) = first;
    let (first_blocks, first_rest) = first.fill_tail(bytes).as_chunks::<BLOCK_LEN>();
    let (second, bytes) = second;
    let (second_blocks, second_rest) = second.fill_tail(bytes).as_chunks::<BLOCK_LEN>();
    let both = first_blocks.len().min(second_blocks.len());
    let (first_pair, first_alone) = first_blocks.split_at(both);
    let (second_pair, second_alone) = second_blocks.split_at(both);
    compress_two(&mut first.state, first_pair, &mut second.state, second_pair);
    compress256(&mut first.state, first_alone);
    compress256(&mut second.state, second_alone);
    first.keep(first_blocks.len(), first_rest);
    second.keep(second_blocks.len(), second_rest);
}

/// Compresses equally many blocks into each of two states.
#[cfg(target_arch = "x86_64")]
fn compress_two(
    first: &mut [u32; 8],
    first_blocks: &[[u8; BLOCK_LEN]],
    second: &mut [u32; 8],
    second_blocks: &[[u8; BLOCK_LEN]],
) {
    if pair_x86::is_supported() {
        // SAFETY: the processor has the instructions that the function needs.
        #[allow(unsafe_code, reason = "the only way to call a function for one kind of processor")]
        unsafe {
            pair_x86::compress_two(first, first_blocks, second, second_blocks);
        }
    } else {
        compress256(first, first_blocks);
        compress256(second, second_blocks);
    }
}

/// Compresses equally many blocks into each of two states.
#[cfg(not(target_arch = "x86_64"))]
fn compress_two(
    first: &mut [u32; 8],
    first_blocks: &[[u8; BLOCK_LEN]],
    second: &mut [u32; 8],
    second_blocks: &[[u8; BLOCK_LEN]],
) {
    compress256(first, first_blocks);
    compress256(second, second_blocks);
}

#[cfg(test)]
mod tests;
