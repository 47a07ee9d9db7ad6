//! Whether a copy is the dataset: names, lengths and contents of all files, by one hash.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::lab::data::files_below;

/// What is read at once.
const CHUNK_LEN: usize = 256 * 1024;

/// A dataset in short.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    files: usize,
    bytes: u64,
    sha256: String,
}

impl Fingerprint {
    /// That of a file or a directory; of nothing where there is nothing.
    pub fn of(root: &Path) -> Self {
        let files = if root.is_dir() { files_below(root) } else { vec![root.to_owned()] };
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK_LEN];
        let (mut count, mut bytes) = (0, 0);
        for path in files {
            let Ok(file) = File::open(&path) else { continue };
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let (content, len) = sha256_of(file, &mut buffer);
            hasher.update(format!("{name}\0{len}\0{content}\n"));
            count += 1;
            bytes += len;
        }
        Self { files: count, bytes, sha256: hex(hasher) }
    }

    /// What is wrong with a copy that has this one, if anything.
    pub fn differs_from(&self, dataset: &Self) -> Option<String> {
        if self == dataset {
            return None;
        }
        let sizes =
            format!("{} of {} files, {} of {} bytes", self.files, dataset.files, self.bytes, dataset.bytes);
        Some(if (self.files, self.bytes) == (dataset.files, dataset.bytes) {
            format!("{sizes}, but others")
        } else {
            sizes
        })
    }
}

fn sha256_of(mut file: File, buffer: &mut [u8]) -> (String, u64) {
    let mut hasher = Sha256::new();
    let mut len = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return (hex(hasher), len),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                len += count as u64;
            }
            Err(error) => return (error.to_string(), len),
        }
    }
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
