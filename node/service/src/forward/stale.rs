//! Following the stale keys of a shard: what web caches may hold old copies of.

use document::bloom::Hashes;
use prost::Message;
use storage::keys::ChangeKey;
use storage::tables::stale::{Mark, Part, StaleRow};

use super::Seen;

/// See [`super::Operation::FollowStale`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct FollowStale {
    /// The asking node knows all rows up to this place: log index,
    #[prost(uint64, tag = "1")]
    pub after_index: u64,
    /// and ordinal.
    #[prost(uint32, tag = "2")]
    pub after_ordinal: u32,
    /// It knows all marks up to this index.
    #[prost(uint64, tag = "3")]
    pub marked: u64,
    /// What it knows is of a replica that had applied this index: there is nothing new at the same one.
    #[prost(uint64, tag = "4")]
    pub applied: u64,
}

impl FollowStale {
    /// The place that the rows begin behind.
    pub(crate) fn after(&self) -> ChangeKey {
        ChangeKey {
            index: self.after_index,
            ordinal: self.after_ordinal,
        }
    }
}

/// A part of the stale keys of a shard.
#[derive(Clone, PartialEq, Message)]
pub struct StalePart {
    /// In order.
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<StaleKeyRow>,
    /// In order.
    #[prost(message, repeated, tag = "2")]
    pub marks: Vec<StaleMark>,
    /// Rows up to this place were removed: log index,
    #[prost(uint64, tag = "3")]
    pub expired_index: u64,
    /// and ordinal.
    #[prost(uint32, tag = "4")]
    pub expired_ordinal: u32,
    /// The shard's T, microseconds.
    #[prost(uint64, tag = "5")]
    pub time_us: u64,
    /// The applied index that all of this is of.
    #[prost(uint64, tag = "6")]
    pub index: u64,
    /// There is more: ask again at once.
    #[prost(bool, tag = "7")]
    pub more: bool,
    /// How it was read.
    #[prost(message, optional, tag = "8")]
    pub seen: Option<Seen>,
}

/// One change that made copies stale.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StaleKeyRow {
    /// Place of the change: log index,
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// and ordinal.
    #[prost(uint32, tag = "2")]
    pub ordinal: u32,
    /// Id of the database.
    #[prost(uint32, tag = "3")]
    pub database: u32,
    /// Id of the bucket.
    #[prost(uint32, tag = "4")]
    pub bucket: u32,
    /// Lifetime of what was superseded, milliseconds.
    #[prost(uint32, tag = "5")]
    pub lifetime_ms: u32,
    /// Both hashes of the document's id, the first one on top; absent: every document of the bucket.
    #[prost(fixed64, optional, tag = "6")]
    pub document: Option<u64>,
}

/// Everything up to the index was known to be committed at this T.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StaleMark {
    /// Log index.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Microseconds.
    #[prost(uint64, tag = "2")]
    pub time_us: u64,
}

impl From<Part> for StalePart {
    fn from(part: Part) -> StalePart {
        let row = |(at, row): (ChangeKey, StaleRow)| StaleKeyRow {
            index: at.index,
            ordinal: at.ordinal,
            database: row.database,
            bucket: row.bucket,
            lifetime_ms: row.lifetime_ms,
            document: row
                .document
                .map(|id| (u64::from(id.h1) << 32) | u64::from(id.h2)),
        };
        let mark = |Mark { index, time_us }| StaleMark { index, time_us };
        StalePart {
            rows: part.rows.into_iter().map(row).collect(),
            marks: part.marks.into_iter().map(mark).collect(),
            expired_index: part.expired.index,
            expired_ordinal: part.expired.ordinal,
            time_us: part.time_us,
            index: part.index,
            more: part.more,
            seen: None,
        }
    }
}

impl From<StalePart> for Part {
    fn from(part: StalePart) -> Part {
        let row = |row: StaleKeyRow| {
            let at = ChangeKey {
                index: row.index,
                ordinal: row.ordinal,
            };
            let document = row.document.map(|both| Hashes {
                h1: (both >> 32) as u32,
                h2: both as u32,
            });
            let row = StaleRow {
                database: row.database,
                bucket: row.bucket,
                lifetime_ms: row.lifetime_ms,
                document,
            };
            (at, row)
        };
        let mark = |StaleMark { index, time_us }| Mark { index, time_us };
        Part {
            rows: part.rows.into_iter().map(row).collect(),
            marks: part.marks.into_iter().map(mark).collect(),
            expired: ChangeKey {
                index: part.expired_index,
                ordinal: part.expired_ordinal,
            },
            time_us: part.time_us,
            index: part.index,
            more: part.more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_comes_over_as_it_is() {
        let at = ChangeKey {
            index: 7,
            ordinal: 1,
        };
        let row = |document| StaleRow {
            database: 1,
            bucket: 2,
            lifetime_ms: 600_000,
            document,
        };
        let part = Part {
            rows: vec![(at, row(None)), (at, row(Some(Hashes::of("/db/Todo/1"))))],
            marks: vec![Mark {
                index: 7,
                time_us: 9,
            }],
            expired: at,
            time_us: 10,
            index: 8,
            more: true,
        };
        assert_eq!(Part::from(StalePart::from(part.clone())), part);
    }
}
