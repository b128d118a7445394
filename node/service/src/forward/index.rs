//! Requests about indexes: changing them, how far they are, and how a query used them.

use bytes::Bytes;
use prost::Message;

/// See [`super::Operation::ChangeIndexes`].
#[derive(Clone, PartialEq, Message)]
pub struct ChangeIndexes {
    /// Name of the database.
    #[prost(string, tag = "1")]
    pub database: String,
    /// Name of the bucket.
    #[prost(string, tag = "2")]
    pub bucket: String,
    /// What to do.
    #[prost(enumeration = "IndexVerb", tag = "3")]
    pub verb: i32,
    /// The definition as it was sent; without meaning for `DropAll`.
    #[prost(bytes = "bytes", tag = "4")]
    pub definition: Bytes,
}

/// What a change of indexes does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum IndexVerb {
    /// Not said.
    Unspecified = 0,
    /// Make one.
    Create = 1,
    /// Drop one.
    Drop = 2,
    /// Drop all of the bucket.
    DropAll = 3,
}

/// See [`super::Operation::IndexProgress`].
#[derive(Clone, PartialEq, Message)]
pub struct IndexProgress {
    /// Id of the database.
    #[prost(uint32, tag = "1")]
    pub database: u32,
    /// Id of the bucket.
    #[prost(uint32, tag = "2")]
    pub bucket: u32,
    /// Ids of the indexes.
    #[prost(uint32, repeated, tag = "3")]
    pub indexes: Vec<u32>,
}

/// The answer to it.
#[derive(Clone, PartialEq, Message)]
pub struct IndexesComplete {
    /// Those that hold every document of the bucket that lies in this shard.
    #[prost(uint32, repeated, tag = "1")]
    pub complete: Vec<u32>,
}

/// How a shard found what it found.
#[derive(Clone, PartialEq, Message)]
pub struct Explanation {
    /// The node that answered.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// `scan`, `keys`, `index` or `union`.
    #[prost(string, tag = "2")]
    pub plan: String,
    /// What was read of which index.
    #[prost(message, repeated, tag = "3")]
    pub accesses: Vec<ExplainedAccess>,
    /// Every document in the ranges matches.
    #[prost(bool, tag = "4")]
    pub exact: bool,
    /// How many entries or documents the planner expected to look at.
    #[prost(uint64, tag = "5")]
    pub estimated: u64,
    /// Entries of indexes that were looked at.
    #[prost(uint64, tag = "6")]
    pub entries: u64,
    /// Documents that were looked at.
    #[prost(uint64, tag = "7")]
    pub documents: u64,
    /// Documents that were found, or counted.
    #[prost(uint64, tag = "8")]
    pub returned: u64,
    /// From the plan to the last document.
    #[prost(uint64, tag = "9")]
    pub micros: u64,
    /// Plans that were not taken.
    #[prost(message, repeated, tag = "10")]
    pub refused: Vec<ExplainedRefusal>,
    /// The shard may have more: the walk ended because the page was full.
    #[prost(bool, tag = "11")]
    pub has_more: bool,
}

/// Ranges of one index.
#[derive(Clone, PartialEq, Message)]
pub struct ExplainedAccess {
    /// Id of the index.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// Its definition, JSON.
    #[prost(string, tag = "2")]
    pub definition: String,
    /// The first ranges, for people.
    #[prost(string, repeated, tag = "3")]
    pub ranges: Vec<String>,
    /// How many there are.
    #[prost(uint64, tag = "4")]
    pub ranges_count: u64,
    /// `forward` or `backward` if the index gives the order of the query; else empty.
    #[prost(string, tag = "5")]
    pub order: String,
}

/// A plan that was not taken.
#[derive(Clone, PartialEq, Message)]
pub struct ExplainedRefusal {
    /// Id of the index; absent: the scan.
    #[prost(uint32, optional, tag = "1")]
    pub index: Option<u32>,
    /// How many entries or documents it would have looked at.
    #[prost(uint64, tag = "2")]
    pub estimated: u64,
    /// Why not.
    #[prost(string, tag = "3")]
    pub reason: String,
}
