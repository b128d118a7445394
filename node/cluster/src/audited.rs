//! What the metadata group writes into its own audit log: commands that change who may do what, or what there is.
//!
//! A record is made of the command and of who it is attributed to, in the same batch as its effect; a command that was refused or changed
//! nothing leaves none. The heads of all other chains are written down here, too: each as a record, so that they are as hard to change.

use proto::log::meta_command::Operation;
use proto::log::{AnchorAudit, AuditNote};
use storage::audit::Record;
use storage::machine::Transaction;
use storage::tables::audit;

use crate::error::Result;

/// Chains whose heads one command writes down, at most.
pub const ANCHORS_MAX: usize = 2_048;

/// What a command is in the log; `None`: it is of no interest there.
pub(crate) fn describe(operation: &Operation) -> Option<Record> {
    let record = |action: &str, target: String, detail: String| Record {
        action: action.to_owned(),
        target,
        detail,
        count: 1,
        ..Record::default()
    };
    let of = |database: u32, record: Record| Record {
        database: database.to_string(),
        ..record
    };
    Some(match operation {
        Operation::InitCluster(init) => record(
            "cluster_founded",
            init.cluster_id.clone(),
            format!("{} shards, {} nodes", init.shards, init.nodes.len()),
        ),
        Operation::AnnounceNode(announced) => {
            let node = announced.node.clone().unwrap_or_default();
            let detail = format!("{} at {}", node.name, node.peer_address);
            record("node_announced", format!("{:016x}", node.id), detail)
        }
        Operation::SetSchema(set) => {
            let detail = format!("from version {}", set.expected_version);
            of(
                set.database,
                record("schema_changed", String::new(), detail),
            )
        }
        Operation::CreateIndex(index) => {
            let detail = String::from_utf8_lossy(&index.definition).into_owned();
            let target = format!("bucket {}", index.bucket);
            of(index.database, record("index_created", target, detail))
        }
        Operation::DropIndexes(index) => {
            let detail = String::from_utf8_lossy(&index.definition).into_owned();
            let target = format!("bucket {}", index.bucket);
            of(index.database, record("indexes_dropped", target, detail))
        }
        Operation::ReplaceReplica(replace) => record(
            "replica_replaced",
            format!("shard {}", replace.shard),
            format!(
                "replica {} by one on {:016x}",
                replace.old_replica, replace.node
            ),
        ),
        Operation::RotateSigningKey(rotate) => {
            let detail = match rotate.only {
                true => "older keys are forgotten: every session and token is over",
                false => "older keys go on to verify",
            };
            let target = format!("key {}", rotate.replaces);
            record("signing_key_replaced", target, detail.to_owned())
        }
        Operation::SetQuota(quota) => {
            let (documents, bytes) = (quota.documents_max, quota.bytes_max);
            let detail = format!("{documents} documents, {bytes} bytes");
            of(quota.database, record("quota_set", String::new(), detail))
        }
        Operation::CreateConsumer(consumer) => {
            let how = match consumer.url.is_empty() {
                true => "that fetches",
                false => "with a target",
            };
            let detail = format!("{how}, of bucket {:?}", consumer.bucket);
            let name = consumer.name.clone();
            of(consumer.database, record("consumer_created", name, detail))
        }
        Operation::DropConsumer(consumer) => {
            let name = consumer.name.clone();
            let dropped = record("consumer_dropped", name, String::new());
            of(consumer.database, dropped)
        }
        Operation::RunConsumer(consumer) => {
            let action = match consumer.is_running {
                true => "consumer_resumed",
                false => "consumer_paused",
            };
            let name = consumer.name.clone();
            of(consumer.database, record(action, name, String::new()))
        }
        Operation::SetCachePolicy(set) => {
            let policy = set.policy.unwrap_or_default();
            let scope = policy.scope().as_str_name().to_lowercase();
            let detail = format!("{scope}, at most {} ms", policy.ttl_max_ms);
            let target = format!("bucket {}", set.bucket);
            of(set.database, record("cache_policy_set", target, detail))
        }
        _ => return None,
    })
}

/// What somebody only wants written down.
pub(crate) fn note(note: AuditNote) -> Record {
    Record {
        action: note.action,
        database: note.database,
        target: note.target,
        detail: note.detail,
        count: 1,
        ..Record::default()
    }
}

/// Writes down where chains stand, and removes what is old of the own one.
pub(crate) fn anchor(tx: &mut Transaction<'_>, stamp_us: u64, command: &AnchorAudit) -> Result<()> {
    for head in command.heads.iter().take(ANCHORS_MAX) {
        let record = Record {
            time_us: stamp_us,
            action: "anchored".to_owned(),
            target: head.chain.clone(),
            detail: format!("{} {}", head.sequence, hex::encode(&head.hash)),
            count: 1,
            ..Record::default()
        };
        audit::append(tx, record)?;
    }
    Ok(audit::expire(
        tx,
        stamp_us,
        command.kept_us,
        command.bytes_max,
    )?)
}

/// The chain, place and hash that a record of [`anchor`] says; `None` for other records.
pub fn anchored(record: &Record) -> Option<(&str, u64, Vec<u8>)> {
    if record.action != "anchored" {
        return None;
    }
    let (sequence, hash) = record.detail.split_once(' ')?;
    Some((
        &record.target,
        sequence.parse().ok()?,
        hex::decode(hash).ok()?,
    ))
}
