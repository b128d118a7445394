//! A set: unique inserts, then a scan and a query by index at every node.

use serde_json::json;

use super::run::{Alive, last};
use super::{BUCKET, End, Ended, Generator, Step};
use crate::client::{Call, Change, Condition, Document, Place, Reply, What};
use crate::db::Setup;

/// What every element matches, and what the index finds.
const ALL: &str = r#"{"n":{"$gte":0}}"#;

pub(super) fn setup() -> Setup {
    let index = json!({ "unique": false, "keys": [{ "n": "asc" }], "drop": false });
    Setup {
        classes: Vec::new(),
        indexes: vec![(BUCKET, index)],
    }
}

/// The inserts of one worker.
pub(super) struct Set {
    next_value: u64,
}

impl Set {
    pub(super) fn new(first: u64) -> Set {
        Set { next_value: first }
    }
}

impl Generator for Set {
    fn next_step(&mut self) -> Step {
        let value = self.next_value;
        self.next_value += 1;
        let key = format!("element-{value}");
        let change = Change {
            place: Place::new(BUCKET, &key),
            what: What::Put(json!({ "n": value })),
        };
        Step::new(
            "add",
            &key,
            json!(value),
            Call::Write(change, Condition::Absent),
        )
    }

    fn ended(&mut self, step: &Step, replies: &[Reply]) -> Ended {
        Ended::of_write(step, &replies[0])
    }
}

pub(super) async fn finish(end: &End<'_>) -> anyhow::Result<Alive> {
    for (source, filter) in [("scan", None), ("index", Some(ALL))] {
        let values = |found: Vec<Document>| {
            vec![last(
                "set",
                source,
                found
                    .iter()
                    .map(|document| document.json["n"].clone())
                    .collect(),
            )]
        };
        if let Err(why) = end.look_everywhere(BUCKET, filter, values).await? {
            return Ok(Err(why));
        }
    }
    Ok(Ok(()))
}
