//! How nodes talk: the seam between groups and the network.
//!
//! All groups of a node share two connections to each peer, one for consensus and one for bulk, so that a snapshot
//! or a burst of forwards never delays a heartbeat. Requests of all groups that are ready together travel in one
//! frame. [`client::Peers`] is the real thing over gRPC, on connections that a [`dial::Dial`] makes; [`memory::Network`]
//! joins hosts of one process.
//!
//! Lacks: order between requests (except appends, which a link handles in the order sent), and retries: the caller
//! knows what a lost request means.

pub mod client;
pub mod dial;
pub mod memory;
pub mod server;

mod forwards;
mod frames;
mod snapshots;

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use proto::peer::envelope::Body;
use proto::{NodeId, ReplicaId, ShardId};
use storage::ids::StoreId;

/// Which connection a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Votes, heartbeats, appends.
    Consensus,
    /// Forwarded requests, snapshots.
    Bulk,
}

impl Class {
    /// The value of the `larder-link` metadata.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Bulk => "bulk",
        }
    }
}

/// Why a call to a peer has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It never left this node, or the peer refused it: nothing happened.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The connection broke or the time passed after it was sent: it may have happened.
    #[error("no answer: {0}")]
    Lost(&'static str),
}

/// Where a snapshot is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiving {
    /// The store id that its keys must have.
    pub store: StoreId,
    /// The receiver seals its disk, so the files must come sealed.
    pub is_sealed: bool,
}

/// Sends requests to other nodes.
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer. Never waits longer than `timeout`.
    fn call(
        &self,
        to: NodeId,
        class: Class,
        body: Body,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Body, CallError>>;

    /// Asks the peer for the store id that a snapshot of `target` must be written under, and whether it must come sealed.
    fn prepare_snapshot(
        &self,
        to: NodeId,
        shard: ShardId,
        target: ReplicaId,
    ) -> BoxFuture<'_, Result<Receiving, CallError>>;

    /// Asks how much of each file the peer holds of the transfer under `store`; `None`: it cannot go on.
    fn resume_snapshot(
        &self,
        to: NodeId,
        shard: ShardId,
        target: ReplicaId,
        store: StoreId,
    ) -> BoxFuture<'_, Result<Option<Vec<u64>>, CallError>>;

    /// Streams one snapshot to a peer: the header, then its files in order, each from what the peer holds of it.
    fn send_snapshot(
        &self,
        to: NodeId,
        header: proto::peer::SnapshotHeader,
        files: Vec<std::path::PathBuf>,
        held: Vec<u64>,
    ) -> BoxFuture<'_, Result<proto::peer::SnapshotResponse, CallError>>;
}

/// Answers forwarded requests: the service layer of the receiving node.
pub trait ForwardHandler: Send + Sync + 'static {
    /// One encoded request to one encoded reply. Must not fail: errors are part of the reply.
    fn handle(&self, body: Bytes) -> BoxFuture<'static, Bytes>;
}
