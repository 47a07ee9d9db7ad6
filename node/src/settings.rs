//! What was typed, resolved: addresses looked up, directories found, remembered ports.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use dft_protocol::manifest::PeerAddr;
use libp2p::identity::Keypair;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Kind, shown};
use crate::net::identity::Identity;

/// Where this user's state lies: `$XDG_STATE_HOME/dft`, else `~/.local/state/dft`.
pub fn state_dir() -> Result<PathBuf, Failure> {
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().map(|home| home.join(".local/state"));
    let base = base.or_else(home).ok_or_else(|| {
        Failure::new(Kind::Other, "there is no home directory to keep state in").hint("set XDG_STATE_HOME")
    })?;
    Ok(base.join("dft"))
}

/// What a seeder keeps from run to run, so that manifests that were given away stay good: its
/// identity, its ports, its tracker's memory, and the hashes. One directory per manifest file.
pub struct SeedState {
    directory: PathBuf,
    _lock: std::fs::File,
}

/// The ports of the run before.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    /// Links.
    pub link: u16,
    /// libp2p.
    pub control: u16,
}

impl SeedState {
    /// The state of the seeder that writes `manifest`. One process at a time.
    pub fn open(manifest: &Path) -> Result<Self, Failure> {
        use std::os::unix::ffi::OsStrExt;
        let absolute =
            std::path::absolute(manifest).map_err(|error| Failure::io("find", manifest, &error))?;
        let digest = Sha256::digest(absolute.as_os_str().as_bytes());
        let name: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let directory = state_dir()?.join("seeds").join(name);
        create_private_dir(&directory)?;
        let path = directory.join("lock");
        let lock = std::fs::File::create(&path).map_err(|error| Failure::io("create", &path, &error))?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            let message = format!("another process seeds {} already", shown(manifest));
            return Err(Failure::new(Kind::Disk, message).hint("stop it, or write another manifest with -o"));
        }
        Ok(Self { directory, _lock: lock })
    }

    /// Where the embedded tracker keeps its state.
    pub fn tracker(&self) -> PathBuf {
        self.directory.join("tracker")
    }

    /// Where the hashes are kept.
    pub fn cache(&self) -> &Path {
        &self.directory
    }

    /// The identity of the run before, or a new one.
    pub fn identity(&self) -> Result<Identity, Failure> {
        identity_in(&self.directory)
    }

    /// The ports of the run before.
    pub fn ports(&self) -> Option<Ports> {
        ports_in(&self.directory)
    }

    /// Remembers the ports of this run.
    pub fn remember(&self, ports: Ports) -> Result<(), Failure> {
        remember_ports(&self.directory, ports)
    }
}

/// The file with the private key of a node, or of a tracker.
const IDENTITY: &str = "identity";

/// What a daemon keeps from run to run, so that others find it again: its identity and ports.
pub struct NodeState {
    directory: PathBuf,
}

impl NodeState {
    /// The state in a store, whose lock the caller holds.
    pub fn open(store: &Path) -> Result<Self, Failure> {
        create_private_dir(store)?;
        Ok(Self { directory: store.to_owned() })
    }

    /// The identity of the run before, or a new one.
    pub fn identity(&self) -> Result<Identity, Failure> {
        identity_in(&self.directory)
    }

    /// The files that prove who it is, and who a tracker in its process is and lets write.
    pub fn secrets(&self) -> [PathBuf; 3] {
        let tracker = self.directory.join("tracker");
        [self.directory.join(IDENTITY), tracker.join(IDENTITY), tracker.join("token")]
    }

    /// The ports of the run before.
    pub fn ports(&self) -> Option<Ports> {
        ports_in(&self.directory)
    }

    /// Remembers the ports of this run.
    pub fn remember(&self, link: u16, control: u16) -> Result<(), Failure> {
        remember_ports(&self.directory, Ports { link, control })
    }
}

