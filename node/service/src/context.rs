//! What an edge hands down with every call, and the plain types of requests and answers.

use std::time::Instant;

use bytes::Bytes;
use serde_json::Value;

/// Who sends a request, as the edge read it off the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// No credentials were sent.
    Anonymous,
    /// A token (the text behind `BAT `), not verified yet.
    Token(String),
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
    /// The applied state of the asked node's replica, however old; linearizable if the node has none.
    Local,
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
}

/// The answer to a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The document as stored.
    pub document: Document,
    /// Whether it did not exist before.
    pub created: bool,
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
}

/// One bounded page. May be empty although more follows: documents that the caller may not read are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Shard by shard, in key order within a shard.
    pub documents: Vec<Document>,
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
