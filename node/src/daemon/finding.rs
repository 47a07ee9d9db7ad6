//! Which catalogue this node uses, where nobody named one: what neighbours tell of.
//!
//! A neighbour's word is worth nothing by itself: a catalogue is used once a tracker of it has answered, and
//! left once none of them answers any more and another does. Of several, all nodes take the same one. Who
//! was told a catalogue, or keeps one, stays with it.
//!
//! Where to start reading: [`look`], then [`weigh`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dft_protocol::id::PeerId;
use dft_tracker::catalogue::protocol::CatalogueId;
use serde_json::json;

use super::Daemon;
use super::catalogue::{Answered, Catalogue, Origin, is_for};
use crate::net::discovery::{NodeRequest, NodeResponse, TRACKERS_MAX, parse_tracker, socket_addr_of_text};

/// How often it is looked whose turn it is to be asked.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Most nodes that are remembered: as many as discovery has candidates.
const NEIGHBOURS_MAX: usize = 1024;
/// Most addresses of one of them: of a few interfaces.
const ADDRS_MAX: usize = 4;
/// How often each is asked where the catalogue is, while none answers …
const ASK_EVERY: Duration = Duration::from_secs(5);
/// … then, for another one may have come …
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(300);
/// … and where one names another catalogue, of which a person is told as long as it is so.
const ASK_OTHER_EVERY: Duration = Duration::from_secs(30);
/// Most of them that are asked in that time while none answers …
const ASKED_AT_ONCE_MAX: usize = 16;
/// … and then: among hundreds of nodes each is asked about once in a second.
const ASKED_IN_PEACE_MAX: usize = 4;
/// How long the trackers that a neighbour names have to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// For how long their answer counts.
const ANSWER_TTL: Duration = Duration::from_secs(15);
/// How long it is waited for others, once a catalogue was found …
const CHOICE_PAUSE: Duration = Duration::from_millis(300);
/// … and for those that are being asked already.
const CHOICE_MAX: Duration = Duration::from_secs(2);
/// When another catalogue takes the place of one that does not answer: a node that starts again is back by then …
const ANOTHER_AFTER: Duration = Duration::from_secs(30);
/// … and of one that has names: a machine that is repaired, or a network, is back by then.
const ANOTHER_WITH_NAMES_AFTER: Duration = Duration::from_secs(1800);
/// Most catalogues of which a warning tells.
const TOLD_MAX: usize = 16;

/// What neighbours told of catalogues.
#[derive(Default)]
pub(super) struct Finding(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    neighbours: BTreeMap<PeerId, Neighbour>,
    /// Each list of trackers that a neighbour names, and what these say.
    offers: BTreeMap<Vec<String>, Offer>,
    /// A choice is about to be made.
    chooses: bool,
    /// How many nodes, or what they named, are being asked.
    asking: usize,
    /// The other catalogues of which a warning told.
    told: BTreeSet<CatalogueId>,
}

#[derive(Default)]
struct Neighbour {
    /// The latest one first.
    addrs: Vec<SocketAddr>,
    asked: Option<Instant>,
    /// How often it did not answer, since it did.
    failures: u32,
    name: String,
    trackers: Vec<String>,
}

#[derive(Clone, Copy)]
enum Offer {
    /// Its trackers are being asked.
    Asked,
    /// So they said, or nothing.
    Said(Instant, Option<Answered>),
}

impl Finding {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// mDNS told of a node, and of one of its addresses.
    pub(super) fn add(&self, node: PeerId, addr: SocketAddr) {
        let mut heard = self.lock();
        if heard.neighbours.len() >= NEIGHBOURS_MAX && !heard.neighbours.contains_key(&node) {
            // One that does not answer makes room.
            let silent = heard.neighbours.iter().filter(|(_, one)| one.failures > 0);
            let Some(gone) = silent.max_by_key(|(_, one)| one.failures).map(|(node, _)| *node) else {
                return;
            };
            heard.neighbours.remove(&gone);
            heard.forget_offers();
        }
        let neighbour = heard.neighbours.entry(node).or_default();
        neighbour.addrs.retain(|known| *known != addr);
        neighbour.addrs.insert(0, addr);
        neighbour.addrs.truncate(ADDRS_MAX);
    }

