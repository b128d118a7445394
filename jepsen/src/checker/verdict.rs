//! From a history and what the checkers say to one word.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Finding, Findings};
use crate::history::{History, Kind};

/// The word. Only `Pass` is green.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Nothing wrong was found, and the run could have shown it.
    Pass,
    /// The run shows nothing: too little load, or a fault that did not happen.
    Vacuous,
    /// It could not be decided.
    Unknown,
    /// A promise is broken.
    Fail,
}

impl Verdict {
    /// As it is shown.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Vacuous => "VACUOUS",
            Verdict::Unknown => "UNKNOWN",
            Verdict::Fail => "FAIL",
        }
    }

    /// The exit status: 0, 1 (fail), 2 (vacuous), 4 (unknown). 3 is a run that failed itself.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Pass => 0,
            Verdict::Fail => 1,
            Verdict::Vacuous => 2,
            Verdict::Unknown => 4,
        }
    }
}

/// What a run must have done to show anything.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Successful operations per second before the first fault.
    pub rate_min: f64,
    /// Successful reads in all.
    pub reads_min: usize,
    /// Functions that read.
    pub reads: &'static [&'static str],
    /// Faults that were asked for.
    pub faults: Vec<String>,
}

/// How operations ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Happened.
    pub ok: usize,
    /// Refused.
    pub fail: usize,
    /// Unknown.
    pub info: usize,
    /// Times that something was done to the cluster.
    pub faults: usize,
}

/// A verdict with its reasons.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The word.
    pub verdict: Verdict,
    /// What is wrong.
    pub wrong: Vec<Finding>,
    /// Why it is not a pass otherwise.
    pub reasons: Vec<String>,
    /// How operations ended.
    pub counts: Counts,
}

/// Judges a run.
pub fn judge(history: &History, findings: Findings, rules: &Rules) -> Judgement {
    let hollow = vacuity(history, rules);
    let verdict = match (
        findings.wrong.is_empty(),
        findings.undecided.is_empty(),
        hollow.is_empty(),
    ) {
        (false, _, _) => Verdict::Fail,
        (true, false, _) => Verdict::Unknown,
        (true, true, false) => Verdict::Vacuous,
        (true, true, true) => Verdict::Pass,
    };
    let reasons = findings.undecided.into_iter().chain(hollow).collect();
    Judgement {
        verdict,
        wrong: findings.wrong,
        reasons,
        counts: counts(history),
    }
}

fn counts(history: &History) -> Counts {
    let mut counts = Counts {
        faults: faults(history).values().map(Fault::count).sum(),
        ..Counts::default()
    };
    for operation in history.operations() {
        match operation.kind() {
            Kind::Ok => counts.ok += 1,
            Kind::Fail => counts.fail += 1,
            Kind::Invoke | Kind::Info | Kind::Event | Kind::Final => counts.info += 1,
        }
    }
    counts
}

/// What happened of one kind of fault.
#[derive(Default)]
struct Fault {
    /// With an end, and with an effect where that can be told.
    happened: usize,
    without_effect: usize,
    /// Meant to depose a leader, and whether it did.
    meant: usize,
    deposed: usize,
}

impl Fault {
    fn count(&self) -> usize {
        self.happened + self.without_effect
    }
}

/// The ends of faults say what came of them: `value.packets`, `value.leaderChange`.
fn faults(history: &History) -> BTreeMap<&str, Fault> {
    let mut faults: BTreeMap<&str, Fault> = BTreeMap::new();
    for end in history
        .faults()
        .filter(|event| event.more.phase.as_deref() == Some("end"))
    {
        let fault = faults.entry(&end.f).or_default();
        if end.value["packets"].as_u64() == Some(0) {
            fault.without_effect += 1;
        } else {
            fault.happened += 1;
        }
        if let Some(deposed) = end.value["leaderChange"].as_bool() {
            fault.meant += 1;
            fault.deposed += usize::from(deposed);
        }
    }
    faults
}

