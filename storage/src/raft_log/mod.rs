//! The Raft logs of all groups on this node, their votes, and the directory of stores: a plain durable log in its own database.
//!
//! One thread (`larder-log`) does all the writing. It takes every request that waits, of whatever group, into one RocksDB batch, syncs
//! once, and calls back in the order of the requests: the more groups wait, the more share a sync.
//!
//! Invariants:
//! - **Order**: writes of one group, votes included, reach the disk in the order of the calls; so do those of all groups. What a crash
//!   leaves is a prefix. Hence an entry of a term on disk implies that term's vote on disk, and a committed point never passes the log.
//! - **Visible at once**: readers see an append, truncation or purge when the call returns; durable is another matter.
//! - **No holes**: indexes run from the purge point + 1 to the last one. A missing or changed entry is [`Error::Corrupt`], never skipped.
//! - **One failure is the end**: after a failed write or sync nothing is accepted. It is unknown what such a sync left behind, so it is
//!   not tried again.
//!
//! What is synced: appends, votes, and each change of the directory. Truncations, purges and committed points are written unsynced, or
//! ride in whatever batch comes next: losing the end of them is allowed (`DESIGN.md`).
//!
//! Deliberately absent: openraft's traits, knowledge of what an entry says, compaction of anything but purged entries.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::EngineStats;
use crate::error::{Error, Result};
use crate::ids::{LogId, StoreId, Vote};
use crate::memory::Memory;
use crate::seal::Ring;

mod database;
mod directory;
mod group;
mod layout;
mod reseal;
mod scrub;
mod sizes;
mod tail;
#[cfg(test)]
mod tests;
pub(crate) mod verify;
mod watermark;
mod writer;

pub use directory::{Directory, ReplicaRow};
pub use group::GroupLog;
pub(crate) use reseal::LogResealed;
pub use scrub::LogScrubbed;

use writer::Writer;

/// One entry as the log keeps it: its id, and bytes that it does not look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position.
    pub id: LogId,
    /// An encoded `proto::log::Entry`.
    pub bytes: Bytes,
}

/// Called once on the writer thread when the write is durable, or has failed. Must be quick and must not call back into the logs: all
/// groups wait for it.
pub type Done = Box<dyn FnOnce(std::io::Result<()>) + Send>;

/// What a group's log says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last vote saved.
    pub vote: Option<Vote>,
    /// The last committed id saved.
    pub committed: Option<LogId>,
    /// The last entry purged.
    pub purged: Option<LogId>,
    /// The last entry, or the last one purged if there is none after it.
    pub last: Option<LogId>,
}

/// How much a log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Entries that are not purged.
    pub entries: u64,
    /// Their bytes, roughly what they take on disk before compression.
    pub bytes: u64,
}

/// Settings of the log database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Newest entries that all groups together keep in memory. Entries not written yet are kept beyond it.
    pub tail_bytes: usize,
    /// Size of a memtable; there are at most three. They are charged to the cache that both databases share.
    pub memtable_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            tail_bytes: 32 << 20,
            memtable_bytes: 16 << 20,
        }
    }
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Batches written, synced or not.
    pub batches: u64,
    /// Batches synced.
    pub syncs: u64,
    /// Entries written.
    pub entries: u64,
    /// Requests that wait now.
    pub queue_length: u64,
    /// Held by the tails of all groups.
    pub tail_bytes: u64,
    /// The database below.
    pub database: EngineStats,
}

/// All logs of a node. Cheap to clone; the database closes when the last clone and the last [`GroupLog`] are gone.
#[derive(Clone)]
pub struct Logs {
    inner: Arc<Inner>,
}

struct Inner {
    writer: Arc<Writer>,
    directory: Directory,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.writer.shutdown();
    }
}

impl Logs {
    /// Opens the log database in `dir`, or makes it, and starts the writer thread.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Format`]: nothing was changed. [`Error::Corrupt`]: RocksDB or the directory does not read.
    pub fn open(dir: &Path, options: &LogOptions) -> Result<Self> {
        let cache = options.memtable_bytes * 4;
        Self::open_in(dir, options, &Memory::new(cache, 0, 0), None)
    }

    /// As [`Self::open`], in memory that is shared with another database; with a ring, entries are sealed by its keys.
    ///
    /// # Errors
    /// As [`Self::open`]. [`Error::KeysLost`]: entries are sealed by keys that are not in the ring; nothing was changed.
    pub fn open_in(
        dir: &Path,
        options: &LogOptions,
        memory: &Memory,
        ring: Option<Arc<Ring>>,
    ) -> Result<Self> {
        let database = database::open(dir, options, memory)?;
        let rows = directory::load(&database, dir)?;
        directory::check_seal(&database, dir, ring.as_deref())?;
        let writer = Writer::start(database, ring, dir, options)?;
        let directory = Directory::new(Arc::clone(&writer), rows);
        Ok(Self {
            inner: Arc::new(Inner { writer, directory }),
        })
    }

    /// The log of `store`, empty if nothing was ever written to it. The same one for every call.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: its rows do not read.
    pub fn group(&self, store: StoreId) -> Result<GroupLog> {
        Ok(GroupLog::new(
            Arc::clone(&self.inner),
            self.inner.writer.group(store)?,
        ))
    }

    /// Which stores there are.
    pub fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    /// Seals entries of the log of `store` anew, from index `from` on, where their seal is of an old key or missing. Looks at about
    /// `bytes_max` bytes. What it did is on disk on return. For one caller at a time.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: an entry does not open; nothing was written. [`Error::LogFailed`], [`Error::Closed`].
    pub(crate) fn reseal(
        &self,
        store: StoreId,
        from: u64,
        bytes_max: usize,
    ) -> Result<LogResealed> {
        self.inner.writer.reseal(store, from, bytes_max)
    }

    /// Waits until all that was handed to the writer is on disk.
    pub(crate) fn settle(&self) -> Result<()> {
        self.inner.writer.write_durably(Vec::new())
    }

    /// Rewrites the files without what was purged or overwritten. Waits for the disk, for long.
    pub(crate) fn compact(&self) -> Result<()> {
        database::compact(self.inner.writer.db())
    }

    /// Ends a compaction that is under way, and begins none any more: after [`Self::shutdown`].
    pub(crate) fn cancel(&self) {
        self.inner.writer.db().cancel_all_background_work(true);
    }

    /// Counters since the start.
    pub fn stats(&self) -> LogStats {
        self.inner.writer.stats()
    }

    /// How long the disk has been busy with the write under way; `None`: it is idle. What exceeds a sync by far is a stall.
    pub fn writing_for(&self) -> Option<std::time::Duration> {
        self.inner.writer.writing_for()
    }

    /// Registers what is called, once and on the writer thread, when a write or sync has failed; at once if it has already. The process
    /// should end: nothing is accepted any more.
    pub fn on_failure(&self, callback: impl FnOnce(&Error) + Send + 'static) {
        self.inner.writer.on_failure(Box::new(callback));
    }

    /// Writes what waits, syncs, and ends the writer thread. Later calls get [`Error::Closed`].
    pub fn shutdown(&self) {
        self.inner.writer.shutdown();
    }

    /// Makes the next write fail, as a broken disk would.
    #[cfg(test)]
    fn fail_next_write(&self) {
        self.inner.writer.fail_next_write();
    }
}
