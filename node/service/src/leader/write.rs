//! Writes at the leader.
//!
//! The order of steps is what makes them cheap and safe: validation needs no state; the idempotency record comes before any refusal,
//! since a repetition must hear what happened and not what would happen now; the pre-check on applied state saves a log entry for a
//! write that apply would refuse, and is believed only behind a read barrier; everything else is apply's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::state::Database;
use document::acl::Principal;
use document::body::{render, with_expiry};
use proto::ErrorCode;
use proto::log::command;
use proto::log::mutation::Operation;
use storage::machine::Replica;
use storage::machine::outcome::{Outcome, Rejection, Written};
use storage::tables::documents::{self, CachedRecord};
use storage::tables::idempotency::{self, Fingerprint, Target};

use super::near;
use super::prepare::{Prepared, fingerprint, located};
use super::refusal::{is_condition, refusal, rejected};
use super::{Shards, find_database};
use crate::auth::grant::{Grant, WriteGrant};
use crate::auth::policy::USERS;
use crate::error::{Error, Result};
use crate::forward::{Answer, Failure, Request, Write, Writes, WrittenAll, WrittenOne};
use crate::limits::RETRY_AFTER;
use crate::unique::Held;

/// First pause while a shard has not heard of a schema change that is on its way.
const FENCE_PAUSE: Duration = Duration::from_millis(5);
/// Longest such pause.
const FENCE_PAUSE_MAX: Duration = Duration::from_millis(100);

/// What a repetition of the request is found by.
#[derive(Clone, Copy)]
struct Repetition {
    scope: u128,
    fingerprint: Fingerprint,
}

/// What one round of a write led to.
#[expect(
    clippy::large_enum_variant,
    reason = "one for each try of a write, at once taken apart: a box would cost more than the room"
)]
enum Round {
    /// The end.
    Over(Answer),
    /// Validate again: the shard has other rules of the bucket.
    Revalidate {
        /// The version that the shard has.
        stored: Option<u64>,
        /// The version that the write was validated under.
        ours: u64,
    },
    /// What was decided on stored state does not hold any more; decide again.
    Again,
    /// The document would have a value of a unique index that is not claimed; reserve again.
    Unclaimed,
}

impl Shards {
    /// Carries out one write or a batch.
    pub(super) async fn write(
        &self,
        request: &Request,
        writes: &Writes,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let mut pause = FENCE_PAUSE;
        let mut held = Held::new(&self.unique);
        loop {
            match self
                .write_round(request, writes, &mut held, deadline)
                .await?
            {
                Round::Over(answer) => {
                    held.written();
                    if writes.writes.iter().any(|write| write.bucket == USERS) {
                        Box::pin(self.end_sessions(request.shard, writes, deadline)).await?;
                    }
                    return Ok(answer);
                }
                Round::Again => {}
                Round::Unclaimed => {
                    let competed = || {
                        let message =
                            "others compete for values of unique indexes that the write takes";
                        Failure::Refused(Error::unavailable(message))
                    };
                    let pause = held.miss().ok_or_else(competed)?;
                    tokio::time::sleep_until(deadline.min(Instant::now() + pause).into()).await;
                }
                Round::Revalidate { stored, ours } => {
                    self.await_schema(writes, stored, ours, deadline.min(Instant::now() + pause))
                        .await;
                    pause = (pause * 2).min(FENCE_PAUSE_MAX);
                }
            }
            if Instant::now() >= deadline {
                return Err(Failure::Busy(Error::unavailable(
                    "a schema change is under way, or others compete for unique values",
                )));
            }
        }
    }

