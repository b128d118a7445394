//! The service's ports over the crate `raft`: pure conversion.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cluster::replacement::{Member, Members as GroupMembers};
use futures::future::BoxFuture;
use proto::peer::{DescribeRequest, JoinRequest};
use proto::{NodeId, ReplicaId, ShardId};
use raft::Host;
use raft::transport::CallError;
use raft::transport::client::{Peers, connect};
use raft::transport::dial::{Dialer, cause};
use service::ports::{
    Confirmed, Description, Forward, ForwardError, Groups, Leader, Members, PortError,
    ProposeError, ReadError,
};
use storage::machine::Replica;
use tokio::time::timeout_at;

use super::disk::Disk;
use crate::http::admin::ShardControl;

/// A replica this many entries behind the leader takes over without a noticeable pause.
const CAUGHT_UP_ENTRIES: u64 = 100;

/// This node's groups.
pub(super) struct RaftGroups(pub(super) Host, pub(super) Arc<Disk>);

impl Groups for RaftGroups {
    fn propose(
        &self,
        shard: ShardId,
        command: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
        Box::pin(async move {
            self.0
                .propose(shard, command, deadline.into())
                .await
                .map_err(propose_error)
        })
    }

    fn read_barrier(
        &self,
        shard: ShardId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move {
            self.0
                .read_barrier(shard, deadline.into())
                .await
                .map_err(read_error)
        })
    }

    fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.0.replica(shard)
    }

    fn is_filled(&self, shard: ShardId) -> bool {
        self.0.is_filled(shard)
    }

    fn is_leader(&self, shard: ShardId) -> bool {
        self.0.is_leader(shard)
    }

    fn leader(&self, shard: ShardId) -> Option<Leader> {
        self.0.leader(shard).map(to_leader)
    }

    fn leader_changed(
        &self,
        shard: ShardId,
        seen: Option<Leader>,
        deadline: Instant,
    ) -> BoxFuture<'_, Option<Leader>> {
        let seen = seen.map(|leader| raft::Leader {
            replica: leader.replica,
            node: leader.node,
            term: leader.term,
        });
        Box::pin(async move {
            self.0
                .leader_changed(shard, seen, deadline.into())
                .await
                .map(to_leader)
        })
    }

    fn commit_index(&self, shard: ShardId) -> u64 {
        self.0.commit_index(shard)
    }

    fn confirmed(&self, shard: ShardId) -> Option<Confirmed> {
        self.0.confirmed(shard).map(|confirmed| Confirmed {
            age: confirmed.age,
            index: confirmed.index,
        })
    }

    fn reaches(&self, shard: ShardId, index: u64, deadline: Instant) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.0.reaches(shard, index, deadline.into()).await })
    }

    fn shards(&self) -> Vec<ShardId> {
        self.0.shards()
    }

    fn initialize<'a>(
        &'a self,
        shard: ShardId,
        members: &'a BTreeMap<ReplicaId, NodeId>,
    ) -> BoxFuture<'a, Result<(), PortError>> {
        Box::pin(async move { self.0.initialize(shard, members).await.map_err(port_error) })
    }

    fn no_room(&self) -> Option<String> {
        self.1.shortage()
    }

    fn quarantined(&self, shard: ShardId) -> Vec<NodeId> {
        self.0.quarantined_nodes(shard)
    }

    fn caught_up(&self, shard: ShardId, to: ReplicaId) -> bool {
        self.0.status(shard).is_some_and(|status| {
            let member = status.members.get(&to).filter(|member| member.voter);
            member.is_some_and(|member| is_caught_up(member, &status))
        })
    }

    fn members(&self, shard: ShardId) -> Option<GroupMembers> {
        let status = self.0.status(shard)?;
        let member = |(replica, member): (&ReplicaId, &raft::MemberStatus)| {
            let seen = Member {
                node: member.node,
                is_voter: member.voter,
                is_caught_up: is_caught_up(member, &status),
            };
            (*replica, seen)
        };
        Some(GroupMembers {
            own: status.replica,
            is_joint: status.is_joint,
            replicas: status.members.iter().map(member).collect(),
        })
    }

    fn add_learner(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        node: NodeId,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move {
            self.0
                .add_learner(shard, replica, node)
                .await
                .map_err(port_error)
        })
    }

    fn change_voters(
        &self,
        shard: ShardId,
        voters: BTreeSet<ReplicaId>,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move {
            self.0
                .change_voters(shard, voters)
                .await
                .map_err(port_error)
        })
    }

    fn transfer_leader(
        &self,
        shard: ShardId,
        to: ReplicaId,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move { self.0.transfer_leader(shard, to).await.map_err(port_error) })
    }
}

/// Connections to the other nodes.
pub(super) struct PeerForward(pub(super) Peers);

