//! One mutation of one document: whether it may happen, and what it does.
//!
//! Checked in this order, and the first that fails is the rejection:
//! 1. the bucket: known with the version that the command was validated under, and not dropped;
//! 2. a document that should be absent is, one that should be there is;
//! 3. the object ACL of the **stored** document lets the caller write. Refused as denied whether or not the caller may read it: clients
//!    take "not found" on an update for success (contract 3.3, 7.3). A reader who would have changed the ACL is told so (462); whoever
//!    may not even read is not, since the answer would depend on the stored ACL;
//! 4. the version is the expected one. After the ACL, so that the version is told to writers only.
//!
//! Then, as the write would leave the document: in each index it has no more values than there may be, and what it takes of a unique one
//! is claimed (`indexes`). Who may find it is kept up beside that (`readers`).
//!
//! A partial update needs a document, and may be answered with it, so it needs the right to read as well; the rest is in `update`.
//!
//! Versions: 1 for an id that was never there, and one more for each accepted write, also one without change, and for a delete. The
//! tombstone keeps the last one, and an insert over it continues from there: a version never goes back.

mod audit;
mod expiry;
mod indexes;
mod lifetime;
mod readers;
mod rights;
mod update;

use std::borrow::Cow;

use bytes::Bytes;
use document::acl::{self, Acl, Principal};
use document::body;
use proto::log::mutation::Operation;
use proto::log::precondition::Condition;
use proto::log::{Delete, Mutation, Put};

use super::Transaction;
use super::lifetime::Caching;
use super::outcome::{Rejection, Written};
use crate::error::Error;
use crate::keys::{BucketKey, ChangeKey, DocumentKey};
use crate::tables::buckets::{self, BucketRow};
use crate::tables::change_log::Operation as Change;
use crate::tables::change_log::{self, NewBefore, NewEvent};
use crate::tables::documents::{self, Entry, NewRecord, Record, Tombstone};
use crate::tables::indexes::{KeptIndex, kept};
use crate::tables::usage;
pub(super) use indexes::is_public;

/// Why a mutation ended early.
pub(super) enum Stop {
    /// It is answered; nothing of it takes effect.
    Rejected(Rejection),
    /// The shard stops.
    Failed(Error),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Applies the mutations of one entry. On a rejection it leaves what the mutations before it wrote: the caller rolls back.
pub(super) struct Writer<'w, 'tx> {
    tx: &'w mut Transaction<'tx>,
    principal: &'w Principal,
    /// What the leader's clock said, microseconds since 1970.
    stamp_us: u64,
    /// Time of all writes of this entry, microseconds since 1970.
    time_us: u64,
    /// Where the next change event goes.
    next: ChangeKey,
    /// Bytes of the documents that updates of this entry made.
    updated_bytes: u64,
    /// Deletes are those of expired documents.
    by_expiry: bool,
    /// Bytes of the keys of entries of indexes and readers that this entry changed.
    entry_bytes: u64,
}

/// A mutation, and what it meets.
struct Site<'m> {
    mutation: &'m Mutation,
    bucket_name: &'m str,
    /// What the write keeps up.
    indexes: Vec<KeptIndex>,
    /// Likewise who finds the document.
    keeps_readers: bool,
    /// How web caches may keep the bucket's documents, or could; `None`: never.
    caching: Option<Caching>,
    /// Key of the document row, without store id.
    key: Vec<u8>,
    live: Option<Live>,
    /// Version of the document, or of its delete; 0: there never was one.
    last_version: u64,
    /// The event of the delete, if it is deleted.
    deleted_at: Option<ChangeKey>,
}

struct Live {
    record: Record,
    position: ChangeKey,
}

impl Live {
    /// The before side of a change. `trimmed` is the last event that is gone: what the document's own event held goes along with this one.
    fn as_before(&self, trimmed: ChangeKey) -> NewBefore<'_> {
        NewBefore {
            version: self.record.version,
            acl: self.record.acl.as_ref(),
            position: self.position,
            body: (self.position <= trimmed).then_some(&self.record.body),
        }
    }
}

