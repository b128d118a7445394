//! The clients under way: threads, each with its own runtime, each client in a closed loop.
//!
//! A thread is a single-threaded runtime of its own: no work stealing and no wake-ups across cores.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng as _};
use tokio::task::LocalSet;

use super::client::{Access, Client, Condition, Effect, Failure};
use super::grpc;
use super::outage::Returns;
use super::report::{Gaps, Recorder};
use super::targets::Targets;
use super::verify::{Findings, Register, body, seen};
use super::workload::{Keys, Mix, Operation, SCAN_DOCUMENTS_MAX, key_name};

/// Random text from which values are cut, so that making one costs a copy.
const TEXT_BYTES: usize = 64 * 1024;
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// After the load ends a node may still be starting; longer than that and its keys count as unreadable.
const FINAL_READS_WITHIN: Duration = Duration::from_secs(60);
/// How long one document is tried to be loaded.
const LOAD_WITHIN: Duration = Duration::from_secs(30);

/// What the clients of a run do.
pub(super) enum Task {
    /// Writes the keys below this number, each once.
    Load(u64),
    /// Runs the mix.
    Mix(Mix),
    /// Every client reads and writes this many keys of its own and judges what it reads.
    Verify {
        mix: Mix,
        keys_per_client: u64,
        run: u32,
    },
}

/// One run, shared by all threads.
pub(super) struct Run {
    pub(super) targets: Arc<Targets>,
    pub(super) access: Access,
    pub(super) clients: usize,
    pub(super) threads: usize,
    pub(super) value_bytes: usize,
    pub(super) keys: Keys,
    pub(super) task: Task,
    /// Before it is warm-up.
    pub(super) measure_from: Instant,
    pub(super) stop_at: Instant,
    pub(super) write_gaps: Gaps,
    pub(super) read_gaps: Gaps,
    /// Of `--outages`.
    pub(super) returns: Option<Returns>,
    /// The next key to load.
    pub(super) loading: AtomicU64,
}

/// What a thread brings back.
pub(super) struct Outcome {
    pub(super) recorder: Recorder,
    pub(super) findings: Findings,
    /// When its last client ended its closed loop.
    pub(super) ended: Instant,
}

impl Run {
    fn is_over(&self) -> bool {
        Instant::now() >= self.stop_at || self.returns.as_ref().is_some_and(Returns::is_done)
    }

    /// Starts the threads.
    pub(super) fn start(self: &Arc<Self>) -> Vec<std::thread::JoinHandle<anyhow::Result<Outcome>>> {
        (0..self.threads)
            .map(|thread| {
                let run = Arc::clone(self);
                std::thread::spawn(move || run_thread(&run, thread))
            })
            .collect()
    }
}

fn run_thread(run: &Arc<Run>, thread: usize) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let own: Vec<usize> = (0..run.clients)
            .filter(|client| client % run.threads == thread)
            .collect();
        let secure = run.access.secure.as_ref();
        let pool = grpc::Pool::new(&run.targets.hosts, own.len(), secure)?;
        let recorder = Rc::new(RefCell::new(Recorder::new()?));
        let mut tasks = Vec::new();
        for number in own {
            let client = run.access.client(&run.targets.hosts, &pool);
            let worker = Worker::new(Arc::clone(run), Rc::clone(&recorder), client, number);
            tasks.push(tokio::task::spawn_local(worker.run()));
        }
        let (mut findings, mut ended) = (Findings::default(), run.measure_from);
        for task in tasks {
            let (found, end) = task.await.context("a client failed")??;
            findings.merge(found);
            ended = ended.max(end);
        }
        let recorder = Rc::try_unwrap(recorder)
            .map_err(|_| anyhow::anyhow!("a client still runs"))?
            .into_inner();
        Ok(Outcome {
            recorder,
            findings,
            ended,
        })
    })
}

/// One client.
struct Worker {
    run: Arc<Run>,
    recorder: Rc<RefCell<Recorder>>,
    client: Client,
    number: usize,
    /// The node it asks while it has no better idea.
    own: usize,
    random: SmallRng,
    text: String,
    body: Vec<u8>,
    backoff: Duration,
}

