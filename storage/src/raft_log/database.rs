//! The log database itself: how it is opened, and how entries are read back.

use std::fs::File;
use std::path::Path;

use rocksdb::{
    ColumnFamilyDescriptor, CompactOptions, DB, DBCompactionStyle, DBCompressionType,
    DBRawIterator, ReadOptions,
};

use super::layout::{self, Kind};
use super::sizes::Sizes;
use super::{LogEntry, LogOptions, LogState, watermark};
use crate::error::{Error, Result};
use crate::ids::{LogId, StoreId};
use crate::memory::Memory;
use crate::open::open_error;
use crate::seal::Ring;

/// A memtable in use and two being flushed: past that writes wait for the disk.
const MEMTABLES_MAX: i32 = 3;
/// Sorted runs before some are merged. With the default budgets, about as many memtables as the logs may hold: by then much of the
/// oldest is purged. A lagging follower and a start read merges of that many at most.
const RUNS_MERGED: i32 = 24;
/// A merge that lags: writes are slowed, and stopped.
const RUNS_SLOWED: i32 = 2 * RUNS_MERGED;
const RUNS_STOPPED: i32 = 3 * RUNS_MERGED;
const INFO_LOGS: usize = 4;
/// RocksDB's name for the column family that there always is.
pub(super) const COLUMN: &str = "default";
const INFO_LOG_BYTES: usize = 4 << 20;

/// Opens the database in `dir`, or makes it.
///
/// # Errors
/// [`Error::Locked`]. [`Error::Corrupt`]: RocksDB does not read its files, or they hold less than was synced.
pub(super) fn open(dir: &Path, options: &LogOptions, memory: &Memory) -> Result<DB> {
    std::fs::create_dir_all(dir)?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        // The name of the database must be as durable as what is in it.
        File::open(parent)?.sync_all()?;
    }
    let options = self::options(options, memory);
    let db = DB::open_cf_descriptors(&options, dir, [column(&options)])
        .map_err(|error| open_error(error, dir))?;
    watermark::check(&db, dir)?;
    Ok(db)
}

/// The only column family, under its name: one that is not named cannot be asked about.
pub(super) fn column(options: &rocksdb::Options) -> ColumnFamilyDescriptor {
    ColumnFamilyDescriptor::new(COLUMN, options.clone())
}

/// The database as it is opened, for writing or only to look at it.
pub(super) fn options(options: &LogOptions, memory: &Memory) -> rocksdb::Options {
    let mut database = rocksdb::Options::default();
    database.create_if_missing(true);
    database.set_block_based_table_factory(&memory.tables());
    database.set_write_buffer_manager(memory.log_memtables());
    database.set_write_buffer_size(options.memtable_bytes);
    database.set_max_write_buffer_number(MEMTABLES_MAX);
    database.set_compression_type(DBCompressionType::Lz4);
    // Every flush touches the range of every group, so levels would rewrite all of the log with each few flushes. Most of what
    // it holds is purged unread: the later runs are merged, the less is left to be written again.
    database.set_compaction_style(DBCompactionStyle::Universal);
    database.set_level_zero_file_num_compaction_trigger(RUNS_MERGED);
    database.set_level_zero_slowdown_writes_trigger(RUNS_SLOWED);
    database.set_level_zero_stop_writes_trigger(RUNS_STOPPED);
    database.set_max_background_jobs(2);
    database.set_recycle_log_file_num(0);
    // Notices a write-ahead log that was synced and is gone, or shorter than it was.
    database.set_track_and_verify_wals_in_manifest(true);
    database.set_keep_log_file_num(INFO_LOGS);
    database.set_max_log_file_size(INFO_LOG_BYTES);
    database
}

