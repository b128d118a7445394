//! Unique values: of many that register a name one gets it, and has it in the end.

use std::collections::HashMap;

use serde_json::Value;

use super::set::compare;
use super::{Finding, Findings, in_the_end, members, text};
use crate::history::{History, Operation};

/// Judges `register` operations (value: the name, key: the document) and the `final` lines of `register`, each a list
/// of `[document, name]`.
pub fn check(history: &History) -> Findings {
    let operations = history.operations();
    let mut owners: HashMap<String, &Operation<'_>> = HashMap::new();
    let mut findings = Findings::default();
    for operation in operations
        .iter()
        .filter(|operation| operation.f() == "register" && operation.is_ok())
    {
        let name = text(&operation.invoke.value);
        if let Some(first) = owners.insert(name.clone(), operation) {
            findings.wrong.push(Finding::new(
                "two owners",
                format!("{name} was given to two"),
                [first, operation],
            ));
        }
    }
    findings.and(in_the_end(history, "register", |last| {
        names(&operations, &last.value)
    }))
}

/// Names that two documents have, and names of the wrong document or of none.
fn names(operations: &[Operation<'_>], last: &Value) -> Vec<Finding> {
    let mut documents: HashMap<String, String> = HashMap::new();
    let mut wrong = Vec::new();
    for pair in members(last) {
        let (document, name) = (text(&pair[0]), text(&pair[1]));
        if let Some(other) = documents.insert(name.clone(), document.clone()) {
            let what = format!("{name} belongs to {other} and to {document} in the end");
            wrong.push(Finding::new("two owners", what, []));
        }
    }
    for operation in operations
        .iter()
        .filter(|operation| operation.f() == "register")
    {
        let name = text(&operation.invoke.value);
        let has_it = documents
            .get(&name)
            .is_some_and(|owner| owner == operation.key());
        if operation.is_ok() && !has_it {
            wrong.push(Finding::new(
                "lost",
                format!("{name} was given away and is not there in the end"),
                [operation],
            ));
        }
    }
    // What is there was asked for by its document, and not refused.
    let of: HashMap<&str, &Operation<'_>> = operations
        .iter()
        .map(|operation| (operation.key(), operation))
        .collect();
    for (name, document) in &documents {
        let asked: Vec<_> = of.get(document.as_str()).copied().into_iter().collect();
        let found = Value::from(name.as_str());
        let others = compare(&asked, std::iter::once(&found), "the last look");
        wrong.extend(
            others
                .into_iter()
                .filter(|finding| finding.anomaly != "lost"),
        );
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{anomalies, history};
    use super::*;

    fn registered(process: u64, end: &str) -> [Value; 2] {
        let line = |kind: &str| json!({"process": process, "type": kind, "f": "register", "key": format!("d{process}"), "value": "anna"});
        [line("invoke"), line(end)]
    }

    fn found(ends: [&str; 2], last: &Value) -> Vec<String> {
        let last = json!({"process": "final", "type": "final", "f": "register", "value": last});
        let lines = [
            &registered(0, ends[0])[..],
            &registered(1, ends[1]),
            &[last],
        ]
        .concat();
        let findings = check(&history(&lines));
        anomalies(&findings)
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn one_owner_at_the_most_and_the_one_that_was_told() {
        for (ends, last, anomaly) in [
            (["ok", "fail"], json!([["d0", "anna"]]), &[][..]),
            (["fail", "info"], json!([["d1", "anna"]]), &[]),
            (["fail", "info"], json!([]), &[]),
            (
                ["ok", "ok"],
                json!([["d0", "anna"], ["d1", "anna"]]),
                &["two owners", "two owners", "lost"],
            ),
            (["ok", "info"], json!([["d1", "anna"]]), &["lost"]),
            (
                ["fail", "fail"],
                json!([["d1", "anna"]]),
                &["refused but there"],
            ),
            (["info", "fail"], json!([["d7", "anna"]]), &["phantom"]),
        ] {
            assert_eq!(found(ends, &last), anomaly, "{ends:?} {last}");
        }
    }
}