impl<'w, 'tx> Writer<'w, 'tx> {
    /// A writer for the entry at `index`, which was stamped `stamp_us`, and all of whose writes happen at `time_us`.
    pub(super) fn new(
        tx: &'w mut Transaction<'tx>,
        principal: &'w Principal,
        index: u64,
        stamp_us: u64,
        time_us: u64,
    ) -> Self {
        Self {
            tx,
            principal,
            stamp_us,
            time_us,
            next: ChangeKey { index, ordinal: 0 },
            updated_bytes: 0,
            by_expiry: false,
            entry_bytes: 0,
        }
    }

    /// Whether anything took effect so far.
    pub(super) fn has_written(&self) -> bool {
        self.next.ordinal > 0
    }

    /// Applies one mutation.
    pub(super) fn write(&mut self, mutation: &Mutation) -> Result<Written, Stop> {
        let operation = mutation
            .operation
            .as_ref()
            .ok_or_else(|| Error::corrupt("command: mutation without operation"))?;
        let bucket = self.bucket(mutation)?;
        let bucket = check_bucket(bucket.as_deref(), mutation.bucket_version)?;
        let site = self.site(mutation, &bucket)?;
        let acl = match operation {
            Operation::Put(put) => parse_acl(&put.acl)?,
            Operation::Delete(Delete {}) | Operation::Update(_) => None,
        };
        self.check(
            &site,
            matches!(operation, Operation::Put(_)).then_some(acl.as_ref()),
        )?;
        let written = match operation {
            Operation::Put(put) => self.put(&site, put, acl.as_ref()),
            Operation::Delete(Delete {}) => self.delete(&site),
            Operation::Update(update) => self.update(&site, update)?,
        };
        self.outdate(&site)?;
        self.reindex(&site)?;
        match operation {
            Operation::Put(_) => self.enter(&site, acl.as_ref())?,
            Operation::Delete(Delete {}) => self.leave(&site),
            // The ACL stays.
            Operation::Update(_) => {}
        }
        let is_delete = matches!(operation, Operation::Delete(Delete {}));
        self.note_rights(&site, &written, is_delete)?;
        self.count(&site, (!is_delete).then_some(written.body.len()))?;
        self.audit(&site)?;
        Ok(written)
    }

    /// Takes the write into account where its database is counted: how long the document is now, if there is one.
    fn count(&mut self, site: &Site<'_>, now: Option<usize>) -> Result<(), Error> {
        let document = DocumentKey {
            database: site.mutation.database,
            bucket: site.mutation.bucket,
            key: &site.mutation.key,
        };
        let before = site.live.as_ref().map(|live| live.record.body.len());
        usage::adjust(self.tx, document, before, now)
    }

    fn bucket(&mut self, mutation: &Mutation) -> Result<Option<Bytes>, Error> {
        buckets::get_row(
            self.tx,
            BucketKey {
                database: mutation.database,
                bucket: mutation.bucket,
            },
        )
    }

