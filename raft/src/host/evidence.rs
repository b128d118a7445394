//! What a leader can prove of its own leadership, waiting for an index, and who may stand for election.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{Instant as _, ServerState};
use proto::ShardId;
use tokio::time::Instant;

use super::Host;
use super::group::Group;

/// A leader's newest confirmation: whatever anyone was told longer than `age` ago lies at or below `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Since the round was sent that a quorum answered last.
    pub age: Duration,
    /// An index that is applied here, of the leader's own term.
    pub index: u64,
}

impl Host {
    /// When a quorum last confirmed this node as the leader of a shard; `None` if it does not lead, or has not applied an entry of its
    /// own term yet. Asks nobody: heartbeats and appends confirm it all the time.
    ///
    /// It looks back only, so it is no lease: at the time of that round no later leader had been elected, and everything that was
    /// acknowledged before is applied here. By the monotonic clock, from the **sending** of the round, as openraft records it.
    pub fn confirmed(&self, shard: ShardId) -> Option<Confirmed> {
        let group = self.group(shard)?;
        // First the time, then the state: so that what was acknowledged before the time is in the state.
        let (age, term) = {
            let metrics = group.raft().metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state != ServerState::Leader {
                return None;
            }
            let mut voters = metrics.membership_config.membership().voter_ids();
            let is_alone = voters.next() == Some(group.replica_id().0) && voters.next().is_none();
            let age = match metrics.last_quorum_acked {
                _ if is_alone => Duration::ZERO,
                Some(acked) => acked.into_inner().elapsed(),
                None => return None,
            };
            (age, metrics.current_term)
        };
        // An entry of its own term: before it a leader may not have applied all that its predecessors have acknowledged.
        let applied = group.machine().applied().id?;
        (applied.term == term).then_some(Confirmed {
            age,
            index: applied.index,
        })
    }

    /// Waits until this node's replica has applied an index; false at the deadline, or without a replica.
    pub async fn reaches(&self, shard: ShardId, index: u64, deadline: Instant) -> bool {
        match self.group(shard) {
            Some(group) => group.reaches(index, deadline).await,
            None => false,
        }
    }

    /// Whether the replicas of this node stand for election, also those that are opened later. They still lead where they do now, and
    /// still take over when a leader hands them a shard.
    pub fn set_electable(&self, electable: bool) {
        let groups = self.inner.groups.read();
        // Under the lock, which opening a group takes too.
        self.inner.electable.store(electable, Ordering::Relaxed);
        for group in groups.values() {
            // A quarantined replica stays as it is until it is replaced.
            let is_sound = !self.is_quarantined(group.shard(), group.replica_id());
            group.raft().runtime_config().elect(electable && is_sound);
        }
    }

    /// Whether the log disk of this node stalls. While it does, nothing that the groups here say about their own leadership counts: a
    /// group cannot take note of its successor before the disk has taken the vote. So this node leads nothing, proposes nothing, proves
    /// no reads and takes over from nobody; who leads is for the others to say.
    pub fn set_stalled(&self, stalled: bool) {
        self.inner.stalled.store(stalled, Ordering::Relaxed);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.inner.stalled.load(Ordering::Relaxed)
    }
}

impl Group {
    /// Waits until the replica has applied an index; false at the deadline.
    pub(super) async fn reaches(&self, index: u64, deadline: Instant) -> bool {
        if self.applied() >= index {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = self.raft().wait(Some(left));
        let waited = wait.applied_index_at_least(Some(index), "a position");
        waited.await.is_ok() && self.applied() >= index
    }

    fn applied(&self) -> u64 {
        self.machine().applied().id.map_or(0, |id| id.index)
    }
}
