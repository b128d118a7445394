//! The first documents of an order, out of a walk in another one.
//!
//! Invariants:
//! - What is kept is a gapless beginning: nothing that was dropped comes before anything that is kept.
//! - At most `documents_max` documents and about `bytes_max` bytes are held, but always one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use bytes::Bytes;

use crate::forward::Hit;

/// See the module.
pub(super) struct Top {
    documents_max: usize,
    bytes_max: usize,
    /// The last in order on top.
    kept: BinaryHeap<Ranked>,
    bytes: usize,
    /// The first in order of all that were dropped.
    dropped: Option<Bytes>,
    /// The walk ended before its end.
    is_cut: bool,
}

impl Top {
    pub(super) fn new(documents_max: usize, bytes_max: usize) -> Top {
        Top {
            documents_max: documents_max.max(1),
            bytes_max,
            kept: BinaryHeap::new(),
            bytes: 0,
            dropped: None,
            is_cut: false,
        }
    }

    /// Whether what comes behind everything that was offered so far would be dropped.
    pub(super) fn is_settled(&self) -> bool {
        self.is_full() || self.dropped.is_some()
    }

    fn is_full(&self) -> bool {
        self.kept.len() >= self.documents_max || self.bytes >= self.bytes_max
    }

    /// What was not offered comes behind what is kept: there may be more.
    pub(super) fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Whether a document at this place would be kept. If not, it counts as dropped.
    pub(super) fn wants(&mut self, place: &[u8]) -> bool {
        if self.dropped.as_ref().is_some_and(|first| place > first) {
            return false;
        }
        let last = self.kept.peek();
        if self.is_full() && last.is_some_and(|last| place > &last.0.sort[..]) {
            self.dropped = Some(Bytes::copy_from_slice(place));
            return false;
        }
        true
    }

    /// Keeps a document that is [wanted](Self::wants), and drops the last ones if there are too many.
    pub(super) fn insert(&mut self, hit: Hit) {
        self.bytes += hit.bytes();
        self.kept.push(Ranked(hit));
        while self.kept.len() > 1 && self.is_over() {
            if let Some(Ranked(last)) = self.kept.pop() {
                self.bytes -= last.bytes();
                self.dropped = Some(last.sort);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.kept.len() > self.documents_max || self.bytes > self.bytes_max
    }

    /// What was kept in order, and whether there may be more.
    pub(super) fn into_sorted(self) -> (Vec<Hit>, bool) {
        let kept = self.kept.into_sorted_vec();
        let hits = kept.into_iter().map(|Ranked(hit)| hit).collect();
        (hits, self.is_cut || self.dropped.is_some())
    }
}

/// A document, compared by its place.
struct Ranked(Hit);

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.0.sort.cmp(&other.0.sort)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hit(place: u16, bytes: usize) -> Hit {
        Hit {
            sort: Bytes::copy_from_slice(&place.to_be_bytes()),
            body: vec![b'x'; bytes].into(),
            ..Hit::default()
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_a_gapless_beginning_within_bounds(
            offered in proptest::collection::vec((any::<u16>(), 0..50_usize), 0..60),
            documents_max in 1..20_usize,
            bytes_max in 1..300_usize,
        ) {
            let mut offered = offered;
            let mut seen = std::collections::HashSet::new();
            offered.retain(|(place, _)| seen.insert(*place));
            let mut top = Top::new(documents_max, bytes_max);
            for &(place, bytes) in &offered {
                let hit = hit(place, bytes);
                if top.wants(&hit.sort) {
                    top.insert(hit);
                }
            }
            let (kept, is_cut) = top.into_sorted();
            let total: usize = kept.iter().map(Hit::bytes).sum();
            prop_assert!(kept.len() <= documents_max);
            prop_assert!(total <= bytes_max || kept.len() == 1);
            offered.sort_unstable();
            let expected: Vec<Hit> =
                offered.iter().take(kept.len()).map(|&(place, bytes)| hit(place, bytes)).collect();
            prop_assert_eq!(&kept, &expected);
            prop_assert_eq!(is_cut, kept.len() < offered.len());
            prop_assert_eq!(kept.is_empty(), offered.is_empty());
        }
    }
}
