//! The cluster metadata as one immutable value: what routing, schema and rights are answered from.
//!
//! A node holds the newest one behind an `Arc` ([`crate::publish::StateHandle`]); a request takes it once and keeps it, so
//! that it never sees two versions.
//!
//! Invariants of an initialized state:
//! - the shards 0 to [`ClusterState::shards`] have assignments, each to known nodes, never two to one node;
//! - no replica id occurs twice, in any shard, now or ever;
//! - at most one replica of a shard is being replaced, in shard 0 only by one on the same node;
//! - no bucket id of a database occurs twice, now or ever; bucket names are unique among those that are not dropped;
//! - `fenced_version` ≤ `schema_version`, and no bucket has a version above it;
//! - no index id of a database occurs twice, now or ever; each index belongs to a bucket, which is live if the index is kept up.
//!
//! Lacks: what is true only here and now, such as leaders and liveness.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use document::schema::Schema;
use proto::{NodeId, ReplicaId, ShardId};
use serde::{Deserialize, Serialize};

use crate::caching::{self, CachePolicy};
use crate::clearing::Cleared;
use crate::consumers::Consumers;
use crate::nodes::Node;
use crate::quotas::Quota;
use crate::replacement::Replacement;
use crate::shard_map;
use crate::signing_keys::SigningKeys;

/// Voters of the metadata group: two may fail, and more would slow each commit down. All other nodes are learners.
pub const METADATA_VOTERS_MAX: usize = 5;

/// Name of the default database: what a path without a database means.
pub const DEFAULT_DATABASE: &str = "v1";

/// Id of the default database.
pub const DEFAULT_DATABASE_ID: u32 = 1;

/// Indexes of one bucket: each write keeps all of them up.
pub const INDEXES_MAX: usize = 64;

/// Buckets whose documents lie in one shard per database, since every node follows them.
const FIXED_BUCKETS: [&str; 1] = ["Role"];

/// The metadata as of one applied entry. The default is the state before `InitCluster`.
#[derive(Clone, Default)]
pub struct ClusterState {
    /// Names the cluster for ever; empty before it exists.
    pub cluster_id: String,
    /// Incarnation of the data, from 1; raised only by restore and unsafe recovery.
    pub epoch: u64,
    /// Log index of the entry that made this state. Rises with every change, and with nothing else.
    pub version: u64,
    /// Number of document shards.
    pub shards: u32,
    /// Replicas of each document shard.
    pub replicas: u32,
    /// All known nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Who holds which replica, shard 0 included. The first replica of a document shard should lead it.
    pub placement: BTreeMap<ShardId, Vec<Assignment>>,
    /// The next replica id: those below it were given out.
    pub next_replica: u64,
    /// Shards of which a replica is being replaced, or was: then without a value.
    pub replacements: BTreeMap<ShardId, Option<Replacement>>,
    /// By name.
    pub databases: BTreeMap<String, Database>,
    /// Keys that tokens are signed with.
    pub signing_keys: SigningKeys,
    /// What databases may take, by their ids; of those that nobody limited there is none.
    pub quotas: BTreeMap<u32, Quota>,
    /// Durable consumers, by the ids of their databases; their positions are apart.
    pub consumers: BTreeMap<u32, Consumers>,
    /// Hash of root's password, PHC string.
    pub root_password_hash: String,
    /// Whether predefined users and roles are written.
    pub bootstrapped: bool,
    /// Whether it was made for trying things out.
    pub demo: bool,
}

/// One replica of a shard and the node that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assignment {
    /// The replica.
    pub replica: ReplicaId,
    /// Its node.
    pub node: NodeId,
}

