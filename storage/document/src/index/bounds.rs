//! Which values of one component a condition leaves, before inversion.

use super::cell;
use super::compiled::Component;
use super::conditions::Term;
use super::encoding::{COMPONENT_BYTES_MAX, EMPTY, after};
use super::hashed::HashKey;
use super::lists::Lists;
use crate::query::expression::{Expression, Relation, Test};
use crate::query::ordered;
use crate::query::path::Start;
use crate::query::value::{Kind, Value};

/// What values of a component may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Ascending and disjoint.
    pub(super) pieces: Vec<Piece>,
    /// Every value in the pieces passes the test, and stands for one value of documents.
    pub(super) is_exact: bool,
}

/// Values from `from` on, up to and without `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
    /// It holds one value.
    pub(super) is_point: bool,
}

/// Behind all values.
pub(super) const END: u8 = 0xff;

impl Piece {
    fn point(from: Vec<u8>) -> Piece {
        Piece {
            to: after(&from),
            from,
            is_point: true,
        }
    }

    fn between(from: Vec<u8>, to: Vec<u8>) -> Piece {
        Piece {
            from,
            to,
            is_point: false,
        }
    }

    /// All values of a kind.
    fn kind(kind: Kind) -> Piece {
        Piece {
            is_point: kind == Kind::Null,
            ..Piece::between(vec![kind as u8], vec![kind as u8 + 1])
        }
    }

    /// Whether it holds one value of documents, too.
    pub(super) fn is_whole_point(&self) -> bool {
        self.is_point && self.from.len() < COMPONENT_BYTES_MAX
    }
}

impl Bounds {
    fn new(mut pieces: Vec<Piece>, is_exact: bool) -> Bounds {
        pieces.retain(|piece| piece.from < piece.to);
        pieces.sort_unstable_by(|one, two| one.from.cmp(&two.from));
        let mut disjoint: Vec<Piece> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match disjoint.last_mut() {
                Some(last) if last.to > piece.from => {
                    last.is_point &= piece.to <= last.to;
                    if piece.to > last.to {
                        last.to = piece.to;
                    }
                }
                _ => disjoint.push(piece),
            }
        }
        Bounds {
            pieces: disjoint,
            is_exact,
        }
    }

    pub(super) fn is_points(&self) -> bool {
        self.pieces.iter().all(|piece| piece.is_point)
    }

    /// What both leave.
    pub(super) fn and(&self, other: &Bounds) -> Bounds {
        let mut pieces = Vec::new();
        let (mut ones, mut twos) = (self.pieces.as_slice(), other.pieces.as_slice());
        while let ([one, more_ones @ ..], [two, more_twos @ ..]) = (ones, twos) {
            let piece = Piece {
                from: one.from.clone().max(two.from.clone()),
                to: one.to.clone().min(two.to.clone()),
                is_point: one.is_point || two.is_point,
            };
            if one.to < two.to {
                ones = more_ones;
            } else {
                twos = more_twos;
            }
            pieces.push(piece);
        }
        Bounds::new(pieces, self.is_exact && other.is_exact)
    }

    /// What this does not leave; only for exact ones.
    fn complement(&self) -> Bounds {
        let mut from = Vec::new();
        let mut pieces = Vec::with_capacity(self.pieces.len() + 1);
        for piece in &self.pieces {
            pieces.push(Piece::between(from, piece.from.clone()));
            from = piece.to.clone();
        }
        pieces.push(Piece::between(from, vec![END]));
        Bounds::new(pieces, true)
    }

    /// The same in no more than so many pieces, which may hold more.
    pub(super) fn coarser(&self, pieces_max: usize) -> Bounds {
        let size = self.pieces.len().div_ceil(pieces_max.max(1));
        if size <= 1 {
            return self.clone();
        }
        let hull = |pieces: &[Piece]| {
            let ends = pieces.first().zip(pieces.last());
            ends.map(|(first, last)| Piece::between(first.from.clone(), last.to.clone()))
        };
        Bounds {
            pieces: self.pieces.chunks(size).filter_map(hull).collect(),
            is_exact: false,
        }
    }

    /// What a term leaves of a component; `None`: everything.
    pub(super) fn of(component: &Component, term: &Term<'_>) -> Option<Bounds> {
        if component.path.text() != term.path {
            return None;
        }
        if component.is_geo() {
            return of_place(term);
        }
        if let Some(key) = &component.key {
            return of_hashed(key, term);
        }
        if let (Test::Exists, true) = (term.test, term.is_negated) {
            // Nothing is in the index as null, and so are values that are null.
            return Some(Bounds::new(vec![Piece::kind(Kind::Null)], false));
        }
        let bounds = of_test(term.test, component.lists, term.has_index)?;
        if !term.is_negated {
            return Some(bounds);
        }
        // That no value may be there says something about the one value that there is. Of a list it says little: it may have no values.
        (component.lists == Lists::Never && bounds.is_exact).then(|| bounds.complement())
    }
}

fn of_place(term: &Term<'_>) -> Option<Bounds> {
    let ranges = match term.test {
        _ if term.is_negated => return None,
        Test::Near(near) => cell::near(near),
        Test::Within(region) => cell::within(region),
        _ => return None,
    };
    let pieces = ranges
        .into_iter()
        .map(|(from, to)| Piece::between(from, to));
    Some(Bounds::new(pieces.collect(), false))
}

