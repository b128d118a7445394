//! Workers that send operations and write down what came of them, and the end of a run, where all must succeed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::future::join_all;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    Ended, Generator, Step, Workload, append, batch, counter, idempotency, register, set, unique,
};
use crate::checker::Finding;
use crate::client::{Call, Change, Client, Condition, Document, Grpc, Http, Place, Reply, What};
use crate::db;
use crate::history::{Kind, Process, Record, Recorder};

/// A worker's pause after an operation that no node decided, so that a dead one is not hammered.
const PAUSE: Duration = Duration::from_millis(50);
/// What must succeed in the end succeeds within this.
const ALIVE_WITHIN: Duration = Duration::from_secs(30);

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What clients do.
    pub workload: Workload,
    /// From which everything random comes.
    pub seed: u64,
    /// Workers, every other one over gRPC; each is pinned to a node, one in four goes to all in turn.
    pub workers: u64,
}

/// Stores what the workload starts from. Nothing of it is in the history.
///
/// # Errors
/// If the cluster does not take it.
pub async fn prepare(workload: Workload, origins: &[String]) -> anyhow::Result<()> {
    let (keys, body) = match workload {
        Workload::Append => (append::keys(), append::empty()),
        Workload::Counter => (counter::keys(), counter::zero()),
        Workload::Idempotency => (idempotency::keys(), append::empty()),
        Workload::Register | Workload::Set | Workload::Unique | Workload::Batch => return Ok(()),
    };
    let client = Client::Http(Http::new()?);
    let origin = origins.first().context("no nodes")?;
    for key in keys {
        let change = Change {
            place: Place::new(super::BUCKET, &key),
            what: What::Put(body.clone()),
        };
        let reply = client
            .run(origin, &Call::Write(change, Condition::None), None)
            .await;
        let Reply::Ok(_) = reply else {
            bail!("{key} cannot be stored: {reply:?}")
        };
    }
    Ok(())
}

/// Runs the workers until `end`.
///
/// # Errors
/// If the history cannot be written.
pub async fn run(
    options: Options,
    origins: &[String],
    recorder: &Recorder,
    end: Instant,
) -> anyhow::Result<()> {
    let mut workers = JoinSet::new();
    for worker in 0..options.workers {
        workers.spawn(Worker::new(options, worker, origins, recorder)?.run(end));
    }
    while let Some(worker) = workers.join_next().await {
        worker.context("a worker panicked")??;
    }
    Ok(())
}

struct Worker {
    process: Process,
    generator: Box<dyn Generator>,
    client: Client,
    grpc: Grpc,
    origins: Arc<Vec<String>>,
    pinned: Option<usize>,
    recorder: Recorder,
}

impl Worker {
    fn new(
        options: Options,
        worker: u64,
        origins: &[String],
        recorder: &Recorder,
    ) -> anyhow::Result<Worker> {
        let grpc = Grpc::default();
        let client = if worker.is_multiple_of(2) {
            Client::Http(Http::new()?)
        } else {
            Client::Grpc(grpc.clone())
        };
        // The number of workers is that of tasks: small.
        let node = worker as usize % origins.len();
        Ok(Worker {
            process: recorder.new_process(),
            generator: options.workload.generator(options.seed, worker),
            client,
            grpc,
            origins: Arc::new(origins.to_vec()),
            pinned: (worker % 4 != 3).then_some(node),
            recorder: recorder.clone(),
        })
    }

