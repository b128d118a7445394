//! The tick field of commands: time of the log, measured on the proposer's monotonic clock (design, section 7).
//!
//! For each shard one *anchor* is kept: a T that was applied here, and when this node saw it. `anchor + elapsed` can only be slower than
//! real time, so it may be proposed as long as nobody else proposes; the anchor moves when the applied T has overtaken it.
//!
//! An anchor is good for one term. Another leader's T may have stood still while this node's anchor ran on; what that leader gave a horizon
//! would be over too early if this node, leading again, jumped to where its own line is by then. So each term begins with the T that is
//! applied: between any two entries T rises by no more than the time between them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::ShardId;
use proto::log::Tick;
use storage::machine::Replica;

use crate::clock::Clock;

/// Anchors of all shards that were asked about.
pub(crate) struct Ticks {
    clock: Arc<dyn Clock>,
    anchors: Mutex<HashMap<ShardId, Anchor>>,
}

#[derive(Clone, Copy)]
struct Anchor {
    /// The term that it is good for.
    term: u64,
    base_us: u64,
    seen: Duration,
}

impl Ticks {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Ticks {
        Ticks {
            clock,
            anchors: Mutex::default(),
        }
    }

    /// The tick of a command that is proposed now, by the leader of this term.
    pub(crate) fn tick(
        &self,
        shard: ShardId,
        replica: &Replica,
        term: u64,
        commit_index: u64,
    ) -> Tick {
        let now = self.clock.elapsed();
        let applied_us = replica.applied().time_us;
        let mut anchors = self.anchors.lock();
        let anchor = anchors.entry(shard).or_insert(Anchor {
            term,
            base_us: applied_us,
            seen: now,
        });
        let (base_us, elapsed_us) = anchor.advance(term, applied_us, now);
        Tick {
            base_us,
            elapsed_us,
            commit_index,
        }
    }
}

impl Anchor {
    /// The base and what has passed since, after a look at the applied T.
    fn advance(&mut self, term: u64, applied_us: u64, now: Duration) -> (u64, u64) {
        let elapsed = now.saturating_sub(self.seen);
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        if term != self.term || applied_us > self.base_us.saturating_add(elapsed_us) {
            *self = Anchor {
                term,
                base_us: applied_us,
                seen: now,
            };
            return (applied_us, 0);
        }
        (self.base_us, elapsed_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor() -> Anchor {
        Anchor {
            term: 1,
            base_us: 100,
            seen: Duration::ZERO,
        }
    }

    #[test]
    fn time_runs_at_full_speed_from_one_anchor() {
        let mut anchor = anchor();
        assert_eq!(anchor.advance(1, 100, Duration::from_micros(5)), (100, 5));
        // What was applied came from this very anchor.
        assert_eq!(anchor.advance(1, 105, Duration::from_micros(9)), (100, 9));
    }

    #[test]
    fn a_faster_proposer_moves_the_anchor() {
        let mut anchor = anchor();
        assert_eq!(anchor.advance(1, 200, Duration::from_micros(5)), (200, 0));
        assert_eq!(anchor.advance(1, 200, Duration::from_micros(8)), (200, 3));
    }

    #[test]
    fn who_leads_again_begins_with_what_is_applied() {
        let mut anchor = anchor();
        let minute = Duration::from_secs(60);
        // Another leader's T stood at 110 for a minute; it must not jump to where this node's line would be.
        assert_eq!(anchor.advance(3, 110, minute), (110, 0));
        let later = minute + Duration::from_micros(7);
        assert_eq!(anchor.advance(3, 110, later), (110, 7));
    }
}
