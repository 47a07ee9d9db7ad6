//! TakTuk's `put`: the source's process reaches the others by ssh, in a tree that adapts to who
//! answers, or in a chain, and data flow down along it.

use super::{Need, Peer, ssh};
use crate::field::{Ends, Field, Problem};
use crate::scenario::{Dataset, Scenario};

/// TakTuk.
pub struct Taktuk {
    pub chain: bool,
}

impl Peer for Taktuk {
    fn name(&self) -> &'static str {
        if self.chain { "taktuk-chain" } else { "taktuk" }
    }

    fn about(&self) -> &'static str {
        if self.chain { "TakTuk's put, -d 1" } else { "TakTuk's put" }
    }

    fn needs(&self) -> &'static [Need] {
        &[("taktuk", "taktuk"), ("sshd", "openssh-server"), ("ssh", "openssh-client")]
    }

    fn expected_x_bound(&self, scenario: &Scenario) -> f64 {
        match (scenario.rates_mbit.is_empty(), scenario.dataset) {
            (true, _) => 15.0,
            (false, Dataset::TinyFiles) => 7.0,
            (false, Dataset::File(_)) if self.chain => 3.0,
            (false, Dataset::File(_)) => 6.0,
        }
    }

    fn stand(&self, field: &Field) -> Result<(), Problem> {
        ssh::stand(field)
    }

    fn receive(&self, _field: &Field, _receiver: usize) -> Result<bool, Problem> {
        Ok(false)
    }

    fn send(&self, field: &Field) -> Result<bool, Problem> {
        let mut command = field.command(0, "taktuk");
        command.args(["-c", &ssh::program(field)]);
        if self.chain {
            command.args(["-d", "1"]);
        }
        for receiver in field.receivers() {
            command.args(["-m", &field.address(receiver).to_string()]);
        }
        command.args(["broadcast", "put", "["]).arg(&field.dataset).args(["]", "[", ssh::COPY, "]"]);
        field.start(0, &mut command, Ends::Exits)?;
        Ok(true)
    }

    fn receivers_report(&self) -> bool {
        false
    }
}
