//! What web caches have to do with a shard: how long they may keep a document that is read from a replica here, and which copies are old.

use std::sync::Arc;
use std::time::Instant;

use cluster::caching::Scope;
use cluster::state::Database;
use document::acl::Principal;
use document::schema::Operation;
use proto::ShardId;
use storage::machine::Replica;
use storage::machine::lifetime::Caching;
use storage::tables::documents::Record;
use storage::tables::{buckets, stale};

use super::Shards;
use crate::auth::grant::Grant;
use crate::error::Result;
use crate::forward::{Answer, Failure, FollowStale, Keep, StalePart};

/// Rows of one part: about 40 KiB.
const PART_ROWS: usize = 1_000;

impl Shards {
    /// What the shard says of the bucket's caching; `None`: nobody may keep its documents now.
    ///
    /// To be asked **before** the document is read: a policy that comes in between would be taken for that of an older document. Where the
    /// shard knows other rules of the bucket than this node's metadata, nothing is handed out: its readers may have changed.
    pub(super) fn caching(
        &self,
        replica: &Replica,
        database: &Database,
        bucket: &str,
    ) -> Result<Option<Caching>> {
        let Some(info) = database.buckets.get(bucket) else {
            return Ok(None);
        };
        if info.cache.is_none_or(|policy| policy.scope == Scope::Off) {
            return Ok(None);
        }
        let known = buckets::caching(replica, database.id, info.id)?;
        let is_current = |(version, caching): &(u64, Caching)| {
            *version == info.version && caching.scope != storage::machine::lifetime::Scope::Off
        };
        Ok(known.filter(is_current).map(|(_, caching)| caching))
    }

    /// Sends what is new about the stale keys of a shard, as the replica here has it.
    pub(super) async fn stale_part(
        &self,
        shard: ShardId,
        follow: &FollowStale,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let replica = self.replica(shard)?;
        let applied = replica.applied();
        let index = applied.id.map_or(0, |id| id.index);
        if index == follow.applied {
            let expired = applied.stale.expired;
            return Ok(Answer::Stale(StalePart {
                index,
                time_us: applied.time_us,
                expired_index: expired.index,
                expired_ordinal: expired.ordinal,
                ..StalePart::default()
            }));
        }
        let (follow, replica) = (*follow, Arc::clone(&replica));
        let read = move || {
            let view = replica.view();
            Ok(stale::read(
                &view,
                follow.after(),
                follow.marked,
                PART_ROWS,
            )?)
        };
        let part = self.read(deadline, read).await?;
        Ok(Answer::Stale(part.into()))
    }
}

/// What web caches may do with a document that was just read.
pub(super) fn keep(
    caching: Caching,
    replica: &Replica,
    database: &Database,
    bucket: &str,
    record: &Record,
) -> Keep {
    let ttl_ms = caching.lifetime_ms(record.lifetime);
    // T never runs fast: a document is there for at least so long.
    let left_ms = record.expiry.map_or(u64::MAX, |expiry| {
        expiry.due_us.saturating_sub(replica.applied().time_us) / 1_000
    });
    let anybody = Principal::anonymous();
    let grant = Grant::of_caller(database, bucket, Operation::Load, &anybody);
    let is_public = grant.is_ok_and(|grant| grant.may_read(record.acl.as_ref()));
    let is_kept = is_public || caching.scope == storage::machine::lifetime::Scope::Private;
    Keep {
        is_public,
        ttl_ms: match is_kept {
            true => ttl_ms.min(u32::try_from(left_ms).unwrap_or(u32::MAX)),
            false => 0,
        },
    }
}
