//! libtorrent, by its Python binding: the engine of several BitTorrent clients.

use super::{Need, Peer, torrent};
use crate::field::{Ends, Field, Problem};

/// libtorrent.
pub struct Libtorrent;

impl Peer for Libtorrent {
    fn name(&self) -> &'static str {
        "libtorrent"
    }

    fn about(&self) -> &'static str {
        "libtorrent (python3-libtorrent), TCP"
    }

    fn needs(&self) -> &'static [Need] {
        &[torrent::NEED]
    }

    fn expected_x_bound(&self, _scenario: &crate::scenario::Scenario) -> f64 {
        3.0
    }

    fn stand(&self, field: &Field) -> Result<(), Problem> {
        torrent::stand(field)
    }

    fn prepare(&self, field: &Field) -> Result<(), Problem> {
        let torrent = torrent::make(field)?;
        let mut command = torrent::script(field, 0)?;
        command.arg("seed").arg(torrent).arg(field.dataset_parent());
        field.daemon_that_says(0, &mut command, "COMPLETE").map(drop)
    }

    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem> {
        let mut command = torrent::script(field, receiver)?;
        command.arg("fetch").arg(field.path("dataset.torrent")).arg(field.copies(receiver));
        field.start(receiver, &mut command, Ends::Says("COMPLETE"))?;
        Ok(true)
    }

    fn receivers_report_alone(&self) -> bool {
        true
    }
}
