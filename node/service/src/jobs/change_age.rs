//! Ages the change logs: events that are old enough, or one too many, leave by entries that the leader of their shard proposes.
//!
//! Each shard that this node leads is looked at once a second. Nothing is proposed while nothing is due, so an idle shard writes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::gauge;
use proto::ShardId;
use proto::log::{TrimChanges, command};
use storage::machine::CHANGES_PAGE_MAX;
use storage::tables::change_log::{self, Usage};
use tokio_util::sync::CancellationToken;

use super::age_led_shards;
use crate::Core;
use crate::error::Result;
use crate::forward::Failure;
use crate::metrics::{CHANGES_AGE, CHANGES_BYTES};

/// The most often that one shard is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// A look that takes longer is given up; the next one finds the same work.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Pages that one look removes: more than a shard writes in the time between, and no flood beside its writes.
const PAGES_PER_LOOK: usize = 16;

/// The job.
pub struct ChangeAge {
    core: Arc<Core>,
}

impl ChangeAge {
    pub(super) fn new(core: Arc<Core>) -> ChangeAge {
        ChangeAge { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        age_led_shards(&self.core, INTERVAL, stop, |shard| self.age(shard)).await;
    }

    /// Removes what is due in one shard, up to some pages.
    pub(crate) async fn age(&self, shard: ShardId) -> Result<(), Failure> {
        let Some(replica) = self.core.groups.replica(shard) else {
            return Ok(());
        };
        let limits = &self.core.options.limits;
        let kept_us = u64::try_from(limits.changes_kept.as_micros()).unwrap_or(u64::MAX);
        let deadline = Instant::now() + TIMEOUT;
        for _ in 0..PAGES_PER_LOOK {
            let look = Arc::clone(&replica);
            let usage = self
                .core
                .shards
                .read(deadline, move || Ok(change_log::usage(&look.view())?))
                .await?;
            let now_us = self.core.shards.time_us(shard, &replica);
            show(shard, usage, now_us);
            if !is_due(usage, now_us, kept_us, limits.changes_bytes_max) {
                return Ok(());
            }
            let trim = command::Operation::TrimChanges(TrimChanges {
                kept_us,
                bytes_max: limits.changes_bytes_max,
                page: u32::try_from(CHANGES_PAGE_MAX).unwrap_or(u32::MAX),
            });
            let command = self.core.shards.command(shard, &replica, trim);
            self.core.shards.propose(shard, &command, deadline).await?;
        }
        Ok(())
    }
}

fn age_us(usage: Usage, now_us: u64) -> Option<u64> {
    Some(now_us.saturating_sub(usage.oldest_us?))
}

/// Whether an entry would remove something.
fn is_due(usage: Usage, now_us: u64, kept_us: u64, bytes_max: u64) -> bool {
    age_us(usage, now_us).is_some_and(|age_us| age_us >= kept_us || usage.bytes > bytes_max)
}

fn show(shard: ShardId, usage: Usage, now_us: u64) {
    let name = shard.to_string();
    let age = Duration::from_micros(age_us(usage, now_us).unwrap_or_default());
    gauge!(CHANGES_BYTES, "shard" => name.clone()).set(usage.bytes as f64);
    gauge!(CHANGES_AGE, "shard" => name).set(age.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_by_age_and_when_there_are_too_many_bytes() {
        let (hour, mib) = (3_600 * 1_000_000, 1 << 20);
        let at = |bytes, age_us| {
            let usage = Usage {
                bytes,
                oldest_us: Some(7),
            };
            is_due(usage, 7 + age_us, hour, mib)
        };
        assert!(!at(1, hour - 1));
        assert!(at(1, hour));
        assert!(!at(mib, 0));
        assert!(at(mib + 1, 0));
        let empty = Usage {
            bytes: 2 * mib,
            oldest_us: None,
        };
        assert!(!is_due(empty, u64::MAX, hour, mib));
    }
}