/// A database (tenant): its schema and its buckets.
#[derive(Clone, Debug)]
pub struct Database {
    /// Never reused.
    pub id: u32,
    /// The first path segment of its URLs.
    pub name: String,
    /// Version of `schema`, from 1.
    pub schema_version: u64,
    /// The schema version that every shard has applied. Below `schema_version` a change is pending.
    pub fenced_version: u64,
    /// The classes.
    pub schema: Arc<Schema>,
    /// By name, without dropped ones. Embedded classes have none.
    pub buckets: BTreeMap<String, BucketInfo>,
    /// Dropped buckets by id. A class of the same name that came later has a bucket of its own.
    pub dropped_buckets: BTreeMap<u32, BucketInfo>,
    /// Indexes by id, failed and dropped ones included as long as something is left of them.
    pub indexes: BTreeMap<u32, IndexInfo>,
}

/// An index of a bucket.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexInfo {
    /// Never reused within its database.
    pub id: u32,
    /// Id of its bucket.
    pub bucket: u32,
    /// The definition as clients see it, normalised JSON ([`document::index::Definition`]).
    pub definition: String,
    /// Whether it is unique.
    pub unique: bool,
    /// The compiled definition, hexadecimal ([`document::index::Index::to_bytes`]). Of hashed components it has the keys.
    pub compiled: String,
    /// How far it is.
    pub state: IndexState,
    /// Why it failed; else empty.
    pub reason: String,
}

/// How far an index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IndexState {
    /// Writes keep it up; documents of before are being added.
    Building,
    /// Complete on all shards.
    Ready,
    /// Given up: kept up no more.
    Failed,
    /// Dropped; what is left of it is being deleted.
    Dropped,
}

/// Without the compiled definition: that of hashed components has their keys.
impl fmt::Debug for IndexInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexInfo")
            .field("id", &self.id)
            .field("bucket", &self.bucket)
            .field("definition", &self.definition)
            .field("state", &self.state)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl IndexInfo {
    /// The compiled definition.
    pub fn compiled_bytes(&self) -> Vec<u8> {
        // That it decodes was seen when the row was read.
        hex::decode(&self.compiled).unwrap_or_default()
    }
}

impl IndexState {
    /// The name in answers to clients.
    pub fn name(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }

    /// Whether writes keep it up.
    pub fn is_kept_up(self) -> bool {
        matches!(self, Self::Building | Self::Ready)
    }
}

/// A bucket as the shards know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketInfo {
    /// Never reused within its database.
    pub id: u32,
    /// The schema version that last changed what apply or validation needs to know of it.
    pub version: u64,
    /// Bare class name.
    pub name: String,
    /// Whether its class is gone.
    pub dropped: bool,
    /// How far its documents are deleted, once it is.
    #[serde(default, skip_serializing_if = "Cleared::is_none")]
    pub cleared: Cleared,
    /// How long web caches may keep its documents; `None`: nobody ever said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CachePolicy>,
}

/// Without the secrets.
impl fmt::Debug for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterState")
            .field("cluster_id", &self.cluster_id)
            .field("epoch", &self.epoch)
            .field("version", &self.version)
            .field("shards", &self.shards)
            .field("replicas", &self.replicas)
            .field("nodes", &self.nodes)
            .field("placement", &self.placement)
            .field("replacements", &self.replacements)
            .field("databases", &self.databases)
            .field("quotas", &self.quotas)
            .field("consumers", &self.consumers)
            .field("bootstrapped", &self.bootstrapped)
            .field("demo", &self.demo)
            .finish_non_exhaustive()
    }
}

impl ClusterState {
    /// Whether there is a cluster.
    pub fn is_initialized(&self) -> bool {
        !self.cluster_id.is_empty()
    }

