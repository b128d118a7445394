//! Replacing one replica of a shard by a fresh one: what an operator may ask for, and what it is told (design, section 4).
//!
//! Only the intent is decided here, in one metadata command. The steps that follow from it are `jobs/replace.rs`.

use std::time::Instant;

use bytes::Bytes;
use cluster::state::{Assignment, ClusterState};
use cluster::{MetaOutcome, Replacement};
use document::acl::Principal;
use prost::Message as _;
use proto::log::{ConfirmReplaced, MetaCommand, ReplaceReplica, meta_command};
use proto::{NodeId, ReplicaId, ShardId};

use crate::Core;
use crate::error::{Error, Result};
use crate::forward::{Answer, Failure, Operation, Request};
use crate::leader::Shards;
use crate::schema::meta_rejected;

/// What is to be replaced by what.
#[derive(Clone, Copy, Debug)]
pub struct ReplaceRequest {
    /// Whose replica.
    pub shard: ShardId,
    /// Gets the new replica. If it holds one already, that one is replaced, as after a loss of its data.
    pub to: NodeId,
    /// Loses its replica; `None`: one that is down, else the one that holds most replicas of all shards.
    pub from: Option<NodeId>,
    /// When to give up.
    pub deadline: Instant,
}

/// A replacement that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplaceOutcome {
    /// Goes.
    pub old: Assignment,
    /// Comes.
    pub new: Assignment,
    /// Whether this call began it.
    pub begun: bool,
}

impl Shards {
    /// Proposes the beginning or the end of a replacement, on the metadata leader. Repeating it changes nothing.
    pub(crate) async fn change_replicas(
        &self,
        command: &Bytes,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        use meta_command::Operation as Meta;
        let command = MetaCommand::decode(command.clone()).ok();
        let Some(operation @ (Meta::ReplaceReplica(_) | Meta::ConfirmReplaced(_))) =
            command.and_then(|command| command.operation)
        else {
            return Err(Error::bad_request("malformed replacement").into());
        };
        match self.propose_meta(operation, deadline).await? {
            MetaOutcome::Done => Ok(Answer::Done(true)),
            MetaOutcome::Rejected(rejection) => Err(meta_rejected(&rejection).into()),
        }
    }
}

impl Core {
    pub(crate) async fn replace_replica(&self, request: ReplaceRequest) -> Result<ReplaceOutcome> {
        let ReplaceRequest {
            shard,
            to,
            from,
            deadline,
        } = request;
        let founded = self.metadata.founded()?;
        let state = self.current_metadata(&founded, deadline).await?;
        self.check_target(&state, shard, to)?;
        if let Some(under_way) = state.replacement(shard) {
            return same(&state, shard, *under_way, to, from);
        }
        let old = self.choose_old(&state, shard, to, from)?;
        self.check_quorum(&state, shard, old, to)?;
        let replace = ReplaceReplica {
            shard: shard.0,
            old_replica: old.replica.0,
            node: to.0,
        };
        self.propose_replicas(meta_command::Operation::ReplaceReplica(replace), deadline)
            .await?;
        let state = self.current_metadata(&state, deadline).await?;
        let new = state
            .assignments(shard)
            .iter()
            .find(|assignment| assignment.node == to);
        let new =
            new.ok_or_else(|| Error::unavailable("the replacement was overtaken by another"))?;
        Ok(ReplaceOutcome {
            old,
            new: *new,
            begun: true,
        })
    }

    /// Tells the metadata that a shard's group does without the old replica.
    pub(crate) async fn confirm_replaced(
        &self,
        shard: ShardId,
        old: ReplicaId,
        deadline: Instant,
    ) -> Result<()> {
        let confirm = ConfirmReplaced {
            shard: shard.0,
            old_replica: old.0,
        };
        self.propose_replicas(meta_command::Operation::ConfirmReplaced(confirm), deadline)
            .await
    }

    pub(crate) async fn retired(
        &self,
        replicas: &[(ShardId, ReplicaId)],
        deadline: Instant,
    ) -> Result<Vec<(ShardId, ReplicaId)>> {
        let founded = self.metadata.founded()?;
        let state = self.current_metadata(&founded, deadline).await?;
        let retired = replicas.iter().copied();
        Ok(retired
            .filter(|(shard, replica)| state.is_retired(*shard, *replica))
            .collect())
    }

