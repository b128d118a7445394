//! Every limit of the service, named, with its reason. [`Limits`] is what an operator may change; the constants are not for tuning.

use std::time::Duration;

/// What `Retry-After` says when nothing better is known: about one election.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Most writes of one batch: one entry must stay far below the log's batch bytes.
pub const BATCH_WRITES_MAX: usize = 1_000;

/// Most rules of one object's ACL, for reading and writing together: the document is entered under each reader, and each request judges them.
/// Who shares with more makes a role of them.
pub const ACL_RULES_MAX: usize = 500;

/// Settings with a default and a reason each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A document's JSON as sent. 1 MiB: a command must fit one append with room to spare.
    pub body_bytes_max: usize,
    /// All bodies of one batch together.
    pub batch_bytes_max: usize,
    /// A decoded key in UTF-8. 1 KiB: keys are copied into every index, event and record.
    pub key_bytes_max: usize,
    /// An `Idempotency-Key`.
    pub idempotency_key_bytes_max: usize,
    /// Nested objects and arrays of a body.
    pub depth_max: usize,
    /// Bytes of documents in one page of a scan. 512 KiB: a page is held in memory at three places.
    pub scan_page_bytes: usize,
    /// Documents in one page of a scan.
    pub scan_page_documents: usize,
    /// Documents that one page looks at, readable or not: bounds the time that a page takes.
    pub scan_page_visits: usize,
    /// Documents that a query may look at in one shard, before it is refused: what looks at more wants an index.
    pub query_rows_max: usize,
    /// Documents in one result, and what "all of them" means. 10,000: with documents of a kilobyte near the limit of bytes.
    pub query_results_max: usize,
    /// Bytes of documents in one result. 16 MiB: a result has one entity tag, so all of it is in memory before it is sent.
    pub query_result_bytes_max: usize,
    /// Queries at work at the same time, further ones wait: each holds pages of all shards and a result.
    pub queries_at_once_max: usize,
    /// Walks of queries through a shard at the same time, further ones wait: each wants a core.
    pub query_walks_max: usize,
    /// Reads that wait for a disk at the same time.
    pub disk_reads_max: usize,
    /// Password hashes at the same time: each takes 19 MiB and tens of milliseconds of a core.
    pub password_hashes_max: usize,
    /// Log-ins that wait for a password hash; more are refused.
    pub password_waiting_max: usize,
    /// After this a token's user and roles are looked up again.
    pub token_short_life: Duration,
    /// After this a session ends.
    pub token_long_life: Duration,
    /// After this another key signs tokens.
    pub signing_key_age_max: Duration,
    /// How long idempotency records are kept.
    pub idempotency_kept: Duration,
    /// How long change events are kept, in the shards' time.
    pub changes_kept: Duration,
    /// Bytes of change events that a shard keeps; past it the oldest leave before their time.
    pub changes_bytes_max: u64,
    /// Feeds that are open at a node at the same time; more are refused.
    pub feeds_max: usize,
    /// Bytes of pages that one feed may hold; what its reader has not read is read from the disk later.
    pub feed_bytes_max: usize,
    /// Reads of change logs for feeds at the same time, further ones wait in turn: each wants a core.
    pub feed_reads_max: usize,
    /// After so long without success the target of a consumer counts as sick.
    pub webhook_sick_after: Duration,
    /// Between two tries at a sick target.
    pub webhook_probe: Duration,
    /// Real-time queries that are open at a node at the same time; more are refused.
    pub live_max: usize,
    /// Of them, those of one bucket that no value or range of a field leads to: each is asked for every change of the bucket.
    pub live_unanchored_max: usize,
    /// Offset and limit of one of them together: so many documents, and some more, are held with their bodies.
    pub live_window_max: usize,
    /// Changes that wait for the reader of one of them; past it they are forgotten, and the result is asked for anew.
    pub live_changes_max: usize,
    /// How long ago the metadata must have been confirmed for rights to be judged by it. 3 s: above a failover.
    pub metadata_age_max: Duration,
    /// Rows of one database's rights that a node holds: members of roles, roles, users whose sessions ended. A million take some 250 MB. Past
    /// it no token of the database is judged.
    pub rights_rows_max: usize,
    /// How long records of audit logs are kept.
    pub audit_kept: Duration,
    /// Bytes of the audit log of one shard; past it the oldest records leave earlier.
    pub audit_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes_max: 1024 * 1024,
            batch_bytes_max: 4 * 1024 * 1024,
            key_bytes_max: 1024,
            idempotency_key_bytes_max: 256,
            depth_max: 100,
            scan_page_bytes: 512 * 1024,
            scan_page_documents: 1_000,
            scan_page_visits: 10_000,
            query_rows_max: 100_000,
            query_results_max: 10_000,
            query_result_bytes_max: 16 * 1024 * 1024,
            queries_at_once_max: 32,
            query_walks_max: 16,
            disk_reads_max: 32,
            password_hashes_max: 2,
            password_waiting_max: 64,
            token_short_life: Duration::from_secs(60 * 60),
            token_long_life: Duration::from_secs(30 * 24 * 60 * 60),
            signing_key_age_max: Duration::from_secs(30 * 24 * 60 * 60),
            idempotency_kept: Duration::from_secs(24 * 60 * 60),
            changes_kept: Duration::from_secs(24 * 60 * 60),
            changes_bytes_max: 512 * 1024 * 1024,
            feeds_max: 1_000,
            feed_bytes_max: 1024 * 1024,
            feed_reads_max: 8,
            webhook_sick_after: Duration::from_secs(10 * 60),
            webhook_probe: Duration::from_secs(5 * 60),
            live_max: 20_000,
            live_unanchored_max: 1_000,
            live_window_max: 500,
            live_changes_max: 1_000,
            metadata_age_max: Duration::from_secs(3),
            rights_rows_max: 1_000_000,
            audit_kept: Duration::from_secs(90 * 24 * 60 * 60),
            audit_bytes_max: 64 * 1024 * 1024,
        }
    }
}
