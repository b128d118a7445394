//! The cluster metadata as a state machine: what the metadata group (shard 0) replicates.
//!
//! Everything is decided in apply, from rows and command alone. Ids (replicas, buckets) come from counters in the rows, so
//! that every replica of the group gives the same ones and none is given twice.
//!
//! A command either changes rows and raises the version, or changes nothing: when it was rejected, and when what it wants
//! holds already.
//!
//! Lacks: carrying anything out. Starting replicas, telling the shards of buckets and confirming it is for others.

use std::sync::Arc;

use bytes::Bytes;
use document::schema::Schema;
use prost::Message;
use proto::log::attributed::What;
use proto::log::meta_command::Operation;
use proto::log::{
    AnnounceNode, Attributed, ConfirmFence, ConfirmReplaced, MetaCommand, ReplaceReplica, SetSchema,
};
use proto::{NodeId, ShardId};
use storage::LogId;
use storage::audit::Record;
use storage::machine::{Machine, ReplicaView, Transaction};

use crate::audited;
use crate::caching;
use crate::clearing;
use crate::consumers;
use crate::error::{Error, Result};
use crate::index_change;
use crate::init;
use crate::nodes::{DEFAULT_WEIGHT, Node};
use crate::outcome::{MetaOutcome, MetaRejection};
pub use crate::publish::StateHandle;
use crate::quotas;
use crate::rows::{
    self, AssignmentRow, CLUSTER, ClusterRow, DatabaseRow, ReplacementNow, ReplacementRow, Rows,
};
use crate::schema_change;
use crate::signing_keys;
use crate::state::METADATA_VOTERS_MAX;

/// The machine of the metadata group, and the handle through which this node follows it.
#[derive(Debug, Default)]
pub struct ClusterMachine {
    handle: StateHandle,
}

impl ClusterMachine {
    /// A machine that has published nothing yet. Opening a replica with it publishes what is stored.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Where the newest state is found.
    pub fn handle(&self) -> StateHandle {
        self.handle.clone()
    }
}

impl Machine for ClusterMachine {
    fn apply(
        &self,
        tx: &mut Transaction<'_>,
        id: LogId,
        command: &Bytes,
    ) -> storage::Result<Bytes> {
        Ok(apply(tx, id.index, command)?.encode())
    }

    /// Publishes what is stored, if it is newer than what is published: a replica that was renewed begins with nothing, and until it has
    /// caught up the node goes on with what it knew.
    fn applied(&self, view: &ReplicaView<'_>) -> storage::Result<()> {
        if rows::version(view)? > self.handle.current().version {
            self.handle.publish(rows::load(view)?);
        }
        Ok(())
    }
}

