//! Real-time queries: results that keep themselves up to date.
//!
//! A [`LiveQuery`] begins with the result of a query and goes on with what changes in it. Each node reads the log of each shard once for
//! all its subscriptions, as it is applied, finds those that a change concerns, and puts it into their queues; each subscription turns
//! what is in its own into steps.
//!
//! | part | owns |
//! |---|---|
//! | `tails` | reading the logs of all shards, for as long as somebody subscribes |
//! | `event` | a change with both of its sides |
//! | `registry` `intervals` | which subscriptions a change concerns |
//! | `queue` | what waits for one subscription |
//! | `window` | a result and its steps |
//! | `subscription` | [`LiveQuery`] |
//!
//! What a client may rely on:
//! - Between result and changes nothing is lost and nothing is told twice: each shard's part of the result is of one index
//!   (`query::snapshot`), and the changes behind that index follow.
//! - When no document is written any more, the result with all steps carried out is what the query gives.
//! - Rights are judged for both sides of each change, by what the reader may do then; the session is looked at every second.
//! - Whoever is slow misses nothing of the result: it is asked for anew and told as the steps to it. Without a result it ends with an error.
//!
//! Lacks: an order between changes of different shards; one evaluation for several subscriptions to the same query.

pub(crate) mod event;
mod intervals;
mod queue;
mod registry;
mod subscription;
mod tails;

mod window;

use bytes::Bytes;

pub use self::subscription::LiveQuery;
pub(crate) use self::tails::Live;
use crate::context::Document;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveRequest {
    /// The bucket.
    pub bucket: String,
    /// The filter as JSON text; empty: everything.
    pub filter: Bytes,
    /// The order as JSON text; empty: none that the reader is told.
    pub sort: Bytes,
    /// Documents of the result that are passed over.
    pub offset: usize,
    /// The most documents of the result; `None`: all.
    pub limit: Option<usize>,
    /// Whether to begin with the result.
    pub initial: bool,
    /// Only these; empty: all but [`MatchType::Match`].
    pub match_types: Vec<MatchType>,
    /// Only what came of these; empty: whatever it came of.
    pub operations: Vec<Operation>,
}

/// What a change is to a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchType {
    /// It is in the result now.
    Add,
    /// It stayed where it was, and is another one.
    Change,
    /// It stayed in the result, at another place.
    ChangeIndex,
    /// One of the three above, for those who do not want to know which.
    Match,
    /// It is not in the result any more.
    Remove,
}

impl MatchType {
    const ALL: [MatchType; 5] = [
        MatchType::Add,
        MatchType::Change,
        MatchType::ChangeIndex,
        MatchType::Match,
        MatchType::Remove,
    ];

    /// The word of it (contract 10.2).
    pub fn name(self) -> &'static str {
        match self {
            MatchType::Add => "add",
            MatchType::Change => "change",
            MatchType::ChangeIndex => "changeIndex",
            MatchType::Match => "match",
            MatchType::Remove => "remove",
        }
    }

    /// By its word.
    pub fn parse(word: &str) -> Option<MatchType> {
        Self::ALL.into_iter().find(|one| one.name() == word)
    }
}

/// The write that changed a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The document was not there before.
    Insert,
    /// It was changed.
    Update,
    /// It was deleted.
    Delete,
    /// It was not written itself: another one made room for it, or took its place.
    None,
}

impl Operation {
    const ALL: [Operation; 4] = [
        Operation::Insert,
        Operation::Update,
        Operation::Delete,
        Operation::None,
    ];

    /// The word of it (contract 10.2).
    pub fn name(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::None => "none",
        }
    }

    /// By its word.
    pub fn parse(word: &str) -> Option<Operation> {
        Self::ALL.into_iter().find(|one| one.name() == word)
    }
}

/// What a subscription says.
#[derive(Clone, Debug, PartialEq)]
pub enum LiveFrame {
    /// The result as it is, in order. Only first, and only if it was asked for.
    Result {
        /// The documents.
        documents: Vec<Document>,
        /// When it was asked for, in microseconds since 1970.
        time_us: u64,
    },
    /// What changed.
    Match(LiveMatch),
}

/// A change of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveMatch {
    /// What it is to the result.
    pub match_type: MatchType,
    /// What led to it.
    pub operation: Operation,
    /// When that was, in microseconds since 1970.
    pub time_us: u64,
    /// The bucket.
    pub bucket: String,
    /// Decoded key of the document.
    pub key: String,
    /// Its JSON; empty: it is deleted, or not for the reader any more.
    pub body: Bytes,
    /// In queries with an order: where it is now, behind the offset; −1: nowhere.
    pub index: Option<i64>,
}