/// Of hashed values only equality is known, and that not for certain.
fn of_hashed(key: &HashKey, term: &Term<'_>) -> Option<Bounds> {
    const NOTHING: &[Value] = &[Value::Null];
    let values = match (term.test, term.is_negated) {
        (Test::Exists, true) => NOTHING,
        (Test::Compare(Relation::Equal, value), false) => std::slice::from_ref(value),
        (Test::In(values), false) => values,
        _ => return None,
    };
    let places = values
        .iter()
        .flat_map(|value| indexed(value, ordered::NOWHERE));
    let pieces = places.map(|place| Piece::point(key.entry(&place).to_vec()));
    Some(Bounds::new(pieces.collect(), false))
}

fn of_test(test: &Test, lists: Lists, has_index: bool) -> Option<Bounds> {
    match test {
        Test::Compare(relation, value) => compare(*relation, value, lists),
        Test::In(values) => {
            let mut pieces = Vec::with_capacity(values.len());
            let mut is_exact = true;
            for value in values {
                let bounds = equal(value, lists);
                is_exact &= bounds.is_exact;
                pieces.extend(bounds.pieces);
            }
            Some(Bounds::new(pieces, is_exact))
        }
        // What is missing is in the index as null.
        Test::Exists => None,
        Test::Remainder(..) => Some(Bounds::new(vec![Piece::kind(Kind::Number)], false)),
        Test::Matches(pattern) => Some(match pattern.prefix() {
            Some((prefix, is_exact)) => {
                let mut from = Vec::new();
                ordered::write(&mut from, &Value::Text(prefix), COMPONENT_BYTES_MAX);
                let is_whole = from.len() < COMPONENT_BYTES_MAX;
                // Without the zeros that end a text.
                from.truncate((from.len() - 2).min(COMPONENT_BYTES_MAX));
                Bounds::new(
                    vec![Piece::between(from.clone(), after(&from))],
                    is_exact && is_whole,
                )
            }
            None => Bounds::new(vec![Piece::kind(Kind::Text)], false),
        }),
        // An array is in the index by its elements; without any, as such or as an element of another one.
        Test::Size(0) => Some(equal(&Value::Array(Vec::new()), lists)),
        Test::Size(_) => None,
        Test::Kinds(kinds) if kinds.contains(&Kind::Array) => None,
        Test::Kinds(kinds) => Some(Bounds::new(
            kinds.iter().map(|kind| Piece::kind(*kind)).collect(),
            // The null of the index may be what is missing.
            !kinds.contains(&Kind::Null),
        )),
        Test::Element(condition) if !has_index => of_element(condition),
        // What follows for members of elements are terms of their own.
        Test::Element(_) | Test::ElementObject(_) | Test::Near(_) | Test::Within(_) => None,
    }
}

/// What conditions on one element leave. It is one value, so all of them bound it together.
fn of_element(condition: &Expression) -> Option<Bounds> {
    match condition {
        Expression::And(parts) => parts
            .iter()
            .filter_map(of_element)
            .reduce(|one, two| one.and(&two)),
        // An array within the array is in the index as such, not by its elements.
        Expression::On(_, Test::Element(_) | Test::ElementObject(_)) => None,
        Expression::On(path, test) if path.start == Start::Element => {
            of_test(test, Lists::Always, false).map(|bounds| Bounds {
                is_exact: false,
                ..bounds
            })
        }
        _ => None,
    }
}

fn encoded(value: &Value) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    ordered::write(&mut bytes, value, COMPONENT_BYTES_MAX);
    let is_whole = bytes.len() < COMPONENT_BYTES_MAX;
    (bytes, is_whole)
}

/// What documents that equal a value are indexed by: the value; or, if it is an array, which is in the index by its elements, its first one.
/// Cut off at `end`.
fn indexed(value: &Value, end: usize) -> Vec<Vec<u8>> {
    let encoded = |value: &Value| {
        let mut bytes = Vec::new();
        ordered::write(&mut bytes, value, end);
        bytes
    };
    let mut all = vec![encoded(value)];
    if let Value::Array(elements) = value {
        all.push(elements.first().map_or(vec![EMPTY], encoded));
    }
    all
}

fn equal(value: &Value, lists: Lists) -> Bounds {
    let pieces: Vec<Piece> = indexed(value, COMPONENT_BYTES_MAX)
        .into_iter()
        .map(Piece::point)
        .collect();
    let is_exact = match value {
        Value::Array(_) => false,
        // The null of the index may be an element that the path cannot enter.
        Value::Null => lists == Lists::Never,
        _ => pieces.iter().all(Piece::is_whole_point),
    };
    Bounds::new(pieces, is_exact)
}

fn compare(relation: Relation, value: &Value, lists: Lists) -> Option<Bounds> {
    let kind = value.kind();
    match (relation, kind) {
        (Relation::Equal, _) => return Some(equal(value, lists)),
        // Whole arrays are not in the index.
        (_, Kind::Array) => return None,
        (Relation::GreaterOrEqual | Relation::LessOrEqual, Kind::Null) => {
            return Some(equal(value, lists));
        }
        (_, Kind::Null) => return Some(Bounds::new(Vec::new(), true)),
        _ => {}
    }
    let (bytes, is_whole) = encoded(value);
    let (first, end) = (vec![kind as u8], vec![kind as u8 + 1]);
    let (from, to) = match relation {
        // Of values that are cut off alike, some may be greater and some less.
        Relation::Greater if is_whole => (after(&bytes), end),
        Relation::Greater | Relation::GreaterOrEqual => (bytes, end),
        Relation::Less if is_whole => (first, bytes),
        Relation::Less | Relation::LessOrEqual | Relation::Equal => (first, after(&bytes)),
    };
    Some(Bounds::new(vec![Piece::between(from, to)], is_whole))
}
