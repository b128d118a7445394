//! Begins and fills the entries of readers of buckets that want them (`leader::readers`), page by page, in the shards that this node leads.
//!
//! How far a bucket is lies in its shard's state, so the next leader goes on once it notices the bucket. As for indexes, it must not crowd out
//! writes: one shard at a time, small pages, and after each a pause as long as it took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::log::{BackfillReaders, command};
use storage::machine::outcome::{Outcome, Progress, Rejection};
use tokio_util::sync::CancellationToken;

use crate::Core;
use crate::error::Error;
use crate::forward::Failure;
use crate::leader::readers::Place;

/// Documents of one page: one entry of a log, applied in a few milliseconds.
const PAGE_DOCUMENTS: u32 = 200;
/// Longest pause between two pages.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// One page must be applied within this; longer than a failover.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The job.
pub struct Readers {
    core: Arc<Core>,
}

impl Readers {
    pub(super) fn new(core: Arc<Core>) -> Readers {
        Readers { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let mut is_done = true;
            for place in self.core.shards.readers.wanted() {
                let worked = tokio::select! {
                    () = stop.cancelled() => return,
                    worked = self.work(place) => worked,
                };
                match worked {
                    Ok(is_complete) => self.core.shards.readers.done(place, is_complete),
                    Err(failure) => {
                        let (shard, bucket) = (place.0, place.2);
                        tracing::debug!(%shard, bucket, ?failure, "entries of readers wait");
                        is_done = false;
                    }
                }
            }
            let next = async {
                match is_done {
                    true => self.core.shards.readers.noticed().await,
                    false => tokio::time::sleep(RETRY_PAUSE).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = next => {}
            }
        }
    }

    /// All that is left to do in one place; whether the entries are complete then. `false`: it is not this node's to do.
    async fn work(&self, (shard, database, bucket): Place) -> Result<bool, Failure> {
        loop {
            if !self.core.groups.is_leader(shard) {
                return Ok(false);
            }
            let Some(replica) = self.core.groups.replica(shard) else {
                return Ok(false);
            };
            if let Some(why) = self.core.groups.no_room() {
                return Err(Failure::Busy(Error::unavailable(why)));
            }
            let began = Instant::now();
            let page = command::Operation::BackfillReaders(BackfillReaders {
                database,
                bucket,
                page: PAGE_DOCUMENTS,
            });
            let command = self.core.shards.command(shard, &replica, page);
            let deadline = began + PAGE_TIMEOUT;
            match self.core.shards.propose(shard, &command, deadline).await? {
                Outcome::Progress(Progress::Complete) => return Ok(true),
                Outcome::Rejected {
                    rejection: Rejection::BucketDropped,
                    ..
                } => return Ok(false),
                _ => {}
            }
            tokio::time::sleep(began.elapsed().min(PAUSE_MAX)).await;
        }
    }
}
