//! What a comparison says of a tree that is not as it should be.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use super::fixture::{PIECE, Scratch, Seeded, bytes, put, set_mode};
use crate::storage::{Difference, Selection, verify};

fn tree(root: &Path) {
    put(&root.join("large"), &bytes(3 * PIECE, 1));
    for name in ["pack/a", "pack/b", "pack/c"] {
        put(&root.join(name), &bytes(100, 2));
    }
    symlink("large", root.join("link")).unwrap();
    fs::create_dir(root.join("directory")).unwrap();
}

/// Changes the tree, and says what is expected of the comparison.
type Case = (fn(&Path), &'static [&'static str]);

#[test]
fn each_difference_is_named() {
    let cases: &[Case] = &[
        (|_| {}, &[]),
        (
            |root| quietly(&root.join("large"), |file| file.write_all_at(b"\0", 5000).unwrap()),
            &["«large» has other content"],
        ),
        (
            |root| quietly(&root.join("pack/b"), |file| file.write_all_at(b"\0", 50).unwrap()),
            &["at least one of these has other content: «pack/a» «pack/b» «pack/c»"],
        ),
        (
            |root| quietly(&root.join("pack/b"), |file| file.set_len(99).unwrap()),
            &["«pack/b» has 99 bytes, not 100"],
        ),
        (
            |root| quietly(&root.join("large"), |file| file.set_len(0).unwrap()),
            &["«large» has 0 bytes, not 12288"],
        ),
        (|root| set_mode(&root.join("pack/c"), 0o604), &["«pack/c» has mode 0604, not 0644"]),
        (
            |root| File::open(root.join("large")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap(),
            &["«large» was changed at 0.000000000, not at 1000000000.000000000"],
        ),
        (
            |root| {
                keeping_time(root, || {
                    fs::remove_file(root.join("link")).unwrap();
                    symlink("pack", root.join("link")).unwrap();
                });
            },
            &["«link» points to \"pack\""],
        ),
        (|root| keeping_time(root, || fs::remove_file(root.join("link")).unwrap()), &["«link» is missing"]),
        (
            |root| {
                keeping_time(root, || {
                    fs::remove_dir(root.join("directory")).unwrap();
                    symlink("pack", root.join("directory")).unwrap();
                });
            },
            &["«directory» is a symbolic link, not a directory"],
        ),
        (
            |root| keeping_time(root, || put(&root.join("extra/with/content"), b"x")),
            &["«extra» is not in the manifest"],
        ),
        (
            |root| keeping_time(root, || fs::remove_dir_all(root.join("pack")).unwrap()),
            &["«pack» is missing", "«pack/a» is missing", "«pack/b» is missing", "«pack/c» is missing"],
        ),
    ];
    for (change, expected) in cases {
        let scratch = Scratch::new();
        let root = scratch.directory("source");
        tree(&root);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        for name in ["large", "pack/a", "pack/b", "pack/c", "pack", "directory", ""] {
            File::open(root.join(name)).unwrap().set_modified(time).unwrap();
        }
        set_mode(&root.join("pack/c"), 0o644);
        let seeded = Seeded::new(&root);
        change(&root);
        let differences =
            verify(&seeded.manifest, &root, &Selection::all(&seeded.manifest), &|_| {}).unwrap();
        let lines: Vec<_> = differences.iter().map(Difference::to_string).collect();
        assert_eq!(lines, *expected);
    }
}

/// Changes a file and sets its time back.
fn quietly(path: &Path, change: fn(&File)) {
    let modified = path.metadata().unwrap().modified().unwrap();
    let file = File::options().write(true).open(path).unwrap();
    change(&file);
    file.set_modified(modified).unwrap();
}

/// Changes a directory and sets its time back.
fn keeping_time(directory: &Path, change: impl FnOnce()) {
    let modified = directory.metadata().unwrap().modified().unwrap();
    change();
    File::open(directory).unwrap().set_modified(modified).unwrap();
}
