//! Which values of an index a filter leaves: points of the first components, and pieces of the one behind them.

use super::bounds::{Bounds, Piece};
use super::compiled::{Component, Index};
use super::conditions::Conditions;
use super::encoding::{after, invert};
use super::lists::Lists;

/// The most ranges that one index is read in. Where a filter leaves more, they are taken together, with what lies between them.
pub const RANGES_MAX: usize = 1_000;

/// Values from `from` on, up to and without `to`; an empty `to` is the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// First value.
    pub from: Vec<u8>,
    /// End.
    pub to: Vec<u8>,
}

impl Range {
    /// All values that begin with these bytes.
    pub(super) fn of_prefix(prefix: Vec<u8>) -> Range {
        Range {
            to: after(&prefix),
            from: prefix,
        }
    }
}

/// Says about how many entries lie in ranges; how many more than a number there are does not matter.
pub(super) type Estimate<'e> = dyn FnMut(&[Range], u64) -> u64 + 'e;

/// What a filter leaves of an index.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    /// Ascending and disjoint.
    pub(super) ranges: Vec<Range>,
    /// Components that the filter bounds, from the first on.
    pub(super) bounded: usize,
    /// The first components that the filter leaves one value of: whether that stands for one value of documents, the same for all.
    pub(super) points: Vec<bool>,
    /// A document may have several values in the ranges.
    pub(super) is_multiple: bool,
    /// Each range is one value of every component that the filter bounds.
    pub(super) is_points: bool,
    /// By the numbers of the conditions: those that hold for every document with a value in the ranges.
    covered: Vec<bool>,
}

impl Reach {
    pub(super) fn is_exact(&self) -> bool {
        self.covered.iter().all(|covered| *covered)
    }

    /// Conditions that the ranges say nothing about, or not all.
    pub(super) fn uncovered(&self) -> usize {
        self.covered.iter().filter(|covered| !**covered).count()
    }

    /// `estimate` says about how many entries lie in ranges, as far as a number matters. It is asked where conditions must not be put
    /// together.
    pub(super) fn of(
        index: &Index,
        conditions: &Conditions<'_>,
        estimate: &mut Estimate<'_>,
    ) -> Reach {
        let components = &index.0.components;
        let mut prefixes = vec![Vec::new()];
        let mut tail: Option<Vec<Piece>> = None;
        let mut reach = Reach {
            ranges: Vec::new(),
            bounded: 0,
            points: Vec::new(),
            is_multiple: false,
            is_points: false,
            covered: vec![false; conditions.count],
        };
        for number in &conditions.made {
            reach.covered[*number] = true;
        }
        let mut is_single = true;
        for component in components {
            let mut offers = offers(component, conditions);
            let Some(offer) = best(&mut offers, component, &prefixes, estimate) else {
                break;
            };
            reach.bounded += 1;
            let room = RANGES_MAX / prefixes.len();
            let bounds = offer.bounds.coarser(room);
            if bounds.pieces.len() == offer.bounds.pieces.len() {
                for number in offer.covered {
                    reach.covered[number] = true;
                }
            }
            let pieces = oriented(&bounds, component);
            match pieces.as_slice() {
                [piece] if piece.is_point => {
                    if is_single {
                        let is_same = component.lists == Lists::Never && piece.is_whole_point();
                        reach.points.push(is_same);
                    }
                }
                _ => {
                    is_single = false;
                    reach.is_multiple |= component.lists != Lists::Never;
                }
            }
            if !bounds.is_points() {
                tail = Some(pieces);
                break;
            }
            prefixes = join(&prefixes, &pieces, |prefix, piece| {
                [prefix, &piece.from].concat()
            });
            if prefixes.is_empty() {
                break;
            }
        }
        reach.is_multiple |= components[reach.bounded..]
            .iter()
            .any(|component| component.lists != Lists::Never);
        reach.is_points = tail.is_none();
        reach.ranges = match tail {
            Some(pieces) => join(&prefixes, &pieces, within),
            None => prefixes.into_iter().map(Range::of_prefix).collect(),
        };
        reach
    }
}

/// What may bound a component.
struct Offer {
    bounds: Bounds,
    /// Numbers of the conditions that hold for every value within them.
    covered: Vec<usize>,
}

/// Of a single value all conditions are one offer. Of a list each is one: what they say need not be true of the same element.
fn offers(component: &Component, conditions: &Conditions<'_>) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    for term in &conditions.terms {
        let Some(bounds) = Bounds::of(component, term) else {
            continue;
        };
        let covers = bounds.is_exact && !term.is_part;
        let covered = covers.then_some(term.number);
        match offers.first_mut() {
            Some(offer) if component.lists == Lists::Never => {
                offer.bounds = offer.bounds.and(&bounds);
                offer.covered.extend(covered);
            }
            _ => offers.push(Offer {
                bounds,
                covered: covered.into_iter().collect(),
            }),
        }
    }
    offers
}

/// Of several the one with the fewest entries. Nearly always there is one.
fn best(
    offers: &mut Vec<Offer>,
    component: &Component,
    prefixes: &[Vec<u8>],
    estimate: &mut Estimate<'_>,
) -> Option<Offer> {
    let mut best = 0;
    if offers.len() > 1 {
        let mut least = u64::MAX;
        for (at, offer) in offers.iter().enumerate() {
            let bounds = offer.bounds.coarser(RANGES_MAX / prefixes.len());
            let ranges = join(prefixes, &oriented(&bounds, component), within);
            let entries = estimate(&ranges, least);
            if entries < least {
                (least, best) = (entries, at);
            }
        }
    }
    (best < offers.len()).then(|| offers.swap_remove(best))
}

/// The pieces as they lie in the index.
fn oriented(bounds: &Bounds, component: &Component) -> Vec<Piece> {
    if !component.is_descending() {
        return bounds.pieces.clone();
    }
    // What was not less than a bound begins, inverted, with less than its inversion, or with that itself.
    let inverted = |bound: &[u8]| {
        let mut bound = bound.to_vec();
        invert(&mut bound);
        after(&bound)
    };
    let mut pieces: Vec<Piece> = bounds
        .pieces
        .iter()
        .map(|piece| {
            let mut from = inverted(&piece.to);
            if piece.is_point {
                // The same place, but the very bytes of the value, as others may follow it.
                from.clone_from(&piece.from);
                invert(&mut from);
            }
            Piece {
                from,
                to: inverted(&piece.from),
                is_point: piece.is_point,
            }
        })
        .collect();
    // Nothing is less than the least value of its kind.
    pieces.retain(|piece| piece.from < piece.to || piece.to.is_empty());
    pieces.reverse();
    pieces
}

fn join<T>(prefixes: &[Vec<u8>], pieces: &[Piece], join: impl Fn(&[u8], &Piece) -> T) -> Vec<T> {
    prefixes
        .iter()
        .flat_map(|prefix| {
            pieces
                .iter()
                .map(|piece| join(prefix, piece))
                .collect::<Vec<T>>()
        })
        .collect()
}

fn within(prefix: &[u8], piece: &Piece) -> Range {
    Range {
        from: [prefix, &piece.from].concat(),
        to: if piece.to.is_empty() {
            after(prefix)
        } else {
            [prefix, &piece.to].concat()
        },
    }
}
