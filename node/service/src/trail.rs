//! The audit logs of shards: reading them from anywhere, writing down where they stand, and notes of what only one node knows.

use std::time::Instant;

use bytes::Bytes;
use document::acl::Principal;
use futures::future::try_join_all;
use proto::ShardId;
use proto::log::attributed::What;
use proto::log::{AnchorAudit, Attributed, AuditHead, AuditNote, meta_command};
use storage::audit::{BEGINNING, Checker, Hash};
use storage::tables::audit;

use crate::Core;
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, AuditPage, AuditRow, Failure, Operation, ReadAudit, Request};
use crate::leader::Shards;

/// Records of one page.
const AUDIT_PAGE_ROWS: u32 = 1_000;
/// Bytes of texts after which a page ends.
const PAGE_BYTES: usize = 512 * 1024;

/// A part of a shard's audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailPage {
    /// What the first record is linked to.
    pub before: Checker,
    /// Hash and JSON text of each record, in order.
    pub records: Vec<(Hash, Bytes)>,
    /// The place of the last record that the log has.
    pub last: u64,
}

/// The name of a shard's chain.
pub fn shard_chain(shard: u32) -> String {
    format!("shard-{shard}")
}

impl Core {
    /// The records of a shard's log behind a place, linearizably.
    pub(crate) async fn trail(
        &self,
        shard: ShardId,
        after: u64,
        deadline: Instant,
    ) -> Result<TrailPage> {
        let state = self.metadata.founded()?;
        if state.assignments(shard).is_empty() {
            return Err(Error::bad_request(format!("there is no shard {shard}")));
        }
        let request = Request {
            shard,
            principal: Principal::root(),
            idempotency_key: None,
            metadata_version: 0,
            near: None,
            operation: Operation::ReadAudit(ReadAudit {
                after,
                rows_max: AUDIT_PAGE_ROWS,
            }),
        };
        let Answer::AuditPage(page) = self.route(&state, &request, deadline).await? else {
            return Err(unexpected());
        };
        let records = page.rows.into_iter().map(|row| (hash(&row.hash), row.text));
        Ok(TrailPage {
            before: Checker::behind(page.before, hash(&page.before_hash)),
            records: records.collect(),
            last: page.last,
        })
    }

    /// Numbers of all shards, the metadata group first.
    pub(crate) fn shard_numbers(&self) -> Vec<u32> {
        self.metadata
            .current()
            .placement
            .keys()
            .map(|shard| shard.0)
            .collect()
    }

    /// Has the heads of chains written down in the metadata group's log.
    pub(crate) async fn anchor(&self, heads: Vec<AuditHead>, deadline: Instant) -> Result<()> {
        let anchor = AnchorAudit {
            heads,
            kept_us: micros(self.options.limits.audit_kept),
            bytes_max: self.options.limits.audit_bytes_max,
        };
        self.govern(meta_command::Operation::AnchorAudit(anchor), deadline)
            .await
    }

    /// Writes down what somebody does, before it is done, in the metadata group's log.
    pub(crate) async fn note_by(
        &self,
        principal: &Principal,
        note: AuditNote,
        deadline: Instant,
    ) -> Result<()> {
        let attributed = Attributed {
            user: principal.user.clone().unwrap_or_default(),
            what: Some(What::Note(note)),
        };
        self.govern(meta_command::Operation::Attributed(attributed), deadline)
            .await
    }

    /// Where the logs of the shards that this node leads stand.
    pub(crate) async fn led_heads(&self, deadline: Instant) -> Result<Vec<AuditHead>> {
        let led = self.groups.shards().into_iter().filter(|shard| {
            // The metadata group's own would be changed by writing it down.
            !shard.is_meta() && self.groups.is_leader(*shard)
        });
        let heads = led.map(|shard| async move {
            let Some(replica) = self.groups.replica(shard) else {
                return Ok(None);
            };
            let read = move || Ok(audit::head(&replica.view())?);
            let head = self.shards.read(deadline, read).await?;
            Ok::<_, Error>((head.last > 0).then(|| AuditHead {
                chain: shard_chain(shard.0),
                sequence: head.last,
                hash: head.hash.to_vec().into(),
            }))
        });
        Ok(try_join_all(heads).await?.into_iter().flatten().collect())
    }
}

impl Shards {
    /// See [`Core::trail`].
    pub(crate) async fn read_audit(
        &self,
        shard: ShardId,
        asked: ReadAudit,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        self.barrier(shard, deadline).await?;
        let Some(replica) = self.replica_of(shard) else {
            return Err(Failure::NotLeader { hint: None });
        };
        let rows_max = asked.rows_max.clamp(1, AUDIT_PAGE_ROWS) as usize;
        let read = move || {
            let view = replica.view();
            let head = audit::head(&view)?;
            let after = asked.after.max(head.removed);
            let before_hash = match after == head.removed {
                true => head.removed_hash,
                false => audit::page(&view, after - 1, 1, 1)?
                    .first()
                    .map_or(head.hash, |row| row.hash),
            };
            let rows = audit::page(&view, after, rows_max, PAGE_BYTES)?;
            Ok(AuditPage {
                before: after,
                before_hash: before_hash.to_vec().into(),
                rows: rows
                    .into_iter()
                    .map(|row| AuditRow {
                        hash: row.hash.to_vec().into(),
                        text: row.text,
                    })
                    .collect(),
                last: head.last,
            })
        };
        Ok(Answer::AuditPage(self.read(deadline, read).await?))
    }
}

/// The hash in a message; one that is none fits no record.
fn hash(bytes: &[u8]) -> Hash {
    bytes.try_into().unwrap_or(BEGINNING)
}

pub(crate) fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
