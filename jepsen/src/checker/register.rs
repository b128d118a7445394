//! Registers: every document is linearizable by itself, and every accepted write takes the next version.
//!
//! `read`, `write`, `cas` and `delete`, as the README describes them. A refused condition is an operation too: at some
//! moment between its ends the condition must not have held. Other failures promise no effect, so a value of theirs
//! that is read is a fault, as is one that nobody wrote.

use std::collections::HashMap;

use serde_json::Value;

use super::linear::{self, Answer, Model, Timed};
use super::{Finding, Findings, by_key, text};
use crate::history::{History, Kind, Operation};

/// Steps of one search; a history of a minute takes some thousands a key.
const STEPS_MAX: usize = 3_000_000;
/// Steps while a witness is made smaller.
const SHRINK_STEPS_MAX: usize = 100_000;
/// Operations of a witness that are shown, the last ones.
const SHOWN_MAX: usize = 16;

/// Judges all registers of a history.
pub fn check(history: &History) -> Findings {
    by_key(history)
        .into_iter()
        .map(|(key, operations)| check_key(key, &operations))
        .fold(Findings::default(), Findings::and)
}

fn check_key(key: &str, operations: &[Operation<'_>]) -> Findings {
    let wrong = phantoms(key, operations);
    if !wrong.is_empty() {
        // The search would find them too, with a larger witness.
        return wrong.into();
    }
    match linear::check(&Register, &timed(operations), STEPS_MAX) {
        Answer::Linearizable => Findings::default(),
        Answer::NotLinearizable => vec![finding(key, smallest(operations))].into(),
        Answer::Undecided => Findings {
            wrong: Vec::new(),
            undecided: vec![format!(
                "{key}: {} operations, no order found in {STEPS_MAX} steps",
                operations.len()
            )],
        },
    }
}

fn finding(key: &str, witness: Vec<Operation<'_>>) -> Finding {
    let hidden = witness.len().saturating_sub(SHOWN_MAX);
    let what = format!(
        "{key}: no order of the operations explains the answers; the last one cannot be placed ({hidden} earlier ones are not shown)"
    );
    Finding::new("not linearizable", what, witness.iter().skip(hidden))
}

/// Reads of what was refused, or never written.
fn phantoms(key: &str, operations: &[Operation<'_>]) -> Vec<Finding> {
    let is_write = |operation: &&Operation<'_>| operation.f() != "read";
    let writes: HashMap<String, &Operation<'_>> = operations
        .iter()
        .filter(is_write)
        .map(|write| (text(&write.invoke.value), write))
        .collect();
    let reads = operations
        .iter()
        .filter(|operation| operation.f() == "read" && operation.is_ok());
    let found = reads.filter(|read| !read.value().is_null());
    found
        .filter_map(|read| match writes.get(&text(read.value())) {
            None => Some(Finding::new(
                "phantom",
                format!("{key}: read what nobody wrote"),
                [read],
            )),
            Some(write) if write.kind() == Kind::Fail => Some(Finding::new(
                "aborted read",
                format!("{key}: read what was refused without effect"),
                [*write, read],
            )),
            Some(_) => None,
        })
        .collect()
}

/// A part that is not linearizable by itself: the shortest prefix, without the reads and refusals that it does not need.
///
/// Both keep what they must: a prefix of something linearizable is linearizable, and so is any of it without some
/// operations that changed nothing.
fn smallest<'a>(operations: &[Operation<'a>]) -> Vec<Operation<'a>> {
    let wrong = |part: &[Operation<'_>]| {
        linear::check(&Register, &timed(part), SHRINK_STEPS_MAX) == Answer::NotLinearizable
    };
    let mut ends: Vec<usize> = operations
        .iter()
        .filter_map(|operation| operation.to)
        .collect();
    ends.sort_unstable();
    let shortest = ends.partition_point(|end| !wrong(&prefix(operations, *end)));
    let Some(end) = ends.get(shortest) else {
        return operations.to_vec();
    };
    let mut part = prefix(operations, *end);
    for at in (0..part.len()).rev() {
        if part[at].f() != "read" && part[at].kind() != Kind::Fail {
            continue;
        }
        let unneeded = part.remove(at);
        if !wrong(&part) {
            part.insert(at, unneeded);
        }
    }
    part
}

