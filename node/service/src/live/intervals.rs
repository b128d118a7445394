//! Ranges of bytes, asked which of them hold a value.
//!
//! An interval tree in one sorted vector: the middle of each part knows which range of the part ends last, so parts that end before a value
//! are passed over. What is new waits in a short list beside it, what is gone is marked, and both are settled now and then. So a question
//! costs `log n` and what it finds, and a change a little more.
//!
//! Not a crate: those that can take ranges away again want ends that are `Copy`.

use document::index::Range;

/// New ranges that wait at most, or an eighth of all: they are looked at one by one.
const FRESH_MAX: usize = 64;

/// See the module. A range may be there several times, each with an id of its own.
#[derive(Debug)]
pub(super) struct Intervals<I> {
    /// By `from`, then id.
    sorted: Vec<Span<I>>,
    /// At the middle of each part of `sorted`, as [`settle`] halves it: which of the part ends last.
    last: Vec<usize>,
    fresh: Vec<Span<I>>,
    /// Marked ones in `sorted`.
    gone: usize,
}

#[derive(Debug)]
struct Span<I> {
    range: Range,
    id: I,
    is_gone: bool,
}

impl<I> Span<I> {
    fn is_behind(&self, value: &[u8]) -> bool {
        self.range.to.is_empty() || self.range.to.as_slice() > value
    }

    fn ends_later(&self, other: &Span<I>) -> bool {
        let (one, two) = (&self.range.to, &other.range.to);
        !two.is_empty() && (one.is_empty() || one > two)
    }
}

impl<I> Default for Intervals<I> {
    fn default() -> Intervals<I> {
        Intervals {
            sorted: Vec::new(),
            last: Vec::new(),
            fresh: Vec::new(),
            gone: 0,
        }
    }
}

impl<I: Copy + Ord> Intervals<I> {
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.sorted.len() == self.gone
    }

    pub(super) fn insert(&mut self, range: Range, id: I) {
        self.fresh.push(Span {
            range,
            id,
            is_gone: false,
        });
        if self.fresh.len() > FRESH_MAX.max(self.sorted.len() / 8) {
            self.settle();
        }
    }

    /// Takes away one that was inserted with this range and id.
    pub(super) fn remove(&mut self, range: &Range, id: I) {
        let is_it = |span: &Span<I>| span.id == id && span.range == *range;
        if let Some(at) = self.fresh.iter().position(is_it) {
            self.fresh.swap_remove(at);
            return;
        }
        let first = self
            .sorted
            .partition_point(|span| (&span.range.from, span.id) < (&range.from, id));
        let mut same = self.sorted[first..].iter_mut();
        if let Some(span) = same.find(|span| is_it(span) && !span.is_gone) {
            span.is_gone = true;
            self.gone += 1;
        }
        if self.gone > FRESH_MAX.max(self.sorted.len() / 2) {
            self.settle();
        }
    }

    /// Shows the ids of all ranges that hold the value, in no order; of one with several such ranges several times.
    pub(super) fn holding(&self, value: &[u8], each: &mut impl FnMut(I)) {
        for span in &self.fresh {
            if span.range.from.as_slice() <= value && span.is_behind(value) {
                each(span.id);
            }
        }
        self.visit(0, self.sorted.len(), value, each);
    }

    /// Shows the ids of all ranges, in no order.
    pub(super) fn all(&self, each: &mut impl FnMut(I)) {
        let spans = self.fresh.iter().chain(&self.sorted);
        spans
            .filter(|span| !span.is_gone)
            .for_each(|span| each(span.id));
    }

    fn visit(&self, low: usize, high: usize, value: &[u8], each: &mut impl FnMut(I)) {
        if low >= high {
            return;
        }
        let middle = low.midpoint(high);
        if !self.sorted[self.last[middle]].is_behind(value) {
            return;
        }
        self.visit(low, middle, value, each);
        let span = &self.sorted[middle];
        if span.range.from.as_slice() <= value {
            if span.is_behind(value) && !span.is_gone {
                each(span.id);
            }
            self.visit(middle + 1, high, value, each);
        }
    }

    fn settle(&mut self) {
        self.sorted.append(&mut self.fresh);
        self.sorted.retain(|span| !span.is_gone);
        self.sorted
            .sort_unstable_by(|one, two| (&one.range.from, one.id).cmp(&(&two.range.from, two.id)));
        self.gone = 0;
        self.last = vec![0; self.sorted.len()];
        settle(&self.sorted, &mut self.last, 0, self.sorted.len());
    }
}

/// Notes for the part and all parts of it which range ends last; gives that of the part.
fn settle<I>(sorted: &[Span<I>], last: &mut [usize], low: usize, high: usize) -> Option<usize> {
    if low >= high {
        return None;
    }
    let middle = low.midpoint(high);
    let below = settle(sorted, last, low, middle);
    let above = settle(sorted, last, middle + 1, high);
    let ends = below.into_iter().chain(above);
    let latest = ends.fold(middle, |latest, at| {
        match sorted[at].ends_later(&sorted[latest]) {
            true => at,
            false => latest,
        }
    });
    last[middle] = latest;
    Some(latest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = Range> {
        let bytes = || proptest::collection::vec(0u8..4, 0..3);
        (bytes(), bytes()).prop_map(|(from, to)| Range { from, to })
    }

    proptest! {
        #[test]
        fn the_same_is_found_as_by_looking_at_all(
            ranges in proptest::collection::vec(range(), 0..300),
            removed in proptest::collection::vec(any::<bool>(), 300),
            values in proptest::collection::vec(proptest::collection::vec(0u8..5, 0..3), 8),
        ) {
            let mut intervals = Intervals::default();
            let mut kept = Vec::new();
            for (id, range) in ranges.into_iter().enumerate() {
                intervals.insert(range.clone(), id);
                kept.push((range, id));
                if removed[id] {
                    let (range, id) = kept.swap_remove(id % kept.len());
                    intervals.remove(&range, id);
                }
            }
            prop_assert_eq!(intervals.is_empty(), kept.is_empty());
            for value in values {
                let mut found = Vec::new();
                intervals.holding(&value, &mut |id| found.push(id));
                found.sort_unstable();
                let holds = |range: &Range| range.from <= value && (range.to.is_empty() || range.to > value);
                let mut expected: Vec<usize> =
                    kept.iter().filter(|(range, _)| holds(range)).map(|(_, id)| *id).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
