//! Writes a history while it happens.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::{Event, Kind, More, Process};

/// The host's monotonic clock, in nanoseconds.
///
/// # Errors
/// If the host has none.
pub fn now() -> anyhow::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("no monotonic clock")?;
    let seconds = u64::try_from(time.tv_sec()).context("monotonic seconds")?;
    let nanoseconds = u64::try_from(time.tv_nsec()).context("monotonic nanoseconds")?;
    Ok(seconds * 1_000_000_000 + nanoseconds)
}

/// A line without its time.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who.
    pub process: Process,
    /// What kind of line.
    pub kind: Kind,
    /// Which function, or which fault.
    pub f: String,
    /// The document.
    pub key: Option<String>,
    /// What is written or was read.
    pub value: Value,
    /// The node that was asked.
    pub node: Option<String>,
    /// Why it did not succeed.
    pub error: Option<String>,
    /// What only some lines have.
    pub more: More,
}

impl Record {
    /// A line with nothing but a function.
    pub fn new(process: Process, kind: Kind, f: &str) -> Record {
        Record {
            process,
            kind,
            f: f.to_owned(),
            key: None,
            value: Value::Null,
            node: None,
            error: None,
            more: More::default(),
        }
    }

    fn at(self, time: u64) -> Event {
        let Record {
            process,
            kind,
            f,
            key,
            value,
            node,
            error,
            more,
        } = self;
        Event {
            process,
            kind,
            f,
            key,
            value,
            time,
            node,
            error,
            more,
        }
    }
}

/// Appends to a history. Cheap to clone.
///
/// A line is with the operating system when [`Recorder::record`] returns: a harness that dies leaves all that it did.
#[derive(Clone)]
pub struct Recorder {
    file: Arc<Mutex<File>>,
    processes: Arc<AtomicU64>,
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
            file: Arc::new(Mutex::new(file)),
            processes: Arc::default(),
        })
    }

    /// A number that no process has had.
    pub fn new_process(&self) -> Process {
        Process::Client(self.processes.fetch_add(1, Ordering::Relaxed))
    }

    /// Writes one line.
    ///
    /// # Errors
    /// If it cannot be written: the run is worth nothing then.
    pub fn record(&self, record: Record) -> anyhow::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken under the lock, so that times grow with the lines.
        let event = record.at(now()?);
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        file.write_all(&line)
            .context("the history cannot be written")
    }
}