/// The history as it was at line `end`: what was not over then had no answer yet.
fn prefix<'a>(operations: &[Operation<'a>], end: usize) -> Vec<Operation<'a>> {
    let begun = operations.iter().filter(|operation| operation.from <= end);
    begun
        .map(|operation| match operation.to {
            Some(to) if to > end => Operation {
                end: None,
                to: None,
                ..*operation
            },
            Some(_) | None => *operation,
        })
        .collect()
}

/// The operations that say something, for the search.
fn timed(operations: &[Operation<'_>]) -> Vec<Timed<Input>> {
    let mut values = Values::default();
    let timed = operations.iter().filter_map(|operation| {
        let input = values.input(operation)?;
        Some(Timed {
            from: operation.from,
            to: operation.to,
            input,
        })
    });
    timed.collect()
}

/// Numbers instead of values.
#[derive(Default)]
struct Values {
    numbers: HashMap<String, u64>,
}

impl Values {
    fn number(&mut self, value: &Value) -> Option<u64> {
        let next = self.numbers.len() as u64;
        (!value.is_null()).then(|| *self.numbers.entry(text(value)).or_insert(next))
    }

    /// `None`: it says nothing.
    fn input(&mut self, operation: &Operation<'_>) -> Option<Input> {
        let expect = operation.invoke.more.expect;
        let condition = match (expect, operation.f()) {
            (Some(0), _) => Condition::Absent,
            (Some(version), _) => Condition::Version(version),
            (None, _) => Condition::None,
        };
        match (operation.f(), operation.kind()) {
            ("read", Kind::Ok) => Some(Input::Read {
                value: self.number(operation.value()),
                version: operation.version().filter(|version| *version > 0),
            }),
            ("read", _) => None,
            (f, Kind::Ok | Kind::Info | Kind::Invoke | Kind::Event | Kind::Final) => {
                Some(Input::Write {
                    value: if f == "delete" {
                        None
                    } else {
                        self.number(&operation.invoke.value)
                    },
                    condition,
                    version: operation.version(),
                })
            }
            (_, Kind::Fail) => match operation.end?.more.reason.as_deref()? {
                "mismatch" => Some(Input::Refused(condition)),
                "absent" => Some(Input::Refused(Condition::Present)),
                _ => None,
            },
        }
    }
}

/// What must hold for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    None,
    Absent,
    Present,
    Version(u64),
}

impl Condition {
    fn holds(self, state: &State) -> bool {
        match self {
            Condition::None => true,
            Condition::Absent => state.value.is_none(),
            Condition::Present => state.value.is_some(),
            Condition::Version(version) => state.value.is_some() && state.version == version,
        }
    }
}

#[derive(Clone, Debug)]
enum Input {
    /// Found this; a version that is not known may be any.
    Read {
        value: Option<u64>,
        version: Option<u64>,
    },
    /// Stored this under the condition; `None`: deleted.
    Write {
        value: Option<u64>,
        condition: Condition,
        version: Option<u64>,
    },
    /// The condition did not hold.
    Refused(Condition),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    version: u64,
    value: Option<u64>,
}

struct Register;

impl Model for Register {
    type State = State;
    type Input = Input;

    fn initial(&self) -> State {
        State {
            version: 0,
            value: None,
        }
    }

    fn step(&self, state: &State, input: &Input) -> Option<State> {
        match *input {
            Input::Read { value, version } => {
                let same =
                    state.value == value && version.is_none_or(|version| version == state.version);
                same.then(|| state.clone())
            }
            Input::Write {
                value,
                condition,
                version,
            } => {
                let after = State {
                    version: state.version + 1,
                    value,
                };
                let may = condition.holds(state)
                    && version.is_none_or(|version| version == after.version);
                may.then_some(after)
            }
            Input::Refused(condition) => (!condition.holds(state)).then(|| state.clone()),
        }
    }

    fn rank(&self, state: &State) -> u64 {
        state.version
    }

    fn latest(&self, input: &Input) -> Option<u64> {
        match *input {
            Input::Read { version, .. } => version,
            Input::Write {
                version, condition, ..
            } => match condition {
                Condition::Version(expected) => Some(expected),
                Condition::None | Condition::Absent | Condition::Present => {
                    version.map(|version| version.saturating_sub(1))
                }
            },
            Input::Refused(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
