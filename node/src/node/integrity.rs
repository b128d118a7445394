//! Finding damage while the node runs: replicas are compared with their peers, and stored data is read again.
//!
//! The comparison finds state that differs, whatever made it differ; the scrub finds blocks that rotted, before somebody needs them.
//! Either takes the replica out of service: it answers nothing and does not lead, the node forwards its requests to the others, the
//! gauge `larder_replicas_quarantined` and `cluster status` show it. A file in `<data dir>/quarantine` keeps it so over a restart. It
//! is over when the replica is replaced (another replica id), or when an operator who knows better removes the file.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use proto::{ReplicaId, ShardId};
use raft::{Host, Role};
use storage::engine::Column;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Between two comparisons. One message per peer, so it can be often; damage is served until it is found.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// How long a peer may take to say what it holds.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// One piece of a scrub; the rate is kept by the pauses between them.
const PIECE_BYTES: usize = 256 << 10;
/// Between two passes over everything; small data would be read without end.
const SCRUB_PAUSE: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Integrity {
    host: Host,
    dir: PathBuf,
}

impl Integrity {
    /// Quarantines again what was quarantined before. After the stored replicas were opened.
    ///
    /// # Errors
    /// The folder of marks cannot be read.
    pub(super) fn load(host: Host, dir: PathBuf) -> anyhow::Result<Arc<Self>> {
        let integrity = Arc::new(Self { host, dir });
        let marks = match std::fs::read_dir(&integrity.dir) {
            Ok(marks) => marks,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(integrity),
            Err(error) => {
                return Err(error).with_context(|| integrity.dir.display().to_string());
            }
        };
        for mark in marks {
            let name = mark?.file_name();
            let Some((shard, replica)) = name.to_str().and_then(parse_mark) else {
                continue;
            };
            if integrity.host.quarantine(shard, replica) {
                tracing::error!(%shard, %replica, "replica is quarantined since an earlier run");
            }
        }
        Ok(integrity)
    }

    /// Looks for damage until `stop`; `scrub_bytes_per_s` 0: only compares.
    pub(super) async fn run(self: Arc<Self>, scrub_bytes_per_s: usize, stop: CancellationToken) {
        let work = async {
            tokio::join!(self.compare(), self.scrub(scrub_bytes_per_s));
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn compare(&self) {
        loop {
            sleep(COMPARE_EVERY).await;
            let diverged = self.host.compare_chains(COMPARE_TIMEOUT).await;
            metrics::gauge!("larder_shards_diverged").set(diverged.len() as f64);
            for found in diverged {
                let (shard, replica, index) = (found.shard, found.replica, found.index);
                if found.own {
                    let why = format!("holds other state at index {index} than the majority");
                    self.condemn(shard, replica, &why).await;
                } else {
                    tracing::error!(
                        %shard, index,
                        "replicas hold different state, and not this one against a majority: see `larder cluster status`"
                    );
                }
            }
            self.give_up_leaders().await;
            metrics::gauge!("larder_replicas_quarantined")
                .set(self.host.quarantined().len() as f64);
        }
    }

    /// Hands away what a quarantined replica still leads.
    async fn give_up_leaders(&self) {
        for (shard, replica) in self.host.quarantined() {
            let Some(status) = self
                .host
                .status(shard)
                .filter(|status| status.role == Role::Leader)
            else {
                continue;
            };
            let others = status
                .members
                .iter()
                .filter(|(other, member)| **other != replica && member.voter);
            let Some((target, _)) = others.max_by_key(|(_, member)| member.matched) else {
                continue;
            };
            if let Err(error) = self.host.transfer_leader(shard, *target).await {
                tracing::warn!(%shard, %error, "quarantined replica still leads");
            }
        }
    }

    async fn condemn(&self, shard: ShardId, replica: ReplicaId, why: &str) {
        if !self.host.quarantine(shard, replica) {
            return;
        }
        tracing::error!(
            %shard, %replica, why,
            "replica is damaged and quarantined: it serves nothing; replace it (its peers hold the data), and check the disk \
             with `larder data verify` while the node is stopped"
        );
        let (dir, why) = (self.dir.clone(), why.to_owned());
        let marked = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join(mark(shard, replica)), why)?;
            std::fs::File::open(&dir)?.sync_all()
        });
        match marked.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "quarantine will be forgotten at a restart"),
            Err(error) => tracing::error!(%error, "quarantine will be forgotten at a restart"),
        }
        self.give_up_leaders().await;
    }

    /// Reads all stored data again and again, at a bounded rate.
    async fn scrub(&self, bytes_per_s: usize) {
        if bytes_per_s == 0 {
            return;
        }
        loop {
            let started = Instant::now();
            for shard in self.host.shards() {
                for column in Column::ALL {
                    self.scrub_column(shard, column, bytes_per_s).await;
                }
            }
            metrics::counter!("larder_scrub_passes_total").increment(1);
            metrics::gauge!("larder_scrub_pass_seconds").set(started.elapsed().as_secs_f64());
            sleep(SCRUB_PAUSE).await;
        }
    }

    async fn scrub_column(&self, shard: ShardId, column: Column, bytes_per_s: usize) {
        let mut from = None;
        while let ControlFlow::Continue(next) = self.scrub_piece(shard, column, &mut from).await {
            let rest = Duration::from_secs_f64(next as f64 / bytes_per_s as f64);
            sleep(rest).await;
        }
    }

    /// One piece from `from` on, which is moved on; gives how many bytes it had, or that the column is through.
    async fn scrub_piece(
        &self,
        shard: ShardId,
        column: Column,
        from: &mut Option<Vec<u8>>,
    ) -> ControlFlow<(), usize> {
        // A quarantined one is known to be damaged, and gives none.
        let (Some(replica), Some(status)) = (self.host.replica(shard), self.host.status(shard))
        else {
            return ControlFlow::Break(());
        };
        let store = replica.store();
        let first = from.take().filter(|from| from.starts_with(&store.prefix()));
        let first = first.unwrap_or_else(|| store.prefix().to_vec());
        let read = tokio::task::spawn_blocking(move || {
            replica
                .engine()
                .scrub(column, &first, &store.end(), PIECE_BYTES)
        });
        match read.await {
            Ok(Ok(scrubbed)) => {
                metrics::counter!("larder_scrub_bytes_total").increment(scrubbed.bytes as u64);
                match scrubbed.next {
                    Some(next) => {
                        *from = Some(next.to_vec());
                        ControlFlow::Continue(scrubbed.bytes)
                    }
                    None => ControlFlow::Break(()),
                }
            }
            Ok(Err(error)) => {
                metrics::counter!("larder_scrub_errors_total").increment(1);
                let why = format!("cannot be read: {error}");
                self.condemn(shard, status.replica, &why).await;
                ControlFlow::Break(())
            }
            Err(error) => {
                tracing::error!(%error, "scrub failed");
                ControlFlow::Break(())
            }
        }
    }
}

fn mark(shard: ShardId, replica: ReplicaId) -> String {
    format!("shard-{shard}-replica-{replica}")
}

fn parse_mark(name: &str) -> Option<(ShardId, ReplicaId)> {
    let (shard, replica) = name.strip_prefix("shard-")?.split_once("-replica-")?;
    Some((
        ShardId(shard.parse().ok()?),
        ReplicaId(replica.parse().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_name_their_replica() {
        let name = mark(ShardId(12), ReplicaId(345));
        assert_eq!(parse_mark(&name), Some((ShardId(12), ReplicaId(345))));
        assert_eq!(parse_mark("shard-12"), None);
    }
}
