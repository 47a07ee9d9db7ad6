//! The layout as a promise: every byte lies in exactly one piece, and a small change to a
//! dataset leaves almost all pieces as they were.

use std::collections::BTreeSet;

use dft_protocol::geometry::PieceSize;
use dft_protocol::layout::{Layout, PackCutter};
use dft_protocol::manifest::{Entry, Mtime};
use dft_protocol::path::SafePath;
use proptest::prelude::*;

fn piece_size(bytes: u64) -> PieceSize {
    PieceSize::new(bytes).unwrap()
}

fn file(path: &str, size: u64) -> Entry {
    Entry::File { path: SafePath::new(path).unwrap(), size, mode: 0o644, mtime: Mtime::default() }
}

fn cut(entries: &[Entry], size: PieceSize) -> Vec<u32> {
    let mut cutter = PackCutter::new(size);
    for entry in entries {
        let bytes = u32::try_from(entry.size()).unwrap_or(u32::MAX);
        if (1..size.bytes()).contains(&bytes) {
            cutter.push(entry.path(), bytes);
        }
    }
    cutter.finish()
}

/// A file as a pack holds it: its path and a number that stands for its content.
type Small = (String, u32, u64);

/// What each pack of these files holds.
fn packs(files: &[Small], size: PieceSize) -> BTreeSet<Vec<Small>> {
    let entries: Vec<_> = files.iter().map(|(path, size, _)| file(path, (*size).into())).collect();
    let mut rest = files;
    let mut packs = BTreeSet::new();
    for count in cut(&entries, size) {
        let (pack, behind) = rest.split_at(count as usize);
        packs.insert(pack.to_vec());
        rest = behind;
    }
    assert!(rest.is_empty());
    packs
}

#[derive(Clone, Debug)]
enum Change {
    Content,
    Size(u32),
    Remove,
    Add(u32),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Content),
        (1u32..8192).prop_map(Change::Size),
        Just(Change::Remove),
        (1u32..8192).prop_map(Change::Add),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_byte_lies_in_exactly_one_piece(
        sizes in proptest::collection::vec(prop_oneof![0u64..20_000, 0u64..200, Just(4096), Just(4097)], 0..60),
    ) {
        let size = piece_size(4096);
        let entries: Vec<_> =
            sizes.iter().enumerate().map(|(index, &size)| file(&format!("{index:03}"), size)).collect();
        let layout = Layout::new(&entries, size, &cut(&entries, size)).unwrap();
        let mut covered: Vec<Vec<bool>> =
            sizes.iter().map(|&size| vec![false; usize::try_from(size).unwrap()]).collect();
        for piece in layout.geometry().pieces() {
            let mut length = 0;
            for span in layout.spans(piece) {
                length += span.len;
                for byte in span.offset..span.offset + u64::from(span.len) {
                    let byte = &mut covered[span.entry][usize::try_from(byte).unwrap()];
                    prop_assert!(!*byte, "a byte lies in two pieces");
                    *byte = true;
                }
            }
            prop_assert_eq!(length, layout.geometry().piece_len(piece));
            prop_assert!(length <= size.bytes());
            prop_assert!(layout.is_pack(piece) || layout.spans(piece).count() == 1);
        }
        prop_assert!(covered.iter().flatten().all(|&byte| byte), "a byte lies in no piece");
        prop_assert_eq!(layout.geometry().total_bytes(), sizes.iter().sum::<u64>());
    }

    #[test]
    fn one_changed_file_of_2000_leaves_95_percent_of_the_packs(
        seed in any::<u64>(),
        place in 0usize..2000,
        change in change(),
    ) {
        // Sizes of 1 byte to 8 KiB in a fixed but arbitrary order, below 20 directories.
        let mut state = seed;
        let mut files: Vec<Small> = (0..2000)
            .map(|number| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let size = u32::try_from(state >> 51).unwrap() + 1;
                (format!("{:02}/file-{number:04}", number / 100), size, state)
            })
            .collect();
        let size = piece_size(64 * 1024);
        let before = packs(&files, size);
        match change {
            Change::Content => files[place].2 ^= 1,
            Change::Size(bytes) => files[place].1 = bytes,
            Change::Remove => drop(files.remove(place)),
            Change::Add(bytes) => {
                let path = format!("{}-and-a-half", files[place].0);
                files.insert(place + 1, (path, bytes, 0));
            }
        }
        let after = packs(&files, size);
        let kept = before.intersection(&after).count();
        prop_assert!(kept * 100 >= before.len() * 95, "{kept} of {} packs are as they were", before.len());
    }

    #[test]
    fn packs_are_filled_to_a_third_at_least(seed in any::<u64>()) {
        let mut state = seed;
        let entries: Vec<_> = (0..2000)
            .map(|number| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                file(&format!("{number:04}"), (state >> 51) + 1)
            })
            .collect();
        let size = piece_size(64 * 1024);
        let total: u64 = entries.iter().map(Entry::size).sum();
        let packs = cut(&entries, size).len() as u64;
        prop_assert!(packs * u64::from(size.bytes()) < 3 * total, "{packs} packs for {total} bytes");
    }
}
