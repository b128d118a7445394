//! Joins hosts of one process without sockets, for tests and simulation. Requests take no time; a cut is a refusal.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use proto::peer::envelope::Body;
use proto::peer::raft_request::Request;
use proto::peer::snapshot_part::Part;
use proto::peer::{RaftRequest, SnapshotHeader, SnapshotPart, SnapshotResponse};
use proto::{NodeId, ReplicaId, ShardId};
use storage::ids::StoreId;

use super::snapshots::{self, Receiver};
use super::{CallError, Class, Receiving, Transport};
use crate::host::Host;

/// Bytes of a snapshot chunk here: small, so that small snapshots have many.
const CHUNK_BYTES: usize = 64;

/// What becomes of a snapshot chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkFault {
    /// The connection breaks before it.
    Cut,
    /// One of its bits is flipped.
    Flip,
    /// The connection breaks before it, and its receiver is cut off from then on.
    Gone,
}

/// The network that all hosts of a test share.
#[derive(Clone, Default)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<NodeId, (Host, Arc<Receiver>)>,
    cut: HashSet<NodeId>,
    /// By number of the chunk, counted over all snapshots from 1.
    faults: HashMap<u64, ChunkFault>,
    chunks: u64,
    refused: Vec<String>,
    /// Messages of heartbeats by sender and receiver: how many heartbeats each had.
    beats: HashMap<(NodeId, NodeId), Vec<usize>>,
    /// Appends by sender and receiver: how many entries each had.
    appends: HashMap<(NodeId, NodeId), Vec<usize>>,
    /// Messages that asked for votes by sender and receiver: how many replicas each asked.
    votes: HashMap<(NodeId, NodeId), Vec<usize>>,
    /// Messages of heartbeats that are still to be lost, of each sender.
    lose_beats: HashMap<NodeId, u32>,
}

impl Network {
    /// Makes `node` reachable. Snapshots for it arrive below `receive_dir`.
    pub fn connect(&self, node: NodeId, host: Host, receive_dir: PathBuf) {
        let receiver = Receiver::new(receive_dir, &host.receiving());
        self.state.lock().hosts.insert(node, (host, receiver));
    }

    /// Does something to the snapshot chunk of this number, counted over all snapshots from 1.
    pub fn spoil_chunk(&self, number: u64, fault: ChunkFault) {
        self.state.lock().faults.insert(number, fault);
    }

    /// Snapshot chunks sent so far.
    pub fn chunks(&self) -> u64 {
        self.state.lock().chunks
    }

    /// Why snapshots did not arrive.
    pub fn refused(&self) -> Vec<String> {
        self.state.lock().refused.clone()
    }

    /// How many heartbeats each message of heartbeats from one node to another had.
    pub fn beats(&self, from: NodeId, to: NodeId) -> Vec<usize> {
        let state = self.state.lock();
        state.beats.get(&(from, to)).cloned().unwrap_or_default()
    }

    /// How many entries each append by itself from one node to another had.
    pub fn appends(&self, from: NodeId, to: NodeId) -> Vec<usize> {
        let state = self.state.lock();
        state.appends.get(&(from, to)).cloned().unwrap_or_default()
    }

    /// How many replicas each message from one node to another asked for their votes.
    pub fn votes(&self, from: NodeId, to: NodeId) -> Vec<usize> {
        let state = self.state.lock();
        state.votes.get(&(from, to)).cloned().unwrap_or_default()
    }

    /// Loses the next messages of heartbeats of a node, this many.
    pub fn lose_beats(&self, from: NodeId, messages: u32) {
        self.state.lock().lose_beats.insert(from, messages);
    }

    /// Messages of heartbeats of a node that are still to be lost.
    pub fn beats_to_lose(&self, from: NodeId) -> u32 {
        self.state
            .lock()
            .lose_beats
            .get(&from)
            .copied()
            .unwrap_or(0)
    }

    /// Counts what is an append, a message of heartbeats or one that asks for votes; whether it gets lost.
    fn note(&self, from: NodeId, to: NodeId, body: &Body) -> bool {
        let request = match body {
            Body::BeatsRequest(request) => request,
            Body::RaftRequest(RaftRequest {
                request: Some(Request::Append(append)),
                ..
            }) => {
                let mut state = self.state.lock();
                let appends = state.appends.entry((from, to)).or_default();
                appends.push(append.entries.len());
                return false;
            }
            Body::VotesRequest(request) => {
                let mut state = self.state.lock();
                let votes = state.votes.entry((from, to)).or_default();
                votes.push(request.voters.len());
                return false;
            }
            _ => return false,
        };
        let mut state = self.state.lock();
        let beats = request.beats.len();
        state.beats.entry((from, to)).or_default().push(beats);
        let Some(left) = state.lose_beats.get_mut(&from) else {
            return false;
        };
        let is_lost = *left > 0;
        *left = left.saturating_sub(1);
        is_lost
    }

