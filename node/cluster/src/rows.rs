//! The metadata on disk: one row per entity, in the state column of the metadata group's store.
//!
//! | row | holds |
//! |---|---|
//! | `cluster` | settings, counters, secrets, and the log index of the last change of any row |
//! | `node/<id>` | a known node; the id as 16 hexadecimal digits |
//! | `shard/<number>` | the replicas of a shard; the number with 4 digits |
//! | `replacement/<number>` | whether a replica of the shard is being replaced, and how many were; absent: none ever was |
//! | `database/<id>` | a database and its buckets; the id with 10 digits |
//! | `schema/<id>` | the schema of that database |
//! | `indexes/<id>` | its indexes; absent: it never had any |
//! | `quota/<id>` | what it may take and takes; absent: nobody counts |
//! | `consumers/<id>` | its durable consumers by name; absent: it never had any |
//!
//! A value is one byte of format version, then JSON: rows are few and small, the schema needs a self-describing form, and
//! members can be added. The format version rises when old rows need more than a default for what is new.
//!
//! Beside them, under keys of their own kind and of no version: how far each consumer is, an encoded `larder.log.v1.ConsumerPosition`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use document::schema::Schema;
use prost::Message as _;
use proto::log::ConsumerPosition;
use proto::{NodeId, ReplicaId, ShardId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage::engine::Column;
use storage::keys::{ConsumerKey, KeyKind, MetadataKey};
use storage::machine::{ReplicaView, Transaction};

use crate::consumers::Consumers;
use crate::error::{Error, Result};
use crate::nodes::Node;
use crate::quotas::Quota;
use crate::replacement::Replacement;
use crate::signing_keys::{self, SigningKeyRow};
use crate::state::{Assignment, BucketInfo, ClusterState, Database, IndexInfo};

/// Format of the values that are written today.
const FORMAT: u8 = 1;

/// The row whose presence says that there is a cluster.
pub(crate) const CLUSTER: &str = "cluster";

const NODE: &str = "node/";
const SHARD: &str = "shard/";
const REPLACEMENT: &str = "replacement/";
const DATABASE: &str = "database/";
const SCHEMA: &str = "schema/";
const INDEXES: &str = "indexes/";
const QUOTA: &str = "quota/";
const CONSUMERS: &str = "consumers/";

/// See [`CLUSTER`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClusterRow {
    pub(crate) cluster_id: String,
    pub(crate) epoch: u64,
    /// Log index of the last change of any row: readers look here whether there is something to load.
    pub(crate) version: u64,
    pub(crate) shards: u32,
    pub(crate) replicas: u32,
    /// The next replica id. Those below it are never given again.
    pub(crate) next_replica: u64,
    /// The founding key, hexadecimal.
    pub(crate) signing_key: String,
    /// All keys; empty in rows of before there were several: the founding key alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) signing_keys: Vec<SigningKeyRow>,
    pub(crate) root_password_hash: String,
    pub(crate) bootstrapped: bool,
    pub(crate) demo: bool,
}

/// An assignment as a row holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AssignmentRow {
    pub(crate) replica: u64,
    pub(crate) node: u64,
}

/// Replacements of one shard's replicas. It stays when they are done: the shard's group is then older than what its assignments
/// would make of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ReplacementRow {
    /// Those that are done.
    pub(crate) done: u64,
    /// The one under way.
    pub(crate) current: Option<ReplacementNow>,
}

/// See [`crate::replacement::Replacement`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplacementNow {
    pub(crate) old: AssignmentRow,
    pub(crate) new: AssignmentRow,
}

/// A database without its schema.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DatabaseRow {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) schema_version: u64,
    pub(crate) fenced_version: u64,
    /// The next bucket id. Those below it are never given again.
    pub(crate) next_bucket: u32,
    /// All that ever were, by id.
    pub(crate) buckets: Vec<BucketInfo>,
}

/// The indexes of a database.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct IndexesRow {
    /// The last id that was given. It and those below it are never given again.
    pub(crate) last: u32,
    /// Ascending by id; those that were dropped as long as something is left of them.
    pub(crate) indexes: Vec<IndexInfo>,
    /// What the keys of hashed components are derived from, hexadecimal; empty until there is such an index, and then never another.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) secret: String,
}

pub(crate) fn node_name(node: NodeId) -> String {
    format!("{NODE}{node}")
}

pub(crate) fn shard_name(shard: ShardId) -> String {
    format!("{SHARD}{:04}", shard.0)
}

