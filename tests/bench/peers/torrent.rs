//! What the BitTorrent clients share: a torrent of the dataset and a tracker, both by a script on
//! python3-libtorrent.

use std::path::PathBuf;
use std::process::Command;

use super::Need;
use crate::field::{Field, Problem, run};

const SCRIPT: &str = include_str!("torrent.py");
const TRACKER_PORT: u16 = 6969;

/// What the script needs.
pub const NEED: Need = ("/usr/share/doc/python3-libtorrent", "python3-libtorrent");

/// The script, on a host.
pub fn script(field: &Field, host: usize) -> Result<Command, Problem> {
    let script = field.file("torrent.py", SCRIPT)?;
    // Debian's own Python: the packages of Debian are installed for no other.
    let mut command = field.command(host, "/usr/bin/python3");
    command.arg("-u").arg(script);
    Ok(command)
}

/// Starts a tracker at the source.
pub fn stand(field: &Field) -> Result<(), Problem> {
    let mut tracker = script(field, 0)?;
    field.daemon(0, tracker.args(["track", &TRACKER_PORT.to_string()]), TRACKER_PORT)
}

/// Makes the torrent of the dataset.
pub fn make(field: &Field) -> Result<PathBuf, Problem> {
    let torrent = field.path("dataset.torrent");
    let tracker = format!("http://{}:{TRACKER_PORT}/announce", field.address(0));
    run(script(field, 0)?.arg("make").arg(&field.dataset).arg(&torrent).arg(tracker))?;
    Ok(torrent)
}