    /// What was heard of, though it does not answer: for whoever looks for a catalogue.
    pub(super) fn heard_of(&self) -> Option<String> {
        let heard = self.lock();
        let mut silent = heard.offers.iter().filter(|(_, offer)| matches!(offer, Offer::Said(_, None)));
        let (trackers, _) = silent.next()?;
        Some(format!("{} is said to keep one, and does not answer", heard.place(trackers)))
    }

    /// What a person should know of catalogues other than this one.
    fn others(&self, own: &Catalogue, node: &str) -> Vec<(CatalogueId, String)> {
        let Some(id) = own.id() else { return Vec::new() };
        let heard = self.lock();
        let here = match own.origin {
            Origin::Kept => format!("{} (node {node})", own.trackers.first().map_or("", String::as_str)),
            _ => heard.place(&own.trackers),
        };
        let verb = if own.origin == Origin::Kept { "keeps" } else { "uses" };
        let mut others: BTreeMap<CatalogueId, String> = BTreeMap::new();
        for (trackers, offer) in &heard.offers {
            if let Offer::Said(_, Some(other)) = offer
                && other.id != id
            {
                others.entry(other.id).or_insert_with(|| {
                    let there = heard.place(trackers);
                    format!(
                        "two catalogues are on this LAN: {here} and {there}; this node {verb} the first; \
                         stop one, or name one with --tracker"
                    )
                });
            }
        }
        others.into_iter().collect()
    }
}

impl Heard {
    /// Those whose turn it is to be asked; then they count as asked.
    fn take_due(&mut self, in_need: bool, own: Option<CatalogueId>) -> Vec<(PeerId, Vec<SocketAddr>)> {
        let most = if in_need { ASKED_AT_ONCE_MAX } else { ASKED_IN_PEACE_MAX };
        let every = |one: &Neighbour| match self.offers.get(&one.trackers) {
            _ if in_need => ASK_EVERY,
            Some(Offer::Said(_, Some(answered))) if Some(answered.id) != own => ASK_OTHER_EVERY,
            _ => ASK_AGAIN_EVERY,
        };
        let within = |asked: Option<Instant>, time| asked.is_some_and(|at: Instant| at.elapsed() < time);
        let busy = match in_need {
            true => self.asking,
            false => self.neighbours.values().filter(|one| within(one.asked, ASK_EVERY)).count(),
        };
        let mut due: Vec<(Option<Instant>, PeerId)> = self
            .neighbours
            .iter()
            .filter(|(_, one)| !within(one.asked, every(one)))
            .map(|(node, one)| (one.asked, *node))
            .collect();
        due.sort_unstable();
        due.truncate(most.saturating_sub(busy));
        let now = Instant::now();
        let ask = |(_, node)| {
            let neighbour = self.neighbours.get_mut(&node)?;
            neighbour.asked = Some(now);
            Some((node, neighbour.addrs.clone()))
        };
        due.into_iter().filter_map(ask).collect()
    }

    /// What no neighbour names any more is no offer.
    fn forget_offers(&mut self) {
        let named: BTreeSet<&Vec<String>> = self.neighbours.values().map(|one| &one.trackers).collect();
        self.offers.retain(|trackers, _| named.contains(trackers));
    }

    /// Trackers, and the node that keeps them, or told of them.
    fn place(&self, trackers: &[String]) -> String {
        let first = trackers.first().map_or("", String::as_str);
        let at = socket_addr_of_text(first).map(|addr| addr.ip());
        let mut tell = self.neighbours.values().filter(|one| one.trackers.iter().any(|text| text == first));
        let keeper = self
            .neighbours
            .values()
            .find(|one| !one.name.is_empty() && one.addrs.iter().any(|addr| Some(addr.ip()) == at));
        match (keeper, tell.next()) {
            (Some(keeper), _) => format!("{first} (node {})", keeper.name),
            (None, Some(teller)) => format!("{first} (as node {} says)", teller.name),
            (None, None) => first.to_owned(),
        }
    }
}