    /// One snapshot part on its way to a node.
    fn pass(&self, to: NodeId, mut part: SnapshotPart) -> Result<SnapshotPart, String> {
        let mut state = self.state.lock();
        state.chunks += 1;
        let number = state.chunks;
        match (state.faults.remove(&number), &mut part.part) {
            (Some(ChunkFault::Cut), _) => return Err("cut".to_owned()),
            (Some(ChunkFault::Gone), _) => {
                state.cut.insert(to);
                return Err("gone".to_owned());
            }
            (Some(ChunkFault::Flip), Some(Part::Chunk(chunk))) => {
                let mut data = chunk.data.to_vec();
                if let Some(byte) = data.first_mut() {
                    *byte ^= 1;
                }
                chunk.data = data.into();
            }
            (Some(ChunkFault::Flip), _) | (None, _) => {}
        }
        Ok(part)
    }

    fn receiver(&self, node: NodeId) -> Result<Arc<Receiver>, CallError> {
        let state = self.state.lock();
        let found = state
            .hosts
            .get(&node)
            .map(|(_, receiver)| Arc::clone(receiver));
        found.ok_or_else(|| CallError::NotSent("no such node".to_owned()))
    }

    /// Cuts a node off from all others, both ways.
    pub fn cut(&self, node: NodeId) {
        self.state.lock().cut.insert(node);
    }

    /// Undoes [`Self::cut`].
    pub fn heal(&self, node: NodeId) {
        self.state.lock().cut.remove(&node);
    }

    /// The network as `node` sees it.
    pub fn endpoint(&self, node: NodeId) -> Endpoint {
        Endpoint {
            node,
            network: self.clone(),
        }
    }

    fn route(&self, from: NodeId, to: NodeId) -> Result<Host, CallError> {
        let state = self.state.lock();
        if state.cut.contains(&from) || state.cut.contains(&to) {
            return Err(CallError::NotSent("cut off".to_owned()));
        }
        state
            .hosts
            .get(&to)
            .map(|(host, _)| host.clone())
            .ok_or_else(|| CallError::NotSent("no such node".to_owned()))
    }
}

/// One node's end of a [`Network`].
pub struct Endpoint {
    node: NodeId,
    network: Network,
}

impl Transport for Endpoint {
    fn call(
        &self,
        to: NodeId,
        _: Class,
        body: Body,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Body, CallError>> {
        Box::pin(async move {
            let is_lost = self.network.note(self.node, to, &body);
            let host = self.network.route(self.node, to)?;
            let answer = async {
                match body {
                    Body::RaftRequest(request) => Ok(host.handle(request).await),
                    Body::BeatsRequest(request) => {
                        Ok(Body::BeatsResponse(host.beats(request).await))
                    }
                    Body::VotesRequest(request) => Ok(Body::VotesResponse(host.votes(&request))),
                    Body::ChainsRequest(_) => Ok(Body::ChainsResponse(host.chains())),
                    _ => Err(CallError::NotSent("this does not travel here".to_owned())),
                }
            };
            if is_lost {
                tokio::time::sleep(timeout).await;
                return Err(CallError::Lost("no answer in time"));
            }
            let answer = tokio::time::timeout(timeout, answer)
                .await
                .map_err(|_| CallError::Lost("no answer in time"))??;
            self.network
                .route(to, self.node)
                .map_err(|_| CallError::Lost("cut off"))?;
            match answer {
                Body::Refused(refused) => Err(CallError::NotSent(refused.message)),
                answer => Ok(answer),
            }
        })
    }

    fn prepare_snapshot(
        &self,
        to: NodeId,
        shard: ShardId,
        target: ReplicaId,
    ) -> BoxFuture<'_, Result<Receiving, CallError>> {
        Box::pin(async move {
            let host = self.network.route(self.node, to)?;
            host.begin_receive(shard, target)
                .await
                .map_err(|error| CallError::NotSent(error.to_string()))
        })
    }

    fn resume_snapshot(
        &self,
        to: NodeId,
        shard: ShardId,
        target: ReplicaId,
        store: StoreId,
    ) -> BoxFuture<'_, Result<Option<Vec<u64>>, CallError>> {
        Box::pin(async move {
            let host = self.network.route(self.node, to)?;
            let receiver = self.network.receiver(to)?;
            receiver
                .held(&host, shard, target, store)
                .await
                .map_err(|error| CallError::NotSent(error.to_string()))
        })
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        header: SnapshotHeader,
        files: Vec<PathBuf>,
        held: Vec<u64>,
    ) -> BoxFuture<'_, Result<SnapshotResponse, CallError>> {
        Box::pin(async move {
            let host = self.network.route(self.node, to)?;
            let receiver = self.network.receiver(to)?;
            let network = self.network.clone();
            let from = self.node;
            let parts = snapshots::parts(header.clone(), files, held, CHUNK_BYTES);
            // The header travels as an argument.
            let parts = parts.skip(1).map(move |part| {
                network.route(from, to).map_err(|error| error.to_string())?;
                network.pass(to, part)
            });
            let received = receiver.receive(&header, parts).await.map_err(|error| {
                self.network.state.lock().refused.push(error.to_string());
                CallError::Lost("the snapshot did not arrive")
            })?;
            let vote = receiver
                .install(host, header, received)
                .await
                .map_err(|_| CallError::Lost("the peer did not take the snapshot"))?;
            Ok(SnapshotResponse { vote: Some(vote) })
        })
    }
}
