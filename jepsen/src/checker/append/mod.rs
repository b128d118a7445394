//! Lists that transactions append to and read: what the lists show orders the transactions, and no order may contradict
//! itself. The rules are Elle's for list-append.
//!
//! | anomaly | what it is |
//! |---|---|
//! | `duplicate`, `phantom`, `internal`, `incompatible order`, `lost` | lists that no order of appends gives |
//! | `G1a`, `G1b` | read what was refused; read a transaction's half |
//! | `G0`, `G1c`, `G-single`, `G2` | cycles: of writes; with reads; with one read of something overwritten; with more |
//! | `…-realtime` | the same, where part of the cycle is that one transaction was over before another began |
//!
//! Source: Kingsbury & Alvaro 2020, "Elle"; Adya 1999.

mod cycles;
mod lists;

use serde_json::Value;

use super::Findings;
use crate::history::{History, Kind, Operation};
use lists::Lists;

/// Judges `txn` operations: `[["append", key, value], ["r", key, null or list]]`.
pub fn check(history: &History) -> Findings {
    let operations = history.operations();
    let transactions: Vec<Transaction<'_>> = operations
        .iter()
        .filter(|operation| operation.f() == "txn")
        .map(Transaction::new)
        .collect();
    let lists = Lists::new(&transactions);
    let wrong = lists.wrong();
    if !wrong.is_empty() {
        // Orders that lists contradict give cycles that explain nothing.
        return wrong.into();
    }
    cycles::find(&transactions, &lists).into()
}

/// One part of a transaction.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Append {
        key: String,
        value: String,
    },
    /// `None`: not known.
    Read {
        key: String,
        list: Option<Vec<String>>,
    },
}

impl Step {
    fn new(part: &Value) -> Option<Step> {
        let key = super::text(&part[1]);
        match part[0].as_str()? {
            "append" => Some(Step::Append {
                key,
                value: super::text(&part[2]),
            }),
            "r" => Some(Step::Read {
                key,
                list: part[2]
                    .as_array()
                    .map(|list| list.iter().map(super::text).collect()),
            }),
            _ => None,
        }
    }
}

/// An operation with its steps.
struct Transaction<'a> {
    operation: &'a Operation<'a>,
    steps: Vec<Step>,
}

impl<'a> Transaction<'a> {
    fn new(operation: &'a Operation<'a>) -> Transaction<'a> {
        let steps = super::members(operation.value())
            .filter_map(Step::new)
            .collect();
        Transaction { operation, steps }
    }

    fn kind(&self) -> Kind {
        self.operation.kind()
    }

    /// What it appended to `key`, in order.
    fn appended(&self, key: &str) -> Vec<&str> {
        let appended = self.steps.iter().filter_map(|step| match step {
            Step::Append { key: of, value } if of == key => Some(value.as_str()),
            Step::Append { .. } | Step::Read { .. } => None,
        });
        appended.collect()
    }

    /// What others had appended when it read: for each key the first list read, without its own appends before that.
    fn external_reads(&self) -> Vec<(&str, &[String])> {
        let mut reads: Vec<(&str, &[String])> = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            let Step::Read {
                key,
                list: Some(list),
            } = step
            else {
                continue;
            };
            if reads.iter().any(|(seen, _)| seen == key) {
                continue;
            }
            let own = self.steps[..at]
                .iter()
                .filter(|step| matches!(step, Step::Append { key: of, .. } if of == key))
                .count();
            reads.push((key, &list[..list.len().saturating_sub(own)]));
        }
        reads
    }
}

#[cfg(test)]
mod tests;