impl Forward for PeerForward {
    fn forward(
        &self,
        node: NodeId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, ForwardError>> {
        Box::pin(async move {
            let reply = self.0.forward(node, body, deadline.into()).await;
            reply.map_err(forward_error)
        })
    }

    fn forward_read(
        &self,
        node: NodeId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, ForwardError>> {
        Box::pin(async move {
            let reply = self.0.forward_read(node, body, deadline.into()).await;
            reply.map_err(forward_error)
        })
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.0.is_up(node)
    }
}

fn forward_error(error: CallError) -> ForwardError {
    match error {
        CallError::NotSent(reason) => ForwardError::NotSent(reason),
        CallError::Lost(_) => ForwardError::Lost,
    }
}

/// Founding: calls outside the links, since the nodes do not know each other yet.
pub(super) struct PeerMembers(pub(super) Dialer);

impl Members for PeerMembers {
    fn describe<'a>(
        &'a self,
        address: &'a str,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Description, PortError>> {
        Box::pin(async move {
            let asked = timeout_at(deadline.into(), async {
                let mut client = connect(&self.0, address)
                    .await
                    .map_err(|error| PortError(cause(&error)))?;
                client
                    .describe(DescribeRequest {})
                    .await
                    .map_err(|status| PortError(status.message().to_owned()))
            });
            let answer = asked
                .await
                .map_err(|_| PortError("no answer in time".to_owned()))??
                .into_inner();
            Ok(Description {
                node: answer.node.unwrap_or_default(),
                cluster_id: (!answer.cluster_id.is_empty()).then_some(answer.cluster_id),
                version: answer.version,
            })
        })
    }

    fn join<'a>(
        &'a self,
        address: &'a str,
        cluster_id: &'a str,
        replica: ReplicaId,
        replaces: Option<ReplicaId>,
        nodes: &'a [proto::log::Node],
        deadline: Instant,
    ) -> BoxFuture<'a, Result<(), PortError>> {
        let request = JoinRequest {
            cluster_id: cluster_id.to_owned(),
            replica: replica.0,
            replaces: replaces.map_or(0, |replica| replica.0),
            nodes: nodes.to_vec(),
        };
        Box::pin(async move {
            let asked = timeout_at(deadline.into(), async {
                let mut client = connect(&self.0, address)
                    .await
                    .map_err(|error| PortError(cause(&error)))?;
                client
                    .join(request)
                    .await
                    .map_err(|status| PortError(status.message().to_owned()))
            });
            asked
                .await
                .map_err(|_| PortError("no answer in time".to_owned()))??;
            Ok(())
        })
    }
}

/// What the admin port does with the replicas of this node.
pub(super) struct Control(pub(super) Host);

impl ShardControl for Control {
    fn snapshot(&self, shard: ShardId, purge: bool) -> BoxFuture<'_, Result<u64, service::Error>> {
        Box::pin(async move { self.0.snapshot(shard, purge).await.map_err(control_error) })
    }

    fn transfer(&self, shard: ShardId, to: NodeId) -> BoxFuture<'_, Result<(), service::Error>> {
        Box::pin(async move {
            let status = self
                .0
                .status(shard)
                .ok_or(raft::Error::NoGroup(shard))
                .map_err(control_error)?;
            let mut members = status.members.iter();
            let target = members
                .find(|(_, member)| member.node == to && member.voter)
                .map(|(replica, _)| *replica);
            let target = target.ok_or_else(|| {
                control_error(raft::Error::Refused(format!(
                    "node {to} holds no voting replica of shard {shard}"
                )))
            })?;
            if !self.0.is_leader(shard) {
                return Err(control_error(raft::Error::Refused(format!(
                    "this node does not lead shard {shard}"
                ))));
            }
            self.0
                .transfer_leader(shard, target)
                .await
                .map_err(control_error)
        })
    }
}

fn is_caught_up(member: &raft::MemberStatus, status: &raft::GroupStatus) -> bool {
    member
        .matched
        .is_some_and(|matched| matched + CAUGHT_UP_ENTRIES >= status.last)
}

fn to_leader(leader: raft::Leader) -> Leader {
    Leader {
        replica: leader.replica,
        node: leader.node,
        term: leader.term,
    }
}

fn propose_error(error: raft::ProposeError) -> ProposeError {
    match error {
        raft::ProposeError::NotLeader { hint } => ProposeError::NotLeader { hint },
        raft::ProposeError::NoGroup => ProposeError::NoGroup,
        raft::ProposeError::Overloaded => ProposeError::Overloaded,
        raft::ProposeError::Stopping => ProposeError::Stopping,
        raft::ProposeError::Unknown => ProposeError::Unknown,
    }
}

fn read_error(error: raft::ReadError) -> ReadError {
    match error {
        raft::ReadError::NotLeader { hint } => ReadError::NotLeader { hint },
        raft::ReadError::NoGroup => ReadError::NoGroup,
        raft::ReadError::NoQuorum => ReadError::NoQuorum,
        raft::ReadError::Overloaded => ReadError::Overloaded,
    }
}

fn port_error(error: impl std::fmt::Display) -> PortError {
    PortError(error.to_string())
}

fn control_error(error: raft::Error) -> service::Error {
    let code = match &error {
        raft::Error::NoGroup(_) | raft::Error::Refused(_) => proto::ErrorCode::BadRequest,
        raft::Error::Timeout(_) => proto::ErrorCode::OutcomeUnknown,
        raft::Error::Wire(_)
        | raft::Error::Storage(_)
        | raft::Error::Stopped { .. }
        | raft::Error::Options(_) => proto::ErrorCode::Internal,
    };
    service::Error::new(code, error.to_string())
}
