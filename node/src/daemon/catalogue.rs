//! The namespace, as the daemon sees it: the tracker's catalogue behind its client, with failures
//! that say what to try.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::manifest::Manifest;
use dft_tracker::catalogue::name::{DatasetName, Pattern};
use dft_tracker::catalogue::node::{ControlAddr, HostName, NodeRecord, Version};
use dft_tracker::catalogue::protocol::{CatalogueId, Record};
use dft_tracker::catalogue::token::Token;
use dft_tracker::client::{Client, ClientConfig, ClientError, PutOutcome, RemoveOutcome};
use dft_tracker::registry::LinkAddrs;

use super::Daemon;
use crate::failure::{Failure, Kind, shown};
use crate::net::discovery::{parse_tracker, socket_addr_of_text};
use crate::net::identity::Identity;
use crate::session::no_tracker;
use crate::token;

/// How long a verb waits for a catalogue to be found on the LAN.
const FIND_MAX: Duration = Duration::from_secs(10);
/// When the catalogue has not answered for so long, whoever waits is told.
const SILENT_MAX: Duration = Duration::from_secs(2);
/// What every host calls itself.
const LOOPBACK_NAMES: [&str; 4] = ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"];
/// A catalogue of which no tracker has answered for so long does not answer: two announcements of this node
/// were lost.
const UNHEARD_MAX: Duration = Duration::from_secs(10);

/// The catalogue of one cluster.
pub struct Catalogue {
    client: Client,
    token: Option<TokenFile>,
    questions: Questions,
    id: OnceLock<CatalogueId>,
    begun: Instant,
    /// It was seen to have names.
    has_names: AtomicBool,
    /// Its trackers, as they were named.
    pub trackers: Vec<String>,
    /// How this node came by it.
    pub origin: Origin,
}

/// How a node came by its catalogue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Somebody named it: it stays as it is.
    Named,
    /// This node keeps it.
    Kept,
    /// Neighbours told of it.
    Found,
}

/// Which catalogue trackers have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    /// The same for all copies.
    pub id: CatalogueId,
    /// Nobody has put anything into it yet.
    pub is_empty: bool,
}

/// Who has a dataset, or parts of it.
pub struct Holder {
    /// Who.
    pub peer: PeerId,
    /// Where it takes links.
    pub links: Vec<SocketAddr>,
    /// Whether it has every piece.
    pub complete: bool,
    /// Its name, where it is a node.
    pub name: Option<String>,
}

impl From<dft_tracker::catalogue::protocol::Holder> for Holder {
    fn from(found: dft_tracker::catalogue::protocol::Holder) -> Self {
        Self {
            peer: found.peer,
            links: found.addrs.as_slice().to_vec(),
            complete: found.complete,
            name: found.host.map(|host| host.as_str().to_owned()),
        }
    }
}

/// A node of the cluster.
pub struct SeenNode {
    /// Its name.
    pub name: String,
    /// Who it is.
    pub peer: PeerId,
    /// Where its libp2p side is.
    pub control: Vec<SocketAddr>,
    /// How many datasets it holds.
    pub datasets: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Bytes a second that it receives.
    pub down_rate: u64,
    /// Bytes a second that it sends.
    pub up_rate: u64,
}

/// What this node says of itself.
pub struct OwnNode {
    /// Its name.
    pub name: String,
    /// Where its libp2p side is.
    pub control: Vec<SocketAddr>,
    /// Where it takes links.
    pub links: Vec<SocketAddr>,
    /// Most bytes in its store.
    pub quota: u64,
    /// How many datasets it holds.
    pub datasets: u32,
    /// Bytes of these.
    pub bytes: u64,
    /// Bytes a second that it receives.
    pub down_rate: u64,
    /// Bytes a second that it sends.
    pub up_rate: u64,
}

/// Where the token of a daemon is, or would be. It is read when it is needed: it may be copied there at any
/// time.
#[derive(Clone, Debug)]
pub struct TokenFile {
    /// The file.
    pub path: PathBuf,
    /// Whether somebody named it: then it has to be there.
    pub named: bool,
}

/// How a daemon speaks to trackers.
#[derive(Clone)]
pub struct Access {
    /// The file with the token that proves what it writes, where the catalogue wants a proof.
    pub token: Option<TokenFile>,
    /// The key of a private cluster, where it is in one.
    pub network_key: Option<[u8; 32]>,
}

