//! Incoming connections: hands each request to the group or handler that it is for, and answers on the same stream.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use proto::peer::envelope::Body;
use proto::peer::peer_server::{Peer, PeerServer};
use proto::peer::refused::Reason;
use proto::peer::snapshot_part::Part;
use proto::peer::{
    DescribeRequest, DescribeResponse, Envelope, Frame, JoinRequest, JoinResponse,
    PrepareSnapshotRequest, PrepareSnapshotResponse, Refused, SnapshotChunk, SnapshotHeader,
    SnapshotPart, SnapshotResponse,
};
use proto::{ReplicaId, ShardId};
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::ForwardHandler;
use super::frames::{Frames, MESSAGE_BYTES_MAX, QUEUE_ENVELOPES};
use crate::host::Host;

/// Forwarded requests that this node answers at once; more are refused with no effect.
const FORWARDS_MAX: usize = 8192;

/// Snapshot chunks read ahead of the connection.
const CHUNKS_WAITING: usize = 4;

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
    /// Received snapshot files wait here until they are installed.
    receive_dir: PathBuf,
}

impl PeerService {
    /// `receive_dir` must be on the file system of the data directory: files are linked into place.
    pub fn new(
        host: Host,
        forwards: Arc<dyn ForwardHandler>,
        membership: Arc<dyn Membership>,
        receive_dir: PathBuf,
    ) -> PeerServer<Self> {
        let service = Self {
            host,
            forwards,
            membership,
            permits: Arc::new(Semaphore::new(FORWARDS_MAX)),
            receive_dir,
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
            forwards: Arc::clone(&self.forwards),
            permits: Arc::clone(&self.permits),
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
        let store = self
            .host
            .begin_receive(ShardId(request.shard), ReplicaId(request.target))
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(PrepareSnapshotResponse { store: store.0 }))
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
        let name = format!("shard-{}-store-{}", header.shard, header.store);
        let dir = self.receive_dir.join(name);
        let files = receive_files(&dir, &header, parts).await?;
        let vote = self
            .host
            .install_snapshot(header, dir, files)
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(SnapshotResponse { vote: Some(vote) }))
    }
}

/// One incoming link.
struct Session {
    host: Host,
    forwards: Arc<dyn ForwardHandler>,
    permits: Arc<Semaphore>,
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
                                raft.push(async move { Envelope { id, body: Some(host.handle(request).await) } });
                            }
                            Some(Body::ForwardRequest(body)) => self.forward(envelope.id, body),
                            Some(Body::ChainsRequest(_)) => {
                                let body = Some(Body::ChainsResponse(self.host.chains()));
                                // A full queue: the asking side asks again.
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

    fn forward(&self, id: u64, body: Bytes) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return self.refuse(id, Reason::Overloaded, "too many forwarded requests");
        };
        let answer = self.forwards.handle(body);
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let body = Some(Body::ForwardResponse(answer.await));
            drop(permit);
            // The link may be gone: its other side has failed the call already.
            let _ = answers.send(Envelope { id, body }).await;
        });
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

/// Sends a snapshot's parts, header first, then the files in order, until done or until nobody takes them. A read
/// error ends the stream early, which the receiver sees as a short file.
pub(super) fn snapshot_parts(
    header: SnapshotHeader,
    files: Vec<PathBuf>,
    chunk_bytes: usize,
) -> ReceiverStream<SnapshotPart> {
    let (parts, receive) = mpsc::channel(CHUNKS_WAITING);
    tokio::spawn(async move {
        if parts
            .send(SnapshotPart {
                part: Some(Part::Header(header)),
            })
            .await
            .is_err()
        {
            return;
        }
        for (number, path) in files.iter().enumerate() {
            match send_file(&parts, number, path, chunk_bytes).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "snapshot file not readable");
                    return;
                }
            }
        }
    });
    ReceiverStream::new(receive)
}

/// One file in chunks; false if nobody takes them any more.
async fn send_file(
    parts: &mpsc::Sender<SnapshotPart>,
    number: usize,
    path: &Path,
    chunk_bytes: usize,
) -> std::io::Result<bool> {
    let number = u32::try_from(number).map_err(std::io::Error::other)?;
    let mut file = tokio::fs::File::open(path).await?;
    let mut offset = 0;
    loop {
        let mut data = Vec::with_capacity(chunk_bytes);
        let read = (&mut file)
            .take(chunk_bytes as u64)
            .read_to_end(&mut data)
            .await?;
        if read == 0 {
            return Ok(true);
        }
        let chunk = SnapshotChunk {
            file: number,
            offset,
            data: Bytes::from(data),
        };
        if parts
            .send(SnapshotPart {
                part: Some(Part::Chunk(chunk)),
            })
            .await
            .is_err()
        {
            return Ok(false);
        }
        offset += read as u64;
    }
}

async fn receive_files(
    dir: &Path,
    header: &SnapshotHeader,
    mut parts: Streaming<SnapshotPart>,
) -> Result<Vec<PathBuf>, Status> {
    let io = |error: std::io::Error| Status::internal(format!("snapshot file: {error}"));
    tokio::fs::create_dir_all(dir).await.map_err(io)?;
    let mut paths = Vec::with_capacity(header.files.len());
    let mut handles = Vec::with_capacity(header.files.len());
    for number in 0..header.files.len() {
        let path = dir.join(format!("{number}.sst"));
        handles.push((tokio::fs::File::create(&path).await.map_err(io)?, 0u64));
        paths.push(path);
    }
    while let Some(part) = parts.message().await? {
        let Some(Part::Chunk(chunk)) = part.part else {
            return Err(Status::invalid_argument("a second header"));
        };
        let (handle, written) = handles.get_mut(chunk.file as usize).ok_or_else(|| {
            Status::invalid_argument("a chunk of a file that the header does not name")
        })?;
        if *written != chunk.offset {
            return Err(Status::invalid_argument("chunks out of order"));
        }
        handle.write_all(&chunk.data).await.map_err(io)?;
        *written += chunk.data.len() as u64;
    }
    for ((mut handle, written), file) in handles.into_iter().zip(&header.files) {
        if written != file.bytes {
            return Err(Status::data_loss(format!(
                "a file has {written} bytes, {} were announced",
                file.bytes
            )));
        }
        handle.flush().await.map_err(io)?;
        handle.sync_all().await.map_err(io)?;
    }
    Ok(paths)
}
