//! What a shard's leader does for the service itself: it proposes commands on indexes and on values of unique ones, and answers the
//! questions that go with them.
//!
//! Invariant: nothing here waits for another request, here or on another node. Writes wait for these answers, so this is what keeps
//! leaders that wait for each other from standing still ([`crate::unique`]).

use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use document::acl::may_read;
use document::body::envelope;
use document::index::{Index, ValueHash};
use document::query::Subject;
use prost::Message as _;
use proto::ShardId;
use proto::log::{ReserveValue, UniqueValue, command};
use storage::machine::outcome::{Outcome, Progress, Reservation};
use storage::machine::{Replica, ReplicaView};
use storage::tables::documents::{self, Record};
use storage::tables::{indexes, reservations};

use super::Shards;
use crate::error::{Error, Result};
use crate::forward::{
    Answer, DocumentValues, Failure, Holder, Holding, Holds, Request, UniquePage, ValuesPage,
};

/// Documents in one page of a unique index that is being built.
pub(crate) const PAGE_DOCUMENTS: u32 = 256;
/// A page ends with the document that reaches this many values: each costs an entry in the log of its shard.
const PAGE_VALUES: usize = 2_000;
/// Documents and tombstones that one page passes: bounds the time that it takes.
const PAGE_VISITS: usize = 10_000;

impl Shards {
    /// Proposes a command that no client sends.
    pub(super) async fn internal_command(
        &self,
        shard: ShardId,
        command: &Bytes,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let decoded = proto::log::Command::decode(command.clone()).ok();
        let operation = decoded.and_then(|command| command.operation);
        let Some(operation) = operation.filter(is_internal) else {
            return Err(Error::bad_request("not a command that nodes send each other").into());
        };
        let replica = self.replica(shard)?;
        if takes_room(&operation) {
            self.check_disk()?;
        }
        if let command::Operation::ReserveValue(reserve) = &operation {
            let taken = self
                .held_by_another(shard, &replica, reserve, deadline)
                .await?;
            if let Some(holder) = taken {
                let outcome = Outcome::Reserved {
                    holder,
                    is_own: false,
                };
                return Ok(Answer::Outcome(outcome.encode().map_err(Error::from)?));
            }
        }
        let command = self.command(shard, &replica, operation);
        let outcome = self
            .propose_raw(shard, command.encode_to_vec().into(), deadline)
            .await?;
        Ok(Answer::Outcome(outcome))
    }

    /// Spares the log an entry that would change nothing: asking for taken names is cheap for whoever asks, and must be for us.
    async fn held_by_another(
        &self,
        shard: ShardId,
        replica: &Arc<Replica>,
        reserve: &ReserveValue,
        deadline: Instant,
    ) -> Result<Option<Reservation>, Failure> {
        let (value, hash) = value_of(reserve.value.as_ref())?;
        let others = |holder: Option<Reservation>| {
            holder.filter(|holder: &Reservation| holder.owner != reserve.owner)
        };
        let known = self.holder(replica, &value, hash, deadline).await?;
        if others(known).is_none() {
            return Ok(None);
        }
        self.barrier(shard, deadline).await?;
        Ok(others(self.holder(replica, &value, hash, deadline).await?))
    }

    async fn holder(
        &self,
        replica: &Arc<Replica>,
        value: &UniqueValue,
        hash: ValueHash,
        deadline: Instant,
    ) -> Result<Option<Reservation>> {
        let replica = Arc::clone(replica);
        let (database, bucket, index) = (value.database, value.bucket, value.index);
        let read = move || Ok(reservations::get(&replica, database, bucket, index, &hash)?);
        self.reads.run(deadline, read).await
    }

    /// Whose a value is, linearizably.
    pub(super) async fn find_holder(
        &self,
        shard: ShardId,
        value: &UniqueValue,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let (value, hash) = value_of(Some(value))?;
        let replica = self.replica(shard)?;
        self.barrier(shard, deadline).await?;
        let holder = self.holder(&replica, &value, hash, deadline).await?;
        Ok(holder.map_or(Answer::Done(false), |holder| {
            Answer::Holder(Holder {
                owner: holder.owner,
                reserved: holder.reserved,
                confirmed: holder.confirmed,
            })
        }))
    }

    /// Whether a document holds a value, linearizably, by the index as this shard has it.
    pub(super) async fn check_holds(
        &self,
        request: &Request,
        holds: &Holds,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let (value, hash) = value_of(holds.value.as_ref())?;
        let replica = self.replica(request.shard)?;
        self.barrier(request.shard, deadline).await?;
        let (owner, principal) = (holds.owner.clone(), request.principal.clone());
        let read = move || {
            let record = documents::get(&replica, value.database, value.bucket, &owner)?;
            let Some(record) = record else {
                return Ok(Holding::default());
            };
            let index = index_of(&replica.view(), value.database, value.bucket, value.index)?;
            let values = index.map(|index| values_of(&index, &record)).transpose()?;
            Ok(Holding {
                holds: values
                    .flatten()
                    .is_some_and(|values| values.contains(&hash)),
                is_readable: may_read(record.acl.as_ref(), &principal),
                version: record.version,
            })
        };
        Ok(Answer::Holding(self.reads.run(deadline, read).await?))
    }

