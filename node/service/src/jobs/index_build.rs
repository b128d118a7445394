//! Fills new indexes and clears away dropped ones, page by page in every shard.
//!
//! What is to do follows from the metadata, how far it is from the shards' own state; so whoever leads the metadata group next goes on where
//! this one stopped, and a page that is asked for twice changes nothing.
//!
//! Nothing begins before the schema version is fenced: only then does every shard keep a new index up, or a dropped one no more.
//!
//! It must not crowd out writes: few shards at a time, small pages, and pauses between them (`pages`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::state::{ClusterState, Database, IndexInfo, IndexState};
use document::index::Index;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use metrics::{Counter, counter};
use proto::ShardId;
use proto::log::{self, BackfillIndex, PurgeIndex, SetIndexState, command, meta_command};
use storage::machine::outcome::Progress;
use tokio_util::sync::CancellationToken;

use super::pages::{PAGE_TIMEOUT, all_pages};
use super::{leads_metadata, next_look, tell_metadata};
use crate::Core;
use crate::error::Result;
use crate::indexes::in_state;
use crate::metrics::{INDEX_PAGES, INDEXES_BUILT};

/// Shards at work at the same time.
const PARALLEL: usize = 4;
/// Documents of one page: one entry of a log, applied in a few milliseconds.
const PAGE_DOCUMENTS: u32 = 200;
/// Entries of one page that is cleared away.
const PAGE_ENTRIES: u32 = 1_000;
/// After a failed round.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The job.
pub struct IndexBuild {
    core: Arc<Core>,
    pages: Counter,
}

/// What a round of work on an index came to.
enum Done {
    /// There is nothing left to do in any shard.
    Complete,
    /// It cannot be built.
    Failed(String),
}

