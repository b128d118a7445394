//! What all documents that a filter matches have in common, as a list: all of it must hold.

use crate::query::expression::{Expression, Test};
use crate::query::path::Start;

/// The conditions of a filter, all of which must hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions<'f> {
    pub(super) terms: Vec<Term<'f>>,
    /// Lists of filters, one of each of which must hold, and their numbers.
    pub(super) choices: Vec<(usize, &'f [Expression])>,
    /// Numbers of choices that were made.
    pub(super) made: Vec<usize>,
    /// Numbers that were given out: to terms, to choices, and to conditions that are neither.
    pub(super) count: usize,
    /// No document meets them.
    pub(super) is_never: bool,
}

/// A condition on the values of one path.
#[derive(Clone, Debug)]
pub(super) struct Term<'f> {
    pub(super) path: String,
    pub(super) test: &'f Test,
    /// No value may pass the test.
    pub(super) is_negated: bool,
    /// The condition that it is a part of. A term with a number of its own says all that the condition says.
    pub(super) number: usize,
    /// It follows from the condition, which says more.
    pub(super) is_part: bool,
    /// The path could have an index into an array in it.
    pub(super) has_index: bool,
}

impl<'f> Conditions<'f> {
    pub(super) fn of(filter: &'f Expression) -> Conditions<'f> {
        let mut conditions = Conditions::default();
        conditions.add(filter, false);
        conditions
    }

    /// The same without one of the choices, and with one of its filters instead.
    pub(super) fn with_choice(&self, choice: usize, filter: &'f Expression) -> Conditions<'f> {
        let mut conditions = self.clone();
        conditions.choices.retain(|(number, _)| *number != choice);
        conditions.made.push(choice);
        conditions.add(filter, false);
        conditions
    }

    fn add(&mut self, expression: &'f Expression, is_negated: bool) {
        match (expression, is_negated) {
            (Expression::And(parts), false) => self.add_all(parts, false),
            (Expression::Or(parts), true) => self.add_all(parts, true),
            (Expression::Or(parts) | Expression::And(parts), _) => match parts.as_slice() {
                [] => self.is_never = true,
                [one] => self.add(one, is_negated),
                _ => {
                    let number = self.number();
                    if !is_negated {
                        self.choices.push((number, parts));
                    }
                }
            },
            (Expression::Not(inner), _) => self.add(inner, !is_negated),
            (Expression::On(path, test), _) => {
                let number = self.number();
                let term = Term {
                    path: path.text().to_owned(),
                    test,
                    is_negated,
                    number,
                    is_part: false,
                    has_index: path.has_index(),
                };
                if let (Test::ElementObject(inner), false, false) =
                    (test, is_negated, term.has_index)
                {
                    self.add_members(&term, inner);
                }
                self.terms.push(term);
            }
        }
    }

    fn add_all(&mut self, parts: &'f [Expression], is_negated: bool) {
        for part in parts {
            self.add(part, is_negated);
        }
    }

    /// What a condition on an element says about its members, each for itself.
    fn add_members(&mut self, element: &Term<'f>, condition: &'f Expression) {
        match condition {
            Expression::And(parts) => {
                for part in parts {
                    self.add_members(element, part);
                }
            }
            Expression::On(path, test) if path.start == Start::Element && !path.has_index() => {
                self.terms.push(Term {
                    path: format!("{}.{}", element.path, path.text()),
                    test,
                    is_part: true,
                    ..element.clone()
                });
            }
            _ => {}
        }
    }

    fn number(&mut self) -> usize {
        self.count += 1;
        self.count - 1
    }
}