    async fn write_round(
        &self,
        request: &Request,
        writes: &Writes,
        held: &mut Held,
        deadline: Instant,
    ) -> Result<Round, Failure> {
        let shard = request.shard;
        let replica = self.replica(shard)?;
        let state = self.metadata.current();
        let database = find_database(&state, &writes.database)?;
        let mut prepared = self.prepare_all(&state, database, request, writes)?;
        let repetition = repetition(request, writes, database, &prepared);

        if let Some(repetition) = repetition {
            let lookup = (Arc::clone(&replica), repetition.scope);
            let record = self
                .reads
                .run(deadline, move || {
                    Ok(idempotency::lookup(&lookup.0, lookup.1)?)
                })
                .await?;
            if let Some(record) = record {
                let outcome = record.replay(&repetition.fingerprint);
                return self
                    .conclude(outcome, request, writes, &prepared, &replica, deadline)
                    .await;
            }
        }
        let grant = granted(database, request, writes)?;
        if self.seems_refused(&prepared, &replica, &request.principal)?
            || prepared.iter().any(Prepared::is_undecided)
        {
            let outcome = self
                .check_behind_barrier(
                    request,
                    writes,
                    &mut prepared,
                    repetition,
                    &replica,
                    deadline,
                )
                .await?;
            if let Some(outcome) = outcome {
                return self
                    .conclude(outcome, request, writes, &prepared, &replica, deadline)
                    .await;
            }
        }
        self.check_room(writes)?;
        self.check_quota(&state, database, writes)?;
        if has_unique(database, writes) {
            Box::pin(self.claim(
                &state,
                database,
                request,
                writes,
                &mut prepared,
                &replica,
                held,
                deadline,
            ))
            .await?;
        }
        let command = self.command(
            shard,
            &replica,
            log_operation(&grant, request, writes, &mut prepared, repetition),
        );
        let outcome = self.propose(shard, &command, deadline).await?;
        if let Some(operation) = command.operation {
            take_back(operation, &mut prepared);
        }
        for prepared in &prepared {
            let (database, bucket) = (prepared.mutation.database, prepared.mutation.bucket);
            let place = (shard, database, bucket);
            self.readers.written(place, prepared.acl.as_ref());
        }
        self.conclude(outcome, request, writes, &prepared, &replica, deadline)
            .await
    }

    /// Refuses on a disk that is nearly full, before anything is proposed. Deletes alone are what makes room, and go on.
    fn check_room(&self, writes: &Writes) -> Result<()> {
        if writes.writes.iter().all(|write| write.delete) {
            return Ok(());
        }
        self.check_disk()
    }

    /// The same for whatever takes room.
    pub(super) fn check_disk(&self) -> Result<()> {
        self.groups.no_room().map_or(Ok(()), |why| {
            Err(Error::new(ErrorCode::DiskFull, why).with_retry_after(RETRY_AFTER))
        })
    }

