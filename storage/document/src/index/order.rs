//! Which orders a walk over an index gives, and where a walk goes on.
//!
//! A walk gives an order if it meets each document first at its place in it, as far as the components go that the order is made of. So
//! those behind components that the filter leaves one value of count, and of a list only where the filter leaves all: its least or
//! greatest element decides, and a filter might leave others.

use super::compiled::{Component, Index};
use super::encoding::{COMPONENT_BYTES_MAX, after, invert, ordered_end};
use super::lists::Lists;
use super::plan::IndexAccess;
use super::ranges::Reach;
use crate::query::{Sort, SortKey};

/// How an index gives the order of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexOrder {
    /// From the last value to the first.
    pub backward: bool,
    /// Components of a value that the order is made of, those included that are the same for all. Values that agree in them
    /// ([`Index::tie`]) are in no particular order.
    pub components: usize,
    /// All values are the same, and entries with equal values lie in the order of ids: the walk gives all of the order of the query.
    pub by_id: bool,
    /// The first components, which are the same for all.
    pub(super) same: usize,
    /// The first fields of the order of the query, which are the same for all documents, and in bits which of them are descending.
    pub(super) passed: usize,
    pub(super) passed_descending: u64,
    /// All fields of the order of the query are components.
    pub is_whole: bool,
}

impl IndexOrder {
    pub(super) fn of(index: &Index, reach: &Reach, sort: &Sort) -> Option<IndexOrder> {
        let fields = sort.fields()?;
        let components = &index.0.components;
        let same = reach.points.len();
        let is_same = |path: &str| {
            components
                .iter()
                .zip(&reach.points)
                .any(|(component, is_same)| *is_same && component.path.text() == path)
        };
        let passed = fields.iter().take_while(|(path, _)| is_same(path)).count();
        let passed_descending = fields[..passed]
            .iter()
            .enumerate()
            .fold(0, |bits, (at, (_, descending))| {
                bits | u64::from(*descending) << at
            });
        let mut direction = None;
        let mut count = 0;
        for ((path, descending), (at, component)) in fields[passed..]
            .iter()
            .zip(components.iter().enumerate().skip(same))
        {
            let backward = *descending != component.is_descending();
            let gives = component.path.text() == *path
                && component.gives_order(at < reach.bounded)
                && direction.unwrap_or(backward) == backward;
            if !gives {
                break;
            }
            direction = Some(backward);
            count += 1;
        }
        let is_whole = passed + count == fields.len();
        // One value alone, even if it stands for several of documents. Without fields documents come by key, which is another order than by
        // id: escapes are elsewhere.
        let by_id = is_whole && !fields.is_empty() && count == 0 && same == components.len();
        (count > 0 || by_id).then(|| IndexOrder {
            backward: direction.unwrap_or(false),
            components: same + count,
            by_id,
            same,
            passed,
            passed_descending,
            is_whole,
        })
    }
}

impl Component {
    fn gives_order(&self, is_bounded: bool) -> bool {
        let is_least_kept = self.lists == Lists::Never || !is_bounded;
        let is_ordered = !self.is_geo() && self.key.is_none();
        is_ordered && !self.path.has_index() && is_least_kept
    }
}

impl Index {
    /// What values have in common that a walk meets in no particular order: the first `components` components, or fewer where one is so
    /// long that it may have been cut off. A walk has passed all documents that come before another one in the order once this changes.
    pub fn tie<'v>(&self, value: &'v [u8], components: usize) -> &'v [u8] {
        let mut end = 0;
        for component in self.0.components.iter().take(components) {
            let length = component.end(&value[end..]);
            end += length;
            if length >= COMPONENT_BYTES_MAX {
                break;
            }
        }
        &value[..end]
    }
}

impl IndexAccess {
    /// Leaves out what a walk in order has passed when it comes to the place of a document in the order of the query. What is left may
    /// begin with documents before that place. Changes nothing if the walk gives no order.
    pub fn resume(&mut self, index: &Index, place: &SortKey) {
        let (Some(order), Some(first)) = (self.order, self.ranges.first()) else {
            return;
        };
        let mut from = index.prefix(&first.from, order.same).to_vec();
        let mut rest = place.as_bytes();
        if order.by_id {
            // Behind the last slash of the id is the key as entries have it.
            let key = rest
                .iter()
                .rposition(|byte| *byte == b'/')
                .map_or(0, |at| at + 1);
            from.extend_from_slice(&rest[key..]);
        }
        for at in 0..order.passed {
            let is_descending = order.passed_descending >> at & 1 == 1;
            rest = &rest[ordered_end(rest, is_descending)..];
        }
        for component in &index.0.components[order.same..order.components] {
            let length = ordered_end(rest, component.is_descending() != order.backward);
            let (part, behind) = rest.split_at(length.min(COMPONENT_BYTES_MAX));
            rest = behind;
            from.extend_from_slice(part);
            if order.backward {
                let start = from.len() - part.len();
                invert(&mut from[start..]);
            }
            if length >= COMPONENT_BYTES_MAX {
                break;
            }
        }
        if order.backward {
            let to = after(&from);
            self.ranges.retain(|range| range.from < to || to.is_empty());
            if let Some(last) = self.ranges.last_mut()
                && !to.is_empty()
                && (last.to.is_empty() || last.to > to)
            {
                last.to = to;
            }
        } else {
            self.ranges
                .retain(|range| range.to.is_empty() || range.to > from);
            if let Some(first) = self.ranges.first_mut()
                && first.from < from
            {
                first.from = from;
            }
        }
    }
}
