//! Hands shards to their preferred leaders, so that leadership is as even as placement.
//!
//! Only the present leader acts, only towards a replica whose node is alive and that has the log, and one hand-over at a time: a
//! hand-over costs its shard a few milliseconds of writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proto::{ReplicaId, ShardId};
use tokio_util::sync::CancellationToken;

use crate::Core;

/// Between two hand-overs of this node.
const INTERVAL: Duration = Duration::from_millis(250);
/// A shard that this node offered in vain is left alone for this long.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The job.
pub struct LeaderBalance {
    core: Arc<Core>,
}

impl LeaderBalance {
    pub(super) fn new(core: Arc<Core>) -> LeaderBalance {
        LeaderBalance { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut offered = HashMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            self.hand_over_one(&mut offered).await;
        }
    }

    /// Hands one shard over, if there is one to hand over.
    pub(crate) async fn hand_over_one(&self, offered: &mut HashMap<ShardId, Duration>) {
        if self.core.evidence.is_unfit() {
            // Whoever gives all shards away chooses by who is ready, not by preference.
            return;
        }
        let now = self.core.clock.elapsed();
        offered.retain(|_, since| now.saturating_sub(*since) < RETRY_AFTER);
        let shards = self.core.groups.shards();
        let candidate = shards
            .into_iter()
            .filter(|shard| !offered.contains_key(shard))
            .find_map(|shard| self.candidate(shard));
        let Some((shard, to)) = candidate else { return };
        offered.insert(shard, now);
        match self.core.groups.transfer_leader(shard, to).await {
            Ok(()) => tracing::info!(%shard, %to, "leadership offered to the preferred replica"),
            Err(reason) => tracing::debug!(%shard, %to, %reason, "hand-over failed"),
        }
    }

    /// A shard that is led here and should be led elsewhere, where it can be.
    fn candidate(&self, shard: ShardId) -> Option<(ShardId, ReplicaId)> {
        if !self.core.groups.is_leader(shard) {
            return None;
        }
        let state = self.core.metadata.current();
        let preferred = state.assignments(shard).first()?;
        let fit = preferred.node != self.core.options.node
            && self.core.is_alive(preferred.node)
            && !self.core.evidence.is_declining(preferred.node)
            && self.core.groups.caught_up(shard, preferred.replica);
        fit.then_some((shard, preferred.replica))
    }
}
