//! How a write finds the leader, and proves that it may write.

use std::time::{Duration, Instant};

use dft_protocol::id::ManifestId;

use super::task::AskError;
use super::{ATTEMPTS_MAX, Client, ClientError, PutOutcome, RemoveOutcome, unexpected};
use crate::address::peer_id_from_libp2p;
use crate::catalogue::name::DatasetName;
use crate::catalogue::protocol::{BLOCK_LEN_MAX, Hello, Request, Response};
use crate::catalogue::token::Challenge;

/// How long a leader is believed in without looking for one of a higher epoch, where there are
/// several trackers.
const LEADER_TTL: Duration = Duration::from_secs(30);

/// How often a manifest is sent block by block.
const STAGE_ATTEMPTS_MAX: u32 = 2;

/// Who takes writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leader {
    tracker: usize,
    epoch: u64,
    found: Instant,
}

impl Client {
    /// `Put`: at once where the manifest is one block, else block by block where it is wanted.
    pub(super) async fn write_manifest(
        &self,
        name: &DatasetName,
        id: ManifestId,
        bytes: &[u8],
    ) -> Result<PutOutcome, ClientError> {
        let whole = (bytes.len() <= BLOCK_LEN_MAX).then(|| bytes.to_vec());
        let put = Request::Put { name: name.clone(), id, manifest: whole };
        let mut response = self.write(put.clone()).await?;
        for attempt in 1..=STAGE_ATTEMPTS_MAX {
            if response != Response::Wanted {
                break;
            }
            match self.stage(id, bytes).await {
                // A connection ended in between, and the tracker forgot what it had.
                Err(ClientError::Refused { .. }) if attempt < STAGE_ATTEMPTS_MAX => {}
                staged => staged?,
            }
            response = self.write(put.clone()).await?;
        }
        match response {
            Response::Stored { created: true } => Ok(PutOutcome::Created),
            Response::Stored { created: false } => Ok(PutOutcome::Already),
            Response::Taken { id, removed } => {
                Err(ClientError::NameTaken { name: name.clone(), id, removed })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Whether the leader takes writes of this client: the same failures as of a write that it refuses. One that
    /// was, or cannot be asked, is looked for anew, once.
    pub async fn may_write(&self) -> Result<(), ClientError> {
        let first = self.may_write_at_leader().await;
        match first {
            Err(ClientError::Unreachable { .. } | ClientError::NotLeader { .. }) => {
                *self.leader() = None;
                self.may_write_at_leader().await
            }
            first => first,
        }
    }

    async fn may_write_at_leader(&self) -> Result<(), ClientError> {
        let leader = self.find_leader().await?;
        let answer = match self.ask_at(leader.tracker, Request::Hello).await {
            Ok(Response::Hello(hello)) if !hello.leads => Ok(Response::NotLeader(None)),
            Ok(Response::Hello(hello)) if hello.open => Ok(Response::Done),
            Ok(Response::Hello(_)) => self.prove(leader.tracker, leader.epoch).await,
            answer => answer,
        };
        match answer {
            Ok(Response::Done) => Ok(()),
            Ok(Response::Unproven) => {
                let tracker = self.0.trackers[leader.tracker].addr.to_string();
                Err(ClientError::NotAuthorised { tracker })
            }
            Ok(Response::NotLeader(leader)) => Err(ClientError::NotLeader { leader }),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(self.failure(vec![(leader.tracker, error)])),
        }
    }

    async fn stage(&self, id: ManifestId, bytes: &[u8]) -> Result<(), ClientError> {
        let len32 = |len: usize| u32::try_from(len).expect("a manifest is far below 4 GiB");
        for (number, block) in bytes.chunks(BLOCK_LEN_MAX).enumerate() {
            let offset = len32(number * BLOCK_LEN_MAX);
            let request = Request::Stage { id, len: len32(bytes.len()), offset, bytes: block.to_vec() };
            match self.write(request).await? {
                Response::Done => {}
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    pub(super) async fn write_removal(
        &self,
        name: &DatasetName,
        id: ManifestId,
        forget: bool,
    ) -> Result<RemoveOutcome, ClientError> {
        match self.write(Request::Remove { name: name.clone(), id, forget }).await? {
            Response::Removed { removed: true } => Ok(RemoveOutcome::Removed),
            Response::Removed { removed: false } => Ok(RemoveOutcome::Already),
            Response::Taken { id, removed } => {
                Err(ClientError::NameTaken { name: name.clone(), id, removed })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Asks the leader; one that was, or cannot be asked, is looked for anew, once. Where an answer was lost, what
    /// was asked for may have been done, whatever comes of the second try: that is what is told then.
    async fn write(&self, request: Request) -> Result<Response, ClientError> {
        let (mut lost, mut named) = (None, None);
        for _ in 0..2 {
            let answer = match self.find_leader().await {
                Ok(leader) => (leader.tracker, self.write_at(leader, request.clone()).await),
                Err(failure) => return Err(lost.unwrap_or(failure)),
            };
            let failure = match answer {
                (_, Ok(Response::NotLeader(leader))) => {
                    named = leader;
                    *self.leader() = None;
                    continue;
                }
                (tracker, Ok(Response::Unproven)) => {
                    let tracker = self.0.trackers[tracker].addr.to_string();
                    ClientError::NotAuthorised { tracker }
                }
                (_, Ok(Response::Refused(reason))) => {
                    ClientError::Refused { reason: reason.as_str().to_owned() }
                }
                (_, Ok(response)) => return Ok(response),
                (tracker, Err(error)) => {
                    lost.get_or_insert(self.failure(vec![(tracker, error)]));
                    *self.leader() = None;
                    continue;
                }
            };
            return Err(lost.unwrap_or(failure));
        }
        Err(lost.unwrap_or(ClientError::NotLeader { leader: named }))
    }

    /// Asks, and proves where a proof is wanted. It is good for one connection: one that ends in
    /// between wants another.
    async fn write_at(&self, leader: Leader, request: Request) -> Result<Response, AskError> {
        let mut response = self.ask_at(leader.tracker, request.clone()).await?;
        for _ in 0..ATTEMPTS_MAX {
            if response != Response::Unproven {
                break;
            }
            match self.prove(leader.tracker, leader.epoch).await? {
                Response::Done => response = self.ask_at(leader.tracker, request.clone()).await?,
                other => return Ok(other),
            }
        }
        Ok(response)
    }

    /// Proves to a tracker that this client knows the token, and tells it of `epoch`.
    pub(crate) async fn prove_at_first(&self, epoch: u64) -> bool {
        matches!(self.prove(0, epoch).await, Ok(Response::Done))
    }

    async fn prove(&self, tracker: usize, epoch: u64) -> Result<Response, AskError> {
        let Some(token) = self.token() else { return Ok(Response::Unproven) };
        let (hello, peer) = match self.ask_whom(tracker, Request::Hello).await? {
            (Response::Hello(hello), peer) => (hello, peer),
            (other, _) => return Ok(other),
        };
        let Some(peer) = peer_id_from_libp2p(&peer) else { return Ok(Response::Unproven) };
        let challenge = Challenge { nonce: &hello.nonce, client: self.0.local, tracker: peer, epoch };
        self.ask_at(tracker, Request::Prove { proof: token.prove(&challenge), epoch }).await
    }

    /// The tracker that takes writes in the highest epoch. One that believes to do so in a lower
    /// epoch hears of it.
    async fn find_leader(&self) -> Result<Leader, ClientError> {
        if let Some(leader) = *self.leader()
            && leader.found.elapsed() < LEADER_TTL
        {
            return Ok(leader);
        }
        if self.0.trackers.len() == 1 {
            // It says itself where it is no leader.
            return Ok(Leader { tracker: 0, epoch: 0, found: Instant::now() });
        }
        let hellos = self.hellos().await;
        let known = |(tracker, hello): (usize, &Option<Hello>)| Some((tracker, hello.clone()?));
        let known: Vec<(usize, Hello)> = hellos.iter().enumerate().filter_map(known).collect();
        if known.is_empty() {
            let gone = |tracker| (tracker, AskError::Unreachable("it cannot be asked".into()));
            return Err(self.failure((0..self.0.trackers.len()).map(gone).collect()));
        }
        let epoch = known.iter().map(|(_, hello)| hello.epoch).max().unwrap_or_default();
        let leads = |(_, hello): &&(usize, Hello)| hello.leads && hello.epoch == epoch;
        let Some((tracker, _)) = known.iter().find(leads) else {
            return Err(ClientError::NotLeader { leader: None });
        };
        for (other, hello) in &known {
            if hello.leads && hello.epoch < epoch && self.token().is_some() {
                // Where it cannot be told, it is not asked either.
                let _ = self.prove(*other, epoch).await;
            }
        }
        let leader = Leader { tracker: *tracker, epoch, found: Instant::now() };
        *self.leader() = Some(leader);
        Ok(leader)
    }

    fn leader(&self) -> std::sync::MutexGuard<'_, Option<Leader>> {
        self.0.leader.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
