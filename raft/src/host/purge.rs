//! Keeps the logs of this node within their budget: decides per group when a position is recorded and the log before it purged.
//!
//! Every replica does this for itself, leading or not. A group is due once its log has outgrown its share of the budget; half a share
//! stays, so that a follower which was away for a moment is still served from the log. What is due is taken one group after the other,
//! and the shares differ a little from shard to shard and from node to node: neither all groups of a node nor all replicas of a shard
//! write to their disks at once. A flush is forced only where RocksDB has not flushed that far by itself, and covers all groups.
//!
//! openraft puts a purge off while an append to a follower may need the entries, and carries it out when that append ends, also by an
//! error. Nothing waits for it here: the group stays due, and a later round asks for a later point.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proto::{NodeId, ShardId};
use storage::raft_log::LogSize;
use storage::snapshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::Host;
use super::group::Group;
use crate::error::{Error, Result};
use crate::options::Options;

/// Between two looks at the sizes of the logs, which are in memory.
const ROUND: Duration = Duration::from_millis(200);

/// A group is taken up again no sooner than this after the last time.
const AGAIN: Duration = Duration::from_millis(500);

/// After a flush that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How long a purge is watched before the next group is looked at.
const WATCHED: Duration = Duration::from_millis(100);

/// Between two publications of the sizes.
const PUBLISH_EVERY: Duration = Duration::from_secs(5);

/// A share is lowered by up to this many percent, by node and shard.
const SPREAD_PERCENT: u64 = 20;

/// Bytes of one group's log; label `shard`.
const LOG_BYTES: &str = "larder_log_bytes";
/// Bytes of all logs of the node.
const LOGS_BYTES: &str = "larder_logs_bytes";
/// Purges that were carried out.
const PURGES: &str = "larder_log_purges_total";
/// Entries that they removed.
const PURGED_ENTRIES: &str = "larder_log_purged_entries_total";
/// Purges that openraft has put off, since an append to a follower holds the entries.
const POSTPONED: &str = "larder_log_purges_postponed_total";
/// Flushes of the data database that purging needed.
const FLUSHES: &str = "larder_log_purge_flushes_total";
/// 1 while the data database cannot be flushed: no log is purged then, and logs grow.
const FLUSH_ALARM: &str = "larder_data_flush_alarm";

/// What one round leaves for the next.
#[derive(Default)]
struct Rounds {
    taken: HashMap<ShardId, Instant>,
    published: HashMap<ShardId, u64>,
    published_at: Option<Instant>,
    /// Background errors of the data database that a flush has succeeded after.
    errors_seen: u64,
}

/// The bound of one group's log; past it the group is due.
fn share(options: &Options, groups: usize, node: NodeId, shard: ShardId) -> LogSize {
    let name = [node.0.to_be_bytes(), u64::from(shard.0).to_be_bytes()].concat();
    let percent = 100 - xxh3_64(&name) % (SPREAD_PERCENT + 1);
    let lowered = |bound: u64| (bound / 100).saturating_mul(percent) + bound % 100 * percent / 100;
    LogSize {
        bytes: lowered(options.log_bytes_max / groups.max(1) as u64),
        entries: match options.log_entries_max {
            0 => u64::MAX,
            entries => lowered(entries),
        },
    }
}

/// How far `size` is past `share`, in percent of it; 100 is just at it.
fn fullness(size: LogSize, share: LogSize) -> u64 {
    let percent = |part: u64, whole: u64| part.saturating_mul(100) / whole.max(1);
    percent(size.bytes, share.bytes).max(percent(size.entries, share.entries))
}

