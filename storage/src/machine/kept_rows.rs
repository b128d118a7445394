//! Rows that were applied or read for apply, kept in memory: the next write of a document, the check before it and a read of it find
//! them here instead of in the engine.
//!
//! One for a node, with a share of its memory budget, that all replicas on it use. The rows are those that were handed to the engine:
//! keeping one costs a reference, and a document's body is not copied to be served.
//!
//! Invariants:
//! - What is found is what the engine has. Only the thread that moves a replica puts rows in: those that it read, and after the
//!   engine's write those that it wrote. It takes them out **before** that write, so no reader sees an old row once it or another reader
//!   has seen the new one.
//! - A row that is not here may be anywhere: results never depend on what is kept.
//! - A [`Replica`](super::Replica) that is opened finds nothing of an earlier one, whose state may have gone another way.
//!
//! Lacks: rows that are not there, change events and idempotency records, which are hardly ever read back.

use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use crate::engine::{Batch, Op};
use crate::ids::StoreId;
use crate::keys::KeyKind;

/// Memory of a row beside its key and value, roughly.
const ROW_OVERHEAD: usize = 96;
/// What a row is expected to take; only sizes tables at the start.
const ROW_BYTES_EXPECTED: usize = 1 << 10;
/// A larger row would push out too many others: it takes at most this part of the room.
const ROW_PART_MAX: usize = 64;

/// See the module.
pub struct KeptRows {
    rows: Cache<Key, Bytes, Weight>,
    row_bytes_max: usize,
    owners: AtomicU64,
}

impl fmt::Debug for KeptRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptRows")
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// Who asks: a replica from its opening on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner(u64);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    owner: Owner,
    /// With store id.
    key: Bytes,
}

/// A [`Key`] to look for. Hashes like one: [`Bytes`] hash as slices.
#[derive(Hash)]
struct Sought<'k> {
    owner: Owner,
    key: &'k [u8],
}

impl Equivalent<Key> for Sought<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.owner == key.owner && self.key == key.key
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Bytes> for Weight {
    fn weight(&self, key: &Key, row: &Bytes) -> u64 {
        weight(&key.key, row) as u64
    }
}

fn weight(key: &[u8], row: &[u8]) -> usize {
    key.len() + row.len() + ROW_OVERHEAD
}

impl KeptRows {
    /// Room for `bytes_max`, overhead included.
    pub fn new(bytes_max: usize) -> Self {
        Self::sized(bytes_max, bytes_max / ROW_PART_MAX)
    }

    /// Room for `bytes_max`, and for no row above `row_bytes_max`.
    pub(super) fn sized(bytes_max: usize, row_bytes_max: usize) -> Self {
        let expected = bytes_max / ROW_BYTES_EXPECTED;
        Self {
            rows: Cache::with_weighter(expected, bytes_max as u64, Weight),
            row_bytes_max,
            owners: AtomicU64::default(),
        }
    }

    /// Somebody who finds nothing yet.
    pub(super) fn owner(&self) -> Owner {
        Owner(self.owners.fetch_add(1, Ordering::Relaxed))
    }

    /// The row at a key with store id.
    pub(super) fn get(&self, owner: Owner, key: &[u8]) -> Option<Bytes> {
        self.rows.get(&Sought { owner, key })
    }

    /// Keeps a row, if it is of a kind that is read again and not too large.
    pub(super) fn put(&self, owner: Owner, key: &Bytes, row: &Bytes) {
        if is_read_again(key) && weight(key, row) <= self.row_bytes_max {
            let key = key.clone();
            self.rows.insert(Key { owner, key }, row.clone());
        }
    }

    /// Forgets a row.
    pub(super) fn remove(&self, owner: Owner, key: &[u8]) {
        if is_read_again(key) {
            self.rows.remove(&Sought { owner, key });
        }
    }

    /// What the rows take, overhead included.
    pub fn bytes(&self) -> u64 {
        self.rows.weight()
    }
}

/// A replica's part of the rows, if its engine keeps any.
#[derive(Clone, Copy)]
pub(super) struct Keeper<'a>(Option<(&'a KeptRows, Owner)>);

impl<'a> Keeper<'a> {
    /// Of the replica that is `owner`.
    pub(super) fn new(rows: Option<&'a KeptRows>, owner: Option<Owner>) -> Self {
        Self(rows.zip(owner))
    }

    /// See [`KeptRows::get`].
    pub(super) fn get(self, key: &[u8]) -> Option<Bytes> {
        self.0.and_then(|(rows, owner)| rows.get(owner, key))
    }

    /// See [`KeptRows::put`].
    pub(super) fn put(self, key: &Bytes, row: &Bytes) {
        if let Some((rows, owner)) = self.0 {
            rows.put(owner, key, row);
        }
    }

    /// Before the engine takes a batch of this replica: forgets what the batch changes, and gives what is to be kept once it is
    /// written.
    pub(super) fn take_out(self, batch: &Batch) -> Vec<(Bytes, Bytes)> {
        let Some((rows, owner)) = self.0 else {
            return Vec::new();
        };
        let mut written = Vec::new();
        for op in batch {
            match op {
                Op::Put { key, value, .. } if is_read_again(key) => {
                    rows.remove(owner, key);
                    written.push((key.clone(), value.clone()));
                }
                Op::Delete { key, .. } => rows.remove(owner, key),
                // Apply removes rows one by one.
                Op::Put { .. } | Op::DeleteRange { .. } => {}
            }
        }
        written
    }
}

/// Whether rows of this kind are kept.
fn is_read_again(full_key: &[u8]) -> bool {
    let kind = full_key.get(StoreId::LEN..).and_then(KeyKind::of);
    matches!(
        kind,
        Some(KeyKind::Document | KeyKind::Bucket | KeyKind::IdempotencyUsage | KeyKind::Usage)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{self, ChangeKey, DocumentKey};

    fn key(text: &str) -> Bytes {
        let key = DocumentKey {
            database: 1,
            bucket: 7,
            key: text,
        };
        keys::with_store(StoreId(1), &key.encode()).into()
    }

    #[test]
    fn owners_do_not_see_each_other() {
        let rows = KeptRows::new(1 << 20);
        let (one, two) = (rows.owner(), rows.owner());
        rows.put(one, &key("a"), &Bytes::from_static(b"one"));
        assert_eq!(rows.get(one, &key("a")), Some(Bytes::from_static(b"one")));
        assert_eq!(rows.get(two, &key("a")), None);
        rows.remove(one, &key("a"));
        assert_eq!(rows.get(one, &key("a")), None);
    }

    #[test]
    fn stays_within_its_room_and_takes_nothing_large() {
        let bytes_max = 64 << 10;
        let rows = KeptRows::new(bytes_max);
        let owner = rows.owner();
        let row = Bytes::from(vec![0; 500]);
        for at in 0..2_000 {
            rows.put(owner, &key(&at.to_string()), &row);
            assert!(rows.bytes() <= bytes_max as u64);
        }
        assert!(rows.bytes() > bytes_max as u64 / 2);
        rows.put(owner, &key("large"), &Bytes::from(vec![0; 1_000]));
        assert_eq!(rows.get(owner, &key("large")), None);
        let change = ChangeKey {
            index: 1,
            ordinal: 0,
        };
        let change = Bytes::from(keys::with_store(StoreId(1), &change.encode()));
        rows.put(owner, &change, &Bytes::from_static(b"event"));
        assert_eq!(rows.get(owner, &change), None);
    }
}
