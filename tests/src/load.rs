//! Writers with a memory: load whose every acknowledged write is known, to be looked for after a fault.
//!
//! Each key has one writer, which writes 1, 2, 3, … into it. So the stored number must be the last acknowledged one, or
//! one whose outcome the writer never learned, and the version must have grown by one with each write that took effect.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::http::{Answer, Api};

/// What a writer does before it tries the next node after a refusal, so that a dead node is not hammered.
const PAUSE: Duration = Duration::from_millis(20);

/// What a client knows of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened and made this version.
    Acknowledged(u64),
    /// It did not happen and never will.
    Refused,
    /// It may have happened, or may still.
    Unknown,
}

/// Reads what a client may conclude from an answer to a put, or from its absence.
pub fn outcome(answer: Result<Answer, reqwest::Error>) -> Outcome {
    match answer {
        Ok(answer) if matches!(answer.status, 200 | 201) => Outcome::Acknowledged(answer.version()),
        Ok(answer) if answer.header("larder-effect").as_deref() == Some("none") => Outcome::Refused,
        // Nothing was sent where nobody listened.
        Err(error) if error.is_connect() => Outcome::Refused,
        Ok(_) | Err(_) => Outcome::Unknown,
    }
}

/// What the writer of a key knows.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The last acknowledged number and its version.
    acknowledged: Option<(u64, u64)>,
    /// Numbers whose outcome is not known.
    unknown: BTreeSet<u64>,
}

impl Memory {
    /// Notes what became of writing `number`.
    ///
    /// # Panics
    /// If a version did not grow: an acknowledged write had been lost by then.
    pub fn note(&mut self, number: u64, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged(version) => {
                if let Some((_, before)) = self.acknowledged {
                    let most = before + 1 + self.unknown.len() as u64;
                    assert!(
                        (before + 1..=most).contains(&version),
                        "version {version} acknowledged after {before}: {self:?}"
                    );
                }
                self.acknowledged = Some((number, version));
            }
            Outcome::Unknown => {
                self.unknown.insert(number);
            }
            Outcome::Refused => {}
        }
    }

    /// What is wrong with finding `found`, a number and its version (`None`: nothing is stored).
    pub fn contradicts(&self, found: Option<(u64, u64)>) -> Option<String> {
        let is_right = match (self.acknowledged, found) {
            (None, None) => true,
            (Some(_), None) => false,
            (None, Some((number, version))) => {
                self.unknown.contains(&number) && version <= self.unknown.len() as u64
            }
            (Some(acknowledged), Some(found)) if acknowledged == found => true,
            (Some((_, least)), Some((number, version))) => {
                self.unknown.contains(&number)
                    && version > least
                    && version <= least + self.unknown.len() as u64
            }
        };
        (!is_right).then(|| format!("found {found:?}, but the writer knows {self:?}"))
    }

    /// Whether something was acknowledged.
    pub fn has_acknowledged(&self) -> bool {
        self.acknowledged.is_some()
    }
}

/// Load that runs until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: JoinSet<Vec<(String, Memory)>>,
    bucket: String,
}

