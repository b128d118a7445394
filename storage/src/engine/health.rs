//! What a RocksDB says of itself: sizes, backlog, stalls, failures. Read from properties, so cheap enough for each scrape.

use rocksdb::{DB, properties};

use super::{EngineStats, Stall};

/// The numbers of `db`, summed over the columns of these names. The block cache is not part of it: both databases share one.
pub(crate) fn stats(db: &DB, columns: &[&str]) -> EngineStats {
    let sum = |property: &properties::PropName| -> u64 {
        let of = |name: &&str| {
            db.cf_handle(name)
                .and_then(|cf| db.property_int_value_cf(cf, property).ok().flatten())
        };
        columns.iter().filter_map(of).sum()
    };
    let whole = |property: &properties::PropName| {
        db.property_int_value(property)
            .ok()
            .flatten()
            .unwrap_or_default()
    };
    let level0 = properties::num_files_at_level(0);
    let files = |name: &&str| -> Option<u64> {
        let cf = db.cf_handle(name)?;
        db.property_value_cf(cf, &level0).ok()??.parse().ok()
    };
    let stall = match (
        whole(properties::IS_WRITE_STOPPED),
        whole(properties::ACTUAL_DELAYED_WRITE_RATE),
    ) {
        (0, 0) => Stall::None,
        (0, rate) => Stall::Delayed(rate),
        (_, _) => Stall::Stopped,
    };
    EngineStats {
        memtable_bytes: sum(properties::SIZE_ALL_MEM_TABLES),
        block_cache_bytes: 0,
        sst_bytes: sum(properties::TOTAL_SST_FILES_SIZE),
        level0_files: columns.iter().filter_map(files).sum(),
        pending_compaction_bytes: sum(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
        running_flushes: whole(properties::NUM_RUNNING_FLUSHES),
        running_compactions: whole(properties::NUM_RUNNING_COMPACTIONS),
        background_errors: whole(properties::BACKGROUND_ERRORS),
        stall,
    }
}