/// Asks the nodes whose turn it is where the catalogue is.
pub(super) fn look(daemon: &Arc<Daemon>) {
    let known = daemon.known_catalogue();
    if known.as_ref().is_some_and(|known| known.origin == Origin::Named) {
        return daemon.finding.lock().neighbours.clear();
    }
    let own = known.as_ref().and_then(|known| known.id());
    let in_need = known.is_none_or(|known| known.origin == Origin::Found && known.is_silent());
    let due = daemon.finding.lock().take_due(in_need, own);
    for (node, addrs) in due {
        let asking = Asking::new(daemon);
        tokio::spawn(async move {
            let daemon = &asking.0;
            let answer = daemon.discovery.ask_node(node, addrs.clone(), NodeRequest::Hello).await;
            match answer {
                Ok(NodeResponse::Node { name, trackers }) => {
                    heard(daemon, (node, &addrs), name, trackers).await;
                }
                // It may be back: mDNS does not tell of it twice.
                _ => {
                    if let Some(neighbour) = daemon.finding.lock().neighbours.get_mut(&node) {
                        neighbour.failures = neighbour.failures.saturating_add(1);
                    }
                }
            }
        });
    }
}

/// A node is being asked, as long as this lives.
struct Asking(Arc<Daemon>);

impl Asking {
    fn new(daemon: &Arc<Daemon>) -> Self {
        daemon.finding.lock().asking += 1;
        Self(daemon.clone())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.finding.lock().asking -= 1;
    }
}

/// A neighbour said where the catalogue is.
async fn heard(
    daemon: &Arc<Daemon>,
    (node, addrs): (PeerId, &[SocketAddr]),
    name: String,
    trackers: Vec<String>,
) {
    let from = addrs.first().map(SocketAddr::ip);
    let usable = |text: &String| parse_tracker(text).is_ok() && is_for(text, from);
    let mut trackers: Vec<String> = trackers.into_iter().filter(usable).collect();
    // What answered here can be reached here.
    let is_there = |at: SocketAddr| addrs.iter().any(|addr| addr.ip() == at.ip());
    trackers.sort_by_key(|text| !socket_addr_of_text(text).is_some_and(is_there));
    let used = daemon.known_catalogue().filter(|used| !used.is_silent());
    let is_used = used.is_some_and(|used| trackers.iter().all(|text| used.trackers.contains(text)));
    {
        let mut heard = daemon.finding.lock();
        let Some(neighbour) = heard.neighbours.get_mut(&node) else { return };
        (neighbour.name, neighbour.trackers, neighbour.failures) = (name, trackers.clone(), 0);
        heard.forget_offers();
        let is_fresh = match heard.offers.get(&trackers) {
            Some(Offer::Asked) => true,
            Some(Offer::Said(at, _)) => at.elapsed() < ASK_EVERY,
            None => false,
        };
        if trackers.is_empty() || is_used || is_fresh {
            return;
        }
        heard.offers.insert(trackers.clone(), Offer::Asked);
    }
    let asked = Catalogue::start(&trackers, Origin::Found, daemon.endpoint.identity(), &daemon.access);
    let answered = match asked {
        Ok(Some(catalogue)) => catalogue.answered_within(ANSWER_MAX).await,
        _ => None,
    };
    if let Some(offer) = daemon.finding.lock().offers.get_mut(&trackers) {
        *offer = Offer::Said(Instant::now(), answered);
    }
    if answered.is_some() {
        weigh(daemon).await;
    }
}

