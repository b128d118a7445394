//! The seam to the data database: what apply and the tables need from an ordered store, and two engines that give it.
//!
//! [`rocks`] is the one that runs; [`memory`] is for tests and for simulation, since RocksDB's threads cannot be replayed. One contract
//! test (`engine/contract.rs`) runs on both, and on both below [`sealed`], which encrypts values. The contract, in short:
//!
//! - A batch is atomic over all columns, for readers at once, for a crash after [`Engine::flush`]. Nothing is durable before.
//! - What survives a crash is a prefix of the batches in write order: columns are flushed together.
//! - A [`View`] never changes, and costs memory only for what is overwritten while it lives.
//! - Keys are ordered bytewise and begin with a store id; the engine knows no more of them than that.
//!
//! Deliberately absent: transactions, merges, iterators that see later writes.

use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::Result;
use crate::ids::StoreId;
use crate::machine::KeptRows;

mod batch;
#[cfg(test)]
mod contract;
pub(crate) mod health;
pub mod memory;
pub mod rocks;
pub mod sealed;

pub use batch::{Batch, Op};

/// A key space of its own within the data database. All three are written and flushed together.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Column {
    /// Small rows that apply reads: applied index, buckets, idempotency records, reservations.
    State = 0,
    /// Documents and tombstones, and the entries of indexes.
    Documents = 1,
    /// The change log.
    Changes = 2,
}

impl Column {
    /// Every column, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::State, Self::Documents, Self::Changes];

    /// The column of a number that came from a disk or a peer.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|column| *column as u8 == number)
    }
}

/// Answer of a read that does not wait for a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// The value.
    Found(Bytes),
    /// There certainly is none.
    Absent,
    /// Memory cannot tell: ask again with [`Engine::get`], on a thread that may wait.
    NeedsDisk,
}

/// A file that [`Engine::write_sst`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SstInfo {
    /// Length of the file.
    pub bytes: u64,
    /// XXH3-64 of the whole file.
    pub checksum: u64,
}

/// What an engine says of itself, for metrics and for admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Held by memtables, those being flushed included.
    pub memtable_bytes: u64,
    /// Held by the block cache, and charged to it for memtables. One cache serves both databases.
    pub block_cache_bytes: u64,
    /// Table files on disk.
    pub sst_bytes: u64,
    /// Table files that no compaction has merged yet: each is one more place to look.
    pub level0_files: u64,
    /// What compactions have before them.
    pub pending_compaction_bytes: u64,
    /// Flushes running now.
    pub running_flushes: u64,
    /// Compactions running now.
    pub running_compactions: u64,
    /// Background flushes and compactions that failed since the start. Above zero: stop purging logs and raise an alarm.
    pub background_errors: u64,
    /// Whether writes are slowed down or stopped, since compaction lags.
    pub stall: Stall,
}

/// What a call of [`Engine::scrub`] has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes of keys and values.
    pub bytes: usize,
    /// Where to go on; `None` at the end of the range.
    pub next: Option<Bytes>,
}

/// How much writes are held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stall {
    /// Not at all.
    #[default]
    None,
    /// To a rate, in bytes per second.
    Delayed(u64),
    /// Fully.
    Stopped,
}

/// A pair of key and value, or what kept it from being read.
pub type Pair = Result<(Bytes, Bytes)>;

/// A walk over a range. After an error it ends.
pub type Pairs<'a> = Box<dyn Iterator<Item = Pair> + Send + 'a>;

/// Which way a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Keys ascend.
    Forward,
    /// Keys descend.
    Backward,
}

/// What a walk without copies hands each key and value to. `Break` ends the walk.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>> + 'a;

/// What a scrub hands each key and value to.
pub type Each<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

/// The data database. Calls may wait for a disk, except where they say that they do not.
pub trait Engine: Send + Sync + 'static {
    /// The newest value.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>>;

    /// The newest value if memory (memtables and block cache) can tell. Never waits for a disk: fit for an async thread.
    fn get_cached(&self, column: Column, key: &[u8]) -> Result<Cached>;

    /// The value that would be there after a crash now.
    fn get_persisted(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>>;

    /// Writes `batch`: visible on return to every reader, durable after the next [`Engine::flush`] or a flush in the background.
    fn write(&self, batch: Batch) -> Result<()>;

    /// The data as it is now, unchanged for as long as the view lives. Holds back compaction of what is overwritten meanwhile.
    fn view(&self) -> Box<dyn View>;

    /// Makes everything written so far durable, all columns atomically. Waits for the disk.
    fn flush(&self) -> Result<()>;

    /// Adds files that [`Engine::write_sst`] of the same kind of engine made, for stores without any data here. Durable on return.
    ///
    /// Atomic within a column only. A crash between two columns leaves part of the store: the caller keeps the store dead until this
    /// has returned.
    fn ingest(&self, files: &[(Column, PathBuf)]) -> Result<()>;

    /// Writes `pairs`, ascending and all of one store, to a new file at `path`, with keys moved to store `to`. The file is synced.
    ///
    /// `None` if there is nothing, and then no file either.
    fn write_sst(
        &self,
        pairs: Pairs<'_>,
        column: Column,
        to: StoreId,
        path: &Path,
    ) -> Result<Option<SstInfo>>;

    /// Whether values are sealed on the disk. Files that leave for another node are then sealed too.
    fn is_sealed(&self) -> bool {
        false
    }

    /// Rewrites the files without what was deleted or overwritten, where there are files. Waits for the disk, for long.
    fn compact(&self) -> Result<()> {
        Ok(())
    }

    /// Where replicas keep rows in memory; `None`: nowhere.
    fn kept_rows(&self) -> Option<&KeptRows> {
        None
    }

    /// Where the engine stands. Cheap enough for each scrape; does not wait for a disk.
    fn stats(&self) -> EngineStats;

    /// Reads `from..to` from where it is stored, checking what can be checked, without filling caches; stops after about `bytes_max`.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: a block fails its checksum; names the file where the engine knows it. Or a seal is broken.
    fn scrub(&self, column: Column, from: &[u8], to: &[u8], bytes_max: usize) -> Result<Scrubbed> {
        self.scrub_each(column, from, to, bytes_max, &mut |_, _| Ok(()))
    }

    /// As [`Self::scrub`], and shows what it reads to `each`.
    ///
    /// # Errors
    /// Also the first of `each`.
    fn scrub_each(
        &self,
        column: Column,
        from: &[u8],
        to: &[u8],
        bytes_max: usize,
        each: &mut Each<'_>,
    ) -> Result<Scrubbed>;
}

/// A consistent read handle, see [`Engine::view`].
pub trait View: Send {
    /// The value in this view.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>>;

    /// Pairs of a range, ascending.
    fn scan(&self, column: Column, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Pairs<'_>;

    /// Pairs of the same range, descending.
    fn scan_rev(&self, column: Column, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Pairs<'_>;

    /// Shows each pair of a range to `each` without copying it, until `each` breaks.
    ///
    /// # Errors
    /// Those of the engine, and the first of `each`.
    fn visit(
        &self,
        column: Column,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        each: &mut Visitor<'_>,
    ) -> Result<()>;

    /// About how many bytes `from..to` takes in files, compressed as it is there, as of now. What is only in memory does not count, and
    /// the ends are off by a block. Reads no data: cheap, but it may wait for a disk.
    ///
    /// # Errors
    /// Those of the engine.
    fn file_bytes(&self, column: Column, from: &[u8], to: &[u8]) -> Result<u64>;
}
