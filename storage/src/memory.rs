//! One memory budget for everything that storage keeps: who gets how much of it.
//!
//! ```text
//! budget ─┬─ 1/6  log tails      the newest entries of all groups' logs (`raft_log/tail.rs`)
//!         └─ 5/6  block cache    blocks of both databases …
//!                  └─ 2/5 of the budget at most: memtables of both databases, charged to the cache
//! ```
//!
//! Memtables are charged to the cache, so that a burst of writes pushes out cold blocks instead of adding to them, and an idle node's
//! memtables leave their room to blocks. Both databases share one cache and one memtable budget: each takes what it needs, and the sum
//! holds.
//!
//! Not in it: what RocksDB needs to compact (a few MiB for each background thread), entries that wait for their sync (bounded by the
//! queue of `raft_log/writer.rs`), and all that the layers above keep.

use rocksdb::{BlockBasedOptions, Cache, WriteBufferManager};

/// Blocks are read and cached whole: large enough to compress JSON well, small enough to read one document.
const BLOCK_BYTES: usize = 16 << 10;
/// 1 % false positives.
const FILTER_BITS_PER_KEY: f64 = 10.0;

/// The smallest budget that works: below it the databases do little else than flush.
pub const BUDGET_BYTES_MIN: usize = 24 << 20;

/// What both databases share. Cheap to clone.
#[derive(Clone)]
pub struct Memory {
    cache: Cache,
    memtables: WriteBufferManager,
}

impl Memory {
    /// A cache of `cache_bytes`, of which memtables may take `memtable_bytes` before they are flushed.
    pub fn new(cache_bytes: usize, memtable_bytes: usize) -> Self {
        let cache = Cache::new_lru_cache(cache_bytes);
        // Never stall writers: a flush is under way then, and half as much again is the most that piles up meanwhile.
        let memtables = WriteBufferManager::new_write_buffer_manager_with_cache(
            memtable_bytes,
            false,
            cache.clone(),
        );
        Self { cache, memtables }
    }

    /// Held by blocks, and charged for memtables.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }

    /// Held by memtables of both databases, those being flushed included.
    pub fn memtable_bytes(&self) -> u64 {
        self.memtables.get_usage() as u64
    }

    pub(crate) fn memtables(&self) -> &WriteBufferManager {
        &self.memtables
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

/// The cache's share of a budget, memtables included.
pub(crate) fn cache_bytes(budget: usize) -> usize {
    budget - tail_bytes(budget)
}

/// What all memtables together may take of a budget.
pub(crate) fn memtable_bytes(budget: usize) -> usize {
    budget / 5 * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_budget() {
        for budget in [BUDGET_BYTES_MIN, 192 << 20, (1 << 30) + 7] {
            assert_eq!(tail_bytes(budget) + cache_bytes(budget), budget);
            assert!(memtable_bytes(budget) < cache_bytes(budget) / 2 + 1);
        }
    }
}
