//! Tells every shard of the buckets of a new schema, then confirms that all know: only then is a schema change acknowledged.
//!
//! What is to do follows from the metadata alone (`fenced_version` below `schema_version`), so it is taken up by whoever leads the
//! metadata group next. A shard that is told twice changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use futures::future::FutureExt as _;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use proto::ShardId;
use proto::log::{ConfirmFence, SetBuckets, meta_command};
use tokio_util::sync::CancellationToken;

use super::{lead_metadata, tell_metadata};
use crate::Core;
use crate::error::Result;
use crate::forward::{Operation, Request};

/// Shards told at the same time, so that a schema change does not crowd out writes.
const PARALLEL: usize = 8;
/// One shard must answer within this; longer than a failover.
const SHARD_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed round.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The job.
pub struct Fence {
    core: Arc<Core>,
}

impl Fence {
    pub(super) fn new(core: Arc<Core>) -> Fence {
        Fence { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let job = &self;
        let work = |state: Arc<ClusterState>| async move { job.fence_all(&state).await }.boxed();
        let failed = "a schema change is not confirmed yet";
        lead_metadata(&self.core, &stop, RETRY_PAUSE, failed, work).await;
    }

    async fn fence_all(&self, state: &Arc<ClusterState>) -> Result<()> {
        for database in state
            .databases
            .values()
            .filter(|database| database.is_pending())
        {
            self.fence(state, database).await?;
        }
        Ok(())
    }

    async fn fence(&self, state: &Arc<ClusterState>, database: &Database) -> Result<()> {
        let buckets = SetBuckets {
            buckets: database.pending_buckets(),
        }
        .encode_to_vec();
        let operation = Operation::SetBuckets(buckets.into());
        let requests = (1..=state.shards).map(|shard| Request {
            shard: ShardId(shard),
            principal: Principal::root(),
            idempotency_key: None,
            metadata_version: 0,
            near: None,
            operation: operation.clone(),
        });
        stream::iter(requests)
            .map(|request| async move {
                self.core
                    .route(state, &request, Instant::now() + SHARD_TIMEOUT)
                    .await
            })
            .buffer_unordered(PARALLEL)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        let confirm = ConfirmFence {
            database: database.id,
            version: database.schema_version,
        };
        let operation = meta_command::Operation::ConfirmFence(confirm);
        tell_metadata(&self.core, operation, Instant::now() + SHARD_TIMEOUT).await?;
        tracing::info!(
            database = database.name,
            version = database.schema_version,
            "schema confirmed on all shards"
        );
        Ok(())
    }
}
