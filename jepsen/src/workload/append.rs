//! Lists: pushes that show the list behind them, two of them in a batch, and reads.

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{BUCKET, Ended, Generator, Step};
use crate::client::{Call, Change, Condition, Document, Place, Reply, What};

/// Pairs of lists; the two of a pair lie in one shard.
const PAIRS: usize = 8;

/// The transactions of one worker.
pub(super) struct Lists {
    random: StdRng,
    next_value: u64,
}

impl Lists {
    pub(super) fn new(random: StdRng, first: u64) -> Lists {
        Lists {
            random,
            next_value: first,
        }
    }

    fn push(&mut self, key: &str) -> (Value, Change) {
        let value = self.next_value;
        self.next_value += 1;
        (json!(["append", key, value]), push(key, value))
    }
}

/// One element behind the others.
pub(super) fn push(key: &str, value: u64) -> Change {
    Change {
        place: Place::new(BUCKET, key),
        what: What::Update(json!({ "$push": { "list": value } })),
    }
}

pub(super) fn keys() -> Vec<String> {
    (0..PAIRS)
        .flat_map(|pair| ["x", "y"].map(|name| key(pair, name)))
        .collect()
}

fn key(pair: usize, name: &str) -> String {
    format!("{{list-{pair}}}{name}")
}

pub(super) fn empty() -> Value {
    json!({ "list": [] })
}

/// A transaction has no key of its own.
fn transaction(steps: Vec<Value>, call: Call) -> Step {
    Step {
        key: None,
        ..Step::new("txn", "", Value::Array(steps), call)
    }
}

fn read(key: &str) -> Step {
    transaction(
        vec![json!(["r", key, null])],
        Call::Get(Place::new(BUCKET, key)),
    )
}

impl Generator for Lists {
    fn next_step(&mut self) -> Step {
        let pair = self.random.random_range(0..PAIRS);
        let (x, y) = (key(pair, "x"), key(pair, "y"));
        let seen = |key: &str| json!(["r", key, null]);
        match self.random.random_range(0..8) {
            0..4 => read(if self.random.random() { &x } else { &y }),
            4..6 => {
                let (append, change) = self.push(&x);
                transaction(vec![append, seen(&x)], Call::Write(change, Condition::None))
            }
            6 => {
                let ((first, one), (second, two)) = (self.push(&x), self.push(&y));
                transaction(
                    vec![first, second, seen(&x), seen(&y)],
                    Call::Batch(vec![one, two]),
                )
            }
            _ => {
                let ((first, one), (second, two)) = (self.push(&y), self.push(&y));
                transaction(vec![first, second, seen(&y)], Call::Batch(vec![one, two]))
            }
        }
    }

    fn ended(&mut self, step: &Step, replies: &[Reply]) -> Ended {
        Ended::of(step, &replies[0], |documents| {
            (filled_in(&step.value, documents), None)
        })
    }
}

/// The transaction with what its reads found: the last state of each list in the answer.
fn filled_in(steps: &Value, documents: &[Document]) -> Value {
    let mut steps = steps.clone();
    for step in steps
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter(|step| step[0] == "r")
    {
        let found = documents
            .iter()
            .rev()
            .find(|document| step[1] == *document.key);
        step[2] = found.map_or(Value::Null, |document| document.json["list"].clone());
    }
    steps
}

/// In the end every list is read.
pub(super) fn last_steps() -> Vec<Step> {
    keys().iter().map(|key| read(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_a_batch_show_its_end() {
        let steps = json!([["append", "y", 1], ["append", "y", 2], ["r", "y", null]]);
        let state = |version: u64, list: Value| Document {
            key: "y".to_owned(),
            version,
            json: json!({ "list": list }),
        };
        let filled = filled_in(&steps, &[state(1, json!([1])), state(2, json!([1, 2]))]);
        assert_eq!(filled[2], json!(["r", "y", [1, 2]]));
        assert_eq!(filled[0], steps[0]);
    }
}