/// A group's state on disk, and the index of its first entry.
///
/// # Errors
/// [`Error::Corrupt`]: a row fails its checksum, or the committed point lies past the log, so that entries were lost.
pub(super) fn load(db: &DB, store: StoreId) -> Result<(LogState, u64)> {
    let row = |kind| -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let key = layout::state_key(store, kind);
        Ok(db.get(&key)?.map(|value| (key, value)))
    };
    let log_id = |kind| {
        row(kind)?
            .map(|(key, value)| layout::decode_log_id(&key, &value))
            .transpose()
    };
    let vote = row(Kind::Vote)?
        .map(|(key, value)| layout::decode_vote(&key, &value))
        .transpose()?;
    let (committed, purged) = (log_id(Kind::Committed)?, log_id(Kind::Purged)?);
    let (first, end) = (next(purged), u64::MAX);
    let last = edge(db, store, first, end, true)?.or(purged);
    let first = match purged {
        Some(_) => first,
        // A log that was never purged begins wherever its first entry is.
        None => edge(db, store, first, end, false)?.map_or(0, |id| id.index),
    };
    if committed.map(|id| id.index) > last.map(|id| id.index) {
        let text = |id: Option<LogId>| id.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
        return Err(Error::corrupt(format!(
            "log of store {store} ends at {} though {} was committed",
            text(last),
            text(committed)
        )));
    }
    Ok((
        LogState {
            vote,
            committed,
            purged,
            last,
        },
        first,
    ))
}

/// Readahead of a walk over a whole log.
const READAHEAD_BYTES: usize = 2 << 20;

/// How much the log from `first` on holds: one walk over it, which the budget of logs bounds.
pub(super) fn measure(db: &DB, store: StoreId, first: u64) -> Result<Sizes> {
    let mut sizes = Sizes::new(first);
    let mut iterator = entries(db, store, first, u64::MAX, READAHEAD_BYTES);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        sizes.push(layout::entry_index(key)?, layout::entry_bytes(value));
        iterator.next();
    }
    iterator.status()?;
    Ok(sizes)
}

/// The index after `id`, or the first one.
pub(super) fn next(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index.saturating_add(1))
}

/// The last entry of `from..to`, or the first.
fn edge(db: &DB, store: StoreId, from: u64, to: u64, last: bool) -> Result<Option<LogId>> {
    let mut iterator = entries(db, store, from, to, 0);
    if last {
        iterator.seek_to_last();
    } else {
        iterator.seek_to_first();
    }
    let Some((key, value)) = iterator.item() else {
        iterator.status()?;
        return Ok(None);
    };
    Ok(Some(layout::decode_entry_id(key, value)?))
}

/// A walk over the entries of `from..to`.
pub(super) fn entries(
    db: &DB,
    store: StoreId,
    from: u64,
    to: u64,
    readahead: usize,
) -> DBRawIterator<'_> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(layout::entry_key(store, from));
    options.set_iterate_upper_bound(layout::entry_key(store, to));
    // Read once by a replica that lags; what is read often is in the tails.
    options.fill_cache(false);
    options.set_readahead_size(readahead);
    db.raw_iterator_opt(options)
}

/// Gives the entries of `from..to` on disk to `take`, until that answers `false`.
///
/// # Errors
/// [`Error::Corrupt`]: an entry is missing or fails its checksum.
pub(super) fn read(
    db: &DB,
    ring: Option<&Ring>,
    store: StoreId,
    from: u64,
    to: u64,
    mut take: impl FnMut(LogEntry) -> bool,
) -> Result<()> {
    let mut iterator = entries(db, store, from, to, 0);
    iterator.seek_to_first();
    for index in from..to {
        let Some((key, value)) = iterator.item() else {
            iterator.status()?;
            return Err(missing(store, index));
        };
        let entry = layout::decode_entry(key, value, ring)?;
        if entry.id.index != index {
            return Err(missing(store, index));
        }
        if !take(entry) {
            return Ok(());
        }
        iterator.next();
    }
    Ok(())
}

pub(super) fn missing(store: StoreId, index: u64) -> Error {
    Error::corrupt(format!("log of store {store}: entry {index} is missing"))
}

/// Writes the memtable out, so that no write-ahead log is needed any more, and merges all files.
pub(super) fn compact(db: &DB) -> Result<()> {
    db.flush()?;
    let mut options = CompactOptions::default();
    options.set_exclusive_manual_compaction(false);
    db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
    Ok(())
}
