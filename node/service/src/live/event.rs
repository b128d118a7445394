//! A change of a document with both of its sides, as all subscriptions of a node share it.

use bytes::Bytes;
use document::acl::{Acl, Principal, may_read};
use document::body::envelope;
use document::query::{Filter, Subject};
use document::time::parse_datetime;
use proto::ShardId;
use storage::keys::ChangeKey;
use storage::machine::ReplicaView;
use storage::tables::change_log::{self, ChangeEvent};

use super::Operation;
use crate::error::Result;

/// What a document was, or is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    /// Its version.
    pub(crate) version: u64,
    /// Who may read it; `None`: everybody.
    pub(crate) acl: Option<Acl>,
    /// Its JSON.
    pub(crate) body: Bytes,
}

/// The earlier side of a change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Before {
    /// There was no document.
    Nothing,
    /// This.
    Known(Image),
    /// Its body is not kept any more. Who could read it is.
    Trimmed(Option<Acl>),
}

/// A change of a document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) shard: ShardId,
    /// Log index of the entry.
    pub(crate) index: u64,
    pub(crate) time_us: u64,
    pub(crate) database: u32,
    pub(crate) bucket: u32,
    pub(crate) key: String,
    pub(crate) operation: Operation,
    pub(crate) before: Before,
    /// `None`: it is deleted.
    pub(crate) after: Option<Image>,
}

/// What one side of a change is to a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Nothing that the reader may see.
    Hidden,
    /// The reader may see it, and it does not match.
    Other,
    /// It matches.
    Match,
    /// The reader could see it; nobody knows whether it matched.
    Unknown,
}

impl Event {
    /// What the change log tells of a document; `None`: the event is about none. May wait for a disk.
    ///
    /// # Errors
    /// A row does not decode.
    pub(crate) fn read(
        view: &ReplicaView<'_>,
        shard: ShardId,
        position: ChangeKey,
        event: ChangeEvent,
    ) -> Result<Option<Event>> {
        let operation = match event.operation {
            change_log::Operation::Insert => Operation::Insert,
            change_log::Operation::Update => Operation::Update,
            change_log::Operation::Delete => Operation::Delete,
            change_log::Operation::Rules => return Ok(None),
        };
        let before = match event.before {
            None => Before::Nothing,
            Some(before) => {
                let body = match before.body {
                    Some(body) => Some(body),
                    None => change_log::get(view, before.position)?.map(|own| own.body),
                };
                match body {
                    None => Before::Trimmed(before.acl),
                    Some(body) => Before::Known(Image {
                        version: before.version,
                        acl: before.acl,
                        body,
                    }),
                }
            }
        };
        let is_there = operation != Operation::Delete;
        Ok(Some(Event {
            shard,
            index: position.index,
            time_us: event.time_us,
            database: event.database,
            bucket: event.bucket,
            key: event.key,
            operation,
            before,
            after: is_there.then_some(Image {
                version: event.version,
                acl: event.acl,
                body: event.body,
            }),
        }))
    }

    /// What it costs to hold.
    pub(crate) fn bytes(&self) -> usize {
        let side = |image: &Image| image.body.len();
        let before = match &self.before {
            Before::Known(image) => side(image),
            Before::Nothing | Before::Trimmed(_) => 0,
        };
        128 + self.key.len() + before + self.after.as_ref().map_or(0, side)
    }

    /// What the earlier side is to a reader with a filter.
    pub(crate) fn was(&self, filter: &Filter, reader: &Principal) -> Side {
        match &self.before {
            Before::Nothing => Side::Hidden,
            Before::Known(image) => image.side(filter, reader),
            Before::Trimmed(acl) if may_read(acl.as_ref(), reader) => Side::Unknown,
            Before::Trimmed(_) => Side::Hidden,
        }
    }

    /// What the later side is.
    pub(crate) fn is(&self, filter: &Filter, reader: &Principal) -> Side {
        let side = |image: &Image| image.side(filter, reader);
        self.after.as_ref().map_or(Side::Hidden, side)
    }
}

impl Image {
    fn side(&self, filter: &Filter, reader: &Principal) -> Side {
        if !may_read(self.acl.as_ref(), reader) {
            return Side::Hidden;
        }
        let matches = |subject: Subject<'_>| filter.matches(&subject);
        match filter.is_all() || self.subject().is_some_and(matches) {
            true => Side::Match,
            false => Side::Other,
        }
    }

    /// As filters and orders see it; `None`: it is not in the stored form.
    pub(crate) fn subject(&self) -> Option<Subject<'_>> {
        subject(&self.body, self.version)
    }
}

/// A stored document as filters and orders see it; `None`: it is not in the stored form.
pub(crate) fn subject(body: &[u8], version: u64) -> Option<Subject<'_>> {
    let parts = envelope(body)?;
    Some(Subject {
        id: parts.id,
        version,
        created_us: parse_datetime(parts.created).unwrap_or_default(),
        updated_us: parse_datetime(parts.updated).unwrap_or_default(),
        fields: parts.fields,
    })
}
