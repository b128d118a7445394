//! Read, write, conditional write and delete on a few hot registers, asked at every node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;

use crate::checker;
use crate::client::Client;
use crate::generator::{Generator, register};
use crate::history::{Action, Event, Kind, Outcome, Recorder, operations};

/// The bucket that a cluster for trying out has.
const BUCKET: &str = "Demo";
/// A worker's pause after an operation that did not succeed, so that a dead node is not hammered.
const PAUSE: Duration = Duration::from_millis(20);
/// The last reads must succeed within this.
const FINAL_READ_WITHIN: Duration = Duration::from_secs(30);

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// From which everything random comes.
    pub seed: u64,
    /// Workers; each is pinned to a node, one in four goes to all in turn.
    pub workers: u64,
    /// Registers.
    pub keys: u64,
}

/// Runs the workers until `end`.
///
/// # Errors
/// If the history cannot be written.
pub async fn run(
    options: Options,
    nodes: Vec<String>,
    recorder: Recorder,
    end: Instant,
) -> anyhow::Result<()> {
    let nodes = Arc::new(nodes);
    let mut workers = JoinSet::new();
    for worker in 0..options.workers {
        let worker = Worker {
            process: worker.to_string(),
            generator: Generator::new(options.seed, worker, options.keys),
            client: Client::new(BUCKET)?,
            nodes: Arc::clone(&nodes),
            pinned: (worker % 4 != 3).then_some(worker as usize % nodes.len()),
            recorder: recorder.clone(),
        };
        workers.spawn(worker.run(end));
    }
    while let Some(worker) = workers.join_next().await {
        worker.context("a worker panicked")??;
    }
    Ok(())
}

struct Worker {
    process: String,
    generator: Generator,
    client: Client,
    nodes: Arc<Vec<String>>,
    pinned: Option<usize>,
    recorder: Recorder,
}

impl Worker {
    async fn run(mut self, end: Instant) -> anyhow::Result<()> {
        let mut turn = 0;
        while Instant::now() < end {
            turn += 1;
            let node = self.pinned.unwrap_or(turn % self.nodes.len());
            let action = self.generator.next_action();
            self.recorder.record(
                &self.process,
                Kind::Invoke {
                    action: action.clone(),
                },
            )?;
            let outcome = self.client.run(&self.nodes[node], &action).await;
            self.recorder.record(
                &self.process,
                Kind::Complete {
                    outcome: outcome.clone(),
                },
            )?;
            self.generator.learn(&action, &outcome);
            if !matches!(outcome, Outcome::Ok { .. }) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }
}

/// After the last fault: writes and reads every register at every node; all of it must succeed.
///
/// # Errors
/// If a node refuses for longer than a generous while: the cluster did not heal.
pub async fn finish(options: Options, nodes: &[String], recorder: &Recorder) -> anyhow::Result<()> {
    let client = Client::new(BUCKET)?;
    let mut writer = Generator::new(options.seed, options.workers, options.keys);
    for (key, node) in (0..options.keys).map(register).zip(nodes.iter().cycle()) {
        // The first write that the generator draws for a fresh worker has no condition.
        let value =
            std::iter::repeat_with(|| writer.next_action()).find_map(|action| match action {
                Action::Write { value, .. } => Some(value),
                Action::Read { .. } | Action::Delete { .. } => None,
            });
        let action = Action::Write {
            key,
            value: value.context("generators never end")?,
            expected: None,
        };
        until_ok(&client, node, &action, recorder).await?;
    }
    for key in (0..options.keys).map(register) {
        for node in nodes {
            until_ok(&client, node, &Action::Read { key: key.clone() }, recorder).await?;
        }
    }
    Ok(())
}

async fn until_ok(
    client: &Client,
    node: &str,
    action: &Action,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let end = Instant::now() + FINAL_READ_WITHIN;
    loop {
        recorder.record(
            "final",
            Kind::Invoke {
                action: action.clone(),
            },
        )?;
        let outcome = client.run(node, action).await;
        recorder.record(
            "final",
            Kind::Complete {
                outcome: outcome.clone(),
            },
        )?;
        match outcome {
            Outcome::Ok { .. } => return Ok(()),
            // A value is written once: a second try could not be told from the first.
            Outcome::Info { error } => bail!("{action:?} at {node}: {error}"),
            Outcome::Fail { error } if Instant::now() >= end => {
                bail!("{action:?} at {node} does not succeed: {error}")
            }
            Outcome::Fail { .. } => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What a history shows.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is wrong; empty: nothing was found.
    pub faults: Vec<String>,
    /// Operations that succeeded, were refused, and are unknown.
    pub counts: (usize, usize, usize),
}

/// Judges a history.
///
/// # Errors
/// If it is not well-formed.
pub fn judge(events: &[Event]) -> anyhow::Result<Verdict> {
    let operations = operations(events)?;
    let count = |is: fn(&Outcome) -> bool| {
        operations
            .iter()
            .filter(|operation| is(&operation.outcome))
            .count()
    };
    let counts = (
        count(|outcome| matches!(outcome, Outcome::Ok { .. })),
        count(|outcome| matches!(outcome, Outcome::Fail { .. })),
        count(|outcome| matches!(outcome, Outcome::Info { .. })),
    );
    Ok(Verdict {
        faults: checker::register::check(&operations),
        counts,
    })
}