    /// The database of this name; the default one for `""` and for [`DEFAULT_DATABASE`].
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases.get(if name.is_empty() {
            DEFAULT_DATABASE
        } else {
            name
        })
    }

    /// The replicas of a shard; none for an unknown one. Index 0 is the preferred leader.
    pub fn assignments(&self, shard: ShardId) -> &[Assignment] {
        self.placement.get(&shard).map_or(&[], Vec::as_slice)
    }

    /// Those replicas of a shard that vote: all, but in the metadata group only the first [`METADATA_VOTERS_MAX`].
    pub fn voters(&self, shard: ShardId) -> &[Assignment] {
        let all = self.assignments(shard);
        if shard.is_meta() {
            &all[..all.len().min(METADATA_VOTERS_MAX)]
        } else {
            all
        }
    }

    /// All replicas that a node should hold, by shard.
    pub fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = (ShardId, ReplicaId)> {
        let holds = move |assignment: &&Assignment| assignment.node == node;
        self.placement
            .iter()
            .filter_map(move |(shard, list)| Some((*shard, list.iter().find(holds)?.replica)))
    }

    /// The node that holds a replica; `None` if the replica is not, or no longer, one of the shard's.
    pub fn replica_node(&self, shard: ShardId, replica: ReplicaId) -> Option<NodeId> {
        self.assignments(shard)
            .iter()
            .find(|assignment| assignment.replica == replica)
            .map(|assignment| assignment.node)
    }

    /// The replacement under way in a shard.
    pub fn replacement(&self, shard: ShardId) -> Option<&Replacement> {
        self.replacements.get(&shard)?.as_ref()
    }

    /// Whether the shard's group was, or will be, made of exactly its assignments. Once a replica was replaced, the group knows its
    /// members itself, and a new replica that began with the assignments would be a second group.
    pub fn is_founding(&self, shard: ShardId) -> bool {
        !self.replacements.contains_key(&shard)
    }

    /// Whether a replica belongs to its shard no more: it was given out, and is neither assigned nor being replaced. For ever, since no
    /// id is given twice.
    pub fn is_retired(&self, shard: ShardId, replica: ReplicaId) -> bool {
        let leaving = self
            .replacement(shard)
            .is_some_and(|replacement| replacement.old.replica == replica);
        self.is_initialized()
            && replica.0 < self.next_replica
            && !leaving
            && self.replica_node(shard, replica).is_none()
    }

    /// The replica that should lead the shard while its node is well.
    pub fn preferred_leader(&self, shard: ShardId) -> Option<ReplicaId> {
        self.assignments(shard)
            .first()
            .map(|assignment| assignment.replica)
    }

    /// The shard of a document.
    pub fn shard_of(&self, database: &Database, bucket: &BucketInfo, key: &str) -> ShardId {
        let fixed = FIXED_BUCKETS.contains(&bucket.name.as_str());
        shard_map::shard_of(database.id, bucket.id, key, self.shards, fixed)
    }

    /// See [`Database::pending_buckets`].
    pub fn pending_buckets(&self, database: &Database) -> Vec<proto::log::Bucket> {
        database.pending_buckets()
    }
}

impl Database {
    /// Whether some shard may not know the newest schema yet.
    pub fn is_pending(&self) -> bool {
        self.fenced_version < self.schema_version
    }

    /// What `SetBuckets` has to tell every shard before `schema_version` is fenced: all buckets by id, also dropped ones.
    /// Telling a shard twice changes nothing there.
    pub fn pending_buckets(&self) -> Vec<proto::log::Bucket> {
        let mut buckets: Vec<&BucketInfo> = self
            .buckets
            .values()
            .chain(self.dropped_buckets.values())
            .collect();
        buckets.sort_by_key(|bucket| bucket.id);
        let to_command = |bucket: &BucketInfo| proto::log::Bucket {
            database: self.id,
            bucket: bucket.id,
            version: bucket.version,
            name: bucket.name.clone(),
            dropped: bucket.dropped,
            indexes: self
                .indexes_of(bucket.id)
                .filter(|index| index.state.is_kept_up())
                .map(|index| proto::log::Index {
                    id: index.id,
                    definition: index.compiled_bytes().into(),
                })
                .collect(),
            cache: bucket.cache.map(CachePolicy::to_log),
            readers: match bucket.cache {
                Some(_) => caching::readers(&self.schema, &bucket.name),
                None => 0,
            },
        };
        buckets.into_iter().map(to_command).collect()
    }

    /// The indexes of a bucket, ascending by id, in any state.
    pub fn indexes_of(&self, bucket: u32) -> impl Iterator<Item = &IndexInfo> {
        self.indexes
            .values()
            .filter(move |index| index.bucket == bucket)
    }
}
