//! What goes over ssh: an sshd on every host, with keys of this trial alone.
//!
//! The laboratory knows one user, and sshd as root wants others to become. So it runs, in a user
//! namespace of its own, as an ordinary user, whose name stands in a user table that is mounted over
//! the machine's for this trial. On every host, `/mnt/copy` is the directory of that host's copy.

use std::path::Path;

use crate::field::{Field, Problem, run};
use crate::lab::tool;

const PORT: u16 = 2222;
/// Where what runs by ssh on a host finds the directory for its copy.
pub const COPY: &str = "/mnt/copy";

/// Starts an sshd on each host.
pub fn stand(field: &Field) -> Result<(), Problem> {
    let users = format!(
        "root:x:0:0::{0}:/bin/bash\nlab:x:1000:1000::{0}:/bin/bash\n",
        field.directory("home")?.display()
    );
    let users = field.file("passwd", &users)?;
    run(tool("mount").arg("--bind").arg(users).arg("/etc/passwd"))?;
    for key in ["host-key", "user-key"] {
        run(tool("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(field.path(key)))?;
    }
    std::fs::create_dir_all(COPY).map_err(|error| format!("{COPY}: {error}"))?;
    let at = |name: &str| field.path(name).display().to_string();
    let server = format!(
        "Port {PORT}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
         PasswordAuthentication no\nMaxStartups 1000\nMaxSessions 1000\nSubsystem sftp internal-sftp\n\
         AcceptEnv *\n",
        at("host-key"),
        at("user-key.pub")
    );
    let server = field.file("sshd_config", &server)?;
    let client = format!(
        "Host *\nPort {PORT}\nUser lab\nIdentityFile {}\nIdentitiesOnly yes\nStrictHostKeyChecking no\n\
         UserKnownHostsFile /dev/null\nLogLevel ERROR\nConnectTimeout 20\nConnectionAttempts 5\n",
        at("user-key")
    );
    field.file("ssh_config", &client)?;
    for host in 0..=field.scenario.receivers {
        serve(field, host, &server)?;
    }
    Ok(())
}

fn serve(field: &Field, host: usize, configuration: &Path) -> Result<(), Problem> {
    let script = format!(
        "mount --bind '{}' {COPY}; exec unshare --user --map-user=1000 --map-group=1000 \
         /usr/sbin/sshd -D -e -f '{}'",
        field.copies(host).display(),
        configuration.display()
    );
    field.daemon(host, &mut field.shell(host, &script), PORT)
}

/// How ssh is called.
pub fn program(field: &Field) -> String {
    format!("ssh -F {}", field.path("ssh_config").display())
}
