//! Two SHA-256 states side by side, with the SHA instructions of x86.
//!
//! Each instruction is written once for each lane, next to its twin, so that the processor works
//! on one lane while it waits for the other. The order of the steps is FIPS 180-4, 6.2.2, four
//! rounds at a time, as the instructions want it.

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

/// Whether this processor has the instructions.
pub(super) fn is_supported() -> bool {
    std::arch::is_x86_feature_detected!("sha")
        && std::arch::is_x86_feature_detected!("ssse3")
        && std::arch::is_x86_feature_detected!("sse4.1")
}

/// FIPS 180-4, 4.2.2.
const K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// One message: its state in the order that the instructions want, and 16 words of its schedule.
#[derive(Clone, Copy)]
struct Lane {
    abef: __m128i,
    cdgh: __m128i,
    w: [__m128i; 4],
}

/// Compresses equally many blocks into each of two states.
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub(super) fn compress_two(
    first: &mut [u32; 8],
    first_blocks: &[[u8; 64]],
    second: &mut [u32; 8],
    second_blocks: &[[u8; 64]],
) {
    let mut a = load_state(first);
    let mut b = load_state(second);
    for (first_block, second_block) in first_blocks.iter().zip(second_blocks) {
        let (a_before, b_before) = (a, b);
        a.w = load_block(first_block);
        b.w = load_block(second_block);
        for i in 0..4 {
            rounds4(i, i, &mut a, &mut b);
        }
        for step in 1..4 {
            for i in 0..4 {
                schedule(i, &mut a, &mut b);
                rounds4(4 * step + i, i, &mut a, &mut b);
            }
        }
        a.abef = _mm_add_epi32(a.abef, a_before.abef);
        b.abef = _mm_add_epi32(b.abef, b_before.abef);
        a.cdgh = _mm_add_epi32(a.cdgh, a_before.cdgh);
        b.cdgh = _mm_add_epi32(b.cdgh, b_before.cdgh);
    }
    *first = store_state(&a);
    *second = store_state(&b);
}

/// Four rounds on each lane: `group` counts them, their words of the schedule are in `w[i]`.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn rounds4(group: usize, i: usize, a: &mut Lane, b: &mut Lane) {
    let k = _mm_set_epi32(
        K[4 * group + 3].cast_signed(),
        K[4 * group + 2].cast_signed(),
        K[4 * group + 1].cast_signed(),
        K[4 * group].cast_signed(),
    );
    let a_words = _mm_add_epi32(a.w[i], k);
    let b_words = _mm_add_epi32(b.w[i], k);
    a.cdgh = _mm_sha256rnds2_epu32(a.cdgh, a.abef, a_words);
    b.cdgh = _mm_sha256rnds2_epu32(b.cdgh, b.abef, b_words);
    a.abef = _mm_sha256rnds2_epu32(a.abef, a.cdgh, _mm_shuffle_epi32(a_words, 0x0e));
    b.abef = _mm_sha256rnds2_epu32(b.abef, b.cdgh, _mm_shuffle_epi32(b_words, 0x0e));
}

/// The next four words of each lane's schedule, in place of the oldest.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn schedule(i: usize, a: &mut Lane, b: &mut Lane) {
    a.w[i] = next_words(&a.w, i);
    b.w[i] = next_words(&b.w, i);
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn next_words(w: &[__m128i; 4], i: usize) -> __m128i {
    let older = _mm_sha256msg1_epu32(w[i], w[(i + 1) % 4]);
    let newer = _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4);
    _mm_sha256msg2_epu32(_mm_add_epi32(older, newer), w[(i + 3) % 4])
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn load_block(block: &[u8; 64]) -> [__m128i; 4] {
    // Words are big-endian.
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let (halves, _) = block.as_chunks::<8>();
    let half = |i: usize| i64::from_le_bytes(halves[i]);
    core::array::from_fn(|i| _mm_shuffle_epi8(_mm_set_epi64x(half(2 * i + 1), half(2 * i)), swap))
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn load_state(state: &[u32; 8]) -> Lane {
    let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
    let none = _mm_set_epi64x(0, 0);
    Lane { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h), w: [none; 4] }
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn store_state(lane: &Lane) -> [u32; 8] {
    let (abef, cdgh) = (lane.abef, lane.cdgh);
    [
        _mm_extract_epi32::<3>(abef),
        _mm_extract_epi32::<2>(abef),
        _mm_extract_epi32::<3>(cdgh),
        _mm_extract_epi32::<2>(cdgh),
        _mm_extract_epi32::<1>(abef),
        _mm_extract_epi32::<0>(abef),
        _mm_extract_epi32::<1>(cdgh),
        _mm_extract_epi32::<0>(cdgh),
    ]
    .map(i32::cast_unsigned)
}
