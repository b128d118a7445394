//! The document machine: commands of `larder.log.v1` in, [`Outcome`]s out.
//!
//! A command first moves T by its tick, then does one thing. A write first looks up its idempotency key; then its mutations are tried in
//! order, each seeing what those before it did; if one is rejected, all are undone; at last the outcome is recorded under the key.
//! What a single mutation checks and does is in `write`; `indexes` builds and purges indexes, `readers` enters documents of before under who may read
//! them, `unique` keeps whose the values of unique
//! ones are, `clearing` deletes the documents of dropped buckets.
//!
//! Lacks: anything about validity of bodies, class rules and limits. The leader's service checks these before it proposes, under the
//! bucket version that the command names.

use bytes::Bytes;
use document::acl::Principal;
use prost::Message as _;
use proto::log::command::Operation;
use proto::log::{self, Command, Mutation};

use super::clearing::clear;
use super::expiry;
use super::idempotency::{self, Begun};
use super::indexes::{Lists, backfill, purge};
use super::lifetime::Caching;
use super::outcome::Outcome;
use super::readers;
use super::write::{Stop, Writer};
use super::{Machine, Transaction, changes, rights, stale, unique};
use crate::error::{Error, Result};
use crate::ids::LogId;
use crate::keys::{BucketKey, ChangeKey, IndexProgressKey};
use crate::tables::buckets::{self, BucketRow, IndexRow};
use crate::tables::idempotency::Target;
use crate::tables::{audit, indexes, stale as tables_stale, usage};

/// The state machine of a document shard. Has no state of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct DocumentMachine;

impl Machine for DocumentMachine {
    fn apply(&self, tx: &mut Transaction<'_>, id: LogId, command: &Bytes) -> Result<Bytes> {
        // Of a reference-counted buffer the decoder makes slices: the fields of a document are not copied.
        let command = Command::decode(command.clone())
            .map_err(|error| Error::corrupt(format!("command at {id}: {error}")))?;
        if let Some(tick) = &command.tick {
            tx.advance_time(tick.base_us.saturating_add(tick.elapsed_us));
            tables_stale::mark(tx, tick.commit_index)?;
        }
        let operation = command.operation.ok_or_else(|| {
            Error::corrupt(format!("command at {id}: no operation that is known"))
        })?;
        let outcome = match operation {
            Operation::Write(write) => {
                let mutation = write.mutation.ok_or_else(|| {
                    Error::corrupt(format!("command at {id}: write without mutation"))
                })?;
                let target = Target::Document {
                    bucket: mutation.bucket,
                    key: &mutation.key,
                };
                let mutations = std::slice::from_ref(&mutation);
                let request = Request {
                    principal: principal(write.principal),
                    idempotency: write.idempotency,
                    target,
                    mutations,
                };
                request.apply(tx, id, command.stamp_us)?
            }
            Operation::Batch(batch) => {
                let (target, mutations) = (Target::Batch, &batch.mutations[..]);
                let request = Request {
                    principal: principal(batch.principal),
                    idempotency: batch.idempotency,
                    target,
                    mutations,
                };
                request.apply(tx, id, command.stamp_us)?
            }
            Operation::SetBuckets(set) => set_buckets(tx, id, command.stamp_us, &set)?,
            Operation::BackfillIndex(page) => backfill(tx, &page, Lists::Unknown)?,
            Operation::BackfillNotingLists(page) => backfill(tx, &page, Lists::Noted)?,
            Operation::BackfillReaders(page) => readers::backfill(tx, &page)?,
            Operation::PurgeIndex(purged) => purge(tx, &purged)?,
            Operation::ClearBucket(page) => clear(tx, id, command.stamp_us, &page)?,
            Operation::ReserveValue(reserve) => unique::reserve(tx, id.index, &reserve)?,
            Operation::ConfirmValue(confirm) => unique::confirm(tx, &confirm)?,
            Operation::ReleaseValue(release) => unique::release(tx, &release)?,
            Operation::FenceClaims(fence) => unique::fence(tx, id.index, &fence)?,
            Operation::Idle(log::Idle {}) => Outcome::Done,
            Operation::CountUsage(asked) => {
                usage::count(tx, asked.database, asked.page as usize)?;
                Outcome::Done
            }
            Operation::ExpireAudit(expire) => {
                audit::expire(tx, command.stamp_us, expire.kept_us, expire.bytes_max)?;
                Outcome::Done
            }
            Operation::ExpireDocuments(due) => {
                expiry::expire(tx, id, command.stamp_us, &due)?;
                Outcome::Done
            }
            Operation::EndSessions(end) => {
                rights::end(tx, id.index, &end)?;
                Outcome::Done
            }
            Operation::SettleSessions(settle) => {
                rights::settle(tx, &settle)?;
                Outcome::Done
            }
            Operation::ForgetRights(forget) => {
                rights::forget(tx, &forget)?;
                Outcome::Done
            }
            Operation::TrimChanges(trim) => {
                changes::trim(tx, &trim)?;
                Outcome::Done
            }
            Operation::Watermark(log::Watermark {}) => {
                tx.set_stamp(command.stamp_us);
                Outcome::Done
            }
            Operation::ExpireStale(expire) => {
                stale::expire(tx, &expire)?;
                Outcome::Done
            }
            Operation::ExpireIdempotency(expire) => {
                idempotency::expire(tx, &expire)?;
                Outcome::Done
            }
        };
        outcome.encode()
    }
}

