//! The change log from its other end: events that are old enough, or one too many, leave in their order; and events that are about no
//! document.
//!
//! Age counts in T, the shard's time, which runs slow but never fast: an event stays at least as long as was said. How long, and how many
//! bytes, is the leader's configuration and comes with the entry, so that all replicas keep the same.

use std::ops::{Bound, ControlFlow};

use proto::log;

use super::Transaction;
use crate::engine::Column;
use crate::error::Result;
use crate::keys::{BucketKey, ChangeKey, prefix_end};
use crate::tables::buckets::BucketRow;
use crate::tables::change_log::{self, NewEvent, Operation};

/// Events that one entry removes at most, whatever it asks for: bounds the time of its apply.
pub const CHANGES_PAGE_MAX: usize = 1_000;

/// Removes a page of events, the oldest first, for as long as they are due.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode.
pub(super) fn trim(tx: &mut Transaction<'_>, command: &log::TrimChanges) -> Result<()> {
    let page = usize::try_from(command.page)
        .unwrap_or(usize::MAX)
        .min(CHANGES_PAGE_MAX);
    let (now_us, stored) = (tx.time_us(), tx.changes());
    let end = prefix_end(&ChangeKey::prefix());
    let (mut keys, mut bytes) = (Vec::new(), 0);
    let first = stored.trimmed.encode();
    tx.visit(
        Column::Changes,
        Bound::Excluded(&first),
        end.as_ref().map(Vec::as_slice),
        &mut |key, row| {
            let age_us = now_us.saturating_sub(change_log::logged_us(&row)?);
            let left = stored.bytes.saturating_sub(bytes);
            let is_due = age_us >= command.kept_us || left > command.bytes_max;
            if keys.len() >= page || !is_due {
                return Ok(ControlFlow::Break(()));
            }
            bytes += (key.len() + row.len()) as u64;
            keys.push(key);
            Ok(ControlFlow::Continue(()))
        },
    )?;
    if let Some(last) = keys.last() {
        tx.note_trimmed(ChangeKey::decode(last)?, bytes);
    }
    for key in keys {
        tx.delete(Column::Changes, &key);
    }
    Ok(())
}

/// Tells that the bucket has new rules: from here on the shard's writes are under them.
pub(super) fn tell_rules(
    tx: &mut Transaction<'_>,
    position: ChangeKey,
    time_us: u64,
    key: BucketKey,
    row: &BucketRow<'_>,
) {
    let event = NewEvent {
        logged_us: tx.time_us(),
        time_us,
        database: key.database,
        bucket: key.bucket,
        key: row.name,
        operation: Operation::Rules,
        version: row.version,
        acl: None,
        body: if row.dropped {
            br#"{"dropped":true}"#
        } else {
            br#"{"dropped":false}"#
        },
        before: None,
        deleted_at: None,
        lifetime_ms: 0,
        user: "",
        by_expiry: false,
    };
    change_log::put(tx, position, &event);
}
