//! All that a tree on disk holds, in the order of a manifest's entries.
//!
//! Memory: the names of the directories on the way down, nothing else; one directory is open at
//! a time, whatever the depth.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use dft_protocol::path::{Name, SafePath};
use rustix::fs::{Dir, OFlags};

use super::error::StorageError;
use super::tree::{Attributes, Kind, Tree, is_missing};

/// One name that a walk came to.
pub(super) struct Found {
    pub(super) path: SafePath,
    pub(super) attributes: Attributes,
    /// The directory that holds it.
    pub(super) parent: Arc<File>,
    /// Its name there.
    pub(super) name: Vec<u8>,
}

/// Whether to look into a directory; means nothing for the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Descend {
    Into,
    Past,
}

/// Shows `visit` each name of the tree, the root first, in ascending order of the paths. Names
/// that vanish meanwhile are passed over. Nothing is visited where the root is missing.
pub(super) fn walk(
    tree: &Tree,
    visit: &mut dyn FnMut(&Found) -> Result<Descend, StorageError>,
) -> Result<(), StorageError> {
    let mut parents = tree.parents();
    // The names still to visit: at each level in descending order, the next one last.
    let mut pending = vec![SafePath::root()];
    while let Some(path) = pending.pop() {
        let (parent, name) = match parents.of(&path) {
            Ok(parent) => parent,
            Err(error) if is_missing(&error) => continue,
            Err(error) => return Err(StorageError::new("open", tree.shown(&path), error)),
        };
        let attributes =
            Attributes::at(&parent, &name).map_err(StorageError::at("look at", &tree.shown(&path)))?;
        let Some(attributes) = attributes else { continue };
        let found = Found { path, attributes, parent, name };
        if visit(&found)? == Descend::Into && attributes.kind == Kind::Directory {
            for name in names(tree, &found.path)?.into_iter().rev() {
                let path = found.path.join(&name).map_err(|error| StorageError::UnsafePath {
                    path: tree.shown(&found.path).join(std::ffi::OsStr::from_bytes(name.as_bytes())),
                    error,
                })?;
                pending.push(path);
            }
        }
    }
    Ok(())
}

/// The names in a directory, in ascending order.
fn names(tree: &Tree, path: &SafePath) -> Result<Vec<Name>, StorageError> {
    let shown = || tree.shown(path);
    let directory = tree
        .open(path, OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|error| StorageError::new("read", shown(), error))?;
    let entries = Dir::new(directory).map_err(|errno| StorageError::new("read", shown(), errno.into()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|errno| StorageError::new("read", shown(), errno.into()))?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(Name::new(name).map_err(|error| StorageError::UnsafePath {
                path: shown().join(PathBuf::from(std::ffi::OsStr::from_bytes(name))),
                error,
            })?),
        }
    }
    names.sort_unstable();
    Ok(names)
}