    fn site<'m>(
        &mut self,
        mutation: &'m Mutation,
        bucket: &BucketRow<'m>,
    ) -> Result<Site<'m>, Error> {
        let key = DocumentKey {
            database: mutation.database,
            bucket: mutation.bucket,
            key: &mutation.key,
        }
        .encode();
        let (live, last_version, deleted_at) = match documents::get_entry(self.tx, &key)? {
            Some(Entry::Live { record, position }) => {
                let version = record.version;
                (Some(Live { record, position }), version, None)
            }
            Some(Entry::Tombstone(tombstone)) => {
                (None, tombstone.version, Some(tombstone.position))
            }
            None => (None, 0, None),
        };
        Ok(Site {
            mutation,
            bucket_name: bucket.name,
            indexes: kept(bucket)?,
            keeps_readers: bucket.keeps_readers,
            caching: bucket.caching,
            key,
            live,
            last_version,
            deleted_at,
        })
    }

    /// Steps 2 to 4 of the module. `new_acl` is the ACL that a put brings, itself perhaps none.
    fn check(&self, site: &Site<'_>, new_acl: Option<Option<&Acl>>) -> Result<(), Rejection> {
        let condition = site
            .mutation
            .precondition
            .as_ref()
            .and_then(|precondition| precondition.condition.as_ref());
        let Some(Live { record, .. }) = &site.live else {
            return match condition {
                Some(Condition::Version(_) | Condition::Exists(_)) => {
                    Err(Rejection::OutOfDate { stored: None })
                }
                Some(Condition::Absent(_)) | None => Ok(()),
            };
        };
        if let Some(Condition::Absent(_)) = condition {
            return Err(Rejection::Exists {
                version: record.version,
            });
        }
        let stored_acl = record.acl.as_ref();
        if !acl::may_write(stored_acl, self.principal) {
            let would_change_acl = new_acl.is_some_and(|acl| acl != stored_acl);
            return Err(
                if would_change_acl && acl::may_read(stored_acl, self.principal) {
                    Rejection::AclChangeDenied
                } else {
                    Rejection::Denied
                },
            );
        }
        match condition {
            Some(Condition::Version(version)) if *version != record.version => {
                Err(Rejection::OutOfDate {
                    stored: Some(record.version),
                })
            }
            Some(Condition::Version(_) | Condition::Exists(_) | Condition::Absent(_)) | None => {
                Ok(())
            }
        }
    }

    fn put(&mut self, site: &Site<'_>, put: &Put, acl: Option<&Acl>) -> Written {
        let stored = site.live.as_ref().map(|live| &live.record);
        let version = site.last_version.saturating_add(1);
        let created_us = stored.map_or(self.time_us, |record| record.created_us);
        let stored_hidden = stored.and_then(|record| record.hidden.as_deref());
        let hidden = if put.hidden.is_empty() {
            stored_hidden
        } else {
            Some(&put.hidden[..])
        };
        let fields = self.fields(put, stored.map(|record| &record.body));
        let (expiry, fields) = self.expiry_after(put.expiry.as_ref(), stored, fields);
        let Mutation {
            database,
            bucket,
            key,
            ..
        } = site.mutation;
        let body = body::render(
            site.bucket_name,
            key,
            version,
            acl,
            signed(created_us),
            signed(self.time_us),
            &fields,
        );
        let trimmed = self.tx.changes().trimmed;
        let event = NewEvent {
            logged_us: self.tx.time_us(),
            time_us: self.time_us,
            database: *database,
            bucket: *bucket,
            key,
            operation: if stored.is_some() {
                Change::Update
            } else {
                Change::Insert
            },
            version,
            acl,
            body: &body,
            before: site.live.as_ref().map(|live| live.as_before(trimmed)),
            deleted_at: site.deleted_at,
            lifetime_ms: site.superseded_ms(),
            user: self.user(),
            by_expiry: false,
        };
        let position = self.next;
        change_log::put(self.tx, position, &event);
        let updated_us = self.time_us;
        let record = NewRecord {
            version,
            position,
            created_us,
            updated_us,
            expiry,
            lifetime: site.next_lifetime(self.time_us),
            acl,
            hidden,
            body: &body,
        };
        let body = documents::put(self.tx, &site.key, &record);
        self.reschedule(site, expiry);
        self.next.ordinal += 1;
        Written {
            version,
            created_us,
            updated_us,
            existed: stored.is_some(),
            replayed: false,
            body,
        }
    }

    /// The members to store: those of the command, but what only administrators change stays as it is.
    fn fields<'p>(&self, put: &'p Put, stored_body: Option<&Bytes>) -> Cow<'p, [u8]> {
        if put.readonly.is_empty() || self.principal.is_admin() {
            return Cow::Borrowed(&put.fields);
        }
        // The stored JSON without its braces is a list of members, as `fields` is.
        let stored = stored_body
            .and_then(|body| body.get(1..body.len().saturating_sub(1)))
            .unwrap_or_default();
        let kept = |name: &String| {
            (
                name.clone(),
                body::member(stored, name).unwrap_or("null").to_owned(),
            )
        };
        let values: Vec<(String, String)> = put.readonly.iter().map(kept).collect();
        Cow::Owned(body::merge_readonly(&put.fields, &values))
    }

    fn delete(&mut self, site: &Site<'_>) -> Written {
        let Some(live) = &site.live else {
            return Written {
                version: 0,
                created_us: 0,
                updated_us: 0,
                existed: false,
                replayed: false,
                body: Bytes::new(),
            };
        };
        let version = site.last_version.saturating_add(1);
        let Mutation {
            database,
            bucket,
            key,
            ..
        } = site.mutation;
        let trimmed = self.tx.changes().trimmed;
        let event = NewEvent {
            logged_us: self.tx.time_us(),
            time_us: self.time_us,
            database: *database,
            bucket: *bucket,
            key,
            operation: Change::Delete,
            version,
            acl: None,
            body: &[],
            before: Some(live.as_before(trimmed)),
            deleted_at: None,
            lifetime_ms: site.superseded_ms(),
            user: self.user(),
            by_expiry: self.by_expiry,
        };
        let position = self.next;
        change_log::put(self.tx, position, &event);
        let deleted_us = self.tx.time_us();
        documents::put_tombstone(
            self.tx,
            &site.key,
            &Tombstone {
                version,
                deleted_us,
                position,
                acl: live.record.acl.clone(),
            },
        );
        self.reschedule(site, None);
        self.next.ordinal += 1;
        let (created_us, updated_us) = (live.record.created_us, self.time_us);
        Written {
            version,
            created_us,
            updated_us,
            existed: true,
            replayed: false,
            body: Bytes::new(),
        }
    }

    /// Deletes a document of a bucket that is dropped. Nobody's rights are asked, and no condition.
    pub(super) fn clear(&mut self, document: DocumentKey<'_>) -> Result<(), Error> {
        let mutation = Mutation {
            database: document.database,
            bucket: document.bucket,
            key: document.key.to_owned(),
            ..Mutation::default()
        };
        let bucket = self.bucket(&mutation)?;
        let bucket = bucket.as_deref().map(buckets::decode).transpose()?;
        let site = self.site(&mutation, &bucket.unwrap_or_default())?;
        self.remove(&site)
    }

    /// Deletes the document of the site, and all that is kept for it.
    fn remove(&mut self, site: &Site<'_>) -> Result<(), Error> {
        let deleted = self.delete(site);
        self.outdate(site)?;
        self.unindex(site)?;
        self.leave(site);
        self.note_rights(site, &deleted, true)?;
        self.count(site, None)
    }

    fn user(&self) -> &'w str {
        self.principal.user.as_deref().unwrap_or_default()
    }
}

/// Step 1 of the module: the bucket, if the command was validated under the rules that the shard has.
fn check_bucket(row: Option<&[u8]>, version: u64) -> Result<BucketRow<'_>, Stop> {
    let Some(row) = row else {
        return Err(Rejection::SchemaChanged { stored: None }.into());
    };
    let bucket = buckets::decode(row)?;
    if bucket.version != version {
        return Err(Rejection::SchemaChanged {
            stored: Some(bucket.version),
        }
        .into());
    }
    if bucket.dropped {
        return Err(Rejection::BucketDropped.into());
    }
    Ok(bucket)
}

/// The ACL of a command. One without rules is none: both mean public, and one form is stored.
fn parse_acl(text: &str) -> Result<Option<Acl>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let acl = Acl::from_json(text).map_err(|error| Error::corrupt(format!("command: {error}")))?;
    Ok(acl.filter(|acl| !acl.is_public()))
}

/// Microseconds as the rendering takes them; what is past its end shows as the end.
fn signed(time_us: u64) -> i64 {
    i64::try_from(time_us).unwrap_or(i64::MAX)
}
