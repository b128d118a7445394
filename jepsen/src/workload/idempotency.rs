//! Repetitions: pushes to a few lists, each sent two to five times under one idempotency key.

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::run::{Alive, last};
use super::{BUCKET, End, Ended, Generator, Step, append};
use crate::client::{Call, Condition, Document, Reply};
use crate::history::Record;

const LISTS: usize = 8;
/// How often a request is sent.
const TIMES: std::ops::RangeInclusive<usize> = 2..=5;

/// The pushes of one worker.
pub(super) struct Pushes {
    random: StdRng,
    next_value: u64,
}

impl Pushes {
    pub(super) fn new(random: StdRng, first: u64) -> Pushes {
        Pushes {
            random,
            next_value: first,
        }
    }
}

pub(super) fn keys() -> Vec<String> {
    (0..LISTS).map(|at| format!("pushed-{at}")).collect()
}

impl Generator for Pushes {
    fn next_step(&mut self) -> Step {
        let value = self.next_value;
        self.next_value += 1;
        let key = format!("pushed-{}", self.random.random_range(0..LISTS));
        let call = Call::Write(append::push(&key, value), Condition::None);
        let repeated = Some((self.random.random_range(TIMES), format!("push-{value}")));
        Step {
            repeated,
            ..Step::new("push", &key, json!(value), call)
        }
    }

    /// It happened if one answer says so; it did not if all promise that.
    fn ended(&mut self, step: &Step, replies: &[Reply]) -> Ended {
        let is_ok = |reply: &&Reply| matches!(reply, Reply::Ok(_));
        let is_info = |reply: &&Reply| matches!(reply, Reply::Info { .. });
        let decisive = replies
            .iter()
            .find(is_ok)
            .or_else(|| replies.iter().find(is_info))
            .unwrap_or(&replies[0]);
        let versions: Vec<u64> = replies
            .iter()
            .filter_map(|reply| match reply {
                Reply::Ok(documents) => documents.first().map(|document| document.version),
                Reply::Fail { .. } | Reply::Info { .. } => None,
            })
            .collect();
        Ended::of(step, decisive, |_| {
            (
                json!({ "element": step.value, "versions": versions }),
                versions.first().copied(),
            )
        })
    }
}

pub(super) async fn finish(end: &End<'_>) -> anyhow::Result<Alive> {
    end.look_everywhere(BUCKET, None, |found| found.iter().map(list).collect())
        .await
}

fn list(document: &Document) -> Record {
    let elements = document.json["list"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut record = last("push", "scan", elements.into_iter().collect::<Vec<Value>>());
    record.key = Some(document.key.clone());
    record
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::history::Kind;

    #[test]
    fn one_answer_decides_and_all_are_compared() {
        let mut pushes = Pushes::new(StdRng::seed_from_u64(1), 1);
        let step = pushes.next_step();
        let ok = |version| {
            Reply::Ok(vec![Document {
                key: String::new(),
                version,
                json: Value::Null,
            }])
        };
        let fail = Reply::Fail {
            code: String::new(),
            error: String::new(),
        };
        let info = Reply::Info {
            error: String::new(),
        };
        for (replies, kind) in [
            (vec![info.clone(), ok(3), fail.clone(), ok(4)], Kind::Ok),
            (vec![fail.clone(), info], Kind::Info),
            (vec![fail.clone(), fail], Kind::Fail),
        ] {
            let ended = pushes.ended(&step, &replies);
            assert_eq!(ended.kind, kind);
            if kind == Kind::Ok {
                assert_eq!(ended.value["versions"], json!([3, 4]));
            }
        }
    }
}
