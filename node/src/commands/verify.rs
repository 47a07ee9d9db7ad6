//! `dft verify`: is a tree what its manifest says?

use std::path::{Path, PathBuf};
use std::time::Instant;

use dft_protocol::manifest::Manifest;
use serde_json::json;

use super::{print_bytes, read_manifest, selection};
use crate::cli::VerifyArgs;
use crate::failure::{Failure, Kind};
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
        reporter.say(&format!("{what}{} is what the manifest says ({bytes}, {time})", path.display()));
        return Ok(());
    }
    let message = format!("{} differs from its manifest in {} places", path.display(), differences.len());
    Err(Failure::new(Kind::Integrity, message)
        .hint("dft fetch --force replaces it with what the manifest says"))
}

/// The tree to check: PATH itself, or what lies in PATH under the dataset's name.
fn locate(manifest: &Manifest, path: Option<&Path>) -> Result<PathBuf, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let name = manifest.info().name.as_bytes();
    let given = path.unwrap_or(Path::new("."));
    let inside = given.join(std::ffi::OsStr::from_bytes(name));
    let named = given.file_name().is_some_and(|base| base.as_bytes() == name);
    if !named && inside.symlink_metadata().is_ok() {
        return Ok(inside);
    }
    if path.is_none() || given.symlink_metadata().is_err() {
        let missing = if path.is_none() { &inside } else { given };
        let message = format!("there is no {} to verify", missing.display());
        return Err(Failure::new(Kind::Integrity, message).hint("name it: dft verify MANIFEST PATH"));
    }
    Ok(given.to_owned())
}
