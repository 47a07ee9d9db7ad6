//! The LAN half of the loop: runs mDNS, asks whom `lan` names, answers whoever asks.

use std::net::{IpAddr, SocketAddr};

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::PeerAddr;
use dft_tracker::address::{ip_of, peer_id_from_libp2p, socket_addr_of};
use libp2p::mdns;
use libp2p::request_response::{self, Message, OutboundFailure, OutboundRequestId};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::{Event, Mdns, REQUESTS_PER_PEER_MAX, Task, is_global};
use crate::net::discovery::Source;
use crate::net::discovery::datasets::{Answer, MANIFESTS_PER_QUESTION_MAX, Question, Served};
use crate::net::discovery::multicast::{self, Family};
use crate::net::discovery::shelf::SHELF;

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
                        self.heard.add(peer, &addr);
                        self.heard_of_node(&peer, &addr);
                        for followed in self.datasets.values_mut() {
                            followed.lan.heard_of(peer, addr.clone(), now);
                        }
                    }
                }
                let kept =
                    self.swarm.behaviour().mdns.as_ref().map_or(0, |mdns| mdns.discovered_nodes().len());
                if let Mdns::On(family, since) = self.mdns
                    && kept > multicast::NODES_MAX
                {
                    self.swarm.behaviour_mut().mdns = Toggle::from(None);
                    self.heard.forget_all();
                    self.mdns = Mdns::Flooded(family, now.max(since + multicast::RESTART_EVERY));
                }
            }
            mdns::Event::Expired(expired) => {
                for (peer, addr) in expired {
                    self.heard.expire(&peer, &addr);
                    self.datasets.values_mut().for_each(|followed| followed.lan.expired(&peer, &addr));
                }
            }
        }
    }

    pub(super) fn ask_on_lan(
        &mut self,
        manifest: ManifestId,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        now: Instant,
    ) {
        self.questions.waiting.entry(peer).or_default().push_back(manifest);
        if self.swarm.is_connected(&peer) {
            return self.send_questions(&peer);
        }
        if self.asking.values().any(|dialled| *dialled == peer) {
            return;
        }
        let opts = DialOpts::peer_id(peer).addresses(addrs).condition(PeerCondition::Always);
        let opts = opts.allocate_new_port().build();
        let connection = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.asking.insert(connection, peer);
            }
            Err(_) => {
                let waiting = self.questions.waiting.remove(&peer).unwrap_or_default();
                self.for_each_of(waiting, |followed| followed.lan.failed(&peer, now));
            }
        }
    }

    /// Asks a connected peer for whatever waits to be asked of it, many datasets at once.
    pub(super) fn send_questions(&mut self, peer: &PeerId) {
        let asked = self.questions.under_way.values().filter(|(asked, _)| asked == peer).count();
        for _ in asked..REQUESTS_PER_PEER_MAX {
            let Some(waiting) = self.questions.waiting.get_mut(peer) else { return };
            let manifests: Vec<ManifestId> =
                waiting.drain(..waiting.len().min(MANIFESTS_PER_QUESTION_MAX)).collect();
            if waiting.is_empty() {
                self.questions.waiting.remove(peer);
            }
            let question = Question::about(manifests.clone());
            let request = self.swarm.behaviour_mut().datasets.send_request(peer, question);
            self.questions.under_way.insert(request, (*peer, manifests));
        }
    }

    pub(super) fn on_datasets(&mut self, event: request_response::Event<Question, Answer>, now: Instant) {
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                Message::Request { request, channel, .. } => {
                    let answer = self.answer_to(&request);
                    let _ = self.swarm.behaviour_mut().datasets.send_response(channel, answer);
                    if self.mdns != Mdns::Off {
                        let asked = request.manifests().to_vec();
                        self.for_each_of(asked, |followed| followed.lan.asked_by(peer, now));
                    }
                }
                Message::Response { request_id, response } => {
                    let ip = self.remotes.get(&connection_id).copied();
                    self.on_answer(&peer, request_id, &response, ip, now);
                }
            },
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                let Some((_, manifests)) = self.questions.under_way.remove(&request_id) else { return };
                // Another program that uses libp2p.
                let other = matches!(error, OutboundFailure::UnsupportedProtocols);
                self.for_each_of(manifests, |followed| match other {
                    true => followed.lan.answered(&peer, false, now),
                    false => followed.lan.failed(&peer, now),
                });
                self.ask_the_rest(&peer, now);
            }
            _ => {}
        }
    }

    fn answer_to(&self, question: &Question) -> Answer {
        let served = |manifest: &ManifestId| {
            let followed = || self.datasets.get(manifest).filter(|followed| followed.is_here());
            let complete = self.shelf.contains(manifest) || followed()?.complete;
            Some(Served { manifest: *manifest, link_port: self.config.link_port, complete })
        };
        let manifests = question.manifests().iter().filter(|manifest| **manifest != SHELF);
        Answer::new(manifests.filter_map(served))
    }

    fn on_answer(
        &mut self,
        peer: &PeerId,
        request: OutboundRequestId,
        answer: &Answer,
        ip: Option<IpAddr>,
        now: Instant,
    ) {
        let Some((_, manifests)) = self.questions.under_way.remove(&request) else { return };
        for manifest in manifests {
            let served = answer.about(manifest);
            let Some(followed) = self.datasets.get_mut(&manifest) else { continue };
            followed.lan.answered(peer, served.is_some(), now);
            if let (Some(served), Some(ip)) = (served, ip) {
                let addr = SocketAddr::new(ip, served.link_port);
                let peers = vec![PeerAddr { peer: peer_id_from_libp2p(peer), addr }];
                self.tell(Event::PeersFound { manifest, peers, source: Source::Mdns });
            }
        }
        self.ask_the_rest(peer, now);
    }

    /// Asks `peer` for what waited; where the connection is gone, all of it failed.
    fn ask_the_rest(&mut self, peer: &PeerId, now: Instant) {
        if self.swarm.is_connected(peer) {
            return self.send_questions(peer);
        }
        let waiting = self.questions.waiting.remove(peer).unwrap_or_default();
        self.for_each_of(waiting, |followed| followed.lan.failed(peer, now));
    }
}
