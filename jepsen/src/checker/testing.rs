//! Histories written by hand, for the tests of checkers.

use serde_json::Value;

use super::Findings;
use crate::history::{Event, History};

/// A history of lines; `time` is the place of the line where it is not given.
#[track_caller]
pub(crate) fn history(lines: &[Value]) -> History {
    let events = lines.iter().enumerate().map(|(at, line)| {
        let mut line = line.clone();
        let time = line["time"].as_u64().unwrap_or(at as u64);
        line["time"] = Value::from(time);
        serde_json::from_value::<Event>(line).expect("a line")
    });
    History::new(events.collect()).expect("well-formed")
}

/// The names of what was found.
pub(crate) fn anomalies(findings: &Findings) -> Vec<&str> {
    assert!(findings.undecided.is_empty(), "{:?}", findings.undecided);
    findings
        .wrong
        .iter()
        .map(|finding| finding.anomaly.as_str())
        .collect()
}
