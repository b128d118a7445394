//! Incoming connections: hands each request to the group or handler that it is for, and answers on the same stream.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::Either;
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use proto::peer::envelope::Body;
use proto::peer::peer_server::{Peer, PeerServer};
use proto::peer::refused::Reason;
use proto::peer::snapshot_part::Part;
use proto::peer::{
    DescribeRequest, DescribeResponse, Envelope, Frame, GiveUp, JoinRequest, JoinResponse,
    PrepareSnapshotRequest, PrepareSnapshotResponse, Refused, SnapshotPart, SnapshotResponse,
};
use proto::{ReplicaId, ShardId};
use storage::ids::StoreId;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::ForwardHandler;
use super::forwards::Forwards;
use super::frames::{Frames, MESSAGE_BYTES_MAX, QUEUE_ENVELOPES};
use super::snapshots::{ReceiveError, Receiver};
use crate::host::Host;

/// Forwarded requests that this node answers at once; more are refused with no effect.
const FORWARDS_MAX: usize = 8192;

/// What a node says and does before it belongs to a cluster.
#[async_trait]
pub trait Membership: Send + Sync + 'static {
    /// Who this node is.
    fn describe(&self) -> DescribeResponse;

    /// The cluster this node belongs to; empty: none yet.
    fn cluster(&self) -> String;

    /// Makes this node a member and opens its metadata replica. Idempotent for the same cluster.
    ///
    /// # Errors
    /// It belongs to another cluster, or its disk failed.
    async fn join(&self, request: JoinRequest) -> Result<(), String>;
}

/// The peer service of one node.
pub struct PeerService {
    host: Host,
    forwards: Arc<dyn ForwardHandler>,
    membership: Arc<dyn Membership>,
    permits: Arc<Semaphore>,
    receiver: Arc<Receiver>,
}

impl PeerService {
    /// `receive_dir` must be on the file system of the data directory: files are linked into place.
    pub fn new(
        host: Host,
        forwards: Arc<dyn ForwardHandler>,
        membership: Arc<dyn Membership>,
        receive_dir: PathBuf,
    ) -> PeerServer<Self> {
        let receiver = Receiver::new(receive_dir, &host.receiving());
        let service = Self {
            host,
            forwards,
            membership,
            permits: Arc::new(Semaphore::new(FORWARDS_MAX)),
            receiver,
        };
        PeerServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn check_cluster<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let own = self.membership.cluster();
        let theirs = request
            .metadata()
            .get("larder-cluster")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        // A node that is being joined does not know its cluster yet.
        if own.is_empty() || theirs.is_empty() || own == theirs {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "this node belongs to cluster {own}, not to {theirs}"
        )))
    }
}