impl Worker {
    fn new(run: Arc<Run>, recorder: Rc<RefCell<Recorder>>, client: Client, number: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(number as u64);
        // Letters and digits: values that compress about as well as real text.
        let text = (0..TEXT_BYTES + run.value_bytes)
            .map(|_| char::from(random.sample(rand::distr::Alphanumeric)));
        let (text, own) = (text.collect(), number % run.targets.hosts.len());
        Self {
            run,
            recorder,
            client,
            number,
            own,
            random,
            text,
            body: Vec::new(),
            backoff: BACKOFF_MIN,
        }
    }

    async fn run(mut self) -> anyhow::Result<(Findings, Instant)> {
        let run = Arc::clone(&self.run);
        match &run.task {
            Task::Load(keys) => self
                .load(*keys)
                .await
                .map(|()| (Findings::default(), Instant::now())),
            Task::Mix(mix) => {
                while !run.is_over() {
                    self.step(mix).await;
                }
                Ok((Findings::default(), Instant::now()))
            }
            Task::Verify {
                mix,
                keys_per_client,
                run: id,
            } => Ok(self.verify(mix, *keys_per_client, *id).await),
        }
    }

    async fn load(&mut self, keys: u64) -> anyhow::Result<()> {
        loop {
            let number = self.run.loading.fetch_add(1, Ordering::Relaxed);
            if number >= keys {
                return Ok(());
            }
            let key = key_name(number);
            let give_up = Instant::now() + LOAD_WITHIN;
            self.fill_body();
            while let Err(failure) = self.write(&key, Condition::None).await {
                anyhow::ensure!(
                    Instant::now() < give_up,
                    "cannot load {key}: {}, effect {}",
                    failure.code,
                    failure.effect.name()
                );
                self.fall_back(&failure).await;
            }
        }
    }

    async fn step(&mut self, mix: &Mix) {
        let operation = mix.choose(&mut self.random);
        let number = match operation {
            Operation::Insert => self.run.keys.fresh(),
            _ => self.run.keys.existing(&mut self.random),
        };
        let key = self.run.keys.name(number);
        let started = Instant::now();
        let outcome = self.perform(operation, &key).await;
        self.record(operation, &key, started, outcome.as_ref().map(|_| ()));
        match outcome {
            Ok(Found::Yes) => self.backoff = BACKOFF_MIN,
            Ok(Found::No) => self.recorder.borrow_mut().missing(),
            Err(failure) => self.fall_back(&failure).await,
        }
    }

    async fn perform(&mut self, operation: Operation, key: &str) -> Result<Found, Failure> {
        match operation {
            Operation::Read => self.read(key).await,
            Operation::Update | Operation::Insert => {
                self.fill_body();
                let condition = if operation == Operation::Insert {
                    Condition::Absent
                } else {
                    Condition::None
                };
                self.write(key, condition).await.map(|_| Found::Yes)
            }
            Operation::Scan => {
                let limit = self.random.random_range(1..=SCAN_DOCUMENTS_MAX);
                let node = self.node(key);
                self.client.scan(node, key, limit).await.map(|_| Found::Yes)
            }
            Operation::ReadModifyWrite => {
                let found = self.read(key).await?;
                self.fill_body();
                self.write(key, Condition::None).await.map(|_| found)
            }
        }
    }

    async fn read(&mut self, key: &str) -> Result<Found, Failure> {
        let node = self.node(key);
        Ok(if self.client.read(node, key).await?.is_some() {
            Found::Yes
        } else {
            Found::No
        })
    }

    async fn write(&mut self, key: &str, condition: Condition) -> Result<u64, Failure> {
        let node = self.node(key);
        self.client.write(node, key, &self.body, condition).await
    }

    fn node(&self, key: &str) -> usize {
        self.run.targets.node(self.run.targets.shard(key), self.own)
    }

    fn fill_body(&mut self) {
        let from = self.random.random_range(0..TEXT_BYTES);
        self.body.clear();
        self.body.extend_from_slice(b"{\"value\":\"");
        self.body
            .extend_from_slice(&self.text.as_bytes()[from..from + self.run.value_bytes]);
        self.body.extend_from_slice(b"\"}");
    }

