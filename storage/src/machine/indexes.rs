//! Building an index of what is there already, and deleting what is left of one that is gone.
//!
//! Both go page by page, each page one entry, and the position is in the shard's state: any leader goes on where the last one stopped,
//! and a page that is proposed twice is done once. Pages are bounded by documents or rows and by bytes, whatever the command asks for.
//!
//! Writes keep an index up from the `SetBuckets` entry on that lists it, so a backfill only has to add what documents of before lack: an
//! entry that a write put there is put again, the same. When it has seen every key there was, the index is complete and stays it.
//!
//! Where types leave open whether documents have lists, the row of an index also says whether any document in it has one: set by the page that
//! meets it, and by the write that brings it. It is never taken back but by building anew.
//!
//! Both are refused as [`Rejection::SchemaChanged`] where the shard's bucket is not as the command supposes: an index to build must be
//! listed, one to purge must not. So a purge never takes entries that writes rely on, and a late page of building puts nothing back.

use std::ops::{Bound, ControlFlow};

use document::body::envelope;
use document::index::Index;
use document::query::Subject;
use proto::log::{BackfillIndex, PurgeIndex};

use super::Transaction;
use super::outcome::{Outcome, Progress, Rejection};
use super::write::is_public;
use crate::engine::Column;
use crate::error::{Error, Result};
use crate::keys::{
    BucketKey, DocumentKey, IndexEntryKey, IndexProgressKey, KeyKind, ReservationKey, prefix_end,
};
use crate::tables::documents::{self, Entry, Record};
use crate::tables::indexes::{self, Places, ProgressRow};
use crate::tables::{buckets, indexes::KeptIndex};

/// Documents that one entry takes into an index at most, whatever it asks for: bounds the time of its apply.
pub const BACKFILL_PAGE_MAX: usize = 1_000;

/// Bytes of documents and their entries after which a page ends: they are held until its batch is written.
const BACKFILL_BYTES_MAX: usize = 4 << 20;

/// Rows that one entry deletes at most, whatever it asks for.
pub const PURGE_PAGE_MAX: usize = 1_000;

/// The document as an index sees it.
///
/// # Errors
/// [`Error::Corrupt`]: it is not stored in normal form.
pub(super) fn subject(record: &Record) -> Result<Subject<'_>> {
    let parts = envelope(&record.body)
        .ok_or_else(|| Error::corrupt("document row: body not in normal form"))?;
    let signed = |us: u64| i64::try_from(us).unwrap_or(i64::MAX);
    Ok(Subject {
        id: parts.id,
        version: record.version,
        created_us: signed(record.created_us),
        updated_us: signed(record.updated_us),
        fields: parts.fields,
    })
}

/// The index that a command is about, if the shard's bucket lists it.
pub(super) fn find(
    tx: &mut Transaction<'_>,
    database: u32,
    bucket: u32,
    index: u32,
) -> Result<std::result::Result<Index, Rejection>> {
    let Some(row) = buckets::get_row(tx, BucketKey { database, bucket })? else {
        return Ok(Err(Rejection::SchemaChanged { stored: None }));
    };
    let row = buckets::decode(&row)?;
    if row.dropped {
        return Ok(Err(Rejection::BucketDropped));
    }
    let found = indexes::kept(&row)?.into_iter().find(|one| one.id == index);
    Ok(match found {
        Some(KeptIndex { index, .. }) => Ok(index),
        None => Err(Rejection::SchemaChanged {
            stored: Some(row.version),
        }),
    })
}

/// A rejection of what is no write.
pub(super) fn rejected(rejection: Rejection) -> Outcome {
    Outcome::Rejected {
        ordinal: 0,
        rejection,
    }
}

/// What a page found.
#[derive(Default)]
struct Page {
    /// Documents and tombstones that were looked at.
    looked: usize,
    bytes: usize,
    /// Key of the last of them.
    last: Option<String>,
    taken: Vec<Taken>,
    /// One of them has a list where the types leave it open.
    meets_list: bool,
    end: End,
}

struct Taken {
    key: String,
    values: Vec<Vec<u8>>,
    is_public: bool,
}

#[derive(Default)]
enum End {
    /// Nothing is left of what the page was to look at.
    #[default]
    Range,
    /// There is more.
    Full,
    /// This document has too many values.
    Impossible(String),
}

/// Whether an index that begins knows if documents in it have lists where the types leave that open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lists {
    /// It does not: of one that an earlier release began.
    Unknown,
    /// It does.
    Noted,
}

/// Takes the next page of documents into an index.
///
/// # Errors
/// [`Error::Corrupt`]: a row does not decode.
pub(super) fn backfill(
    tx: &mut Transaction<'_>,
    command: &BackfillIndex,
    lists: Lists,
) -> Result<Outcome> {
    let (database, bucket) = (command.database, command.bucket);
    let index = match find(tx, database, bucket, command.index)? {
        Ok(index) => index,
        Err(rejection) => return Ok(rejected(rejection)),
    };
    let key = IndexProgressKey {
        database,
        bucket,
        index: command.index,
    };
    let stored = indexes::progress_row(tx, key)?;
    let was_closed = match stored.as_ref().and_then(ProgressRow::is_closed) {
        Some(was_closed) => was_closed,
        // Nothing was met yet, and what is there the pages will meet.
        None => lists == Lists::Noted && index.is_open(),
    };
    let progress = stored.map_or_else(Progress::begun, ProgressRow::of_building);
    let Progress::More { after } = progress else {
        return Ok(Outcome::Progress(progress));
    };
    // Documents go into a unique index only after their values were reserved, and the driver that did that knows from where on.
    let is_meant = match &command.after {
        Some(from) => *from == after,
        None => !index.definition().unique,
    };
    if !is_meant {
        return Ok(Outcome::Progress(Progress::More { after }));
    }
    let page = look(tx, command, &index, &after)?;
    for taken in &page.taken {
        let places = Places::new(database, bucket, command.index, &taken.key);
        for value in &taken.values {
            places.put(tx, value, taken.is_public);
        }
    }
    let is_closed = was_closed && !page.meets_list;
    let seen = page.last.unwrap_or_else(|| after.clone());
    let more = |after: String| {
        let row = ProgressRow::building(after.clone(), is_closed);
        (row, Progress::More { after })
    };
    let (row, progress) = match page.end {
        End::Range if command.upto.is_empty() => {
            (ProgressRow::complete(is_closed), Progress::Complete)
        }
        End::Range => more(seen.max(command.upto.clone())),
        End::Full => more(seen),
        End::Impossible(key) => (more(seen).0, Progress::Impossible { key }),
    };
    if row != ProgressRow::building(after, was_closed) {
        indexes::set_progress(tx, key, &row)?;
    }
    Ok(Outcome::Progress(progress))
}