#[async_trait]
impl Peer for PeerService {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        self.check_cluster(&request)?;
        let (answers, receive) = mpsc::channel(QUEUE_ENVELOPES);
        let session = Session {
            host: self.host.clone(),
            forwards: Forwards::new(
                Arc::clone(&self.forwards),
                Arc::clone(&self.permits),
                answers.clone(),
            ),
            answers,
        };
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(Box::pin(Frames::new(receive).map(Ok))))
    }

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(self.membership.describe()))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        self.membership
            .join(request.into_inner())
            .await
            .map_err(Status::failed_precondition)?;
        Ok(Response::new(JoinResponse {}))
    }

    async fn prepare_snapshot(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let request = request.into_inner();
        let (shard, target) = (ShardId(request.shard), ReplicaId(request.target));
        if request.resume != 0 {
            let store = StoreId(request.resume);
            let held = self.receiver.held(&self.host, shard, target, store).await;
            let answer = held.map_err(status)?.map(|held| PrepareSnapshotResponse {
                store: store.0,
                held,
                sealed: false,
            });
            return Ok(Response::new(answer.unwrap_or_default()));
        }
        let receiving = self
            .host
            .begin_receive(shard, target)
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(PrepareSnapshotResponse {
            store: receiving.store.0,
            held: Vec::new(),
            sealed: receiving.is_sealed,
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<SnapshotResponse>, Status> {
        self.check_cluster(&request)?;
        let mut parts = request.into_inner();
        let Some(Part::Header(header)) = parts.message().await?.and_then(|part| part.part) else {
            return Err(Status::invalid_argument(
                "a snapshot starts with its header",
            ));
        };
        let shard = ShardId(header.shard);
        let received = self
            .receiver
            .receive(&header, parts)
            .await
            .map_err(|error| {
                tracing::warn!(%shard, store = header.store, %error, "snapshot transfer stopped");
                status(error)
            })?;
        let host = self.host.clone();
        let installed = self.receiver.install(host, header, received).await;
        let vote = installed.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(SnapshotResponse { vote: Some(vote) }))
    }
}

fn status(error: ReceiveError) -> Status {
    let message = error.to_string();
    match error {
        ReceiveError::Io(_) => Status::internal(message),
        ReceiveError::Malformed(_) | ReceiveError::Order { .. } => {
            Status::invalid_argument(message)
        }
        ReceiveError::Changed { .. }
        | ReceiveError::Short { .. }
        | ReceiveError::Damaged { .. } => Status::data_loss(message),
        ReceiveError::Broken(_) | ReceiveError::Overtaken => Status::aborted(message),
    }
}

/// One incoming link.
struct Session {
    host: Host,
    forwards: Forwards,
    answers: mpsc::Sender<Envelope>,
}

impl Session {
    async fn run(self, mut frames: Streaming<Frame>) {
        // Raft requests are polled here, first in the order of their arrival: an append must reach its group before
        // the append that was sent after it.
        let mut raft = FuturesUnordered::new();
        loop {
            tokio::select! {
                frame = frames.next() => {
                    let Some(Ok(frame)) = frame else { return };
                    for envelope in frame.envelopes {
                        match envelope.body {
                            Some(Body::RaftRequest(request)) => {
                                let host = self.host.clone();
                                let id = envelope.id;
                                raft.push(Either::Left(async move { Envelope { id, body: Some(host.handle(request).await) } }));
                            }
                            Some(Body::BeatsRequest(request)) => {
                                let host = self.host.clone();
                                let id = envelope.id;
                                // Boxed: rare beside the appends, and larger.
                                let answer = async move { Body::BeatsResponse(host.beats(request).await) }.boxed();
                                raft.push(Either::Right(async move { Envelope { id, body: Some(answer.await) } }));
                            }
                            Some(Body::ForwardRequest(body)) => {
                                if !self.forwards.begin(envelope.id, body) {
                                    self.refuse(envelope.id, Reason::Overloaded, "too many forwarded requests");
                                }
                            }
                            Some(Body::GiveUp(GiveUp {})) => self.forwards.give_up(envelope.id),
                            Some(Body::ChainsRequest(_)) => {
                                let body = Some(Body::ChainsResponse(self.host.chains()));
                                // A full queue: the asking side asks again.
                                let _ = self.answers.try_send(Envelope { id: envelope.id, body });
                            }
                            Some(Body::VotesRequest(request)) => {
                                let body = Some(Body::VotesResponse(self.host.votes(&request)));
                                // A full queue: the asking side sends heartbeats.
                                let _ = self.answers.try_send(Envelope { id: envelope.id, body });
                            }
                            _ => self.refuse(envelope.id, Reason::Unspecified, "not a request"),
                        }
                    }
                }
                Some(answer) = raft.next(), if !raft.is_empty() => {
                    // The queue is as long as the asking side's; if it is full the peer stopped reading.
                    if self.answers.try_send(answer).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn refuse(&self, id: u64, reason: Reason, message: &str) {
        let refused = Refused {
            reason: reason.into(),
            message: message.to_owned(),
        };
        let _ = self.answers.try_send(Envelope {
            id,
            body: Some(Body::Refused(refused)),
        });
    }
}
