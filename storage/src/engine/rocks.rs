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
    ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBCompactionStyle, DBCompressionType,
    DBPinnableSlice, DBRawIterator, ErrorKind, FlushOptions, IngestExternalFileOptions,
    ReadOptions, ReadTier, SliceTransform, Snapshot, SstFileWriter, WriteBatch, WriteOptions,
};
use self_cell::self_cell;

use super::{
    Batch, Cached, Column, Direction, Each, Engine, EngineStats, Op, Pair, Pairs, Scrubbed,
    SstInfo, View, Visitor, health,
};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::machine::KeptRows;
use crate::memory::{self, Memory};
use crate::open::{checksum_file, open_error};

/// Files of the upper levels aim at this size; larger ones make compactions of one shard rewrite others.
const FILE_BYTES: u64 = 32 << 20;
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
/// Share of memory where nobody says otherwise.
const BUDGET_BYTES: usize = 192 << 20;
/// More threads than this compact faster than a disk takes it.
const JOBS_MAX: i32 = 8;
/// Of walks over everything: fewer and larger reads.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// Of an operation in a write batch, beside key and value: kind, column and two lengths.
const OP_OVERHEAD: usize = 12;

/// Settings of the data database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOptions {
    /// Budget of the memtables of all columns together. Past it they are flushed; during that flush new ones may take half as much
    /// again.
    pub memtable_bytes: usize,
    /// Budget of cached blocks (data, indexes and filters) of both databases, memtables included.
    pub block_cache_bytes: usize,
    /// Budget of rows that replicas keep ready.
    pub kept_rows_bytes: usize,
    /// Threads for flushes and compactions together, of both databases.
    pub background_jobs: i32,
    /// Open files at most; each costs a descriptor and its reader's memory.
    pub open_files_max: i32,
    /// Whether blocks are compressed. Sealed values do not get shorter, and are compressed before they are sealed.
    pub compress: bool,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            memtable_bytes: memory::data_memtable_bytes(BUDGET_BYTES),
            block_cache_bytes: memory::cache_bytes(BUDGET_BYTES),
            kept_rows_bytes: memory::kept_rows_bytes(BUDGET_BYTES),
            background_jobs: background_jobs(),
            open_files_max: 4_096,
            compress: true,
        }
    }
}

/// Two, since a flush must not wait behind a compaction; on larger machines a quarter of the cores, as the rest serves requests.
fn background_jobs() -> i32 {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    i32::try_from(cores / 4)
        .unwrap_or(JOBS_MAX)
        .clamp(2, JOBS_MAX)
}

