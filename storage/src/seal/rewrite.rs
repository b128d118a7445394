//! Encryption at rest of a running node: changing keys, and bringing what is stored to the current ones.
//!
//! A pass walks over all columns of the data and over the entries of all logs, and seals anew what is not sealed with its current key.
//! What it did is found done by the next pass, so one that a restart cut off loses nothing but its walk. A pass that ends makes sure
//! that nothing older is left on the disk, files being merged for that, and drops the keys that were retired before it began.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::MasterKey;
use super::ring::{KeyState, Ring, Scope};
use crate::engine::rocks::Rocks;
use crate::engine::sealed::Sealed;
use crate::engine::{Column, Engine as _};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::raft_log::Logs;

/// See the module.
pub struct Sealing {
    ring: Arc<Ring>,
    engine: Arc<Sealed<Rocks>>,
    logs: Logs,
    is_running: AtomicBool,
    is_stopping: AtomicBool,
    read: AtomicU64,
    rewritten: AtomicU64,
}

/// Where encryption at rest stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealStatus {
    /// All data keys, by id.
    pub keys: Vec<KeyState>,
    /// Values from before the node sealed its disk may be left.
    pub is_converting: bool,
    /// A pass is under way.
    pub is_rewriting: bool,
    /// Bytes that the pass under way, or the last one, has looked at.
    pub read_bytes: u64,
    /// Values and entries that it has sealed anew.
    pub rewritten: u64,
}

/// A pass under way.
pub struct Pass {
    /// What is dropped when it ends.
    retired: Vec<u32>,
    is_converting: bool,
    /// Files that were taken in before it began; `None`: some were waiting.
    taken_in: Option<u64>,
    work: VecDeque<Work>,
}

enum Work {
    Data(Column, Bytes),
    Log(StoreId, u64),
}

impl Sealing {
    pub(crate) fn new(ring: Arc<Ring>, engine: Arc<Sealed<Rocks>>, logs: Logs) -> Self {
        Self {
            ring,
            engine,
            logs,
            is_running: AtomicBool::default(),
            is_stopping: AtomicBool::default(),
            read: AtomicU64::default(),
            rewritten: AtomicU64::default(),
        }
    }

    /// Where it stands, from memory.
    pub fn status(&self) -> SealStatus {
        SealStatus {
            keys: self.ring.keys(),
            is_converting: self.ring.outdated().1,
            is_rewriting: self.is_running.load(Ordering::Relaxed),
            read_bytes: self.read.load(Ordering::Relaxed),
            rewritten: self.rewritten.load(Ordering::Relaxed),
        }
    }

    /// Gives every scope, or the one asked for, a new data key, which new values are sealed with from now on. Old ones are rewritten by
    /// the next pass. Waits for the disk.
    ///
    /// # Errors
    /// [`crate::Error::Io`]: the keys in use are the old ones.
    pub fn rotate(&self, scope: Option<Scope>) -> Result<Vec<KeyState>> {
        self.ring.rotate(scope)
    }

    /// Wraps all data keys by another master key, which the next start must be given. No data is touched. Waits for the disk.
    ///
    /// # Errors
    /// [`crate::Error::Io`]: either master key may be the one from now on.
    pub fn rewrap(&self, master: &MasterKey) -> Result<()> {
        self.ring.rewrap(master)
    }

    /// Begins a pass, if there is anything to do. For one caller at a time. Waits for the disk.
    ///
    /// # Errors
    /// Those of the log database.
    pub fn begin(&self) -> Result<Option<Pass>> {
        let (retired, is_converting) = self.ring.outdated();
        if retired.is_empty() && !is_converting {
            return Ok(None);
        }
        let taken_in = self.engine.files_taken_in();
        // Whatever was sealed before the keys changed is where the walk finds it.
        self.engine.settle_writes();
        self.logs.settle()?;
        let data = Column::ALL.map(|column| Work::Data(column, Bytes::new()));
        let logs = self.logs.directory().replicas();
        let logs = logs.iter().map(|row| Work::Log(row.log, 0));
        self.is_running.store(true, Ordering::Relaxed);
        self.read.store(0, Ordering::Relaxed);
        self.rewritten.store(0, Ordering::Relaxed);
        Ok(Some(Pass {
            retired,
            is_converting,
            taken_in,
            work: data.into_iter().chain(logs).collect(),
        }))
    }

    /// Looks at about `bytes_max` bytes more; gives how many it were, `None` at the end. Waits for the disk.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: a value does not open. The pass cannot go on, and its keys stay.
    pub fn step(&self, pass: &mut Pass, bytes_max: usize) -> Result<Option<usize>> {
        let Some(work) = pass.work.pop_front() else {
            return Ok(None);
        };
        let (read, rewritten) = match work {
            Work::Data(column, from) => {
                let piece = self.engine.rewrite(column, &from, bytes_max)?;
                let rest = piece.next.map(|next| Work::Data(column, next));
                rest.into_iter().for_each(|rest| pass.work.push_front(rest));
                (piece.read, piece.values)
            }
            Work::Log(store, from) => {
                let piece = self.logs.reseal(store, from, bytes_max)?;
                let rest = piece.next.map(|next| Work::Log(store, next));
                rest.into_iter().for_each(|rest| pass.work.push_front(rest));
                (piece.read, piece.entries)
            }
        };
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        self.rewritten
            .fetch_add(rewritten as u64, Ordering::Relaxed);
        Ok(Some(read))
    }

    /// Ends a pass that has come to its end: brings it to the disk, removes what it replaced, and drops the retired keys. False: files
    /// of a snapshot came in meanwhile, which may be sealed with them; another pass is needed. Waits for the disk, for long.
    ///
    /// # Errors
    /// Those of either database, [`crate::Error::Closed`] after [`Self::stop`], or [`crate::Error::Io`]: the keys stay.
    pub fn finish(&self, pass: Pass) -> Result<bool> {
        self.is_running.store(false, Ordering::Relaxed);
        if pass.taken_in.is_none() || pass.taken_in != self.engine.files_taken_in() {
            return Ok(false);
        }
        self.engine.flush()?;
        self.logs.settle()?;
        self.engine.compact()?;
        self.logs.compact()?;
        if self.is_stopping.load(Ordering::SeqCst) {
            // The files may not be merged to their end.
            return Err(Error::Closed);
        }
        self.ring.drop_retired(&pass.retired, pass.is_converting)?;
        Ok(true)
    }

    /// Ends the merging of files, which otherwise holds up the end of the process. After both databases are flushed and the logs shut
    /// down; nothing can be written to a disk any more.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.engine.inner().cancel();
        self.logs.cancel();
    }

    /// Gives up a pass that failed.
    pub fn give_up(&self, _: Pass) {
        self.is_running.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
