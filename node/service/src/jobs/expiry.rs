//! Deletes documents that have expired, by entries that the leader of their shard proposes.
//!
//! Each shard that this node leads is looked at once a second, several side by side, so that one which does not answer keeps no other
//! waiting: with a leader that can write, an expired document is gone within two seconds. Apply picks what is due, so a look that comes
//! twice does nothing twice.
//!
//! T stands still while a shard writes nothing, and a new leader starts from the T that was applied. So as long as documents wait for
//! their time, T is put into the log now and then: a change of the leader sets them back by [`TICK_AFTER`] and the time without a leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use proto::ShardId;
use proto::log::{ExpireDocuments, Idle, command};
use storage::machine::EXPIRY_PAGE_MAX;
use storage::tables::expiry;
use tokio_util::sync::CancellationToken;

use crate::Core;
use crate::error::Result;
use crate::forward::Failure;

/// The most often that one shard is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// A look that takes longer is given up; the next one finds the same work.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Shards that are looked at side by side.
const SHARDS_AT_ONCE: usize = 16;
/// Pages that one look deletes: what a flood of expiring documents may take of a shard's time, beside its writes.
const PAGES_PER_LOOK: usize = 8;
/// T that is not in the log yet, at which it is put there if documents wait for it.
const TICK_AFTER: Duration = Duration::from_secs(10);

/// The job.
pub struct Expiry {
    core: Arc<Core>,
}

/// What a shard needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// Documents are due.
    Sweep,
    /// None is, but some will be.
    Tick,
}

impl Expiry {
    pub(super) fn new(core: Arc<Core>) -> Expiry {
        Expiry { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let is_led = |shard: &ShardId| !shard.is_meta() && self.core.groups.is_leader(*shard);
            let shards = self.core.groups.shards().into_iter().filter(is_led);
            let looks = stream::iter(shards).for_each_concurrent(SHARDS_AT_ONCE, async |shard| {
                if let Err(failure) = self.sweep(shard).await {
                    tracing::debug!(%shard, ?failure, "expired documents wait for the next look");
                }
            });
            tokio::select! {
                () = stop.cancelled() => return,
                () = looks => {}
            }
        }
    }

    /// Deletes what is due in one shard, up to some pages.
    pub(crate) async fn sweep(&self, shard: ShardId) -> Result<(), Failure> {
        let Some(replica) = self.core.groups.replica(shard) else {
            return Ok(());
        };
        let deadline = Instant::now() + TIMEOUT;
        for _ in 0..PAGES_PER_LOOK {
            let look = Arc::clone(&replica);
            let first_us = self
                .core
                .shards
                .read(deadline, move || Ok(expiry::first_due(&look.view())?))
                .await?;
            let now_us = self.core.shards.time_us(shard, &replica);
            let need = need(first_us, now_us, replica.applied().time_us);
            let operation = match need {
                Need::Nothing => return Ok(()),
                Need::Sweep => command::Operation::ExpireDocuments(ExpireDocuments {
                    page: u32::try_from(EXPIRY_PAGE_MAX).unwrap_or(u32::MAX),
                }),
                Need::Tick => command::Operation::Idle(Idle {}),
            };
            let command = self.core.shards.command(shard, &replica, operation);
            self.core.shards.propose(shard, &command, deadline).await?;
        }
        Ok(())
    }
}

/// `first_us` is the T at which the first document is due, `now_us` what T would be if it were put into the log now.
fn need(first_us: Option<u64>, now_us: u64, applied_us: u64) -> Need {
    let tick_after_us = u64::try_from(TICK_AFTER.as_micros()).unwrap_or(u64::MAX);
    match first_us {
        Some(first_us) if first_us <= now_us => Need::Sweep,
        Some(_) if now_us.saturating_sub(applied_us) >= tick_after_us => Need::Tick,
        Some(_) | None => Need::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_swept_when_something_is_due_and_ticked_when_something_will_be() {
        let second = 1_000_000;
        for (first_us, now_us, applied_us, needed) in [
            (None, 100 * second, 0, Need::Nothing),
            (Some(5 * second), 5 * second, 0, Need::Sweep),
            (Some(5 * second), 5 * second - 1, 0, Need::Nothing),
            (Some(50 * second), 10 * second, 0, Need::Tick),
            (Some(50 * second), 10 * second, 1, Need::Nothing),
            (Some(50 * second), 60 * second, 60 * second, Need::Sweep),
        ] {
            assert_eq!(
                need(first_us, now_us, applied_us),
                needed,
                "{first_us:?} {now_us} {applied_us}"
            );
        }
    }
}
