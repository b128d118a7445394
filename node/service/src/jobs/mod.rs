//! Background work. Each job runs on every node and does something only where this node leads the shard that owns the work, so that it
//! goes on after a failover; all of them find what is to do in replicated state alone, and doing it twice is harmless.
//!
//! The caller spawns `run(self, stop)` of each; it returns soon after `stop` is cancelled.

mod bootstrap;
mod change_age;
mod clearing;
pub(crate) mod consumers;
mod evidence;
mod expiry;
mod fence;
pub mod index_build;
mod leader_balance;
mod mails;
mod pages;
mod quota;
mod readers;
mod replace;
mod rights;
mod session_ends;
mod settle;
mod signing_keys;
mod stale_keys;
mod ticker;
mod trail;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::MetaOutcome;
use cluster::state::ClusterState;
use futures::future::BoxFuture;
use proto::ShardId;
use proto::log::meta_command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::bootstrap::Bootstrap;
pub use self::change_age::ChangeAge;
pub use self::clearing::Clearing;
pub use self::consumers::Consumers;
pub use self::evidence::Evidence;
pub use self::expiry::Expiry;
pub use self::fence::Fence;
pub use self::index_build::IndexBuild;
pub use self::leader_balance::LeaderBalance;
pub use self::mails::Mails;
pub use self::quota::QuotaUsage;
pub use self::readers::Readers;
pub use self::replace::Replace;
pub use self::rights::Rights;
pub use self::session_ends::SessionEnds;
pub use self::settle::Settle;
pub use self::signing_keys::SigningKeys;
pub use self::stale_keys::StaleKeys;
pub use self::ticker::Ticker;
pub use self::trail::Trail;
use crate::Core;
use crate::error::{Error, Result};
use crate::forward::Failure;

/// A job of the metadata leader looks again at least so often: becoming the leader is no change of the metadata.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// All jobs of a node.
pub struct Jobs {
    /// Tells shards of buckets and confirms it.
    pub fence: Fence,
    /// Fills new indexes and clears away dropped ones.
    pub index_build: IndexBuild,
    /// Deletes the documents of dropped buckets.
    pub clearing: Clearing,
    /// Enters documents under who may read them.
    pub readers: Readers,
    /// Writes predefined users and roles.
    pub bootstrap: Bootstrap,
    /// Ages what is kept for a time.
    pub ticker: Ticker,
    /// Deletes documents that have expired.
    pub expiry: Expiry,
    /// Ages change logs.
    pub change_age: ChangeAge,
    /// Replaces replicas.
    pub replace: Replace,
    /// Confirms and frees values of unique indexes.
    pub settle: Settle,
    /// Sends mails that were asked for.
    pub mails: Mails,
    /// Keeps this node's copies of rights young.
    pub rights: Rights,
    /// Ends sessions that some write ended, if nobody has yet.
    pub session_ends: SessionEnds,
    /// Rotates the keys that tokens are signed with.
    pub signing_keys: SigningKeys,
    /// Learns how old this node's replicas are.
    pub evidence: Evidence,
    /// Counts what databases with a quota take.
    pub quota: QuotaUsage,
    /// Keeps stale keys young, and removes those that no cache holds any more.
    pub stale_keys: StaleKeys,
    /// Keeps the audit logs of shards.
    pub trail: Trail,
    /// Hands shards to their preferred leaders.
    pub leader_balance: LeaderBalance,
    /// Writes down where consumers are, sends to their targets, and measures how late they are.
    pub consumers: Consumers,
}

impl Jobs {
    pub(crate) fn new(core: Arc<Core>) -> Jobs {
        Jobs {
            fence: Fence::new(Arc::clone(&core)),
            index_build: IndexBuild::new(Arc::clone(&core)),
            clearing: Clearing::new(Arc::clone(&core)),
            readers: Readers::new(Arc::clone(&core)),
            bootstrap: Bootstrap::new(Arc::clone(&core)),
            ticker: Ticker::new(Arc::clone(&core)),
            expiry: Expiry::new(Arc::clone(&core)),
            change_age: ChangeAge::new(Arc::clone(&core)),
            replace: Replace::new(Arc::clone(&core)),
            settle: Settle::new(Arc::clone(&core)),
            mails: Mails::new(Arc::clone(&core)),
            rights: Rights::new(Arc::clone(&core)),
            session_ends: SessionEnds::new(Arc::clone(&core)),
            signing_keys: SigningKeys::new(Arc::clone(&core)),
            evidence: Evidence::new(Arc::clone(&core)),
            quota: QuotaUsage::new(Arc::clone(&core)),
            stale_keys: StaleKeys::new(Arc::clone(&core)),
            trail: Trail::new(Arc::clone(&core)),
            leader_balance: LeaderBalance::new(Arc::clone(&core)),
            consumers: Consumers::new(core),
        }
    }

