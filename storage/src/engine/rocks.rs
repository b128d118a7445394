//! The engine that runs: one RocksDB, three column families, no write-ahead log.
//!
//! Durability comes from flushes alone. They are atomic over the column families, so what a crash leaves is a prefix of the batches;
//! the Raft log replays the rest. One memtable budget spans all columns and with it all shards, and one block cache holds data, index
//! and filter blocks, so a node's memory does not grow with its data.
//!
//! The 8-byte store id is the prefix of every key. Scans seek in total order all the same and are bounded by their range: a prefix seek
//! is undefined past its prefix, which is no price to pay for a filter that point reads have anyway.
//!
//! Deliberately absent: anything that RocksDB decides from a key's content (compaction filters, time to live); replicas would differ.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle,
    DBCompressionType, DBPinnableSlice, DBRawIterator, ErrorKind, FlushOptions,
    IngestExternalFileOptions, ReadOptions, ReadTier, SliceTransform, Snapshot, SstFileWriter,
    WriteBatch, WriteBufferManager, WriteOptions, properties,
};
use self_cell::self_cell;

use super::{Batch, Cached, Column, Engine, EngineStats, Op, Pair, Pairs, SstInfo, Stall, View};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::open::{checksum_file, open_error};

/// Files of the upper levels aim at this size; larger ones make compactions of one shard rewrite others.
const FILE_BYTES: u64 = 32 << 20;
/// Blocks are read and cached whole: large enough to compress JSON well, small enough to read one document.
const BLOCK_BYTES: usize = 16 << 10;
/// 1 % false positives.
const FILTER_BITS_PER_KEY: f64 = 10.0;
/// Share of a memtable for a filter that answers "not here" without walking the skip list: most idempotency keys are new.
const MEMTABLE_FILTER_RATIO: f64 = 0.02;
/// Compression from level 0 on; the second is that of the level that level 0 merges into, wherever it lies. What is
/// rewritten often is compressed cheaply; what lies deeper is most of a large database and the only part worth zstd.
const LEVELS: [DBCompressionType; 7] = [
    DBCompressionType::Lz4,
    DBCompressionType::Lz4,
    DBCompressionType::Zstd,
    DBCompressionType::Zstd,
    DBCompressionType::Zstd,
    DBCompressionType::Zstd,
    DBCompressionType::Zstd,
];
/// Sorted runs of the change log before some are merged: scans are merges of that many at most, and rare.
const RUNS_MERGED: i32 = 8;
/// RocksDB's own log files that are kept.
const INFO_LOGS: usize = 4;
const INFO_LOG_BYTES: usize = 4 << 20;

/// Settings of the data database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOptions {
    /// Budget of all memtables together. Past it they are flushed; during that flush new ones may take half as much again.
    pub memtable_bytes: usize,
    /// Budget of cached blocks: data, indexes and filters.
    pub block_cache_bytes: usize,
    /// Threads for flushes and compactions together.
    pub background_jobs: i32,
    /// Open files at most; each costs a descriptor and its reader's memory.
    pub open_files_max: i32,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            memtable_bytes: 64 << 20,
            block_cache_bytes: 32 << 20,
            background_jobs: 2,
            open_files_max: 4_096,
        }
    }
}

/// The data database on disk, see the module.
pub struct Rocks {
    db: Arc<DB>,
    /// Alive as long as the database that charges it.
    memtables: WriteBufferManager,
    cache: Cache,
    columns: [rocksdb::Options; Column::ALL.len()],
    reads: Reads,
    unlogged: WriteOptions,
}

/// Read options, made once: each is an allocation on the other side.
struct Reads {
    newest: ReadOptions,
    cached: ReadOptions,
    persisted: ReadOptions,
}

impl Reads {
    fn new() -> Self {
        let tier = |tier| {
            let mut options = ReadOptions::default();
            options.set_read_tier(tier);
            options
        };
        Self {
            newest: tier(ReadTier::All),
            cached: tier(ReadTier::BlockCache),
            persisted: tier(ReadTier::Persisted),
        }
    }
}

