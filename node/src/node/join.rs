//! Becoming a member: what a node says of itself, and how it takes its metadata replica.

use std::sync::Arc;

use proto::peer::{DescribeResponse, JoinRequest};
use proto::{NodeId, ReplicaId, ShardId};
use raft::transport::client::Peers;
use raft::transport::server::Membership;
use storage::Storage;
use tonic::async_trait;

use super::replicas::Replicas;

/// Answers `Describe` and `Join`.
pub(super) struct Joining {
    own: proto::log::Node,
    storage: Storage,
    peers: Peers,
    replicas: Arc<Replicas>,
}

impl Joining {
    pub(super) fn new(
        own: proto::log::Node,
        storage: Storage,
        peers: Peers,
        replicas: Arc<Replicas>,
    ) -> Self {
        Self {
            own,
            storage,
            peers,
            replicas,
        }
    }

    fn check(&self, request: &JoinRequest) -> Result<(), String> {
        let rows = self.storage.logs.directory().replicas();
        // Of several, all but the newest only wait for their removal.
        let held = rows.iter().rfind(|row| row.shard == ShardId::META);
        let is_meant =
            |replica: ReplicaId| [request.replica, request.replaces].contains(&replica.0);
        match held {
            Some(row) if !is_meant(row.replica) => Err(format!(
                "this node holds metadata replica {}, not {}",
                row.replica, request.replica
            )),
            Some(_) | None => Ok(()),
        }
    }
}

#[async_trait]
impl Membership for Joining {
    fn describe(&self) -> DescribeResponse {
        DescribeResponse {
            node: Some(self.own.clone()),
            cluster_id: self.cluster(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn cluster(&self) -> String {
        self.storage
            .logs
            .directory()
            .cluster_id()
            .unwrap_or_default()
    }

    async fn join(&self, request: JoinRequest) -> Result<(), String> {
        self.check(&request)?;
        self.storage
            .logs
            .directory()
            .set_cluster_id(&request.cluster_id)
            .map_err(|error| error.to_string())?;
        self.peers.set_cluster(&request.cluster_id);
        for node in &request.nodes {
            self.peers.set_address(NodeId(node.id), &node.peer_address);
        }
        self.replicas
            .open(ShardId::META, ReplicaId(request.replica))
            .await
            .map_err(|error| format!("metadata replica: {error:#}"))
    }
}
