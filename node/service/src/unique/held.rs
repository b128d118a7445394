//! What one write holds of values that are not yet its document's, from the first reservation to the end of the write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;

use super::settling::Work;
use super::{Taking, Unique};

/// Rounds of one write that end unclaimed before it is given back: fences meant for others are rare, and who competes for a value
/// has lost by then.
const MISSES_MAX: u32 = 12;
/// Longest pause after the first of them; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(4);
/// Longest pause of all.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// The reservations of one write. However the write ends, also by being dropped in the middle, what it does not need is settled.
pub(crate) struct Held {
    unique: Arc<Unique>,
    /// Rounds that apply refused as unclaimed.
    misses: u32,
    /// What this round reserves, with the index of the entry once it is known.
    wanted: BTreeMap<Taking, Option<u64>>,
    /// What only earlier rounds reserved.
    earlier: BTreeSet<Taking>,
    /// Of this round: what documents hold afterwards and did not before.
    kept: BTreeSet<Taking>,
    /// Of this round: the other way round.
    given_up: BTreeSet<Taking>,
}

impl Held {
    pub(crate) fn new(unique: &Arc<Unique>) -> Held {
        Held {
            unique: Arc::clone(unique),
            misses: 0,
            wanted: BTreeMap::new(),
            earlier: BTreeSet::new(),
            kept: BTreeSet::new(),
            given_up: BTreeSet::new(),
        }
    }

    /// Begins a round that is about to reserve `wanted`.
    pub(crate) fn begin(
        &mut self,
        wanted: Vec<Taking>,
        kept: BTreeSet<Taking>,
        given_up: BTreeSet<Taking>,
    ) {
        self.earlier
            .extend(std::mem::take(&mut self.wanted).into_keys());
        self.wanted = wanted.into_iter().map(|taking| (taking, None)).collect();
        (self.kept, self.given_up) = (kept, given_up);
    }

    /// What this round wants.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Taking> {
        self.wanted.keys()
    }

    /// Notes a reservation.
    pub(super) fn reserved(&mut self, taking: Taking, reserved: u64) {
        self.wanted.insert(taking, Some(reserved));
    }

    /// Whether a round was refused as unclaimed before.
    pub(crate) fn is_retry(&self) -> bool {
        self.misses > 0
    }

    /// Notes that apply refused a round as unclaimed; says how long to wait before the next one, `None`: no more.
    pub(crate) fn miss(&mut self) -> Option<Duration> {
        self.misses += 1;
        if self.misses > MISSES_MAX {
            return None;
        }
        let longest = PAUSE_FIRST
            .saturating_mul(1 << self.misses.min(8))
            .min(PAUSE_MAX);
        Some(longest.mul_f64(rand::rng().random()))
    }

    /// The write took effect.
    pub(crate) fn written(mut self) {
        let wanted = std::mem::take(&mut self.wanted);
        for taking in std::mem::take(&mut self.earlier) {
            if !wanted.contains_key(&taking) {
                self.unique.queue.push(Work::Settle(taking));
            }
        }
        for (taking, reserved) in wanted {
            match reserved.filter(|_| self.kept.contains(&taking)) {
                Some(reserved) => self
                    .unique
                    .queue
                    .push(Work::Confirm(taking.value, reserved)),
                None => self.unique.queue.push(Work::Settle(taking)),
            }
        }
        for taking in std::mem::take(&mut self.given_up) {
            self.unique.queue.push(Work::Settle(taking));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = std::mem::take(&mut self.earlier);
        all.extend(std::mem::take(&mut self.wanted).into_keys());
        for taking in all {
            self.unique.queue.push(Work::Settle(taking));
        }
    }
}
