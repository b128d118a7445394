//! Web caches: which of their copies are old, as a Bloom filter of all shards (`docs/caching.md`).
//!
//! | module | owns |
//! |---|---|
//! | `table` | one shard's stale keys as this node knows them |
//! | `follow` | keeping them up with the shards, from local replicas or other nodes |
//! | `filter` | building the filter, or saying that there is none |
//! | `policy` | cache policies of buckets |
//! | `bound` | how old a cached answer can be at most |
//!
//! Invariants:
//! - a filter holds every key that was stale when its request arrived, of **all** shards, or it is saturated and says "perhaps" to all. A
//!   shard that nobody has proven for [`SILENCE_MAX`] makes it saturated, and so does one that has not come as far here as the writes that
//!   this node has acknowledged;
//! - which keys a shard says are stale, and until when, follows from its log alone; no clock of this node shortens it.

mod bound;
mod filter;
mod follow;
mod policy;
mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use proto::ShardId;

pub use self::bound::Staleness;
pub use self::filter::Filter;
pub(crate) use self::filter::is_cached;
pub use self::policy::BucketCaching;
use self::table::ShardTable;

/// How long a shard may be silent before filters do without it, by being saturated: longer than a failover.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How old the state may be that an answer of a cached bucket is read from.
pub(crate) const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// The stale keys of all shards.
#[derive(Default)]
pub(crate) struct StaleKeys {
    shards: RwLock<HashMap<ShardId, Arc<Followed>>>,
    filters: Mutex<HashMap<u32, Arc<filter::Newest>>>,
}

/// One shard's.
#[derive(Default)]
struct Followed {
    /// Held by the one who asks for news.
    asking: tokio::sync::Mutex<()>,
    table: Mutex<ShardTable>,
}

impl StaleKeys {
    fn of(&self, shard: ShardId) -> Arc<Followed> {
        if let Some(followed) = self.shards.read().get(&shard) {
            return Arc::clone(followed);
        }
        Arc::clone(self.shards.write().entry(shard).or_default())
    }

    /// T from which on some key of the shard is stale no more, microseconds; `None`: none is, or it is not known when.
    pub(crate) fn next_over_us(&self, shard: ShardId) -> Option<u64> {
        self.of(shard).table.lock().next_over_us()
    }
}
