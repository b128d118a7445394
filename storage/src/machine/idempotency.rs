//! Requests with an idempotency key: looked up before anything else, recorded with whatever they led to, removed when they are old.

use proto::log;

use super::Transaction;
use super::outcome::{Outcome, Rejection};
use crate::error::{Error, Result};
use crate::tables::idempotency::{
    self, Fingerprint, IdempotencyRecord, RecordedOutcome, RecordedUpdate, RecordedWrite, Target,
};

/// Bytes that the records of one shard may take. A request that finds them taken is rejected; only the record that passes the limit may
/// exceed it.
pub const IDEMPOTENCY_BYTES_MAX: u64 = 64 << 20;

/// Above this records leave before their time, so that there is room again before requests are rejected.
const EARLY_REMOVAL_BYTES: u64 = IDEMPOTENCY_BYTES_MAX / 8 * 7;

/// T for which a record stays whatever happens, in microseconds: longer than any client retries.
pub const IDEMPOTENCY_KEPT_US_MIN: u64 = 10 * 60 * 1_000_000;

/// Records that one entry removes at most, whatever it asks for: bounds the time of its apply.
pub const IDEMPOTENCY_PAGE_MAX: usize = 1_000;

/// A request that has a key and was not seen before.
pub(super) struct Pending {
    scope: u128,
    fingerprint: Fingerprint,
}

/// What is known of a request when it begins.
pub(super) enum Begun {
    /// It is answered already.
    Answered(Outcome),
    /// It is new. What has a key is to be [recorded](record).
    New(Option<Pending>),
}

/// Looks a request up.
///
/// # Errors
/// [`Error::Corrupt`]: a fingerprint of the wrong length, or a row that does not decode.
pub(super) fn begin(
    tx: &mut Transaction<'_>,
    request: Option<&log::Idempotency>,
    database: u32,
    user: &str,
    target: Target<'_>,
) -> Result<Begun> {
    let Some(request) = request else {
        return Ok(Begun::New(None));
    };
    let fingerprint = Fingerprint::try_from(&request.fingerprint[..]).map_err(|_| {
        Error::corrupt(format!(
            "command: fingerprint of {} bytes",
            request.fingerprint.len()
        ))
    })?;
    let scope = idempotency::scope(database, user, &request.key, target);
    if let Some(record) = idempotency::get(tx, scope)? {
        return Ok(Begun::Answered(record.replay(&fingerprint)));
    }
    if idempotency::bytes(tx)? >= IDEMPOTENCY_BYTES_MAX {
        return Ok(Begun::Answered(Outcome::Rejected {
            ordinal: 0,
            rejection: Rejection::IdempotencyBudget,
        }));
    }
    Ok(Begun::New(Some(Pending { scope, fingerprint })))
}

/// Records what a request led to. A change of the schema is no outcome, nor is a value that was not claimed: the service validates or
/// reserves again and proposes the same request.
/// `is_update` tells which of the mutations are partial updates: their bodies are kept.
///
/// # Errors
/// [`Error::Corrupt`]: a row does not decode.
pub(super) fn record(
    tx: &mut Transaction<'_>,
    pending: Pending,
    outcome: &Outcome,
    is_update: impl Fn(usize) -> bool,
) -> Result<()> {
    let outcome = match outcome {
        Outcome::Rejected {
            rejection: Rejection::SchemaChanged { .. } | Rejection::Unclaimed { .. },
            ..
        }
        | Outcome::Done
        | Outcome::Progress(_)
        | Outcome::Reserved { .. }
        | Outcome::Fenced { .. } => return Ok(()),
        Outcome::Rejected { ordinal, rejection } => RecordedOutcome::Rejected {
            ordinal: u32::try_from(*ordinal).unwrap_or(u32::MAX),
            rejection: rejection.clone(),
        },
        Outcome::Written(all) if (0..all.len()).any(&is_update) => {
            let updates = all.iter().enumerate().map(|(at, written)| RecordedUpdate {
                write: written.into(),
                body: if is_update(at) {
                    written.body.to_vec()
                } else {
                    Vec::new()
                },
            });
            RecordedOutcome::Updated(updates.collect())
        }
        Outcome::Written(all) => {
            RecordedOutcome::Written(all.iter().map(RecordedWrite::from).collect())
        }
    };
    let Pending { scope, fingerprint } = pending;
    let created_us = tx.time_us();
    idempotency::put(
        tx,
        scope,
        &IdempotencyRecord {
            fingerprint,
            created_us,
            outcome,
        },
    )
}

/// Removes a page of records that are as old as the command says; where room is short also younger ones, the oldest first, but none that
/// is younger than [`IDEMPOTENCY_KEPT_US_MIN`].
///
/// # Errors
/// [`Error::Corrupt`]: a row does not decode.
pub(super) fn expire(tx: &mut Transaction<'_>, command: &log::ExpireIdempotency) -> Result<()> {
    let page = usize::try_from(command.page)
        .unwrap_or(usize::MAX)
        .min(IDEMPOTENCY_PAGE_MAX);
    idempotency::remove_oldest(tx, page, |age_us, bytes| {
        age_us >= IDEMPOTENCY_KEPT_US_MIN
            && (age_us >= command.kept_us || bytes > EARLY_REMOVAL_BYTES)
    })
}
