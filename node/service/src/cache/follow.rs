//! Keeping the stale keys up with the shards.
//!
//! A shard is asked like any bounded read ([`crate::near`]): the replica here answers if it can prove to be young enough and has come as far
//! as the writes that this node acknowledged, else another holder does, or the leader. So a client that wrote through this node finds its
//! writes in the next filter, and there is no second list of them to keep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::state::ClusterState;
use futures::stream::{self, StreamExt as _};
use proto::ShardId;
use storage::tables::stale::Part;

use super::{Followed, SILENCE_MAX};
use crate::Core;
use crate::context::{Consistency, Freshness};
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, Operation};
use crate::position::Position;
use crate::sessions::internal_request;

/// Shards that are asked side by side.
const SHARDS_AT_ONCE: usize = 32;
/// Parts of one shard in a row; what does not come in so many is asked for the next time.
const PARTS_MAX: usize = 10_000;

impl Core {
    /// Asks all shards for what is new. Those that do not answer in time stay as they were.
    pub(crate) async fn follow_stale_keys(&self, state: &Arc<ClusterState>, deadline: Instant) {
        let asked = stream::iter(1..=state.shards).for_each_concurrent(
            SHARDS_AT_ONCE,
            async |shard| {
                let shard = ShardId(shard);
                let followed = self.stale.of(shard);
                let follow = self.follow_shard(state, shard, &followed, deadline);
                let outcome = tokio::time::timeout_at(deadline.into(), Box::pin(follow)).await;
                if let Ok(Err(error)) = outcome {
                    tracing::debug!(%shard, %error, "the stale keys of the shard are not confirmed");
                }
            },
        );
        asked.await;
    }

    async fn follow_shard(
        &self,
        state: &Arc<ClusterState>,
        shard: ShardId,
        followed: &Followed,
        deadline: Instant,
    ) -> Result<()> {
        let _asking = followed.asking.lock().await;
        for _ in 0..PARTS_MAX {
            let (question, index) = {
                let table = followed.table.lock();
                (table.question(), table.index())
            };
            let freshness = Freshness {
                consistency: Consistency::Bounded(SILENCE_MAX),
                at_least: match index {
                    0 => Vec::new(),
                    index => vec![Position { shard, index }],
                },
            };
            let request = internal_request(state, shard, Operation::FollowStale(question));
            let sent = self.clock.elapsed();
            let (answer, _) = self.read(state, request, &freshness, deadline).await?;
            let Answer::Stale(part) = answer else {
                return Err(unexpected());
            };
            let age_us = part.seen.and_then(|seen| seen.age_us);
            let age = age_us.ok_or_else(|| Error::unavailable("an answer of unknown age"))?;
            let part = Part::from(part);
            let more = part.more;
            let mut table = followed.table.lock();
            if !table.take(part) {
                return Err(Error::unavailable("an answer of an earlier state"));
            }
            if !more {
                table.confirm(sent.saturating_sub(Duration::from_micros(age)));
                return Ok(());
            }
        }
        Err(Error::unavailable(
            "keys become stale faster than they are read",
        ))
    }

    /// Forgets what is stale no more; gives how many keys are left, and how long ago the shard that is silent longest was confirmed.
    pub(crate) fn settle_stale_keys(&self, state: &ClusterState) -> (usize, Option<Duration>) {
        let now = self.clock.elapsed();
        let mut keys = 0;
        let mut oldest = Some(Duration::ZERO);
        for shard in (1..=state.shards).map(ShardId) {
            let followed = self.stale.of(shard);
            let mut table = followed.table.lock();
            table.drop_over();
            keys += table.len();
            let age = table.as_of().map(|as_of| now.saturating_sub(as_of));
            oldest = oldest.zip(age).map(|(oldest, age)| oldest.max(age));
        }
        (keys, oldest)
    }
}
