//! The beginning of a result with the place in each shard's log that it is of: what the changes behind that place go on from.
//!
//! Each shard is asked for one page, which is read in one view. So a shard's part is exactly what the shard was at one index; those of
//! different shards are of different times.

use std::time::Instant;

use bytes::Bytes;
use proto::{ErrorCode, ShardId};

use super::ALL;
use super::reads::Reads;
use crate::Core;
use crate::context::Freshness;
use crate::documents::Session;
use crate::error::{Error, Result};
use crate::forward::{self, Hit};

/// A page of a shard is never asked to be smaller than this: few shards may have most of a result.
const PAGE_BYTES_MIN: usize = 256 * 1024;

/// What is asked for.
pub(crate) struct SnapshotRequest<'a> {
    /// Name of the database.
    pub(crate) database: &'a str,
    /// Name of the bucket.
    pub(crate) bucket: &'a str,
    /// The filter as JSON text; empty: everything.
    pub(crate) filter: &'a Bytes,
    /// The order as JSON text; empty: that of the filter, or that of keys.
    pub(crate) sort: &'a Bytes,
    /// Documents to give at most.
    pub(crate) documents_max: usize,
    /// Documents without which it is of no use, if there are so many.
    pub(crate) documents_min: usize,
}

/// The beginning of a result.
pub(crate) struct Snapshot {
    /// Without a gap, in order.
    pub(crate) hits: Vec<Hit>,
    /// There are no others.
    pub(crate) is_complete: bool,
    /// Of each shard, in the order of their numbers: everything up to here is in it, and nothing else.
    pub(crate) indexes: Vec<u64>,
}

impl Core {
    /// Reads behind everything that was committed before it is called.
    ///
    /// # Errors
    /// Those of queries; `QueryNotSupported` also if `documents_min` take too many bytes.
    pub(crate) async fn snapshot(
        &self,
        session: &Session,
        request: SnapshotRequest<'_>,
        deadline: Instant,
    ) -> Result<Snapshot> {
        let _permit = self.query_permit(deadline).await?;
        let shards = session.state.shards;
        let bytes_max = self.options.limits.query_result_bytes_max;
        let query = forward::Query {
            database: request.database.to_owned(),
            bucket: request.bucket.to_owned(),
            filter: match request.filter.trim_ascii() {
                [] => Bytes::from_static(ALL),
                _ => request.filter.clone(),
            },
            sort: request.sort.clone(),
            documents_max: request.documents_max as u64,
            bytes_max: (bytes_max / shards.max(1) as usize).max(PAGE_BYTES_MIN) as u64,
            tell_index: true,
            ..forward::Query::default()
        };
        let questions: Vec<_> = (1..=shards)
            .map(|shard| (ShardId(shard), query.clone()))
            .collect();
        let freshness = Freshness::default();
        let reads = Reads {
            core: self,
            session,
            freshness: &freshness,
            deadline,
        };
        let pages = Box::pin(reads.pages(&questions)).await?;
        let mut indexes = Vec::with_capacity(pages.len());
        let mut hits = Vec::new();
        // The first place that a shard has said nothing behind of.
        let mut known_to: Option<Bytes> = None;
        for page in pages {
            if page.found.index == 0 {
                let message = "the node of a shard has no real-time queries yet";
                return Err(Error::unavailable(message));
            }
            indexes.push(page.found.index);
            hits.extend(page.found.hits);
            known_to = match (known_to, page.found.rest) {
                (Some(one), Some(two)) => Some(one.min(two)),
                (one, two) => one.or(two),
            };
        }
        hits.sort_unstable_by(|one: &Hit, two| one.place().cmp(two.place()));
        if let Some(known_to) = &known_to {
            hits.retain(|hit| hit.place() <= known_to);
        }
        let mut is_complete = known_to.is_none();
        if hits.len() > request.documents_max {
            hits.truncate(request.documents_max);
            is_complete = false;
        }
        let bytes: usize = hits.iter().map(Hit::bytes).sum();
        if (!is_complete && hits.len() < request.documents_min) || bytes > bytes_max {
            let message = format!(
                "the result has more than {} documents or {bytes_max} bytes: ask for fewer with a limit",
                hits.len()
            );
            return Err(Error::new(ErrorCode::QueryNotSupported, message));
        }
        Ok(Snapshot {
            hits,
            is_complete,
            indexes,
        })
    }
}