fn apply(tx: &mut Transaction<'_>, index: u64, command: &[u8]) -> Result<MetaOutcome> {
    let command =
        MetaCommand::decode(command).map_err(|error| Error::Command(error.to_string()))?;
    let operation = command
        .operation
        .ok_or_else(|| Error::Command("no operation that this release knows".to_owned()))?;
    let savepoint = tx.savepoint();
    match carry_out(tx, index, command.stamp_us, operation) {
        Ok(()) => Ok(MetaOutcome::Done),
        Err(Stop::Rejected(rejection)) => {
            tx.rollback(savepoint);
            Ok(MetaOutcome::Rejected(rejection))
        }
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Why a command was not carried out.
pub(crate) enum Stop {
    /// Is the reply; nothing is changed.
    Rejected(MetaRejection),
    /// Stops the group.
    Failed(Error),
}

impl From<MetaRejection> for Stop {
    fn from(rejection: MetaRejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(crate) fn invalid(reason: impl Into<String>) -> Stop {
    Stop::Rejected(MetaRejection::Invalid(reason.into()))
}

/// Runs a command, and writes what it changed into the audit log.
fn carry_out(
    tx: &mut Transaction<'_>,
    index: u64,
    stamp_us: u64,
    operation: Operation,
) -> Result<(), Stop> {
    let (user, operation) = match operation {
        Operation::Attributed(Attributed { user, what }) => match what {
            Some(What::Note(note)) => {
                append(tx, stamp_us, user, audited::note(note))?;
                return Ok(());
            }
            Some(What::Command(command)) => (user, attributed(&command)?),
            None => return Err(invalid("nothing is attributed")),
        },
        Operation::AnchorAudit(command) => return Ok(audited::anchor(tx, stamp_us, &command)?),
        operation => (String::new(), operation),
    };
    let record = audited::describe(&operation);
    let is_changed = run(&mut Rows(tx), index, stamp_us, operation)?;
    if let Some(record) = record.filter(|_| is_changed) {
        append(tx, stamp_us, user, record)?;
    }
    Ok(())
}

/// The command that somebody is named for.
fn attributed(command: &[u8]) -> Result<Operation, Stop> {
    let command =
        MetaCommand::decode(command).map_err(|error| Error::Command(error.to_string()))?;
    match command.operation {
        Some(Operation::Attributed(_) | Operation::AnchorAudit(_)) => {
            Err(invalid("a command that nobody is named for"))
        }
        Some(operation) => Ok(operation),
        None => Err(Error::Command("no operation that this release knows".to_owned()).into()),
    }
}

fn append(tx: &mut Transaction<'_>, time_us: u64, user: String, record: Record) -> Result<()> {
    let record = Record {
        time_us,
        user,
        ..record
    };
    Ok(storage::tables::audit::append(tx, record)?)
}

/// Runs a command; says whether it changed anything.
fn run(
    rows: &mut Rows<'_, '_>,
    index: u64,
    stamp_us: u64,
    operation: Operation,
) -> Result<bool, Stop> {
    let cluster = rows.get::<ClusterRow>(CLUSTER)?;
    if let Operation::InitCluster(command) = operation {
        return match cluster {
            Some(_) => Err(MetaRejection::AlreadyInitialized.into()),
            None => init::init_cluster(rows, index, stamp_us, &command).map(|()| true),
        };
    }
    let mut cluster = cluster.ok_or(MetaRejection::NotInitialized)?;
    let changed = match operation {
        // Carried out above, or attributed to nobody.
        Operation::InitCluster(_) | Operation::AnchorAudit(_) | Operation::Attributed(_) => false,
        Operation::SetQuota(command) => quotas::set(rows, &command)?,
        Operation::CreateConsumer(command) => {
            consumers::create(rows, &cluster, index, stamp_us, &command)?
        }
        Operation::DropConsumer(command) => consumers::drop(rows, &command)?,
        Operation::RunConsumer(command) => consumers::run(rows, &command)?,
        Operation::AckConsumers(command) => {
            consumers::acknowledge(rows, &cluster, stamp_us, &command)?;
            false
        }
        Operation::SetCachePolicy(command) => caching::set(rows, &command)?,
        Operation::ReportUsage(command) => quotas::report(rows, cluster.shards, &command)?,
        Operation::AnnounceNode(command) => announce_node(rows, &command)?,
        Operation::SetSchema(command) => set_schema(rows, &command)?,
        Operation::ConfirmFence(command) => confirm_fence(rows, &command)?,
        Operation::ReplaceReplica(command) => replace_replica(rows, &mut cluster, &command)?,
        Operation::ConfirmReplaced(command) => confirm_replaced(rows, &command)?,
        Operation::CreateIndex(command) => index_change::create(rows, &command)?,
        Operation::DropIndexes(command) => index_change::drop_indexes(rows, &command)?,
        Operation::BucketCleared(command) => clearing::cleared(rows, cluster.shards, &command)?,
        Operation::SetIndexState(command) => index_change::set_state(rows, &command)?,
        Operation::RotateSigningKey(command) => {
            signing_keys::rotate(&mut cluster, stamp_us, &command)?
        }
        Operation::SetBootstrapped(_) => !std::mem::replace(&mut cluster.bootstrapped, true),
    };
    if changed {
        cluster.version = index;
        rows.put(CLUSTER, &cluster)?;
    }
    Ok(changed)
}

/// A known node says where it is now; an unknown one becomes known, without replicas.
fn announce_node(rows: &mut Rows<'_, '_>, command: &AnnounceNode) -> Result<bool, Stop> {
    let announced = command.node.as_ref().ok_or_else(|| invalid("no node"))?;
    let name = rows::node_name(NodeId(announced.id));
    let known = rows.get::<Node>(&name)?;
    let weight = known.as_ref().map_or(DEFAULT_WEIGHT, |node| node.weight);
    let (_, node) = Node::from_command(announced, weight).map_err(invalid)?;
    if known.as_ref() == Some(&node) {
        return Ok(false);
    }
    rows.put(&name, &node)?;
    Ok(true)
}

fn set_schema(rows: &mut Rows<'_, '_>, command: &SetSchema) -> Result<bool, Stop> {
    let database = database(rows, command.database)?;
    if database.schema_version != command.expected_version {
        return Err(MetaRejection::VersionConflict {
            current: database.schema_version,
        }
        .into());
    }
    let schema: Schema = serde_json::from_slice(&command.schema)
        .map_err(|error| invalid(format!("schema: {error}")))?;
    let name = rows::schema_name(database.id);
    let old: Schema = rows
        .get(&name)?
        .ok_or(Error::Missing { name: name.clone() })?;
    let mut database = schema_change::apply(&database, &old, &schema)?;
    index_change::follow_schema(rows, &mut database, &schema)?;
    rows.put(&rows::database_name(database.id), &database)?;
    rows.put(&name, &schema)?;
    Ok(true)
}

fn confirm_fence(rows: &mut Rows<'_, '_>, command: &ConfirmFence) -> Result<bool, Stop> {
    let mut database = database(rows, command.database)?;
    if command.version > database.schema_version {
        let (asked, current) = (command.version, database.schema_version);
        return Err(invalid(format!(
            "version {asked} cannot be fenced, the schema is at version {current}"
        )));
    }
    if command.version <= database.fenced_version {
        return Ok(false);
    }
    database.fenced_version = command.version;
    rows.put(&rows::database_name(database.id), &database)?;
    Ok(true)
}

/// The new replica takes the place of the old one, so voters stay voters and a preferred leader stays one. The old one is remembered
/// until [`confirm_replaced`]. Asking again for what is under way changes nothing.
fn replace_replica(
    rows: &mut Rows<'_, '_>,
    cluster: &mut ClusterRow,
    command: &ReplaceReplica,
) -> Result<bool, Stop> {
    let shard = ShardId(command.shard);
    let name = rows::shard_name(shard);
    let mut replicas: Vec<AssignmentRow> = rows
        .get(&name)?
        .ok_or_else(|| invalid(format!("no shard {}", command.shard)))?;
    let node = NodeId(command.node);
    if rows.get::<Node>(&rows::node_name(node))?.is_none() {
        return Err(invalid(format!("no node {node}")));
    }
    let replacement_name = rows::replacement_name(shard);
    let mut replacement: ReplacementRow = rows.get(&replacement_name)?.unwrap_or_default();
    if let Some(now) = replacement.current {
        if now.old.replica == command.old_replica && now.new.node == command.node {
            return Ok(false);
        }
        let (old, new) = (now.old.replica, now.new.replica);
        return Err(invalid(format!(
            "replica {old} of shard {shard} is being replaced by {new}, one at a time"
        )));
    }
    let is_old = |row: &AssignmentRow| row.replica == command.old_replica;
    let Some(at) = replicas.iter().position(is_old) else {
        let replica = command.old_replica;
        return Err(invalid(format!("no replica {replica} in shard {shard}")));
    };
    if shard.is_meta() && at >= METADATA_VOTERS_MAX {
        let replica = command.old_replica;
        return Err(invalid(format!(
            "replica {replica} of the metadata group does not vote: such a one cannot be renewed yet"
        )));
    }
    if replicas
        .iter()
        .any(|row| row.node == node.0 && !is_old(row))
    {
        return Err(invalid(format!(
            "node {node} holds another replica of shard {shard}"
        )));
    }
    if shard.is_meta() && replicas[at].node != node.0 {
        return Err(invalid(
            "a replica of the metadata group is only renewed in its place",
        ));
    }
    let now = ReplacementNow {
        old: replicas[at],
        new: AssignmentRow {
            replica: cluster.next_replica,
            node: node.0,
        },
    };
    replicas[at] = now.new;
    replacement.current = Some(now);
    cluster.next_replica = cluster
        .next_replica
        .checked_add(1)
        .ok_or(Error::Exhausted("replica ids"))?;
    rows.put(&name, &replicas)?;
    rows.put(&replacement_name, &replacement)?;
    Ok(true)
}

/// The shard's group has gone over to the new replica: the old one is retired.
fn confirm_replaced(rows: &mut Rows<'_, '_>, command: &ConfirmReplaced) -> Result<bool, Stop> {
    let name = rows::replacement_name(ShardId(command.shard));
    let mut replacement: ReplacementRow = rows.get(&name)?.unwrap_or_default();
    match replacement.current {
        Some(now) if now.old.replica == command.old_replica => {
            replacement.current = None;
            replacement.done += 1;
            rows.put(&name, &replacement)?;
            Ok(true)
        }
        Some(_) | None => Ok(false),
    }
}

pub(crate) fn database(rows: &mut Rows<'_, '_>, id: u32) -> Result<DatabaseRow, Stop> {
    rows.get(&rows::database_name(id))?
        .ok_or_else(|| invalid(format!("no database {id}")))
}

#[cfg(test)]
mod tests;
