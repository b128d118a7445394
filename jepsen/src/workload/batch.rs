//! Batches: three documents of one shard always get the same value, so that together they are one register.

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{BUCKET, Ended, Generator, Step};
use crate::client::{Call, Change, Document, Place, Reply, What};

const GROUPS: usize = 8;
const MEMBERS: u64 = 3;

/// The operations of one worker.
pub(super) struct Groups {
    random: StdRng,
    next_value: u64,
}

impl Groups {
    pub(super) fn new(random: StdRng, first: u64) -> Groups {
        Groups {
            random,
            next_value: first,
        }
    }
}

fn group(at: usize) -> String {
    format!("{{batch-{at}}}")
}

fn read(group: &str) -> Step {
    Step::new(
        "read",
        group,
        Value::Null,
        Call::Range(Place::new(BUCKET, &format!("{group}0")), MEMBERS),
    )
}

impl Generator for Groups {
    fn next_step(&mut self) -> Step {
        let group = group(self.random.random_range(0..GROUPS));
        if self.random.random() {
            return read(&group);
        }
        let value = self.next_value;
        self.next_value += 1;
        let changes = (0..MEMBERS).map(|member| Change {
            place: Place::new(BUCKET, &format!("{group}{member}")),
            what: What::Put(json!({ "value": value })),
        });
        Step::new(
            "write",
            &group,
            json!(value),
            Call::Batch(changes.collect()),
        )
    }

    fn ended(&mut self, step: &Step, replies: &[Reply]) -> Ended {
        let group = step.key.as_deref().unwrap_or_default();
        Ended::of(step, &replies[0], |documents| as_one(group, documents))
    }
}

/// The value and version that all members have. Where they differ, a value that nobody wrote: the checker's phantom.
fn as_one(group: &str, documents: &[Document]) -> (Value, Option<u64>) {
    // Behind the last member come documents of other groups.
    let members: Vec<&Document> = documents
        .iter()
        .filter(|document| document.key.starts_with(group))
        .collect();
    let Some(first) = members.first() else {
        return (Value::Null, Some(0));
    };
    let is_whole = members.len() as u64 == MEMBERS
        && members.iter().all(|member| {
            member.version == first.version && member.json["value"] == first.json["value"]
        });
    if is_whole {
        return (first.json["value"].clone(), Some(first.version));
    }
    let parts = members
        .iter()
        .map(|member| json!([member.key, member.version, member.json["value"]]));
    (json!({ "torn": parts.collect::<Vec<_>>() }), None)
}

/// In the end every group is read.
pub(super) fn last_steps() -> Vec<Step> {
    (0..GROUPS).map(|at| read(&group(at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_differ_are_seen() {
        let member = |key: &str, version: u64, value: u64| Document {
            key: key.to_owned(),
            version,
            json: json!({ "value": value }),
        };
        let whole = [
            member("{a}0", 2, 7),
            member("{a}1", 2, 7),
            member("{a}2", 2, 7),
        ];
        assert_eq!(as_one("{a}", &whole), (json!(7), Some(2)));
        let mut torn = whole.to_vec();
        torn[1] = member("{a}1", 1, 6);
        assert!(as_one("{a}", &torn).0["torn"].is_array());
        assert!(
            as_one("{a}", &whole[..2]).0["torn"].is_array(),
            "one is missing"
        );
        assert_eq!(as_one("{b}", &whole), (Value::Null, Some(0)));
    }
}
