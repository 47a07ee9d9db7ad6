//! The tracker half of the loop: carries out the steps of `trackers`, serves and asks the embedded
//! tracker, takes leave.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use dft_protocol::manifest::PeerAddr;
use dft_tracker::address::ip_of;
use dft_tracker::protocol::{Announce, Request, Response};
use dft_tracker::registry::{ADDRS_PER_RECORD_MAX, FoundPeer, LinkAddrs};
use futures::StreamExt;
use libp2p::request_response::{self, Message};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use tokio::time::Instant;

use super::{BehaviourEvent, Event, Task, is_global, reason_of};
use crate::net::discovery::Source;
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
    pub(super) fn carry_out(&mut self, step: Step, now: Instant) {
        match step {
            Step::Resolve { tracker, host, port } => self.lookups.push(Box::pin(async move {
                let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port)));
                let found = match lookup.await {
                    Ok(found) => found.map(Iterator::collect),
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                };
                (tracker, found)
            })),
            Step::DialKnown { tracker, identity, addrs } => {
                let opts = DialOpts::peer_id(identity).addresses(addrs).condition(PeerCondition::Always);
                self.dial_tracker(tracker, opts.allocate_new_port().build(), now);
            }
            Step::Dial { tracker, addr } => {
                let opts = DialOpts::unknown_peer_id().address(addr);
                self.dial_tracker(tracker, opts.allocate_new_port().build(), now);
            }
            Step::Announce { tracker, peer } => {
                if self.swarm.is_connected(&peer) {
                    let announce = self.announcement();
                    let request =
                        self.swarm.behaviour_mut().tracker.send_request(&peer, Request::Announce(announce));
                    self.trackers.announced(tracker, request);
                } else {
                    self.trackers.not_connected(tracker);
                }
            }
        }
    }

    fn dial_tracker(&mut self, tracker: usize, opts: DialOpts, now: Instant) {
        self.trackers.dial_started(tracker, opts.connection_id());
        if let Err(error) = self.swarm.dial(opts) {
            let change = self.trackers.failed(tracker, reason_of(&error), now);
            self.tell_change(change);
        }
    }

    fn announcement(&self) -> Announce {
        Announce {
            manifest: self.config.manifest,
            link_port: self.config.link_port,
            addrs: self.link_addrs(),
            complete: self.config.complete,
            site: self.config.site.clone(),
            want: PEERS_WANTED,
        }
    }

    /// The addresses of this host's interfaces, with the link port, IPv4 first.
    fn link_addrs(&self) -> LinkAddrs {
        let mut ips: Vec<IpAddr> = self.swarm.listeners().filter_map(ip_of).filter(is_global).collect();
        ips.sort_unstable();
        ips.dedup();
        ips.truncate(ADDRS_PER_RECORD_MAX);
        let port = self.config.link_port;
        LinkAddrs::new(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()).unwrap_or_default()
    }

    pub(super) fn announce_now(&mut self) {
        let now = Instant::now();
        self.trackers.announce_now(now);
        if let Some(embedded) = &mut self.embedded {
            embedded.due = now;
            embedded.news = embedded.asked.is_some();
        }
    }

    pub(super) fn on_lookup(&mut self, tracker: usize, found: io::Result<Vec<SocketAddr>>) {
        let now = Instant::now();
        let change = match found {
            Ok(addrs) => self.trackers.resolved(tracker, &addrs, now),
            Err(error) => {
                self.trackers.failed(tracker, format!("its name cannot be looked up: {error}"), now)
            }
        };
        self.tell_change(change);
    }

    pub(super) fn on_tracker(&mut self, event: request_response::Event<Request, Response>, now: Instant) {
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                Message::Request { request, channel, .. } => {
                    if let (Some(embedded), Some(ip)) = (&self.embedded, self.remotes.get(&connection_id)) {
                        self.answers.push(&embedded.service, &peer, *ip, request, channel);
                    }
                }
                Message::Response { request_id, response } => {
                    if let Some(tracker) = self.trackers.asked(request_id) {
                        let local = self.remotes.get(&connection_id).is_some_and(IpAddr::is_loopback);
                        self.on_tracker_response(tracker, response, local, now);
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                if let Some(tracker) = self.trackers.asked(request_id) {
                    let change = self.trackers.failed(tracker, error.to_string(), now);
                    self.tell_change(change);
                }
            }
            _ => {}
        }
    }

    /// `local`: the tracker runs on this host.
    fn on_tracker_response(&mut self, tracker: usize, response: Response, local: bool, now: Instant) {
        match response {
            Response::Peers { interval_s, peers } => {
                let source = Source::Tracker(self.trackers.addr(tracker).clone());
                let change = self.trackers.answered(tracker, interval_s, now);
                self.tell_change(change);
                self.tell_found(&peers, local, source);
            }
            Response::Refused(reason) => {
                let change = self.trackers.failed(tracker, format!("it refuses: {}", reason.as_str()), now);
                self.tell_change(change);
            }
            Response::Done => {
                let change =
                    self.trackers.failed(tracker, "it gave an answer that was not asked".into(), now);
                self.tell_change(change);
            }
        }
    }

    /// Tells of peers that a tracker named. Only one on this host may send us to this host.
    fn tell_found(&mut self, found: &[FoundPeer], local: bool, source: Source) {
        let addrs = |found: &FoundPeer| -> Vec<PeerAddr> {
            let allowed = found.addrs.as_slice().iter().filter(|addr| local || !addr.ip().is_loopback());
            allowed.map(|addr| PeerAddr { peer: Some(found.peer), addr: *addr }).collect()
        };
        let others = found.iter().filter(|found| found.peer != self.own);
        let peers: Vec<PeerAddr> = others.take(usize::from(PEERS_WANTED)).flat_map(addrs).collect();
        if !peers.is_empty() {
            self.tell(Event::PeersFound { peers, source });
        }
    }

    pub(super) fn ask_embedded(&mut self, now: Instant) {
        let announce = self.announcement();
        let observed = self.own_ip();
        let Some(embedded) = &mut self.embedded else { return };
        if embedded.asked.is_none() && embedded.due <= now {
            let answer = embedded.service.ask(self.own, observed, Request::Announce(announce));
            embedded.asked = Some(Box::pin(answer));
        }
    }

    /// Where this process would see itself.
    fn own_ip(&self) -> IpAddr {
        if self.config.listen.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.config.listen }
    }

    pub(super) fn on_embedded(&mut self, response: Response) {
        if let Some(embedded) = &mut self.embedded {
            let pause = if std::mem::take(&mut embedded.news) {
                Duration::ZERO
            } else {
                EMBEDDED_PAUSES[embedded.answers.min(EMBEDDED_PAUSES.len() - 1)]
            };
            embedded.asked = None;
            embedded.answers += 1;
            embedded.due = Instant::now() + pause;
        }
        if let Response::Peers { peers, .. } = response {
            self.tell_found(&peers, true, Source::EmbeddedTracker);
        }
    }

    /// Tells every tracker that this process leaves. Ends when all answered; the caller gives up
    /// earlier where one of them doesn't.
    pub(super) async fn leave(&mut self) {
        let manifest = self.config.manifest;
        if let Some(embedded) = &self.embedded {
            let _ = embedded.service.ask(self.own, self.own_ip(), Request::Leave { manifest }).await;
        }
        let tracker = &mut self.swarm.behaviour_mut().tracker;
        let mut open: Vec<_> = self
            .trackers
            .up()
            .map(|(peer, addrs)| {
                tracker.send_request_with_addresses(&peer, Request::Leave { manifest }, addrs)
            })
            .collect();
        while !open.is_empty() {
            if let SwarmEvent::Behaviour(BehaviourEvent::Tracker(
                request_response::Event::Message { message: Message::Response { request_id, .. }, .. }
                | request_response::Event::OutboundFailure { request_id, .. },
            )) = self.swarm.select_next_some().await
            {
                open.retain(|request| *request != request_id);
            }
        }
    }
}
