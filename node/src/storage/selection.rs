//! Which entries of a dataset are wanted.
//!
//! A selection is made of globs over the paths inside of the dataset. An entry is selected where a
//! glob to include (or none is given) matches it or a directory above it, and no glob to exclude
//! does. Directories that hold something selected come along; others that no glob names do not.
//!
//! Pieces are whole, so a pack may hold selected and other files: it is fetched whole, and what was
//! not selected goes before the tree gets its final name.

use dft_protocol::geometry::PieceIndex;
use dft_protocol::manifest::{Entry, Manifest};
use dft_protocol::path::SafePath;
use dft_protocol::piece_set::PieceSet;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use thiserror::Error;

/// Most globs of one selection: each costs time with every path.
const GLOBS_MAX: usize = 1024;

/// Why globs make no selection.
#[derive(Debug, Error)]
pub enum SelectionError {
    /// A glob is not valid.
    #[error("«{glob}» is no glob: {reason}")]
    Glob {
        /// As it was given.
        glob: String,
        /// What is wrong with it.
        reason: globset::ErrorKind,
    },
    /// The globs together are too much.
    #[error("these globs are too much: {0}")]
    TooComplex(globset::ErrorKind),
    /// Too many globs.
    #[error("{0} globs are more than {GLOBS_MAX}")]
    TooMany(usize),
    /// A glob without a letter.
    #[error("an empty glob names nothing")]
    Empty,
    /// No file, link or directory is selected.
    #[error("nothing in this dataset is selected")]
    Nothing,
}

/// The selected entries of one manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// For each entry of the manifest.
    entries: Vec<bool>,
}

impl Selection {
    /// All of a dataset.
    pub fn all(manifest: &Manifest) -> Self {
        Self { entries: vec![true; manifest.info().entries.len()] }
    }

    /// What these globs select. A dataset that is one file has its name for a path.
    pub fn new(manifest: &Manifest, include: &[String], exclude: &[String]) -> Result<Self, SelectionError> {
        let (includes, excludes) = (globs(include)?, globs(exclude)?);
        let entries = &manifest.info().entries;
        let mut selected = vec![false; entries.len()];
        let mut any = false;
        // Ascending order: the directories above an entry are a stack.
        let mut above: Vec<Above> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let path = entry.path();
            while above.last().is_some_and(|above| !holds(&above.path, path)) {
                above.pop();
            }
            let (in_included, in_excluded) =
                above.last().map_or((false, false), |above| (above.included, above.excluded));
            let is_directory = matches!(entry, Entry::Directory { .. });
            // The root of a tree has no name in it: only what it holds is matched.
            let is_tree = path.is_root() && is_directory;
            let named = if path.is_root() { manifest.info().name.as_bytes() } else { path.as_bytes() };
            let matches = |set: &GlobSet| !is_tree && is_match(set, named);
            let included = in_included || matches(&includes);
            let excluded = in_excluded || matches(&excludes);
            let chosen = (include.is_empty() || included) && !excluded;
            selected[index] = chosen && !is_tree;
            any |= selected[index];
            if chosen && !is_directory {
                above.iter().for_each(|above| selected[above.index] = true);
            }
            if is_directory {
                above.push(Above { index, path: path.clone(), included, excluded });
            }
        }
        // The root comes along, whatever is in it.
        selected[0] = any || entries.len() == 1;
        let all = include.is_empty() && exclude.is_empty();
        if !any && !all {
            return Err(SelectionError::Nothing);
        }
        if all {
            return Ok(Self::all(manifest));
        }
        let mut selection = Self { entries: selected };
        selection.select_parents(manifest);
        Ok(selection)
    }

    /// Directories above selected ones come along.
    fn select_parents(&mut self, manifest: &Manifest) {
        let entries = &manifest.info().entries;
        let mut inner: Option<&SafePath> = None;
        // Backwards, so that a directory comes behind all that it holds; what was selected last is
        // in it if anything is.
        for index in (0..entries.len()).rev() {
            let path = entries[index].path();
            if inner.is_some_and(|inner| holds(path, inner)) {
                self.entries[index] = true;
            }
            if self.entries[index] {
                inner = Some(path);
            }
        }
    }

    /// Whether the entry number `entry` is selected.
    pub fn contains(&self, entry: usize) -> bool {
        self.entries[entry]
    }

    /// Takes the entry with this path out.
    pub(super) fn remove(&mut self, manifest: &Manifest, path: &SafePath) {
        if let Ok(index) = manifest.info().entries.binary_search_by(|entry| entry.path().cmp(path)) {
            self.entries[index] = false;
        }
    }

    /// Whether all of another selection is selected.
    pub(super) fn includes(&self, other: &Self) -> bool {
        self.entries.iter().zip(&other.entries).all(|(here, there)| *here || !there)
    }

    /// What is in either.
    pub(super) fn union(&self, other: &Self) -> Self {
        let entries = self.entries.iter().zip(&other.entries);
        Self { entries: entries.map(|(here, there)| *here || *there).collect() }
    }

    /// A bit for each entry, the first one in the lowest bit of the first byte.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        self.entries.chunks(8).map(byte).collect()
    }

    /// The selection that these bytes stand for; `None` where they are not of this manifest.
    pub(super) fn from_bytes(manifest: &Manifest, bytes: &[u8]) -> Option<Self> {
        let count = manifest.info().entries.len();
        let bit = |index: usize| bytes[index / 8] >> (index % 8) & 1 == 1;
        (bytes.len() == count.div_ceil(8)).then(|| Self { entries: (0..count).map(bit).collect() })
    }

    /// Whether everything is selected.
    pub fn is_all(&self) -> bool {
        self.entries.iter().all(|selected| *selected)
    }

    /// The pieces that hold a part of any selected file: what is to be fetched.
    pub fn pieces(&self, manifest: &Manifest) -> PieceSet {
        self.pieces_where(manifest, |selected, _| selected)
    }

    /// Whether `piece` is one of [`pieces`](Selection::pieces).
    pub(super) fn needs(&self, manifest: &Manifest, piece: PieceIndex) -> bool {
        manifest.layout().spans(piece).any(|span| self.contains(span.entry))
    }

    /// The pieces that hold parts of selected files only: what can be read from their tree.
    pub fn whole_pieces(&self, manifest: &Manifest) -> PieceSet {
        self.pieces_where(manifest, |_, others| !others)
    }

    /// The pieces of which this is true: it hears whether a piece holds selected files, and whether
    /// it holds others.
    fn pieces_where(&self, manifest: &Manifest, wanted: impl Fn(bool, bool) -> bool) -> PieceSet {
        let geometry = manifest.geometry();
        let mut pieces = PieceSet::empty(geometry.piece_count());
        for piece in geometry.pieces() {
            let spans = || manifest.layout().spans(piece).map(|span| self.contains(span.entry));
            if wanted(spans().any(|selected| selected), spans().any(|selected| !selected)) {
                pieces.insert(piece);
            }
        }
        pieces
    }

    /// For each entry, whether it is selected and all of its pieces are among these: nobody has to
    /// write to it again.
    pub(super) fn settled(&self, manifest: &Manifest, pieces: &PieceSet) -> Vec<bool> {
        let mut settled = self.entries.clone();
        for piece in manifest.geometry().pieces().filter(|piece| !pieces.contains(*piece)) {
            manifest.layout().spans(piece).for_each(|span| settled[span.entry] = false);
        }
        settled
    }

    /// Bytes of the selected files.
    pub fn bytes(&self, manifest: &Manifest) -> u64 {
        let entries = manifest.info().entries.iter().zip(&self.entries);
        entries.filter(|(_, selected)| **selected).map(|(entry, _)| entry.size()).sum()
    }
}