    fn record(
        &self,
        operation: Operation,
        key: &str,
        started: Instant,
        outcome: Result<(), &Failure>,
    ) {
        if started < self.run.measure_from {
            return;
        }
        let ended = Instant::now();
        let gaps = if operation.is_write() {
            &self.run.write_gaps
        } else {
            &self.run.read_gaps
        };
        let shard = self.run.targets.shard(key);
        match outcome {
            Ok(()) => {
                self.recorder
                    .borrow_mut()
                    .success(operation, ended - started);
                gaps.success(shard, ended);
                if let Some(returns) = &self.run.returns
                    && operation.is_write()
                {
                    returns.success(shard, started, ended);
                }
            }
            Err(failure) => {
                self.recorder.borrow_mut().failure(operation, failure);
                gaps.failure(shard);
            }
        }
    }

    /// After a failure: another node, a little later, a little later still the next time.
    async fn fall_back(&mut self, failure: &Failure) {
        if failure.is_conflict() {
            return;
        }
        self.own = (self.own + 1) % self.run.targets.hosts.len();
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    async fn verify(&mut self, mix: &Mix, keys: u64, run: u32) -> (Findings, Instant) {
        let key = |number| format!("verify-{run:08x}-{:04}-{number:06}", self.number);
        let mut registers: Vec<Register> = (0..keys.max(1))
            .map(|number| Register::new(key(number)))
            .collect();
        let mut findings = Findings::default();
        while !self.run.is_over() && !registers.is_empty() {
            let index = self.random.random_range(0..registers.len());
            let reads =
                mix.choose(&mut self.random) == Operation::Read || registers[index].is_in_doubt();
            let kept = if reads {
                self.verify_read(&mut registers[index], &mut findings).await
            } else {
                self.verify_write(&mut registers[index], &mut findings)
                    .await;
                true
            };
            // Told once; its writer no longer knows what to expect.
            if !kept {
                registers.swap_remove(index);
                findings.key();
            }
        }
        let ended = Instant::now();
        self.final_reads(&mut registers, &mut findings).await;
        (findings, ended)
    }

    async fn verify_write(&mut self, register: &mut Register, findings: &mut Findings) {
        let (sequence, condition) = register.begin();
        let from = self.random.random_range(0..TEXT_BYTES);
        self.body = body(sequence, &self.text[from..from + self.run.value_bytes]);
        let started = Instant::now();
        let outcome = self.write(&register.key, condition).await;
        self.record(
            Operation::Update,
            &register.key,
            started,
            outcome.as_ref().map(|_| ()),
        );
        match outcome {
            // An acknowledgement without a version cannot be built on: read what it was.
            Ok(0) => register.leave_unknown(sequence),
            Ok(version) => {
                register.acknowledge(sequence, version);
                findings.acknowledged();
                self.backoff = BACKOFF_MIN;
            }
            Err(failure) => {
                if failure.is_conflict() {
                    register.conflict();
                } else if failure.effect != Effect::None {
                    register.leave_unknown(sequence);
                    findings.unknown();
                }
                self.fall_back(&failure).await;
            }
        }
    }

    /// False if what was read must not be.
    async fn verify_read(&mut self, register: &mut Register, findings: &mut Findings) -> bool {
        let started = Instant::now();
        let node = self.node(&register.key);
        let outcome = self.client.read(node, &register.key).await;
        self.record(
            Operation::Read,
            &register.key,
            started,
            outcome.as_ref().map(|_| ()),
        );
        match outcome {
            Ok(stored) => {
                let verdict = register.observe(seen(stored.as_ref()));
                let fine = verdict.is_ok();
                findings.judged(&self.run.targets.hosts[node], verdict);
                self.backoff = BACKOFF_MIN;
                fine
            }
            Err(failure) => {
                self.fall_back(&failure).await;
                true
            }
        }
    }

    /// Reads every key linearizably from each node.
    async fn final_reads(&mut self, registers: &mut [Register], findings: &mut Findings) {
        let give_up = Instant::now() + FINAL_READS_WITHIN;
        for register in registers {
            findings.key();
            for node in 0..self.run.targets.hosts.len() {
                let outcome = loop {
                    match self.client.read(node, &register.key).await {
                        Err(_) if Instant::now() < give_up => tokio::time::sleep(BACKOFF_MAX).await,
                        outcome => break outcome,
                    }
                };
                let host = &self.run.targets.hosts[node];
                match outcome {
                    Ok(stored) => findings.judged(host, register.observe(seen(stored.as_ref()))),
                    Err(failure) => findings.unreadable(&register.key, host, &failure.code),
                }
            }
        }
    }
}

/// Whether the document was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Yes,
    No,
}
