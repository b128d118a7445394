//! Writes down every minute where the audit logs of this node's shards stand, and removes what is old of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ShardId;
use proto::log::{AuditHead, ExpireAudit, command};
use storage::tables::audit;
use tokio_util::sync::CancellationToken;

use crate::Core;
use crate::forward::Failure;
use crate::trail::micros;

/// Between two rounds.
const INTERVAL: Duration = Duration::from_secs(60);
/// A round that takes longer is given up; the next one finds the same work.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The job.
pub struct Trail {
    core: Arc<Core>,
    /// Heads that were written down, by chain: only news are.
    told: HashMap<String, u64>,
}

impl Trail {
    pub(super) fn new(core: Arc<Core>) -> Trail {
        Trail {
            core,
            told: HashMap::new(),
        }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.round() => {}
            }
        }
    }

    async fn round(&mut self) {
        if let Err(failure) = self.anchor().await {
            tracing::debug!(?failure, "audit logs are anchored in the next round");
        }
        for shard in self.core.groups.shards() {
            if shard.is_meta() || !self.core.groups.is_leader(shard) {
                continue;
            }
            if let Err(failure) = self.expire(shard).await {
                tracing::debug!(%shard, ?failure, "audit records age in the next round");
            }
        }
    }

    /// Writes down heads that are news.
    pub(crate) async fn anchor(&mut self) -> crate::Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        let heads = self.core.led_heads(deadline).await?;
        let is_news = |head: &AuditHead| self.told.get(&head.chain) != Some(&head.sequence);
        let news: Vec<AuditHead> = heads.into_iter().filter(is_news).collect();
        if news.is_empty() {
            return Ok(());
        }
        let told = news.iter().map(|head| (head.chain.clone(), head.sequence));
        let told: Vec<_> = told.collect();
        self.core.anchor(news, deadline).await?;
        self.told.extend(told);
        Ok(())
    }

    /// Removes a page of what is old in one shard, if anything is.
    async fn expire(&self, shard: ShardId) -> Result<(), Failure> {
        let Some(replica) = self.core.groups.replica(shard) else {
            return Ok(());
        };
        let deadline = Instant::now() + TIMEOUT;
        let (kept_us, bytes_max) = (
            micros(self.core.options.limits.audit_kept),
            self.core.options.limits.audit_bytes_max,
        );
        let now_us = self.core.clock.wall_us();
        let look = Arc::clone(&replica);
        let read = move || Ok(audit::is_due(&look.view(), now_us, kept_us, bytes_max)?);
        if !self.core.shards.read(deadline, read).await? {
            return Ok(());
        }
        let expire = command::Operation::ExpireAudit(ExpireAudit { kept_us, bytes_max });
        let command = self.core.shards.command(shard, &replica, expire);
        let expired = self.core.shards.propose(shard, &command, deadline).await;
        expired.map(|_| ())
    }
}
