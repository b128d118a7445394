//! One memory budget for everything that storage keeps: who gets how much of it.
//!
//! ```text
//! budget ─┬─ 1/6  log tails      the newest entries of all groups' logs (`raft_log/tail.rs`)
//!         ├─ 1/8  kept rows      documents that were written or read for a write (`machine/kept_rows.rs`)
//!         └─ rest block cache    blocks of both databases …
//!                  └─ 2/5 of the budget at most: memtables, charged to the cache: a quarter of them the log's, the others the data's
//! ```
//!
//! Memtables are charged to the cache, so that a burst of writes pushes out cold blocks instead of adding to them, and an idle node's
//! memtables leave their room to blocks. Both databases share one cache. Their memtables are bounded apart: with one bound for both,
//! the log flushed whatever little it had while the data was over it, and those small files were then merged with everything else.
//!
//! Not in it: what RocksDB needs to compact (a few MiB for each background thread), entries that wait for their sync (bounded by the
//! queue of `raft_log/writer.rs`), memtables being flushed, and all that the layers above keep.

use std::sync::Arc;

use rocksdb::{BlockBasedOptions, Cache, WriteBufferManager};

use crate::machine::KeptRows;

/// Blocks are read and cached whole: large enough to compress JSON well, small enough to read one document.
const BLOCK_BYTES: usize = 16 << 10;
/// 1 % false positives.
const FILTER_BITS_PER_KEY: f64 = 10.0;

/// The smallest budget that works: below it the databases do little else than flush.
pub const BUDGET_BYTES_MIN: usize = 24 << 20;

/// What both databases share, and what the data database has beside it. Cheap to clone.
#[derive(Clone)]
pub struct Memory {
    cache: Cache,
    /// Of the data database.
    memtables: WriteBufferManager,
    /// Of the log database: charges the cache and never asks for a flush, the size of the memtables does.
    log_memtables: WriteBufferManager,
    kept_rows: Arc<KeptRows>,
}

impl Memory {
    /// A cache of `cache_bytes`, of which the data's memtables may take `memtable_bytes` before they are flushed; and room for
    /// `kept_rows_bytes` of rows.
    pub fn new(cache_bytes: usize, memtable_bytes: usize, kept_rows_bytes: usize) -> Self {
        let cache = Cache::new_lru_cache(cache_bytes);
        // Never stall writers: a flush is under way then, and half as much again is the most that piles up meanwhile.
        let manager = |bytes| {
            WriteBufferManager::new_write_buffer_manager_with_cache(bytes, false, cache.clone())
        };
        Self {
            memtables: manager(memtable_bytes),
            log_memtables: manager(usize::MAX),
            kept_rows: Arc::new(KeptRows::new(kept_rows_bytes)),
            cache,
        }
    }

    /// Held by blocks, and charged for memtables.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }

    /// Held by memtables of both databases, those being flushed included.
    pub fn memtable_bytes(&self) -> u64 {
        (self.memtables.get_usage() + self.log_memtables.get_usage()) as u64
    }

    /// Of the data database.
    pub(crate) fn memtables(&self) -> &WriteBufferManager {
        &self.memtables
    }

    /// Of the log database.
    pub(crate) fn log_memtables(&self) -> &WriteBufferManager {
        &self.log_memtables
    }

    pub(crate) fn kept_rows(&self) -> &KeptRows {
        &self.kept_rows
    }

    /// The table format of both databases.
    pub(crate) fn tables(&self) -> BlockBasedOptions {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(BLOCK_BYTES);
        table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
        // Indexes and filters live in the cache, so that its size bounds them too; those of the newest files stay there.
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table
    }
}

/// The log tails' share of a budget.
pub(crate) fn tail_bytes(budget: usize) -> usize {
    budget / 6
}

/// The share of rows that replicas keep.
pub(crate) fn kept_rows_bytes(budget: usize) -> usize {
    budget / 8
}

/// The cache's share of a budget, memtables included.
pub(crate) fn cache_bytes(budget: usize) -> usize {
    budget - tail_bytes(budget) - kept_rows_bytes(budget)
}

/// A memtable of the log database: when it is full it is flushed, so that a start has little to read back.
pub(crate) fn log_memtable_bytes(budget: usize) -> usize {
    memtable_bytes(budget) / 4
}

/// What the memtables of the data database may take together.
pub(crate) fn data_memtable_bytes(budget: usize) -> usize {
    memtable_bytes(budget) - log_memtable_bytes(budget)
}

/// What all memtables together may take of a budget.
fn memtable_bytes(budget: usize) -> usize {
    budget / 5 * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_budget() {
        for budget in [BUDGET_BYTES_MIN, 192 << 20, (1 << 30) + 7] {
            let kept_rows = kept_rows_bytes(budget);
            assert_eq!(tail_bytes(budget) + kept_rows + cache_bytes(budget), budget);
            // Whatever is written, blocks keep two fifths of the cache.
            let memtables = log_memtable_bytes(budget) + data_memtable_bytes(budget);
            assert!(memtables < cache_bytes(budget) / 5 * 3);
        }
    }
}
