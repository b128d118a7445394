//! The cluster as the admin API shows it.

use std::collections::BTreeMap;

use proto::ShardId;
use serde::Deserialize;
use serde_json::Value;

/// `GET /admin/v1/cluster/status`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `null` before `cluster init`.
    pub cluster_id: Option<String>,
    /// `healthy`, `degraded`, `no_quorum` or `uninitialized`.
    pub health: String,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All shards, 0 being the metadata group.
    pub shards: Vec<Shard>,
    /// Id of the default database.
    #[serde(default)]
    pub database: u32,
    /// Number of document shards.
    #[serde(default)]
    pub shard_count: u32,
    /// Buckets of the default database.
    #[serde(default)]
    pub buckets: BTreeMap<String, Bucket>,
}

/// A node.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Text or number.
    pub id: Value,
    /// Whether the asked node hears from it.
    pub alive: bool,
}

/// A shard.
#[derive(Clone, Debug, Deserialize)]
pub struct Shard {
    /// Its number.
    pub shard: u32,
    /// The node that leads it.
    pub leader: Option<Value>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
}

/// A copy of a shard.
#[derive(Clone, Debug, Deserialize)]
pub struct Replica {
    /// Where it is.
    pub node: Value,
    /// `leader`, `follower` or `learner`.
    pub role: String,
}

/// A bucket.
#[derive(Clone, Debug, Deserialize)]
pub struct Bucket {
    /// Its id, never reused.
    pub id: u32,
}

impl Status {
    /// Whether all shards serve and no replica is missing.
    pub fn is_healthy(&self) -> bool {
        self.health == "healthy" && self.shards.iter().all(|shard| shard.leader.is_some())
    }

    /// The shard that a document of the default database belongs to.
    ///
    /// # Panics
    /// If there is no such bucket.
    pub fn shard_of(&self, bucket: &str, key: &str) -> ShardId {
        let id = self
            .buckets
            .get(bucket)
            .unwrap_or_else(|| panic!("no bucket {bucket} in the status"))
            .id;
        // Roles decide over rights everywhere, so they all live in one place.
        cluster::shard_map::shard_of(self.database, id, key, self.shard_count, bucket == "Role")
    }

    /// The id of the node that leads a shard.
    pub fn leader(&self, shard: ShardId) -> Option<&Value> {
        self.shards
            .iter()
            .find(|candidate| candidate.shard == shard.0)?
            .leader
            .as_ref()
    }

    /// How many shards a node leads.
    pub fn led_by(&self, node: &Value) -> usize {
        self.shards
            .iter()
            .filter(|shard| shard.leader.as_ref() == Some(node))
            .count()
    }
}
