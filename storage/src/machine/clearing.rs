//! Deleting the documents of a dropped bucket, page by page.
//!
//! Each document goes as if somebody had deleted it: with a version, a tombstone and an event, so that feeds, histories and counts of usage hear
//! of it. The tombstones stay, as after any delete: a feed that goes on from long ago is told of deletes by them.
//!
//! As with indexes the position is in the shard's state: any leader goes on, and a page that comes twice does no harm. A bucket takes no
//! writes once it is dropped, and its id is never used again, so a page that was passed stays empty.
//!
//! With the last page goes what the shard still keeps for writes of the bucket: fences, and where its entries of readers stand. Entries and
//! reservations of its indexes are purged as those of any dropped index.

use std::ops::ControlFlow;

use document::acl::Principal;
use proto::log::ClearBucket;

use super::Transaction;
use super::indexes::{page_of, rejected};
use super::outcome::{Outcome, Progress, Rejection};
use super::write::Writer;
use crate::error::Result;
use crate::ids::LogId;
use crate::keys::{BucketKey, DocumentKey, IndexProgressKey};
use crate::tables::documents::{self, Entry};
use crate::tables::indexes::{self, ProgressRow};
use crate::tables::{buckets, readers, reservations};

/// Documents and tombstones that one entry looks at at most, whatever it asks for: bounds the time of its apply.
pub const CLEAR_PAGE_MAX: usize = 1_000;

/// Bytes of documents after which a page ends: they are held until its batch is written.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// In place of the id of an index where it is stored how far a bucket is cleared. Ids of indexes are counted up from 1.
const PROGRESS_ID: u32 = u32::MAX;

/// Deletes the next page.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode.
pub(super) fn clear(
    tx: &mut Transaction<'_>,
    id: LogId,
    stamp_us: u64,
    command: &ClearBucket,
) -> Result<Outcome> {
    let (database, bucket) = (command.database, command.bucket);
    let row = buckets::get_row(tx, BucketKey { database, bucket })?;
    let row = row.as_deref().map(buckets::decode).transpose()?;
    if row.as_ref().is_none_or(|row| !row.dropped) {
        let stored = row.map(|row| row.version);
        return Ok(rejected(Rejection::SchemaChanged { stored }));
    }
    let key = IndexProgressKey {
        database,
        bucket,
        index: PROGRESS_ID,
    };
    let progress = indexes::progress_row(tx, key)?;
    let Progress::More { after } = progress.map_or_else(Progress::begun, ProgressRow::of_building)
    else {
        return Ok(Outcome::Progress(Progress::Complete));
    };
    let page = look(tx, command, &after)?;
    let time_us = tx.next_stamp(stamp_us);
    let nobody = Principal::anonymous();
    let mut writer = Writer::new(tx, &nobody, id.index, stamp_us, time_us);
    for key in &page.live {
        writer.clear(DocumentKey {
            database,
            bucket,
            key,
        })?;
    }
    if writer.has_written() {
        tx.set_stamp(time_us);
    }
    let Some(after) = page.last.filter(|_| page.is_full) else {
        reservations::remove_fences(tx, database, bucket)?;
        indexes::remove_progress(tx, readers::progress_key(database, bucket))?;
        indexes::set_progress(tx, key, &ProgressRow::Complete)?;
        return Ok(Outcome::Progress(Progress::Complete));
    };
    let row = ProgressRow::Building {
        after: after.clone(),
    };
    indexes::set_progress(tx, key, &row)?;
    Ok(Outcome::Progress(Progress::More { after }))
}

/// What a page found.
#[derive(Default)]
struct Page {
    /// Documents and tombstones that were looked at.
    looked: usize,
    bytes: usize,
    /// Key of the last of them.
    last: Option<String>,
    /// Keys of the documents.
    live: Vec<String>,
    /// There is more.
    is_full: bool,
}

/// Looks at a page of documents behind `after`.
fn look(tx: &Transaction<'_>, command: &ClearBucket, after: &str) -> Result<Page> {
    let count = page_of(command.page, CLEAR_PAGE_MAX);
    let mut page = Page::default();
    documents::visit_behind(
        tx,
        command.database,
        command.bucket,
        after,
        &mut |key, row| {
            if page.looked >= count || page.bytes >= PAGE_BYTES_MAX {
                page.is_full = true;
                return Ok(ControlFlow::Break(()));
            }
            if let Entry::Live { .. } = documents::decode(row)? {
                page.live.push(key.to_owned());
            }
            page.looked += 1;
            page.bytes += row.len();
            page.last = Some(key.to_owned());
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok(page)
}
