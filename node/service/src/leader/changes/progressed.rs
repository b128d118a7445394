//! Waiting until a shard's replica here has applied more. However many wait, the replica is watched by one task for each shard, and only
//! while somebody waits.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::ShardId;
use tokio::sync::watch;

use crate::ports::Groups;

/// A watch looks so often whether anybody waits still.
const LOOK: Duration = Duration::from_secs(5);

/// How far the replicas here are.
pub(crate) struct Progressed {
    groups: Arc<dyn Groups>,
    watches: Mutex<HashMap<ShardId, watch::Receiver<u64>>>,
    this: Weak<Progressed>,
}

impl Progressed {
    pub(crate) fn new(groups: Arc<dyn Groups>) -> Arc<Progressed> {
        Arc::new_cyclic(|this| Progressed {
            groups,
            watches: Mutex::default(),
            this: this.clone(),
        })
    }

    /// Waits until the replica here has applied `index`; false at the deadline, or without a replica.
    pub(crate) async fn reach(&self, shard: ShardId, index: u64, deadline: Instant) -> bool {
        if self.applied(shard) >= Some(index) {
            return true;
        }
        let mut watch = self.watch(shard);
        let reached = watch.wait_for(|applied| *applied >= index);
        let reached = tokio::time::timeout_at(deadline.into(), reached).await;
        matches!(reached, Ok(Ok(_))) || self.applied(shard) >= Some(index)
    }

    /// Waits until the replica here has applied more than `index`; comes back too early where it is not watched any more.
    pub(crate) async fn pass(&self, shard: ShardId, index: u64) {
        let mut watch = self.watch(shard);
        // What it ends with does not matter: whoever waits looks again.
        let _ = watch.wait_for(|applied| *applied > index).await;
    }

    fn applied(&self, shard: ShardId) -> Option<u64> {
        let applied = self.groups.replica(shard)?.applied();
        Some(applied.id.map_or(0, |id| id.index))
    }

    fn watch(&self, shard: ShardId) -> watch::Receiver<u64> {
        let mut watches = self.watches.lock();
        let known = watches
            .get(&shard)
            .filter(|watch| watch.has_changed().is_ok());
        if let Some(watch) = known {
            return watch.clone();
        }
        let (sender, watch) = watch::channel(self.applied(shard).unwrap_or_default());
        watches.insert(shard, watch.clone());
        tokio::spawn(follow(self.this.clone(), shard, sender));
        watch
    }

    /// Forgets the watch of a shard that nobody but this table holds. True: it is forgotten.
    fn forget(&self, shard: ShardId, sender: &watch::Sender<u64>) -> bool {
        let mut watches = self.watches.lock();
        let is_idle = sender.receiver_count() <= 1;
        if is_idle {
            watches.remove(&shard);
        }
        is_idle
    }
}

/// Publishes how far the replica of a shard is, until nobody wants to know.
async fn follow(progressed: Weak<Progressed>, shard: ShardId, sender: watch::Sender<u64>) {
    let Some(groups) = progressed.upgrade().map(|this| Arc::clone(&this.groups)) else {
        return;
    };
    loop {
        let seen = *sender.borrow();
        let until = Instant::now() + LOOK;
        if !groups.reaches(shard, seen + 1, until).await {
            // Without a replica the answer comes at once.
            tokio::time::sleep_until(until.into()).await;
        }
        let Some(this) = progressed.upgrade() else {
            return;
        };
        if let Some(applied) = this.applied(shard) {
            sender.send_if_modified(|held| std::mem::replace(held, applied.max(*held)) != *held);
        }
        if Instant::now() >= until && this.forget(shard, &sender) {
            return;
        }
    }
}
