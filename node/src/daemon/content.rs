//! Whether two datasets have the same content: what a name that never changes its content allows.
//!
//! Content is what programs read: names, kinds, bytes, targets of symbolic links, and modes, for a
//! script that cannot be executed is another one. Times are not: a copy, a checkout or `touch`
//! changes them and nothing else.

use dft_protocol::manifest::{Entry, Info};

/// Whether both have the same content.
pub(super) fn is_same_content(one: &Info, other: &Info) -> bool {
    let same = |(one, other): (&Entry, &Entry)| without_time(one) == without_time(other);
    one.entries.len() == other.entries.len()
        && one.entries.iter().zip(&other.entries).all(same)
        && (&one.name, one.piece_size, &one.packs, &one.hashes)
            == (&other.name, other.piece_size, &other.packs, &other.hashes)
}

fn without_time(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    match &mut entry {
        Entry::File { mtime, .. } | Entry::Directory { mtime, .. } => *mtime = Default::default(),
        Entry::Symlink { .. } => {}
    }
    entry
}

#[cfg(test)]
mod tests {
    use dft_protocol::geometry::PieceSize;
    use dft_protocol::id::PieceHash;
    use dft_protocol::manifest::Mtime;
    use dft_protocol::path::{Name, SafePath};

    use super::*;

    fn info(name: &str, mode: u16, seconds: i64, byte: u8) -> Info {
        let mtime = Mtime { seconds, nanoseconds: 0 };
        Info {
            name: Name::new(name).expect("a name"),
            piece_size: PieceSize::new(4096).expect("a size"),
            entries: vec![Entry::File { path: SafePath::root(), size: 1, mode, mtime }],
            packs: vec![1],
            hashes: vec![PieceHash::from_bytes([byte; 32])],
        }
    }

    #[test]
    fn times_are_no_content_and_all_else_is() {
        let original = info("a", 0o644, 1, 1);
        for (what, other, same) in [
            ("itself", info("a", 0o644, 1, 1), true),
            ("another time", info("a", 0o644, 2, 1), true),
            ("another name", info("b", 0o644, 1, 1), false),
            ("another mode", info("a", 0o755, 1, 1), false),
            ("other bytes", info("a", 0o644, 1, 2), false),
        ] {
            assert_eq!(is_same_content(&original, &other), same, "{what}");
        }
    }
}