    /// The documents behind the place that the building of a unique index has reached here, linearizably, with their values.
    pub(super) async fn unique_page(
        &self,
        shard: ShardId,
        page: UniquePage,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let replica = self.replica(shard)?;
        self.barrier(shard, deadline).await?;
        let read = move || read_page(&replica, page);
        Ok(Answer::Values(self.reads.run(deadline, read).await?))
    }
}

fn read_page(replica: &Replica, page: UniquePage) -> Result<ValuesPage> {
    let UniquePage {
        database,
        bucket,
        index,
    } = page;
    let view = replica.view();
    let known = index_of(&view, database, bucket, index)?;
    let known =
        known.ok_or_else(|| Error::unavailable("the shard does not keep the index up yet"))?;
    let mut found = ValuesPage::default();
    match indexes::progress(replica, database, bucket, index)? {
        Progress::Complete => {
            found.is_complete = true;
            return Ok(found);
        }
        Progress::More { after } => found.after = after,
        Progress::Impossible { key } => {
            found.crowded = Some(key);
            return Ok(found);
        }
    }
    let from = match found.after.as_str() {
        "" => Bound::Unbounded,
        after => Bound::Excluded(after),
    };
    let mut values = 0;
    for (visited, row) in documents::scan(&view, database, bucket, from).enumerate() {
        let (key, record) = row?;
        let Some(hashes) = values_of(&known, &record)? else {
            found.crowded = Some(key);
            return Ok(found);
        };
        values += hashes.len();
        let is_full = visited + 1 >= PAGE_VISITS
            || found.documents.len() + 1 >= PAGE_DOCUMENTS as usize
            || values >= PAGE_VALUES;
        if is_full {
            found.upto.clone_from(&key);
        }
        if !hashes.is_empty() {
            found.documents.push(DocumentValues {
                key,
                version: record.version,
                values: hashes
                    .iter()
                    .map(|hash| Bytes::copy_from_slice(hash))
                    .collect(),
            });
        }
        if is_full {
            break;
        }
    }
    Ok(found)
}

/// An index of a bucket as the shard has it.
fn index_of(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    index: u32,
) -> Result<Option<Index>> {
    let all = indexes::of_bucket(view, database, bucket)?;
    Ok(all
        .into_iter()
        .find(|known| known.id == index)
        .map(|known| known.index))
}

/// The values of a document; `None`: too many.
fn values_of(index: &Index, record: &Record) -> Result<Option<Vec<ValueHash>>> {
    let Some(parts) = envelope(&record.body) else {
        let cause = "a document is not stored in normal form";
        return Err(Error::internal(&cause).with_effect(proto::Effect::None));
    };
    let subject = Subject {
        id: parts.id,
        version: record.version,
        created_us: i64::try_from(record.created_us).unwrap_or(i64::MAX),
        updated_us: i64::try_from(record.updated_us).unwrap_or(i64::MAX),
        fields: parts.fields,
    };
    Ok(index.unique_values(&subject).ok())
}

/// The parts of a value on the wire.
fn value_of(value: Option<&UniqueValue>) -> Result<(UniqueValue, ValueHash)> {
    let malformed = || Error::bad_request("malformed value of a unique index");
    let value = value.ok_or_else(malformed)?;
    let hash = ValueHash::try_from(&value.value[..]).map_err(|_| malformed())?;
    Ok((value.clone(), hash))
}

/// The commands that may come this way. All others have operations of their own, which judge rights and rules.
fn is_internal(operation: &command::Operation) -> bool {
    match operation {
        command::Operation::BackfillIndex(_)
        | command::Operation::BackfillNotingLists(_)
        | command::Operation::PurgeIndex(_)
        | command::Operation::ClearBucket(_)
        | command::Operation::ReserveValue(_)
        | command::Operation::ConfirmValue(_)
        | command::Operation::ReleaseValue(_)
        | command::Operation::FenceClaims(_)
        | command::Operation::EndSessions(_)
        | command::Operation::SettleSessions(_)
        | command::Operation::ForgetRights(_) => true,
        command::Operation::Write(_)
        | command::Operation::Batch(_)
        | command::Operation::SetBuckets(_)
        | command::Operation::Idle(_)
        | command::Operation::BackfillReaders(_)
        | command::Operation::ExpireIdempotency(_)
        | command::Operation::CountUsage(_)
        | command::Operation::ExpireAudit(_)
        | command::Operation::ExpireDocuments(_)
        | command::Operation::TrimChanges(_)
        | command::Operation::ExpireStale(_)
        | command::Operation::Watermark(_) => false,
    }
}

/// Whether a command adds what stays. The others go on while a disk is nearly full.
fn takes_room(operation: &command::Operation) -> bool {
    matches!(
        operation,
        command::Operation::BackfillIndex(_)
            | command::Operation::BackfillNotingLists(_)
            | command::Operation::ReserveValue(_)
    )
}
