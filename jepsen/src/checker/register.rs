//! A register per key whose every accepted write takes the next version.
//!
//! The version orders all writes of a key, so linearizability needs no search. Checked, per key:
//!
//! 1. **One write per version.** No two acknowledged writes made the same one, and all who saw a version saw the same.
//! 2. **No phantoms.** What was read had been written, by a write that was not refused, began before the read ended,
//!    and, if its version is known, under that version.
//! 3. **Real time.** An operation that began after another one ended saw, or made, no older version; a write made a
//!    newer one. So an acknowledged write is never lost: reads at the end would show it.
//! 4. **Nothing from nothing.** Finding no document needs a delete behind all that had ended before.
//! 5. **Conditions.** A write on the condition of version v made v + 1.
//! 6. **Versions are spent on writes.** Those below the highest that no acknowledged write made are no more than the
//!    writes of unknown outcome.
//!
//! Each is a consequence of linearizability, so whatever is reported is a fault. Not shown: that operations of unknown
//! outcome, which nobody read, could be fitted in.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::{Action, Operation, Outcome, Stored};

/// What is wrong with a history; empty if nothing was found.
pub fn check(operations: &[Operation]) -> Vec<String> {
    let mut registers: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        registers
            .entry(operation.action.key())
            .or_default()
            .push(operation);
    }
    let judge = |(key, operations): (&str, Vec<&Operation>)| {
        let register = Register { operations };
        register
            .faults()
            .into_iter()
            .map(|fault| format!("{key}: {fault}"))
            .collect::<Vec<_>>()
    };
    registers.into_iter().flat_map(judge).collect()
}

/// All operations on one key, in the order of their invocations.
struct Register<'a> {
    operations: Vec<&'a Operation>,
}

impl Register<'_> {
    fn faults(&self) -> Vec<String> {
        let mut faults = self.versions();
        faults.extend(self.phantoms());
        faults.extend(self.real_time());
        faults.extend(self.absences());
        faults.extend(self.spent_versions());
        faults
    }

    /// Checks 1 and 5.
    fn versions(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut seen: HashMap<u64, Option<u64>> = HashMap::new();
        let mut made: BTreeSet<u64> = BTreeSet::new();
        for operation in &self.operations {
            let Some(stored) = stored(operation) else {
                continue;
            };
            if *seen.entry(stored.version).or_insert(stored.value) != stored.value {
                faults.push(format!(
                    "two values at version {}, one seen by {}",
                    stored.version,
                    show(operation)
                ));
            }
            if is_write(operation) && !made.insert(stored.version) {
                faults.push(format!(
                    "two acknowledged writes made version {}, one is {}",
                    stored.version,
                    show(operation)
                ));
            }
            if expected(operation)
                .is_some_and(|expected| expected.checked_add(1) != Some(stored.version))
            {
                faults.push(format!("the condition did not hold: {}", show(operation)));
            }
        }
        faults
    }

    /// Check 2.
    fn phantoms(&self) -> Vec<String> {
        let writes: HashMap<u64, &Operation> = self
            .operations
            .iter()
            .filter_map(|operation| match operation.action {
                Action::Write { value, .. } => Some((value, *operation)),
                Action::Read { .. } | Action::Delete { .. } => None,
            })
            .collect();
        let mut faults = Vec::new();
        for read in self
            .operations
            .iter()
            .filter(|operation| !is_write(operation))
        {
            let Some(Stored {
                value: Some(value),
                version,
            }) = stored(read)
            else {
                continue;
            };
            let fault = match writes.get(&value) {
                None => Some("was never written"),
                Some(write) if write.invoked > read.completed => Some("was written only later"),
                Some(write) => match &write.outcome {
                    Outcome::Fail { .. } => Some("was refused with no effect"),
                    Outcome::Ok { stored: Some(made) } if made.version != version => {
                        Some("has another version")
                    }
                    Outcome::Ok { .. } | Outcome::Info { .. } => None,
                },
            };
            faults.extend(fault.map(|fault| format!("{} read what {fault}", show(read))));
        }
        faults
    }

    /// Check 3, in one pass over the lines of the history.
    fn real_time(&self) -> Vec<String> {
        let mut steps: Vec<(usize, &Operation, bool)> = Vec::new();
        for operation in &self.operations {
            if stored(operation).is_some() {
                steps.push((operation.invoked, operation, true));
                steps.push((operation.completed, operation, false));
            }
        }
        steps.sort_by_key(|(line, ..)| *line);
        let mut faults = Vec::new();
        let mut highest: Option<&Operation> = None;
        let version = |operation: &Operation| stored(operation).map_or(0, |stored| stored.version);
        for (_, operation, is_begin) in steps {
            if !is_begin {
                if highest.is_none_or(|highest| version(operation) > version(highest)) {
                    highest = Some(operation);
                }
                continue;
            }
            let Some(before) = highest else { continue };
            let goes_back = version(operation) < version(before);
            if goes_back || (is_write(operation) && version(operation) == version(before)) {
                faults.push(format!(
                    "{} came after {} had ended",
                    show(operation),
                    show(before)
                ));
            }
        }
        faults
    }

    /// Check 4.
    fn absences(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for read in &self.operations {
            if !matches!(read.outcome, Outcome::Ok { stored: None }) {
                continue;
            }
            let ended_before = self
                .operations
                .iter()
                .filter(|other| other.completed < read.invoked);
            let last = ended_before
                .filter_map(|other| stored(other))
                .max_by_key(|stored| stored.version);
            let Some(last) = last.filter(|last| last.value.is_some()) else {
                continue;
            };
            let may_explain = |other: &&&Operation| {
                let Action::Delete { expected, .. } = other.action else {
                    return false;
                };
                let took_place = !matches!(other.outcome, Outcome::Fail { .. });
                took_place && expected >= last.version && other.invoked < read.completed
            };
            if !self.operations.iter().any(|other| may_explain(&other)) {
                faults.push(format!(
                    "{} found nothing, and nobody deleted version {}",
                    show(read),
                    last.version
                ));
            }
        }
        faults
    }

    /// Check 6.
    fn spent_versions(&self) -> Option<String> {
        let highest = self
            .operations
            .iter()
            .filter_map(|operation| stored(operation))
            .map(|stored| stored.version)
            .max()?;
        let writes = self
            .operations
            .iter()
            .filter(|operation| is_write(operation));
        let (known, unknown): (Vec<&Operation>, Vec<&Operation>) = writes
            .copied()
            .partition(|operation| !matches!(operation.outcome, Outcome::Info { .. }));
        let made: BTreeSet<u64> = known
            .iter()
            .filter_map(|operation| Some(stored(operation)?.version))
            .collect();
        let unmade = highest.saturating_sub(made.len() as u64);
        (unmade > unknown.len() as u64).then(|| {
            format!("{unmade} versions up to {highest} were made by no acknowledged write, but only {} are unknown", unknown.len())
        })
    }
}

