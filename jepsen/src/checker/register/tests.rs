//! Good and bad registers by hand, mutated good ones, and a second checker's opinion.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Theirs};
use todc_utils::specifications::Specification;

use super::super::testing::{anomalies, history};
use super::*;

/// `process: invoke` and `process: end` of operations on `k`.
fn call(process: u64, f: &str, value: Value) -> Value {
    json!({"process": process, "type": "invoke", "f": f, "key": "k", "value": value})
}

fn ok(process: u64, f: &str, value: Value, version: u64) -> Value {
    json!({"process": process, "type": "ok", "f": f, "key": "k", "value": value, "version": version})
}

fn ended(process: u64, kind: &str, f: &str, reason: &str) -> Value {
    json!({"process": process, "type": kind, "f": f, "key": "k", "value": null, "reason": reason})
}

fn expecting(mut call: Value, version: u64) -> Value {
    call["expect"] = json!(version);
    call
}

/// Operations one after the other.
fn wrote(value: u64, version: u64) -> [Value; 2] {
    [
        call(0, "write", json!(value)),
        ok(0, "write", json!(value), version),
    ]
}

fn read(value: Value, version: u64) -> [Value; 2] {
    [call(1, "read", Value::Null), ok(1, "read", value, version)]
}

#[track_caller]
fn fine(lines: &[Value]) {
    let history = history(lines);
    assert_eq!(anomalies(&check(&history)), Vec::<&str>::new());
}

#[track_caller]
fn wrong(lines: &[Value], anomaly: &str) {
    let history = history(lines);
    assert_eq!(anomalies(&check(&history)), [anomaly]);
}

#[test]
fn what_a_register_does_passes() {
    let insert = [
        expecting(call(0, "cas", json!(1)), 0),
        ok(0, "cas", json!(1), 1),
    ];
    let delete = [
        expecting(call(0, "delete", Value::Null), 1),
        ok(0, "delete", Value::Null, 2),
    ];
    let again = [
        expecting(call(0, "cas", json!(3)), 0),
        ok(0, "cas", json!(3), 3),
    ];
    fine(
        &[
            read(Value::Null, 0),
            insert.clone(),
            read(json!(1), 1),
            delete,
            read(Value::Null, 0),
            again,
        ]
        .concat(),
    );
    // Two at once, in either order; a reader may see either in between.
    let both = [call(0, "write", json!(1)), call(2, "write", json!(2))];
    for (first, second) in [(1, 2), (2, 1)] {
        let ends = [
            ok(0, "write", json!(1), first),
            ok(2, "write", json!(2), second),
        ];
        fine(&[&both[..], &ends].concat());
    }
    // Refusals of conditions that did not hold.
    let stale = [
        expecting(call(2, "cas", json!(9)), 7),
        ended(2, "fail", "cas", "mismatch"),
    ];
    let late = [
        expecting(call(2, "cas", json!(9)), 0),
        ended(2, "fail", "cas", "mismatch"),
    ];
    let nothing_there = [
        call(2, "write", json!(9)),
        ended(2, "fail", "write", "absent"),
    ];
    fine(&[nothing_there, insert, stale, late].concat());
}

#[test]
fn unknown_writes_may_happen_at_any_time_or_never() {
    let unknown = [call(0, "write", json!(1)), ended(0, "info", "write", "")];
    let other = [call(2, "write", json!(2)), ok(2, "write", json!(2), 1)];
    fine(&[unknown.clone(), read(Value::Null, 0)].concat());
    fine(&[unknown.clone(), read(json!(1), 1)].concat());
    fine(&[&unknown[..], &other, &read(json!(2), 1), &read(json!(1), 2)].concat());
    // But once.
    wrong(
        &[&unknown[..], &read(json!(1), 1), &read(json!(1), 2)].concat(),
        "not linearizable",
    );
    // And not before it was asked for.
    wrong(
        &[&read(json!(1), 1)[..], &unknown].concat(),
        "not linearizable",
    );
}

#[test]
fn many_unknown_writes_are_no_search_without_end() {
    let unknown = (10..60).flat_map(|process| {
        [
            call(process, "write", json!(process)),
            ended(process, "info", "write", ""),
        ]
    });
    let known = (0..200).flat_map(|at| wrote(1_000 + at, 1 + at));
    let mut lines: Vec<Value> = unknown.chain(known).collect();
    fine(&lines);
    lines.extend(read(json!(1_000), 1));
    wrong(&lines, "not linearizable");
}

#[test]
fn a_lost_write_is_found() {
    wrong(
        &[wrote(1, 1), wrote(2, 2), read(json!(1), 1)].concat(),
        "not linearizable",
    );
    wrong(
        &[wrote(1, 1), read(Value::Null, 0)].concat(),
        "not linearizable",
    );
    wrong(&[wrote(1, 1), wrote(2, 1)].concat(), "not linearizable");
}

#[test]
fn phantoms_and_aborted_reads_are_found() {
    wrong(&[wrote(1, 1), read(json!(9), 1)].concat(), "phantom");
    let refused = [
        call(2, "write", json!(5)),
        ended(2, "fail", "write", "unavailable"),
    ];
    wrong(&[refused, read(json!(5), 1)].concat(), "aborted read");
}