impl Rocks {
    /// Opens the database in `dir`, or makes one.
    ///
    /// # Errors
    /// [`Error::Locked`]: another process has it. [`Error::Corrupt`]: RocksDB does not read its own files.
    pub fn open(dir: &Path, options: &DataOptions) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let memtables = WriteBufferManager::new_write_buffer_manager(options.memtable_bytes, false);
        let columns = Column::ALL.map(|column| column_options(column, &cache, options));
        let descriptors = Column::ALL.map(|column| {
            ColumnFamilyDescriptor::new(name(column), columns[column as usize].clone())
        });
        let database = database_options(options, &memtables);
        let db = DB::open_cf_descriptors(&database, dir, descriptors)
            .map_err(|error| open_error(error, dir))?;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        Ok(Self {
            db: Arc::new(db),
            memtables,
            cache,
            columns,
            reads: Reads::new(),
            unlogged,
        })
    }

    fn read(&self, column: Column, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>> {
        Ok(self
            .db
            .get_pinned_cf_opt(handle(&self.db, column)?, key, options)?
            .map(copy))
    }

    fn sum(&self, property: &properties::PropName) -> u64 {
        let of = |column| {
            handle(&self.db, column)
                .ok()
                .and_then(|cf| self.db.property_int_value_cf(cf, property).ok().flatten())
        };
        Column::ALL.into_iter().filter_map(of).sum()
    }

    fn database_wide(&self, property: &properties::PropName) -> u64 {
        self.db
            .property_int_value(property)
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    fn stall(&self) -> Stall {
        if self.database_wide(properties::IS_WRITE_STOPPED) != 0 {
            return Stall::Stopped;
        }
        match self.database_wide(properties::ACTUAL_DELAYED_WRITE_RATE) {
            0 => Stall::None,
            rate => Stall::Delayed(rate),
        }
    }
}

impl Engine for Rocks {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(column, key, &self.reads.newest)
    }

    fn get_cached(&self, column: Column, key: &[u8]) -> Result<Cached> {
        match self
            .db
            .get_pinned_cf_opt(handle(&self.db, column)?, key, &self.reads.cached)
        {
            Ok(Some(value)) => Ok(Cached::Found(copy(value))),
            Ok(None) => Ok(Cached::Absent),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(Cached::NeedsDisk),
            Err(error) => Err(error.into()),
        }
    }

    fn get_persisted(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(column, key, &self.reads.persisted)
    }

    fn write(&self, batch: Batch) -> Result<()> {
        let handles = handles(&self.db)?;
        let at = |column: Column| handles[column as usize];
        let mut native = WriteBatch::default();
        for op in &batch {
            match op {
                Op::Put { column, key, value } => native.put_cf(at(*column), key, value),
                Op::Delete { column, key } => native.delete_cf(at(*column), key),
                Op::DeleteRange { column, from, to } if from < to => {
                    native.delete_range_cf(at(*column), from, to)
                }
                Op::DeleteRange { .. } => {}
            }
        }
        Ok(self.db.write_opt(native, &self.unlogged)?)
    }

    fn view(&self) -> Box<dyn View> {
        Box::new(RocksView(Held::new(Arc::clone(&self.db), |db| {
            db.snapshot()
        })))
    }

    fn flush(&self) -> Result<()> {
        let handles = handles(&self.db)?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        Ok(self
            .db
            .flush_cfs_opt(&[&handles[0], &handles[1], &handles[2]], &options)?)
    }

    fn ingest(&self, files: &[(Column, PathBuf)]) -> Result<()> {
        let mut options = IngestExternalFileOptions::default();
        // Linked, not copied, where the file system can; the caller removes its names afterwards.
        options.set_move_files(true);
        for column in Column::ALL {
            let paths = files
                .iter()
                .filter(|(of, _)| *of == column)
                .map(|(_, path)| path)
                .collect::<Vec<_>>();
            if !paths.is_empty() {
                self.db
                    .ingest_external_file_cf_opts(handle(&self.db, column)?, &options, paths)?;
            }
        }
        Ok(())
    }

    fn write_sst(
        &self,
        view: &dyn View,
        column: Column,
        from: &StoreId,
        to: &StoreId,
        path: &Path,
    ) -> Result<Option<SstInfo>> {
        let (first, end) = (from.prefix(), from.end());
        let mut pairs = view
            .scan(column, Bound::Included(&first), Bound::Excluded(&end))
            .peekable();
        if pairs.peek().is_none() {
            return Ok(None);
        }
        let mut writer = SstFileWriter::create(&self.columns[column as usize]);
        writer.open(path)?;
        let mut moved = to.prefix().to_vec();
        for pair in pairs {
            let (key, value) = pair?;
            moved.truncate(StoreId::LEN);
            moved.extend_from_slice(&key[StoreId::LEN..]);
            writer.put(&moved, &value)?;
        }
        writer.finish()?;
        let (bytes, checksum) = checksum_file(path)?;
        Ok(Some(SstInfo { bytes, checksum }))
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            memtable_bytes: self.memtables.get_usage() as u64,
            block_cache_bytes: self.cache.get_usage() as u64,
            sst_bytes: self.sum(properties::TOTAL_SST_FILES_SIZE),
            running_compactions: self.database_wide(properties::NUM_RUNNING_COMPACTIONS),
            background_errors: self.database_wide(properties::BACKGROUND_ERRORS),
            stall: self.stall(),
        }
    }
}

self_cell!(
    /// A snapshot and the database that it borrows from, dropped in this order.
    struct Held {
        owner: Arc<DB>,
        #[covariant]
        dependent: Snapshot,
    }
);

struct RocksView(Held);

