//! Transactions by hand, and a real history that is changed.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::super::testing::{anomalies, history};
use super::check;

/// A transaction of `process` from line to line; other ones may stand between them.
fn txn(process: u64, kind: &str, steps: &Value) -> Value {
    json!({"process": process, "type": kind, "f": "txn", "value": steps})
}

/// Transactions that all go on at the same time, each with the steps that it did.
fn at_once(transactions: &[Value]) -> Vec<Value> {
    let ends = |kind: &'static str| {
        transactions
            .iter()
            .zip(0..)
            .map(move |(steps, process)| txn(process, kind, steps))
    };
    ends("invoke").chain(ends("ok")).collect()
}

/// The same one after the other.
fn in_turn(transactions: &[Value]) -> Vec<Value> {
    transactions
        .iter()
        .flat_map(|steps| [txn(0, "invoke", steps), txn(0, "ok", steps)])
        .collect()
}

#[track_caller]
fn found(lines: &[Value], expected: &[&str]) {
    let findings = check(&history(lines));
    assert_eq!(anomalies(&findings), expected, "{findings:#?}");
}

#[test]
fn what_lists_do_passes() {
    found(
        &in_turn(&[
            json!([["append", "x", 1], ["r", "x", [1]]]),
            json!([["r", "x", [1]], ["append", "y", 1]]),
            json!([["append", "x", 2], ["append", "y", 2], ["r", "y", [1, 2]]]),
            json!([["r", "x", [1, 2]], ["r", "z", []]]),
        ]),
        &[],
    );
    // Seen or not, while it goes on.
    for list in [json!([]), json!([1])] {
        found(
            &at_once(&[json!([["append", "x", 1]]), json!([["r", "x", list]])]),
            &[],
        );
    }
    // Of unknown outcome, and seen later.
    let unknown = json!([["append", "x", 1]]);
    let mut lines = vec![txn(9, "invoke", &unknown), txn(9, "info", &unknown)];
    lines.extend(in_turn(&[
        json!([["r", "x", []]]),
        json!([["r", "x", [1]]]),
    ]));
    found(&lines, &[]);
}

#[test]
fn lists_that_no_order_gives_are_found() {
    found(
        &in_turn(&[json!([["append", "x", 1]]), json!([["r", "x", [1, 1]]])]),
        &["duplicate"],
    );
    found(&in_turn(&[json!([["r", "x", [1]]])]), &["phantom"]);
    found(
        &in_turn(&[json!([["append", "x", 1]]), json!([["r", "x", []]])]),
        &["lost"],
    );
    found(
        &at_once(&[json!([["append", "x", 1], ["r", "x", []]])]),
        &["internal"],
    );
    let two = json!([["append", "x", 1], ["append", "y", 9]]);
    let orders = [
        two,
        json!([["append", "x", 2]]),
        json!([["r", "x", [1, 2]]]),
        json!([["r", "x", [2, 1]]]),
    ];
    found(&at_once(&orders), &["incompatible order"]);
}

#[test]
fn refused_and_half_transactions_must_not_be_seen() {
    let refused = json!([["append", "x", 1]]);
    let mut lines = vec![txn(9, "invoke", &refused), txn(9, "fail", &refused)];
    lines.extend(in_turn(&[json!([["r", "x", [1]]])]));
    found(&lines, &["G1a"]);
    let half = [
        json!([["append", "x", 1], ["append", "x", 2]]),
        json!([["r", "x", [1]]]),
        json!([["r", "x", [1, 2]]]),
    ];
    found(&at_once(&half), &["G1b"]);
}

#[test]
fn cycles_have_their_names() {
    let both = json!([["r", "x", [1, 2]], ["r", "y", [2, 1]]]);
    let writes = [
        json!([["append", "x", 1], ["append", "y", 1]]),
        json!([["append", "x", 2], ["append", "y", 2]]),
        both,
    ];
    found(&at_once(&writes), &["G0"]);
    let reads = [
        json!([["append", "x", 1], ["r", "y", [1]]]),
        json!([["append", "y", 1], ["r", "x", [1]]]),
    ];
    found(&at_once(&reads), &["G1c"]);
    let single = [
        json!([["append", "x", 1], ["append", "y", 1]]),
        json!([["r", "x", [1]], ["r", "y", []]]),
        json!([["r", "y", [1]]]),
    ];
    found(&at_once(&single), &["G-single"]);
    let skew = [
        json!([["r", "x", []], ["append", "y", 1]]),
        json!([["r", "y", []], ["append", "x", 1]]),
        json!([["r", "x", [1]], ["r", "y", [1]]]),
    ];
    found(&at_once(&skew), &["G2"]);
}

#[test]
fn a_stale_read_is_a_cycle_in_time() {
    let stale = [
        json!([["append", "x", 1]]),
        json!([["r", "x", []]]),
        json!([["r", "x", [1]]]),
    ];
    found(&in_turn(&stale), &["G-single-realtime"]);
    found(&at_once(&stale), &[]);
}

/// Transactions on two lists, one after the other, every one reading what it changed.
fn made(random: &mut StdRng) -> Vec<Value> {
    let mut lists = [Vec::new(), Vec::new()];
    let transactions = (0..40).map(|number| {
        let at = random.random_range(0..2);
        if random.random() {
            lists[at].push(number);
            json!([["append", at, number], ["r", at, lists[at]]])
        } else {
            json!([["r", at, lists[at]]])
        }
    });
    in_turn(&transactions.collect::<Vec<_>>())
}

#[test]
fn mutated_histories_are_found() {
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..20 {
        let lines = made(&mut random);
        found(&lines, &[]);
        // The last list that was read loses an element in its middle, or its end.
        let long = lines.iter().rposition(|line| {
            let list = line["value"][0][2].as_array();
            line["type"] == "ok" && list.is_some_and(|list| list.len() > 3)
        });
        let Some(long) = long else { continue };
        for middle in [true, false] {
            let mut changed = lines.clone();
            let list = changed[long]["value"][0][2].as_array_mut().expect("a list");
            if middle {
                list.remove(1);
            } else {
                list.pop();
            }
            assert!(!check(&history(&changed)).wrong.is_empty());
        }
    }
}
