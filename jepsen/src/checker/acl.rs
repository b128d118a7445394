//! Rights: nobody reads or writes without a grant, and after a revocation only as long as promised.

use std::time::Duration;

use super::{Finding, Findings};
use crate::history::{Event, History, Kind, Operation};

/// Judges `aread` and `awrite` (member `user`, key: the object) by the events `grant` and `revoke`.
///
/// A revocation holds from `bound` after its event for operations that begin then; a grant from its event on.
pub fn check(history: &History, bound: Duration) -> Findings {
    let bound = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    let changes: Vec<&Event> = history
        .events()
        .iter()
        .filter(|event| event.kind == Kind::Event && matches!(event.f.as_str(), "grant" | "revoke"))
        .collect();
    let operations = history.operations();
    let wrong = operations.iter().filter_map(|operation| {
        let right = match operation.f() {
            "aread" => "read",
            "awrite" => "write",
            _ => return None,
        };
        let user = operation.invoke.more.user.as_deref().unwrap_or("anonymous");
        let is_wrong = operation.is_ok() && !allowed(&changes, operation, user, right, bound);
        let what = || format!("{user} had no right to {right} {}", operation.key());
        is_wrong.then(|| Finding::new("without a right", what(), [operation]))
    });
    wrong.collect::<Vec<_>>().into()
}

/// Whether some grant covers the operation.
fn allowed(
    changes: &[&Event],
    operation: &Operation<'_>,
    user: &str,
    right: &str,
    bound: u64,
) -> bool {
    let ended = operation.end.map_or(u64::MAX, |end| end.time);
    let mine = changes.iter().filter(|change| {
        change.more.user.as_deref() == Some(user)
            && change.more.right.as_deref() == Some(right)
            && change.more.object.as_deref() == Some(operation.key())
    });
    let mut granted = false;
    for change in mine {
        let counts = match change.f.as_str() {
            "grant" => change.time <= ended,
            _ => change.time.saturating_add(bound) < operation.invoke.time,
        };
        if counts {
            granted = change.f == "grant";
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{anomalies, history};
    use super::*;

    /// `anna` may read from 10 on and no more from 20 on; a read by `user` from `begin` on that ends so.
    fn read_at(user: &str, begin: u64, end: &str) -> Vec<&'static str> {
        let change = |f: &str, time: u64| json!({"process": "root", "type": "event", "f": f, "user": "anna", "object": "o", "right": "read", "time": time});
        let line = |kind: &str, time: u64| json!({"process": 0, "type": kind, "f": "aread", "key": "o", "user": user, "value": 1, "time": time});
        let mut lines: Vec<Value> = vec![
            change("grant", 10),
            change("revoke", 20),
            line("invoke", begin),
            line(end, begin + 1),
        ];
        lines.sort_by_key(|line| line["time"].as_u64());
        let findings = check(&history(&lines), Duration::from_nanos(5));
        anomalies(&findings)
            .into_iter()
            .map(|_| "without a right")
            .collect()
    }

    #[test]
    fn nothing_before_a_grant_or_long_after_a_revocation() {
        for (user, begin, end, anomaly) in [
            ("anna", 12, "ok", &[][..]),
            ("anna", 25, "ok", &[]),
            ("anna", 30, "fail", &[]),
            ("anna", 30, "ok", &["without a right"]),
            ("anna", 5, "ok", &["without a right"]),
            ("otto", 12, "ok", &["without a right"]),
        ] {
            assert_eq!(read_at(user, begin, end), anomaly, "{user} {begin} {end}");
        }
    }
}
