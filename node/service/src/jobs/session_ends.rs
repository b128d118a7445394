//! Tells the shards of roles of sessions that writes have ended, settles the notes that those writes left, and has what no token is old
//! enough for forgotten ([`crate::rights`]).
//!
//! Usually the write's own leader has told already, and only the note is left to remove. After a leader's death, and for users that
//! expired, this job tells.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ShardId;
use proto::log::{ForgetRights, command};
use storage::machine::FORGET_PAGE_MAX;
use storage::tables::rights::{self, Changed};
use tokio_util::sync::CancellationToken;

use crate::Core;
use crate::error::Result;

/// Shards that this node leads are looked at so often: becoming a leader tells nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A write's own leader settles its note this much later, so that several go in one entry.
const GATHER: Duration = Duration::from_millis(50);
/// Work on one shard is given up after this; the next look finds it again.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Notes that one entry settles.
const PAGE: usize = 200;
/// What is too old is looked for so often.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Ends of sessions are remembered this much longer than sessions live: T runs slow, and clocks of nodes differ.
const FORGET_SLACK: Duration = Duration::from_secs(24 * 60 * 60);

/// The job.
pub struct SessionEnds {
    core: Arc<Core>,
}

impl SessionEnds {
    pub(super) fn new(core: Arc<Core>) -> SessionEnds {
        SessionEnds { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut forgotten = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.core.ends.noted() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            let work = async {
                self.settle().await;
                if forgotten.elapsed() >= FORGET_EVERY {
                    self.forget().await;
                    forgotten = Instant::now();
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = work => {}
            }
        }
    }

    fn led(&self) -> Vec<ShardId> {
        let is_led = |shard: &ShardId| !shard.is_meta() && self.core.groups.is_leader(*shard);
        self.core
            .groups
            .shards()
            .into_iter()
            .filter(is_led)
            .collect()
    }

    async fn settle(&self) {
        for shard in self.led() {
            if let Err(error) = self.settle_shard(shard).await {
                tracing::debug!(%shard, %error, "ended sessions wait to be told");
            }
        }
    }

    async fn settle_shard(&self, shard: ShardId) -> Result<()> {
        let Some(replica) = self.core.groups.replica(shard) else {
            return Ok(());
        };
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let look = Arc::clone(&replica);
            let read = move || Ok(rights::session_ends(&look.view(), PAGE)?);
            let noted = self.core.shards.read(deadline, read).await?;
            if noted.is_empty() {
                return Ok(());
            }
            let settled = self.core.settle_session_ends(shard, noted, deadline);
            Box::pin(settled).await?;
        }
    }

    /// Has what is too old forgotten, a page for each database.
    pub(crate) async fn forget(&self) {
        let kept = self.core.options.limits.token_long_life + FORGET_SLACK;
        let kept_us = u64::try_from(kept.as_micros()).unwrap_or(u64::MAX);
        let state = self.core.metadata.current();
        for database in state.databases.values() {
            let Some(roles) = database.buckets.get(crate::auth::policy::ROLES) else {
                continue;
            };
            let shard = state.shard_of(database, roles, "");
            if !self.core.groups.is_leader(shard) {
                continue;
            }
            if let Err(error) = self.forget_in(shard, database.id, kept_us).await {
                tracing::debug!(%shard, %error, "old ends of sessions wait to be forgotten");
            }
        }
    }

    async fn forget_in(&self, shard: ShardId, database: u32, kept_us: u64) -> Result<()> {
        let Some(replica) = self.core.groups.replica(shard) else {
            return Ok(());
        };
        let deadline = Instant::now() + TIMEOUT;
        let look = Arc::clone(&replica);
        let read = move || Ok(rights::changed_after(&look.view(), database, 0, 1)?);
        let (oldest, _) = self.core.shards.read(deadline, read).await?;
        // A shard that is younger has nothing that is so old, also not what lies at its beginning.
        let now_us = self.core.shards.time_us(shard, &replica);
        let is_old = |changed: &Changed| {
            now_us
                .checked_sub(kept_us)
                .is_some_and(|until_us| changed.time_us <= until_us)
        };
        if !oldest.first().is_some_and(is_old) {
            return Ok(());
        }
        let forget = ForgetRights {
            database,
            kept_us,
            page: u32::try_from(FORGET_PAGE_MAX).unwrap_or(u32::MAX),
        };
        let operation = command::Operation::ForgetRights(forget);
        let state = self.core.metadata.current();
        Box::pin(self.core.command(&state, shard, operation, deadline)).await?;
        Ok(())
    }
}