fn is_write(operation: &Operation) -> bool {
    !matches!(operation.action, Action::Read { .. })
}

fn stored(operation: &Operation) -> Option<Stored> {
    match &operation.outcome {
        Outcome::Ok { stored } => *stored,
        Outcome::Fail { .. } | Outcome::Info { .. } => None,
    }
}

fn expected(operation: &Operation) -> Option<u64> {
    match &operation.action {
        Action::Write { expected, .. } => *expected,
        Action::Delete { expected, .. } => Some(*expected),
        Action::Read { .. } => None,
    }
}

fn show(operation: &Operation) -> String {
    let Operation {
        process,
        action,
        invoked,
        ..
    } = operation;
    let found = stored(operation)
        .map(|stored| format!(" -> {:?} at version {}", stored.value, stored.version));
    format!(
        "[line {invoked}, process {process}: {action:?}{}]",
        found.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operation on `k` from line `invoked` to line `completed`.
    fn operation(invoked: usize, completed: usize, action: Action, outcome: Outcome) -> Operation {
        Operation {
            process: "0".to_owned(),
            action,
            invoked,
            completed,
            outcome,
        }
    }

    fn key() -> String {
        "k".to_owned()
    }

    fn ok(value: u64, version: u64) -> Outcome {
        Outcome::Ok {
            stored: Some(Stored {
                value: Some(value),
                version,
            }),
        }
    }

    fn write(value: u64) -> Action {
        Action::Write {
            key: key(),
            value,
            expected: None,
        }
    }

    fn wrote(lines: (usize, usize), value: u64, version: u64) -> Operation {
        operation(lines.0, lines.1, write(value), ok(value, version))
    }

    fn unknown(invoked: usize, value: u64) -> Operation {
        let outcome = Outcome::Info {
            error: String::new(),
        };
        operation(invoked, usize::MAX, write(value), outcome)
    }

    fn refused(lines: (usize, usize), value: u64) -> Operation {
        let outcome = Outcome::Fail {
            error: String::new(),
        };
        operation(lines.0, lines.1, write(value), outcome)
    }

    fn read(lines: (usize, usize), value: u64, version: u64) -> Operation {
        operation(
            lines.0,
            lines.1,
            Action::Read { key: key() },
            ok(value, version),
        )
    }

    fn nothing(lines: (usize, usize)) -> Operation {
        operation(
            lines.0,
            lines.1,
            Action::Read { key: key() },
            Outcome::Ok { stored: None },
        )
    }

    fn deleted(lines: (usize, usize), expected: u64) -> Operation {
        let outcome = Outcome::Ok {
            stored: Some(Stored {
                value: None,
                version: expected + 1,
            }),
        };
        operation(
            lines.0,
            lines.1,
            Action::Delete {
                key: key(),
                expected,
            },
            outcome,
        )
    }

    #[track_caller]
    fn fault(operations: &[Operation], part: &str) {
        let faults = check(operations);
        assert!(
            faults.iter().any(|fault| fault.contains(part)),
            "no `{part}` in {faults:?}"
        );
    }

    #[track_caller]
    fn fine(operations: &[Operation]) {
        assert_eq!(check(operations), Vec::<String>::new());
    }

    #[test]
    fn what_happened_in_order_is_fine() {
        fine(&[]);
        fine(&[
            nothing((0, 1)),
            wrote((2, 3), 10, 1),
            read((4, 5), 10, 1),
            wrote((6, 7), 11, 2),
            read((8, 9), 11, 2),
        ]);
        fine(&[
            wrote((0, 1), 10, 1),
            deleted((2, 3), 1),
            nothing((4, 5)),
            wrote((6, 7), 11, 3),
        ]);
    }

    #[test]
    fn what_overlaps_may_fall_either_way() {
        fine(&[
            wrote((0, 1), 10, 1),
            wrote((2, 5), 11, 2),
            read((3, 4), 10, 1),
            read((6, 7), 11, 2),
        ]);
        fine(&[
            wrote((0, 1), 10, 1),
            wrote((2, 5), 11, 2),
            read((3, 4), 11, 2),
        ]);
        fine(&[wrote((0, 3), 10, 2), wrote((1, 2), 11, 1)]);
        fine(&[wrote((0, 1), 10, 1), deleted((2, 5), 1), nothing((3, 4))]);
        fine(&[
            wrote((0, 1), 10, 1),
            deleted((2, 5), 1),
            read((3, 4), 10, 1),
        ]);
    }

    #[test]
    fn an_unknown_write_may_have_happened_late_or_never() {
        fine(&[
            wrote((0, 1), 10, 1),
            unknown(2, 11),
            read((3, 4), 10, 1),
            read((5, 6), 11, 2),
        ]);
        fine(&[
            unknown(0, 10),
            nothing((1, 2)),
            wrote((3, 4), 11, 1),
            read((5, 6), 10, 2),
        ]);
        fine(&[unknown(0, 10), wrote((1, 2), 11, 2)]);
    }

    #[test]
    fn a_lost_write_is_found() {
        fault(
            &[
                wrote((0, 1), 10, 1),
                wrote((2, 3), 11, 2),
                read((4, 5), 10, 1),
            ],
            "had ended",
        );
        fault(&[wrote((0, 1), 10, 1), nothing((2, 3))], "found nothing");
        fault(
            &[wrote((0, 1), 10, 1), wrote((2, 3), 11, 1)],
            "two acknowledged writes made version 1",
        );
    }

    #[test]
    fn a_stale_read_is_found() {
        let stale = [
            wrote((0, 1), 10, 1),
            wrote((2, 9), 11, 2),
            read((3, 4), 11, 2),
            read((5, 6), 10, 1),
        ];
        fault(&stale, "had ended");
        fault(
            &[
                wrote((0, 1), 10, 1),
                deleted((2, 3), 1),
                read((4, 5), 10, 1),
            ],
            "had ended",
        );
        // Deleted before the last write: no excuse for finding nothing after it.
        fault(
            &[
                wrote((0, 1), 10, 1),
                deleted((2, 3), 1),
                wrote((4, 5), 11, 3),
                nothing((6, 7)),
            ],
            "found nothing",
        );
    }

    #[test]
    fn a_phantom_is_found() {
        fault(
            &[wrote((0, 1), 10, 1), read((2, 3), 99, 1)],
            "was never written",
        );
        fault(&[refused((0, 1), 10), read((2, 3), 10, 1)], "was refused");
        fault(
            &[
                wrote((0, 1), 10, 1),
                read((2, 3), 11, 2),
                wrote((4, 5), 11, 2),
            ],
            "written only later",
        );
        fault(
            &[wrote((0, 1), 10, 1), read((2, 3), 10, 2)],
            "has another version",
        );
        fault(
            &[
                wrote((0, 1), 10, 1),
                unknown(2, 11),
                read((3, 4), 10, 1),
                read((5, 6), 11, 1),
            ],
            "two values at version 1",
        );
    }

    #[test]
    fn a_write_that_counted_twice_is_found() {
        fault(
            &[wrote((0, 1), 10, 1), wrote((2, 3), 11, 3)],
            "made by no acknowledged write",
        );
        fault(
            &[unknown(0, 10), wrote((1, 2), 11, 3)],
            "only 1 are unknown",
        );
    }

    #[test]
    fn a_condition_that_did_not_hold_is_found() {
        let action = Action::Write {
            key: key(),
            value: 11,
            expected: Some(1),
        };
        fault(
            &[
                wrote((0, 1), 10, 1),
                wrote((2, 3), 12, 2),
                operation(4, 5, action, ok(11, 3)),
            ],
            "condition did not hold",
        );
    }

    #[test]
    fn registers_are_judged_apart() {
        let mut other = wrote((2, 3), 11, 1);
        other.action = Action::Write {
            key: "other".to_owned(),
            value: 11,
            expected: None,
        };
        fine(&[wrote((0, 1), 10, 1), other]);
    }
}