/// What becomes of an answer: the first catalogue, one in place of another, or a warning.
async fn weigh(daemon: &Arc<Daemon>) {
    let Some(used) = daemon.known_catalogue() else { return choose(daemon).await };
    if used.origin == Origin::Found && used.is_silent() {
        let (all, same) = {
            let heard = daemon.finding.lock();
            let answered = heard.answered();
            let copies = answered.iter().filter(|(_, answered)| Some(answered.id) == used.id()).copied();
            let same = best(&copies.collect::<Vec<_>>());
            // Names that are gone are worth waiting for, and none are not worth having.
            let others = answered.iter().filter(|(_, answered)| !(used.has_names() && answered.is_empty));
            (best(&others.copied().collect::<Vec<_>>()), same)
        };
        let silent = used.trackers.join(", ");
        let patience = if used.has_names() { ANOTHER_WITH_NAMES_AFTER } else { ANOTHER_AFTER };
        if same.as_ref().is_some_and(|(_, trackers)| trackers.iter().all(|text| used.trackers.contains(text)))
        {
            // It answers again.
        } else if let Some((id, mut trackers)) = same {
            // Those that are away may be back, and take writes.
            trackers.extend(
                used.trackers.iter().filter(|text| !trackers.contains(text)).cloned().collect::<Vec<_>>(),
            );
            trackers.truncate(TRACKERS_MAX);
            let text = format!("the catalogue at {silent} does not answer; it is found at");
            daemon.use_catalogue(Some(&used), id, &trackers, &text);
        } else if let Some((id, trackers)) = all.filter(|_| used.unheard_for() >= patience)
            // This node may have been cut off itself.
            && used.answered_within(ANSWER_MAX).await.is_none()
        {
            let text = format!("the catalogue at {silent} does not answer; this node uses another one, at");
            daemon.use_catalogue(Some(&used), id, &trackers, &text);
        }
        return;
    }
    if used.id().is_none() && used.answered_within(ANSWER_MAX).await.is_none() {
        return;
    }
    for (id, text) in daemon.finding.others(&used, &daemon.name) {
        let mut heard = daemon.finding.lock();
        if heard.told.len() < TOLD_MAX && heard.told.insert(id) {
            daemon.warn(&text);
        }
    }
}

/// The first catalogue: others may be about to answer.
async fn choose(daemon: &Arc<Daemon>) {
    if std::mem::replace(&mut daemon.finding.lock().chooses, true) {
        return;
    }
    let begun = Instant::now();
    let is_asking = || daemon.finding.lock().offers.values().any(|offer| matches!(offer, Offer::Asked));
    tokio::time::sleep(CHOICE_PAUSE).await;
    while begun.elapsed() < CHOICE_MAX && is_asking() {
        tokio::time::sleep(CHOICE_PAUSE).await;
    }
    let chosen = {
        let mut heard = daemon.finding.lock();
        heard.chooses = false;
        best(&heard.answered())
    };
    if let Some((id, trackers)) = chosen {
        daemon.use_catalogue(None, id, &trackers, "found the catalogue at");
        // What was not chosen is told of.
        Box::pin(weigh(daemon)).await;
    }
}

impl Heard {
    /// What answered lately.
    fn answered(&self) -> Vec<(&Vec<String>, Answered)> {
        let lately = |offer: &Offer| match offer {
            Offer::Said(at, answered) if at.elapsed() < ANSWER_TTL => *answered,
            _ => None,
        };
        self.offers.iter().filter_map(|(trackers, offer)| Some((trackers, lately(offer)?))).collect()
    }
}

/// Which of several catalogues all nodes use: one that has names before one that has none, then the one with
/// the lowest id; and its trackers, by all who told of it.
fn best(answered: &[(&Vec<String>, Answered)]) -> Option<(CatalogueId, Vec<String>)> {
    let (_, first) = answered.iter().min_by_key(|(_, answered)| (answered.is_empty, answered.id))?;
    let lists = answered.iter().filter(|(_, answered)| answered.id == first.id);
    let mut trackers: Vec<String> = Vec::new();
    for tracker in lists.flat_map(|(trackers, _)| trackers.iter()) {
        if trackers.len() < TRACKERS_MAX && !trackers.contains(tracker) {
            trackers.push(tracker.clone());
        }
    }
    Some((first.id, trackers))
}

impl Daemon {
    fn warn(&self, text: &str) {
        self.reporter.event(&json!({ "event": "warning", "message": text }));
        self.reporter.warn(text);
    }

