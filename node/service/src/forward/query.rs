//! A query of one shard, and what it found.

use bytes::Bytes;
use prost::Message;
use proto::ShardId;

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
    /// How many documents are wanted if the rest can be had cheaply, since an index gives their order; 0: all of `documents_max`.
    #[prost(uint64, tag = "12")]
    pub share: u64,
    /// Say of which index the page is.
    #[prost(bool, tag = "55")]
    pub tell_index: bool,
}

/// See [`super::Operation::Queries`].
#[derive(Clone, PartialEq, Message)]
pub struct Queries {
    /// What all shards are asked. Of places, numbers and sizes the parts speak.
    #[prost(message, optional, tag = "1")]
    pub query: Option<Query>,
    /// At least one.
    #[prost(message, repeated, tag = "2")]
    pub parts: Vec<QueryPart>,
}

/// What one shard is asked beside the rest. Its members are those of [`Query`].
#[derive(Clone, PartialEq, Message)]
pub struct QueryPart {
    /// The shard.
    #[prost(uint32, tag = "1")]
    pub shard: u32,
    /// See [`Query::after`].
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub after: Option<Bytes>,
    /// See [`Query::documents_max`].
    #[prost(uint64, tag = "3")]
    pub documents_max: u64,
    /// See [`Query::bytes_max`].
    #[prost(uint64, tag = "4")]
    pub bytes_max: u64,
    /// See [`Query::examined`].
    #[prost(uint64, tag = "5")]
    pub examined: u64,
    /// See [`Query::share`].
    #[prost(uint64, tag = "6")]
    pub share: u64,
    /// See [`super::Near::at_least`]; only of a query that need not ask the leaders.
    #[prost(uint64, tag = "7")]
    pub at_least: u64,
}

impl Queries {
    /// One query of several shards; the questions differ in nothing but what a [`QueryPart`] says. `None` without any. `at_least` says how far
    /// the replica of each must be.
    pub(crate) fn of(
        questions: &[(ShardId, Query)],
        at_least: impl Fn(ShardId) -> u64,
    ) -> Option<Queries> {
        let part = |(shard, query): &(ShardId, Query)| QueryPart {
            shard: shard.0,
            after: query.after.clone(),
            documents_max: query.documents_max,
            bytes_max: query.bytes_max,
            examined: query.examined,
            share: query.share,
            at_least: at_least(*shard),
        };
        Some(Queries {
            query: Some(questions.first()?.1.clone()),
            parts: questions.iter().map(part).collect(),
        })
    }
}

impl QueryPart {
    /// The question to the shard of this part of `all`.
    pub(crate) fn question(&self, all: &Query) -> Query {
        Query {
            after: self.after.clone(),
            documents_max: self.documents_max,
            bytes_max: self.bytes_max,
            examined: self.examined,
            share: self.share,
            ..all.clone()
        }
    }
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
    /// What was applied in the view that was read; 0: that was not asked.
    #[prost(uint64, tag = "55")]
    pub index: u64,
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