/// Why the run shows nothing.
fn vacuity(history: &History, rules: &Rules) -> Vec<String> {
    let mut reasons = Vec::new();
    let rate = rate_before_faults(history);
    if rate < rules.rate_min {
        reasons.push(format!(
            "{rate:.0} operations a second succeeded before the first fault, {:.0} are needed",
            rules.rate_min
        ));
    }
    let reads = history
        .operations()
        .iter()
        .filter(|operation| operation.is_ok() && rules.reads.contains(&operation.f()))
        .count();
    if reads < rules.reads_min {
        reasons.push(format!(
            "{reads} reads succeeded, {} are needed",
            rules.reads_min
        ));
    }
    let faults = faults(history);
    for name in &rules.faults {
        let fault = faults.get(name.as_str());
        if fault.is_none_or(|fault| fault.happened == 0) {
            reasons.push(format!("the fault {name} was asked for and did not happen"));
        }
    }
    let meant: usize = faults.values().map(|fault| fault.meant).sum();
    if meant > 0 && faults.values().all(|fault| fault.deposed == 0) {
        reasons.push(format!(
            "{meant} faults were meant to depose a leader, and none did"
        ));
    }
    reasons
}

/// Successful operations per second until the first fault, or until the end.
fn rate_before_faults(history: &History) -> f64 {
    let operations = history.operations();
    let Some(first) = operations.first().map(|operation| operation.invoke.time) else {
        return 0.0;
    };
    let last = operations
        .iter()
        .filter_map(|operation| operation.end)
        .map(|end| end.time)
        .max();
    let until = history
        .faults()
        .next()
        .map(|fault| fault.time)
        .or(last)
        .unwrap_or(first);
    let succeeded = operations.iter().filter(|operation| {
        operation.is_ok() && operation.end.is_some_and(|end| end.time <= until)
    });
    let seconds = until.saturating_sub(first) as f64 / 1e9;
    if seconds > 0.0 {
        succeeded.count() as f64 / seconds
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::history;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rules(faults: &[&str]) -> Rules {
        Rules {
            rate_min: 100.0,
            reads_min: 5,
            reads: &["read"],
            faults: faults.iter().map(|fault| (*fault).to_owned()).collect(),
        }
    }

    /// Reads, so many a second for a second, then a fault whose end has this value.
    fn run(reads: u64, end: &Value) -> History {
        let mut lines = Vec::new();
        for at in 0..reads {
            let line = |kind: &str, time: u64| json!({"process": 0, "type": kind, "f": "read", "key": "k", "value": null, "time": time});
            lines.extend([
                line("invoke", at * SECOND / reads),
                line("ok", at * SECOND / reads + 1),
            ]);
        }
        let fault = |phase: &str, value: &Value, time: u64| json!({"process": "nemesis", "type": "info", "f": "kill", "phase": phase, "value": value, "time": time});
        lines.extend([
            fault("start", &Value::Null, SECOND),
            fault("end", end, 2 * SECOND),
        ]);
        history(&lines)
    }

    #[test]
    fn only_a_run_that_could_show_something_passes() {
        for (reads, end, asked, verdict, reason) in [
            (
                200,
                json!({"leaderChange": true}),
                "kill",
                Verdict::Pass,
                "",
            ),
            (50, json!({}), "kill", Verdict::Vacuous, "a second"),
            (200, json!({}), "pause", Verdict::Vacuous, "did not happen"),
            (
                200,
                json!({"packets": 0}),
                "kill",
                Verdict::Vacuous,
                "did not happen",
            ),
            (
                200,
                json!({"leaderChange": false}),
                "kill",
                Verdict::Vacuous,
                "depose",
            ),
            (2, json!({}), "kill", Verdict::Vacuous, "2 reads"),
        ] {
            let judgement = judge(&run(reads, &end), Findings::default(), &rules(&[asked]));
            assert_eq!(judgement.verdict, verdict, "{:?}", judgement.reasons);
            assert!(
                judgement.reasons.join(" ").contains(reason),
                "{:?}",
                judgement.reasons
            );
            assert_eq!(judgement.counts.ok as u64, reads);
        }
    }

    #[test]
    fn a_fault_found_in_a_hollow_run_is_still_one() {
        let wrong = Findings::from(vec![Finding::new("lost", String::new(), [])]);
        assert_eq!(
            judge(&run(1, &Value::Null), wrong, &rules(&["pause"])).verdict,
            Verdict::Fail
        );
        let undecided = Findings {
            wrong: Vec::new(),
            undecided: vec!["too long".to_owned()],
        };
        assert_eq!(
            judge(&run(1, &Value::Null), undecided, &rules(&[])).verdict,
            Verdict::Unknown
        );
    }
}
