//! Cached reads: never older than Δ, and never going back for one client.

use std::collections::HashMap;
use std::time::Duration;

use super::{Finding, Findings, by_key};
use crate::history::{History, Operation, Process};

/// What the checker says, and how old the oldest answer was.
#[derive(Debug, Default)]
pub struct Staleness {
    /// What is wrong.
    pub findings: Findings,
    /// The age of the oldest answer: from the acknowledgement of a newer version to the beginning of the read.
    pub worst: Duration,
}

/// Judges `cread` by the acknowledged `write`, `cas` and `delete` of the same document.
pub fn check(history: &History, delta: Duration) -> Staleness {
    let mut answer = Staleness::default();
    for operations in by_key(history).into_values() {
        let reads = operations
            .iter()
            .filter(|operation| operation.f() == "cread" && operation.is_ok());
        let mut seen: HashMap<&Process, &Operation<'_>> = HashMap::new();
        for read in reads {
            let age = age(&operations, read);
            answer.worst = answer.worst.max(age);
            if age > delta {
                let what = format!(
                    "{}: {} ms old, {} ms are promised",
                    read.key(),
                    age.as_millis(),
                    delta.as_millis()
                );
                answer
                    .findings
                    .wrong
                    .push(Finding::new("too old", what, [read]));
            }
            let before = seen.insert(&read.invoke.process, read);
            if let Some(before) = before.filter(|before| before.version() > read.version()) {
                let what = format!(
                    "{}: one client saw an older version after a newer one",
                    read.key()
                );
                answer
                    .findings
                    .wrong
                    .push(Finding::new("went back", what, [before, read]));
            }
        }
    }
    answer
}

/// How long a newer version had been acknowledged when the read began.
fn age(operations: &[Operation<'_>], read: &Operation<'_>) -> Duration {
    let newer = operations.iter().filter(|write| {
        matches!(write.f(), "write" | "cas" | "delete")
            && write.is_ok()
            && write.version() > read.version()
    });
    let acknowledged = newer.filter_map(|write| Some(write.end?.time)).min();
    let age = acknowledged.map_or(0, |time| read.invoke.time.saturating_sub(time));
    Duration::from_nanos(age)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{anomalies, history};
    use super::*;

    /// Version 2 is acknowledged at 10; then reads, each at a time and of a version, all by one client.
    fn reads(reads: &[(u64, u64)]) -> Staleness {
        let line = |process: u64, f: &str, kind: &str, version: u64, time: u64| -> Value {
            json!({"process": process, "type": kind, "f": f, "key": "k", "value": version, "version": version, "time": time})
        };
        let mut lines = vec![
            line(0, "write", "invoke", 2, 9),
            line(0, "write", "ok", 2, 10),
        ];
        for &(time, version) in reads {
            lines.extend([
                line(1, "cread", "invoke", version, time),
                line(1, "cread", "ok", version, time + 1),
            ]);
        }
        check(&history(&lines), Duration::from_nanos(5))
    }

    #[test]
    fn no_older_than_promised_and_never_backwards() {
        for (seen, worst, anomaly) in [
            (&[(15, 1), (20, 2)][..], 5, &[][..]),
            (&[(16, 1)], 6, &["too old"]),
            (&[(12, 2), (14, 1)], 4, &["went back"]),
        ] {
            let answer = reads(seen);
            assert_eq!(anomalies(&answer.findings), anomaly, "{seen:?}");
            assert_eq!(answer.worst, Duration::from_nanos(worst));
        }
    }
}
