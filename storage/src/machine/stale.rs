//! What makes cached copies stale: writes of documents, and new rules of a bucket; and the command that forgets what has run out.

use proto::log::ExpireStale;

use super::Transaction;
use super::lifetime::Caching;
use crate::error::Result;
use crate::keys::{BucketKey, ChangeKey};
use crate::tables::stale::{self, StaleRow};

/// Rows that one entry removes at most, whatever it asks for.
pub const STALE_PAGE_MAX: usize = 1_000;

/// Every document of a bucket is to be asked about, if its new rules leave copies with those who may not have them.
pub(super) fn note_rules(
    tx: &mut Transaction<'_>,
    at: ChangeKey,
    bucket: BucketKey,
    stored: Option<Caching>,
    now: Option<Caching>,
    dropped: bool,
) -> Result<()> {
    let Some(now) = now else { return Ok(()) };
    if !dropped && !now.outdates(stored) {
        return Ok(());
    }
    let row = StaleRow {
        database: bucket.database,
        bucket: bucket.bucket,
        lifetime_ms: now.longest_ms,
        document: None,
    };
    stale::put(tx, at, &row)
}

/// Forgets a page of what no cache holds any more.
pub(super) fn expire(tx: &mut Transaction<'_>, command: &ExpireStale) -> Result<()> {
    let page = usize::try_from(command.page).unwrap_or(usize::MAX);
    stale::expire(tx, page.min(STALE_PAGE_MAX))
}
