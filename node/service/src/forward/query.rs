//! A query of one shard, and what it found.

use bytes::Bytes;
use prost::Message;

use super::{Explanation, Seen};

/// See [`super::Operation::Query`].
#[derive(Clone, PartialEq, Message)]
pub struct Query {
    /// Name of the database.
    #[prost(string, tag = "1")]
    pub database: String,
    /// Name of the bucket.
    #[prost(string, tag = "2")]
    pub bucket: String,
    /// The filter as JSON text.
    #[prost(bytes = "bytes", tag = "3")]
    pub filter: Bytes,
    /// The order as JSON text; empty: in the order of keys, unless the filter has an order of its own.
    #[prost(bytes = "bytes", tag = "4")]
    pub sort: Bytes,
    /// Only how many there are.
    #[prost(bool, tag = "5")]
    pub count_only: bool,
    /// Only what comes after this place: a [`Hit::place`], or [`Found::rest`].
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub after: Option<Bytes>,
    /// The most documents to return.
    #[prost(uint64, tag = "7")]
    pub documents_max: u64,
    /// Stop at the document that reaches this many bytes; at least one is returned.
    #[prost(uint64, tag = "8")]
    pub bytes_max: u64,
    /// Documents and entries that earlier pages of the same request have looked at in this shard.
    #[prost(uint64, tag = "9")]
    pub examined: u64,
    /// Look at any number of documents, if the caller is an admin.
    #[prost(bool, tag = "10")]
    pub allow_scan: bool,
    /// Say how it was found, and leave the documents out.
    #[prost(bool, tag = "11")]
    pub explain: bool,
}

/// What one shard found.
#[derive(Clone, PartialEq, Message)]
pub struct Found {
    /// Readable documents that match, in order.
    #[prost(message, repeated, tag = "1")]
    pub hits: Vec<Hit>,
    /// How many match, of those that were looked at; only where that was asked.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// Documents and entries of indexes that were looked at.
    #[prost(uint64, tag = "3")]
    pub examined: u64,
    /// Where to go on; absent: the shard has no more.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub rest: Option<Bytes>,
    /// How it was read.
    #[prost(message, optional, tag = "5")]
    pub seen: Option<Seen>,
    /// How it was found, where that was asked.
    #[prost(message, optional, tag = "6")]
    pub explanation: Option<Explanation>,
}

/// One document of a result.
#[derive(Clone, PartialEq, Message)]
pub struct Hit {
    /// Decoded key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Stored version.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// The complete JSON object.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
    /// Where it stands in the order, as bytes that compare like it; empty: results come in the order of keys.
    #[prost(bytes = "bytes", tag = "4")]
    pub sort: Bytes,
}

impl Hit {
    /// Where it stands among the results of all shards: no two documents of a bucket have the same place.
    pub fn place(&self) -> &[u8] {
        if self.sort.is_empty() {
            self.key.as_bytes()
        } else {
            &self.sort
        }
    }

    /// What it costs to hold.
    pub(crate) fn bytes(&self) -> usize {
        self.key.len() + self.body.len() + self.sort.len()
    }
}
