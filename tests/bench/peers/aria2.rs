//! aria2 as a BitTorrent client, on the same torrent and tracker as libtorrent.

use std::path::Path;
use std::process::Command;

use super::{Need, Peer, torrent};
use crate::field::{Ends, Field, Problem};

const PORT: u16 = 6881;

/// aria2.
pub struct Aria2;

impl Aria2 {
    /// A client on a host that stays after it has everything.
    fn client(field: &Field, host: usize, directory: &Path) -> Command {
        let mut command = field.command(host, "aria2c");
        command.args(["--no-conf", "--seed-ratio=0.0", "--enable-dht=false", "--bt-enable-lpd=false"]);
        command.args(["--file-allocation=none", "--summary-interval=0", "--console-log-level=warn"]);
        command.arg(format!("--listen-port={PORT}")).arg("--dir").arg(directory);
        command
    }
}

impl Peer for Aria2 {
    fn name(&self) -> &'static str {
        "aria2"
    }

    fn about(&self) -> &'static str {
        "aria2 (BitTorrent)"
    }

    fn needs(&self) -> &'static [Need] {
        &[("aria2c", "aria2"), torrent::NEED]
    }

    fn expected_x_bound(&self, _scenario: &crate::scenario::Scenario) -> f64 {
        3.0
    }

    fn stand(&self, field: &Field) -> Result<(), Problem> {
        torrent::stand(field)
    }

    fn prepare(&self, field: &Field) -> Result<(), Problem> {
        let torrent = torrent::make(field)?;
        let mut command = Self::client(field, 0, field.dataset_parent());
        command.args(["--bt-seed-unverified=true", "--check-integrity=false", "--allow-overwrite=true"]);
        field.daemon(0, command.arg(torrent), PORT)
    }

    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem> {
        let hook = field.file(&format!("host-{receiver}/complete"), "#!/bin/sh\necho COMPLETE\n")?;
        crate::lab::data::set_mode(&hook, 0o755);
        let mut command = Self::client(field, receiver, &field.copies(receiver));
        command.arg("--on-bt-download-complete").arg(hook).arg(field.path("dataset.torrent"));
        field.start(receiver, &mut command, Ends::Says("COMPLETE"))?;
        Ok(true)
    }

    fn receivers_report_alone(&self) -> bool {
        true
    }
}