impl Load {
    /// Starts `writers` with `keys` each, which write to `bucket` through all of `nodes` in turn.
    pub fn start(nodes: &[Api], bucket: &str, writers: usize, keys: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut set = JoinSet::new();
        for writer in 0..writers {
            let writer = Writer {
                nodes: nodes.to_vec(),
                bucket: bucket.to_owned(),
                keys: (0..keys)
                    .map(|key| (format!("load-{writer}-{key}"), Memory::default()))
                    .collect(),
                stop: stop.clone(),
                acknowledged: acknowledged.clone(),
            };
            set.spawn(writer.run());
        }
        Load {
            stop,
            acknowledged,
            writers: set,
            bucket: bucket.to_owned(),
        }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` writes were acknowledged from now on.
    pub async fn progress(&self, more: u64, deadline: Duration) {
        let goal = self.acknowledged() + more;
        let what = format!("{more} more acknowledged writes");
        crate::eventually(&what, deadline, || async {
            (self.acknowledged() >= goal).then_some(())
        })
        .await;
    }

    /// Stops the writers.
    ///
    /// # Panics
    /// If a writer found a contradiction.
    pub async fn stop(mut self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let mut keys = Vec::new();
        while let Some(writer) = self.writers.join_next().await {
            keys.extend(writer.expect("a writer found a contradiction"));
        }
        Written {
            bucket: self.bucket.clone(),
            keys,
        }
    }
}

struct Writer {
    nodes: Vec<Api>,
    bucket: String,
    keys: Vec<(String, Memory)>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self) -> Vec<(String, Memory)> {
        let keys = self.keys.len();
        for number in 1.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let turn = usize::try_from(number).unwrap_or_default();
            let (key, memory) = &mut self.keys[turn % keys];
            let node = &self.nodes[(turn / keys + turn) % self.nodes.len()];
            let path = format!("/db/{}/{key}", self.bucket);
            let sent = node
                .put(&path)
                .json(&json!({ "number": number }))
                .try_send()
                .await;
            let outcome = outcome(sent);
            memory.note(number, outcome);
            match outcome {
                Outcome::Acknowledged(_) => {
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Outcome::Refused | Outcome::Unknown => tokio::time::sleep(PAUSE).await,
            }
        }
        self.keys
    }
}

/// What was written, as far as the writers know.
#[derive(Clone, Debug)]
pub struct Written {
    bucket: String,
    keys: Vec<(String, Memory)>,
}

impl Written {
    /// How many keys have an acknowledged write.
    pub fn len(&self) -> usize {
        self.keys
            .iter()
            .filter(|(_, memory)| memory.has_acknowledged())
            .count()
    }

    /// Whether nothing was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads every key from every node and compares with what the writers know.
    ///
    /// # Panics
    /// If anything acknowledged is missing, with all that is wrong.
    pub async fn verify(&self, nodes: &[Api]) {
        assert!(
            !self.is_empty(),
            "nothing was acknowledged, so nothing is shown"
        );
        let mut wrong = Vec::new();
        for (key, memory) in &self.keys {
            for node in nodes {
                let answer = node.get(&format!("/db/{}/{key}", self.bucket)).send().await;
                let found = match answer.status {
                    200 => Some((
                        answer.json()["number"].as_u64().unwrap_or_default(),
                        answer.version(),
                    )),
                    404 => None,
                    _ => panic!(
                        "{key} at {}: {} {}",
                        node.base(),
                        answer.status,
                        answer.text()
                    ),
                };
                wrong.extend(
                    memory
                        .contradicts(found)
                        .map(|what| format!("{key} at {}: {what}", node.base())),
                );
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {} keys are wrong:\n{}",
            wrong.len(),
            self.keys.len(),
            wrong.join("\n")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(outcomes: &[(u64, Outcome)]) -> Memory {
        let mut memory = Memory::default();
        for (number, outcome) in outcomes {
            memory.note(*number, *outcome);
        }
        memory
    }

    #[test]
    fn an_acknowledged_write_must_be_found() {
        let memory = memory(&[
            (1, Outcome::Acknowledged(1)),
            (2, Outcome::Refused),
            (3, Outcome::Acknowledged(2)),
        ]);
        assert_eq!(memory.contradicts(Some((3, 2))), None);
        for lost in [
            None,
            Some((1, 1)),
            Some((2, 3)),
            Some((3, 1)),
            Some((3, 3)),
            Some((4, 3)),
        ] {
            assert!(memory.contradicts(lost).is_some(), "{lost:?}");
        }
    }

    #[test]
    fn an_unknown_write_may_be_found_and_counts_at_most_once() {
        let memory = memory(&[
            (1, Outcome::Acknowledged(1)),
            (2, Outcome::Unknown),
            (3, Outcome::Unknown),
        ]);
        for fine in [(1, 1), (2, 2), (3, 2), (3, 3), (2, 3)] {
            assert_eq!(memory.contradicts(Some(fine)), None, "{fine:?}");
        }
        for wrong in [(1, 2), (2, 1), (3, 4), (4, 2)] {
            assert!(memory.contradicts(Some(wrong)).is_some(), "{wrong:?}");
        }
        assert_eq!(Memory::default().contradicts(None), None);
        assert!(Memory::default().contradicts(Some((1, 1))).is_some());
    }

    #[test]
    #[should_panic(expected = "acknowledged after 5")]
    fn a_version_that_did_not_grow_is_noticed_at_once() {
        memory(&[(1, Outcome::Acknowledged(5)), (2, Outcome::Acknowledged(5))]);
    }
}
