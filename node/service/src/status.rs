//! What this node knows of the cluster: readiness, and the status that operators see.
//!
//! Everything here is local knowledge at one moment: terms and leaders as this node's replicas know them, liveness as this node hears it.

use std::collections::BTreeMap;

use cluster::clearing::Cleared;
use cluster::state::{Assignment, BucketInfo, ClusterState, DEFAULT_DATABASE};
use proto::{NodeId, ShardId};
use serde::Serialize;

use crate::Core;

/// The cluster as one node sees it; its serde form is the admin API's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// `None` before the cluster is founded.
    pub cluster_id: Option<String>,
    /// All in all.
    pub health: Health,
    /// By id.
    pub nodes: Vec<NodeStatus>,
    /// By number, the metadata group (0) first.
    pub shards: Vec<ShardStatus>,
    /// Id of the default database.
    pub database: u32,
    /// Number of document shards.
    pub shard_count: u32,
    /// Buckets of the default database by name.
    pub buckets: BTreeMap<String, BucketStatus>,
    /// Dropped buckets of all databases whose documents are being deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clearing: Vec<ClearingStatus>,
}

/// How well the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything is there.
    Healthy,
    /// It serves, but a node is missing or a replica is quarantined.
    Degraded,
    /// Some shard has no quorum or no leader.
    NoQuorum,
    /// Not founded yet.
    Uninitialized,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Hexadecimal id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Zone.
    pub zone: String,
    /// Client address.
    pub client: String,
    /// Peer address.
    pub peer: String,
    /// Whether this node heard from it lately.
    pub alive: bool,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardStatus {
    /// Number.
    pub shard: u32,
    /// Id of the leading node, as far as known.
    pub leader: Option<String>,
    /// The leader's term; `None` unless a replica here knows it.
    pub term: Option<u64>,
    /// In order of preference as leader.
    pub replicas: Vec<ReplicaStatus>,
    /// A replacement under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<ReplacementStatus>,
}

/// A replica that is being replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplacementStatus {
    /// Goes.
    pub old_replica: u64,
    /// Its node.
    pub from: String,
    /// Comes.
    pub new_replica: u64,
    /// Its node.
    pub to: String,
    /// How far it is; `None` where no replica of the shard is at hand to tell.
    pub progress: Option<&'static str>,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// Id.
    pub replica: u64,
    /// Id of its node.
    pub node: String,
    /// What it does.
    pub role: Role,
    /// Whether its node is alive.
    pub alive: bool,
    /// Whether it was found damaged: it serves nothing and does not lead.
    pub quarantined: bool,
}

/// What a replica does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Leads.
    Leader,
    /// Votes.
    Follower,
    /// Follows without a vote.
    Learner,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BucketStatus {
    /// Id.
    pub id: u32,
    /// Version of its rules.
    pub version: u64,
}

/// A dropped bucket that is being cleared away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClearingStatus {
    /// Name of the database.
    pub database: String,
    /// Name that it had.
    pub bucket: String,
    /// Id.
    pub id: u32,
    /// Shards without any of its documents.
    pub shards_cleared: usize,
}

impl Core {
    pub(crate) fn ready(&self) -> Result<(), String> {
        let state = self.metadata.current();
        if !state.is_initialized() {
            return Err("the cluster is not initialized".to_owned());
        }
        if !state.bootstrapped {
            return Err("predefined users and roles are not written yet".to_owned());
        }
        if self.evidence.declines() {
            return Err("the node is stopping, or its log disk stalls".to_owned());
        }
        if !self
            .evidence
            .is_metadata_within(self.options.limits.metadata_age_max)
        {
            return Err("the metadata of this node is not confirmed".to_owned());
        }
        for (shard, _) in state.replicas_on(self.options.node) {
            // A replica that has just been assigned comes up while the node serves; for a damaged one others answer, through this
            // node too.
            if state.replacement(shard).is_some()
                || self.groups.quarantined(shard).contains(&self.options.node)
            {
                continue;
            }
            if self.groups.replica(shard).is_none() {
                return Err(format!("the replica of shard {shard} is not open"));
            }
            if self.groups.leader(shard).is_none() {
                return Err(format!("shard {shard} has no leader"));
            }
        }
        Ok(())
    }

