//! Which nodes there are: the pure core of the node directory.
//!
//! A node announces itself every [`NODE_INTERVAL`]. It leaves the directory when it says so and when its
//! record expires. For new questions it is missing as soon as its last connection to the tracker is
//! gone, as that of a killed process is at once, and when it was silent for [`NODE_SILENT_MAX`], as a
//! host without power is. An announcement brings it back.
//!
//! No IO and no clock; every table has a quota.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use dft_protocol::id::PeerId;
use dft_protocol::time::Instant;
use thiserror::Error;

use super::name::fools_a_terminal;
use crate::registry::{LinkAddrs, RECORD_TTL};

/// How long a node stays after an announcement: as the records of its datasets.
pub const NODE_TTL: Duration = RECORD_TTL;
/// How often a node announces itself: 512 nodes are 128 small requests a second, which write nothing.
pub const NODE_INTERVAL: Duration = Duration::from_secs(4);
/// A node that was silent for so long counts as gone: two announcements may be lost.
pub const NODE_SILENT_MAX: Duration = Duration::from_secs(12);
/// Most nodes: eight times what is planned for.
pub const NODES_MAX: usize = 4_096;
/// Most nodes that were seen at one IP address, so that one host cannot fill the directory.
/// A cluster of 512 nodes behind one address fits.
pub const NODES_PER_IP_MAX: usize = 1_024;
/// Longest host name, in bytes: as in DNS.
pub const HOST_NAME_LEN_MAX: usize = 255;
/// Most control addresses of one node, as many as link addresses.
pub const CONTROL_ADDRS_MAX: usize = 8;
/// Longest control address, in bytes.
pub const CONTROL_ADDR_LEN_MAX: usize = 255;
/// Longest version, in bytes.
pub const VERSION_LEN_MAX: usize = 64;

/// A line of text about a node: printable, without spaces at its ends, not empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Label<const MAX: usize>(Box<str>);

impl<const MAX: usize> Label<MAX> {
    /// The text, where it is 1 to `MAX` bytes of printable text.
    pub fn new(text: &str) -> Option<Self> {
        let valid = !text.is_empty()
            && text.len() <= MAX
            && text.trim().len() == text.len()
            && !text.chars().any(fools_a_terminal);
        valid.then(|| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> std::fmt::Display for Label<MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node calls its host. A claim, not a proof: two nodes may say the same.
pub type HostName = Label<HOST_NAME_LEN_MAX>;
/// The text of a multiaddress where a node takes libp2p connections.
pub type ControlAddr = Label<CONTROL_ADDR_LEN_MAX>;
/// The version of a node's program.
pub type Version = Label<VERSION_LEN_MAX>;

/// What a node tells about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// Its host.
    pub host: HostName,
    /// Where it takes libp2p connections, at most [`CONTROL_ADDRS_MAX`].
    pub control: Vec<ControlAddr>,
    /// Where it takes links.
    pub links: LinkAddrs,
    /// How many bytes its store may hold; 0 where nothing bounds it.
    pub quota_bytes: u64,
    /// How many bytes it holds.
    pub used_bytes: u64,
    /// How many datasets it serves.
    pub datasets: u32,
    /// What it sends, in bytes per second.
    pub up_rate: u64,
    /// What it receives, in bytes per second.
    pub down_rate: u64,
    /// The version of its program.
    pub version: Version,
}

/// A node of the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundNode {
    /// Who it is: proven by the connection that announced it.
    pub peer: PeerId,
    /// Where its announcement came from.
    pub observed: IpAddr,
    /// What it told.
    pub record: NodeRecord,
    /// How long ago it announced itself, in seconds.
    pub age_s: u32,
}

/// A quota is used up: the node was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NodeQuotaError {
    /// More than [`NODES_MAX`].
    #[error("the tracker already knows {NODES_MAX} nodes")]
    Nodes,
    /// More than [`NODES_PER_IP_MAX`].
    #[error("this IP address already announced {NODES_PER_IP_MAX} nodes")]
    NodesOfIp,
}

struct Kept {
    record: NodeRecord,
    observed: IpAddr,
    announced: Instant,
    // It is gone, so it is no answer until it announces itself again.
    away: bool,
}

/// All nodes whose records have not expired.
#[derive(Default)]
pub struct NodeDirectory {
    nodes: BTreeMap<PeerId, Kept>,
    of_ip: HashMap<IpAddr, usize>,
}

impl NodeDirectory {
    /// Takes or renews the record of `peer`.
    pub fn announce(
        &mut self,
        peer: PeerId,
        observed: IpAddr,
        record: NodeRecord,
        now: Instant,
    ) -> Result<(), NodeQuotaError> {
        self.expire(now);
        let known = self.nodes.get(&peer);
        if known.is_none() && self.nodes.len() >= NODES_MAX {
            return Err(NodeQuotaError::Nodes);
        }
        let new_here = known.is_none_or(|kept| kept.observed != observed);
        if new_here && self.of_ip.get(&observed).is_some_and(|nodes| *nodes >= NODES_PER_IP_MAX) {
            return Err(NodeQuotaError::NodesOfIp);
        }
        self.forget(&peer);
        *self.of_ip.entry(observed).or_default() += 1;
        self.nodes.insert(peer, Kept { record, observed, announced: now, away: false });
        Ok(())
    }

