//! Datasets on disk: found, cut and hashed at the seeder; assembled, resumed and given their
//! final name at the fetcher; read in place by both.
//!
//! What always holds, whatever fails:
//! - A seeded tree is never written to, and its data are never copied.
//! - A final name exists only with complete content, of all or of what was selected; until then
//!   all lies in `.NAME.dft-part/`.
//! - The resume record names only pieces that are durable; on doubt pieces are hashed.
//! - No symbolic link is followed below the directory that the user named.
//!
//! Where to start reading: [`Store`] (`store.rs`) for the life of a fetch, then `assembly.rs`
//! (write, verified, flush), `resume.rs` (what is there already), `finish.rs` (the final name).
//! [`scan`] and [`hash`] make a manifest. Everything that changes a disk goes through `disk.rs`,
//! every name below a handle through `tree.rs`.

mod assembly;
mod cache;
mod checked;
mod disk;
mod error;
mod files;
mod finish;
mod hash;
mod part;
mod partial;
mod passing;
mod pieces;
mod ranges;
mod resume;
mod scan;
mod selection;
mod small;
mod store;
mod tree;
mod verify;
mod walk;

#[cfg(test)]
mod tests;

pub use cache::SeedCache;
pub use checked::FLUSH_BYTES;
pub use error::StorageError;
pub use files::raise_descriptors;
pub use hash::hash;
pub use pieces::is_zeros;
pub use resume::CheckProgress;
pub use scan::{Scan, ScanOptions, SkipReason, Skipped, Source, scan};
pub use selection::{Selection, SelectionError};
pub use store::{FetchOptions, Store};
pub use tree::Identity;
pub use verify::{Difference, verify};
