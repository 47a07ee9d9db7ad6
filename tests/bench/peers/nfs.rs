//! NFS in user space at both ends: nfs-ganesha exports the dataset, libnfs's `nfs-cp` reads it.
//!
//! `nfs-cp` copies one file; of a directory every file is a process, as many at once as there are
//! cores to run them. ganesha opens files by their handles, which the kernel allows to the
//! machine's root alone.

use super::{Need, Peer, star_x_bound};
use crate::field::{Ends, Field, Problem, run};
use crate::lab::tool;
use crate::scenario::{Dataset, Scenario};

const PORT: u16 = 2049;

/// NFS.
pub struct Nfs;

impl Peer for Nfs {
    fn name(&self) -> &'static str {
        "nfs"
    }

    fn about(&self) -> &'static str {
        "nfs-ganesha and libnfs's nfs-cp"
    }

    fn needs(&self) -> &'static [Need] {
        &[
            ("ganesha.nfsd", "nfs-ganesha"),
            ("/usr/share/doc/nfs-ganesha-vfs", "nfs-ganesha-vfs"),
            ("nfs-cp", "libnfs-utils"),
        ]
    }

    fn expected_x_bound(&self, scenario: &Scenario) -> f64 {
        let slower = match (scenario.dataset, scenario.rates_mbit.is_empty()) {
            (Dataset::File(_), _) => 1.0,
            (Dataset::TinyFiles, true) => 50.0,
            (Dataset::TinyFiles, false) => 3.0,
        };
        star_x_bound(scenario) * slower
    }

    fn needs_machine_root(&self) -> bool {
        true
    }

    fn stand(&self, field: &Field) -> Result<(), Problem> {
        // What it writes beside the export; /var/run is memory of the laboratory anyway.
        for directory in ["/var/lib/nfs", "/var/log"] {
            run(tool("mount").args(["-t", "tmpfs", "nfs", directory]))?;
        }
        run(tool("mkdir").args(["-p", "/var/lib/nfs/ganesha", "/var/run/ganesha", "/var/log/ganesha"]))?;
        let configuration = format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {PORT}; Enable_NLM = false; Enable_RQUOTA = false; \
             fsid_device = true; }}\n\
             NFSv4 {{ Graceless = true; Grace_Period = 0; Lease_Lifetime = 10; Minor_Versions = 0; }}\n\
             EXPORT {{ Export_Id = 1; Path = {path}; Pseudo = /data; Access_Type = RO; Squash = None; \
             SecType = sys, none; Protocols = 4; FSAL {{ Name = VFS; }} }}\n\
             LOG {{ Default_Log_Level = WARN; }}\n",
            path = field.dataset_parent().display()
        );
        let configuration = field.file("ganesha.conf", &configuration)?;
        let mut command = field.command(0, "ganesha.nfsd");
        command
            .arg("-F")
            .arg("-f")
            .arg(configuration)
            .args(["-L", "STDERR", "-p"])
            .arg(field.path("ganesha.pid"));
        field.daemon(0, &mut command, PORT)
    }

    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem> {
        let (copies, name) = (field.copies(receiver), field.dataset_name());
        let (copies, parent) = (copies.display(), field.dataset_parent().display());
        let (source, options) = (field.address(0), format!("?version=4&nfsport={PORT}"));
        let script = if field.is_tree() {
            format!(
                "cd '{parent}'; find '{name}' -type d -printf '{copies}/%p\\0' | xargs -0 mkdir -p; \
                 find '{name}' -type f -print0 | xargs -0 -P \"$(nproc)\" -I @ \
                 nfs-cp 'nfs://{source}/data/@{options}' '{copies}/@' > /dev/null"
            )
        } else {
            format!("exec nfs-cp 'nfs://{source}/data/{name}{options}' '{copies}/{name}'")
        };
        field.start(receiver, &mut field.shell(receiver, &script), Ends::Exits)?;
        Ok(true)
    }

    fn receivers_report_alone(&self) -> bool {
        true
    }
}
