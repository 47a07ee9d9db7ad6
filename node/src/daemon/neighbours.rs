//! Other nodes: what they ask, and what this node tells the catalogue. Which catalogue that is, [`finding`] says.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dft_protocol::id::ManifestId;
use dft_tracker::catalogue::node::NODE_INTERVAL;
use tokio::sync::{mpsc, oneshot};

use super::catalogue::{self, Origin, OwnNode};
use super::finding;
use super::holding::{Presence, Running};
use super::opening::Opening;
use super::table::{Place, Record};
use super::taking::{Asker, Held, Taken};
use super::verbs::wait;
use super::{Daemon, Inputs};
use crate::net::discovery::{
    self, Event, Neighbourly, NodeRequest, NodeResponse, RUNS_MAX, parse_tracker, socket_addr_of_text,
};
use crate::report::Rate;
use crate::settings::reachable_addrs;

/// How long it waits for more news before it tells the next.
const NEWS_SETTLE: Duration = Duration::from_millis(500);
/// How long the tracker has to say who has a dataset before the LAN is asked.
const LAN_PAUSE: Duration = Duration::from_secs(2);
/// How long the first addresses of the libp2p side may take to be known.
const LISTENING_MAX: Duration = Duration::from_secs(2);

/// Waits for the addresses of this node's libp2p side.
pub(super) async fn first_listening(events: &mut mpsc::Receiver<Event>) -> Vec<SocketAddr> {
    let first = async {
        loop {
            match events.recv().await {
                Some(Event::Listening { addrs }) => return control_addrs(&addrs),
                Some(_) => {}
                None => return Vec::new(),
            }
        }
    };
    tokio::time::timeout(LISTENING_MAX, first).await.unwrap_or_default()
}

fn control_addrs<A: ToString>(addrs: &[A]) -> Vec<SocketAddr> {
    addrs.iter().filter_map(|addr| socket_addr_of_text(&addr.to_string())).collect()
}

/// Takes in what discovery has to say, for ever.
pub(super) async fn attend(daemon: &Arc<Daemon>, inputs: &mut Inputs) {
    let mut looks = tokio::time::interval(finding::LOOK_EVERY);
    loop {
        tokio::select! {
            _ = looks.tick() => finding::look(daemon),
            event = inputs.events.recv() => match event {
                Some(event) => on_event(daemon, event).await,
                None => return,
            },
            Some(neighbourly) = inputs.neighbourly.recv() => match neighbourly {
                Neighbourly::Heard { node, addr } => {
                    daemon.finding.add(node, addr);
                    finding::look(daemon);
                }
                Neighbourly::Asked { node: _, from, request, answer } => asked(daemon, from, request, answer),
            },
        }
    }
}

async fn on_event(daemon: &Arc<Daemon>, event: Event) {
    match event {
        Event::PeersFound { manifest, peers, .. } => {
            let running = daemon.holding_at_work(manifest).and_then(|holding| holding.view().running);
            if let Some(Running { remote, .. }) = running {
                remote.found(peers).await;
            }
        }
        Event::Listening { addrs } => {
            *daemon.control.lock().unwrap_or_else(PoisonError::into_inner) = control_addrs(&addrs);
        }
        Event::TrackerDown { addr, reason } => {
            daemon.say(&format!("the tracker {addr} does not answer ({reason}); it is tried again"));
        }
        Event::TrackerUp { addr } => daemon.say(&format!("the tracker {addr} answers")),
        Event::Warning(text) => daemon.reporter.warn(&text),
    }
}

fn asked(
    daemon: &Arc<Daemon>,
    from: Option<IpAddr>,
    request: NodeRequest,
    answer: oneshot::Sender<NodeResponse>,
) {
    let daemon = daemon.clone();
    tokio::spawn(async move {
        let response = match request {
            NodeRequest::Hello => hello(&daemon, from),
            NodeRequest::Pieces { manifest } => NodeResponse::Pieces(runs_of(&daemon, manifest).await),
            NodeRequest::Fetch { name, manifest } => fetch(&daemon, &name, manifest).await,
        };
        let _ = answer.send(response);
    });
}

fn hello(daemon: &Daemon, from: Option<IpAddr>) -> NodeResponse {
    // What was only heard of is passed on while it answers.
    let known = daemon.known_catalogue().filter(|known| known.origin != Origin::Found || !known.is_silent());
    let known = known.map(|catalogue| catalogue.trackers.clone()).unwrap_or_default();
    let multiaddrs = known.iter().filter_map(|text| parse_tracker(text).ok()).map(|addr| addr.to_string());
    let trackers = multiaddrs.filter(|tracker| catalogue::is_for(tracker, from));
    let trackers = trackers.take(discovery::TRACKERS_MAX).collect();
    NodeResponse::Node { name: daemon.name.clone(), trackers }
}

/// The runs of pieces of a dataset that are on this node.
pub(super) async fn runs_of(daemon: &Arc<Daemon>, id: ManifestId) -> Vec<(u32, u32)> {
    let opened = daemon.opened(id).await.filter(|holding| holding.presence == Presence::Shared);
    let Some(holding) = opened else { return Vec::new() };
    // Others count on the answer.
    holding.look().await;
    let Some(running) = holding.view().running else { return Vec::new() };
    let Some(pieces) = running.remote.pieces().await else { return Vec::new() };
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for piece in pieces.iter().map(dft_protocol::geometry::PieceIndex::to_u32) {
        let full = runs.len() >= RUNS_MAX;
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == piece => *last = piece,
            _ if full => break,
            _ => runs.push((piece, piece)),
        }
    }
    runs
}

