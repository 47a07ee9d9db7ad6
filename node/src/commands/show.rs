//! `dft show`: what a manifest holds.

use std::fmt::Write;

use dft_protocol::manifest::{Entry, Manifest};
use serde_json::json;

use super::{print_bytes, read_manifest, selection};
use crate::cli::ShowArgs;
use crate::failure::Failure;
use crate::net::identity::display_peer;
use crate::report::human_bytes;
use crate::storage::Selection;

pub(super) fn run(args: &ShowArgs) -> Result<(), Failure> {
    let manifest = read_manifest(&args.manifest)?;
    let selection = selection(&manifest, &args.select)?;
    let text = if args.json {
        format!("{}\n", as_json(&manifest, &selection))
    } else {
        as_text(&manifest, &selection)
    };
    print_bytes(text.as_bytes())
}

fn as_json(manifest: &Manifest, selection: &Selection) -> serde_json::Value {
    let info = manifest.info();
    let entries = selected(manifest, selection).map(|entry| match entry {
        Entry::File { path, size, mode, mtime } => json!({
            "kind": "file", "path": path.to_string(), "bytes": size, "mode": format!("{mode:03o}"), "mtime": mtime.seconds,
        }),
        Entry::Directory { path, mode, mtime } => json!({
            "kind": "directory", "path": path.to_string(), "mode": format!("{mode:03o}"), "mtime": mtime.seconds,
        }),
        Entry::Symlink { path, target } => json!({
            "kind": "symlink", "path": path.to_string(), "target": String::from_utf8_lossy(target.as_bytes()),
        }),
    });
    json!({
        "id": manifest.id().to_string(),
        "name": info.name.to_string(),
        "bytes": manifest.total_bytes(),
        "selected_bytes": selection.bytes(manifest),
        "selected_pieces": selection.pieces(manifest).count(),
        "pieces": manifest.geometry().piece_count(),
        "piece_size": info.piece_size.bytes(),
        "entries": entries.collect::<Vec<_>>(),
        "seeders": manifest.hints().seeders.iter().map(|seeder| seeder.addr.to_string()).collect::<Vec<_>>(),
        "trackers": manifest.hints().trackers,
    })
}

/// The entries that are selected.
fn selected<'a>(manifest: &'a Manifest, selection: &'a Selection) -> impl Iterator<Item = &'a Entry> {
    let entries = manifest.info().entries.iter().enumerate();
    entries.filter(|(index, _)| selection.contains(*index)).map(|(_, entry)| entry)
}

fn as_text(manifest: &Manifest, selection: &Selection) -> String {
    let info = manifest.info();
    let count = |kind: fn(&Entry) -> bool| info.entries.iter().filter(|entry| kind(entry)).count();
    let files = count(|entry| matches!(entry, Entry::File { .. }));
    let directories = count(|entry| matches!(entry, Entry::Directory { .. }));
    let symlinks = count(|entry| matches!(entry, Entry::Symlink { .. }));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "name      {}", info.name);
    let _ = writeln!(text, "id        {}", manifest.id());
    let _ = writeln!(
        text,
        "content   {files} files, {directories} directories, {symlinks} symbolic links, {}",
        human_bytes(manifest.total_bytes())
    );
    let pieces = manifest.geometry().piece_count();
    if !selection.is_all() {
        let (bytes, count) = (selection.bytes(manifest), selection.pieces(manifest).count());
        let _ = writeln!(text, "selected  {}, in {count} pieces", human_bytes(bytes));
    }
    let _ = writeln!(text, "pieces    {pieces} of up to {}", human_bytes(info.piece_size.bytes().into()));
    for seeder in &manifest.hints().seeders {
        let peer = seeder.peer.as_ref().map(display_peer).unwrap_or_default();
        let _ = writeln!(text, "seeder    {} {peer}", seeder.addr);
    }
    for tracker in &manifest.hints().trackers {
        let _ = writeln!(text, "tracker   {tracker}");
    }
    let _ = writeln!(text);
    for entry in selected(manifest, selection) {
        let path = if entry.path().is_root() {
            info.name.to_string()
        } else {
            format!("{}/{}", info.name, entry.path())
        };
        let _ = match entry {
            Entry::File { size, mode, .. } => writeln!(text, "-{mode:03o} {size:>14}  {path}"),
            Entry::Directory { mode, .. } => writeln!(text, "d{mode:03o} {:>14}  {path}/", ""),
            Entry::Symlink { target, .. } => {
                writeln!(text, "l    {:>14}  {path} -> {}", "", target.as_bytes().escape_ascii())
            }
        };
    }
    text
}
