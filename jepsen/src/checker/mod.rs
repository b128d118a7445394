//! What a history shows. Checkers are pure: a history in, what is wrong with it out.
//!
//! Whatever a checker reports is a fault: each rule is a consequence of the promise. What it cannot decide within its
//! bounds it says, and then the verdict is not a pass.

pub mod acl;
pub mod append;
pub mod counter;
pub mod feed;
pub mod idempotency;
pub mod linear;
pub mod register;
pub mod set;
pub mod staleness;
pub mod unique;
pub mod verdict;

#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::history::{Event, History, Operation};

/// Something that must not be, with the smallest part of the history that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name, for example `lost` or `G1c`.
    pub anomaly: String,
    /// In a sentence.
    pub what: String,
    /// The operations that show it, in the order of the history.
    pub witness: Vec<String>,
}

impl Finding {
    /// An anomaly that these operations show.
    pub fn new<'a>(
        anomaly: &str,
        what: String,
        operations: impl IntoIterator<Item = &'a Operation<'a>>,
    ) -> Finding {
        let mut operations: Vec<_> = operations.into_iter().collect();
        operations.sort_by_key(|operation| operation.from);
        Finding {
            anomaly: anomaly.to_owned(),
            what,
            witness: operations.into_iter().map(Operation::show).collect(),
        }
    }
}

/// What a checker says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is wrong; empty: nothing was found.
    pub wrong: Vec<Finding>,
    /// What could not be decided.
    pub undecided: Vec<String>,
}

impl Findings {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Findings) -> Findings {
        self.wrong.extend(other.wrong);
        self.undecided.extend(other.undecided);
        self
    }
}

impl From<Vec<Finding>> for Findings {
    fn from(wrong: Vec<Finding>) -> Findings {
        Findings {
            wrong,
            undecided: Vec::new(),
        }
    }
}

/// Judges every `final` line of `f`; without one nothing is decided.
fn in_the_end(history: &History, f: &str, judge: impl Fn(&Event) -> Vec<Finding>) -> Findings {
    let mut looks = history.finals(f).peekable();
    if looks.peek().is_none() {
        let undecided = vec![format!("nobody looked in the end: no final line of {f}")];
        return Findings {
            undecided,
            ..Findings::default()
        };
    }
    looks.flat_map(judge).collect::<Vec<_>>().into()
}

/// Operations by their key, in the order of invocation.
fn by_key<'a>(history: &'a History) -> BTreeMap<&'a str, Vec<Operation<'a>>> {
    let mut keys: BTreeMap<&str, Vec<Operation<'_>>> = BTreeMap::new();
    for operation in history.operations() {
        keys.entry(operation.key()).or_default().push(operation);
    }
    keys
}

/// A value as something that can be looked up; values are compared as JSON text.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The members of a list; nothing else has any.
fn members(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
