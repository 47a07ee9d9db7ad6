//! Copies of a manifest with other hints, so that a test decides by which way peers are found.

use std::path::{Path, PathBuf};

use dft_protocol::manifest::{Hints, Manifest};

/// Reads a manifest that must be valid.
pub fn read_manifest(path: &Path) -> Manifest {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Manifest::decode(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Writes a copy of the manifest into `directory`, with these hints and nothing else.
pub fn with_hints(path: &Path, directory: &Path, hints: Hints) -> PathBuf {
    std::fs::create_dir_all(directory).expect("a test can make a directory");
    let copy = directory.join(path.file_name().expect("a manifest has a name"));
    let manifest = read_manifest(path).with_hints(hints).expect("a test gives valid hints");
    std::fs::write(&copy, manifest.encode()).expect("a test can write a manifest");
    copy
}

/// Writes a copy of the manifest into `directory` that names no one.
pub fn without_hints(path: &Path, directory: &Path) -> PathBuf {
    with_hints(path, directory, Hints::default())
}