/// Another node wants a dataset to be here. Only what the catalogue knows under that name is
/// fetched, and only within the quota.
async fn fetch(daemon: &Arc<Daemon>, name: &str, id: ManifestId) -> NodeResponse {
    match try_fetch(daemon, name, id).await {
        Ok(true) => NodeResponse::Complete,
        Ok(false) => NodeResponse::Accepted,
        Err(failure) => NodeResponse::refused(failure.message),
    }
}

async fn try_fetch(
    daemon: &Arc<Daemon>,
    name: &str,
    id: ManifestId,
) -> Result<bool, crate::failure::Failure> {
    let (record, manifest) = daemon.catalogue().await?.get(&catalogue::parse_name(name)?).await?;
    if record.id != id {
        let message = format!("{name} is another dataset in the catalogue");
        return Err(crate::failure::Failure::new(crate::failure::Kind::Name, message));
    }
    Ok(daemon.keep_in_store(name, manifest).await?.is_complete())
}

impl Daemon {
    /// When the LAN is asked who has a dataset. The catalogue's tracker says it at once, where there
    /// is one; a crowd that asks everybody as well costs each of them a handshake with all others.
    pub(super) fn asks_lan_in(&self) -> Duration {
        if self.known_catalogue().is_some() { LAN_PAUSE } else { Duration::ZERO }
    }

    /// Begins to fetch a dataset into the store, where it is not here yet. What begins here and cannot even be
    /// opened, for the disk is full, is not remembered.
    pub(super) async fn keep_in_store(
        self: &Arc<Self>,
        name: &str,
        manifest: Arc<dft_protocol::manifest::Manifest>,
    ) -> Result<Arc<super::holding::Holding>, crate::failure::Failure> {
        let Taken { holding, is_new, former } = self.fetch_into_store(name, manifest).await?;
        match wait::running(&holding).await {
            Err(failure) if is_new && former.is_none() && !holding.was_opened() && !holding.is_claimed() => {
                self.give_up(&holding).await?;
                Err(failure)
            }
            Err(failure) => Err(failure),
            Ok(_) => Ok(holding),
        }
    }

    /// Begins to fetch a dataset into the store, where it is not here yet.
    async fn fetch_into_store(
        self: &Arc<Self>,
        name: &str,
        manifest: Arc<dft_protocol::manifest::Manifest>,
    ) -> Result<Taken, crate::failure::Failure> {
        let is_here = |holding| Taken { holding, is_new: false, former: None };
        if let Held::Usable(holding) = self.usable_holding(manifest.id(), Asker::Fetcher).await? {
            holding.touch(self);
            return Ok(is_here(holding));
        }
        let _room = self.room_for(manifest.id()).await;
        // Another request may have been faster.
        let useless = match self.usable_holding(manifest.id(), Asker::Fetcher).await? {
            Held::Usable(holding) => return Ok(is_here(holding)),
            Held::Useless(holding) => Some(holding),
            Held::Nothing => None,
        };
        self.make_room(manifest.total_bytes()).await?;
        let record = Record::new(name, Place::Stored);
        self.take_on(useless, manifest, record, Opening::New, Presence::Shared).await
    }
}

/// Tells the catalogue who this node is, again and again.
pub(super) async fn keep_announcing(daemon: &Arc<Daemon>) {
    let mut known = daemon.catalogue.subscribe();
    loop {
        let catalogue = match known.wait_for(Option::is_some).await {
            Ok(catalogue) => catalogue.clone(),
            Err(_) => return std::future::pending().await,
        };
        if let Some(catalogue) = catalogue {
            // All trackers are told at once; one that is away, of which discovery tells, must not keep the
            // others from hearing of this node again.
            let _ = tokio::time::timeout(NODE_INTERVAL, catalogue.announce(&own_node(daemon))).await;
        }
        // Much that happens at once is told at once.
        tokio::time::sleep(NEWS_SETTLE).await;
        let _ = tokio::time::timeout(NODE_INTERVAL, daemon.news.notified()).await;
    }
}

/// What this node says of itself.
pub(super) fn own_node(daemon: &Daemon) -> OwnNode {
    let holdings = daemon.holdings();
    let ((mut received, mut sent), (mut datasets, mut bytes)) = {
        let datasets = daemon.datasets();
        (datasets.moved, datasets.at_rest.total())
    };
    for holding in &holdings {
        let stats = holding.snapshot().stats;
        received += stats.from_seeders + stats.from_peers;
        sent += stats.sent;
        if holding.is_complete() {
            datasets += 1;
            bytes += holding.manifest.total_bytes();
        }
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is for people")]
    let rate = |rate: &mut Rate, bytes: u64| rate.update(bytes) as u64;
    let mut rates = daemon.rates.lock().unwrap_or_else(PoisonError::into_inner);
    let (down, up) = &mut *rates;
    let listen = daemon.endpoint.listen_addrs().first().map_or(IpAddr::from([127, 0, 0, 1]), SocketAddr::ip);
    let mut links = reachable_addrs(listen, daemon.endpoint.port());
    links.truncate(dft_tracker::registry::ADDRS_PER_RECORD_MAX);
    OwnNode {
        name: daemon.name.clone(),
        control: daemon.control.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        links,
        quota: daemon.quota.unwrap_or(0),
        datasets,
        bytes,
        down_rate: rate(down, received),
        up_rate: rate(up, sent),
    }
}
