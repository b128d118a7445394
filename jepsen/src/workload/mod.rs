//! Workloads: what clients do, and which checker judges it.

mod append;
mod batch;
mod counter;
mod idempotency;
mod register;
mod run;
mod set;
mod unique;

use clap::ValueEnum;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::checker::{self, Findings};
use crate::client::{Call, Document, Reply};
use crate::db::Setup;
use crate::history::{History, Kind, More};
use proto::ErrorCode;

pub use run::{End, Options, finish, prepare, run};

/// The bucket that a cluster for trying out has.
const BUCKET: &str = "Demo";
/// Distance between the values of two workers: values are unique without talking.
const VALUES_PER_WORKER: u64 = 1 << 24;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Read, put, conditional put, insert, delete and partial update on a few hot documents.
    Register,
    /// Unique inserts; in the end a scan and a query by index at every node.
    Set,
    /// Push to lists and read them, also two lists in one batch.
    Append,
    /// Increments and reads of a few counters.
    Counter,
    /// Registrations of few names by many.
    Unique,
    /// Batches that write several documents of a shard, and reads of all of them.
    Batch,
    /// Pushes, each sent two to five times under one idempotency key.
    Idempotency,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 7] = [
        Workload::Register,
        Workload::Set,
        Workload::Append,
        Workload::Counter,
        Workload::Unique,
        Workload::Batch,
        Workload::Idempotency,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Register => "register",
            Workload::Set => "set",
            Workload::Append => "append",
            Workload::Counter => "counter",
            Workload::Unique => "unique",
            Workload::Batch => "batch",
            Workload::Idempotency => "idempotency",
        }
    }

    /// What it needs of a fresh cluster.
    pub fn setup(self) -> Setup {
        match self {
            Workload::Set => set::setup(),
            Workload::Unique => unique::setup(),
            Workload::Register
            | Workload::Append
            | Workload::Counter
            | Workload::Batch
            | Workload::Idempotency => Setup::default(),
        }
    }

    /// The functions that read, of which a run needs some; empty where all is read in the end.
    pub fn reads(self) -> &'static [&'static str] {
        match self {
            Workload::Register | Workload::Counter | Workload::Batch => &["read"],
            Workload::Append => &["txn"],
            Workload::Set | Workload::Unique | Workload::Idempotency => &[],
        }
    }

    /// Judges its histories.
    pub fn check(self, history: &History) -> Findings {
        match self {
            Workload::Register | Workload::Batch => checker::register::check(history),
            Workload::Set => checker::set::check(history),
            Workload::Append => checker::append::check(history),
            Workload::Counter => checker::counter::check(history),
            Workload::Unique => checker::unique::check(history),
            Workload::Idempotency => checker::idempotency::check(history),
        }
    }

    fn generator(self, seed: u64, worker: u64) -> Box<dyn Generator> {
        // Workers of one seed differ, and neighbouring seeds share no worker.
        let random = StdRng::seed_from_u64(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(worker),
        );
        let first = worker * VALUES_PER_WORKER + 1;
        match self {
            Workload::Register => Box::new(register::Registers::new(random, first)),
            Workload::Set => Box::new(set::Set::new(first)),
            Workload::Append => Box::new(append::Lists::new(random, first)),
            Workload::Counter => Box::new(counter::Counters::new(random)),
            Workload::Unique => Box::new(unique::Names::new(worker)),
            Workload::Batch => Box::new(batch::Groups::new(random, first)),
            Workload::Idempotency => Box::new(idempotency::Pushes::new(random, first)),
        }
    }
}

/// Draws the operations of one worker, and knows what their answers mean.
trait Generator: Send + Sync {
    /// The next operation.
    fn next_step(&mut self) -> Step;

    /// How it ended; `replies` has one for each sending.
    fn ended(&mut self, step: &Step, replies: &[Reply]) -> Ended;
}

/// An operation.
#[derive(Clone, Debug)]
struct Step {
    f: &'static str,
    key: Option<String>,
    value: Value,
    expect: Option<u64>,
    call: Call,
    /// Sent more than once, under this idempotency key.
    repeated: Option<(usize, String)>,
}

impl Step {
    fn new(f: &'static str, key: &str, value: Value, call: Call) -> Step {
        Step {
            f,
            key: Some(key.to_owned()),
            value,
            expect: None,
            call,
            repeated: None,
        }
    }
}

/// How an operation ended.
#[derive(Clone, Debug)]
struct Ended {
    kind: Kind,
    value: Value,
    error: Option<String>,
    more: More,
}

impl Ended {
    /// What a reply means; `ok` says what a success found.
    fn of(
        step: &Step,
        reply: &Reply,
        ok: impl FnOnce(&[Document]) -> (Value, Option<u64>),
    ) -> Ended {
        let mut more = More::default();
        match reply {
            Reply::Ok(documents) => {
                let (value, version) = ok(documents);
                more.version = version;
                Ended {
                    kind: Kind::Ok,
                    value,
                    error: None,
                    more,
                }
            }
            Reply::Fail { code, error } => {
                more.reason = Some(reason(step, code));
                Ended {
                    kind: Kind::Fail,
                    value: step.value.clone(),
                    error: Some(error.clone()),
                    more,
                }
            }
            Reply::Info { error } => Ended {
                kind: Kind::Info,
                value: step.value.clone(),
                error: Some(error.clone()),
                more,
            },
        }
    }

    /// What a reply to the write of one document means: its own value, at the version that it made.
    fn of_write(step: &Step, reply: &Reply) -> Ended {
        Ended::of(step, reply, |documents| {
            (
                step.value.clone(),
                documents.first().map(|document| document.version),
            )
        })
    }

    /// Whether the stored state decided it: it happened, or what was there stood against it.
    fn is_decided(&self) -> bool {
        let against = [MISMATCH, ABSENT, ErrorCode::ValueTaken.as_str()];
        self.kind == Kind::Ok
            || self
                .more
                .reason
                .as_deref()
                .is_some_and(|reason| against.contains(&reason))
    }
}

/// Reasons of refusals: the condition did not hold; there was nothing to change.
const MISMATCH: &str = "mismatch";
const ABSENT: &str = "absent";

/// Why it was refused: one of the two, or the node's own code.
fn reason(step: &Step, code: &str) -> String {
    let said = match ErrorCode::parse(code) {
        Some(ErrorCode::ObjectOutOfDate | ErrorCode::ObjectExists) => MISMATCH,
        Some(ErrorCode::ObjectNotFound) if step.expect.is_some() => MISMATCH,
        Some(ErrorCode::ObjectNotFound) => ABSENT,
        _ => code,
    };
    said.to_owned()
}

/// The first document's member and version; nothing and 0 where there is none.
fn member(documents: &[Document], name: &str) -> (Value, Option<u64>) {
    let first = documents.first();
    (
        first.map_or(Value::Null, |document| document.json[name].clone()),
        Some(first.map_or(0, |document| document.version)),
    )
}