/// Looks at a page of documents behind `after`.
fn look(tx: &Transaction<'_>, command: &BackfillIndex, index: &Index, after: &str) -> Result<Page> {
    let (database, bucket) = (command.database, command.bucket);
    let count = page_of(command.page, BACKFILL_PAGE_MAX);
    let encode = |key| {
        DocumentKey {
            database,
            bucket,
            key,
        }
        .encode()
    };
    let prefix = DocumentKey::prefix(database, bucket);
    let (from, upto) = (encode(after), encode(&command.upto));
    let end = prefix_end(&prefix);
    let from = if after.is_empty() {
        Bound::Included(prefix.as_slice())
    } else {
        Bound::Excluded(from.as_slice())
    };
    let to = if command.upto.is_empty() {
        end.as_ref().map(Vec::as_slice)
    } else {
        Bound::Included(upto.as_slice())
    };
    let mut page = Page::default();
    tx.visit(Column::Documents, from, to, &mut |key, row| {
        if page.looked >= count || page.bytes >= BACKFILL_BYTES_MAX {
            page.end = End::Full;
            return Ok(ControlFlow::Break(()));
        }
        let key = DocumentKey::decode(&key)?.key.to_owned();
        if let Entry::Live { record, .. } = documents::decode(&row)? {
            let subject = subject(&record)?;
            let Ok(values) = index.values(&subject) else {
                page.end = End::Impossible(key);
                return Ok(ControlFlow::Break(()));
            };
            page.meets_list |= index.meets_list(&subject);
            let taken = Taken {
                key: key.clone(),
                values,
                is_public: is_public(&record),
            };
            page.bytes += taken
                .values
                .iter()
                .map(|value| value.len() + key.len())
                .sum::<usize>();
            page.taken.push(taken);
        }
        page.looked += 1;
        page.bytes += row.len();
        page.last = Some(key);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(page)
}

/// Deletes the next page of what is left of an index: entries, then reservations, at last where it stands.
///
/// # Errors
/// [`Error::Corrupt`]: a row does not decode.
pub(super) fn purge(tx: &mut Transaction<'_>, command: &PurgeIndex) -> Result<Outcome> {
    let (database, bucket, index) = (command.database, command.bucket, command.index);
    if let Some(row) = buckets::get_row(tx, BucketKey { database, bucket })? {
        let row = buckets::decode(&row)?;
        if !row.dropped && row.indexes.iter().any(|one| one.id == index) {
            let stored = Some(row.version);
            return Ok(rejected(Rejection::SchemaChanged { stored }));
        }
    }
    let key = IndexProgressKey {
        database,
        bucket,
        index,
    };
    let after = match indexes::progress_row(tx, key)? {
        Some(ProgressRow::Purging { after }) => after,
        Some(_) | None => Vec::new(),
    };
    let page = page_of(command.page, PURGE_PAGE_MAX);
    let entries = IndexEntryKey::prefix(database, bucket, index);
    let reservations = ReservationKey::prefix(database, bucket, index);
    let mut rows = Vec::new();
    let mut is_all = true;
    for (column, prefix) in [
        (Column::Documents, &entries),
        (Column::State, &reservations),
    ] {
        // Entries are done once a reservation was deleted. Rows of before are passed over, not looked at again: they are tombstones.
        let is_done =
            column == Column::Documents && KeyKind::of(&after) == Some(KeyKind::Reservation);
        if is_done || !is_all {
            continue;
        }
        let end = prefix_end(prefix);
        let from = if after.starts_with(prefix) {
            Bound::Excluded(after.as_slice())
        } else {
            Bound::Included(prefix.as_slice())
        };
        tx.visit(
            column,
            from,
            end.as_ref().map(Vec::as_slice),
            &mut |key, _| {
                if rows.len() >= page {
                    is_all = false;
                    return Ok(ControlFlow::Break(()));
                }
                rows.push((column, key));
                Ok(ControlFlow::Continue(()))
            },
        )?;
    }
    for (column, key) in &rows {
        tx.delete(*column, key);
    }
    let last = rows.last().filter(|_| !is_all);
    let Some((_, last)) = last else {
        indexes::remove_progress(tx, key)?;
        return Ok(Outcome::Progress(Progress::Complete));
    };
    let after = last.to_vec();
    indexes::set_progress(tx, key, &ProgressRow::Purging { after })?;
    Ok(Outcome::Progress(Progress::begun()))
}

/// How much a page that asks for `wanted` looks at: something, and at most `max`.
pub(super) fn page_of(wanted: u32, max: usize) -> usize {
    usize::try_from(wanted).unwrap_or(max).clamp(1, max)
}
