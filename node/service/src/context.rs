//! What an edge hands down with every call, and the plain types of requests and answers.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::ShardId;
use serde_json::Value;

use crate::position::Position;

/// Who sends a request, as the edge read it off the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// No credentials were sent.
    Anonymous,
    /// A token (the text behind `BAT `), not verified yet.
    Token(String),
    /// The JWT of another issuer (the text behind `Bearer `), not verified yet.
    Bearer(String),
}

/// Everything about a request that is not its content.
#[derive(Clone, Debug)]
pub struct Context {
    /// Names the request in logs and error bodies.
    pub request_id: String,
    /// The first path segment; empty: the default database.
    pub database: String,
    /// Who asks.
    pub caller: Caller,
    /// Where the request comes from; `None` where nobody knows, as for what the service asks itself.
    pub address: Option<IpAddr>,
    /// When the asked node gives up.
    pub deadline: Instant,
    /// Makes a repeated write take effect once.
    pub idempotency_key: Option<String>,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// Lacks nothing that was acknowledged longer ago than this.
    Bounded(Duration),
    /// The applied state of the asked node's replica, however old; another one's if the node has none.
    Local,
}

/// How fresh a read must be, and what it must have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// The level.
    pub consistency: Consistency,
    /// Positions of earlier answers: the read sees at least what they showed. Those of other shards than the read one say nothing.
    pub at_least: Vec<Position>,
}

impl Freshness {
    /// The index that must be applied in a shard.
    pub(crate) fn index_in(&self, shard: ShardId) -> u64 {
        let here = self
            .at_least
            .iter()
            .filter(|position| position.shard == shard);
        here.map(|position| position.index).max().unwrap_or(0)
    }
}

impl From<Consistency> for Freshness {
    fn from(consistency: Consistency) -> Freshness {
        Freshness {
            consistency,
            at_least: Vec::new(),
        }
    }
}

/// What an answer can say of its own freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// How far the shard was that answered.
    pub position: Position,
    /// The level that the answer has: the wanted one, or linearizable.
    pub consistency: Consistency,
    /// How old the state may be at most; `None`: not known.
    pub age: Option<Duration>,
}

/// What must hold of the stored document for a write to take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// No document is stored.
    Absent,
    /// Some document is stored.
    Exists,
    /// The stored version is this.
    Version(u64),
}

/// A stored document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Bucket name.
    pub bucket: String,
    /// Decoded key.
    pub key: String,
    /// Version; 0 in the answer to a delete within a batch.
    pub version: u64,
    /// The complete JSON object as it is served; empty in the answer to a delete within a batch.
    pub body: Bytes,
    /// Where and how it was read or written; `None` in pages, which say it for all of theirs.
    pub served: Option<Served>,
    /// What web caches may do with it; `None`: nothing, since its bucket is not cached, or it was not read by itself.
    pub keep: Option<Keep>,
}

/// What web caches may do with a document that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Whether everybody may read it.
    pub is_public: bool,
    /// How long they may keep it, counted from the beginning of the read less the age of its state. Zero: not at all.
    pub ttl: Duration,
    /// The longest that shared caches may keep it.
    pub edge_max: Duration,
}

/// The answer to a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The document as stored.
    pub document: Document,
    /// Whether it did not exist before.
    pub created: bool,
}

/// The answer to a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Whether there was something to delete.
    pub existed: bool,
    /// Where it was deleted.
    pub served: Option<Served>,
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchWrite {
    /// Bucket name.
    pub bucket: String,
    /// Decoded key. Empty with a put: the id of the body, or a new one.
    pub key: String,
    /// What must hold of this document.
    pub condition: Condition,
    /// What to do.
    pub operation: BatchOperation,
}

/// What a write of a batch does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchOperation {
    /// Stores this JSON object.
    Put(Bytes),
    /// Changes parts of the document: these operations, a JSON object.
    Update(Bytes),
    /// Deletes the document.
    Delete,
}

/// Which part of a bucket a page covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanRange {
    /// The most documents to return; 0: as many as fit a page.
    pub limit: u64,
    /// Where an earlier page ended; opaque.
    pub continuation: Option<Bytes>,
    /// Start at this key (inclusive) and read only its shard. Ignored with a continuation, which knows it.
    pub start_key: Option<String>,
    /// How fresh each page must be.
    pub freshness: Freshness,
}

/// One bounded page. May be empty although more follows: documents that the caller may not read are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Shard by shard, in key order within a shard.
    pub documents: Vec<Document>,
    /// Where to go on; `None` after the last page.
    pub continuation: Option<Bytes>,
    /// How each shard of this page was read, in their order.
    pub served: Vec<Served>,
}

/// What a page of a truncation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// Documents that it deleted.
    pub deleted: u64,
    /// Where to go on; `None` after the last page.
    pub continuation: Option<Bytes>,
}

/// The answer to `connect`.
#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    /// Array of class descriptors.
    pub schema: Value,
    /// The caller's renewed token, if it came with a valid one.
    pub token: Option<String>,
    /// The caller's user object as JSON, present exactly if `token` is.
    pub user: Option<Bytes>,
}

/// A log-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The token to send from now on.
    pub token: String,
    /// The user object as JSON.
    pub user: Bytes,
}