/// A directory above the entry at hand.
struct Above {
    index: usize,
    path: SafePath,
    included: bool,
    excluded: bool,
}

/// Whether `directory` is above `path`.
fn holds(directory: &SafePath, path: &SafePath) -> bool {
    if directory.is_root() {
        return !path.is_root();
    }
    let rest = path.as_bytes().strip_prefix(directory.as_bytes());
    rest.is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn is_match(set: &GlobSet, path: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    set.is_match(std::ffi::OsStr::from_bytes(path))
}

/// `*` and `?` stay within one name, `**` does not; a glob without a slash matches a name at any
/// depth, as in a `.gitignore`.
fn globs(patterns: &[String]) -> Result<GlobSet, SelectionError> {
    if patterns.len() > GLOBS_MAX {
        return Err(SelectionError::TooMany(patterns.len()));
    }
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let trimmed = pattern.strip_suffix('/').unwrap_or(pattern);
        if trimmed.is_empty() {
            return Err(SelectionError::Empty);
        }
        let anchored = match trimmed.strip_prefix('/') {
            Some(rest) => rest.to_owned(),
            None if trimmed.contains('/') => trimmed.to_owned(),
            None => format!("**/{trimmed}"),
        };
        let built = GlobBuilder::new(&anchored).literal_separator(true).backslash_escape(true).build();
        set.add(
            built.map_err(|error| SelectionError::Glob {
                glob: pattern.clone(),
                reason: error.kind().clone(),
            })?,
        );
    }
    set.build().map_err(|error| SelectionError::TooComplex(error.kind().clone()))
}

#[cfg(test)]
mod tests {
    use dft_protocol::geometry::PieceSize;
    use dft_protocol::id::PieceHash;
    use dft_protocol::manifest::{Hints, Info, Mtime};
    use dft_protocol::path::Name;

    use super::*;

