//! The tracker half of the loop: carries out the steps of `trackers`, serves and asks the embedded
//! tracker, takes leave.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use dft_protocol::id::ManifestId;
use dft_protocol::manifest::PeerAddr;
use dft_tracker::address::ip_of;
use dft_tracker::protocol::{Announce, Request, Response};
use dft_tracker::registry::{ADDRS_PER_RECORD_MAX, FoundPeer, LinkAddrs};
use futures::StreamExt;
use libp2p::PeerId;
use libp2p::request_response::{self, Message, OutboundFailure, OutboundRequestId};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use tokio::time::Instant;

use super::followed::Followed;
use super::{BehaviourEvent, Event, REQUESTS_PER_PEER_MAX, Task, is_global, reason_of};
use crate::net::discovery::Source;
use crate::net::discovery::shelf::SHELF;
use crate::net::discovery::trackers::Step;

/// Peers that a tracker is asked for, and that are taken from its answer: as many as a swarm has
/// links to; every answer is another sample.
const PEERS_WANTED: u16 = 64;
/// How long a name lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// When the embedded tracker is asked again, beyond its first answers.
const EMBEDDED_PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(30)];

impl Task {
    pub(super) fn carry_out(&mut self, manifest: ManifestId, step: Step, now: Instant) {
        match step {
            Step::Resolve { tracker, host, port } => self.lookups.push(Box::pin(async move {
                let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port)));
                let found = match lookup.await {
                    Ok(found) => found.map(Iterator::collect),
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                };
                (manifest, tracker, found)
            })),
            Step::DialKnown { tracker, identity, addrs } => {
                let opts = DialOpts::peer_id(identity).addresses(addrs).condition(PeerCondition::Always);
                self.dial_tracker(manifest, tracker, opts.allocate_new_port().build(), now);
            }
            Step::Dial { tracker, addr } => {
                let opts = DialOpts::unknown_peer_id().address(addr);
                self.dial_tracker(manifest, tracker, opts.allocate_new_port().build(), now);
            }
            Step::Announce { tracker, peer } => {
                self.announcements.waiting.entry(peer).or_default().push_back((manifest, tracker));
                self.send_announcements(peer);
            }
        }
    }

    /// Dials a tracker, or joins what another dataset has to it: a connection, or a dial.
    fn dial_tracker(&mut self, manifest: ManifestId, tracker: usize, opts: DialOpts, now: Instant) {
        let Some(followed) = self.datasets.get(&manifest) else { return };
        let addr = followed.trackers.addr(tracker).clone();
        let connected = self.datasets.values().find_map(|other| other.trackers.peer_at(&addr));
        let connected = connected.filter(|peer| self.swarm.is_connected(peer));
        let dialled = self.datasets.values().find_map(|other| other.trackers.dial_of(&addr));
        let Some(followed) = self.datasets.get_mut(&manifest) else { return };
        if let Some(peer) = connected {
            return followed.trackers.connected(tracker, peer, now);
        }
        if let Some(connection) = dialled {
            return followed.trackers.dial_started(tracker, connection);
        }
        followed.trackers.dial_started(tracker, opts.connection_id());
        if let Err(error) = self.swarm.dial(opts) {
            let change = followed.trackers.failed(tracker, reason_of(&error), now);
            self.tell_change(change);
        }
    }

    /// Sends `peer`, a tracker, the announcements that wait for it, few at a time.
    fn send_announcements(&mut self, peer: PeerId) {
        let mut sent = self.announcements.under_way.values().filter(|(to, _)| *to == peer).count();
        while sent < REQUESTS_PER_PEER_MAX {
            let next = self.announcements.waiting.get_mut(&peer).and_then(VecDeque::pop_front);
            let Some((manifest, tracker)) = next else {
                self.announcements.waiting.remove(&peer);
                return;
            };
            let followed = self.datasets.get_mut(&manifest);
            let Some(followed) = followed.filter(|followed| followed.trackers.is_under_way(tracker)) else {
                continue;
            };
            if !self.swarm.is_connected(&peer) {
                // Nothing is under way that would bring the turn to the next one.
                followed.trackers.not_connected(tracker);
                continue;
            }
            let Some(request) = self.request_about(manifest, tracker) else { continue };
            let request = self.swarm.behaviour_mut().tracker.send_request(&peer, request);
            if let Some(followed) = self.datasets.get_mut(&manifest) {
                followed.trackers.announced(tracker, request);
            }
            self.announcements.under_way.insert(request, (peer, manifest));
            sent += 1;
        }
    }

    /// An announcement was answered, or failed: whose tracker it was. The next one leaves.
    fn settle_announcement(
        &mut self,
        request: OutboundRequestId,
        now: Instant,
    ) -> Option<(ManifestId, usize)> {
        let (peer, manifest) = self.announcements.under_way.remove(&request)?;
        self.send_announcements(peer);
        let followed = self.datasets.get_mut(&manifest)?;
        match followed.trackers.asked(request) {
            Some(tracker) => return Some((manifest, tracker)),
            // It was given up or taken on meanwhile, and the tracker may have heard of both in any
            // order: what holds is said once more.
            None if followed.is_here() => followed.announce_now(now),
            None => followed.trackers.leave(now),
        }
        None
    }

    /// What a tracker is to hear of a dataset.
    fn request_about(&mut self, manifest: ManifestId, tracker: usize) -> Option<Request> {
        if manifest == SHELF {
            return Some(self.request_about_shelf(tracker));
        }
        if self.datasets.get(&manifest)?.is_here() {
            return self.announcement(manifest).map(Request::Announce);
        }
        Some(Request::Leave { manifest })
    }

    fn announcement(&self, manifest: ManifestId) -> Option<Announce> {
        let followed = self.datasets.get(&manifest)?;
        Some(Announce {
            manifest,
            link_port: self.config.link_port,
            addrs: self.link_addrs(),
            complete: followed.complete,
            site: self.config.site.clone(),
            want: PEERS_WANTED,
        })
    }

    /// The addresses of this host's interfaces, with the link port, IPv4 first.
    pub(super) fn link_addrs(&self) -> LinkAddrs {
        let mut ips: Vec<IpAddr> = self.swarm.listeners().filter_map(ip_of).filter(is_global).collect();
        ips.sort_unstable();
        ips.dedup();
        ips.truncate(ADDRS_PER_RECORD_MAX);
        let port = self.config.link_port;
        LinkAddrs::new(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()).unwrap_or_default()
    }

    pub(super) fn on_lookup(
        &mut self,
        manifest: ManifestId,
        tracker: usize,
        found: io::Result<Vec<SocketAddr>>,
    ) {
        let now = Instant::now();
        let followed = self.datasets.get_mut(&manifest);
        let Some(followed) = followed.filter(|followed| followed.trackers.is_under_way(tracker)) else {
            return;
        };
        let change = match found {
            Ok(addrs) => followed.trackers.resolved(tracker, &addrs, now),
            Err(error) => {
                followed.trackers.failed(tracker, format!("its name cannot be looked up: {error}"), now)
            }
        };
        self.tell_change(change);
    }

    pub(super) fn on_tracker(&mut self, event: request_response::Event<Request, Response>, now: Instant) {
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                Message::Request { request, channel, .. } => {
                    if let (Some(service), Some(ip)) = (&self.embedded, self.remotes.get(&connection_id)) {
                        self.answers.push(service, &peer, *ip, request, channel);
                    }
                }
                Message::Response { request_id, response } => {
                    if let Some((manifest, tracker)) = self.settle_announcement(request_id, now) {
                        let local = self.remotes.get(&connection_id).is_some_and(IpAddr::is_loopback);
                        self.on_tracker_response(manifest, (tracker, peer), response, local, now);
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                match (self.settle_announcement(request_id, now), &error) {
                    (Some((SHELF, tracker)), OutboundFailure::Io(_)) => self.on_shelf_unknown(tracker, now),
                    (Some((manifest, tracker)), _) => {
                        self.tracker_failed(manifest, tracker, error.to_string(), now);
                    }
                    (None, _) => {}
                }
            }
            _ => {}
        }
    }

    /// `local`: the tracker runs on this host.
    fn on_tracker_response(
        &mut self,
        manifest: ManifestId,
        (tracker, peer): (usize, PeerId),
        response: Response,
        local: bool,
        now: Instant,
    ) {
        if manifest == SHELF {
            return self.on_shelf_response((tracker, peer), response, now);
        }
        let Some(followed) = self.datasets.get_mut(&manifest) else { return };
        match response {
            // It took what was announced before the dataset was given up: it hears of that next.
            Response::Peers { .. } if !followed.is_here() => followed.trackers.connected(tracker, peer, now),
            Response::Done if !followed.is_here() => followed.trackers.left(tracker),
            Response::Peers { interval_s, peers } => {
                let source = Source::Tracker(followed.trackers.addr(tracker).clone());
                let change = followed.trackers.answered(tracker, interval_s, now);
                self.tell_change(change);
                self.tell_found(manifest, &peers, local, source);
            }
            Response::Refused(reason) => {
                self.tracker_failed(manifest, tracker, format!("it refuses: {}", reason.as_str()), now);
            }
            Response::Done | Response::Shelved { .. } => {
                self.tracker_failed(manifest, tracker, "it gave an answer that was not asked".into(), now);
            }
        }
    }

    pub(super) fn tracker_failed(
        &mut self,
        manifest: ManifestId,
        tracker: usize,
        reason: String,
        now: Instant,
    ) {
        if manifest == SHELF {
            self.shelf.failed(tracker);
        }
        let Some(followed) = self.datasets.get_mut(&manifest) else { return };
        let change = followed.trackers.failed(tracker, reason, now);
        self.tell_change(change);
    }

    /// Tells of peers that a tracker named. Only one on this host may send us to this host.
    fn tell_found(&mut self, manifest: ManifestId, found: &[FoundPeer], local: bool, source: Source) {
        let addrs = |found: &FoundPeer| -> Vec<PeerAddr> {
            let allowed = found.addrs.as_slice().iter().filter(|addr| local || !addr.ip().is_loopback());
            allowed.map(|addr| PeerAddr { peer: Some(found.peer), addr: *addr }).collect()
        };
        let others = found.iter().filter(|found| found.peer != self.own);
        let peers: Vec<PeerAddr> = others.take(usize::from(PEERS_WANTED)).flat_map(addrs).collect();
        if !peers.is_empty() {
            self.tell(Event::PeersFound { manifest, peers, source });
        }
    }

    pub(super) fn ask_embedded(&mut self, manifest: ManifestId, now: Instant) {
        let due = |followed: &Followed| {
            followed.is_here() && !followed.embedded.asked && followed.embedded.due <= now
        };
        if self.embedded.is_none() || manifest == SHELF || !self.datasets.get(&manifest).is_some_and(due) {
            return;
        }
        let (announce, observed) = (self.announcement(manifest), self.own_ip());
        let (Some(service), Some(announce)) = (&self.embedded, announce) else { return };
        let answer = service.ask(self.own, observed, Request::Announce(announce));
        self.embedded_answers.push(Box::pin(async move { (manifest, answer.await) }));
        if let Some(followed) = self.datasets.get_mut(&manifest) {
            followed.embedded.asked = true;
        }
    }

    /// Where this process would see itself.
    fn own_ip(&self) -> IpAddr {
        if self.config.listen.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.config.listen }
    }

    pub(super) fn on_embedded(&mut self, manifest: ManifestId, response: Response) {
        let Some(followed) = self.datasets.get_mut(&manifest) else { return };
        let turn = &mut followed.embedded;
        let pause = if std::mem::take(&mut turn.news) {
            Duration::ZERO
        } else {
            EMBEDDED_PAUSES[turn.answers.min(EMBEDDED_PAUSES.len() - 1)]
        };
        turn.asked = false;
        turn.answers += 1;
        turn.due = Instant::now() + pause;
        if let Response::Peers { peers, .. } = response {
            self.tell_found(manifest, &peers, true, Source::EmbeddedTracker);
        }
    }

    /// Tells the embedded tracker that `manifest` is not here any more.
    pub(super) fn leave_embedded(&self, manifest: ManifestId) {
        if let Some(service) = &self.embedded {
            drop(tokio::spawn(service.ask(self.own, self.own_ip(), Request::Leave { manifest })));
        }
    }

    /// Tells every tracker that this process leaves. Ends when all answered; the caller gives up
    /// earlier where one of them doesn't.
    pub(super) async fn leave(&mut self) {
        let leave_shelf = self.leave_shelf();
        let mut to_send = Vec::new();
        for (&manifest, followed) in &self.datasets {
            if let Some(service) = &self.embedded {
                let _ = service.ask(self.own, self.own_ip(), Request::Leave { manifest }).await;
            }
            to_send.extend(followed.trackers.up().map(|(peer, addrs)| (peer, addrs, manifest)));
        }
        let mut open: Vec<(PeerId, OutboundRequestId)> = Vec::new();
        loop {
            // Few at a time to each, as ever; the rest follows the answers.
            let mut later = Vec::new();
            for (peer, addrs, manifest) in to_send {
                if open.iter().filter(|(to, _)| *to == peer).count() >= REQUESTS_PER_PEER_MAX {
                    later.push((peer, addrs, manifest));
                    continue;
                }
                let tracker = &mut self.swarm.behaviour_mut().tracker;
                let request =
                    if manifest == SHELF { leave_shelf.clone() } else { Request::Leave { manifest } };
                open.push((peer, tracker.send_request_with_addresses(&peer, request, addrs)));
            }
            to_send = later;
            if open.is_empty() {
                return;
            }
            if let SwarmEvent::Behaviour(BehaviourEvent::Tracker(
                request_response::Event::Message { message: Message::Response { request_id, .. }, .. }
                | request_response::Event::OutboundFailure { request_id, .. },
            )) = self.swarm.select_next_some().await
            {
                open.retain(|(_, request)| *request != request_id);
            }
        }
    }
}
