//! libp2p's mDNS behaviour, bounded.
//!
//! It keeps every node that it hears of until the node's own time to live is over, and whoever is
//! on the LAN can invent nodes. So it is thrown away, with all that it keeps, when it knows too
//! many, and a new one asks the LAN again.
//!
//! It asks at once when it starts, and answers with the listen addresses that it was told of; its
//! own question is one that it answers as well. So it is started once the swarm listens: then a
//! peer that is already there finds us by our first question, without one of its own.

use std::io;
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::mdns;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::behaviour::{FromSwarm, NewListenAddr};
use libp2p::{Multiaddr, PeerId};

/// Most pairs of node and address that are kept: two addresses of each of 1,024 hosts. Each that
/// is heard is compared with all of them.
pub(super) const NODES_MAX: usize = 2048;
/// How often it starts at most, as each start is a question that the whole LAN answers; a flood
/// that fills it faster finds it deaf for the rest of the time. (Measured with 9,000 invented
/// addresses a second: peers find each other in 0.1 to 0.6 s with this, not at all with 1 s.)
pub(super) const RESTART_EVERY: Duration = Duration::from_millis(250);
/// How long others keep what we say: a few questions more than the interval, so that a peer that
/// is gone is forgotten soon.
const TTL: Duration = Duration::from_secs(60);
/// How often the LAN is asked, by whoever's turn comes first: every answer that a peer hears puts
/// its own question off. Bounds what one lost packet costs.
const QUERY_INTERVAL: Duration = Duration::from_secs(5);

/// Which multicast group is used: libp2p's behaviour speaks one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

/// A behaviour that announces `listening` and asks at once.
pub(super) fn start(
    family: Family,
    own: PeerId,
    listening: &[Multiaddr],
) -> io::Result<Toggle<mdns::tokio::Behaviour>> {
    let config = mdns::Config { ttl: TTL, query_interval: QUERY_INTERVAL, enable_ipv6: family == Family::V6 };
    let mut behaviour = mdns::tokio::Behaviour::new(config, own)?;
    let listener_id = ListenerId::next();
    for addr in listening {
        behaviour.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }));
    }
    Ok(Toggle::from(Some(behaviour)))
}
