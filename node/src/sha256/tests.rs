use sha2::Digest;

use super::{Sha256, update_two};

/// Bytes that look random and are the same each time.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

fn expected(bytes: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(bytes).into()
}

#[test]
fn one_message_of_any_length_hashes_as_sha2_says() {
    let all = bytes(1000, 1);
    for len in 0..=all.len() {
        assert_eq!(Sha256::digest(&all[..len]), expected(&all[..len]), "{len} bytes");
    }
}

#[test]
fn two_messages_of_any_lengths_hash_as_sha2_says() {
    let (first, second) = (bytes(260, 2), bytes(260, 3));
    for first_len in 0..=first.len() {
        for second_len in 0..=second.len() {
            let (mut a, mut b) = (Sha256::new(), Sha256::new());
            update_two((&mut a, &first[..first_len]), (&mut b, &second[..second_len]));
            assert_eq!(a.finish(), expected(&first[..first_len]), "{first_len} beside {second_len}");
            assert_eq!(b.finish(), expected(&second[..second_len]), "{second_len} beside {first_len}");
        }
    }
}

#[test]
fn two_messages_in_any_parts_hash_as_sha2_says() {
    let (first, second) = (bytes(20_000, 4), bytes(20_000, 5));
    for seed in 0..200 {
        let mut cuts = bytes(400, seed).into_iter().map(|cut| usize::from(cut) * usize::from(cut % 5));
        let (mut a, mut b) = (Sha256::new(), Sha256::new());
        let (mut a_at, mut b_at) = (0, 0);
        while a_at < first.len() || b_at < second.len() {
            let mut part = |at: usize, len: usize| at..(at + cuts.next().unwrap_or(5000)).min(len);
            let (a_part, b_part) = (part(a_at, first.len()), part(b_at, second.len()));
            (a_at, b_at) = (a_part.end, b_part.end);
            match seed % 3 {
                0 => a.update(&first[a_part.clone()]),
                _ => update_two((&mut a, &first[a_part]), (&mut b, &second[b_part.clone()])),
            }
            if seed % 3 == 0 {
                b.update(&second[b_part]);
            }
        }
        assert_eq!(a.finish(), expected(&first));
        assert_eq!(b.finish(), expected(&second));
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_pair_of_blocks_is_compressed_as_each_alone() {
    if !super::pair_x86::is_supported() {
        println!("SKIPPED: this processor has no SHA instructions");
        return;
    }
    for seed in 0..1000 {
        let all = bytes(64 * 8, seed);
        let (blocks, _) = all.as_chunks::<64>();
        let (first, second) = blocks.split_at(4);
        let mut states = [super::INITIAL, super::INITIAL.map(|word| word.rotate_left(3))];
        let mut alone = states;
        let [a, b] = &mut states;
        super::compress_two(a, first, b, second);
        super::compress256(&mut alone[0], first);
        super::compress256(&mut alone[1], second);
        assert_eq!(states, alone);
    }
}