impl IndexBuild {
    pub(super) fn new(core: Arc<Core>) -> IndexBuild {
        IndexBuild {
            core,
            pages: counter!(INDEX_PAGES),
        }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut changes = self.core.metadata.changes();
        // Indexes and shards that are known to be complete, so that a round that failed elsewhere does not ask them again.
        let mut complete = HashSet::new();
        loop {
            let state = changes.borrow_and_update().clone();
            if leads_metadata(&self.core) {
                let done = tokio::select! {
                    () = stop.cancelled() => return,
                    done = self.work(&state, &mut complete) => done,
                };
                if let Err(error) = done {
                    tracing::warn!(%error, "work on an index goes on soon");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(RETRY_PAUSE) => continue,
                    }
                }
            } else {
                complete.clear();
            }
            if !next_look(&mut changes, &stop).await {
                return;
            }
        }
    }

    /// Works on every index that wants it, one after the other. One that cannot go on now does not keep the others waiting.
    async fn work(
        &self,
        state: &Arc<ClusterState>,
        complete: &mut HashSet<(u32, u32, ShardId)>,
    ) -> Result<()> {
        let mut worked = Ok(());
        let settled = |database: &&Database| !database.is_pending();
        for database in state.databases.values().filter(settled) {
            let dropped = in_state(database, IndexState::Dropped);
            for index in dropped.chain(in_state(database, IndexState::Building)) {
                worked = worked.and(self.finish(state, database, index, complete).await);
            }
        }
        complete.retain(|(database, index, _)| {
            let database = state.databases.values().find(|row| row.id == *database);
            database.is_some_and(|database| database.indexes.contains_key(index))
        });
        worked
    }

    /// The work on one index, and the word that it is done.
    async fn finish(
        &self,
        state: &Arc<ClusterState>,
        database: &Database,
        index: &IndexInfo,
        complete: &mut HashSet<(u32, u32, ShardId)>,
    ) -> Result<()> {
        let is_dropped = index.state == IndexState::Dropped;
        let (now, outcome, reason) = match self.round(state, database, index, complete).await? {
            _ if is_dropped => (log::IndexState::Dropped, "cleared", String::new()),
            Done::Complete => (log::IndexState::Ready, "ready", String::new()),
            Done::Failed(reason) => (log::IndexState::Failed, "failed", reason),
        };
        let (id, definition) = (index.id, &index.definition);
        tracing::info!(
            index = id,
            definition,
            outcome,
            reason,
            "work on an index is done"
        );
        self.set_state(database, index, now, reason).await?;
        if !is_dropped {
            counter!(INDEXES_BUILT, "outcome" => outcome).increment(1);
        }
        Ok(())
    }

    /// All of the work on one index.
    async fn round(
        &self,
        state: &Arc<ClusterState>,
        database: &Database,
        index: &IndexInfo,
        complete: &mut HashSet<(u32, u32, ShardId)>,
    ) -> Result<Done> {
        let shards = (1..=state.shards).map(ShardId);
        let is_dropped = index.state == IndexState::Dropped;
        let left = shards
            .filter(|shard| is_dropped || !complete.contains(&(database.id, index.id, *shard)));
        let works: Vec<BoxFuture<'_, Result<_>>> = left
            .map(|shard| {
                async move {
                    let failed = self.work_in(state, database, index, shard).await?;
                    Ok((shard, failed))
                }
                .boxed()
            })
            .collect();
        let mut works = stream::iter(works).buffer_unordered(PARALLEL);
        while let Some((shard, failed)) = works.try_next().await? {
            if let Some(reason) = failed {
                return Ok(Done::Failed(reason));
            }
            complete.insert((database.id, index.id, shard));
        }
        Ok(Done::Complete)
    }

    /// All of the work on one index in one shard; gives the reason if it cannot be done.
    async fn work_in(
        &self,
        state: &Arc<ClusterState>,
        database: &Database,
        index: &IndexInfo,
        shard: ShardId,
    ) -> Result<Option<String>> {
        if index.unique && index.state == IndexState::Building {
            let deadline = Instant::now() + PAGE_TIMEOUT;
            let built = self
                .core
                .backfill_unique(state, database, index, shard, deadline)
                .await?;
            return Ok(built.err().map(|violation| violation.to_string()));
        }
        let operation = page(database, index);
        let is_wanted = || self.is_as_it_was(database, index);
        let done = || self.pages.increment(1);
        let work = all_pages(&self.core, state, shard, &operation, is_wanted, done);
        Ok(match work.await? {
            Progress::Impossible { key } => Some(too_many(&key)),
            Progress::Complete | Progress::More { .. } => None,
        })
    }

    fn is_as_it_was(&self, database: &Database, index: &IndexInfo) -> bool {
        let state = self.core.metadata.current();
        let now = state.database(&database.name);
        now.is_some_and(|now| {
            !now.is_pending()
                && now
                    .indexes
                    .get(&index.id)
                    .is_some_and(|now| now.state == index.state)
        })
    }

    async fn set_state(
        &self,
        database: &Database,
        index: &IndexInfo,
        state: log::IndexState,
        reason: String,
    ) -> Result<()> {
        let command = SetIndexState {
            database: database.id,
            index: index.id,
            state: state as i32,
            reason,
        };
        let operation = meta_command::Operation::SetIndexState(command);
        tell_metadata(&self.core, operation, Instant::now() + PAGE_TIMEOUT).await
    }
}

/// Why an index cannot hold a document.
fn too_many(key: &str) -> String {
    let values = Index::VALUES_MAX;
    format!("the document {key:?} has more than {values} values, or lists in two of the fields")
}

/// The next page of the work on an index.
fn page(database: &Database, index: &IndexInfo) -> command::Operation {
    match index.state {
        IndexState::Dropped => command::Operation::PurgeIndex(PurgeIndex {
            database: database.id,
            bucket: index.bucket,
            index: index.id,
            page: PAGE_ENTRIES,
        }),
        IndexState::Building | IndexState::Ready | IndexState::Failed => {
            command::Operation::BackfillNotingLists(BackfillIndex {
                database: database.id,
                bucket: index.bucket,
                index: index.id,
                page: PAGE_DOCUMENTS,
                after: None,
                upto: String::new(),
            })
        }
    }
}
