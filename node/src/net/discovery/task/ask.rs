//! The LAN half of the loop: runs mDNS, asks whom `lan` names, answers whoever asks.

use std::net::SocketAddr;

use dft_protocol::manifest::PeerAddr;
use dft_tracker::address::{ip_of, peer_id_from_libp2p, socket_addr_of};
use libp2p::mdns;
use libp2p::request_response::{self, Message, OutboundFailure};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::{Event, Mdns, Task, is_global};
use crate::net::discovery::Source;
use crate::net::discovery::datasets::{Answer, Question, Served};
use crate::net::discovery::multicast::{self, Family};

impl Task {
    /// Starts mDNS where it was waiting for an interface.
    pub(super) fn start_mdns(&mut self, family: Family, now: Instant) {
        let usable = |addr: &Multiaddr| ip_of(addr).is_some_and(|ip| is_global(&ip));
        if self.mdns == Mdns::Waiting && self.swarm.listeners().any(usable) {
            self.restart_mdns(family, now);
        }
    }

    pub(super) fn restart_mdns(&mut self, family: Family, now: Instant) {
        let listening: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        match multicast::start(family, *self.swarm.local_peer_id(), &listening) {
            Ok(behaviour) => {
                self.swarm.behaviour_mut().mdns = behaviour;
                self.mdns = Mdns::On(family, now);
            }
            Err(error) => {
                self.mdns = Mdns::Off;
                self.tell(Event::Warning(format!("peers on the LAN cannot be found by mDNS: {error}")));
            }
        }
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event, now: Instant) {
        match event {
            mdns::Event::Discovered(found) => {
                for (peer, addr) in found {
                    // Only what TCP can reach, and never this host by its loopback.
                    if socket_addr_of(&addr).is_some_and(|addr| !addr.ip().is_loopback()) {
                        self.lan.heard_of(peer, addr, now);
                    }
                }
                let kept =
                    self.swarm.behaviour().mdns.as_ref().map_or(0, |mdns| mdns.discovered_nodes().len());
                if let Mdns::On(family, since) = self.mdns
                    && kept > multicast::NODES_MAX
                {
                    self.swarm.behaviour_mut().mdns = Toggle::from(None);
                    self.mdns = Mdns::Flooded(family, now.max(since + multicast::RESTART_EVERY));
                }
            }
            mdns::Event::Expired(expired) => {
                for (peer, addr) in expired {
                    self.lan.expired(&peer, &addr);
                }
            }
        }
    }

    pub(super) fn ask_on_lan(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, now: Instant) {
        if self.swarm.is_connected(&peer) {
            return self.send_question(&peer);
        }
        let opts = DialOpts::peer_id(peer).addresses(addrs).condition(PeerCondition::Always);
        let opts = opts.allocate_new_port().build();
        let connection = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.asking.insert(connection, peer);
            }
            Err(_) => self.lan.failed(&peer, now),
        }
    }

    pub(super) fn send_question(&mut self, peer: &PeerId) {
        let question = Question::about(self.config.manifest);
        self.swarm.behaviour_mut().datasets.send_request(peer, question);
    }

    pub(super) fn on_datasets(&mut self, event: request_response::Event<Question, Answer>, now: Instant) {
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                Message::Request { request, channel, .. } => {
                    let asked = request.asks_for(self.config.manifest);
                    let served = Served {
                        manifest: self.config.manifest,
                        link_port: self.config.link_port,
                        complete: self.config.complete,
                    };
                    let answer = Answer::new(asked.then_some(served));
                    let _ = self.swarm.behaviour_mut().datasets.send_response(channel, answer);
                    if asked && self.mdns != Mdns::Off {
                        self.lan.asked_by(peer, now);
                    }
                }
                Message::Response { response, .. } => {
                    let served = response.about(self.config.manifest);
                    self.lan.answered(&peer, served.is_some(), now);
                    let ip = self.remotes.get(&connection_id).copied();
                    if let (Some(served), Some(ip)) = (served, ip) {
                        let addr = SocketAddr::new(ip, served.link_port);
                        let peers = vec![PeerAddr { peer: peer_id_from_libp2p(&peer), addr }];
                        self.tell(Event::PeersFound { peers, source: Source::Mdns });
                    }
                }
            },
            request_response::Event::OutboundFailure { peer, error, .. } => match error {
                // Another program that uses libp2p.
                OutboundFailure::UnsupportedProtocols => self.lan.answered(&peer, false, now),
                _ => self.lan.failed(&peer, now),
            },
            _ => {}
        }
    }
}