impl TokenFile {
    fn read(&self) -> Result<Option<Token>, Failure> {
        token::read(&self.path, self.named)
    }
}

impl Catalogue {
    /// The catalogue behind these trackers; `None` without any.
    pub fn start(
        trackers: &[String],
        origin: Origin,
        identity: &Identity,
        access: &Access,
    ) -> Result<Option<Self>, Failure> {
        if trackers.is_empty() {
            return Ok(None);
        }
        let addrs = one_of_each(trackers).map(|text| parse_tracker(text)).collect::<Result<_, _>>();
        let addrs = addrs.map_err(no_tracker)?;
        let Access { token: file, network_key } = access.clone();
        let token = file.as_ref().map(TokenFile::read).transpose()?.flatten();
        let config =
            ClientConfig { keypair: identity.keypair().clone(), trackers: addrs, token, network_key };
        let client = Client::start(config).map_err(failure)?;
        Ok(Some(Self {
            client,
            token: file,
            questions: Questions::default(),
            id: OnceLock::new(),
            begun: Instant::now(),
            has_names: AtomicBool::new(false),
            trackers: trackers.to_vec(),
            origin,
        }))
    }

    /// The same, known to be this one.
    #[must_use]
    pub fn with_id(self, id: CatalogueId) -> Self {
        Self { id: OnceLock::from(id), ..self }
    }

    /// Which catalogue it is; `None` where none of its trackers answers within `limit`.
    pub async fn answered_within(&self, limit: Duration) -> Option<Answered> {
        let hello = self.client.first_hello(limit).await?;
        let id = *self.id.get_or_init(|| hello.catalogue);
        self.saw_names(hello.sequence > 0);
        (id == hello.catalogue).then_some(Answered { id, is_empty: hello.sequence == 0 })
    }

    fn saw_names(&self, some: bool) {
        self.has_names.fetch_or(some, Ordering::Relaxed);
    }

    /// Whether it has names, or had some, as far as this node saw.
    pub fn has_names(&self) -> bool {
        self.has_names.load(Ordering::Relaxed)
    }

    /// Its id, where it said so already.
    pub fn id(&self) -> Option<CatalogueId> {
        self.id.get().copied()
    }

    /// How long none of its trackers has answered anything. Each is asked every few seconds: this node
    /// announces itself.
    pub fn unheard_for(&self) -> Duration {
        self.client.answered().unwrap_or(self.begun).elapsed()
    }

    /// Whether it counts as one that does not answer.
    pub fn is_silent(&self) -> bool {
        self.unheard_for() >= UNHEARD_MAX
    }

    /// For how long questions have been waiting since the last answer; `None` where none waits.
    pub fn silent_for(&self) -> Option<Duration> {
        let questions = self.questions.lock();
        (questions.open > 0).then(|| questions.since.elapsed())
    }

    async fn answer<T>(&self, question: impl Future<Output = Result<T, ClientError>>) -> Result<T, Failure> {
        let _open = self.questions.ask();
        question.await.map_err(failure)
    }

