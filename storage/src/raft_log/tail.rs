//! The newest entries of one log, in memory, and the budget that the tails of all logs share.
//!
//! Invariants:
//! - Contiguous indexes, ending at the log's last entry; empty, or a suffix of the log.
//! - Holds every entry that is not written yet: only written ones are evicted, oldest first, so what is missing here can be read from
//!   the database.
//! - Written entries of all tails together stay within the [`Budget`]. Half of it is dealt out evenly, so that no group is left
//!   without; the other half belongs to whoever needs it, and goes back when its entries leave.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::LogEntry;
use crate::ids::LogId;

/// Memory of an entry beside its bytes, roughly.
const ENTRY_OVERHEAD: usize = 96;

/// Bytes that the tails of a node may hold together.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: usize,
    tails: AtomicUsize,
    /// Bytes of the common half that are taken.
    taken: AtomicUsize,
    /// What all tails hold, entries that are not written included.
    held: AtomicUsize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            tails: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
        })
    }

    /// What all tails hold now.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn common(&self) -> usize {
        self.bytes_max / 2
    }

    fn share(&self) -> usize {
        (self.bytes_max - self.common()) / self.tails.load(Ordering::Relaxed).max(1)
    }

    /// Changes what one tail has of the common half from `from` bytes towards `to`; gives what it has then.
    fn take(&self, from: usize, to: usize) -> usize {
        if to <= from {
            self.taken.fetch_sub(from - to, Ordering::Relaxed);
            return to;
        }
        let mut more = 0;
        let _ = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                more = (to - from).min(self.common().saturating_sub(taken));
                Some(taken + more)
            });
        from + more
    }
}

#[derive(Debug)]
struct Slot {
    entry: LogEntry,
    /// Number of the append that brought it.
    append: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tail {
    slots: VecDeque<Slot>,
    bytes: usize,
    budget: Arc<Budget>,
    /// What this tail has of the common half.
    extra: usize,
    /// All appends up to this number are in the database.
    written: u64,
}

impl Tail {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        budget.tails.fetch_add(1, Ordering::Relaxed);
        Self {
            slots: VecDeque::new(),
            bytes: 0,
            budget,
            extra: 0,
            written: 0,
        }
    }

    /// Index of the oldest entry held.
    pub(super) fn first(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.entry.id.index)
    }

    pub(super) fn get(&self, index: u64) -> Option<&LogEntry> {
        let offset = index.checked_sub(self.first()?)?;
        self.slots
            .get(usize::try_from(offset).ok()?)
            .map(|slot| &slot.entry)
    }

    /// Entries from `from` up, none if that one is not held.
    pub(super) fn from(&self, from: u64) -> impl Iterator<Item = &LogEntry> {
        let offset = self
            .first()
            .and_then(|first| from.checked_sub(first))
            .and_then(|offset| usize::try_from(offset).ok());
        let start = offset.unwrap_or(self.slots.len()).min(self.slots.len());
        self.slots.range(start..).map(|slot| &slot.entry)
    }

    /// Adds the entries of append number `append`, which continue the log.
    pub(super) fn extend(&mut self, entries: &[LogEntry], append: u64) {
        for entry in entries {
            self.slots.push_back(Slot {
                entry: entry.clone(),
                append,
            });
        }
        self.grow(entries.iter().map(cost).sum());
        self.evict();
    }

    /// Notes that all appends up to number `append` are in the database.
    pub(super) fn written(&mut self, append: u64) {
        self.written = self.written.max(append);
        self.evict();
    }

    /// Drops entries past `last`.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        while let Some(slot) = self
            .slots
            .pop_back_if(|slot| last.is_none_or(|last| slot.entry.id.index > last.index))
        {
            self.shrink(cost(&slot.entry));
        }
        self.evict();
    }

    /// Drops entries up to `index`.
    pub(super) fn purge(&mut self, index: u64) {
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.entry.id.index <= index) {
            self.shrink(cost(&slot.entry));
        }
        self.evict();
    }

    fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.budget.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn shrink(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes of the budget what the entries need, gives back what they do not, and drops old entries that there is no room for.
    fn evict(&mut self) {
        let share = self.budget.share();
        self.extra = self
            .budget
            .take(self.extra, self.bytes.saturating_sub(share));
        while self.bytes > share + self.extra {
            let Some(slot) = self.slots.pop_front_if(|slot| slot.append <= self.written) else {
                return;
            };
            self.shrink(cost(&slot.entry));
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.budget.tails.fetch_sub(1, Ordering::Relaxed);
        self.budget.take(self.extra, 0);
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn cost(entry: &LogEntry) -> usize {
    entry.bytes.len() + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const TAILS: usize = 4;
    const BUDGET: usize = 8_000;

    fn append(tail: &mut Tail, next: &mut u64, bytes: usize) {
        let entry = LogEntry {
            id: LogId {
                term: 1,
                leader: 1,
                index: *next,
            },
            bytes: Bytes::from(vec![0; bytes]),
        };
        *next += 1;
        tail.extend(&[entry], *next);
        tail.written(*next);
    }

    #[test]
    fn one_busy_log_may_use_what_the_others_leave() {
        let budget = Budget::new(BUDGET);
        let mut tails: Vec<Tail> = (0..TAILS).map(|_| Tail::new(Arc::clone(&budget))).collect();
        let mut next = 0;
        for _ in 0..200 {
            append(&mut tails[0], &mut next, 100);
        }
        let alone = BUDGET / 2 + BUDGET / 2 / TAILS;
        assert!(tails[0].bytes > alone * 9 / 10 && tails[0].bytes <= alone);
        // The others still have their share.
        let mut other = 0;
        for _ in 0..200 {
            append(&mut tails[1], &mut other, 100);
        }
        assert!(tails[1].bytes > BUDGET / 2 / TAILS * 7 / 10);
        tails[0].purge(u64::MAX);
        append(&mut tails[1], &mut other, 100);
        for _ in 0..200 {
            append(&mut tails[1], &mut other, 100);
        }
        assert!(tails[1].bytes > alone * 9 / 10);
        drop(tails);
        assert_eq!(
            (budget.held(), budget.taken.load(Ordering::Relaxed)),
            (0, 0)
        );
    }

    proptest! {
        #[test]
        fn all_tails_together_stay_within_the_budget(
            steps in proptest::collection::vec((0..TAILS, 0_usize..900, 0_u8..10), 1..300)
        ) {
            let budget = Budget::new(BUDGET);
            let mut tails: Vec<Tail> = (0..TAILS).map(|_| Tail::new(Arc::clone(&budget))).collect();
            let mut next = [0; TAILS];
            for (at, bytes, kind) in steps {
                match kind {
                    0 => tails[at].purge(next[at] / 2),
                    1 => {
                        let last = next[at] / 2;
                        tails[at].truncate_after(Some(LogId { term: 1, leader: 1, index: last }));
                        next[at] = next[at].min(last + 1);
                    }
                    _ => append(&mut tails[at], &mut next[at], bytes),
                }
                let held: usize = tails.iter().map(|tail| tail.bytes).sum();
                prop_assert_eq!(held, budget.held());
                prop_assert!(held <= BUDGET, "{} bytes", held);
                prop_assert!(budget.taken.load(Ordering::Relaxed) <= BUDGET / 2);
            }
        }
    }
}
