//! dft itself: `dft seed` at the source, `dft fetch` on every receiver.

use super::Peer;
use crate::field::{Ends, Field, Problem};
use crate::scenario::Scenario;

/// With encrypted links, or with plaintext ones.
pub struct Dft {
    pub encryption: bool,
}

impl Dft {
    fn options(&self) -> [&'static str; 3] {
        ["--json", "--encryption", if self.encryption { "on" } else { "off" }]
    }
}

impl Peer for Dft {
    fn name(&self) -> &'static str {
        if self.encryption { "dft" } else { "dft-plain" }
    }

    fn about(&self) -> &'static str {
        if self.encryption { "dft seed and dft fetch" } else { "the same with --encryption off" }
    }

    fn expected_x_bound(&self, _scenario: &Scenario) -> f64 {
        1.3
    }

    fn prepare(&self, field: &Field) -> Result<(), Problem> {
        let mut command = field.command(0, &field.dft);
        command.arg("seed").args(self.options());
        command.arg("--output").arg(field.path("manifest.dft"));
        command.arg(&field.dataset);
        field.daemon_that_says(0, &mut command, r#""event":"seeding""#).map(drop)
    }

    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem> {
        let mut command = field.command(receiver, &field.dft);
        command.arg("fetch").args(self.options());
        command.arg("--output").arg(field.copies(receiver));
        command.arg(field.path("manifest.dft"));
        // The process goes on to share; the copy is complete and in its place.
        field.start(receiver, &mut command, Ends::Says(r#""event":"complete""#))?;
        Ok(true)
    }

    fn receivers_report_alone(&self) -> bool {
        true
    }
}