    /// Writes, with the token that is in its file by then.
    async fn write<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let _open = self.questions.ask();
        let mut answer = ask().await;
        if let (Err(ClientError::NotAuthorised { .. }), Some(file)) = (&answer, &self.token)
            && let Some(token) = file.read()?
        {
            // The first one may have been read before it was copied there.
            self.client.set_token(token);
            answer = ask().await;
        }
        answer.map_err(|error| match error {
            ClientError::NotAuthorised { .. } => not_authorised(&error, self.token.as_ref()),
            error => failure(error),
        })
    }

    /// A failure where the catalogue takes no names from this node: whoever has much to hash asks first.
    pub async fn may_write(&self) -> Result<(), Failure> {
        self.write(|| self.client.may_write()).await
    }

    /// A failure where a name stands for something of another size.
    pub async fn may_stand_for(&self, name: &DatasetName, bytes: u64) -> Result<(), Failure> {
        match self.find(name).await? {
            Some(Record { id, size, .. }) if size != bytes => {
                Err(failure(ClientError::NameTaken { name: name.clone(), id, removed: false }))
            }
            _ => Ok(()),
        }
    }

    /// Publishes a manifest under a name; true where it was published already.
    pub async fn put(&self, name: &DatasetName, manifest: &Manifest) -> Result<bool, Failure> {
        let outcome = self.write(|| self.client.put(name, manifest)).await?;
        self.saw_names(true);
        Ok(matches!(outcome, PutOutcome::Already))
    }

    /// The dataset of a name.
    pub async fn get(&self, name: &DatasetName) -> Result<(Record, Arc<Manifest>), Failure> {
        let found = self.answer(self.client.get(name)).await?;
        self.saw_names(found.is_some());
        found.map(|(record, manifest)| (record, Arc::new(manifest))).ok_or_else(|| unknown(name))
    }

    /// What a name stands for.
    pub async fn record(&self, name: &DatasetName) -> Result<Record, Failure> {
        self.find(name).await?.ok_or_else(|| unknown(name))
    }

    /// What a name stands for; `None` where it stands for nothing.
    pub async fn find(&self, name: &DatasetName) -> Result<Option<Record>, Failure> {
        let found = self.answer(self.client.record(name)).await?;
        self.saw_names(found.is_some());
        Ok(found)
    }

    /// The names that match.
    pub async fn list(&self, pattern: &Pattern) -> Result<Vec<Record>, Failure> {
        let found = self.answer(self.client.list(pattern)).await?;
        self.saw_names(!found.is_empty());
        Ok(found)
    }

    /// Takes a name out, where it stands for this dataset.
    pub async fn remove(&self, name: &DatasetName, id: ManifestId) -> Result<(), Failure> {
        match self.write(|| self.client.remove(name, id)).await? {
            RemoveOutcome::Removed => Ok(()),
            RemoveOutcome::Already => Err(unknown(name)),
        }
    }

    /// Frees a name that stands for this dataset, or stood for it, for any other.
    pub async fn forget(&self, name: &DatasetName, id: ManifestId) -> Result<(), Failure> {
        match self.write(|| self.client.forget(name, id)).await? {
            RemoveOutcome::Removed => Ok(()),
            RemoveOutcome::Already => Err(unknown(name)),
        }
    }

    /// Tells who this node is.
    pub async fn announce(&self, node: &OwnNode) -> Result<(), Failure> {
        let texts = node.control.iter().filter_map(|addr| ControlAddr::new(&addr.to_string()));
        let record = NodeRecord {
            host: HostName::new(&node.name).ok_or_else(|| {
                let message = format!("«{}» is no name of a node", node.name.escape_debug());
                Failure::new(Kind::Usage, message).hint("give it one without spaces: --name lab3")
            })?,
            control: texts.take(dft_tracker::catalogue::node::CONTROL_ADDRS_MAX).collect(),
            links: LinkAddrs::new(node.links.clone()).unwrap_or_default(),
            quota_bytes: node.quota,
            used_bytes: node.bytes,
            datasets: node.datasets,
            up_rate: node.up_rate,
            down_rate: node.down_rate,
            version: Version::new(env!("CARGO_PKG_VERSION"))
                .ok_or_else(|| Failure::new(Kind::Other, "this program has no version"))?,
        };
        self.client.announce_node(&record).await.map_err(failure)
    }

    /// Takes leave.
    pub async fn leave(&self) -> Result<(), Failure> {
        self.client.leave_node().await.map_err(failure)
    }

    /// The nodes of the cluster.
    pub async fn nodes(&self) -> Result<Vec<SeenNode>, Failure> {
        let found = self.answer(self.client.nodes()).await?;
        let node = |found: dft_tracker::catalogue::node::FoundNode| {
            let observed = found.observed;
            let claimed = found.record.control.iter().filter_map(|addr| socket_addr_of_text(addr.as_str()));
            // Where its announcement came from is where it is; the rest it only says.
            let port = claimed.clone().next().map(|addr| addr.port());
            let seen = port.map(|port| SocketAddr::new(observed, port));
            let others = claimed
                .filter(|addr| Some(*addr) != seen && (!addr.ip().is_loopback() || observed.is_loopback()));
            SeenNode {
                name: found.record.host.as_str().to_owned(),
                peer: found.peer,
                control: seen.into_iter().chain(others).collect(),
                datasets: found.record.datasets.into(),
                bytes: found.record.used_bytes,
                down_rate: found.record.down_rate,
                up_rate: found.record.up_rate,
            }
        };
        Ok(found.into_iter().map(node).collect())
    }

    /// Who has a dataset.
    pub async fn holders(&self, id: ManifestId) -> Result<Vec<Holder>, Failure> {
        let found = self.answer(self.client.holders(id)).await?;
        Ok(found.into_iter().map(Holder::from).collect())
    }

    /// Who has each of many datasets; without addresses.
    pub async fn many_holders(&self, ids: &[ManifestId]) -> Result<Vec<Vec<Holder>>, Failure> {
        let found = self.answer(self.client.many_holders(ids)).await?;
        Ok(found.into_iter().map(|found| found.into_iter().map(Holder::from).collect()).collect())
    }
}