pub(crate) fn replacement_name(shard: ShardId) -> String {
    format!("{REPLACEMENT}{:04}", shard.0)
}

pub(crate) fn database_name(database: u32) -> String {
    format!("{DATABASE}{database:010}")
}

pub(crate) fn schema_name(database: u32) -> String {
    format!("{SCHEMA}{database:010}")
}

pub(crate) fn indexes_name(database: u32) -> String {
    format!("{INDEXES}{database:010}")
}

pub(crate) fn quota_name(database: u32) -> String {
    format!("{QUOTA}{database:010}")
}

pub(crate) fn consumers_name(database: u32) -> String {
    format!("{CONSUMERS}{database:010}")
}

fn key(name: &str) -> Vec<u8> {
    MetadataKey { name }.encode()
}

/// The rows as a transaction shows them.
pub(crate) struct Rows<'r, 't>(pub(crate) &'r mut Transaction<'t>);

impl Rows<'_, '_> {
    pub(crate) fn get<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        self.0
            .get(Column::State, &key(name))?
            .map(|value| decode(name, &value))
            .transpose()
    }

    pub(crate) fn put<T: Serialize>(&mut self, name: &str, row: &T) -> Result<()> {
        self.0
            .put(Column::State, &key(name), encode(name, row)?.into());
        Ok(())
    }

    pub(crate) fn position(&mut self, consumer: u64) -> Result<Option<ConsumerPosition>> {
        self.0
            .get(Column::State, &ConsumerKey { consumer }.encode())?
            .map(|row| decode_position(consumer, row))
            .transpose()
    }

    pub(crate) fn put_position(&mut self, consumer: u64, position: &ConsumerPosition) {
        let key = ConsumerKey { consumer }.encode();
        self.0
            .put(Column::State, &key, position.encode_to_vec().into());
    }

    pub(crate) fn remove_position(&mut self, consumer: u64) {
        self.0
            .delete(Column::State, &ConsumerKey { consumer }.encode());
    }
}

pub(crate) fn decode_position(consumer: u64, row: Bytes) -> Result<ConsumerPosition> {
    let name = || format!("position of consumer {consumer}");
    ConsumerPosition::decode(row).map_err(|error| bad(&name(), error))
}

/// The version of the rows in a view: 0 without a cluster.
pub(crate) fn version(view: &ReplicaView<'_>) -> Result<u64> {
    let row = view.get(Column::State, &key(CLUSTER))?;
    let row = row
        .map(|value| decode::<ClusterRow>(CLUSTER, &value))
        .transpose()?;
    Ok(row.map_or(0, |row| row.version))
}

/// All rows of a view as one state; the default one without a cluster.
pub(crate) fn load(view: &ReplicaView<'_>) -> Result<ClusterState> {
    Loaded::read(view)?.into_state()
}

/// The rows of a view, sorted by what they are.
#[derive(Default)]
struct Loaded {
    cluster: Option<ClusterRow>,
    nodes: Vec<(NodeId, Node)>,
    shards: Vec<(ShardId, Vec<AssignmentRow>)>,
    replacements: Vec<(ShardId, ReplacementRow)>,
    databases: Vec<DatabaseRow>,
    schemas: BTreeMap<u32, Schema>,
    indexes: BTreeMap<u32, Vec<IndexInfo>>,
    quotas: BTreeMap<u32, Quota>,
    consumers: BTreeMap<u32, Consumers>,
}

impl Loaded {
    fn read(view: &ReplicaView<'_>) -> Result<Self> {
        let mut loaded = Self::default();
        for row in view.scan_prefix(Column::State, &[KeyKind::Metadata as u8]) {
            let (key, value) = row?;
            loaded.add(MetadataKey::decode(&key)?.name, &value)?;
        }
        Ok(loaded)
    }

