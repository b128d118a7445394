//! openraft's network over [`Transport`]: what one group sends to one replica.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyerror::AnyError;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use openraft::alias::SnapshotOf;
use openraft::entry::RaftEntry as _;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message as _;
use proto::peer::append_response::Result as AppendResult;
use proto::peer::envelope::Body;
use proto::peer::{self, raft_request, raft_response};
use proto::{ReplicaId, ShardId};
use storage::ids::StoreId;
use storage::snapshot;
use tokio::time::Instant;

use crate::beats::{Beats, Outcome, Waiting};
use crate::codec;
use crate::commits::{Merged, Writes};
use crate::error::Error;
use crate::pool::Pool;
use crate::state_machine::SnapshotData;
use crate::transport::{CallError, Class, Receiving, Transport};
use crate::type_config::{LogId, Member, TypeConfig, Vote};

/// Appends of one group to one follower that may be on their way at once.
const PIPELINE: usize = 16;

/// An append with entries waits for the follower's fsync: longer than a heartbeat may, since a lost connection is
/// noticed by itself and a slow disk should not be sent the same entries again.
const APPEND_TIMEOUT: Duration = Duration::from_millis(2000);

/// How long a receiver may be out of reach before its snapshot is given up, and with it the files written for it.
const RESUME_WITHIN: Duration = Duration::from_secs(30);

/// Before a receiver is asked how far a cut transfer came.
const RESUME_PAUSE: Duration = Duration::from_millis(200);

/// Connections in a row over which nothing more arrived; the receiver then does not want it.
const CUTS_WITHOUT_PROGRESS: u32 = 3;

