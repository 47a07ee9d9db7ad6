//! dft itself: `dft seed` at the source, `dft fetch` on every receiver.

use std::process::Command;

use super::Peer;
use crate::field::{Ends, Field, Problem};
use crate::scenario::Scenario;

/// With encrypted links, or with plaintext ones.
pub struct Dft {
    pub encryption: bool,
}

impl Dft {
    /// `dft VERB` on a host, with what both verbs are told.
    fn command(&self, field: &Field, host: usize, verb: &str) -> Command {
        let mut command = field.command(host, &field.dft);
        command.args([verb, "--json", "--encryption", if self.encryption { "on" } else { "off" }]);
        if let Some(directory) = &field.traces {
            command.arg("--trace").arg(directory.join(format!("{host:02}-{verb}.trace")));
        }
        command
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
        let mut command = self.command(field, 0, "seed");
        command.arg("--output").arg(field.path("manifest.dft"));
        command.arg(&field.dataset);
        field.daemon_that_says(0, &mut command, r#""event":"seeding""#).map(drop)
    }

    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem> {
        let mut command = self.command(field, receiver, "fetch");
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