    /// Uses the catalogue behind these trackers in place of `former`, where that is still the one.
    fn use_catalogue(
        &self,
        former: Option<&Arc<Catalogue>>,
        id: CatalogueId,
        trackers: &[String],
        text: &str,
    ) {
        let started = Catalogue::start(trackers, Origin::Found, self.endpoint.identity(), &self.access);
        let Ok(Some(catalogue)) = started else { return };
        let catalogue = Arc::new(catalogue.with_id(id));
        let is_used = self.catalogue.send_if_modified(|used| {
            let is_former = match (&*used, former) {
                (Some(used), Some(former)) => Arc::ptr_eq(used, former),
                (used, former) => used.is_none() && former.is_none(),
            };
            if is_former {
                *used = Some(catalogue);
            }
            is_former
        });
        if !is_used {
            return;
        }
        if let Some(used) = self.known_catalogue() {
            // Whether it has names is known then.
            tokio::spawn(async move { used.answered_within(ANSWER_MAX).await });
        }
        for addr in trackers.iter().filter_map(|tracker| parse_tracker(tracker).ok()) {
            self.discovery.add_tracker(addr);
        }
        let text = format!("{text} {}", trackers.join(", "));
        match former {
            None => self.say(&text),
            Some(_) => self.warn(&text),
        }
    }

    /// What a person should know of the catalogue: that it does not answer, that there is another.
    pub(super) fn catalogue_problems(&self) -> Vec<String> {
        let Some(used) = self.known_catalogue() else { return self.finding.heard_of().into_iter().collect() };
        let silent = used
            .is_silent()
            .then(|| format!("the catalogue has not answered for {} s", used.unheard_for().as_secs()));
        let others = self.finding.others(&used, &self.name).into_iter().map(|(_, text)| text);
        silent.into_iter().chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_choose_the_same_of_several_catalogues() {
        let list = |texts: &[&str]| -> Vec<String> { texts.iter().map(ToString::to_string).collect() };
        let is = |id: u8, is_empty| Answered { id: [id; 16], is_empty };
        let (one, other, copy) = (list(&["a"]), list(&["b"]), list(&["b", "c"]));
        // trackers, what they say, chosen
        let cases = [
            (vec![(&one, is(1, false)), (&other, is(2, false))], list(&["a"])),
            (vec![(&one, is(2, false)), (&other, is(1, false))], list(&["b"])),
            // Who starts a second one by mistake draws nobody to it.
            (vec![(&one, is(1, true)), (&other, is(2, false))], list(&["b"])),
            (vec![(&one, is(2, false)), (&other, is(1, false)), (&copy, is(1, false))], list(&["b", "c"])),
        ];
        for (answered, expected) in cases {
            assert_eq!(best(&answered).expect("there are some").1, expected);
            let reversed: Vec<_> = answered.into_iter().rev().collect();
            let mut chosen = best(&reversed).expect("there are some").1;
            chosen.sort();
            assert_eq!(chosen, expected);
        }
        assert_eq!(best(&[]), None);
        let many: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(best(&[(&many, is(1, false))]).expect("there is one").1.len(), TRACKERS_MAX);
    }

    #[test]
    fn neighbours_are_asked_often_only_while_no_catalogue_answers() {
        let finding = Finding::default();
        let node = |number: u8| PeerId::from_bytes(&[0, 1, number]).expect("a peer id");
        for number in 0..20 {
            finding.add(node(number), SocketAddr::from(([10, 0, 0, number], 1)));
        }
        let due = |in_need| finding.lock().take_due(in_need, None).len();
        assert_eq!((due(false), due(false)), (ASKED_IN_PEACE_MAX, 0));
        assert_eq!((due(true), due(true)), (ASKED_AT_ONCE_MAX, 0));
        // Who is being asked still counts.
        let waiting = Finding::default();
        (0..40).for_each(|number| waiting.add(node(number), SocketAddr::from(([10, 0, 0, number], 1))));
        waiting.lock().asking = ASKED_AT_ONCE_MAX - 3;
        assert_eq!(waiting.lock().take_due(true, None).len(), 3);
        // Who is heard of at many addresses is asked no sooner, and remembered at a few.
        (0..9).for_each(|net| finding.add(node(0), SocketAddr::from(([10, 0, net, 0], 1))));
        assert_eq!(due(true), 0);
        assert_eq!(finding.lock().neighbours[&node(0)].addrs.len(), ADDRS_MAX);
    }
}