    /// Whether apply would refuse the write, as far as memory knows. Without an answer there, apply is asked.
    fn seems_refused(
        &self,
        prepared: &[Prepared],
        replica: &Replica,
        principal: &Principal,
    ) -> Result<bool> {
        for prepared in prepared {
            let mutation = &prepared.mutation;
            let stored = match documents::get_cached(
                replica,
                mutation.database,
                mutation.bucket,
                &mutation.key,
            )? {
                CachedRecord::Found(record) => Some(record),
                CachedRecord::Absent => None,
                CachedRecord::NeedsDisk => continue,
            };
            if refusal(prepared, stored.as_ref(), principal).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The same question on state that is certainly current. Also decides upserts that must know whether they insert.
    async fn check_behind_barrier(
        &self,
        request: &Request,
        writes: &Writes,
        prepared: &mut [Prepared],
        repetition: Option<Repetition>,
        replica: &Arc<Replica>,
        deadline: Instant,
    ) -> Result<Option<Outcome>, Failure> {
        self.barrier(request.shard, deadline).await?;
        let keys: Vec<_> = prepared
            .iter()
            .map(|prepared| {
                (
                    prepared.mutation.database,
                    prepared.mutation.bucket,
                    prepared.mutation.key.clone(),
                )
            })
            .collect();
        let from = Arc::clone(replica);
        let read = move || {
            // The first try may have been applied behind our back, under the barrier.
            let record = match repetition {
                Some(repetition) => idempotency::lookup(&from, repetition.scope)?,
                None => None,
            };
            let stored = keys
                .iter()
                .map(|(database, bucket, key)| documents::get(&from, *database, *bucket, key));
            Ok((record, stored.collect::<storage::Result<Vec<_>>>()?))
        };
        let (record, stored) = self.reads.run(deadline, read).await?;
        if let (Some(record), Some(repetition)) = (record, repetition) {
            return Ok(Some(record.replay(&repetition.fingerprint)));
        }
        // A batch may write a document twice; only apply knows what the first write leaves for the second.
        let mut seen = std::collections::HashSet::new();
        for (ordinal, (prepared, stored)) in prepared.iter_mut().zip(&stored).enumerate() {
            let write = &writes.writes[ordinal];
            if !seen.insert((&write.bucket, &write.key)) {
                continue;
            }
            if let Some(rejection) = refusal(prepared, stored.as_ref(), &request.principal) {
                return Ok(Some(Outcome::Rejected { ordinal, rejection }));
            }
            if prepared.is_undecided() {
                prepared.decide(stored.as_ref());
            }
        }
        Ok(None)
    }

    /// Waits a while for whoever is behind: this node's metadata, which tells when it has caught up, or the shard, which does not.
    async fn await_schema(&self, writes: &Writes, stored: Option<u64>, ours: u64, until: Instant) {
        match stored {
            Some(stored) if stored > ours => {
                self.metadata
                    .wait(until, |state| {
                        let known = state
                            .database(&writes.database)
                            .map(|database| database.schema_version);
                        known.is_none_or(|version| version >= stored)
                    })
                    .await;
            }
            Some(_) | None => tokio::time::sleep_until(until.into()).await,
        }
    }

    /// The answer that an outcome means for the client.
    async fn conclude(
        &self,
        outcome: Outcome,
        request: &Request,
        writes: &Writes,
        prepared: &[Prepared],
        replica: &Arc<Replica>,
        deadline: Instant,
    ) -> Result<Round, Failure> {
        match outcome {
            Outcome::Written(all) => {
                let mut answers = Vec::with_capacity(all.len());
                for (at, written) in all.into_iter().enumerate() {
                    let Some((prepared, write)) = prepared.get(at).zip(writes.writes.get(at))
                    else {
                        return Err(Failure::Unknown);
                    };
                    answers.push(
                        self.written(written, prepared, write, replica, deadline)
                            .await?,
                    );
                }
                Ok(Round::Over(Answer::Written(WrittenAll {
                    written: answers,
                    index: near::index(replica),
                })))
            }
            Outcome::Rejected {
                ordinal,
                rejection: Rejection::SchemaChanged { stored },
            } => {
                let ours = prepared
                    .get(ordinal)
                    .map_or(0, |prepared| prepared.mutation.bucket_version);
                Ok(Round::Revalidate { stored, ours })
            }
            Outcome::Rejected {
                rejection: Rejection::Unclaimed { .. },
                ..
            } => Ok(Round::Unclaimed),
            Outcome::Rejected { ordinal, rejection } => {
                // The condition was ours, not the client's. Under a key the rejection is on record, and final.
                let ours = prepared.get(ordinal).is_some_and(Prepared::is_undecided)
                    && is_condition(&rejection);
                if ours && request.idempotency_key.is_none() {
                    return Ok(Round::Again);
                }
                let write = writes.writes.get(ordinal).or(writes.writes.first());
                let error = rejected(&rejection, write, prepared.get(ordinal));
                let error = if writes.batch {
                    located(error, ordinal)
                } else {
                    error
                };
                tracing::debug!(shard = %request.shard, code = %error.code, "write refused");
                Err(Failure::Refused(error))
            }
            Outcome::Done
            | Outcome::Progress(_)
            | Outcome::Reserved { .. }
            | Outcome::Fenced { .. } => Err(Failure::Unknown),
        }
    }

    /// What became of one write; a repetition's body is made again.
    async fn written(
        &self,
        written: Written,
        prepared: &Prepared,
        write: &Write,
        replica: &Arc<Replica>,
        deadline: Instant,
    ) -> Result<WrittenOne> {
        let mut answer = WrittenOne {
            version: written.version,
            existed: written.existed,
            body: written.body.clone(),
        };
        if !written.replayed || !prepared.is_put() {
            return Ok(answer);
        }
        let mutation = &prepared.mutation;
        let grant = Grant::of_repetition(mutation.database, mutation.bucket);
        let stored = self
            .record(replica, &grant, &mutation.key, deadline)
            .await?;
        answer.body = match stored {
            Some(record) if record.version == written.version => record.body,
            Some(_) | None => rebuilt(&written, prepared, write).into(),
        };
        Ok(answer)
    }
}

/// Whether the rules of their classes let the caller do all of the writes.
fn granted(database: &Database, request: &Request, writes: &Writes) -> Result<WriteGrant> {
    WriteGrant::of_caller(database, writes, &request.principal).map_err(|(ordinal, error)| {
        match writes.batch {
            true => located(error, ordinal),
            false => error,
        }
    })
}

/// The document as the repeated request wrote it, which has been overwritten since. Read-only fields are as the request has them, and so
/// is the expiry: if it had none, none is shown.
fn rebuilt(written: &Written, prepared: &Prepared, write: &Write) -> Vec<u8> {
    let Some(Operation::Put(put)) = &prepared.mutation.operation else {
        return Vec::new();
    };
    let acl = if written.existed {
        prepared.acl.as_ref()
    } else {
        prepared.acl_if_inserted()
    };
    let time = |us: u64| i64::try_from(us).unwrap_or(i64::MAX);
    let (created, updated) = (time(written.created_us), time(written.updated_us));
    let expires = put.expiry.and_then(|expiry| expiry.at_us);
    let fields = match expires {
        Some(at_us) => with_expiry(&put.fields, at_us).into(),
        None => put.fields.clone(),
    };
    render(
        &write.bucket,
        &write.key,
        written.version,
        acl,
        created,
        updated,
        &fields,
    )
}

/// Whether some value of what is written must be unique. Of most buckets there is none, and their writes must not pay for it.
fn has_unique(database: &Database, writes: &Writes) -> bool {
    writes.writes.iter().any(|write| {
        let bucket = database.buckets.get(&write.bucket);
        let mut indexes = bucket
            .into_iter()
            .flat_map(|bucket| database.indexes_of(bucket.id));
        indexes.any(|index| index.unique && index.state.is_kept_up())
    })
}

/// What makes a request the same as an earlier one.
fn repetition(
    request: &Request,
    writes: &Writes,
    database: &Database,
    prepared: &[Prepared],
) -> Option<Repetition> {
    let key = request.idempotency_key.as_deref()?;
    let target = match prepared {
        [one] if !writes.batch => Target::Document {
            bucket: one.mutation.bucket,
            key: &one.mutation.key,
        },
        _ => Target::Batch,
    };
    let user = request.principal.user.as_deref().unwrap_or_default();
    let scope = idempotency::scope(database.id, user, key, target);
    Some(Repetition {
        scope,
        fingerprint: fingerprint(writes, database.id),
    })
}

/// Moves the mutations into the operation of a command. Only for what was granted.
fn log_operation(
    _: &WriteGrant,
    request: &Request,
    writes: &Writes,
    prepared: &mut [Prepared],
    repetition: Option<Repetition>,
) -> command::Operation {
    let principal = proto::log::Principal {
        user: request.principal.user.clone().unwrap_or_default(),
        roles: request.principal.roles.clone(),
    };
    let idempotency = repetition.map(|repetition| proto::log::Idempotency {
        key: request.idempotency_key.clone().unwrap_or_default(),
        fingerprint: repetition.fingerprint.to_vec().into(),
    });
    let mut mutations = prepared
        .iter_mut()
        .map(|prepared| std::mem::take(&mut prepared.mutation));
    if writes.batch {
        let mutations = mutations.collect();
        return command::Operation::Batch(proto::log::Batch {
            principal: Some(principal),
            idempotency,
            mutations,
        });
    }
    let mutation = mutations.next();
    command::Operation::Write(proto::log::Write {
        principal: Some(principal),
        idempotency,
        mutation,
    })
}

/// Moves them back, for answers that are made from the request.
fn take_back(operation: command::Operation, prepared: &mut [Prepared]) {
    let mutations = match operation {
        command::Operation::Write(write) => write.mutation.into_iter().collect(),
        command::Operation::Batch(batch) => batch.mutations,
        command::Operation::SetBuckets(_)
        | command::Operation::Idle(_)
        | command::Operation::ExpireIdempotency(_)
        | command::Operation::BackfillIndex(_)
        | command::Operation::BackfillNotingLists(_)
        | command::Operation::BackfillReaders(_)
        | command::Operation::PurgeIndex(_)
        | command::Operation::ClearBucket(_)
        | command::Operation::ReserveValue(_)
        | command::Operation::ConfirmValue(_)
        | command::Operation::ReleaseValue(_)
        | command::Operation::FenceClaims(_)
        | command::Operation::EndSessions(_)
        | command::Operation::SettleSessions(_)
        | command::Operation::ForgetRights(_)
        | command::Operation::CountUsage(_)
        | command::Operation::ExpireAudit(_)
        | command::Operation::ExpireDocuments(_)
        | command::Operation::TrimChanges(_)
        | command::Operation::ExpireStale(_)
        | command::Operation::Watermark(_) => Vec::new(),
    };
    for (prepared, mutation) in prepared.iter_mut().zip(mutations) {
        prepared.mutation = mutation;
    }
}
