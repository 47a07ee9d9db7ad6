//! scp: every receiver asks the source for the whole dataset.

use super::{Need, Peer, ssh, star_x_bound};
use crate::field::{Ends, Field, Problem};
use crate::scenario::Scenario;

/// scp.
pub struct Scp;

impl Peer for Scp {
    fn name(&self) -> &'static str {
        "scp"
    }

    fn about(&self) -> &'static str {
        "scp"
    }

    fn needs(&self) -> &'static [Need] {
        &[("scp", "openssh-client"), ("sshd", "openssh-server")]
    }

    fn expected_x_bound(&self, scenario: &Scenario) -> f64 {
        star_x_bound(scenario)
    }

    fn stand(&self, field: &Field) -> Result<(), Problem> {
        ssh::stand(field)
    }

    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem> {
        let mut command = field.command(receiver, "scp");
        command.args(["-q", "-r", "-F"]).arg(field.path("ssh_config"));
        command.arg(format!("{}:{}", field.address(0), field.dataset.display()));
        command.arg(field.copies(receiver));
        field.start(receiver, &mut command, Ends::Exits)?;
        Ok(true)
    }

    fn receivers_report_alone(&self) -> bool {
        true
    }
}