/// The data database on disk, see the module.
pub struct Rocks {
    db: Arc<DB>,
    memory: Memory,
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
        let memory = Memory::new(
            options.block_cache_bytes,
            options.memtable_bytes,
            options.kept_rows_bytes,
        );
        Self::open_in(dir, options, &memory)
    }

    /// As [`Self::open`], in memory that is shared with another database.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in(dir: &Path, options: &DataOptions, memory: &Memory) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let columns = Column::ALL.map(|column| column_options(column, options, memory));
        let descriptors = Column::ALL.map(|column| {
            ColumnFamilyDescriptor::new(name(column), columns[column as usize].clone())
        });
        let database = database_options(options, memory);
        let db = DB::open_cf_descriptors(&database, dir, descriptors)
            .map_err(|error| open_error(error, dir))?;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        Ok(Self {
            db: Arc::new(db),
            memory: memory.clone(),
            columns,
            reads: Reads::new(),
            unlogged,
        })
    }

    /// Opens what is flushed of the database in `dir` without changing it: writes fail, and nothing is compacted.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: RocksDB does not read its own files.
    pub(crate) fn open_read_only(
        dir: &Path,
        options: &DataOptions,
        memory: &Memory,
    ) -> Result<Self> {
        let columns = Column::ALL.map(|column| column_options(column, options, memory));
        let descriptors = Column::ALL.map(|column| {
            ColumnFamilyDescriptor::new(name(column), columns[column as usize].clone())
        });
        let database = database_options(options, memory);
        let db = DB::open_cf_descriptors_read_only(&database, dir, descriptors, false)
            .map_err(|error| open_error(error, dir))?;
        Ok(Self {
            db: Arc::new(db),
            memory: memory.clone(),
            columns,
            reads: Reads::new(),
            unlogged: WriteOptions::default(),
        })
    }

    /// Ends flushes and compactions that are under way, and begins none any more: for the end of the process.
    pub(crate) fn cancel(&self) {
        self.db.cancel_all_background_work(true);
    }

    fn read(&self, column: Column, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>> {
        Ok(self
            .db
            .get_pinned_cf_opt(handle(&self.db, column)?, key, options)?
            .map(copy))
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
        let mut native = WriteBatch::with_capacity_bytes(batch.bytes() + batch.len() * OP_OVERHEAD);
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
        pairs: Pairs<'_>,
        column: Column,
        to: StoreId,
        path: &Path,
    ) -> Result<Option<SstInfo>> {
        let mut pairs = pairs.peekable();
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

    fn kept_rows(&self) -> Option<&KeptRows> {
        Some(self.memory.kept_rows())
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            block_cache_bytes: self.memory.cache_bytes(),
            ..health::stats(&self.db, &Column::ALL.map(name))
        }
    }

    fn compact(&self) -> Result<()> {
        let mut options = CompactOptions::default();
        // What compacts by itself goes on meanwhile.
        options.set_exclusive_manual_compaction(false);
        for cf in handles(&self.db)? {
            self.db
                .compact_range_cf_opt(cf, None::<&[u8]>, None::<&[u8]>, &options);
        }
        Ok(())
    }

    fn scrub_each(
        &self,
        column: Column,
        from: &[u8],
        to: &[u8],
        bytes_max: usize,
        each: &mut Each<'_>,
    ) -> Result<Scrubbed> {
        let mut options = unbuffered();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        let mut iterator = self
            .db
            .raw_iterator_cf_opt(handle(&self.db, column)?, options);
        iterator.seek_to_first();
        let mut scrubbed = Scrubbed::default();
        while let Some((key, value)) = iterator.item() {
            if scrubbed.bytes >= bytes_max {
                scrubbed.next = Some(Bytes::copy_from_slice(key));
                return Ok(scrubbed);
            }
            scrubbed.bytes += key.len() + value.len();
            each(key, value)?;
            iterator.next();
        }
        iterator.status()?;
        Ok(scrubbed)
    }
}

/// Reads of everything once: they check every block that they pass and keep none.
pub(crate) fn unbuffered() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_total_order_seek(true);
    options.set_verify_checksums(true);
    options.fill_cache(false);
    options.set_readahead_size(READ_AHEAD_BYTES);
    options
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

    fn visit(
        &self,
        column: Column,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        each: &mut Visitor<'_>,
    ) -> Result<()> {
        let mut iterator = self.iterator(column, from, to)?;
        match direction {
            Direction::Forward => iterator.seek_to_first(),
            Direction::Backward => iterator.seek_to_last(),
        }
        while let Some((key, value)) = iterator.item() {
            if each(key, value)?.is_break() {
                return Ok(());
            }
            match direction {
                Direction::Forward => iterator.next(),
                Direction::Backward => iterator.prev(),
            }
        }
        Ok(iterator.status()?)
    }

    fn file_bytes(&self, column: Column, from: &[u8], to: &[u8]) -> Result<u64> {
        if from >= to {
            return Ok(0);
        }
        let db = self.0.borrow_owner();
        let ranges = [rocksdb::Range::new(from, to)];
        let sizes = db.get_approximate_sizes_cf(&handle(db, column)?, &ranges);
        Ok(sizes.iter().sum())
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

fn database_options(options: &DataOptions, memory: &Memory) -> rocksdb::Options {
    let mut database = rocksdb::Options::default();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    database.set_atomic_flush(true);
    database.set_write_buffer_manager(memory.memtables());
    database.set_max_background_jobs(options.background_jobs);
    database.set_max_open_files(options.open_files_max);
    // A recycled log breaks writes that use none.
    database.set_recycle_log_file_num(0);
    database.set_bytes_per_sync(1 << 20);
    database.set_keep_log_file_num(INFO_LOGS);
    database.set_max_log_file_size(INFO_LOG_BYTES);
    database
}

pub(crate) fn column_options(
    column: Column,
    options: &DataOptions,
    memory: &Memory,
) -> rocksdb::Options {
    let mut family = rocksdb::Options::default();
    family.set_block_based_table_factory(&memory.tables());
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
    if !options.compress {
        family.set_compression_per_level(&[DBCompressionType::None; LEVELS.len()]);
        family.set_compression_type(DBCompressionType::None);
    }
    family
}

/// The name of a column family. RocksDB wants one called `default`; it holds the state, so that no empty fourth one is flushed along.
pub(crate) fn name(column: Column) -> &'static str {
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
