//! Wire messages about the audit logs of shards.

use bytes::Bytes;
use prost::Message;

/// See [`super::Operation::ReadAudit`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct ReadAudit {
    /// The place that the part begins behind.
    #[prost(uint64, tag = "1")]
    pub after: u64,
    /// The most records to return.
    #[prost(uint32, tag = "2")]
    pub rows_max: u32,
}

/// A part of an audit log.
#[derive(Clone, PartialEq, Message)]
pub struct AuditPage {
    /// The place in front of the first record: the asked one, or a later one where records were removed.
    #[prost(uint64, tag = "1")]
    pub before: u64,
    /// The hash of the record at that place.
    #[prost(bytes = "bytes", tag = "2")]
    pub before_hash: Bytes,
    /// In order.
    #[prost(message, repeated, tag = "3")]
    pub rows: Vec<AuditRow>,
    /// The place of the last record that the log has.
    #[prost(uint64, tag = "4")]
    pub last: u64,
}

/// One record.
#[derive(Clone, PartialEq, Message)]
pub struct AuditRow {
    /// 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub hash: Bytes,
    /// JSON.
    #[prost(bytes = "bytes", tag = "2")]
    pub text: Bytes,
}
