//! Sets: what was added is there at the end, once, and nothing else is, however it is looked for.
//!
//! The comparison of what was asked for with what is found serves other checkers too ([`compare`]).

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Finding, Findings, in_the_end, members, text};
use crate::history::{History, Kind, Operation};

/// Judges `add` operations by the `final` lines of `set`; each of these is a complete look, by scan or by an index.
pub fn check(history: &History) -> Findings {
    let operations = history.operations();
    let adds: Vec<_> = operations
        .iter()
        .filter(|operation| operation.f() == "add")
        .collect();
    in_the_end(history, "set", |last| {
        let source = last.more.source.as_deref().unwrap_or("the last look");
        compare(&adds, members(&last.value), source)
    })
}

/// Compares what `adds` put in (their invocations' values) with what was `found` when all was over.
pub(super) fn compare<'a>(
    adds: &[&'a Operation<'a>],
    found: impl Iterator<Item = &'a Value>,
    source: &str,
) -> Vec<Finding> {
    let asked: HashMap<String, &Operation<'_>> = adds
        .iter()
        .map(|add| (text(&add.invoke.value), *add))
        .collect();
    let mut seen: HashSet<String> = HashSet::new();
    let mut wrong = Vec::new();
    for value in found.map(text) {
        let add = asked.get(&value).copied();
        match add {
            None => wrong.push(Finding::new(
                "phantom",
                format!("{source} has {value}, which nobody added"),
                [],
            )),
            Some(add) if add.kind() == Kind::Fail => {
                let what = format!("{source} has {value}, which was refused without effect");
                wrong.push(Finding::new("refused but there", what, [add]));
            }
            Some(_) => {}
        }
        if seen.contains(&value) {
            wrong.push(Finding::new(
                "duplicate",
                format!("{source} has {value} twice"),
                add,
            ));
        }
        seen.insert(value);
    }
    let lost = adds
        .iter()
        .filter(|add| add.is_ok() && !seen.contains(&text(&add.invoke.value)));
    wrong.extend(lost.map(|add| {
        let what = format!(
            "{source} lacks {}, which was acknowledged",
            add.invoke.value
        );
        Finding::new("lost", what, [*add])
    }));
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{anomalies, history};
    use super::*;

    fn found(end: &str, last: &Value) -> Findings {
        check(&history(&[
            json!({"process": 0, "type": "invoke", "f": "add", "key": "1", "value": 1}),
            json!({"process": 0, "type": end, "f": "add", "key": "1", "value": 1}),
            json!({"process": "final", "type": "final", "f": "set", "source": "scan", "value": last}),
        ]))
    }

    #[test]
    fn what_was_acknowledged_is_there_once_and_nothing_else_is() {
        for (end, last, anomaly) in [
            ("ok", json!([1]), &[][..]),
            ("info", json!([1]), &[]),
            ("info", json!([]), &[]),
            ("fail", json!([]), &[]),
            ("ok", json!([]), &["lost"]),
            ("ok", json!([1, 1]), &["duplicate"]),
            ("ok", json!([1, 2]), &["phantom"]),
            ("fail", json!([1]), &["refused but there"]),
        ] {
            assert_eq!(anomalies(&found(end, &last)), anomaly, "{end} {last}");
        }
    }

    #[test]
    fn every_look_counts_and_none_is_no_answer() {
        let add =
            |kind: &str| json!({"process": 0, "type": kind, "f": "add", "key": "1", "value": 1});
        let look = |source: &str, value: Value| json!({"process": "final", "type": "final", "f": "set", "source": source, "value": value});
        let two = [
            add("invoke"),
            add("ok"),
            look("scan", json!([1])),
            look("index", json!([])),
        ];
        let findings = check(&history(&two));
        assert_eq!(anomalies(&findings), ["lost"]);
        assert!(findings.wrong[0].what.contains("index"));
        assert_eq!(check(&history(&two[..2])).undecided.len(), 1);
    }
}