#[test]
fn conditions_are_checked_both_ways() {
    let taken = [
        expecting(call(2, "cas", json!(5)), 1),
        ok(2, "cas", json!(5), 3),
    ];
    wrong(
        &[wrote(1, 1), wrote(2, 2), taken].concat(),
        "not linearizable",
    );
    let insert = [
        expecting(call(2, "cas", json!(5)), 0),
        ok(2, "cas", json!(5), 2),
    ];
    wrong(&[wrote(1, 1), insert].concat(), "not linearizable");
    let refused = [
        expecting(call(2, "cas", json!(5)), 1),
        ended(2, "fail", "cas", "mismatch"),
    ];
    wrong(&[wrote(1, 1), refused].concat(), "not linearizable");
}

#[test]
fn a_witness_is_the_end_of_the_shortest_prefix_without_needless_reads() {
    let reads = (0..5).flat_map(|_| read(json!(1), 1));
    let lines: Vec<Value> = wrote(1, 1)
        .into_iter()
        .chain(reads)
        .chain(wrote(2, 2))
        .chain(read(json!(1), 1))
        .chain(wrote(3, 3))
        .collect();
    let found = check(&history(&lines)).wrong;
    assert_eq!(found[0].witness.len(), 3, "{found:?}");
    assert!(found[0].witness[2].contains("at version 1"), "{found:?}");
}

/// A history that a real register made: each operation takes place at a moment between its ends.
fn made(random: &mut StdRng, operations: usize) -> Vec<Value> {
    let (mut version, mut stored) = (0_u64, Value::Null);
    let mut open: Vec<Option<Value>> = vec![None; 4];
    let mut lines = Vec::new();
    let mut values = 0_u64;
    while values < operations as u64 || open.iter().any(Option::is_some) {
        let at = random.random_range(0..open.len());
        if let Some(end) = open[at].take() {
            lines.push(end);
            continue;
        }
        if values == operations as u64 {
            continue;
        }
        values += 1;
        let process = at as u64;
        let (begin, end) = if random.random() {
            version += 1;
            stored = json!(values);
            (
                call(process, "write", json!(values)),
                ok(process, "write", json!(values), version),
            )
        } else {
            (
                call(process, "read", Value::Null),
                ok(process, "read", stored.clone(), version),
            )
        };
        lines.push(begin);
        open[at] = Some(end);
    }
    lines
}

#[test]
fn mutated_histories_are_found() {
    let mut random = StdRng::seed_from_u64(8);
    for _ in 0..50 {
        let lines = made(&mut random, 60);
        fine(&lines);
        // A read of something older than what was there.
        let changed = lines.iter().rposition(|line| {
            line["f"] == "read" && line["type"] == "ok" && line["version"].as_u64() > Some(9)
        });
        let Some(at) = changed else { continue };
        let first = lines
            .iter()
            .find(|line| line["version"] == 1 && line["f"] == "write")
            .expect("the first write");
        let mut stale = lines.clone();
        stale[at]["value"] = first["value"].clone();
        stale[at]["version"] = json!(1);
        assert_eq!(anomalies(&check(&history(&stale))), ["not linearizable"]);
        // An acknowledged write that did not happen.
        let mut lost = lines.clone();
        for line in lost
            .iter_mut()
            .filter(|line| line["version"].as_u64() > Some(5))
        {
            line["version"] = json!(line["version"].as_u64().expect("a version") - 1);
        }
        assert!(!check(&history(&lost)).wrong.is_empty());
    }
}

/// The second checker's register: the same object, without versions.
#[derive(Clone, Debug)]
enum Step {
    Read(Option<u64>),
    Write(u64),
}

struct Plain;

impl Specification for Plain {
    type State = Option<u64>;
    type Operation = Step;

    fn init() -> Option<u64> {
        None
    }

    fn apply(step: &Step, state: &Option<u64>) -> (bool, Option<u64>) {
        match step {
            Step::Read(found) => (found == state, *state),
            Step::Write(value) => (true, Some(*value)),
        }
    }
}

#[test]
fn a_second_checker_agrees_on_small_histories() {
    let mut random = StdRng::seed_from_u64(1);
    let mut counts = [0_usize; 2];
    for _ in 0..2_000 {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut open: Vec<Option<Step>> = vec![None; 3];
        let mut left = 7;
        while left > 0 || open.iter().any(Option::is_some) {
            let at = random.random_range(0..open.len());
            match open[at].take() {
                Some(step) => {
                    let (f, value) = parts(&step);
                    ours.push(
                        json!({"process": at, "type": "ok", "f": f, "key": "k", "value": value}),
                    );
                    theirs.push((at, Action::Response(step)));
                }
                None if left > 0 => {
                    left -= 1;
                    let step = if random.random() {
                        Step::Write(left)
                    } else {
                        Step::Read(random.random_range(0..8_u64).checked_sub(1))
                    };
                    let (f, value) = parts(&step);
                    let asked = if f == "read" { Value::Null } else { value };
                    ours.push(call(at as u64, f, asked));
                    theirs.push((at, Action::Call(step.clone())));
                    open[at] = Some(step);
                }
                None => {}
            }
        }
        let history = history(&ours);
        let operations = history.operations();
        let answer = linear::check(&Register, &timed(&operations), STEPS_MAX);
        let second = WGLChecker::<Plain>::is_linearizable(Theirs::from_actions(theirs));
        assert_eq!(answer == Answer::Linearizable, second, "{ours:#?}");
        counts[usize::from(second)] += 1;
    }
    assert!(
        counts.iter().all(|count| *count > 50),
        "both answers occur: {counts:?}"
    );
}

fn parts(step: &Step) -> (&'static str, Value) {
    match step {
        Step::Read(value) => ("read", json!(value)),
        Step::Write(value) => ("write", json!(value)),
    }
}
