//! Reading what a shard applied with both sides of each change, for the real-time queries of another node.

use std::time::Duration;

use bytes::Bytes;
use document::acl::Acl;
use prost::Message;
use proto::ShardId;
use storage::keys::ChangeKey;

use crate::leader::Tailed;
use crate::live::Operation;
use crate::live::event::{Before, Event, Image};

/// See [`super::Operation::Tail`].
#[derive(Clone, PartialEq, Message)]
pub struct Tail {
    /// Where to go on; absent: behind everything that is applied now.
    #[prost(message, optional, tag = "1")]
    pub after: Option<Place>,
    /// How long to wait for an event where there is none, in microseconds.
    #[prost(uint64, tag = "2")]
    pub wait_us: u64,
}

/// An event's place in the log of a shard.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Place {
    /// Log index of the entry.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Counts the events of the entry; the greatest number is behind all of them.
    #[prost(uint32, tag = "2")]
    pub ordinal: u32,
}

/// Answer to [`super::Operation::Tail`].
#[derive(Clone, PartialEq, Message)]
pub struct TailPage {
    /// In the order of the log.
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<TailEvent>,
    /// Where to go on.
    #[prost(message, optional, tag = "2")]
    pub cursor: Option<Place>,
    /// The log does not reach back to where the page should begin.
    #[prost(bool, tag = "3")]
    pub is_trimmed: bool,
}

/// A change of a document.
#[derive(Clone, PartialEq, Message)]
pub struct TailEvent {
    /// Log index of the entry.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Microseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub time_us: u64,
    /// Id of the database.
    #[prost(uint32, tag = "3")]
    pub database: u32,
    /// Id of the bucket.
    #[prost(uint32, tag = "4")]
    pub bucket: u32,
    /// Decoded key.
    #[prost(string, tag = "5")]
    pub key: String,
    /// What it was before; absent for an insert.
    #[prost(message, optional, tag = "6")]
    pub before: Option<TailSide>,
    /// What it is now; absent for a delete.
    #[prost(message, optional, tag = "7")]
    pub after: Option<TailSide>,
}

/// One side of a change.
#[derive(Clone, PartialEq, Message)]
pub struct TailSide {
    /// Version of the document.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// Who may read it, as JSON text; empty: everybody.
    #[prost(string, tag = "2")]
    pub acl: String,
    /// The JSON; empty where it is not kept any more.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}

impl Tail {
    pub(crate) fn new(after: Option<ChangeKey>, wait: Duration) -> Tail {
        Tail {
            after: after.map(Place::from),
            wait_us: u64::try_from(wait.as_micros()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn after(&self) -> Option<ChangeKey> {
        self.after.map(ChangeKey::from)
    }
}

impl From<ChangeKey> for Place {
    fn from(ChangeKey { index, ordinal }: ChangeKey) -> Place {
        Place { index, ordinal }
    }
}

impl From<Place> for ChangeKey {
    fn from(Place { index, ordinal }: Place) -> ChangeKey {
        ChangeKey { index, ordinal }
    }
}

impl From<Tailed> for TailPage {
    fn from(page: Tailed) -> TailPage {
        TailPage {
            events: page.events.into_iter().map(TailEvent::from).collect(),
            cursor: Some(page.cursor.into()),
            is_trimmed: page.is_trimmed,
        }
    }
}

impl TailPage {
    /// `None`: it is not in the form that [`TailPage::from`] gives it.
    pub(crate) fn read(self, shard: ShardId) -> Option<Tailed> {
        let events = self.events.into_iter().map(|event| event.read(shard));
        let events = events.collect::<Option<Vec<Event>>>()?;
        Some(Tailed::new(events, self.cursor?.into(), self.is_trimmed))
    }
}

impl From<Event> for TailEvent {
    fn from(event: Event) -> TailEvent {
        let before = match event.before {
            Before::Nothing => None,
            Before::Known(image) => Some(image.into()),
            Before::Trimmed(acl) => Some(TailSide {
                acl: text(acl.as_ref()),
                ..TailSide::default()
            }),
        };
        TailEvent {
            index: event.index,
            time_us: event.time_us,
            database: event.database,
            bucket: event.bucket,
            key: event.key,
            before,
            after: event.after.map(TailSide::from),
        }
    }
}

impl TailEvent {
    fn read(self, shard: ShardId) -> Option<Event> {
        let operation = match (&self.before, &self.after) {
            (_, None) => Operation::Delete,
            (None, Some(_)) => Operation::Insert,
            (Some(_), Some(_)) => Operation::Update,
        };
        let before = match self.before {
            None => Before::Nothing,
            Some(side) if side.body.is_empty() => Before::Trimmed(side.acl()?),
            Some(side) => Before::Known(side.read()?),
        };
        Some(Event {
            shard,
            index: self.index,
            time_us: self.time_us,
            database: self.database,
            bucket: self.bucket,
            key: self.key,
            operation,
            before,
            after: match self.after {
                None => None,
                Some(side) => Some(side.read()?),
            },
        })
    }
}

impl From<Image> for TailSide {
    fn from(image: Image) -> TailSide {
        TailSide {
            version: image.version,
            acl: text(image.acl.as_ref()),
            body: image.body,
        }
    }
}

impl TailSide {
    fn read(self) -> Option<Image> {
        Some(Image {
            acl: self.acl()?,
            version: self.version,
            body: self.body,
        })
    }

    fn acl(&self) -> Option<Option<Acl>> {
        match self.acl.as_str() {
            "" => Some(None),
            text => Acl::from_json(text).ok(),
        }
    }
}

fn text(acl: Option<&Acl>) -> String {
    acl.map(Acl::to_json).unwrap_or_default()
}
