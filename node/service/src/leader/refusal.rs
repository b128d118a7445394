//! Why a write is refused: foreseen on stored state, in the same order as apply checks, and worded for the client.

use document::acl::{self, Principal};
use document::id::object_id;
use proto::ErrorCode;
use storage::machine::outcome::Rejection;
use storage::tables::documents::Record;

use super::prepare::Prepared;
use crate::context::Condition;
use crate::error::Error;
use crate::forward::Write;
use crate::limits::RETRY_AFTER;

/// What apply would say, in apply's order: the condition on absent documents, rights, the condition on present ones.
pub(super) fn refusal(
    prepared: &Prepared,
    stored: Option<&Record>,
    principal: &Principal,
) -> Option<Rejection> {
    let condition = prepared.condition;
    let Some(record) = stored else {
        let missing = matches!(condition, Condition::Exists | Condition::Version(_));
        let out_of_date = missing.then_some(Rejection::OutOfDate { stored: None });
        return out_of_date.or(prepared.is_update().then_some(Rejection::NotFound));
    };
    if condition == Condition::Absent {
        return Some(Rejection::Exists {
            version: record.version,
        });
    }
    let stored_acl = record.acl.as_ref();
    if !acl::may_write(stored_acl, principal) {
        let would_change_acl = prepared.is_put() && prepared.acl.as_ref() != stored_acl;
        let told = would_change_acl && acl::may_read(stored_acl, principal);
        return Some(if told {
            Rejection::AclChangeDenied
        } else {
            Rejection::Denied
        });
    }
    match condition {
        Condition::Version(version) if version != record.version => Some(Rejection::OutOfDate {
            stored: Some(record.version),
        }),
        Condition::Version(_) | Condition::None | Condition::Exists | Condition::Absent => {
            let unreadable = prepared.is_update() && !acl::may_read(stored_acl, principal);
            unreadable.then_some(Rejection::Denied)
        }
    }
}

/// Whether a rejection is about the precondition.
pub(super) fn is_condition(rejection: &Rejection) -> bool {
    matches!(
        rejection,
        Rejection::Exists { .. } | Rejection::OutOfDate { .. }
    )
}

/// The client's view of a rejection.
pub(super) fn rejected(
    rejection: &Rejection,
    write: Option<&Write>,
    prepared: Option<&Prepared>,
) -> Error {
    let id = write
        .map(|write| object_id(&write.bucket, &write.key))
        .unwrap_or_default();
    match rejection {
        // Its version is not told: the caller may not be allowed to read it.
        Rejection::Exists { .. } => Error::new(ErrorCode::ObjectExists, format!("{id} exists")),
        Rejection::OutOfDate {
            stored: Some(version),
        } => Error::new(
            ErrorCode::ObjectOutOfDate,
            format!("{id} is at version {version}"),
        ),
        Rejection::OutOfDate { stored: None } => {
            Error::new(ErrorCode::ObjectOutOfDate, format!("{id} does not exist"))
        }
        Rejection::NotFound => {
            Error::new(ErrorCode::ObjectNotFound, format!("{id} does not exist"))
        }
        Rejection::Misfit { step, why } => {
            let step = prepared.map(|prepared| prepared.step_text(*step));
            let why = document::update::Misfit::from(*why);
            Error::bad_request(format!("{}: {why}", step.unwrap_or_default()))
        }
        Rejection::TooLarge { bytes_max } => Error::new(
            ErrorCode::BodyTooLarge,
            format!(
                "the write would make more than {bytes_max} bytes of documents, or of entries of indexes"
            ),
        ),
        Rejection::Denied => Error::new(
            ErrorCode::PermissionDenied,
            format!("{id} may not be written by the caller"),
        ),
        Rejection::AclChangeDenied => {
            let message = format!("the acl of {id} may not be changed by the caller");
            Error::new(ErrorCode::InvalidPermissionModification, message)
        }
        // Never ends a request; see `Round::Revalidate`.
        Rejection::SchemaChanged { .. } => Error::unavailable("a schema change is under way"),
        Rejection::BucketDropped => {
            Error::bucket_not_found(write.map_or("", |write| &write.bucket))
        }
        // Never ends a request; see `Round::Unclaimed`.
        Rejection::Unclaimed { .. } => Error::unavailable("others compete for a unique value"),
        Rejection::TooManyValues { values_max, .. } => Error::bad_request(format!(
            "{id} would have more than {values_max} values in an index"
        )),
        Rejection::IdempotencyMismatch => Error::new(
            ErrorCode::IdempotencyMismatch,
            "the idempotency key was used for another request",
        ),
        Rejection::IdempotencyBudget => {
            let message = "too many idempotency keys are remembered; retry later, or without one";
            Error::new(ErrorCode::TooManyRequests, message).with_retry_after(RETRY_AFTER)
        }
    }
}
