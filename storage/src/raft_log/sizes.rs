//! How many bytes one log holds, known without reading it.
//!
//! Running totals with a mark every [`MARK_BYTES`]: a mark says how much had been appended below an index. What a removal leaves
//! is a difference of two totals; between two marks it is interpolated, so it may be off by one mark, and never adds up.

use std::collections::VecDeque;

/// Between two marks. A log of a gigabyte has sixteen thousand of them.
const MARK_BYTES: u64 = 64 << 10;

/// What an entry takes on disk beside its bytes: key, log id, checksum.
pub(super) const ENTRY_OVERHEAD: u64 = 48;

/// All that was ever appended below index `next`.
#[derive(Clone, Copy, Debug)]
struct Mark {
    next: u64,
    total: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sizes {
    /// What is before the first entry.
    begin: Mark,
    /// Ascending, above `begin`.
    marks: VecDeque<Mark>,
    /// After the last entry.
    end: Mark,
}

impl Sizes {
    /// An empty log whose first entry will be `next`.
    pub(super) fn new(next: u64) -> Self {
        let here = Mark { next, total: 0 };
        Self {
            begin: here,
            marks: VecDeque::new(),
            end: here,
        }
    }

    /// Bytes of all entries in the log.
    pub(super) fn bytes(&self) -> u64 {
        self.end.total - self.begin.total
    }

    /// Entry `index`, which follows the last one or is the first, has `bytes`.
    pub(super) fn push(&mut self, index: u64, bytes: u64) {
        if self.bytes() == 0 {
            self.begin.next = index;
        }
        self.end = Mark {
            next: index.saturating_add(1),
            total: self.end.total + bytes + ENTRY_OVERHEAD,
        };
        let marked = self.marks.back().unwrap_or(&self.begin).total;
        if self.end.total - marked >= MARK_BYTES {
            self.marks.push_back(self.end);
        }
    }

    /// Entries from `next` on are gone.
    pub(super) fn truncate(&mut self, next: u64) {
        if next >= self.end.next {
            return;
        }
        if next <= self.begin.next {
            *self = Self::new(next);
            return;
        }
        let total = self.total_below(next);
        while self.marks.pop_back_if(|mark| mark.next > next).is_some() {}
        self.end = Mark { next, total };
    }

    /// Entries below `next` are gone.
    pub(super) fn purge(&mut self, next: u64) {
        if next <= self.begin.next {
            return;
        }
        if next >= self.end.next {
            *self = Self::new(next);
            return;
        }
        let total = self.total_below(next);
        while self.marks.pop_front_if(|mark| mark.next <= next).is_some() {}
        self.begin = Mark { next, total };
    }

    /// The highest index below which all can be purged so that at least `keep` bytes stay; at the precision of the marks, so rather
    /// more stay.
    pub(super) fn purge_point(&self, keep: u64) -> u64 {
        let limit = self.end.total.saturating_sub(keep);
        let after = self.marks.partition_point(|mark| mark.total <= limit);
        after
            .checked_sub(1)
            .and_then(|at| self.marks.get(at))
            .map_or(self.begin.next, |mark| mark.next)
    }

    fn total_below(&self, next: u64) -> u64 {
        let after = self.marks.partition_point(|mark| mark.next < next);
        let above = self.marks.get(after).copied().unwrap_or(self.end);
        let below = after
            .checked_sub(1)
            .and_then(|at| self.marks.get(at))
            .copied()
            .unwrap_or(self.begin);
        if next >= above.next {
            return above.total;
        }
        let (bytes, entries) = (above.total - below.total, above.next - below.next);
        below.total + bytes / entries * (next - below.next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_emptied_log_holds_nothing() {
        let mut sizes = Sizes::new(0);
        for index in 1..=100 {
            sizes.push(index, 10_000);
        }
        assert_eq!(sizes.bytes(), 100 * (10_000 + ENTRY_OVERHEAD));
        sizes.purge(101);
        assert_eq!(sizes.bytes(), 0);
        sizes.push(101, 5);
        assert_eq!(sizes.bytes(), 5 + ENTRY_OVERHEAD);
        sizes.truncate(101);
        assert_eq!(sizes.bytes(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        Truncate(u64),
        Purge(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..50_000_u64).prop_map(Step::Push),
            1 => (0..20_u64).prop_map(Step::Truncate),
            1 => (0..20_u64).prop_map(Step::Purge),
        ]
    }

    proptest! {
        /// Against a list of all sizes: never off by more than what two interpolations can be.
        #[test]
        fn totals_follow_the_log(steps in prop::collection::vec(step(), 1..300)) {
            let mut sizes = Sizes::new(0);
            let (mut first, mut log) = (0_u64, VecDeque::new());
            for step in steps {
                let end = first + log.len() as u64;
                match step {
                    Step::Push(bytes) => {
                        sizes.push(end, bytes);
                        log.push_back(bytes + ENTRY_OVERHEAD);
                    }
                    Step::Truncate(count) => {
                        let next = end.saturating_sub(count).max(first);
                        sizes.truncate(next);
                        log.truncate((next - first) as usize);
                    }
                    Step::Purge(count) => {
                        let next = (first + count).min(end);
                        sizes.purge(next);
                        log.drain(..(next - first) as usize);
                        first = next;
                    }
                }
                let held: u64 = log.iter().sum();
                let slack = 2 * (MARK_BYTES + 50_000 + ENTRY_OVERHEAD);
                prop_assert!(sizes.bytes().abs_diff(held) <= slack, "{} for {held}", sizes.bytes());
                if log.is_empty() {
                    prop_assert_eq!(sizes.bytes(), 0);
                }
                for keep in [0, held / 2, held * 2] {
                    let point = sizes.purge_point(keep);
                    prop_assert!(point >= first && point <= first + log.len() as u64);
                    let left: u64 = log.iter().skip((point - first) as usize).sum();
                    prop_assert!(left + slack >= keep.min(held), "{left} of {held} are left, not {keep}");
                }
            }
        }
    }
}