/// The identity in this directory; a new one only where there is none. Others name a node by its
/// identity: one that cannot be read for a moment must not be replaced.
fn identity_in(directory: &Path) -> Result<Identity, Failure> {
    let path = directory.join(IDENTITY);
    match std::fs::read(&path) {
        Ok(bytes) => Keypair::from_protobuf_encoding(&bytes).map(Identity::from_keypair).map_err(|error| {
            Failure::new(Kind::Other, format!("{} holds no identity: {error}", path.display())).hint(
                "put its backup back; or remove it for a new one, which manifests and addresses of before do not name",
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => new_identity(&path),
        Err(error) => Err(Failure::io("read", &path, &error)),
    }
}

fn new_identity(path: &Path) -> Result<Identity, Failure> {
    let identity = Identity::generate();
    let bytes = identity.keypair().to_protobuf_encoding();
    let bytes =
        bytes.map_err(|error| Failure::new(Kind::Other, format!("cannot encode the identity: {error}")))?;
    write_atomically(path, &bytes, 0o600)?;
    Ok(identity)
}

fn ports_in(directory: &Path) -> Option<Ports> {
    let bytes = std::fs::read(directory.join("ports")).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn remember_ports(directory: &Path, ports: Ports) -> Result<(), Failure> {
    if ports_in(directory) == Some(ports) {
        return Ok(());
    }
    let text = serde_json::json!(ports).to_string();
    write_atomically(&directory.join("ports"), text.as_bytes(), 0o600)
}

/// Creates a directory, and those above it, that only this user can look into.
pub fn create_private_dir(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|error| Failure::io("create", path, &error))
}

/// The same for a directory that somebody named: a file in its way is wrong usage.
pub fn create_given_dir(path: &Path) -> Result<(), Failure> {
    match path.metadata() {
        Ok(there) if !there.is_dir() => {
            let message = format!("{} is a file, not a directory", shown(path));
            Err(Failure::new(Kind::Usage, message).hint("name another directory"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(Failure::given("create", path, &error))
        }
        _ => create_private_dir(path),
    }
}

/// Writes a file such that its name never holds anything but the old or the new content.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(".dft-")
            .permissions(std::fs::Permissions::from_mode(mode))
            .tempfile_in(directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        std::fs::File::open(directory)?.sync_all()
    };
    write().map_err(|error: std::io::Error| Failure::io("write", path, &error))
}

/// Looks up peers that were named as HOST:PORT.
pub async fn resolve_peers(names: &[String]) -> Result<Vec<PeerAddr>, Failure> {
    let mut peers = Vec::new();
    for name in names {
        let found = tokio::net::lookup_host(name.as_str()).await.map_err(|error| {
            Failure::new(Kind::Usage, format!("cannot find the peer {name}: {error}"))
                .hint("a peer is HOST:PORT, for example node3:40123")
        })?;
        peers.extend(found.map(|addr| PeerAddr { peer: None, addr }));
    }
    Ok(peers)
}

/// The addresses at which others reach this machine's `port`: those of its interfaces, the
/// loopback ones only where nothing else is listened on.
pub fn reachable_addrs(listen: IpAddr, port: u16) -> Vec<SocketAddr> {
    if !listen.is_unspecified() {
        return vec![SocketAddr::new(listen, port)];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        // A link-local address means nothing without its interface.
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    let (loopback, mut others): (Vec<IpAddr>, Vec<IpAddr>) =
        interfaces.iter().map(if_addrs::Interface::ip).filter(usable).partition(IpAddr::is_loopback);
    others.sort_by_key(IpAddr::is_ipv6);
    let chosen = if others.is_empty() { loopback } else { others };
    chosen.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_only_where_there_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(IDENTITY);
        let made = identity_in(directory.path()).expect("there was none").peer();
        assert_eq!(identity_in(directory.path()).expect("there is one").peer(), made);

        std::fs::write(&path, b"half of").expect("it can be written");
        let failure = identity_in(directory.path()).err().expect("it is no identity");
        assert!(failure.message.contains("identity") && failure.hint.is_some(), "{failure:?}");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"half of", "it is left for whoever mends it");

        // What cannot be read at all, whoever runs this.
        std::fs::remove_file(&path).expect("it is a file");
        std::fs::create_dir(&path).expect("the name is free");
        assert!(identity_in(directory.path()).is_err());
        assert!(path.is_dir());
    }
}