    async fn run(mut self, end: Instant) -> anyhow::Result<()> {
        let mut turn = 0;
        while Instant::now() < end {
            turn += 1;
            let node = self.pinned.unwrap_or(turn % self.origins.len());
            let step = self.generator.next_step();
            if !self.operate(&step, node).await?.is_decided() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// One operation with its two lines.
    async fn operate(&mut self, step: &Step, node: usize) -> anyhow::Result<Ended> {
        let mut record = Record::new(self.process.clone(), Kind::Invoke, step.f);
        record.key.clone_from(&step.key);
        record.value.clone_from(&step.value);
        record.node = Some(db::name(node));
        record.more.expect = step.expect;
        self.recorder.record(record.clone())?;
        let replies = self.send(step, node).await;
        let ended = self.generator.ended(step, &replies);
        let Ended {
            kind,
            value,
            error,
            more,
        } = ended.clone();
        self.recorder.record(Record {
            kind,
            value,
            error,
            more,
            ..record
        })?;
        if ended.kind == Kind::Info {
            self.process = self.recorder.new_process();
        }
        Ok(ended)
    }

    /// Sends it once; or several times, the last time when the others are answered, each time to another node.
    async fn send(&self, step: &Step, node: usize) -> Vec<Reply> {
        let grpc = Client::Grpc(self.grpc.clone());
        let client = if matches!(step.call, Call::Range(..)) {
            &grpc
        } else {
            &self.client
        };
        let origin = |at: usize| &self.origins[(node + at) % self.origins.len()];
        let Some((times, key)) = &step.repeated else {
            return vec![client.run(origin(0), &step.call, None).await];
        };
        let first = (1..*times).map(|at| client.run(origin(at), &step.call, Some(key)));
        let mut replies = join_all(first).await;
        replies.push(client.run(origin(0), &step.call, Some(key)).await);
        replies
    }
}

/// The end of a run.
pub struct End<'a> {
    options: Options,
    origins: &'a [String],
    recorder: &'a Recorder,
}

/// After the last fault: everything must be readable at every node, and writable.
///
/// # Errors
/// If the history cannot be written. A cluster that does not serve again is a finding.
pub async fn finish(
    options: Options,
    origins: &[String],
    recorder: &Recorder,
) -> anyhow::Result<Vec<Finding>> {
    let end = End {
        options,
        origins,
        recorder,
    };
    let outcome = match options.workload {
        Workload::Register => {
            end.read_all(&register::last_steps(options.seed, options.workers))
                .await?
        }
        Workload::Append => end.read_all(&append::last_steps()).await?,
        Workload::Counter => end.read_all(&counter::last_steps()).await?,
        Workload::Batch => end.read_all(&batch::last_steps()).await?,
        Workload::Set => set::finish(&end).await?,
        Workload::Unique => unique::finish(&end).await?,
        Workload::Idempotency => idempotency::finish(&end).await?,
    };
    let finding = |what| Finding {
        anomaly: "does not heal".to_owned(),
        what,
        witness: Vec::new(),
    };
    Ok(outcome.err().map(finding).into_iter().collect())
}

/// What had to succeed, or why it did not.
pub(super) type Alive = Result<(), String>;

impl End<'_> {
    /// All nodes.
    pub(super) fn nodes(&self) -> std::ops::Range<usize> {
        0..self.origins.len()
    }

    /// The steps, reads at every node, others at one.
    async fn read_all(&self, steps: &[Step]) -> anyhow::Result<Alive> {
        let mut worker = Worker::new(
            self.options,
            self.options.workers,
            self.origins,
            self.recorder,
        )?;
        for (at, step) in steps.iter().enumerate() {
            let is_read = matches!(step.call, Call::Get(_) | Call::Range(..));
            let nodes = if is_read {
                self.nodes()
            } else {
                at % self.origins.len()..at % self.origins.len() + 1
            };
            for node in nodes {
                if let Err(why) = until_ok(&mut worker, step, node).await? {
                    return Ok(Err(why));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Reads with `look` at every node, and writes down what it found as `final` lines of `f`.
    pub(super) async fn look_everywhere(
        &self,
        bucket: &str,
        filter: Option<&str>,
        record: impl Fn(Vec<Document>) -> Vec<Record>,
    ) -> anyhow::Result<Alive> {
        let client = Grpc::default();
        for node in self.nodes() {
            let end = Instant::now() + ALIVE_WITHIN;
            let found = loop {
                match client.all(&self.origins[node], bucket, filter).await {
                    Ok(found) => break found,
                    Err(error) if Instant::now() >= end => {
                        return Ok(Err(format!(
                            "{} does not read {bucket}: {error:#}",
                            db::name(node)
                        )));
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            };
            for mut line in record(found) {
                line.node = Some(db::name(node));
                self.recorder.record(line)?;
            }
        }
        Ok(Ok(()))
    }
}

/// A line of what is there in the end.
pub(super) fn last(f: &str, source: &str, value: Vec<Value>) -> Record {
    let mut record = Record::new(Process::Named("final".to_owned()), Kind::Final, f);
    record.more.source = Some(source.to_owned());
    record.value = Value::Array(value);
    record
}

async fn until_ok(worker: &mut Worker, step: &Step, node: usize) -> anyhow::Result<Alive> {
    let end = Instant::now() + ALIVE_WITHIN;
    loop {
        let ended = worker.operate(step, node).await?;
        let why = || {
            format!(
                "{} {:?} at {}: {:?}",
                step.f,
                step.key,
                db::name(node),
                ended.error
            )
        };
        match ended.kind {
            Kind::Ok => return Ok(Ok(())),
            Kind::Fail if Instant::now() < end => tokio::time::sleep(PAUSE).await,
            // A value is written once: a second try could not be told from the first.
            _ => return Ok(Err(why())),
        }
    }
}
