//! Counters: increments by partial update, and reads.

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{BUCKET, Ended, Generator, Step, member};
use crate::client::{Call, Change, Condition, Place, Reply, What};

/// Hot counters.
const COUNTERS: usize = 5;
const INCREMENT: std::ops::Range<u64> = 1..10;

/// The operations of one worker.
pub(super) struct Counters {
    random: StdRng,
}

impl Counters {
    pub(super) fn new(random: StdRng) -> Counters {
        Counters { random }
    }
}

pub(super) fn keys() -> Vec<String> {
    (0..COUNTERS).map(|at| format!("counter-{at}")).collect()
}

pub(super) fn zero() -> Value {
    json!({ "n": 0 })
}

fn read(key: &str) -> Step {
    Step::new("read", key, Value::Null, Call::Get(Place::new(BUCKET, key)))
}

impl Generator for Counters {
    fn next_step(&mut self) -> Step {
        let key = format!("counter-{}", self.random.random_range(0..COUNTERS));
        if self.random.random_range(0..3) == 0 {
            return read(&key);
        }
        let amount = self.random.random_range(INCREMENT);
        let what = What::Update(json!({ "$inc": { "n": amount } }));
        let change = Change {
            place: Place::new(BUCKET, &key),
            what,
        };
        Step::new(
            "add",
            &key,
            json!(amount),
            Call::Write(change, Condition::None),
        )
    }

    fn ended(&mut self, step: &Step, replies: &[Reply]) -> Ended {
        Ended::of(step, &replies[0], |documents| {
            let (total, version) = member(documents, "n");
            (
                if step.f == "read" {
                    total
                } else {
                    step.value.clone()
                },
                version,
            )
        })
    }
}

/// In the end every counter is read.
pub(super) fn last_steps() -> Vec<Step> {
    keys().iter().map(|key| read(key)).collect()
}