    async fn propose_replicas(
        &self,
        operation: meta_command::Operation,
        deadline: Instant,
    ) -> Result<()> {
        let command = MetaCommand {
            stamp_us: 0,
            operation: Some(operation),
        };
        let request = Request {
            shard: ShardId::META,
            principal: Principal::root(),
            idempotency_key: None,
            metadata_version: 0,
            near: None,
            operation: Operation::Replicas(command.encode_to_vec().into()),
        };
        let state = self.metadata.founded()?;
        self.route(&state, &request, deadline).await.map(|_| ())
    }

    fn check_target(&self, state: &ClusterState, shard: ShardId, to: NodeId) -> Result<()> {
        if state.assignments(shard).is_empty() {
            let last = state.shards;
            return Err(Error::bad_request(format!(
                "there is no shard {shard}: shards are numbered from 0 (the metadata) to {last}"
            )));
        }
        if !state.nodes.contains_key(&to) {
            return Err(Error::bad_request(format!(
                "the cluster knows no node {to}"
            )));
        }
        let votes = |shard| {
            let mut voters = state.voters(shard).iter();
            voters.any(|voter| voter.node == to)
        };
        if shard.is_meta() && !votes(shard) {
            return Err(Error::bad_request(format!(
                "{} follows the metadata without a vote: such a replica cannot be renewed yet",
                name(state, to)
            )));
        }
        if !self.is_alive(to) {
            return Err(Error::unavailable(format!(
                "{} is down: start it, or choose another node",
                name(state, to)
            )));
        }
        Ok(())
    }

    /// Which replica goes.
    fn choose_old(
        &self,
        state: &ClusterState,
        shard: ShardId,
        to: NodeId,
        from: Option<NodeId>,
    ) -> Result<Assignment> {
        let holders = state.assignments(shard);
        let on = |node: NodeId| holders.iter().find(|holder| holder.node == node).copied();
        match (on(to), from) {
            (Some(own), None) => Ok(own),
            (Some(own), Some(from)) if from == to => Ok(own),
            (Some(_), Some(_)) if shard.is_meta() => Err(Error::bad_request(
                "every node holds a replica of the metadata (shard 0): leave out --from to renew the one of the node",
            )),
            (Some(_), Some(_)) => Err(Error::bad_request(format!(
                "{} holds a replica of shard {shard} already: choose a node without one, or leave out --from to renew that one",
                name(state, to)
            ))),
            (None, Some(from)) => on(from).ok_or_else(|| {
                let names: Vec<_> = holders
                    .iter()
                    .map(|holder| name(state, holder.node))
                    .collect();
                Error::bad_request(format!(
                    "{} holds no replica of shard {shard}; {} do",
                    name(state, from),
                    names.join(", ")
                ))
            }),
            (None, None) => {
                let load = |node: NodeId| state.replicas_on(node).count();
                let worst = holders.iter().max_by_key(|holder| {
                    (!self.is_alive(holder.node), load(holder.node), holder.node)
                });
                worst
                    .copied()
                    .ok_or_else(|| Error::bad_request(format!("there is no shard {shard}")))
            }
        }
    }

    /// Both sets of voters, with the old replica and with the new one, must be able to decide.
    fn check_quorum(
        &self,
        state: &ClusterState,
        shard: ShardId,
        old: Assignment,
        to: NodeId,
    ) -> Result<()> {
        let voters = state.voters(shard);
        let needed = voters.len() / 2 + 1;
        let others = voters
            .iter()
            .filter(|voter| **voter != old && self.is_alive(voter.node))
            .count();
        // A replica that is renewed in its place stops at once.
        let before = others + usize::from(old.node != to && self.is_alive(old.node));
        let after = others + 1;
        if before.min(after) >= needed {
            return Ok(());
        }
        let count = voters.len();
        Err(Error::unavailable(format!(
            "not enough nodes are up: shard {shard} needs {needed} of its {count} voters while {} is replaced, and has {}",
            name(state, old.node),
            before.min(after)
        )))
    }
}

/// A request for what is under way is answered with that; any other has to wait.
fn same(
    state: &ClusterState,
    shard: ShardId,
    under_way: Replacement,
    to: NodeId,
    from: Option<NodeId>,
) -> Result<ReplaceOutcome> {
    let Replacement { old, new } = under_way;
    if new.node == to && from.is_none_or(|from| from == old.node) {
        return Ok(ReplaceOutcome {
            old,
            new,
            begun: false,
        });
    }
    Err(Error::bad_request(format!(
        "in shard {shard} the replica on {} is being replaced by one on {}: one at a time, see `larder shard status {shard}`",
        name(state, old.node),
        name(state, new.node)
    )))
}

fn name(state: &ClusterState, node: NodeId) -> String {
    state.nodes.get(&node).map_or_else(
        || format!("node {node}"),
        |known| format!("node {} ({node})", known.name),
    )
}
