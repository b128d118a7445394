//! Which changes a reader sees, and as what.
//!
//! An event is judged by its two sides. The reader sees a side if it may query the bucket, may read the document by the ACL of that side,
//! and the side matches the filter. It is told of an event whose later side it sees; of one whose earlier side alone it sees it is told
//! that the document is gone, or gone from its sight, without what it is now.
//!
//! Where the body of the earlier side was trimmed, it is taken to have matched: the reader may be told once too often that a document it
//! may read is out of its filter, but never misses that.

use std::collections::BTreeMap;

use bytes::Bytes;
use cluster::state::Database;
use document::acl::{Acl, Principal, may_read};
use document::body::envelope;
use document::query::{Filter, Limits, Subject};
use document::schema::Operation;
use document::time::parse_datetime;
use storage::keys::ChangeKey;
use storage::machine::ReplicaView;
use storage::tables::change_log::{self, Before, ChangeEvent};
use storage::tables::documents::Entry;

use crate::auth::policy::check_class;
use crate::error::{Error, Result};
use crate::forward::{Change, ChangeKind};
use crate::leader::find_bucket;
use crate::leader::layouts::Layouts;

/// What becomes of an event.
pub(in crate::leader) enum Verdict {
    /// The reader is told this.
    Shown(Change),
    /// It is not for the reader.
    Hidden,
    /// Its bucket is not known here yet.
    Unknown,
}

/// Judges for one reader.
pub(in crate::leader) struct Judge {
    database: u32,
    principal: Principal,
    /// By id. Those that the reader may not query have no name here.
    buckets: BTreeMap<u32, Option<String>>,
    /// Events of others are hidden.
    only: Option<u32>,
    filter: Filter,
}

impl Judge {
    /// # Errors
    /// `BucketNotFound`, `PermissionDenied` for a bucket that is named; those of the filter; `BadRequest` for a filter without a bucket.
    pub(in crate::leader) fn new(
        database: &Database,
        bucket: &str,
        filter: &[u8],
        principal: &Principal,
        layouts: &Layouts,
    ) -> Result<Judge> {
        let (mut only, mut parsed) = (None, Filter::all());
        if !bucket.is_empty() {
            let info = find_bucket(database, bucket)?;
            check_class(database, bucket, Operation::Query, principal)?;
            only = Some(info.id);
            parsed = Filter::parse(filter, &layouts.get(database, info)?, &Limits::default())?;
        } else if !filter.is_empty() {
            return Err(Error::bad_request("a filter goes with a bucket"));
        }
        let may_query =
            |bucket: &str| check_class(database, bucket, Operation::Query, principal).is_ok();
        let live = database.buckets.values().map(|info| {
            let name = may_query(&info.name).then(|| info.name.clone());
            (info.id, name)
        });
        // A dropped bucket has no rules any more that could let somebody in.
        let dropped = database.dropped_buckets.values().map(|info| {
            let name = principal.is_admin().then(|| info.name.clone());
            (info.id, name)
        });
        Ok(Judge {
            database: database.id,
            principal: principal.clone(),
            buckets: live.chain(dropped).collect(),
            only,
            filter: parsed,
        })
    }

    /// Id of the database.
    pub(super) fn database(&self) -> u32 {
        self.database
    }

    /// The buckets that the reader may see something of, from `first` on: id and name, in the order of ids.
    pub(super) fn buckets_from(&self, first: u32) -> impl Iterator<Item = (u32, &str)> {
        let from = self.buckets.range(first..);
        let wanted = from.filter(|(id, _)| self.only.is_none_or(|only| only == **id));
        wanted.filter_map(|(id, name)| Some((*id, name.as_deref()?)))
    }

    /// Whether an event of this bucket can be for the reader at all, or is of one that is not known here yet.
    pub(super) fn wants(&self, database: u32, bucket: u32) -> bool {
        database == self.database
            && self.only.is_none_or(|only| only == bucket)
            && self.buckets.get(&bucket).is_none_or(Option::is_some)
    }

