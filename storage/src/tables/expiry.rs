//! Documents in the order in which they expire.
//!
//! Invariant: there is a row for a live document exactly if it expires, at the due T that its own row holds. Apply writes and removes
//! both together; the rows here have no value.

use std::ops::Bound;

use bytes::Bytes;

use super::documents::Expiry;
use crate::engine::Column;
use crate::error::Result;
use crate::keys::{DocumentKey, ExpiryKey, prefix_end};
use crate::machine::{ReplicaView, Transaction};

/// T from which on the first document is due, microseconds; `None`: none expires. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a key does not decode. Those of the engine.
pub fn first_due(view: &ReplicaView<'_>) -> Result<Option<u64>> {
    let prefix = ExpiryKey::prefix();
    let end = prefix_end(&prefix);
    let from = Bound::Included(&prefix[..]);
    let mut rows = view.scan(Column::State, from, end.as_ref().map(Vec::as_slice));
    match rows.next() {
        Some(row) => Ok(Some(ExpiryKey::decode(&row?.0)?.due_us)),
        None => Ok(None),
    }
}

/// Keys of the first `page` documents that expire, due or not, in order; [`ExpiryKey::decode`] reads them.
pub(crate) fn first_keys(tx: &mut Transaction<'_>, page: usize) -> Result<Vec<Bytes>> {
    let rows = tx.scan_prefix(Column::State, &ExpiryKey::prefix(), page)?;
    Ok(rows.into_iter().map(|(key, _)| key).collect())
}

/// Notes that a document expires.
pub(crate) fn put(tx: &mut Transaction<'_>, document: DocumentKey<'_>, expiry: Expiry) {
    let key = key_of(document, expiry);
    tx.put(Column::State, &key.encode(), Bytes::new());
}

/// Forgets it.
pub(crate) fn remove(tx: &mut Transaction<'_>, document: DocumentKey<'_>, expiry: Expiry) {
    let key = key_of(document, expiry);
    tx.delete(Column::State, &key.encode());
}

fn key_of(document: DocumentKey<'_>, expiry: Expiry) -> ExpiryKey<'_> {
    ExpiryKey {
        due_us: expiry.due_us,
        database: document.database,
        bucket: document.bucket,
        key: document.key,
    }
}