impl Host {
    /// Records positions and purges logs by size until `stop`. To be run once.
    pub async fn purge_by_size(self, stop: CancellationToken) {
        let mut rounds = Rounds::default();
        metrics::gauge!(FLUSH_ALARM).set(0.0);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ROUND) => {}
            }
            self.publish_sizes(&mut rounds);
            while let Some((group, share)) = self.most_due(&rounds) {
                let shard = group.shard();
                rounds.taken.insert(shard, Instant::now());
                let purged = tokio::select! {
                    () = stop.cancelled() => return,
                    purged = self.purge_group(&group, share, &mut rounds.errors_seen) => purged,
                };
                match purged {
                    Ok(()) => {}
                    // The group was closed meanwhile.
                    Err(Error::NoGroup(_) | Error::Stopped { .. }) => {}
                    Err(error) => {
                        tracing::error!(%shard, %error, "the log cannot be purged and grows");
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(AFTER_FAILURE) => {}
                        }
                    }
                }
            }
        }
    }

    /// The group that is furthest past its share, of those that were not taken just now.
    fn most_due(&self, rounds: &Rounds) -> Option<(Arc<Group>, LogSize)> {
        let groups: Vec<_> = self.inner.groups.read().values().cloned().collect();
        let count = groups.len();
        let due = groups.into_iter().filter_map(|group| {
            let recently = rounds
                .taken
                .get(&group.shard())
                .is_some_and(|at| at.elapsed() < AGAIN);
            if recently {
                return None;
            }
            let share = share(&self.inner.options, count, self.inner.node, group.shard());
            let full = fullness(group.log().size(), share);
            (full > 100).then_some((full, group, share))
        });
        due.max_by_key(|(full, _, _)| *full)
            .map(|(_, group, share)| (group, share))
    }

    /// Purges the older half of a log, or as much of that as is applied here.
    async fn purge_group(
        &self,
        group: &Arc<Group>,
        share: LogSize,
        errors_seen: &mut u64,
    ) -> Result<()> {
        let keep = LogSize {
            bytes: share.bytes / 2,
            entries: match share.entries {
                u64::MAX => u64::MAX,
                entries => entries / 2,
            },
        };
        let applied = group.machine().applied().id.map_or(0, |id| id.index);
        let Some(point) = group.log().purge_point(keep).map(|at| at.min(applied)) else {
            return Ok(());
        };
        let before = group.log().state().purged.map_or(0, |id| id.index);
        if point <= before {
            return Ok(());
        }
        self.make_durable(group, point, errors_seen).await?;
        self.record(group, point).await?;
        if self.purge(group.shard(), point, WATCHED).await? {
            metrics::counter!(PURGES).increment(1);
            metrics::counter!(PURGED_ENTRIES).increment(point - before);
            tracing::debug!(shard = %group.shard(), upto = point, "log purged");
        } else {
            metrics::counter!(POSTPONED).increment(1);
        }
        Ok(())
    }

    /// Returns once what is applied up to `index` is on disk without the log; forces a flush only if it is not yet, or if a flush in
    /// the background has failed since the last one that did not.
    async fn make_durable(
        &self,
        group: &Arc<Group>,
        index: u64,
        errors_seen: &mut u64,
    ) -> Result<()> {
        let machine = Arc::clone(group.machine());
        let seen = *errors_seen;
        let flushed = self.inner.pool.run(move || {
            let errors = machine.engine().stats().background_errors;
            let durable = snapshot::recorded(&machine)?.id.map_or(0, |id| id.index);
            if durable < index || errors > seen {
                metrics::counter!(FLUSHES).increment(1);
                machine.engine().flush()?;
            }
            Ok::<_, storage::Error>(errors)
        });
        let flushed = flushed.await.ok_or(Error::Timeout("the storage thread"))?;
        metrics::gauge!(FLUSH_ALARM).set(if flushed.is_ok() { 0.0 } else { 1.0 });
        *errors_seen = flushed?;
        Ok(())
    }

    fn publish_sizes(&self, rounds: &mut Rounds) {
        if rounds
            .published_at
            .is_some_and(|at| at.elapsed() < PUBLISH_EVERY)
        {
            return;
        }
        rounds.published_at = Some(Instant::now());
        let groups: Vec<_> = self.inner.groups.read().values().cloned().collect();
        let mut sizes: HashMap<_, _> = groups
            .iter()
            .map(|group| (group.shard(), group.log().size().bytes))
            .collect();
        let sum: u64 = sizes.values().sum();
        // A group that was closed shows an empty log, not its last size for ever.
        for shard in rounds.published.keys() {
            sizes.entry(*shard).or_insert(0);
        }
        for (shard, bytes) in &sizes {
            metrics::gauge!(LOG_BYTES, "shard" => shard.to_string()).set(*bytes as f64);
        }
        metrics::gauge!(LOGS_BYTES).set(sum as f64);
        rounds.published = sizes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(log_bytes_max: u64, log_entries_max: u64) -> Options {
        Options {
            log_bytes_max,
            log_entries_max,
            ..Options::default()
        }
    }

    #[test]
    fn shares_divide_the_budget_and_differ() {
        let options = options(1000 << 20, 100);
        let shares: Vec<_> = (0..40)
            .map(|shard| share(&options, 10, NodeId(7), ShardId(shard)))
            .collect();
        assert!(
            shares
                .iter()
                .all(|share| (80 << 20..=100 << 20).contains(&share.bytes)
                    && (80..=100).contains(&share.entries)),
            "{shares:?}"
        );
        let distinct: std::collections::HashSet<_> =
            shares.iter().map(|share| share.bytes).collect();
        assert!(distinct.len() > 8, "{shares:?}");
        let elsewhere = share(&options, 10, NodeId(8), ShardId(3));
        assert_ne!(elsewhere, shares[3]);
    }

    #[test]
    fn entries_without_a_bound_never_make_a_group_due() {
        let share = share(&options(1 << 30, 0), 1, NodeId(1), ShardId(1));
        let many = LogSize {
            bytes: 1000,
            entries: 1 << 40,
        };
        assert!(fullness(many, share) < 100);
        let large = LogSize {
            bytes: 2 << 30,
            entries: 1,
        };
        assert!(fullness(large, share) > 100);
    }
}
