//! What happened, one JSON object a line: an invocation before a request is sent, a completion after its answer.
//!
//! Lines are written under one lock, so their order is real time: if the completion of one operation stands above the
//! invocation of another, the first was over before the second began. Checkers rely on that order and on nothing else;
//! the time in a line is for people.
//!
//! Invariants of a history:
//! - a process has at most one open operation, and completes what it invoked;
//! - an operation without a completion, or with `info`, may have taken effect at any later time, or never.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "f")]
pub enum Action {
    /// Read linearizably.
    Read {
        /// The register.
        key: String,
    },
    /// Store a value; on the condition of a version, if there is one.
    Write {
        /// The register.
        key: String,
        /// Unique in the history.
        value: u64,
        /// The version that must be stored.
        expected: Option<u64>,
    },
    /// Delete on the condition of a version.
    Delete {
        /// The register.
        key: String,
        /// The version that must be stored.
        expected: u64,
    },
}

impl Action {
    /// The register that it is about.
    pub fn key(&self) -> &str {
        match self {
            Action::Read { key } | Action::Write { key, .. } | Action::Delete { key, .. } => key,
        }
    }
}

/// What was found, or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The value; `None` after a delete.
    pub value: Option<u64>,
    /// Its version.
    pub version: u64,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum Outcome {
    /// It happened. A read found, or a write made, `stored`; `None`: a read found nothing.
    Ok {
        /// What was found, or made.
        stored: Option<Stored>,
    },
    /// It did not happen and never will.
    Fail {
        /// Why.
        error: String,
    },
    /// Nobody knows.
    Info {
        /// Why.
        error: String,
    },
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since the run began.
    pub time: u64,
    /// Who; `nemesis` for faults.
    pub process: String,
    /// What.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "event")]
pub enum Kind {
    /// A request is about to be sent.
    Invoke {
        /// What it asks for.
        action: Action,
    },
    /// Its end.
    Complete {
        /// How it ended.
        outcome: Outcome,
    },
    /// Something was done to the cluster.
    Fault {
        /// Which fault.
        fault: String,
        /// `begin` or `end`.
        phase: String,
        /// The nodes it hit.
        nodes: Vec<usize>,
    },
}

/// An invocation with its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub process: String,
    /// For what.
    pub action: Action,
    /// Line of the invocation.
    pub invoked: usize,
    /// Line of the completion; `usize::MAX`: never completed, or its outcome is not known.
    pub completed: usize,
    /// How it ended.
    pub outcome: Outcome,
}

/// Writes a history while it happens. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    start: Instant,
    file: Arc<Mutex<BufWriter<File>>>,
}

impl Recorder {
    /// A new history in `path`.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: &Path) -> anyhow::Result<Recorder> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Recorder {
            start: Instant::now(),
            file: Arc::new(Mutex::new(BufWriter::new(file))),
        })
    }

    /// Writes one line.
    ///
    /// # Errors
    /// If it cannot be written: the run is worth nothing then.
    pub fn record(&self, process: &str, kind: Kind) -> anyhow::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken under the lock, so that times grow with the lines.
        let time = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        serde_json::to_writer(
            &mut *file,
            &Event {
                time,
                process: process.to_owned(),
                kind,
            },
        )?;
        Ok(file.write_all(b"\n")?)
    }

    /// Writes all lines to the file.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn flush(&self) -> anyhow::Result<()> {
        Ok(self
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .flush()?)
    }
}

/// Reads a history.
///
/// # Errors
/// If the file cannot be read, or a line is none of ours.
pub fn read(path: &Path) -> anyhow::Result<Vec<Event>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let events = (1..)
        .zip(BufReader::new(file).lines())
        .map(|(number, line)| {
            serde_json::from_str(&line?).with_context(|| format!("{}:{number}", path.display()))
        });
    events.collect()
}

