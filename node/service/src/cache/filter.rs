//! The filter of one database: built when it is asked for, from the exact keys.
//!
//! A request is answered with a filter whose building began after the request came, so that it holds every write that its client knows of.
//! Requests that come while one is built wait for the next, which serves all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::state::{ClusterState, Database};
use document::bloom::{Bloom, Hashes};
use metrics::{counter, gauge};
use proto::ShardId;
use serde::Serialize;

use super::SILENCE_MAX;
use crate::Core;
use crate::metrics::{FILTER_BITS, FILTER_KEYS, FILTERS_BUILT};

/// How long the shards are asked for news before a filter is built of what is known.
const BUILD_TIME: Duration = Duration::from_secs(1);

/// A filter, in the form that the contract's clients read (contract 2.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// Number of bits.
    pub m: u64,
    /// Number of hash functions.
    pub h: u32,
    /// The bits, base64.
    pub b: String,
    /// Documents in it; `None`: it is saturated, and everything is to be asked about.
    #[serde(skip)]
    pub keys: Option<usize>,
}

/// The newest filter of a database, and when its building began.
#[derive(Default)]
pub(super) struct Newest(tokio::sync::Mutex<Option<(Duration, Arc<Filter>)>>);

impl Filter {
    /// The one that says "perhaps" to everything.
    pub fn saturated() -> Filter {
        Filter::of(&Bloom::saturated(), None)
    }

    fn of(bloom: &Bloom, keys: Option<usize>) -> Filter {
        Filter {
            m: bloom.bits,
            h: bloom.hashes,
            b: STANDARD.encode(&bloom.bytes),
            keys,
        }
    }
}

impl Core {
    /// The filter of a database, with everything that was stale when this was called; saturated where that cannot be told. `None`: no bucket
    /// of it was ever cached.
    pub(crate) async fn filter(&self, database: &str) -> Option<Arc<Filter>> {
        let arrived = self.clock.elapsed();
        let state = self.metadata.founded().ok()?;
        let database = state.database(database)?;
        if !is_cached(database) {
            return None;
        }
        let newest = Arc::clone(self.stale.filters.lock().entry(database.id).or_default());
        let mut newest = newest.0.lock().await;
        if let Some((began, filter)) = &*newest
            && *began > arrived
        {
            return Some(Arc::clone(filter));
        }
        let began = self.clock.elapsed();
        let deadline = Instant::now() + BUILD_TIME;
        self.follow_stale_keys(&state, deadline).await;
        let filter = Arc::new(self.build_filter(&state, database));
        *newest = Some((began, Arc::clone(&filter)));
        Some(filter)
    }

    fn build_filter(&self, state: &ClusterState, database: &Database) -> Filter {
        let mut ids = Vec::new();
        let is_whole = (1..=state.shards)
            .all(|shard| self.collect_shard(ShardId(shard), database.id, &mut ids));
        let filter = if is_whole {
            ids.sort_unstable();
            ids.dedup();
            Filter::of(&Bloom::of(&ids), Some(ids.len()))
        } else {
            Filter::saturated()
        };
        let kind = if is_whole { "exact" } else { "saturated" };
        counter!(FILTERS_BUILT, "kind" => kind).increment(1);
        gauge!(FILTER_KEYS).set(filter.keys.unwrap_or_default() as f64);
        gauge!(FILTER_BITS).set(filter.m as f64);
        filter
    }

    /// Adds what is stale in a shard. False: nobody can say what that is, or it is too much.
    fn collect_shard(&self, shard: ShardId, database: u32, ids: &mut Vec<Hashes>) -> bool {
        let followed = self.stale.of(shard);
        let table = followed.table.lock();
        let now = self.clock.elapsed();
        let is_proven = table
            .as_of()
            .is_some_and(|as_of| now.saturating_sub(as_of) <= SILENCE_MAX);
        is_proven
            && table.index() >= self.evidence.acknowledged(shard)
            && table.collect(database, ids)
    }
}

/// Whether copies of the database's documents may be in web caches.
pub(crate) fn is_cached(database: &Database) -> bool {
    let all = database.buckets.values();
    let mut all = all.chain(database.dropped_buckets.values());
    all.any(|bucket| bucket.cache.is_some())
}
