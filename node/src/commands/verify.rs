//! `dft verify`: is a tree what its manifest says?

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dft_protocol::manifest::{Entry, Manifest};
use serde_json::json;

use super::{print_bytes, read_manifest, selection};
use crate::cli::VerifyArgs;
use crate::failure::{Failure, Kind, shown};
use crate::report::{Reporter, human_bytes, human_time};
use crate::storage;

pub(super) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let manifest = read_manifest(&args.manifest)?;
    let selection = selection(&manifest, &args.select)?;
    let path = locate(&manifest, args.path.as_deref())?;
    let reporter = Reporter::new(args.json);
    let started = Instant::now();
    reporter.begin("verifying", manifest.total_bytes());
    let bar = reporter.bar();
    let differences = storage::verify(&manifest, &path, &selection, &|bytes| bar.set_position(bytes));
    reporter.end();
    let differences = differences?;
    for difference in &differences {
        let line = if args.json {
            json!({"event": "difference", "message": difference.to_string()}).to_string()
        } else {
            difference.to_string()
        };
        print_bytes(format!("{line}\n").as_bytes())?;
    }
    reporter.event(&json!({
        "event": "verified", "path": path.display().to_string(), "differences": differences.len(),
        "bytes": selection.bytes(&manifest), "seconds": started.elapsed().as_secs_f64(),
    }));
    if differences.is_empty() {
        let (bytes, time) = (human_bytes(selection.bytes(&manifest)), human_time(started.elapsed()));
        let what = if selection.is_all() { "" } else { "what is selected of " };
        reporter.say(&format!("{what}{} is what the manifest says ({bytes}, {time})", shown(&path)));
        return Ok(());
    }
    let places = if differences.len() == 1 { "place" } else { "places" };
    let message = format!("{} differs from its manifest in {} {places}", shown(&path), differences.len());
    Err(Failure::new(Kind::Integrity, message)
        .hint("dft fetch --force replaces it with what the manifest says"))
}

/// The tree to check: PATH itself, or what lies in PATH under the dataset's name. Under another name
/// PATH is taken for the tree where it holds anything that the dataset has at its top.
fn locate(manifest: &Manifest, path: Option<&Path>) -> Result<PathBuf, Failure> {
    let name = OsStr::from_bytes(manifest.info().name.as_bytes());
    let given = path.unwrap_or(Path::new("."));
    let attributes = given.metadata().map_err(|error| Failure::given("verify", given, &error))?;
    if given.file_name() == Some(name) {
        return Ok(given.to_owned());
    }
    let inside = given.join(name);
    if attributes.is_dir() && inside.symlink_metadata().is_ok() {
        return Ok(inside);
    }
    let root = &manifest.info().entries[0];
    let is_tree = match root {
        Entry::Directory { .. } if attributes.is_dir() => {
            let is_named = given.canonicalize().is_ok_and(|real| real.file_name() == Some(name));
            is_named || holds_any_of(manifest, given)
        }
        Entry::Directory { .. } => false,
        _ => !attributes.is_dir(),
    };
    if is_tree {
        return Ok(given.to_owned());
    }
    let message = format!("there is no {} in {}, nor anything of it", shown(Path::new(name)), shown(given));
    Err(Failure::new(Kind::Usage, message)
        .hint("name the dataset, or the directory that it lies in: dft verify MANIFEST PATH"))
}

/// Whether a directory has anything that the dataset has at its top; an empty dataset is anywhere.
fn holds_any_of(manifest: &Manifest, directory: &Path) -> bool {
    let tops = manifest.info().entries[1..].iter().filter(|entry| entry.path().components().count() == 1);
    let mut tops = tops.map(|entry| directory.join(OsStr::from_bytes(entry.path().as_bytes()))).peekable();
    tops.peek().is_none() || tops.any(|top| top.symlink_metadata().is_ok())
}