    const MTIME: Mtime = Mtime { seconds: 0, nanoseconds: 0 };

    /// Paths that end in a slash are directories; files have a byte each.
    fn manifest(paths: &[&str]) -> Manifest {
        let mut entries = vec![Entry::Directory { path: SafePath::root(), mode: 0o755, mtime: MTIME }];
        for path in paths {
            let safe = SafePath::new(path.trim_end_matches('/')).unwrap();
            entries.push(match path.ends_with('/') {
                true => Entry::Directory { path: safe, mode: 0o755, mtime: MTIME },
                false => Entry::File { path: safe, size: 1, mode: 0o644, mtime: MTIME },
            });
        }
        entries.sort_by(|a, b| a.path().cmp(b.path()));
        let files = entries.iter().filter(|entry| entry.size() > 0).count();
        let info = Info {
            name: Name::new("data").unwrap(),
            piece_size: PieceSize::new(4096).unwrap(),
            entries,
            packs: vec![u32::try_from(files).unwrap()],
            hashes: vec![PieceHash::from_bytes([1; 32])],
        };
        Manifest::new(info, Hints::default()).unwrap()
    }

    const TREE: [&str; 9] =
        ["a.txt", "b.csv", "empty/", "runs/", "runs/1/", "runs/1/a.txt", "runs/1/x", "runs/2/", "runs/2/y"];

    fn selected(include: &[&str], exclude: &[&str]) -> Vec<String> {
        let manifest = manifest(&TREE);
        let texts = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect::<Vec<_>>();
        let Ok(selection) = Selection::new(&manifest, &texts(include), &texts(exclude)) else {
            return Vec::new();
        };
        let entries = manifest.info().entries.iter().enumerate();
        let chosen = entries.filter(|(index, _)| selection.contains(*index)).skip(1);
        chosen.map(|(_, entry)| entry.path().to_string()).collect()
    }

    #[test]
    fn globs_select_files_and_what_directories_hold() {
        let cases: &[(&[&str], &[&str], &[&str])] = &[
            (&["a.txt"], &[], &["a.txt", "runs", "runs/1", "runs/1/a.txt"]),
            (&["/a.txt"], &[], &["a.txt"]),
            (&["runs/1"], &[], &["runs", "runs/1", "runs/1/a.txt", "runs/1/x"]),
            (&["runs/"], &["*.txt"], &["runs", "runs/1", "runs/1/x", "runs/2", "runs/2/y"]),
            (&["runs/*/y"], &[], &["runs", "runs/2", "runs/2/y"]),
            (&["r*/**/a*"], &[], &["runs", "runs/1", "runs/1/a.txt"]),
            (&["*.{txt,csv}"], &["runs"], &["a.txt", "b.csv"]),
            (&["empty"], &[], &["empty"]),
            (&[], &["runs", "empty"], &["a.txt", "b.csv"]),
            (&[], &["*"], &[]),
            (&["nothing"], &[], &[]),
        ];
        for (include, exclude, expected) in cases {
            assert_eq!(selected(include, exclude), *expected, "include {include:?}, exclude {exclude:?}");
        }
    }

    #[test]
    fn without_globs_all_is_selected_even_where_there_is_nothing() {
        for paths in [&TREE[..], &["x"]] {
            let manifest = manifest(paths);
            assert!(Selection::new(&manifest, &[], &[]).unwrap().is_all());
        }
    }

    #[test]
    fn bad_globs_are_errors() {
        let manifest = manifest(&TREE);
        let error = |globs: &[String]| Selection::new(&manifest, globs, &[]).unwrap_err();
        assert!(matches!(error(&["[".into()]), SelectionError::Glob { glob, .. } if glob == "["));
        assert!(matches!(error(&vec!["x".into(); GLOBS_MAX + 1]), SelectionError::TooMany(_)));
        assert!(matches!(error(&["none".into()]), SelectionError::Nothing));
        for empty in ["", "/"] {
            assert!(matches!(error(&[empty.into()]), SelectionError::Empty), "«{empty}»");
        }
    }

    #[test]
    fn a_pack_with_other_files_is_fetched_whole_and_is_not_in_the_tree() {
        let manifest = manifest(&TREE);
        let selection = Selection::new(&manifest, &["/a.txt".into()], &[]).unwrap();
        assert!(selection.pieces(&manifest).is_full());
        assert!(selection.whole_pieces(&manifest).is_empty());
        assert_eq!(selection.bytes(&manifest), 1);
    }

    #[test]
    fn a_selection_survives_as_bytes() {
        let manifest = manifest(&TREE);
        let selection = Selection::new(&manifest, &["runs/2".into()], &[]).unwrap();
        assert_eq!(Selection::from_bytes(&manifest, &selection.to_bytes()).as_ref(), Some(&selection));
        assert_eq!(Selection::from_bytes(&manifest, &[0]), None);
    }
}
