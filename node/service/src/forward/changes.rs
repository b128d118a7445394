//! Reading what changed: a page of one shard's change log, or of the walk that stands in for a part of it that is gone.

use bytes::Bytes;
use prost::Message;
use storage::keys::ChangeKey;

/// See [`super::Operation::Changes`].
#[derive(Clone, PartialEq, Message)]
pub struct Changes {
    /// Name of the database.
    #[prost(string, tag = "1")]
    pub database: String,
    /// Name of the bucket; empty: all that the caller may query.
    #[prost(string, tag = "2")]
    pub bucket: String,
    /// The filter as JSON text; only with a bucket. Empty: everything.
    #[prost(bytes = "bytes", tag = "3")]
    pub filter: Bytes,
    /// Where to go on; absent: behind everything that is applied now.
    #[prost(message, optional, tag = "4")]
    pub cursor: Option<Cursor>,
    /// The most events to return.
    #[prost(uint64, tag = "5")]
    pub events_max: u64,
    /// Stop at the event that reaches this many bytes.
    #[prost(uint64, tag = "6")]
    pub bytes_max: u64,
    /// How long to wait for an event where there is none, in microseconds.
    #[prost(uint64, tag = "7")]
    pub wait_us: u64,
}

/// How far a feed is in one shard. A part of resume tokens: fields are only added.
#[derive(Clone, PartialEq, Message)]
pub struct Cursor {
    /// Everything of the entries before this index was seen.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Of the entry itself, the events up to this one; absent: all.
    #[prost(uint32, optional, tag = "2")]
    pub ordinal: Option<u32>,
    /// What is behind is being told from the documents, not from the log.
    #[prost(message, optional, tag = "3")]
    pub walk: Option<Walk>,
}

/// How far a walk over the documents is. A part of resume tokens.
#[derive(Clone, PartialEq, Message)]
pub struct Walk {
    /// What was applied when it began: later changes come from the log afterwards. 0: it has not begun.
    #[prost(uint64, tag = "1")]
    pub upto: u64,
    /// The bucket that it is in.
    #[prost(uint32, tag = "2")]
    pub bucket: u32,
    /// The last key of it that was looked at; empty: none.
    #[prost(string, tag = "3")]
    pub after: String,
    /// Everything is told, not only what changed behind the cursor; and no deletes.
    #[prost(bool, tag = "4")]
    pub is_snapshot: bool,
}

impl Cursor {
    /// Behind all events up to `position`.
    pub(crate) fn at(position: ChangeKey) -> Cursor {
        Cursor {
            index: position.index,
            ordinal: Some(position.ordinal).filter(|ordinal| *ordinal != u32::MAX),
            walk: None,
        }
    }

    /// Behind everything of the entries up to `index`.
    pub(crate) fn behind(index: u64) -> Cursor {
        Cursor {
            index,
            ..Cursor::default()
        }
    }

    /// The last position that was seen.
    pub(crate) fn position(&self) -> ChangeKey {
        ChangeKey {
            index: self.index,
            ordinal: self.ordinal.unwrap_or(u32::MAX),
        }
    }

    /// The same place, to go on from it by a walk.
    pub(crate) fn walking(&self, is_snapshot: bool) -> Cursor {
        Cursor {
            walk: Some(Walk {
                is_snapshot,
                ..Walk::default()
            }),
            ..*self
        }
    }

    /// Whether everything is being told.
    pub(crate) fn is_in_snapshot(&self) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.is_snapshot)
    }
}

/// See [`super::Operation::History`].
#[derive(Clone, PartialEq, Message)]
pub struct History {
    /// Name of the database.
    #[prost(string, tag = "1")]
    pub database: String,
    /// Name of the bucket.
    #[prost(string, tag = "2")]
    pub bucket: String,
    /// Decoded key.
    #[prost(string, tag = "3")]
    pub key: String,
    /// Only the version that the document had here.
    #[prost(message, optional, tag = "4")]
    pub at: Option<Cursor>,
    /// The most versions to return.
    #[prost(uint64, tag = "5")]
    pub events_max: u64,
    /// Stop at the version that reaches this many bytes.
    #[prost(uint64, tag = "6")]
    pub bytes_max: u64,
}

/// Answer to [`super::Operation::Changes`] and [`super::Operation::History`].
#[derive(Clone, PartialEq, Message)]
pub struct ChangesPage {
    /// In the order of the log, or of the walk; of a history the newest first.
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<Change>,
    /// Where to go on.
    #[prost(message, optional, tag = "2")]
    pub cursor: Option<Cursor>,
    /// What is behind it.
    #[prost(enumeration = "PageEnd", tag = "3")]
    pub end: i32,
    /// Every event of the shard up to this time, in microseconds since 1970, lies at or before the cursor.
    #[prost(uint64, tag = "4")]
    pub known_us: u64,
}

/// What is behind a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PageEnd {
    /// Perhaps more: ask again.
    More = 0,
    /// Nothing that is applied.
    AtEnd = 1,
    /// The log does not reach back to the cursor: go on by a walk.
    Trimmed = 2,
    /// The walk cannot tell the caller what changed, as there are changes that it may not see and perhaps could see before.
    Untellable = 3,
}

/// What happened to a document, as a reader sees it.
#[derive(Clone, PartialEq, Message)]
pub struct Change {
    /// Log index of the entry; with shard and ordinal it names the event.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Counts the events of the entry.
    #[prost(uint32, tag = "2")]
    pub ordinal: u32,
    /// Microseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub time_us: u64,
    /// Name of the bucket.
    #[prost(string, tag = "4")]
    pub bucket: String,
    /// Decoded key.
    #[prost(string, tag = "5")]
    pub key: String,
    /// What happened.
    #[prost(enumeration = "ChangeKind", tag = "6")]
    pub kind: i32,
    /// Of the document; with new rules, of these.
    #[prost(uint64, tag = "7")]
    pub version: u64,
    /// The JSON afterwards; empty where there is none to be seen.
    #[prost(bytes = "bytes", tag = "8")]
    pub body: Bytes,
    /// The document had expired.
    #[prost(bool, tag = "9")]
    pub by_expiry: bool,
    /// Stands for all changes of the document up to it.
    #[prost(bool, tag = "10")]
    pub compacted: bool,
}

impl Change {
    /// What it costs to hold.
    pub(crate) fn bytes(&self) -> usize {
        96 + self.bucket.len() + self.key.len() + self.body.len()
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ChangeKind {
    /// Of a newer release.
    Unspecified = 0,
    /// It was not there, or deleted.
    Insert = 1,
    /// It was changed.
    Update = 2,
    /// It was deleted.
    Delete = 3,
    /// It was changed so that it does not match the filter any more, or the reader may not read it any more.
    Leave = 4,
    /// The bucket has new rules, or is dropped.
    Rules = 5,
    /// This is how it is, whatever happened before.
    State = 6,
}

impl ChangeKind {
    /// The word in answers to clients.
    pub fn name(self) -> &'static str {
        match self {
            ChangeKind::Unspecified => "unknown",
            ChangeKind::Insert => "insert",
            ChangeKind::Update => "update",
            ChangeKind::Delete => "delete",
            ChangeKind::Leave => "leave",
            ChangeKind::Rules => "rules",
            ChangeKind::State => "state",
        }
    }
}