    pub(crate) fn cluster_status(&self) -> ClusterStatus {
        let state = self.metadata.current();
        let nodes = state.nodes.iter().map(|(id, node)| NodeStatus {
            id: id.to_string(),
            name: node.name.clone(),
            zone: node.zone.clone(),
            client: node.client_address.clone(),
            peer: node.peer_address.clone(),
            alive: self.is_alive(*id),
        });
        let shards = state
            .placement
            .keys()
            .map(|shard| self.shard_status(&state, *shard))
            .collect::<Vec<_>>();
        let database = state.database(DEFAULT_DATABASE);
        let buckets = database.into_iter().flat_map(|database| &database.buckets);
        let buckets = buckets.map(|(name, info)| {
            (
                name.clone(),
                BucketStatus {
                    id: info.id,
                    version: info.version,
                },
            )
        });
        ClusterStatus {
            cluster_id: state.is_initialized().then(|| state.cluster_id.clone()),
            health: self.health(&state),
            nodes: nodes.collect(),
            shards,
            database: database.map_or(0, |database| database.id),
            shard_count: state.shards,
            buckets: buckets.collect(),
            clearing: clearing(&state),
        }
    }

    /// Whether a node was heard from lately; the own one always was.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        node == self.options.node || self.forward.is_up(node)
    }

    fn shard_status(&self, state: &ClusterState, shard: ShardId) -> ShardStatus {
        let leader = self.router.leader(shard);
        let voters = state.voters(shard);
        let members = self.groups.members(shard);
        let joining = |replica| {
            let comes = state
                .replacement(shard)
                .is_some_and(|replacement| replacement.new.replica == replica);
            let votes = members
                .as_ref()
                .and_then(|members| members.replicas.get(&replica))
                .is_some_and(|member| member.is_voter);
            comes && !votes
        };
        let replacement = state
            .replacement(shard)
            .map(|replacement| ReplacementStatus {
                old_replica: replacement.old.replica.0,
                from: replacement.old.node.to_string(),
                new_replica: replacement.new.replica.0,
                to: replacement.new.node.to_string(),
                progress: members
                    .as_ref()
                    .map(|members| replacement.progress(members).as_str()),
            });
        let quarantined = self.groups.quarantined(shard);
        let replicas = state
            .assignments(shard)
            .iter()
            .map(|assignment| ReplicaStatus {
                replica: assignment.replica.0,
                node: assignment.node.to_string(),
                role: match () {
                    () if leader == Some(assignment.node) => Role::Leader,
                    () if joining(assignment.replica) => Role::Learner,
                    () if voters.contains(assignment) => Role::Follower,
                    () => Role::Learner,
                },
                alive: self.is_alive(assignment.node),
                quarantined: quarantined.contains(&assignment.node),
            });
        ShardStatus {
            shard: shard.0,
            leader: leader.map(|node| node.to_string()),
            term: self.groups.leader(shard).map(|leader| leader.term),
            replicas: replicas.collect(),
            replacement,
        }
    }

    /// No shard may lack a quorum of live voters, nor, where a replica here would know, a leader.
    fn health(&self, state: &ClusterState) -> Health {
        if !state.is_initialized() {
            return Health::Uninitialized;
        }
        let alive = |voters: &[Assignment]| {
            voters
                .iter()
                .filter(|voter| self.is_alive(voter.node))
                .count()
        };
        let serves = |shard: &ShardId| {
            let voters = state.voters(*shard);
            let led = self.groups.replica(*shard).is_none() || self.groups.leader(*shard).is_some();
            led && alive(voters) * 2 > voters.len()
        };
        if !state.placement.keys().all(serves) {
            return Health::NoQuorum;
        }
        let sound = |shard: &ShardId| self.groups.quarantined(*shard).is_empty();
        if state.nodes.keys().all(|node| self.is_alive(*node)) && state.placement.keys().all(sound)
        {
            Health::Healthy
        } else {
            Health::Degraded
        }
    }
}

fn clearing(state: &ClusterState) -> Vec<ClearingStatus> {
    let dropped = state.databases.values().flat_map(|database| {
        let buckets = database.dropped_buckets.values();
        buckets.map(|bucket| (database.name.clone(), bucket))
    });
    let status = |(database, bucket): (String, &BucketInfo)| match &bucket.cleared {
        Cleared::All => None,
        Cleared::Shards(shards) => Some(ClearingStatus {
            database,
            bucket: bucket.name.clone(),
            id: bucket.id,
            shards_cleared: shards.len(),
        }),
    };
    dropped.filter_map(status).collect()
}
