//! Questions about values of unique indexes, and their answers.

use bytes::Bytes;
use prost::Message;
use proto::log::UniqueValue;

/// See [`super::Operation::CheckHolds`].
#[derive(Clone, PartialEq, Message)]
pub struct Holds {
    /// The value.
    #[prost(message, optional, tag = "1")]
    pub value: Option<UniqueValue>,
    /// Key of the document.
    #[prost(string, tag = "2")]
    pub owner: String,
}

/// To whom a value belongs.
#[derive(Clone, PartialEq, Message)]
pub struct Holder {
    /// Key of the document.
    #[prost(string, tag = "1")]
    pub owner: String,
    /// Index of the entry that reserved it last.
    #[prost(uint64, tag = "2")]
    pub reserved: u64,
    /// Whether a write with it is known to have taken effect.
    #[prost(bool, tag = "3")]
    pub confirmed: bool,
}

/// Whether a document holds a value.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Holding {
    /// It does.
    #[prost(bool, tag = "1")]
    pub holds: bool,
    /// The caller of the request may read the document.
    #[prost(bool, tag = "2")]
    pub is_readable: bool,
    /// Version of the document; 0: there is none.
    #[prost(uint64, tag = "3")]
    pub version: u64,
}

/// See [`super::Operation::UniquePage`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct UniquePage {
    /// Id of the database.
    #[prost(uint32, tag = "1")]
    pub database: u32,
    /// Id of the bucket.
    #[prost(uint32, tag = "2")]
    pub bucket: u32,
    /// Id of the index.
    #[prost(uint32, tag = "3")]
    pub index: u32,
}

/// Documents behind the place that the building of a unique index has reached in a shard.
#[derive(Clone, PartialEq, Message)]
pub struct ValuesPage {
    /// The index is complete; there is nothing else in the page.
    #[prost(bool, tag = "1")]
    pub is_complete: bool,
    /// That place: the documents come behind this key; empty: from the first.
    #[prost(string, tag = "2")]
    pub after: String,
    /// The last key that was looked at; empty: all that there are.
    #[prost(string, tag = "3")]
    pub upto: String,
    /// Those with values, in the order of their keys.
    #[prost(message, repeated, tag = "4")]
    pub documents: Vec<DocumentValues>,
    /// Key of a document that has too many values.
    #[prost(string, optional, tag = "5")]
    pub crowded: Option<String>,
}

/// The values of one document.
#[derive(Clone, PartialEq, Message)]
pub struct DocumentValues {
    /// Its key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The version that has them.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// Hashes of 32 bytes.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub values: Vec<Bytes>,
}
