//! A tree under its final name that holds a selection of its dataset: recognized, and taken back
//! when a later fetch wants more.
//!
//! When a fetch of a selection finishes, its part directory stays beside the tree, with a record
//! that says so, and no data. Only with that record is a tree taken for one of ours that is not
//! complete, and only where everything in it is what the manifest says: a tree that a person made
//! or changed is never moved.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use dft_protocol::manifest::Manifest;
use dft_protocol::path::SafePath;

use super::disk::{self, IfExists};
use super::error::StorageError;
use super::finish::make_movable;
use super::part::{DATA, Part, Record};
use super::resume::CheckProgress;
use super::scan::Source;
use super::selection::Selection;
use super::tree::{Attributes, Tree};
use super::verify::{Depth, Difference, compare};

/// A tree that holds a part of its dataset.
pub(super) struct Partial {
    part: Part,
    /// What it holds.
    pub(super) there: Selection,
    /// Where each entry lies that it holds.
    pub(super) sources: Vec<Source>,
}

impl Partial {
    /// The partial tree under the final name; `None` where what is there is none.
    pub(super) fn find(
        manifest: &Manifest,
        handle: &Arc<File>,
        directory: &Path,
        tree: &Tree,
        progress: &dyn Fn(CheckProgress),
    ) -> Result<Option<Self>, StorageError> {
        if !Part::exists(handle, directory, &manifest.info().name)? {
            return Ok(None);
        }
        let Some(part) = Part::lock(handle, directory, &manifest.info().name)? else { return Ok(None) };
        match part.read_record()? {
            Record::Durable { manifest: id, kept: Some(_), .. } if id == manifest.id() => {}
            _ => return Ok(None),
        }
        if part.has_data()? {
            // It was taken back, and what has the final name is something else.
            return Ok(None);
        }
        let total = manifest.total_bytes();
        let comparison =
            compare(manifest, tree, Depth::All, &mut |checked| progress(CheckProgress { checked, total }))?;
        let mut there = Selection::all(manifest);
        for difference in &comparison.differences {
            match difference {
                Difference::Missing { path } => there.remove(manifest, path),
                // The files of a pack that is not whole are compared by size and time alone.
                difference if !difference.is_content() && !comparison.is_doubtful(difference) => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(Self { part, there, sources: comparison.sources }))
    }

    /// Whether all of `selection` is there.
    pub(super) fn holds(&self, selection: &Selection) -> bool {
        self.there.includes(selection)
    }

    /// Makes it the data of its part directory again. Until the fetch is complete, the final name
    /// is gone.
    pub(super) fn take_back(self, manifest: &Manifest, tree: &Tree) -> Result<(), StorageError> {
        let name = manifest.info().name.as_bytes();
        let pieces = self.there.whole_pieces(manifest).to_bytes();
        let (manifest, kept) = (manifest.id(), Some(self.there.to_bytes()));
        self.part.write_record(&Record::Durable { manifest, pieces, kept })?;
        let shown = tree.shown(&SafePath::root());
        let there = Attributes::at(&*self.part.target, name).map_err(StorageError::at("look at", &shown))?;
        let Some(there) = there else { return Ok(()) };
        make_movable((&self.part.target, name), there).map_err(StorageError::at("open up", &shown))?;
        disk::rename((&self.part.target, name), (&self.part.directory, DATA), IfExists::Fail)
            .map_err(StorageError::at("take back", &shown))
    }
}
