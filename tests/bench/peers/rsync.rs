//! rsync: every receiver asks the source for the whole dataset, of a daemon or over ssh.

use super::{Need, Peer, ssh, star_x_bound};
use crate::field::{Ends, Field, Problem};
use crate::scenario::Scenario;

const PORT: u16 = 8730;

/// By which way.
pub struct Rsync {
    pub over_ssh: bool,
}

impl Peer for Rsync {
    fn name(&self) -> &'static str {
        if self.over_ssh { "rsync-ssh" } else { "rsync" }
    }

    fn about(&self) -> &'static str {
        if self.over_ssh { "rsync over ssh" } else { "rsync's daemon" }
    }

    fn needs(&self) -> &'static [Need] {
        if self.over_ssh {
            &[("rsync", "rsync"), ("sshd", "openssh-server"), ("ssh", "openssh-client")]
        } else {
            &[("rsync", "rsync")]
        }
    }

    fn expected_x_bound(&self, scenario: &Scenario) -> f64 {
        star_x_bound(scenario)
    }

    fn stand(&self, field: &Field) -> Result<(), Problem> {
        if self.over_ssh {
            return ssh::stand(field);
        }
        let configuration = format!(
            "use chroot = no\nreverse lookup = no\n[data]\npath = {}\nread only = yes\n",
            field.dataset_parent().display()
        );
        let configuration = field.file("rsyncd.conf", &configuration)?;
        // As root it would become another user, and the laboratory has no other.
        let mut command = field.command(0, "unshare");
        command.args(["--user", "--map-user=1000", "--map-group=1000", "rsync"]);
        command.args(["--daemon", "--no-detach", &format!("--port={PORT}")]);
        command.arg(format!("--config={}", configuration.display()));
        field.daemon(0, &mut command, PORT)
    }

    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem> {
        let (source, name) = (field.address(0), field.dataset_name());
        let mut command = field.command(receiver, "rsync");
        command.args(["--archive", "--no-owner", "--no-group", "--whole-file"]);
        if self.over_ssh {
            command.args(["-e", &ssh::program(field)]);
            command.arg(format!("{source}:{}", field.dataset.display()));
        } else {
            command.arg(format!("rsync://{source}:{PORT}/data/{name}"));
        }
        command.arg(field.copies(receiver));
        field.start(receiver, &mut command, Ends::Exits)?;
        Ok(true)
    }

    fn receivers_report_alone(&self) -> bool {
        true
    }
}
