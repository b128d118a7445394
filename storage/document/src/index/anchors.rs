//! Where a filter is found by the documents that it may match: the other way round of an index, which finds documents by a filter.
//!
//! A filter is anchored in the values of one path, one of which every document has that it matches; or, if one of several filters must
//! hold, in those of one path for each. The values are those of an index of that path alone, so what holds for plans holds here: an
//! anchor is never too small.

use std::sync::Arc;

use super::compiled::Index;
use super::conditions::Conditions;
use super::definition::{Definition, Kind};
use super::ranges::{Range, Reach};
use crate::query::Filter;
use crate::query::value::Kind as ValueKind;
use crate::schema::Layout;

/// The most anchors of one filter.
const ANCHORS_MAX: usize = 64;
/// The most values or ranges of one anchor: a filter is kept under each.
const PLACES_MAX: usize = 256;

/// Values of one path.
#[derive(Clone, Debug)]
pub struct Anchor {
    /// An index of the path alone.
    pub index: Index,
    /// Ascending and disjoint. A document that the filter matches has a value of [`Self::index`] within one of them.
    pub ranges: Vec<Range>,
    /// Each range is one value, its `from`.
    pub is_points: bool,
}

/// Where a filter is anchored: whatever it matches has a value within one of the anchors. Without any it matches nothing. `None`: it
/// cannot be anchored, as it is about no values, or about too many.
///
/// The choice depends on the filter alone, so it is the same when it is taken away again.
pub fn anchors(filter: &Filter) -> Option<Vec<Anchor>> {
    let (layout, expression) = filter.condition()?;
    let conditions = Conditions::of(expression);
    if conditions.is_never {
        return Some(Vec::new());
    }
    let whole = best(&conditions, layout);
    if let Some(whole) = &whole
        && whole.is_points
    {
        return Some(vec![whole.clone()]);
    }
    let union = conditions.choices.iter().find_map(|(number, filters)| {
        let mut all = Vec::with_capacity(filters.len());
        for filter in *filters {
            let conditions = conditions.with_choice(*number, filter);
            if !conditions.is_never {
                all.push(best(&conditions, layout)?);
            }
        }
        let is_better = whole.is_none() || all.iter().all(|anchor| anchor.is_points);
        (all.len() <= ANCHORS_MAX && is_better).then_some(all)
    });
    union.or_else(|| whole.map(|whole| vec![whole]))
}

/// The anchor of all conditions together that the fewest documents are likely to meet.
fn best(conditions: &Conditions<'_>, layout: &Arc<Layout>) -> Option<Anchor> {
    let mut paths: Vec<(&str, Kind)> = Vec::new();
    for term in &conditions.terms {
        let kind = match term.test.is_place() {
            true => Kind::Geo,
            false => Kind::Ascending,
        };
        if !paths.contains(&(&term.path, kind)) {
            paths.push((&term.path, kind));
        }
    }
    let anchors = paths
        .into_iter()
        .filter_map(|(path, kind)| of_path(path, kind, conditions, layout));
    anchors.min_by_key(dearness)
}

fn of_path(
    path: &str,
    kind: Kind,
    conditions: &Conditions<'_>,
    layout: &Arc<Layout>,
) -> Option<Anchor> {
    let definition = Definition {
        keys: vec![(path.to_owned(), kind)],
        unique: false,
    };
    let index = Index::compile(&definition, layout).ok()?;
    // Of several conditions on the elements of a list the one with the fewest ranges.
    let reach = Reach::of(&index, conditions, &mut |ranges, _| ranges.len() as u64);
    // What only leaves something out leads nowhere.
    let is_rest = reach.ranges.iter().any(|range| range.from.is_empty());
    let is_anchor = reach.bounded > 0 && !is_rest && reach.ranges.len() <= PLACES_MAX;
    is_anchor.then_some(Anchor {
        index,
        ranges: reach.ranges,
        is_points: reach.is_points,
    })
}

/// Orders anchors: first those that few documents have values of, as far as their form tells.
fn dearness(anchor: &Anchor) -> (u8, usize) {
    let is_common = |range: &Range| {
        let kind = range.from.first().copied();
        kind == Some(ValueKind::Null as u8) || kind == Some(ValueKind::Boolean as u8)
    };
    // All values of a kind from one on, or up to one.
    let is_open = |range: &Range| range.from.len() == 1 || range.to.len() == 1;
    let rank = match anchor.is_points {
        true if !anchor.ranges.iter().any(is_common) => 0,
        true => 2,
        false if !anchor.ranges.iter().any(is_open) => 1,
        false => 3,
    };
    (rank, anchor.ranges.len())
}