impl RocksView {
    fn iterator(
        &self,
        column: Column,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<DBRawIterator<'_>> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        // Bounds are inclusive below and exclusive above; the key right after `k` is `k` and a zero byte.
        match from {
            Bound::Included(key) => options.set_iterate_lower_bound(key),
            Bound::Excluded(key) => options.set_iterate_lower_bound(after(key)),
            Bound::Unbounded => {}
        }
        match to {
            Bound::Included(key) => options.set_iterate_upper_bound(after(key)),
            Bound::Excluded(key) => options.set_iterate_upper_bound(key),
            Bound::Unbounded => {}
        }
        let cf = handle(self.0.borrow_owner(), column)?;
        Ok(self.0.borrow_dependent().raw_iterator_cf_opt(cf, options))
    }

    fn pairs(
        &self,
        column: Column,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
    ) -> Pairs<'_> {
        match self.iterator(column, from, to) {
            Err(error) => Box::new(std::iter::once(Err(error))),
            Ok(iterator) => Box::new(Walk {
                iterator,
                reverse,
                step: Step::First,
            }),
        }
    }
}

impl View for RocksView {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        let cf = handle(self.0.borrow_owner(), column)?;
        Ok(self.0.borrow_dependent().get_pinned_cf(cf, key)?.map(copy))
    }

    fn scan(&self, column: Column, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Pairs<'_> {
        self.pairs(column, from, to, false)
    }

    fn scan_rev(&self, column: Column, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Pairs<'_> {
        self.pairs(column, from, to, true)
    }
}

/// An iterator that moves only when it is asked: the pair after the last one wanted is never read.
struct Walk<'a> {
    iterator: DBRawIterator<'a>,
    reverse: bool,
    step: Step,
}

enum Step {
    First,
    Next,
    Ended,
}

impl Iterator for Walk<'_> {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        match (&self.step, self.reverse) {
            (Step::First, false) => self.iterator.seek_to_first(),
            (Step::First, true) => self.iterator.seek_to_last(),
            (Step::Next, false) => self.iterator.next(),
            (Step::Next, true) => self.iterator.prev(),
            (Step::Ended, _) => return None,
        }
        let Some((key, value)) = self.iterator.item() else {
            self.step = Step::Ended;
            return self.iterator.status().err().map(|error| Err(error.into()));
        };
        self.step = Step::Next;
        Some(Ok((
            Bytes::copy_from_slice(key),
            Bytes::copy_from_slice(value),
        )))
    }
}

fn database_options(options: &DataOptions, memtables: &WriteBufferManager) -> rocksdb::Options {
    let mut database = rocksdb::Options::default();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    database.set_atomic_flush(true);
    database.set_write_buffer_manager(memtables);
    database.set_max_background_jobs(options.background_jobs);
    database.set_max_open_files(options.open_files_max);
    // A recycled log breaks writes that use none.
    database.set_recycle_log_file_num(0);
    database.set_bytes_per_sync(1 << 20);
    database.set_keep_log_file_num(INFO_LOGS);
    database.set_max_log_file_size(INFO_LOG_BYTES);
    database
}

fn column_options(column: Column, cache: &Cache, options: &DataOptions) -> rocksdb::Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(BLOCK_BYTES);
    table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
    // Indexes and filters live in the cache, so that its size bounds them too; those of the newest files stay there.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut family = rocksdb::Options::default();
    family.set_block_based_table_factory(&table);
    family.set_prefix_extractor(SliceTransform::create_fixed_prefix(StoreId::LEN));
    family.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_RATIO);
    family.set_memtable_whole_key_filtering(true);
    // The budget over all columns decides when to flush; one column may use all of it.
    family.set_write_buffer_size(options.memtable_bytes);
    family.set_target_file_size_base(FILE_BYTES);
    match column {
        Column::State | Column::Documents => {
            family.set_level_compaction_dynamic_level_bytes(true);
            family.set_compression_per_level(&LEVELS);
        }
        // Nothing of the log of changes is overwritten. Levels would rewrite all of it again and again, since every
        // flush touches the range of every shard; sorted runs merge with their like.
        Column::Changes => {
            family.set_compaction_style(DBCompactionStyle::Universal);
            family.set_level_zero_file_num_compaction_trigger(RUNS_MERGED);
            family.set_compression_type(DBCompressionType::Lz4);
        }
    }
    family
}

/// The name of a column family. RocksDB wants one called `default`; it holds the state, so that no empty fourth one is flushed along.
fn name(column: Column) -> &'static str {
    match column {
        Column::State => "default",
        Column::Documents => "documents",
        Column::Changes => "changes",
    }
}

fn handle(db: &DB, column: Column) -> Result<&ColumnFamily> {
    db.cf_handle(name(column))
        .ok_or_else(|| Error::Engine(format!("column family {} is missing", name(column))))
}

fn handles(db: &DB) -> Result<[&ColumnFamily; Column::ALL.len()]> {
    Ok([
        handle(db, Column::State)?,
        handle(db, Column::Documents)?,
        handle(db, Column::Changes)?,
    ])
}

/// The one copy of a value: out of the block that RocksDB pins, into memory that may outlive it.
fn copy(value: DBPinnableSlice<'_>) -> Bytes {
    Bytes::copy_from_slice(&value)
}

fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