    fn forget(&mut self, peer: &PeerId) {
        if let Some(kept) = self.nodes.remove(peer)
            && let Some(count) = self.of_ip.get_mut(&kept.observed)
        {
            *count -= 1;
            if *count == 0 {
                self.of_ip.remove(&kept.observed);
            }
        }
    }

    /// `peer` took leave, or its last connection is gone: it is no answer until it announces itself again.
    pub fn away(&mut self, peer: &PeerId) {
        if let Some(kept) = self.nodes.get_mut(peer) {
            kept.away = true;
        }
    }

    /// Forgets who has not announced itself for [`NODE_TTL`].
    pub fn expire(&mut self, now: Instant) {
        let expired: Vec<PeerId> = self
            .nodes
            .iter()
            .filter(|(_, kept)| now.since(kept.announced) >= NODE_TTL)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in expired {
            self.forget(&peer);
        }
    }

    /// The nodes behind `after` in the order of their ids.
    pub fn nodes(&self, after: Option<&PeerId>, now: Instant) -> impl Iterator<Item = FoundNode> {
        let from = after.map_or(std::ops::Bound::Unbounded, |peer| std::ops::Bound::Excluded(*peer));
        self.nodes.range((from, std::ops::Bound::Unbounded)).filter(move |(_, kept)| !kept.is_away(now)).map(
            move |(peer, kept)| FoundNode {
                peer: *peer,
                observed: kept.observed,
                record: kept.record.clone(),
                age_s: u32::try_from(now.since(kept.announced).as_secs()).unwrap_or(u32::MAX),
            },
        )
    }

    /// What `peer` calls its host; `None` where it is no node of the directory.
    pub fn host(&self, peer: &PeerId) -> Option<&HostName> {
        self.nodes.get(peer).map(|kept| &kept.record.host)
    }

    /// Whether `peer` is known to be gone, or seems to be.
    pub fn is_away(&self, peer: &PeerId, now: Instant) -> bool {
        self.nodes.get(peer).is_some_and(|kept| kept.is_away(now))
    }
}

impl Kept {
    fn is_away(&self, now: Instant) -> bool {
        self.away || now.since(self.announced) >= NODE_SILENT_MAX
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(host: &str) -> NodeRecord {
        NodeRecord {
            host: HostName::new(host).expect("a host name"),
            control: vec![ControlAddr::new("/ip4/10.0.0.1/tcp/7").expect("an address")],
            links: LinkAddrs::default(),
            quota_bytes: 1 << 40,
            used_bytes: 5,
            datasets: 2,
            up_rate: 1,
            down_rate: 0,
            version: Version::new("0.1.0").expect("a version"),
        }
    }

    fn peer(number: usize) -> PeerId {
        PeerId::from_bytes(&number.to_be_bytes()).expect("8 bytes")
    }

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    fn hosts(directory: &NodeDirectory) -> Vec<String> {
        hosts_at(directory, 5)
    }

    fn hosts_at(directory: &NodeDirectory, seconds: u64) -> Vec<String> {
        directory.nodes(None, at(seconds)).map(|node| node.record.host.to_string()).collect()
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn dead_nodes_are_no_answer_at_once_and_forgotten_in_the_end() {
        let mut directory = NodeDirectory::default();
        for (number, host) in ["a", "b", "c"].into_iter().enumerate() {
            directory.announce(peer(number), HERE, record(host), at(0)).expect("taken");
        }
        directory.away(&peer(0));
        assert_eq!(hosts(&directory), ["b", "c"]);
        directory.away(&peer(1));
        assert_eq!(hosts(&directory), ["c"]);
        assert!(directory.is_away(&peer(1), at(5)));
        directory.announce(peer(1), HERE, record("b"), at(5)).expect("it is back");
        assert_eq!(hosts(&directory), ["b", "c"]);
        // Silent ones are no answer either, until they say something.
        let silent = NODE_SILENT_MAX.as_secs();
        assert_eq!(hosts_at(&directory, silent - 1), ["b", "c"]);
        assert_eq!(hosts_at(&directory, silent), ["b"]);
        assert!(directory.is_away(&peer(2), at(silent)) && !directory.is_away(&peer(1), at(silent)));
        directory.announce(peer(1), HERE, record("b"), at(50)).expect("a renewal");
        directory.expire(at(NODE_TTL.as_secs()));
        assert_eq!(hosts_at(&directory, 55), ["b"]);
        assert_eq!(directory.host(&peer(2)), None);
    }

    #[test]
    fn one_address_cannot_fill_the_directory() {
        let mut directory = NodeDirectory::default();
        for number in 0..NODES_PER_IP_MAX {
            directory.announce(peer(number), HERE, record("a"), at(0)).expect("taken");
        }
        let more = peer(NODES_PER_IP_MAX);
        assert_eq!(directory.announce(more, HERE, record("a"), at(0)), Err(NodeQuotaError::NodesOfIp));
        directory.announce(peer(0), HERE, record("a"), at(1)).expect("a renewal");
        let elsewhere = IpAddr::from([10, 0, 0, 2]);
        directory.announce(more, elsewhere, record("a"), at(1)).expect("another address");
        directory
            .announce(peer(NODES_PER_IP_MAX + 1), HERE, record("a"), at(NODE_TTL.as_secs()))
            .expect("room again");
    }
}