/// The questions that wait for an answer of the catalogue.
#[derive(Default)]
struct Questions(Mutex<Waiting>);

struct Waiting {
    open: usize,
    /// The last answer; the first question, where none waited before.
    since: Instant,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { open: 0, since: Instant::now() }
    }
}

impl Questions {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A question waits as long as what this returns lives.
    fn ask(&self) -> OpenQuestion<'_> {
        let mut waiting = self.lock();
        if waiting.open == 0 {
            waiting.since = Instant::now();
        }
        waiting.open += 1;
        OpenQuestion(self)
    }
}

struct OpenQuestion<'catalogue>(&'catalogue Questions);

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.open -= 1;
        waiting.since = Instant::now();
    }
}

/// Somebody waits for a catalogue to be found, as long as this lives: whoever hangs up waits no more.
struct Looking<'daemon>(&'daemon AtomicUsize);

impl<'daemon> Looking<'daemon> {
    fn begin(count: &'daemon AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Daemon {
    /// What a verb that has nothing to say for a while may be waiting for.
    pub(super) fn waits_for_catalogue(&self) -> Option<String> {
        match self.known_catalogue() {
            None if self.looking.load(Ordering::Relaxed) > 0 => {
                let seconds = FIND_MAX.as_secs();
                Some(format!(
                    "no catalogue is known yet; looking for one on the LAN, for {seconds} s at most"
                ))
            }
            None => None,
            Some(catalogue) => {
                let silent = catalogue.silent_for()? >= SILENT_MAX;
                silent.then(|| {
                    format!(
                        "waiting for the catalogue at {}: it does not answer",
                        catalogue.trackers.join(", ")
                    )
                })
            }
        }
    }

    /// The catalogue, where it is known already.
    pub fn known_catalogue(&self) -> Option<Arc<Catalogue>> {
        self.catalogue.borrow().clone()
    }

    /// The catalogue; waits a while for one to be found.
    pub async fn catalogue(&self) -> Result<Arc<Catalogue>, Failure> {
        let mut known = self.catalogue.subscribe();
        let looking = Looking::begin(&self.looking);
        let found = tokio::time::timeout(FIND_MAX, known.wait_for(Option::is_some)).await;
        drop(looking);
        let found = found.ok().and_then(Result::ok).and_then(|known| known.clone());
        found.ok_or_else(|| {
            let secret = if self.access.network_key.is_some() {
                "; its secret has to be that of this node"
            } else {
                "; that of a private cluster is for who has its --secret FILE"
            };
            let heard = self.finding.heard_of().map(|heard| format!(": {heard}")).unwrap_or_default();
            Failure::new(Kind::NoSource, format!("no catalogue was found on the LAN{heard}")).hint(format!(
                "one node has to keep it: dft daemon --embed-tracker; beyond one LAN, name it: \
                 dft daemon --tracker HOST:PORT{secret}"
            ))
        })
    }
}

/// The first address of each tracker, as far as identities tell them apart. What was proven on
/// one connection counts on no other, so there must be one to each.
fn one_of_each(trackers: &[String]) -> impl Iterator<Item = &String> {
    let identity = |text: &String| text.split_once("/p2p/").map(|(_, identity)| identity.to_owned());
    let mut seen = BTreeSet::new();
    trackers.iter().filter(move |text| identity(text).is_none_or(|identity| seen.insert(identity)))
}

/// A text as a name of the catalogue.
pub fn parse_name(text: &str) -> Result<DatasetName, Failure> {
    DatasetName::new(text).map_err(|error| {
        Failure::new(Kind::Usage, format!("«{}» is no name: {error}", text.escape_debug()))
            .hint("a name is for example experiments/run-17; dft ls shows what there is")
    })
}

/// A text as a pattern; without one, all names.
pub fn parse_pattern(text: Option<&str>) -> Result<Pattern, Failure> {
    let pattern = text.map_or_else(|| Ok(Pattern::all()), Pattern::new);
    pattern.map_err(|error| {
        Failure::new(Kind::Usage, error.to_string()).hint("a pattern is for example 'experiments/*'")
    })
}

/// Whether a loopback tracker may be told of: only to whoever is on this host.
pub fn is_for(tracker: &str, from: Option<IpAddr>) -> bool {
    let named = |part: &str| LOOPBACK_NAMES.contains(&part);
    let loopback = socket_addr_of_text(tracker).is_some_and(|addr| addr.ip().is_loopback())
        || tracker.split(['/', ':']).any(named);
    !loopback || from.is_some_and(|from| from.is_loopback())
}

pub(super) fn unknown(name: &DatasetName) -> Failure {
    Failure::new(Kind::Name, format!("the catalogue knows no {name}")).hint("dft ls shows what there is")
}

#[allow(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn failure(error: ClientError) -> Failure {
    let failure = Failure::new(kind_of(&error), error.to_string());
    match error {
        ClientError::NameTaken { name, id, removed: true } => failure.hint(format!(
            "only that dataset can have the name again; dft rm {name} --forget --id {id} frees it for any other"
        )),
        ClientError::NameTaken { .. } => {
            failure.hint("a name never changes its content: choose another one; dft rm NAME --forget frees this one")
        }
        ClientError::NoTracker => {
            failure.hint("one node has to keep the catalogue: dft daemon --embed-tracker")
        }
        ClientError::NotLeader { .. } => failure.hint("start that one again, or promote a copy: dft tracker --promote"),
        ClientError::Refused { .. } | ClientError::Invalid { .. } => {
            failure.hint("has the node that keeps the catalogue the same version of dft? dft status names it")
        }
        ClientError::Unreachable { .. } => {
            failure.hint("is the node that keeps the catalogue up, and has it the same --secret? transfers go on without it")
        }
        _ => failure,
    }
}