/// Makes the clients of one group.
pub(crate) struct Factory {
    pub(crate) shard: ShardId,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) pool: Pool,
    /// Files of outgoing snapshots are written below it.
    pub(crate) send_dir: PathBuf,
    pub(crate) beats: Beats,
    /// What waits for the group.
    pub(crate) waiting: Arc<Waiting>,
    /// Writes of the group.
    pub(crate) writes: Arc<Writes>,
    /// How long news of a commit may wait for entries.
    pub(crate) commit_window: Duration,
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Member) -> Client {
        Client {
            shard: self.shard,
            target: ReplicaId(target),
            node: *node,
            transport: Arc::clone(&self.transport),
            pool: self.pool.clone(),
            send_dir: self.send_dir.clone(),
            writes: Arc::clone(&self.writes),
            commit_window: self.commit_window,
            heartbeats: None,
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Client {
        let heartbeats = Heartbeats {
            beats: self.beats.clone(),
            waiting: Arc::clone(&self.waiting),
            alone: Arc::default(),
        };
        Client {
            heartbeats: Some(heartbeats),
            ..self.new_client(target, node).await
        }
    }
}

/// One group's way to one replica.
#[derive(Clone)]
pub(crate) struct Client {
    shard: ShardId,
    target: ReplicaId,
    node: Member,
    transport: Arc<dyn Transport>,
    pool: Pool,
    send_dir: PathBuf,
    writes: Arc<Writes>,
    commit_window: Duration,
    /// Set on the client that openraft sends heartbeats with; it sends nothing else.
    heartbeats: Option<Heartbeats>,
}

/// A group's heartbeats to one replica, which travel with those of other groups.
#[derive(Clone)]
struct Heartbeats {
    beats: Beats,
    waiting: Arc<Waiting>,
    /// Whether the replica was slower than its neighbours the last time: it then holds up nobody else's answer.
    alone: Arc<AtomicBool>,
}

impl Client {
    async fn call(
        &self,
        request: raft_request::Request,
        timeout: Duration,
    ) -> Result<raft_response::Response, RPCError<TypeConfig>> {
        let request = peer::RaftRequest {
            shard: self.shard.0,
            target: self.target.0,
            request: Some(request),
        };
        let answer = self
            .transport
            .call(
                self.node.node,
                Class::Consensus,
                Body::RaftRequest(request),
                timeout,
            )
            .await;
        match answer.map_err(rpc_error)? {
            Body::RaftResponse(peer::RaftResponse {
                response: Some(response),
            }) => Ok(response),
            _ => Err(malformed("not a raft response")),
        }
    }

    /// A heartbeat, with those of other groups if that holds up nobody.
    async fn heartbeat(
        &self,
        heartbeats: &Heartbeats,
        request: AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let deadline = Instant::now() + timeout;
        if !heartbeats.alone.load(Ordering::Relaxed) {
            let beat = peer::Beat {
                shard: self.shard.0,
                target: self.target.0,
                vote: Some(codec::vote_to_proto(&request.vote)),
                previous: request.prev_log_id.as_ref().map(codec::log_id_to_proto),
                commit: request.leader_commit.as_ref().map(codec::log_id_to_proto),
            };
            let sent = heartbeats
                .beats
                .send(self.node.node, beat, &heartbeats.waiting)
                .await;
            match sent {
                Outcome::Answered(response) => return append_response(response).map_err(wire),
                Outcome::Failed(error) => return Err(rpc_error(error)),
                Outcome::Busy => {}
                Outcome::Slow => heartbeats.alone.store(true, Ordering::Relaxed),
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = self.append(request, left).await;
        if answer.is_ok() {
            heartbeats.alone.store(false, Ordering::Relaxed);
        }
        answer
    }

    async fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = peer::AppendRequest {
            vote: Some(codec::vote_to_proto(&request.vote)),
            previous: request.prev_log_id.as_ref().map(codec::log_id_to_proto),
            entries: request.entries.iter().map(codec::encode_entry).collect(),
            commit: request.leader_commit.as_ref().map(codec::log_id_to_proto),
        };
        match self
            .call(raft_request::Request::Append(request), timeout)
            .await?
        {
            raft_response::Response::Append(response) => append_response(response).map_err(wire),
            _ => Err(malformed("not an append response")),
        }
    }

    async fn vote_call(
        &self,
        request: raft_request::Request,
        timeout: Duration,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(request, timeout).await? {
            raft_response::Response::Vote(response) => Ok(VoteResponse {
                vote: codec::vote_from_proto(response.vote).map_err(wire)?,
                vote_granted: response.granted,
                last_log_id: response.last.map(codec::log_id_from_proto),
            }),
            _ => Err(malformed("not a vote response")),
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Source(replica) = snapshot.snapshot else {
            return Err(StreamingError::Network(NetworkError::new(
                &AnyError::error("not a snapshot of this node"),
            )));
        };
        let Receiving { store, is_sealed } = self
            .transport
            .prepare_snapshot(self.node.node, self.shard, self.target)
            .await
            .map_err(|error| StreamingError::from(rpc_error(error)))?;
        let dir = self
            .send_dir
            .join(format!("shard-{}-replica-{}", self.shard, self.target));
        let _files = Sending(dir.clone());
        let manifest = self
            .pool
            .run(move || {
                // What an interrupted transfer left is of another view.
                let _ = std::fs::remove_dir_all(&dir);
                std::fs::create_dir_all(&dir)?;
                snapshot::write_files(&replica, store, is_sealed, &dir)
            })
            .await
            .unwrap_or_else(|| {
                Err(storage::Error::Io(std::io::Error::other(
                    "the snapshot thread panicked",
                )))
            })
            .map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let membership = proto::log::Membership::decode(manifest.membership.1.clone())
            .map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let header = peer::SnapshotHeader {
            shard: self.shard.0,
            target: self.target.0,
            vote: Some(codec::vote_to_proto(&vote)),
            last: Some(codec::log_id_to_proto(&codec::log_id_from_storage(
                manifest.last,
            ))),
            membership_log_id: manifest
                .membership
                .0
                .map(|id| codec::log_id_to_proto(&codec::log_id_from_storage(id))),
            membership: Some(membership),
            files: manifest
                .files
                .iter()
                .map(|file| peer::SnapshotFile {
                    column: u32::from(file.column as u8),
                    bytes: file.bytes,
                    checksum: file.checksum,
                })
                .collect(),
            store: store.0,
            transfer_key: manifest.transfer_key.as_ref().map(|key| peer::TransferKey {
                key: Bytes::copy_from_slice(key.as_slice()),
            }),
        };
        let files = manifest
            .files
            .iter()
            .map(|file| file.path.clone())
            .collect();
        let sent = self.send_files(store, header, files).await;
        let response = sent.map_err(|error| StreamingError::from(rpc_error(error)))?;
        let vote = codec::vote_from_proto(response.vote)
            .map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        Ok(SnapshotResponse { vote })
    }
}

/// Removes the files of an outgoing snapshot, also when openraft gives the transfer up.
struct Sending(PathBuf);

impl Drop for Sending {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Client {
    /// Sends files until the receiver has installed them, over as many connections as it takes, each from where the last one was cut.
    ///
    /// All in one call of openraft, which counts the follower as far as the position that it asked with: files of an earlier call might
    /// be behind that.
    async fn send_files(
        &self,
        store: StoreId,
        header: peer::SnapshotHeader,
        files: Vec<PathBuf>,
    ) -> Result<peer::SnapshotResponse, CallError> {
        let node = self.node.node;
        let mut held: Vec<u64> = Vec::new();
        let mut cuts = 0;
        loop {
            let sent = self
                .transport
                .send_snapshot(node, header.clone(), files.clone(), held.clone())
                .await;
            let error = match sent {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let now = self.held(store).await?.ok_or_else(|| error.clone())?;
            let (before, after) = (held.iter().sum::<u64>(), now.iter().sum::<u64>());
            cuts = if after > before { 0 } else { cuts + 1 };
            if cuts > CUTS_WITHOUT_PROGRESS {
                return Err(error);
            }
            metrics::counter!("larder_snapshot_resumes_total").increment(1);
            tracing::info!(shard = %self.shard, %node, bytes = after, %error, "snapshot transfer goes on");
            held = now;
        }
    }

    /// What the receiver holds, once it can be asked again; `None`: it has given the transfer up.
    async fn held(&self, store: StoreId) -> Result<Option<Vec<u64>>, CallError> {
        let deadline = Instant::now() + RESUME_WITHIN;
        loop {
            tokio::time::sleep(RESUME_PAUSE).await;
            let asked = self
                .transport
                .resume_snapshot(self.node.node, self.shard, self.target, store)
                .await;
            match asked {
                Err(_) if Instant::now() < deadline => {}
                answer => return answer,
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.append(rpc, option.hard_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let client: &'s Self = self;
        let ttl = option.hard_ttl();
        // A heartbeat is bare as well, and must leave.
        let is_bare: fn(&AppendEntriesRequest<TypeConfig>) -> bool = match client.heartbeats {
            Some(_) => |_| false,
            None => |request| request.entries.is_empty(),
        };
        // openraft matches answers by log id: those to a later append stand for the ones that were left out.
        let input = Merged::new(
            input,
            is_bare,
            Arc::clone(&client.writes),
            client.commit_window,
        );
        let answers = input
            .map(move |request| {
                let previous = request.prev_log_id;
                let last = request
                    .entries
                    .last()
                    .map(openraft::Entry::log_id)
                    .or(previous);
                let timeout = if request.entries.is_empty() {
                    ttl
                } else {
                    APPEND_TIMEOUT
                };
                async move {
                    let answer = match &client.heartbeats {
                        Some(heartbeats) if request.entries.is_empty() => {
                            client.heartbeat(heartbeats, request, timeout).await
                        }
                        Some(_) | None => client.append(request, timeout).await,
                    };
                    (answer, previous, last)
                }
            })
            // In the order of the requests, so that answers can be matched without an id.
            .buffered(PIPELINE);
        let ended = futures::stream::unfold(
            (answers.boxed(), false),
            |(mut answers, ended)| async move {
                if ended {
                    return None;
                }
                let (answer, previous, last) = answers.next().await?;
                let (item, end) = stream_item(answer, previous, last);
                Some((item, (answers, end)))
            },
        );
        Box::pin(async move { Ok(ended.boxed()) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.vote_call(
            raft_request::Request::Vote(vote_request(&rpc)),
            option.hard_ttl(),
        )
        .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.vote_call(
            raft_request::Request::PreVote(vote_request(&rpc)),
            option.hard_ttl(),
        )
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = peer::TransferRequest {
            from: Some(codec::vote_to_proto(req.from_leader())),
            to: *req.to_node_id(),
            last: req.last_log_id().map(codec::log_id_to_proto),
        };
        match self
            .call(raft_request::Request::Transfer(request), option.hard_ttl())
            .await?
        {
            // A refusal is not an error of the network; the sender only logs it.
            raft_response::Response::Transfer(peer::TransferResponse { accepted: true }) => {
                Ok(Ok(()))
            }
            raft_response::Response::Transfer(_) => Err(malformed("the target did not take over")),
            _ => Err(malformed("not a transfer response")),
        }
    }
}

/// One answer as openraft's stream takes it, and whether the stream ends with it.
fn stream_item(
    answer: Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>>,
    previous: Option<LogId>,
    last: Option<LogId>,
) -> (
    Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>,
    bool,
) {
    match answer {
        Ok(response) => {
            let partial = matches!(&response, AppendEntriesResponse::PartialSuccess(matching) if *matching != last);
            let result = response.into_stream_result(previous, last);
            let end = partial || result.is_err();
            (Ok(result), end)
        }
        Err(error) => (Err(error), true),
    }
}

fn vote_request(rpc: &VoteRequest<TypeConfig>) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: Some(codec::vote_to_proto(&rpc.vote)),
        last: rpc.last_log_id.as_ref().map(codec::log_id_to_proto),
        leadership_transfer: rpc.leadership_transfer,
    }
}

fn append_response(
    response: peer::AppendResponse,
) -> Result<AppendEntriesResponse<TypeConfig>, Error> {
    Ok(match response.result() {
        AppendResult::Success => AppendEntriesResponse::Success,
        AppendResult::Partial => {
            AppendEntriesResponse::PartialSuccess(response.matching.map(codec::log_id_from_proto))
        }
        AppendResult::Conflict => AppendEntriesResponse::Conflict,
        AppendResult::HigherVote => {
            AppendEntriesResponse::HigherVote(codec::vote_from_proto(response.vote)?)
        }
    })
}

/// Not sent means that the peer is down: back off. Lost means that it may be slow: try again soon.
fn rpc_error(error: CallError) -> RPCError<TypeConfig> {
    match error {
        CallError::NotSent(_) => RPCError::Unreachable(Unreachable::new(&error)),
        CallError::Lost(_) => RPCError::Network(NetworkError::new(&error)),
    }
}

fn wire(error: Error) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&error))
}

fn malformed(what: &'static str) -> RPCError<TypeConfig> {
    wire(Error::Wire(what))
}