    /// Runs all of them until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(
            self.fence.run(stop.clone()),
            self.index_build.run(stop.clone()),
            self.clearing.run(stop.clone()),
            self.readers.run(stop.clone()),
            self.bootstrap.run(stop.clone()),
            self.ticker.run(stop.clone()),
            self.expiry.run(stop.clone()),
            self.change_age.run(stop.clone()),
            self.replace.run(stop.clone()),
            self.settle.run(stop.clone()),
            self.mails.run(stop.clone()),
            self.rights.run(stop.clone()),
            self.session_ends.run(stop.clone()),
            self.signing_keys.run(stop.clone()),
            self.evidence.run(stop.clone()),
            self.quota.run(stop.clone()),
            self.stale_keys.run(stop.clone()),
            self.trail.run(stop.clone()),
            self.leader_balance.run(stop.clone()),
            self.consumers.run(stop),
        );
    }
}

/// Does `work` wherever this node leads the metadata group, at each change of the metadata and now and then, until `stop` is cancelled. What
/// fails, says `failed`, is begun again after a pause.
async fn lead_metadata<'j>(
    core: &Core,
    stop: &CancellationToken,
    pause: Duration,
    failed: &'static str,
    work: impl Fn(Arc<ClusterState>) -> BoxFuture<'j, Result<()>>,
) {
    let mut changes = core.metadata.changes();
    loop {
        let state = changes.borrow_and_update().clone();
        if leads_metadata(core) {
            let done = tokio::select! {
                () = stop.cancelled() => return,
                done = work(state) => done,
            };
            if let Err(error) = done {
                tracing::warn!(%error, "{failed}");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => continue,
                }
            }
        }
        if !next_look(&mut changes, stop).await {
            return;
        }
    }
}

/// Waits for a change of the metadata, or a while. False: stop.
async fn next_look(
    changes: &mut watch::Receiver<Arc<ClusterState>>,
    stop: &CancellationToken,
) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        // An error means that nobody publishes any more; then time alone paces the job.
        _ = changes.changed() => true,
        () = tokio::time::sleep(LOOK_AGAIN) => true,
    }
}

/// Has `age` look at each document shard that this node leads, again and again with `pause` between; returns when `stop` is cancelled. What
/// a look fails at, the next one finds again.
async fn age_led_shards<F>(
    core: &Core,
    pause: Duration,
    stop: CancellationToken,
    age: impl Fn(ShardId) -> F,
) where
    F: Future<Output = Result<(), Failure>>,
{
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        for shard in core.groups.shards() {
            if shard.is_meta() || !core.groups.is_leader(shard) {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                aged = age(shard) => {
                    if let Err(failure) = aged {
                        tracing::debug!(%shard, ?failure, "ageing waits for the next look");
                    }
                }
            }
        }
    }
}

/// Proposes what a job has found out to the metadata group.
///
/// # Errors
/// `Unavailable`: refused, or it is not known whether it was applied. A job looks again.
async fn tell_metadata(
    core: &Core,
    operation: meta_command::Operation,
    deadline: Instant,
) -> Result<()> {
    match core.shards.propose_meta(operation, deadline).await {
        Ok(MetaOutcome::Done) => Ok(()),
        Ok(MetaOutcome::Rejected(rejection)) => Err(Error::unavailable(rejection.to_string())),
        Err(failure) => Err(Error::unavailable(format!("metadata group: {failure:?}"))),
    }
}

/// Whether this node leads the metadata group.
fn leads_metadata(core: &Core) -> bool {
    core.groups.is_leader(ShardId::META)
}
