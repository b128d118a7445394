//! Repetitions: a request that is sent several times under one idempotency key takes effect once, and whoever gets an
//! answer gets the same one.

use serde_json::Value;

use super::set::compare;
use super::{Finding, Findings, in_the_end, members};
use crate::history::{History, Operation};

/// Judges `push` operations (value: the element that a list gets; an ok value is `{"element", "versions"}`, the version
/// in each answer) and the `final` lines of `push`, each a list with its `key`.
pub fn check(history: &History) -> Findings {
    let operations = history.operations();
    let pushes: Vec<_> = operations
        .iter()
        .filter(|operation| operation.f() == "push")
        .collect();
    let answers: Vec<Finding> = pushes.iter().filter_map(|push| differing(push)).collect();
    let lists = in_the_end(history, "push", |last| {
        let key = last.key.as_deref().unwrap_or_default();
        let here: Vec<_> = pushes
            .iter()
            .copied()
            .filter(|push| push.key() == key)
            .collect();
        compare(&here, members(&last.value), key)
    });
    Findings::from(answers).and(lists)
}

fn differing(push: &Operation<'_>) -> Option<Finding> {
    let versions: Vec<&Value> = members(&push.value()["versions"]).collect();
    let differ = push.is_ok() && versions.windows(2).any(|pair| pair[0] != pair[1]);
    differ.then(|| {
        Finding::new(
            "answered differently",
            format!("one request, several answers: versions {versions:?}"),
            [push],
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{anomalies, history};
    use super::*;

    #[test]
    fn once_and_with_one_answer() {
        for (versions, last, anomaly) in [
            (json!([1, 1]), json!([7]), &[][..]),
            (json!([1, 2]), json!([7]), &["answered differently"]),
            (json!([1, 1]), json!([7, 7]), &["duplicate"]),
            (json!([1]), json!([]), &["lost"]),
        ] {
            let lines = [
                json!({"process": 0, "type": "invoke", "f": "push", "key": "l", "value": 7}),
                json!({"process": 0, "type": "ok", "f": "push", "key": "l", "value": {"element": 7, "versions": versions}}),
                json!({"process": "final", "type": "final", "f": "push", "key": "l", "value": last}),
            ];
            assert_eq!(anomalies(&check(&history(&lines))), anomaly);
        }
    }
}