    /// # Errors
    /// The state does not decode.
    pub(in crate::leader) fn event(
        &self,
        view: &ReplicaView<'_>,
        position: ChangeKey,
        event: ChangeEvent,
    ) -> Result<Verdict> {
        if !self.wants(event.database, event.bucket) {
            return Ok(Verdict::Hidden);
        }
        let Some(Some(bucket)) = self.buckets.get(&event.bucket) else {
            return Ok(Verdict::Unknown);
        };
        use change_log::Operation as Did;
        let is_delete = event.operation == Did::Delete;
        let is_seen = match event.operation {
            Did::Rules => true,
            Did::Insert | Did::Update => self.sees(
                event.acl.as_ref(),
                &event.body,
                event.version,
                event.time_us,
            )?,
            Did::Delete => false,
        };
        let kind = match event.operation {
            Did::Rules => ChangeKind::Rules,
            Did::Insert if is_seen => ChangeKind::Insert,
            Did::Update if is_seen => ChangeKind::Update,
            _ if !self.saw(view, event.before.as_ref())? => return Ok(Verdict::Hidden),
            _ if is_delete => ChangeKind::Delete,
            _ => ChangeKind::Leave,
        };
        Ok(Verdict::Shown(Change {
            index: position.index,
            ordinal: position.ordinal,
            time_us: event.time_us,
            bucket: bucket.clone(),
            key: event.key,
            kind: kind as i32,
            version: event.version,
            body: if is_seen { event.body } else { Bytes::new() },
            by_expiry: event.by_expiry,
            compacted: false,
        }))
    }

    /// A document that a walk met. `None`: the reader may not read it, and nothing is known of what it could see before.
    pub(super) fn entry(&self, bucket: &str, key: &str, entry: Entry) -> Result<Option<Change>> {
        let (kind, version, position, time_us, body) = match entry {
            Entry::Live { record, position } => {
                if !may_read(record.acl.as_ref(), &self.principal) {
                    return Ok(None);
                }
                let version = record.version;
                match self.matches(&record.body, version, record.updated_us)? {
                    true => (
                        ChangeKind::State,
                        version,
                        position,
                        record.updated_us,
                        record.body,
                    ),
                    false => (
                        ChangeKind::Leave,
                        version,
                        position,
                        record.updated_us,
                        Bytes::new(),
                    ),
                }
            }
            Entry::Tombstone(tombstone) => {
                if !may_read(tombstone.acl.as_ref(), &self.principal) {
                    return Ok(None);
                }
                let (version, position) = (tombstone.version, tombstone.position);
                (ChangeKind::Delete, version, position, 0, Bytes::new())
            }
        };
        Ok(Some(Change {
            index: position.index,
            ordinal: position.ordinal,
            time_us,
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            kind: kind as i32,
            version,
            body,
            by_expiry: false,
            compacted: true,
        }))
    }

    fn saw(&self, view: &ReplicaView<'_>, before: Option<&Before>) -> Result<bool> {
        let Some(before) = before else {
            return Ok(false);
        };
        if !may_read(before.acl.as_ref(), &self.principal) {
            return Ok(false);
        }
        if self.filter.is_all() {
            return Ok(true);
        }
        let own = match &before.body {
            Some(_) => None,
            None => change_log::get(view, before.position)?,
        };
        let time_us = own.as_ref().map_or(0, |own| own.time_us);
        match own.map(|own| own.body).or_else(|| before.body.clone()) {
            Some(body) => self.matches(&body, before.version, time_us),
            None => Ok(true),
        }
    }

    fn sees(&self, acl: Option<&Acl>, body: &[u8], version: u64, time_us: u64) -> Result<bool> {
        Ok(may_read(acl, &self.principal) && self.matches(body, version, time_us)?)
    }

    fn matches(&self, body: &[u8], version: u64, updated_us: u64) -> Result<bool> {
        if self.filter.is_all() {
            return Ok(true);
        }
        let Some(parts) = envelope(body) else {
            let cause = "a change event holds a document that is not in normal form";
            return Err(Error::internal(&cause).with_effect(proto::Effect::None));
        };
        Ok(self.filter.matches(&Subject {
            id: parts.id,
            version,
            created_us: parse_datetime(parts.created).unwrap_or_default(),
            updated_us: i64::try_from(updated_us).unwrap_or(i64::MAX),
            fields: parts.fields,
        }))
    }
}
