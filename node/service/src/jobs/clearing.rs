//! Deletes the documents of dropped buckets, page by page in every shard.
//!
//! What is to do follows from the metadata: which buckets are dropped, and which of their shards were cleared. How far one shard is lies in its
//! own state. So whoever leads the metadata group next goes on, and a page that is asked for twice does no harm.
//!
//! It begins once the drop is fenced: then no shard takes writes of the bucket any more. A class that comes back has a bucket of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::clearing::Cleared;
use cluster::state::{BucketInfo, ClusterState, Database};
use futures::future::{FutureExt as _, try_join_all};
use metrics::{Counter, counter};
use proto::ShardId;
use proto::log::{BucketCleared, ClearBucket, command, meta_command};
use tokio_util::sync::CancellationToken;

use super::pages::{PAGE_TIMEOUT, all_pages};
use super::{lead_metadata, tell_metadata};
use crate::Core;
use crate::error::Result;
use crate::metrics::CLEARING_PAGES;

/// Shards at work at the same time; so many are noted as cleared at once.
const PARALLEL: usize = 4;
/// Documents of one page: one entry of a log, applied in a few milliseconds.
const PAGE_DOCUMENTS: u32 = 200;
/// After a failed round.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The job.
pub struct Clearing {
    core: Arc<Core>,
    pages: Counter,
}

impl Clearing {
    pub(super) fn new(core: Arc<Core>) -> Clearing {
        Clearing {
            core,
            pages: counter!(CLEARING_PAGES),
        }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let job = &self;
        let work = |state: Arc<ClusterState>| async move { job.work(&state).await }.boxed();
        let failed = "a dropped bucket is cleared away later";
        lead_metadata(&self.core, &stop, RETRY_PAUSE, failed, work).await;
    }

    /// Clears bucket after bucket. One that cannot go on now does not keep the others waiting.
    async fn work(&self, state: &Arc<ClusterState>) -> Result<()> {
        let mut worked = Ok(());
        let settled = |database: &&Database| !database.is_pending();
        for database in state.databases.values().filter(settled) {
            let dropped = database.dropped_buckets.values();
            for bucket in dropped.filter(|bucket| bucket.cleared != Cleared::All) {
                worked = worked.and(self.clear(state, database, bucket).await);
            }
        }
        worked
    }

    /// All that is left of one bucket.
    async fn clear(
        &self,
        state: &Arc<ClusterState>,
        database: &Database,
        bucket: &BucketInfo,
    ) -> Result<()> {
        let shards: Vec<u32> = (1..=state.shards)
            .filter(|shard| !bucket.cleared.is_in(*shard))
            .collect();
        let page = command::Operation::ClearBucket(ClearBucket {
            database: database.id,
            bucket: bucket.id,
            page: PAGE_DOCUMENTS,
        });
        for shards in shards.chunks(PARALLEL) {
            let works = shards.iter().map(|shard| {
                all_pages(
                    &self.core,
                    state,
                    ShardId(*shard),
                    &page,
                    || true,
                    || self.pages.increment(1),
                )
            });
            try_join_all(works).await?;
            self.note(database, bucket, shards).await?;
        }
        let (database, bucket) = (&database.name, &bucket.name);
        tracing::info!(database, bucket, "a dropped bucket is cleared away");
        Ok(())
    }

    async fn note(&self, database: &Database, bucket: &BucketInfo, shards: &[u32]) -> Result<()> {
        let operation = meta_command::Operation::BucketCleared(BucketCleared {
            database: database.id,
            bucket: bucket.id,
            shards: shards.to_vec(),
        });
        tell_metadata(&self.core, operation, Instant::now() + PAGE_TIMEOUT).await
    }
}
