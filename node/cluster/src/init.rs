//! The first command of a cluster: from a list of nodes to everything that the metadata holds.

use std::collections::BTreeSet;

use document::acl::Principal;
use document::schema::Schema;
use proto::log::InitCluster;
use proto::{NodeId, ShardId};

use crate::error::Error;
use crate::index_change;
use crate::machine::{Stop, invalid};
use crate::nodes::{DEFAULT_WEIGHT, Node};
use crate::placement::{self, NodeInfo};
use crate::rows::{self, AssignmentRow, CLUSTER, ClusterRow, DatabaseRow, Rows};
use crate::schema_change;
use crate::shard_map::{self, SHARDS_MAX};
use crate::signing_keys::{SIGNING_KEY_BYTES, SigningKeyRow};
use crate::state::{DEFAULT_DATABASE, DEFAULT_DATABASE_ID};

/// The class that `demo` adds, as a client would post it: open, so that any document fits.
const DEMO_CLASS: &[u8] =
    br#"[{"class":"/db/Demo","fields":{},"metadata":{"larder.open":"true"}}]"#;

/// Writes all rows of a new cluster. The caller has seen that there is none yet.
pub(crate) fn init_cluster(
    rows: &mut Rows<'_, '_>,
    index: u64,
    stamp_us: u64,
    command: &InitCluster,
) -> Result<(), Stop> {
    let nodes = checked(command)?;
    let schema = first_schema(command.demo)?;
    let replicas = command.replicas.min(nodes.len() as u32);
    let shards = assign(&nodes, command.shards, replicas);
    let next_replica = 1 + shards.iter().map(|list| list.len() as u64).sum::<u64>();
    for (id, node) in &nodes {
        rows.put(&rows::node_name(*id), node)?;
    }
    for (shard, list) in (0..).map(ShardId).zip(&shards) {
        rows.put(&rows::shard_name(shard), list)?;
    }
    let database = DatabaseRow {
        id: DEFAULT_DATABASE_ID,
        name: DEFAULT_DATABASE.to_owned(),
        schema_version: 0,
        fenced_version: 0,
        next_bucket: 1,
        buckets: Vec::new(),
    };
    let database = schema_change::apply(&database, &Schema::default(), &schema)?;
    index_change::begin(rows, &database, &schema)?;
    rows.put(&rows::database_name(database.id), &database)?;
    rows.put(&rows::schema_name(database.id), &schema)?;
    rows.put(
        CLUSTER,
        &ClusterRow {
            cluster_id: command.cluster_id.clone(),
            epoch: 1,
            version: index,
            shards: command.shards,
            replicas,
            next_replica,
            signing_key: hex::encode(&command.signing_key),
            signing_keys: vec![SigningKeyRow {
                id: 0,
                secret: hex::encode(&command.signing_key),
                since_us: stamp_us,
                retired_us: None,
            }],
            root_password_hash: command.root_password_hash.clone(),
            bootstrapped: false,
            demo: command.demo,
        },
    )?;
    Ok(())
}

/// The nodes of a command that makes sense, in its order.
fn checked(command: &InitCluster) -> Result<Vec<(NodeId, Node)>, Stop> {
    if command.cluster_id.is_empty() {
        return Err(invalid("the cluster has no id"));
    }
    if !shard_map::is_valid_count(command.shards) {
        return Err(invalid(format!(
            "{} shards: must be a power of two up to {SHARDS_MAX}",
            command.shards
        )));
    }
    if command.replicas == 0 {
        return Err(invalid("0 replicas: must be at least 1"));
    }
    if command.signing_key.len() != SIGNING_KEY_BYTES {
        return Err(invalid(format!(
            "signing key of {} bytes, must be {SIGNING_KEY_BYTES}",
            command.signing_key.len()
        )));
    }
    if command.nodes.is_empty() {
        return Err(invalid("no nodes"));
    }
    let nodes = command
        .nodes
        .iter()
        .map(|node| Node::from_command(node, DEFAULT_WEIGHT).map_err(invalid));
    let nodes = nodes.collect::<Result<Vec<_>, Stop>>()?;
    let mut ids = BTreeSet::new();
    match nodes.iter().find(|(id, _)| !ids.insert(*id)) {
        Some((id, _)) => Err(invalid(format!("node {id} occurs twice"))),
        None => Ok(nodes),
    }
}

/// The replicas of all shards from 0 up. The metadata group's are 1, 2, … in the order of the command, since its
/// initiator had to name them before there was anybody to ask; all others follow, shard by shard.
fn assign(nodes: &[(NodeId, Node)], shards: u32, replicas: u32) -> Vec<Vec<AssignmentRow>> {
    let infos: Vec<NodeInfo> = nodes
        .iter()
        .map(|(id, node)| node.placement_info(*id))
        .collect();
    let metadata = nodes.iter().map(|(id, _)| *id).collect();
    let mut next = 1..;
    let mut assign = |node: NodeId| {
        next.next().map(|replica| AssignmentRow {
            replica,
            node: node.0,
        })
    };
    let lists = std::iter::once(metadata).chain(placement::place(&infos, shards, replicas));
    lists
        .map(|list: Vec<NodeId>| list.into_iter().filter_map(&mut assign).collect())
        .collect()
}

/// The system classes, and `Demo` with `demo`.
fn first_schema(demo: bool) -> Result<Schema, Error> {
    let system = Schema::system();
    if !demo {
        return Ok(system);
    }
    let failed = |error: document::Error| Error::Command(format!("demo class: {error}"));
    let change = Schema::parse_changes(DEMO_CLASS).map_err(failed)?;
    system
        .merge(&change, &Principal::root())
        .map_err(|error| failed(error.into()))
}
