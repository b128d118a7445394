//! Keeps stale keys young at every node, and has those leave their shard that no web cache holds any more.
//!
//! Works only while some bucket is cached, or was. A shard that this node leads gets an entry at most once a second, and only for one of
//! these: a key waits for its first mark, rows have run out, or a key has run out that others in front keep from being removed. So an idle
//! shard writes nothing while its copies simply age.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use metrics::gauge;
use proto::ShardId;
use proto::log::{ExpireStale, command};
use storage::machine::STALE_PAGE_MAX;
use storage::tables::stale;
use tokio_util::sync::CancellationToken;

use crate::Core;
use crate::forward::Failure;
use crate::metrics::{STALE_KEYS, STALE_KEYS_AGE};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// A look that takes longer is given up; the next one finds the same work.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Shards that are looked at side by side.
const SHARDS_AT_ONCE: usize = 16;
/// Pages that one look removes: more rows a second than a shard takes writes.
const PAGES_PER_LOOK: usize = 32;

/// The job.
pub struct StaleKeys {
    core: Arc<Core>,
}

impl StaleKeys {
    pub(super) fn new(core: Arc<Core>) -> StaleKeys {
        StaleKeys { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look() => {}
            }
        }
    }

    /// One look at all shards.
    pub(crate) async fn look(&self) {
        let state = self.core.metadata.current();
        let mut databases = state.databases.values();
        if !databases.any(crate::cache::is_cached) {
            return;
        }
        let deadline = Instant::now() + TIMEOUT;
        self.core.follow_stale_keys(&state, deadline).await;
        let (keys, oldest) = self.core.settle_stale_keys(&state);
        gauge!(STALE_KEYS).set(keys as f64);
        gauge!(STALE_KEYS_AGE).set(oldest.map_or(f64::INFINITY, |age| age.as_secs_f64()));
        let is_led = |shard: &ShardId| !shard.is_meta() && self.core.groups.is_leader(*shard);
        let led = self.core.groups.shards().into_iter().filter(is_led);
        let looks = stream::iter(led).for_each_concurrent(SHARDS_AT_ONCE, async |shard| {
            if let Err(failure) = self.expire(shard).await {
                tracing::debug!(%shard, ?failure, "stale keys wait for the next look");
            }
        });
        looks.await;
    }

    /// Ticks one shard if something waits for it, and removes what has run out.
    async fn expire(&self, shard: ShardId) -> Result<(), Failure> {
        let Some(replica) = self.core.groups.replica(shard) else {
            return Ok(());
        };
        let deadline = Instant::now() + TIMEOUT;
        for page in 0..PAGES_PER_LOOK {
            let now_us = self.core.shards.time_us(shard, &replica);
            let look = Arc::clone(&replica);
            let rows = move || Ok(stale::is_due(&look.view(), now_us)?);
            let mut is_due = self.core.shards.read(deadline, rows).await?;
            if page == 0 {
                let over = self.core.stale.next_over_us(shard);
                is_due |= over.is_some_and(|over_us| over_us <= now_us);
            }
            if !is_due {
                return Ok(());
            }
            let page = u32::try_from(STALE_PAGE_MAX).unwrap_or(u32::MAX);
            let expire = command::Operation::ExpireStale(ExpireStale { page });
            let command = self.core.shards.command(shard, &replica, expire);
            self.core.shards.propose(shard, &command, deadline).await?;
        }
        Ok(())
    }
}
