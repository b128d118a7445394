//! Counts what databases with a quota take, and reports it.
//!
//! For each shard that this node leads: has documents counted that are not yet, page by page, and tells the metadata group when the sum
//! has changed by enough to matter, or has changed at all and not been told for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::quotas::{Quota, ShardUsage};
use cluster::state::ClusterState;
use proto::ShardId;
use proto::log::{CountUsage, DatabaseUsage, ReportUsage, command, meta_command};
use storage::tables::usage::{self, COUNT_PAGE_MAX, Counted};
use tokio_util::sync::CancellationToken;

use crate::Core;
use crate::forward::Failure;

/// The most often that a shard is looked at, and reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// Looks after which any change is reported.
const LOOKS_PER_REPORT: u32 = 10;
/// A look that takes longer is given up; the next one finds the same work.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Pages that one look counts of a shard.
const PAGES_PER_LOOK: usize = 8;
/// The part of a quota that all shards together may be off by before they report.
const SLACK_PART: u64 = 100;

/// The job.
pub struct QuotaUsage {
    core: Arc<Core>,
}

impl QuotaUsage {
    pub(super) fn new(core: Arc<Core>) -> QuotaUsage {
        QuotaUsage { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut look = 0_u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            look = look.wrapping_add(1);
            let state = self.core.metadata.current();
            if state.quotas.is_empty() {
                continue;
            }
            let is_exact = look.is_multiple_of(LOOKS_PER_REPORT);
            for shard in self.core.groups.shards() {
                if shard.is_meta() || !self.core.groups.is_leader(shard) {
                    continue;
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    looked = self.look(&state, shard, is_exact) => {
                        if let Err(failure) = looked {
                            tracing::debug!(%shard, ?failure, "usage is counted at the next look");
                        }
                    }
                }
            }
        }
    }

    /// Counts and reports one shard; `is_exact`: any difference is reported.
    pub(crate) async fn look(
        &self,
        state: &ClusterState,
        shard: ShardId,
        is_exact: bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + TIMEOUT;
        let mut databases = Vec::new();
        for (&database, quota) in &state.quotas {
            let Some(now) = self.counted(shard, database, deadline).await? else {
                continue;
            };
            let told = quota.shards.get(&shard.0).copied();
            if told.is_none_or(|told| is_due(quota, state.shards, told, now, is_exact)) {
                databases.push(DatabaseUsage {
                    database,
                    documents: now.documents,
                    bytes: now.bytes,
                    complete: now.complete,
                });
            }
        }
        if databases.is_empty() {
            return Ok(());
        }
        let report = ReportUsage {
            shard: shard.0,
            databases,
        };
        let report = meta_command::Operation::ReportUsage(report);
        self.core
            .govern(report, deadline)
            .await
            .map_err(Failure::Refused)
    }

    /// What the database takes in the shard, after counting some more if that is not done.
    async fn counted(
        &self,
        shard: ShardId,
        database: u32,
        deadline: Instant,
    ) -> Result<Option<ShardUsage>, Failure> {
        let Some(replica) = self.core.groups.replica(shard) else {
            return Ok(None);
        };
        for left in (0..=PAGES_PER_LOOK).rev() {
            let look = Arc::clone(&replica);
            let found = self
                .core
                .shards
                .read(deadline, move || Ok(usage::get(&look.view(), database)?))
                .await?;
            let complete = found
                .as_ref()
                .is_some_and(|usage| usage.counted == Counted::All);
            if complete || left == 0 {
                return Ok(found.map(|usage| ShardUsage {
                    documents: usage.documents,
                    bytes: usage.bytes,
                    complete,
                }));
            }
            let count = command::Operation::CountUsage(CountUsage {
                database,
                page: u32::try_from(COUNT_PAGE_MAX).unwrap_or(u32::MAX),
            });
            let command = self.core.shards.command(shard, &replica, count);
            self.core.shards.propose(shard, &command, deadline).await?;
        }
        Ok(None)
    }
}

/// Whether a shard has something to report.
fn is_due(quota: &Quota, shards: u32, told: ShardUsage, now: ShardUsage, is_exact: bool) -> bool {
    if told.complete != now.complete || is_exact {
        return told != now;
    }
    let is_much = |max: u64, told: u64, now: u64| {
        let slack = max / SLACK_PART / u64::from(shards.max(1));
        max > 0 && told.abs_diff(now) > slack
    };
    is_much(quota.documents_max, told.documents, now.documents)
        || is_much(quota.bytes_max, told.bytes, now.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_told_at_once_and_little_in_time() {
        let quota = Quota {
            documents_max: 40_000,
            bytes_max: 0,
            ..Quota::default()
        };
        let usage = |documents, bytes, complete| ShardUsage {
            documents,
            bytes,
            complete,
        };
        let due = |now, is_exact| is_due(&quota, 4, usage(1_000, 0, true), now, is_exact);
        // A hundredth of the quota, shared by four shards.
        assert!(!due(usage(1_100, 0, true), false));
        assert!(due(usage(1_101, 0, true), false));
        assert!(due(usage(899, 0, true), false));
        assert!(due(usage(1_001, 0, true), true));
        assert!(!due(usage(1_000, 0, true), true));
        assert!(due(usage(1_000, 0, false), false));
        // Nobody limited bytes.
        assert!(!due(usage(1_000, 1 << 40, true), false));
    }
}