/// A write that wants another token than the one in `file`.
fn not_authorised(error: &ClientError, file: Option<&TokenFile>) -> Failure {
    let failure = Failure::new(Kind::Other, error.to_string());
    let Some(TokenFile { path, .. }) = file else {
        return failure.hint("name the file with the token: dft daemon --token FILE");
    };
    let found = if path.exists() { "this one is another: " } else { "" };
    failure.hint(format!(
        "{found}copy the token file of the node that keeps the catalogue to {} and try again; that node's \
         daemon says at its start where it is, as a rule ~/.config/dft/token. Or start that one with --open",
        shown(path)
    ))
}

fn kind_of(error: &ClientError) -> Kind {
    match error {
        ClientError::NameTaken { .. } => Kind::Name,
        ClientError::Unreachable { .. } => Kind::NoSource,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracker_with_many_addresses_is_asked_at_the_first() {
        let trackers = [
            "/ip4/10.0.0.1/tcp/9/p2p/a",
            "/ip6/fd00::1/tcp/9/p2p/a",
            "/ip4/10.0.0.2/tcp/9/p2p/b",
            "h:1",
            "h:2",
        ];
        let trackers = trackers.map(str::to_owned);
        assert_eq!(
            one_of_each(&trackers).collect::<Vec<_>>(),
            [&trackers[0], &trackers[2], &trackers[3], &trackers[4]]
        );
        assert!(is_for("/ip4/127.0.0.1/tcp/9", Some(IpAddr::from([127, 0, 0, 1]))));
        for own in ["/ip4/127.0.0.1/tcp/9", "127.0.0.1:9", "localhost:9", "/dns/localhost/tcp/9"] {
            assert!(!is_for(own, Some(IpAddr::from([10, 0, 0, 1]))), "{own}");
        }
        assert!(is_for("/dns/localhosts/tcp/9", Some(IpAddr::from([10, 0, 0, 1]))));
    }
}
