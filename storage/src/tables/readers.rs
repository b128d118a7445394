//! Documents under the references that may read them, so that looking for all that a caller may read costs what he may read.
//!
//! `store | 0x17 | database u32 | bucket u32 | reader u64 | key` in [`crate::engine::Column::Documents`], with an empty value. The
//! references of a document are those of [`document::readers`].
//!
//! A bucket has these entries in a shard from the first page of a `BackfillReaders` on: its row says so ([`BucketRow::keeps_readers`]), and
//! every write keeps them up. They may be read once all documents of before are there too: `store | 0x0A | database | bucket | 0`, the
//! progress of an index that no bucket can list, then says *complete*.
//!
//! An entry is a hint: denials are not in it, and different references may share one.
//!
//! [`BucketRow::keeps_readers`]: super::buckets::BucketRow

use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use document::acl::Acl;

use super::estimates::{self, Effort};
use super::indexes::{self, ProgressRow};
use crate::codec;
use crate::engine::{Column, Pairs};
use crate::error::Result;
use crate::keys::{IndexProgressKey, ReaderEntryKey, prefix_end};
use crate::machine::outcome::Progress;
use crate::machine::{Replica, ReplicaView, Transaction};

/// The id under which the progress lies. Ids of indexes begin at 1.
const PROGRESS_ID: u32 = 0;

/// Where it is stored how far the entries of a bucket are.
pub(crate) fn progress_key(database: u32, bucket: u32) -> IndexProgressKey {
    IndexProgressKey {
        database,
        bucket,
        index: PROGRESS_ID,
    }
}

/// How far the entries of a bucket are.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn progress(replica: &Replica, database: u32, bucket: u32) -> Result<Progress> {
    indexes::progress(replica, database, bucket, PROGRESS_ID)
}

/// Whether every document of the bucket that somebody may read is there.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn is_complete(view: &ReplicaView<'_>, database: u32, bucket: u32) -> Result<bool> {
    let key = progress_key(database, bucket).encode();
    let row = view.get(Column::State, &key)?;
    let row: Option<ProgressRow> = row.map(|row| codec::decode(&row)).transpose()?;
    Ok(row == Some(ProgressRow::Complete))
}

/// About how many entries there are under these references together: exact up to `exact_max` for each.
///
/// # Errors
/// Those of the engine.
pub fn estimate(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    references: &[&str],
    exact_max: u64,
) -> Result<u64> {
    let mut entries: u64 = 0;
    for reader in readers_of(references) {
        let prefix = ReaderEntryKey::prefix(database, bucket, reader);
        let some = estimates::of_prefix(view, &prefix, Effort::exact(exact_max))?;
        entries = entries.saturating_add(some);
    }
    Ok(entries)
}

/// Shows the keys of the documents under any of these references to `each`, ascending and each once, from `from` on, until `each` breaks.
///
/// # Errors
/// [`crate::Error::Corrupt`], those of the engine, and the first of `each`.
pub fn visit<E: From<crate::Error>>(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    references: &[&str],
    from: Bound<&str>,
    each: &mut dyn FnMut(&str) -> std::result::Result<ControlFlow<()>, E>,
) -> std::result::Result<(), E> {
    let readers = readers_of(references);
    let mut lists: Vec<Peekable<Pairs<'_>>> = Vec::with_capacity(readers.len());
    for reader in readers {
        let encode = |key| {
            ReaderEntryKey {
                database,
                bucket,
                reader,
                key,
            }
            .encode()
        };
        let prefix = ReaderEntryKey::prefix(database, bucket, reader);
        let end = prefix_end(&prefix);
        let start = match from {
            Bound::Included(key) => Bound::Included(encode(key)),
            Bound::Excluded(key) => Bound::Excluded(encode(key)),
            Bound::Unbounded => Bound::Included(prefix),
        };
        let pairs = view.scan(
            Column::Documents,
            start.as_ref().map(Vec::as_slice),
            end.as_ref().map(Vec::as_slice),
        );
        lists.push(pairs.peekable());
    }
    let mut last: Option<String> = None;
    while let Some(key) = next(&mut lists)? {
        let key = ReaderEntryKey::decode(&key)?.key;
        if last.as_deref() == Some(key) {
            continue;
        }
        if each(key)?.is_break() {
            break;
        }
        last = Some(key.to_owned());
    }
    Ok(())
}

/// Takes the pair with the smallest document key off its list, of equal ones any; gives its key.
fn next(lists: &mut [Peekable<Pairs<'_>>]) -> Result<Option<Bytes>> {
    let mut first: Option<(usize, Bytes)> = None;
    for (at, list) in lists.iter_mut().enumerate() {
        // An error comes before every key, and is found when it is taken.
        let key = match list.peek() {
            None => continue,
            Some(Ok((key, _))) => key.slice(ReaderEntryKey::PREFIX_BYTES.min(key.len())..),
            Some(Err(_)) => Bytes::new(),
        };
        if first.as_ref().is_none_or(|(_, smallest)| key < *smallest) {
            first = Some((at, key));
        }
    }
    let Some((at, _)) = first else {
        return Ok(None);
    };
    lists[at]
        .next()
        .map(|pair| pair.map(|(key, _)| key))
        .transpose()
}

/// Under what a document with this ACL is entered, ascending and each once.
pub(crate) fn of_object(acl: Option<&Acl>) -> Vec<u64> {
    readers_of(&document::readers::of_object(acl))
}

fn readers_of(references: &[&str]) -> Vec<u64> {
    let readers = references.iter();
    let mut readers: Vec<u64> = readers
        .map(|reference| ReaderEntryKey::reader_of(reference))
        .collect();
    readers.sort_unstable();
    readers.dedup();
    readers
}

/// Enters a document; gives the bytes of the entry's key.
pub(crate) fn put(tx: &mut Transaction<'_>, place: ReaderEntryKey<'_>) -> u64 {
    let key = place.encode();
    tx.put(Column::Documents, &key, Bytes::new());
    key.len() as u64
}

/// Takes a document out; gives the bytes of the entry's key.
pub(crate) fn remove(tx: &mut Transaction<'_>, place: ReaderEntryKey<'_>) -> u64 {
    let key = place.encode();
    tx.delete(Column::Documents, &key);
    key.len() as u64
}
