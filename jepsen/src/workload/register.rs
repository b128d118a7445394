//! Registers: read, put, conditional put, insert, delete and partial update on a few hot documents.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::{BUCKET, Ended, Generator, Step, VALUES_PER_WORKER, member};
use crate::client::{Call, Change, Condition, Place, Reply, What};
use crate::history::Kind;

/// Hot documents.
const KEYS: usize = 20;

/// The operations of one worker.
pub(super) struct Registers {
    random: StdRng,
    /// The version of each register that the worker last heard of; 0: none.
    known: [u64; KEYS],
    next_value: u64,
}

impl Registers {
    pub(super) fn new(random: StdRng, first: u64) -> Registers {
        Registers {
            random,
            known: [0; KEYS],
            next_value: first,
        }
    }

    fn write(
        &mut self,
        at: usize,
        f: &'static str,
        condition: Condition,
        what: fn(u64) -> What,
    ) -> Step {
        let value = self.next_value;
        self.next_value += 1;
        let change = Change {
            place: place(at),
            what: what(value),
        };
        let mut step = Step::new(f, &key(at), json!(value), Call::Write(change, condition));
        step.expect = match condition {
            Condition::None => None,
            Condition::Absent => Some(0),
            Condition::Version(version) => Some(version),
        };
        step
    }
}

fn key(at: usize) -> String {
    format!("register-{at}")
}

fn place(at: usize) -> Place {
    Place::new(BUCKET, &key(at))
}

fn put(value: u64) -> What {
    What::Put(json!({ "value": value }))
}

fn update(value: u64) -> What {
    What::Update(json!({ "$set": { "value": value } }))
}

fn read(at: usize) -> Step {
    Step::new("read", &key(at), Value::Null, Call::Get(place(at)))
}

impl Generator for Registers {
    fn next_step(&mut self) -> Step {
        let at = self.random.random_range(0..KEYS);
        match (self.random.random_range(0..100), self.known[at]) {
            (0..40, _) => read(at),
            (40..60, version) if version > 0 => {
                self.write(at, "cas", Condition::Version(version), put)
            }
            (60..70, _) => self.write(at, "cas", Condition::Absent, put),
            (70..78, version) if version > 0 => {
                let call = Call::Delete(place(at), Condition::Version(version));
                Step {
                    expect: Some(version),
                    ..Step::new("delete", &key(at), Value::Null, call)
                }
            }
            (78..90, _) => self.write(at, "write", Condition::None, update),
            _ => self.write(at, "write", Condition::None, put),
        }
    }

    fn ended(&mut self, step: &Step, replies: &[Reply]) -> Ended {
        let ended = Ended::of(step, &replies[0], |documents| match (step.f, step.expect) {
            // Every accepted write takes the next version, a delete too.
            ("delete", Some(expected)) => (Value::Null, Some(expected + 1)),
            _ => member(documents, "value"),
        });
        let at = (0..KEYS).find(|at| step.key.as_deref() == Some(&key(*at)));
        if let Some(at) = at.filter(|_| ended.kind == Kind::Ok) {
            let is_there = step.f != "delete";
            self.known[at] = ended.more.version.filter(|_| is_there).unwrap_or_default();
        }
        ended
    }
}

/// In the end every register is written and read.
pub(super) fn last_steps(seed: u64, workers: u64) -> Vec<Step> {
    // Past the values of the last worker.
    let mut writer = Registers::new(
        StdRng::seed_from_u64(seed),
        (workers + 1) * VALUES_PER_WORKER,
    );
    let steps =
        (0..KEYS).flat_map(|at| [writer.write(at, "write", Condition::None, put), read(at)]);
    steps.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::client::Document;

    fn steps(seed: u64) -> Vec<Step> {
        let mut generator = Registers::new(StdRng::seed_from_u64(seed), 1);
        (0..400)
            .map(|version| {
                let step = generator.next_step();
                let found = Document {
                    key: String::new(),
                    version: version + 1,
                    json: json!({ "value": 1 }),
                };
                generator.ended(&step, &[Reply::Ok(vec![found])]);
                step
            })
            .collect()
    }

    #[test]
    fn a_seed_is_a_plan_and_values_are_unique() {
        let text = |seed| format!("{:?}", steps(seed));
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        let values: Vec<u64> = steps(1)
            .iter()
            .filter_map(|step| step.value.as_u64())
            .collect();
        assert_eq!(values.iter().collect::<BTreeSet<_>>().len(), values.len());
    }

    #[test]
    fn every_kind_of_operation_occurs() {
        let steps = steps(3);
        for (f, expects, at_least) in [
            ("read", None, 100),
            ("cas", Some(true), 20),
            ("cas", Some(false), 20),
            ("delete", Some(true), 10),
            ("write", None, 40),
        ] {
            let is =
                |step: &&Step| step.f == f && step.expect.map(|version| version > 0) == expects;
            let count = steps.iter().filter(is).count();
            assert!(count > at_least, "{f} {expects:?}: {count}");
        }
    }

    #[test]
    fn refusals_say_whether_the_condition_failed() {
        let mut generator = Registers::new(StdRng::seed_from_u64(0), 1);
        let conditional = generator.write(0, "cas", Condition::Version(3), put);
        let plain = generator.write(0, "write", Condition::None, update);
        let refused = |code: &str| Reply::Fail {
            code: code.to_owned(),
            error: String::new(),
        };
        for (step, code, reason) in [
            (&conditional, "object_out_of_date", "mismatch"),
            (&conditional, "object_not_found", "mismatch"),
            (&conditional, "unavailable", "unavailable"),
            (&plain, "object_not_found", "absent"),
        ] {
            let ended = generator.ended(step, &[refused(code)]);
            assert_eq!(
                (ended.kind, ended.more.reason.as_deref()),
                (Kind::Fail, Some(reason))
            );
        }
    }
}
