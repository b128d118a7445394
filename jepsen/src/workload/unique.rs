//! Unique names: workers want the same few names at about the same time, and in between one of their own each.

use serde_json::{Value, json};

use super::run::{Alive, last};
use super::{End, Ended, Generator, Step};
use crate::client::{Call, Change, Condition, Document, Place, Reply, What};
use crate::db::Setup;

const ACCOUNTS: &str = "Account";
/// Tries of one worker while a name is wanted, every other one for a name of its own.
const TRIES: u64 = 4;

pub(super) fn setup() -> Setup {
    let class = json!({ "class": "/db/Account", "fields": { "name": { "name": "name", "type": "/db/String" } } });
    let index = json!({ "unique": true, "keys": [{ "name": "asc" }], "drop": false });
    Setup {
        classes: vec![class],
        indexes: vec![(ACCOUNTS, index)],
    }
}

/// The registrations of one worker.
pub(super) struct Names {
    worker: u64,
    tries: u64,
}

impl Names {
    pub(super) fn new(worker: u64) -> Names {
        Names { worker, tries: 0 }
    }
}

impl Generator for Names {
    fn next_step(&mut self) -> Step {
        let key = format!("account-{}-{}", self.worker, self.tries);
        let name = if self.tries.is_multiple_of(2) {
            format!("name-{}", self.tries / TRIES)
        } else {
            format!("name-of-{}-{}", self.worker, self.tries)
        };
        self.tries += 1;
        let change = Change {
            place: Place::new(ACCOUNTS, &key),
            what: What::Put(json!({ "name": name })),
        };
        Step::new(
            "register",
            &key,
            json!(name),
            Call::Write(change, Condition::Absent),
        )
    }

    fn ended(&mut self, step: &Step, replies: &[Reply]) -> Ended {
        Ended::of_write(step, &replies[0])
    }
}

pub(super) async fn finish(end: &End<'_>) -> anyhow::Result<Alive> {
    let pair =
        |document: &Document| Value::from(vec![json!(document.key), document.json["name"].clone()]);
    end.look_everywhere(ACCOUNTS, None, |found| {
        vec![last("register", "scan", found.iter().map(pair).collect())]
    })
    .await
}
