//! Counters and histograms of the service, with their handles kept: looking one up by name for every request costs more than counting.

use std::sync::OnceLock;
use std::time::Instant;

use metrics::{Counter, Histogram, counter, histogram};
use proto::ErrorCode;

use crate::error::Result;

/// Requests by operation and outcome (`ok` or the error code).
pub const REQUESTS: &str = "larder_requests_total";
/// Seconds that requests took, by operation.
pub const REQUEST_SECONDS: &str = "larder_request_seconds";
/// Requests sent on to another node.
pub const FORWARDS: &str = "larder_forwards_total";
/// Reservations of values of unique indexes that were met without a document that holds the value.
pub const UNIQUE_FENCES: &str = "larder_unique_fences_total";
/// Attempts after the first one.
pub const RETRIES: &str = "larder_retries_total";
/// Pages of work on indexes that shards were asked for.
pub const INDEX_PAGES: &str = "larder_index_pages_total";
/// Pages of documents of dropped buckets that shards were asked to delete.
pub const CLEARING_PAGES: &str = "larder_clearing_pages_total";
/// Indexes that were built, by outcome (`ready` or `failed`).
pub const INDEXES_BUILT: &str = "larder_indexes_built_total";
/// Parts of queries that this node's shards answered, by plan (`scan`, `keys`, `index` or `union`).
pub const QUERY_PLANS: &str = "larder_query_plans_total";
/// Documents and entries of indexes that they looked at, by plan.
pub const QUERY_EXAMINED: &str = "larder_query_examined_total";
/// Seconds that the slowest shard took for a page of a query asked here.
pub const QUERY_SLOWEST_SHARD: &str = "larder_query_slowest_shard_seconds";

/// Seconds since this node's copy of the rights was confirmed, after the last question.
pub const RIGHTS_AGE: &str = "larder_rights_age_seconds";
/// Users whose ended sessions this node remembers.
pub const RIGHTS_ENDED: &str = "larder_rights_ended_sessions";
/// Roles with members that this node knows.
pub const RIGHTS_ROLES: &str = "larder_rights_roles";
/// Feeds that are open at this node.
pub const FEEDS_OPEN: &str = "larder_feeds_open";
/// Events that its feeds told.
pub const FEED_EVENTS: &str = "larder_feed_events_total";
/// Real-time queries that are open at this node.
pub const LIVE_OPEN: &str = "larder_live_queries_open";
/// Changes of buckets with real-time queries that this node looked at for them.
pub const LIVE_EVENTS: &str = "larder_live_events_total";
/// Results of real-time queries that were asked for anew, as what was held or waited did not suffice.
pub const LIVE_RENEWALS: &str = "larder_live_renewals_total";
/// Bytes of change events in a shard that this node leads.
pub const CHANGES_BYTES: &str = "larder_changes_bytes";
/// Seconds since the oldest change event of such a shard, in the shard's time.
pub const CHANGES_AGE: &str = "larder_changes_age_seconds";

/// Seconds since the oldest event that a consumer has not acknowledged, by database and consumer; at the leader of the metadata, 0 elsewhere.
pub const CONSUMER_LAG: &str = "larder_consumer_lag_seconds";
/// Batches that were sent to targets of consumers, by outcome (`delivered` or `failed`).
pub const CONSUMER_BATCHES: &str = "larder_consumer_batches_total";
/// Keys of all shards that web caches may hold old copies of, as this node knows them.
pub const STALE_KEYS: &str = "larder_stale_keys";
/// Seconds since the shard that is silent longest was confirmed for them.
pub const STALE_KEYS_AGE: &str = "larder_stale_keys_age_seconds";
/// Filters that were built, by kind (`exact` or `saturated`).
pub const FILTERS_BUILT: &str = "larder_filters_built_total";
/// Documents in the filter that was built last.
pub const FILTER_KEYS: &str = "larder_filter_keys";
/// Its bits.
pub const FILTER_BITS: &str = "larder_filter_bits";
/// The bound on how old a page can be, by database and term (`refresh`, `transit`, `filter`, `answer`, `flight`, `total`).
pub const STALENESS_SECONDS: &str = "larder_staleness_bound_seconds";

/// What is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    Put,
    Update,
    Delete,
    Batch,
    Scan,
    Query,
    Count,
    Feed,
    History,
    Subscribe,
    Import,
    Truncate,
    ReadSchema,
    ChangeSchema,
    Connect,
    Login,
    Me,
    Logout,
    Register,
    Account,
    Consumer,
}

impl Operation {
    const ALL: [Operation; 22] = [
        Operation::Get,
        Operation::Put,
        Operation::Update,
        Operation::Delete,
        Operation::Batch,
        Operation::Scan,
        Operation::Query,
        Operation::Count,
        Operation::Feed,
        Operation::History,
        Operation::Subscribe,
        Operation::Import,
        Operation::Truncate,
        Operation::ReadSchema,
        Operation::ChangeSchema,
        Operation::Connect,
        Operation::Login,
        Operation::Me,
        Operation::Logout,
        Operation::Register,
        Operation::Account,
        Operation::Consumer,
    ];

    fn name(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Put => "put",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Batch => "batch",
            Operation::Scan => "scan",
            Operation::Query => "query",
            Operation::Count => "count",
            Operation::Feed => "feed",
            Operation::History => "history",
            Operation::Subscribe => "subscribe",
            Operation::Import => "import",
            Operation::Truncate => "truncate",
            Operation::ReadSchema => "schema",
            Operation::ChangeSchema => "schema_change",
            Operation::Connect => "connect",
            Operation::Login => "login",
            Operation::Me => "me",
            Operation::Logout => "logout",
            Operation::Register => "register",
            Operation::Account => "account",
            Operation::Consumer => "consumer",
        }
    }
}

/// The handles of one operation, made when first used.
#[derive(Default)]
struct Handles {
    seconds: OnceLock<Histogram>,
    ok: OnceLock<Counter>,
    errors: [OnceLock<Counter>; ErrorCode::ALL.len()],
}

/// All request metrics.
#[derive(Default)]
pub(crate) struct Metrics {
    operations: [Handles; Operation::ALL.len()],
    unique_fences: OnceLock<Counter>,
}

impl Metrics {
    /// See [`UNIQUE_FENCES`].
    pub(crate) fn unique_fences(&self) -> &Counter {
        self.unique_fences.get_or_init(|| counter!(UNIQUE_FENCES))
    }

    /// Runs a request and counts it.
    pub(crate) async fn observe<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        let result = request.await;
        let handles = &self.operations[operation as usize];
        let name = operation.name();
        handles
            .seconds
            .get_or_init(|| histogram!(REQUEST_SECONDS, "operation" => name))
            .record(start.elapsed());
        match &result {
            Ok(_) => handles
                .ok
                .get_or_init(|| counter!(REQUESTS, "operation" => name, "outcome" => "ok"))
                .increment(1),
            Err(error) => {
                let outcome = error.code.as_str();
                let counted = &handles.errors[error.code as usize];
                counted
                    .get_or_init(|| counter!(REQUESTS, "operation" => name, "outcome" => outcome))
                    .increment(1);
            }
        }
        result
    }
}