/// Pairs invocations with their completions, in the order of invocation.
///
/// # Errors
/// If a process invokes twice, or completes what it has not invoked.
pub fn operations(events: &[Event]) -> anyhow::Result<Vec<Operation>> {
    let mut operations: Vec<Operation> = Vec::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    for (line, event) in events.iter().enumerate() {
        match &event.kind {
            Kind::Fault { .. } => {}
            Kind::Invoke { action } => {
                let outcome = Outcome::Info {
                    error: "never completed".to_owned(),
                };
                let before = open.insert(&event.process, operations.len());
                ensure!(
                    before.is_none(),
                    "line {line}: {} has an open operation",
                    event.process
                );
                let (process, action) = (event.process.clone(), action.clone());
                operations.push(Operation {
                    process,
                    action,
                    invoked: line,
                    completed: usize::MAX,
                    outcome,
                });
            }
            Kind::Complete { outcome } => {
                let invoked = open.remove(event.process.as_str());
                let invoked = invoked.with_context(|| {
                    format!("line {line}: {} has no open operation", event.process)
                })?;
                let operation = &mut operations[invoked];
                operation.outcome = outcome.clone();
                // An unknown effect may still come: such an operation never ends.
                if !matches!(outcome, Outcome::Info { .. }) {
                    operation.completed = line;
                }
            }
        }
    }
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(process: &str, kind: Kind) -> Event {
        Event {
            time: 0,
            process: process.to_owned(),
            kind,
        }
    }

    fn invoke(process: &str) -> Event {
        event(
            process,
            Kind::Invoke {
                action: Action::Write {
                    key: "k".to_owned(),
                    value: 7,
                    expected: Some(2),
                },
            },
        )
    }

    fn complete(process: &str, outcome: Outcome) -> Event {
        event(process, Kind::Complete { outcome })
    }

    #[test]
    fn a_history_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).expect("a file");
        let kinds = [
            invoke("0").kind,
            Kind::Fault {
                fault: "kill".to_owned(),
                phase: "begin".to_owned(),
                nodes: vec![1],
            },
            complete(
                "0",
                Outcome::Ok {
                    stored: Some(Stored {
                        value: Some(7),
                        version: 3,
                    }),
                },
            )
            .kind,
            Kind::Invoke {
                action: Action::Read {
                    key: "k".to_owned(),
                },
            },
            complete("0", Outcome::Ok { stored: None }).kind,
            Kind::Invoke {
                action: Action::Delete {
                    key: "k".to_owned(),
                    expected: 3,
                },
            },
            complete(
                "0",
                Outcome::Info {
                    error: "timed out".to_owned(),
                },
            )
            .kind,
        ];
        for kind in &kinds {
            recorder.record("0", kind.clone()).expect("written");
        }
        recorder.flush().expect("written");
        let events = read(&path).expect("our own lines");
        assert_eq!(
            events
                .iter()
                .map(|event| event.kind.clone())
                .collect::<Vec<_>>(),
            kinds
        );
        assert!(events.is_sorted_by_key(|event| event.time));
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text.lines().count(), kinds.len());
        assert!(
            text.starts_with(r#"{"time":"#)
                && text.contains(r#""event":"invoke","action":{"f":"write","key":"k""#),
            "{text}"
        );
    }

    #[test]
    fn operations_know_their_lines_and_unknown_ones_never_end() {
        let ok = Outcome::Ok { stored: None };
        let info = Outcome::Info {
            error: "lost".to_owned(),
        };
        let events = [
            invoke("0"),
            invoke("1"),
            complete("1", ok.clone()),
            complete("0", info),
            invoke("2"),
        ];
        let operations = operations(&events).expect("a well-formed history");
        let ends: Vec<_> = operations
            .iter()
            .map(|operation| (operation.invoked, operation.completed))
            .collect();
        assert_eq!(ends, [(0, usize::MAX), (1, 2), (4, usize::MAX)]);
        assert!(matches!(operations[2].outcome, Outcome::Info { .. }));
        assert_eq!(operations[1].outcome, ok);
    }

    #[test]
    fn histories_that_cannot_be_are_refused() {
        assert!(operations(&[invoke("0"), invoke("0")]).is_err());
        assert!(operations(&[complete("0", Outcome::Ok { stored: None })]).is_err());
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("history.jsonl");
        std::fs::write(&path, "{\"time\":0}\n").expect("a file");
        assert!(
            read(&path)
                .expect_err("not ours")
                .to_string()
                .contains("history.jsonl:1")
        );
    }
}