    fn add(&mut self, name: &str, value: &[u8]) -> Result<()> {
        if name == CLUSTER {
            self.cluster = Some(decode(name, value)?);
        } else if let Some(id) = name.strip_prefix(NODE) {
            self.nodes
                .push((NodeId(number(name, id, 16)?), decode(name, value)?));
        } else if let Some(shard) = name.strip_prefix(SHARD) {
            self.shards.push((
                ShardId(number(name, shard, 10)? as u32),
                decode(name, value)?,
            ));
        } else if let Some(shard) = name.strip_prefix(REPLACEMENT) {
            self.replacements.push((
                ShardId(number(name, shard, 10)? as u32),
                decode(name, value)?,
            ));
        } else if name.starts_with(DATABASE) {
            self.databases.push(decode(name, value)?);
        } else if let Some(id) = name.strip_prefix(SCHEMA) {
            self.schemas
                .insert(number(name, id, 10)? as u32, decode(name, value)?);
        } else if let Some(id) = name.strip_prefix(QUOTA) {
            self.quotas
                .insert(number(name, id, 10)? as u32, decode(name, value)?);
        } else if let Some(id) = name.strip_prefix(CONSUMERS) {
            self.consumers
                .insert(number(name, id, 10)? as u32, decode(name, value)?);
        } else if let Some(id) = name.strip_prefix(INDEXES) {
            let row: IndexesRow = decode(name, value)?;
            for index in &row.indexes {
                hex::decode(&index.compiled).map_err(|error| bad(name, error))?;
            }
            self.indexes
                .insert(number(name, id, 10)? as u32, row.indexes);
        } else {
            return Err(bad(name, "unknown kind of row"));
        }
        Ok(())
    }

    fn into_state(mut self) -> Result<ClusterState> {
        let Some(cluster) = self.cluster.take() else {
            return Ok(ClusterState::default());
        };
        let signing_keys = signing_keys::of_row(&cluster).map_err(|error| bad(CLUSTER, error))?;
        let databases = std::mem::take(&mut self.databases);
        let databases = databases
            .into_iter()
            .map(|row| self.database(row))
            .collect::<Result<_>>()?;
        let assignment = |row: AssignmentRow| Assignment {
            replica: ReplicaId(row.replica),
            node: NodeId(row.node),
        };
        let shards = self.shards.into_iter();
        let replacement = |now: ReplacementNow| Replacement {
            old: assignment(now.old),
            new: assignment(now.new),
        };
        let replacements = self.replacements.into_iter();
        Ok(ClusterState {
            cluster_id: cluster.cluster_id,
            epoch: cluster.epoch,
            version: cluster.version,
            shards: cluster.shards,
            replicas: cluster.replicas,
            nodes: self.nodes.into_iter().collect(),
            placement: shards
                .map(|(shard, list)| (shard, list.into_iter().map(assignment).collect()))
                .collect(),
            next_replica: cluster.next_replica,
            replacements: replacements
                .map(|(shard, row)| (shard, row.current.map(replacement)))
                .collect(),
            databases,
            signing_keys,
            quotas: self.quotas,
            consumers: self.consumers,
            root_password_hash: cluster.root_password_hash,
            bootstrapped: cluster.bootstrapped,
            demo: cluster.demo,
        })
    }

    /// A database under its name.
    fn database(&mut self, row: DatabaseRow) -> Result<(String, Database)> {
        let schema = self.schemas.remove(&row.id).ok_or_else(|| Error::Missing {
            name: schema_name(row.id),
        })?;
        let indexes = self.indexes.remove(&row.id).unwrap_or_default();
        let (dropped, live): (Vec<_>, Vec<_>) =
            row.buckets.into_iter().partition(|bucket| bucket.dropped);
        let database = Database {
            id: row.id,
            name: row.name.clone(),
            schema_version: row.schema_version,
            fenced_version: row.fenced_version,
            schema: Arc::new(schema),
            buckets: live
                .into_iter()
                .map(|bucket| (bucket.name.clone(), bucket))
                .collect(),
            dropped_buckets: dropped
                .into_iter()
                .map(|bucket| (bucket.id, bucket))
                .collect(),
            indexes: indexes.into_iter().map(|index| (index.id, index)).collect(),
        };
        Ok((row.name, database))
    }
}

fn encode<T: Serialize>(name: &str, row: &T) -> Result<Vec<u8>> {
    let mut value = vec![FORMAT];
    serde_json::to_writer(&mut value, row).map_err(|error| bad(name, error))?;
    Ok(value)
}

fn decode<T: DeserializeOwned>(name: &str, value: &[u8]) -> Result<T> {
    match value.split_first() {
        Some((&FORMAT, json)) => serde_json::from_slice(json).map_err(|error| bad(name, error)),
        Some((format, _)) => Err(bad(name, format!("unknown format {format}"))),
        None => Err(bad(name, "empty")),
    }
}

fn number(name: &str, digits: &str, radix: u32) -> Result<u64> {
    u64::from_str_radix(digits, radix).map_err(|error| bad(name, error))
}

fn bad(name: &str, reason: impl ToString) -> Error {
    Error::Row {
        name: name.to_owned(),
        reason: reason.to_string(),
    }
}