/// Who acts. The log has an empty text for nobody.
fn principal(principal: Option<log::Principal>) -> Principal {
    let log::Principal { user, roles } = principal.unwrap_or_default();
    Principal {
        user: Some(user).filter(|user| !user.is_empty()),
        roles,
    }
}

/// One or several mutations by one caller, all or nothing.
struct Request<'c> {
    principal: Principal,
    idempotency: Option<log::Idempotency>,
    target: Target<'c>,
    mutations: &'c [Mutation],
}

impl Request<'_> {
    fn apply(&self, tx: &mut Transaction<'_>, id: LogId, stamp_us: u64) -> Result<Outcome> {
        let database = self
            .mutations
            .first()
            .map_or(0, |mutation| mutation.database);
        let user = self.principal.user.as_deref().unwrap_or_default();
        let pending =
            match idempotency::begin(tx, self.idempotency.as_ref(), database, user, self.target)? {
                Begun::Answered(outcome) => return Ok(outcome),
                Begun::New(pending) => pending,
            };
        let outcome = self.write(tx, id, stamp_us)?;
        if let Some(pending) = pending {
            idempotency::record(tx, pending, &outcome, |at| self.is_update(at))?;
        }
        Ok(outcome)
    }

    fn is_update(&self, at: usize) -> bool {
        let operation = self.mutations.get(at).map(|one| &one.operation);
        matches!(operation, Some(Some(log::mutation::Operation::Update(_))))
    }

    fn write(&self, tx: &mut Transaction<'_>, id: LogId, stamp_us: u64) -> Result<Outcome> {
        let savepoint = tx.savepoint();
        let time_us = tx.next_stamp(stamp_us);
        let mut writer = Writer::new(tx, &self.principal, id.index, stamp_us, time_us);
        let mut written = Vec::with_capacity(self.mutations.len());
        for (ordinal, mutation) in self.mutations.iter().enumerate() {
            match writer.write(mutation) {
                Ok(one) => written.push(one),
                Err(Stop::Rejected(rejection)) => {
                    tx.rollback(savepoint);
                    return Ok(Outcome::Rejected { ordinal, rejection });
                }
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        if writer.has_written() {
            tx.set_stamp(time_us);
        }
        Ok(Outcome::Written(written))
    }
}

/// Takes over the buckets whose version is new to the shard, with an event for each.
fn set_buckets(
    tx: &mut Transaction<'_>,
    id: LogId,
    stamp_us: u64,
    set: &log::SetBuckets,
) -> Result<Outcome> {
    let time_us = tx.next_stamp(stamp_us);
    let mut position = ChangeKey {
        index: id.index,
        ordinal: 0,
    };
    for bucket in &set.buckets {
        let key = BucketKey {
            database: bucket.database,
            bucket: bucket.bucket,
        };
        let stored = buckets::get_row(tx, key)?;
        let stored = stored.as_deref().map(buckets::decode).transpose()?;
        if stored
            .as_ref()
            .is_some_and(|stored| stored.version >= bucket.version)
        {
            continue;
        }
        let cached = stored.as_ref().and_then(|stored| stored.caching);
        let indexes = bucket.indexes.iter().map(|index| IndexRow {
            id: index.id,
            definition: &index.definition,
        });
        let row = BucketRow {
            version: bucket.version,
            name: &bucket.name,
            dropped: bucket.dropped,
            indexes: indexes.collect(),
            // The shard's own, whatever the metadata says of the bucket.
            keeps_readers: stored.as_ref().is_some_and(|stored| stored.keeps_readers),
            caching: Caching::after(cached, bucket),
        };
        // A definition that this release cannot read stops the shard here, where it came in, and not at the first write.
        indexes::kept(&row)?;
        for gone in stored.iter().flat_map(|stored| &stored.indexes) {
            if row.indexes.iter().all(|index| index.id != gone.id) {
                let (database, bucket, index) = (key.database, key.bucket, gone.id);
                let key = IndexProgressKey {
                    database,
                    bucket,
                    index,
                };
                indexes::remove_progress(tx, key)?;
            }
        }
        buckets::put(tx, key, &row)?;
        stale::note_rules(tx, position, key, cached, row.caching, row.dropped)?;
        changes::tell_rules(tx, position, time_us, key, &row);
        position.ordinal += 1;
    }
    if position.ordinal > 0 {
        tx.set_stamp(time_us);
    }
    Ok(Outcome::Done)
}
