//! Conditions as they are evaluated.

use std::cmp::Ordering;

use super::geo::{Near, Region};
use super::path::{Ending, Path, View};
use super::pattern::Pattern;
use super::value::{Kind, Seen, Typing, Value};

/// A condition on a document, or on an element of an array.
#[derive(Clone, Debug)]
pub(crate) enum Expression {
    /// All hold; without any, it always holds.
    And(Vec<Expression>),
    /// One holds; without any, it never holds.
    Or(Vec<Expression>),
    Not(Box<Expression>),
    /// The test holds for one of the values that the path leads to.
    On(Path, Test),
}

/// A condition on one value.
#[derive(Clone, Debug)]
pub(crate) enum Test {
    Compare(Relation, Value),
    /// Equal to one of these, which are in order.
    In(Vec<Value>),
    Exists,
    /// Divided by the first, the rest is the second.
    Remainder(i64, i64),
    Matches(Pattern),
    /// An array with so many elements.
    Size(usize),
    /// One of these kinds.
    Kinds(Vec<Kind>),
    /// An array with an element for which the condition holds.
    Element(Box<Expression>),
    /// An array with an element that is an object for which the condition holds.
    ElementObject(Box<Expression>),
    Near(Near),
    Within(Region),
}

/// How a value stands to the one of the condition. But for `Equal`, both must be of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Relation {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Relation::Equal => ordering.is_eq(),
            Relation::Greater => ordering.is_gt(),
            Relation::GreaterOrEqual => ordering.is_ge(),
            Relation::Less => ordering.is_lt(),
            Relation::LessOrEqual => ordering.is_le(),
        }
    }
}

impl Expression {
    /// The condition without conditions.
    pub(crate) fn always() -> Expression {
        Expression::And(Vec::new())
    }

    pub(crate) fn is_always(&self) -> bool {
        matches!(self, Expression::And(parts) if parts.is_empty())
    }

    /// That all of them hold, without a level of nesting where none is needed.
    pub(crate) fn all(parts: Vec<Expression>) -> Expression {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Expression::And(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        match flat.len() {
            1 => flat.remove(0),
            _ => Expression::And(flat),
        }
    }

    pub(crate) fn not(self) -> Expression {
        Expression::Not(Box::new(self))
    }

    pub(crate) fn holds(&self, view: &View<'_>) -> bool {
        match self {
            Expression::And(parts) => parts.iter().all(|part| part.holds(view)),
            Expression::Or(parts) => parts.iter().any(|part| part.holds(view)),
            Expression::Not(inner) => !inner.holds(view),
            Expression::On(path, test) => path.any(view, test.ending(), |seen, typing| {
                test.holds(seen, typing, view)
            }),
        }
    }

    /// Whether a part of it looks at places on earth.
    pub(crate) fn is_geo(&self) -> bool {
        match self {
            Expression::And(parts) | Expression::Or(parts) => parts.iter().any(Expression::is_geo),
            Expression::Not(inner) => inner.is_geo(),
            Expression::On(_, test) => {
                test.is_place() || test.of_elements().is_some_and(Expression::is_geo)
            }
        }
    }
}

impl Test {
    /// Whether it looks at a place on earth itself.
    pub(crate) fn is_place(&self) -> bool {
        matches!(self, Test::Near(_) | Test::Within(_))
    }

    /// The condition on the elements of an array, if it is one.
    pub(crate) fn of_elements(&self) -> Option<&Expression> {
        match self {
            Test::Element(inner) | Test::ElementObject(inner) => Some(inner),
            Test::Compare(..)
            | Test::In(_)
            | Test::Exists
            | Test::Remainder(..)
            | Test::Matches(_)
            | Test::Size(_)
            | Test::Kinds(_)
            | Test::Near(_)
            | Test::Within(_) => None,
        }
    }

    /// Conditions on arrays as such do not look at their elements one by one.
    fn ending(&self) -> Ending {
        match self {
            Test::Size(_) | Test::Element(_) | Test::ElementObject(_) => Ending::Whole,
            Test::Compare(..)
            | Test::In(_)
            | Test::Exists
            | Test::Remainder(..)
            | Test::Matches(_)
            | Test::Kinds(_)
            | Test::Near(_)
            | Test::Within(_) => Ending::Expanded,
        }
    }

    fn holds(&self, seen: &Seen<'_>, typing: Typing<'_>, view: &View<'_>) -> bool {
        match self {
            Test::Compare(relation, value) => {
                seen.kind().unwrap_or(Kind::Null) == value.kind()
                    && relation.holds(seen.compare(value, typing))
            }
            Test::In(values) => {
                let found = match seen {
                    // Read once instead of at every comparison.
                    Seen::Object(_) | Seen::Array(_) => {
                        values.binary_search(&seen.to_value(typing))
                    }
                    _ => values.binary_search_by(|value| seen.compare(value, typing).reverse()),
                };
                found.is_ok()
            }
            Test::Exists => seen.kind().is_some(),
            Test::Remainder(divisor, remainder) => match seen {
                Seen::Number(number) => number
                    .truncated()
                    .is_some_and(|number| number.wrapping_rem(*divisor) == *remainder),
                _ => false,
            },
            Test::Matches(pattern) => matches!(seen, Seen::Text(text) if pattern.is_match(text)),
            Test::Size(size) => {
                matches!(seen, Seen::Array(array) if super::raw::elements(array).count() == *size)
            }
            Test::Kinds(kinds) => seen.kind().is_some_and(|kind| kinds.contains(&kind)),
            Test::Element(condition) => any_element(seen, view, condition, false),
            Test::ElementObject(condition) => any_element(seen, view, condition, true),
            Test::Near(near) => near.holds(seen),
            Test::Within(region) => region.holds(seen),
        }
    }
}

fn any_element(
    seen: &Seen<'_>,
    view: &View<'_>,
    condition: &Expression,
    only_objects: bool,
) -> bool {
    let Seen::Array(array) = seen else {
        return false;
    };
    super::raw::elements(array)
        .filter(|element| !only_objects || element.first() == Some(&b'{'))
        .any(|element| {
            condition.holds(&View {
                element: Some(element),
                ..*view
            })
        })
}
