//! Counters: no increment is lost, none counts twice.
//!
//! All increments are positive, so a read shows at least those that were acknowledged before it began, and at most
//! those that were asked for before it ended and not refused.

use super::{Finding, Findings, by_key};
use crate::history::{History, Kind, Operation};

/// Judges `add` (its value is the increment) and `read` of every counter.
pub fn check(history: &History) -> Findings {
    let wrong = by_key(history)
        .into_values()
        .flat_map(|operations| check_key(&operations));
    wrong.collect::<Vec<_>>().into()
}

fn check_key(operations: &[Operation<'_>]) -> Vec<Finding> {
    let adds = || {
        operations
            .iter()
            .filter(|operation| operation.f() == "add" && operation.kind() != Kind::Fail)
    };
    let amount = |add: &Operation<'_>| add.invoke.value.as_i64().unwrap_or_default();
    let mut wrong = Vec::new();
    for read in operations
        .iter()
        .filter(|operation| operation.f() == "read" && operation.is_ok())
    {
        let found = read.value().as_i64().unwrap_or_default();
        let at_least: i64 = adds()
            .filter(|add| add.is_ok() && add.is_before(read))
            .map(amount)
            .sum();
        let at_most: i64 = adds().filter(|add| !read.is_before(add)).map(amount).sum();
        let what = || {
            format!(
                "{}: read {found}, which must lie between {at_least} and {at_most}",
                read.key()
            )
        };
        if found < at_least {
            wrong.push(Finding::new("lost increment", what(), [read]));
        } else if found > at_most {
            wrong.push(Finding::new("counted twice", what(), [read]));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{anomalies, history};
    use super::*;

    fn line(process: u64, kind: &str, f: &str, value: Value) -> Value {
        json!({"process": process, "type": kind, "f": f, "key": "c", "value": value})
    }

    /// An acknowledged 2, an unknown 3 and a refused 5, then a read of `found`.
    fn read_after(found: i64) -> Vec<Value> {
        let mut lines = Vec::new();
        for (process, kind, amount) in [(0, "ok", 2), (1, "info", 3), (2, "fail", 5)] {
            lines.push(line(process, "invoke", "add", json!(amount)));
            lines.push(line(process, kind, "add", json!(amount)));
        }
        lines.push(line(3, "invoke", "read", Value::Null));
        lines.push(line(3, "ok", "read", json!(found)));
        lines
    }

    #[test]
    fn reads_lie_between_what_was_acknowledged_and_what_was_asked_for() {
        for (found, anomaly) in [
            (2, &[][..]),
            (5, &[]),
            (1, &["lost increment"]),
            (6, &["counted twice"]),
        ] {
            assert_eq!(
                anomalies(&check(&history(&read_after(found)))),
                anomaly,
                "{found}"
            );
        }
    }

    #[test]
    fn what_goes_on_at_the_same_time_may_count_or_not() {
        for found in [0, 2] {
            let lines = [
                line(0, "invoke", "add", json!(2)),
                line(3, "invoke", "read", Value::Null),
                line(3, "ok", "read", json!(found)),
                line(0, "ok", "add", json!(2)),
            ];
            assert!(anomalies(&check(&history(&lines))).is_empty());
        }
        let later = [
            line(3, "invoke", "read", Value::Null),
            line(3, "ok", "read", json!(2)),
            line(0, "invoke", "add", json!(2)),
            line(0, "ok", "add", json!(2)),
        ];
        assert_eq!(anomalies(&check(&history(&later))), ["counted twice"]);
    }
}
