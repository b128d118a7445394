//! Ages what is kept for a time, first of all idempotency records: what is due leaves by an entry that the leader proposes.
//!
//! For each shard that this node leads at most one entry a second, and none when nothing is due, so an idle shard writes nothing. The
//! entry carries a tick, since the time it ages by is the log's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ShardId;
use proto::log::{ExpireIdempotency, command};
use storage::machine::{IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_KEPT_US_MIN, IDEMPOTENCY_PAGE_MAX};
use storage::tables::idempotency::{self, Usage};
use tokio_util::sync::CancellationToken;

use super::age_led_shards;
use crate::Core;
use crate::error::Result;
use crate::forward::Failure;

/// The most often that one shard is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// An entry that takes longer is given up; the next look finds the same work.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The job.
pub struct Ticker {
    core: Arc<Core>,
}

impl Ticker {
    pub(super) fn new(core: Arc<Core>) -> Ticker {
        Ticker { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        age_led_shards(&self.core, INTERVAL, stop, |shard| self.age(shard)).await;
    }

    /// Removes a page of what is due in one shard, if anything is.
    pub(crate) async fn age(&self, shard: ShardId) -> Result<(), Failure> {
        let Some(replica) = self.core.groups.replica(shard) else {
            return Ok(());
        };
        let deadline = Instant::now() + TIMEOUT;
        let look = Arc::clone(&replica);
        let usage = self
            .core
            .shards
            .read(deadline, move || Ok(idempotency::usage(&look.view())?))
            .await?;
        let kept_us = u64::try_from(self.core.options.limits.idempotency_kept.as_micros())
            .unwrap_or(u64::MAX);
        if !is_due(usage, self.core.shards.time_us(shard, &replica), kept_us) {
            return Ok(());
        }
        let page = u32::try_from(IDEMPOTENCY_PAGE_MAX).unwrap_or(u32::MAX);
        let expire = command::Operation::ExpireIdempotency(ExpireIdempotency { kept_us, page });
        let command = self.core.shards.command(shard, &replica, expire);
        self.core
            .shards
            .propose(shard, &command, deadline)
            .await
            .map(|_| ())
    }
}

/// Whether an entry would remove something: the oldest record is old enough, or room is getting short and it may leave early.
fn is_due(usage: Usage, now_us: u64, kept_us: u64) -> bool {
    let Some(oldest_us) = usage.oldest_us else {
        return false;
    };
    let age_us = now_us.saturating_sub(oldest_us);
    let short_of_room = usage.bytes > IDEMPOTENCY_BYTES_MAX / 8 * 7;
    age_us >= kept_us.max(IDEMPOTENCY_KEPT_US_MIN)
        || (short_of_room && age_us >= IDEMPOTENCY_KEPT_US_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_due_by_age_and_early_when_room_is_short() {
        let day = 24 * 3_600 * 1_000_000;
        let at = |bytes, age_us| {
            is_due(
                Usage {
                    bytes,
                    oldest_us: Some(7),
                },
                7 + age_us,
                day,
            )
        };
        assert!(!at(1, day - 1));
        assert!(at(1, day));
        assert!(!at(IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_KEPT_US_MIN - 1));
        assert!(at(IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_KEPT_US_MIN));
        assert!(!is_due(Usage::default(), u64::MAX, day));
    }
}
