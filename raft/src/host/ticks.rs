//! The clock of all groups: one task per node in the place of a ticking timer in each group.
//!
//! A group's own ticks serve two ends: its leader's heartbeats and its follower's election. Here the heartbeats of all groups that this
//! node leads are asked for in one beat, so that they travel together, and a group ticks by itself only while it may have to elect: it
//! knows no leader, or has not heard of it for a while.
//!
//! Invariants: a follower ticks again well before its shortest election timeout; a group that could not be asked for its heartbeat ticks;
//! when this task ends, however it ends, every group ticks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{Instant, MissedTickBehavior};

use super::Inner;
use super::group::Group;

/// Looks at all groups between two beats.
const LOOKS: u32 = 4;

/// After so many halves of a heartbeat without news of its leader a follower ticks by itself. With a look (a quarter) and a tick (a
/// fifth) that is less than the two heartbeats which `election_min` exceeds.
const SILENCE_HALVES: u32 = 3;

/// No time that is reached.
const NEVER: u64 = u64::MAX;

/// When a replica last heard of its leader.
#[derive(Debug)]
pub(super) struct Heard {
    start: Instant,
    /// Since `start`.
    at_us: AtomicU64,
}

impl Heard {
    pub(super) fn never() -> Self {
        Self {
            start: Instant::now(),
            at_us: AtomicU64::new(NEVER),
        }
    }

    pub(super) fn now(&self) {
        let us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(NEVER);
        self.at_us.store(us, Ordering::Relaxed);
    }

    fn is_within(&self, silence: Duration) -> bool {
        let at_us = self.at_us.load(Ordering::Relaxed);
        at_us != NEVER && self.start.elapsed() < Duration::from_micros(at_us) + silence
    }
}

/// Whether a group ticks by itself; openraft is told of changes only.
#[derive(Debug)]
pub(super) struct Ticking(AtomicBool);

impl Ticking {
    /// As openraft starts.
    pub(super) fn on() -> Self {
        Self(AtomicBool::new(true))
    }

    fn set(&self, group: &Group, ticks: bool) {
        if self.0.swap(ticks, Ordering::Relaxed) != ticks {
            group.raft().runtime_config().tick(ticks);
        }
    }
}

/// The task.
pub(super) struct Ticks {
    host: Weak<Inner>,
    heartbeat: Duration,
}

impl Ticks {
    pub(super) fn new(host: Weak<Inner>, heartbeat: Duration) -> Self {
        Self { host, heartbeat }
    }

    /// Runs until the host is gone.
    pub(super) async fn run(self) {
        let mut looks = tokio::time::interval(self.heartbeat / LOOKS);
        // After a standstill of the process one beat is as good as all that were missed.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for look in (0..LOOKS).cycle() {
            looks.tick().await;
            let Some(host) = self.host.upgrade() else {
                return;
            };
            let groups: Vec<Arc<Group>> = host.groups.read().values().cloned().collect();
            for group in groups {
                self.look(&group, look == 0);
            }
        }
    }

    fn look(&self, group: &Group, is_beat: bool) {
        let leads = group
            .leader()
            .map(|leader| leader.replica == group.replica_id());
        let ticks = match leads {
            Some(true) if is_beat => !beat(group),
            // What the last beat left.
            Some(true) => return,
            Some(false) => !group.heard().is_within(self.heartbeat * SILENCE_HALVES / 2),
            None => true,
        };
        group.ticking().set(group, ticks);
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        if let Some(host) = self.host.upgrade() {
            for group in host.groups.read().values() {
                group.ticking().set(group, true);
            }
        }
    }
}

/// Asks a leading group for its heartbeats; false: it takes no more requests now.
fn beat(group: &Group) -> bool {
    let trigger = group.raft().trigger();
    // Without waiting for it, and without yielding among many groups: a full queue must not hold up the others.
    tokio::task::unconstrained(trigger.heartbeat())
        .now_or_never()
        .is_some_and(|asked| asked.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_gets_old() {
        let (long, heard) = (Duration::from_secs(3600), Heard::never());
        assert!(!heard.is_within(long), "never heard of");
        heard.now();
        assert!(heard.is_within(long));
        assert!(!heard.is_within(Duration::ZERO));
    }
}
