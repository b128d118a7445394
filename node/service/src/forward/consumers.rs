//! Wire messages about durable consumers of change feeds.

use prost::Message;
use proto::log::{ConsumerCursor, ConsumerPosition, ConsumerWalk};

use super::{Cursor, Walk};

/// See [`super::Operation::ReadConsumers`].
#[derive(Clone, PartialEq, Message)]
pub struct ReadConsumers {
    /// Id of the database.
    #[prost(uint32, tag = "1")]
    pub database: u32,
    /// The one of this name, with its position; empty: all, without positions.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// See [`super::Operation::AckConsumer`].
#[derive(Clone, PartialEq, Message)]
pub struct AckConsumer {
    /// Id of the consumer.
    #[prost(uint64, tag = "1")]
    pub consumer: u64,
    /// Up to where it took everything over.
    #[prost(message, optional, tag = "2")]
    pub position: Option<ConsumerPosition>,
}

/// Answer to [`super::Operation::ReadConsumers`].
#[derive(Clone, PartialEq, Message)]
pub struct ConsumerRows {
    /// By name.
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<ConsumerRow>,
}

/// A consumer, without the secret of its target.
#[derive(Clone, PartialEq, Message)]
pub struct ConsumerRow {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its id.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    /// Name of its bucket; empty: all.
    #[prost(string, tag = "3")]
    pub bucket: String,
    /// Its filter; empty: everything.
    #[prost(string, tag = "4")]
    pub filter: String,
    /// Its target; empty: none.
    #[prost(string, tag = "5")]
    pub url: String,
    /// When it was made, microseconds since 1970.
    #[prost(uint64, tag = "6")]
    pub created_us: u64,
    /// Somebody paused it.
    #[prost(bool, tag = "7")]
    pub is_paused: bool,
    /// Up to where it took everything over; of one that was asked for by its name alone with the places in the shards.
    #[prost(message, optional, tag = "8")]
    pub position: Option<ConsumerPosition>,
    /// Age of the oldest event that it has not acknowledged, in microseconds; absent: not known yet.
    #[prost(uint64, optional, tag = "9")]
    pub lag_us: Option<u64>,
    /// What is wrong with its target, if something is.
    #[prost(message, optional, tag = "10")]
    pub trouble: Option<ConsumerTrouble>,
}

/// What is wrong with the target of a consumer.
#[derive(Clone, PartialEq, Message)]
pub struct ConsumerTrouble {
    /// Tries that failed since the last one that did not.
    #[prost(uint64, tag = "1")]
    pub tries: u64,
    /// Why the last one did.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// It failed for so long that it is only probed now and then.
    #[prost(bool, tag = "3")]
    pub is_sick: bool,
}

impl From<&Cursor> for ConsumerCursor {
    fn from(cursor: &Cursor) -> ConsumerCursor {
        ConsumerCursor {
            index: cursor.index,
            ordinal: cursor.ordinal,
            walk: cursor.walk.as_ref().map(|walk| ConsumerWalk {
                upto: walk.upto,
                bucket: walk.bucket,
                after: walk.after.clone(),
                is_snapshot: walk.is_snapshot,
            }),
        }
    }
}

impl From<&ConsumerCursor> for Cursor {
    fn from(cursor: &ConsumerCursor) -> Cursor {
        Cursor {
            index: cursor.index,
            ordinal: cursor.ordinal,
            walk: cursor.walk.as_ref().map(|walk| Walk {
                upto: walk.upto,
                bucket: walk.bucket,
                after: walk.after.clone(),
                is_snapshot: walk.is_snapshot,
            }),
        }
    }
}
