//! Peers that are not there, and how they come there: by Debian's packages.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::lab::tool;
use crate::peers::{PEERS, Peer};

/// While this says «no», a package that is installed starts none of its daemons.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The packages that a peer lacks.
pub fn missing(peer: &dyn Peer) -> Vec<&'static str> {
    let lacks = |program: &str| !is_there(program);
    peer.needs().iter().filter(|(program, _)| lacks(program)).map(|(_, package)| *package).collect()
}

/// Installs whatever any peer lacks.
pub fn install_missing() -> Result<(), String> {
    let packages: BTreeSet<&str> = PEERS.iter().flat_map(|peer| missing(*peer)).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let policy = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
    if let Ok(mut policy) = policy.as_ref() {
        policy.write_all(b"#!/bin/sh\nexit 101\n").map_err(|error| format!("{POLICY}: {error}"))?;
    }
    let result = apt_get(&["update"]).and_then(|()| {
        apt_get(
            &[&["install", "--yes", "--no-install-recommends"], &*packages.into_iter().collect::<Vec<_>>()]
                .concat(),
        )
    });
    if policy.is_ok() {
        let _ = fs::remove_file(POLICY);
    }
    result
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let status = tool("apt-get").env("DEBIAN_FRONTEND", "noninteractive").arg("-q").args(arguments).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("apt-get {}: {status}", arguments.join(" "))),
        Err(error) => Err(format!("apt-get: {error}")),
    }
}

/// Whether a program is found where programs are, or a file at its absolute path.
fn is_there(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let directories = path.split(':').chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"]);
    directories.into_iter().any(|directory| Path::new(directory).join(program).exists())
}
