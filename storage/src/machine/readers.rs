//! Entering the documents of a bucket that were there before under the references that may read them.
//!
//! The first page makes every write from then on keep the entries up, so the pages only have to add what documents of before lack. As with
//! indexes the position is in the shard's state, any leader goes on, and a page that comes twice does no harm.
//!
//! It is a command, and not a habit of writes, so that nothing of it happens before a leader asks for it: replicas of a release that does
//! not know it stop at the command instead of drifting apart.

use std::ops::ControlFlow;

use proto::log::BackfillReaders;

use super::Transaction;
use super::indexes::{BACKFILL_PAGE_MAX, page_of, rejected};
use super::outcome::{Outcome, Progress, Rejection};
use crate::error::Result;
use crate::keys::{BucketKey, ReaderEntryKey};
use crate::tables::documents::{self, Entry};
use crate::tables::indexes::{self, ProgressRow};
use crate::tables::{buckets, readers};

/// Bytes of documents and their entries after which a page ends.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Enters the next page of documents.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode.
pub(super) fn backfill(tx: &mut Transaction<'_>, command: &BackfillReaders) -> Result<Outcome> {
    let (database, bucket) = (command.database, command.bucket);
    let key = BucketKey { database, bucket };
    let Some(row) = buckets::get_row(tx, key)? else {
        return Ok(rejected(Rejection::SchemaChanged { stored: None }));
    };
    let mut row = buckets::decode(&row)?;
    if row.dropped {
        return Ok(rejected(Rejection::BucketDropped));
    }
    if !row.keeps_readers {
        row.keeps_readers = true;
        buckets::put(tx, key, &row)?;
    }
    let key = readers::progress_key(database, bucket);
    let progress = indexes::progress_row(tx, key)?;
    let progress = progress.map_or_else(Progress::begun, ProgressRow::of_building);
    let Progress::More { after } = progress else {
        return Ok(Outcome::Progress(progress));
    };
    let page = look(tx, command, &after)?;
    for (key, taken) in &page.taken {
        for &reader in taken {
            readers::put(
                tx,
                ReaderEntryKey {
                    database,
                    bucket,
                    reader,
                    key,
                },
            );
        }
    }
    let progress = match page.last.filter(|_| page.is_full) {
        Some(after) => Progress::More { after },
        None => Progress::Complete,
    };
    let row = match &progress {
        Progress::More { after } => ProgressRow::Building {
            after: after.clone(),
        },
        Progress::Complete | Progress::Impossible { .. } => ProgressRow::Complete,
    };
    indexes::set_progress(tx, key, &row)?;
    Ok(Outcome::Progress(progress))
}

/// What a page found.
#[derive(Default)]
struct Page {
    /// Documents and tombstones that were looked at.
    looked: usize,
    bytes: usize,
    /// Key of the last of them.
    last: Option<String>,
    /// Keys of documents, each with what it is to be entered under.
    taken: Vec<(String, Vec<u64>)>,
    /// There is more.
    is_full: bool,
}

/// Looks at a page of documents behind `after`.
fn look(tx: &Transaction<'_>, command: &BackfillReaders, after: &str) -> Result<Page> {
    let (database, bucket) = (command.database, command.bucket);
    let count = page_of(command.page, BACKFILL_PAGE_MAX);
    let mut page = Page::default();
    documents::visit_behind(tx, database, bucket, after, &mut |key, row| {
        if page.looked >= count || page.bytes >= PAGE_BYTES_MAX {
            page.is_full = true;
            return Ok(ControlFlow::Break(()));
        }
        if let Entry::Live { record, .. } = documents::decode(row)? {
            let taken = readers::of_object(record.acl.as_ref());
            page.bytes += taken.len() * key.len();
            page.taken.push((key.to_owned(), taken));
        }
        page.looked += 1;
        page.bytes += row.len();
        page.last = Some(key.to_owned());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(page)
}
