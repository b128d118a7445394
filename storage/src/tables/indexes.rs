//! Entries of indexes, and how far their building is.
//!
//! `store | 0x11 | database u32 | bucket u32 | index u32 | value | encoded key` in [`crate::engine::Column::Documents`]. The value shows its own end.
//! The rest is the document's key percent-encoded as in its id, so that entries with equal values lie in the order of ids.
//! The value of a row is one byte: whether everybody may read the document.
//!
//! `store | 0x0A | database u32 | bucket u32 | index u32` in the state column says how far the building of an index is; no row: it has not
//! begun. A shard decides by its own rows alone whether an index may be read: the bucket's row must list it, and this one must say that it
//! is complete. It goes as soon as the bucket does not list the index any more.
//!
//! Lacks: which entries a document has (`document::index`), and when they are written (`machine::write`, `machine::indexes`).

use std::borrow::Cow;
use std::ops::{Bound, ControlFlow};
use std::sync::LazyLock;

use bincode::{Decode, Encode};
use bytes::Bytes;
use document::id::{decode_segment, encode_key};
use document::index::{Index, Range};
use quick_cache::sync::Cache;

use super::buckets::{self, BucketRow};
use crate::codec::{self, Record};
use crate::engine::{Column, Direction};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::keys::{BucketKey, IndexEntryKey, IndexProgressKey, prefix_end};
use crate::machine::outcome::Progress;
use crate::machine::{Replica, ReplicaView, Transaction};

/// Compiled indexes that are kept: more than a node has, or it compiles some again at each write.
const COMPILED_MAX: usize = 4_096;

/// Compiled indexes by their bytes, of all shards of the process. What is found follows from the bytes alone, so apply stays pure.
static COMPILED: LazyLock<Cache<Bytes, Index>> = LazyLock::new(|| Cache::new(COMPILED_MAX));

/// Row value of an entry of a document that everybody may read.
const PUBLIC: u8 = 1;
/// Of one that not everybody may.
const RESTRICTED: u8 = 0;

/// An index as a bucket of a shard has it.
#[derive(Clone, Debug)]
pub struct BucketIndex {
    /// Its id.
    pub id: u32,
    /// The index; [`Index::closed`] if no document in it has a list where the types leave it open.
    pub index: Index,
    /// Whether every document of the bucket that this shard holds is in it. Until then it must not be read.
    pub complete: bool,
}

/// An entry as a walk shows it.
#[derive(Clone, Debug)]
pub struct IndexEntry<'a> {
    /// The value.
    pub value: &'a [u8],
    /// The document's decoded key.
    pub key: &'a str,
    /// Everybody may read the document.
    pub is_public: bool,
}

/// How far an index is, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum ProgressRow {
    /// Documents up to this key are in it.
    Building { after: String },
    /// All documents are.
    Complete,
    /// The bucket does not have it any more; its rows up to this key (without store id) are deleted, entries first.
    Purging { after: Vec<u8> },
    /// As `Building`, and no document that was met since its beginning has a list where the types leave it open.
    BuildingClosed { after: String },
    /// As `Complete`, likewise: no document in it has one.
    CompleteClosed,
}

impl Record for ProgressRow {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "index progress row";
}

/// An index that a bucket's row lists.
#[derive(Clone, Debug)]
pub(crate) struct KeptIndex {
    pub(crate) id: u32,
    pub(crate) index: Index,
}

/// The indexes that a bucket's row lists, in its order.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a definition does not compile.
pub(crate) fn kept(row: &BucketRow<'_>) -> Result<Vec<KeptIndex>> {
    let compile = |row: &buckets::IndexRow<'_>| {
        let (id, index) = (row.id, compiled(row.definition)?);
        Ok(KeptIndex { id, index })
    };
    row.indexes.iter().map(compile).collect()
}

/// The index of these bytes.
fn compiled(definition: &[u8]) -> Result<Index> {
    if let Some(index) = COMPILED.get(definition) {
        return Ok(index);
    }
    let index = Index::from_bytes(definition)
        .map_err(|why| Error::corrupt(format!("definition of an index: {why}")))?;
    COMPILED.insert(Bytes::copy_from_slice(definition), index.clone());
    Ok(index)
}

/// The indexes of a bucket in a view; none for an unknown or dropped bucket.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode.
pub fn of_bucket(view: &ReplicaView<'_>, database: u32, bucket: u32) -> Result<Vec<BucketIndex>> {
    match view.get(Column::State, &BucketKey { database, bucket }.encode())? {
        Some(row) => of_row(view, database, bucket, &buckets::decode(&row)?),
        None => Ok(Vec::new()),
    }
}

fn of_row(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    row: &BucketRow<'_>,
) -> Result<Vec<BucketIndex>> {
    if row.dropped {
        return Ok(Vec::new());
    }
    let mut indexes = Vec::with_capacity(row.indexes.len());
    for KeptIndex { id, index } in kept(row)? {
        let progress = progress_of(view, progress_key(database, bucket, id))?;
        let is_closed = progress == Some(ProgressRow::CompleteClosed);
        indexes.push(BucketIndex {
            id,
            index: if is_closed { index.closed() } else { index },
            complete: is_closed || progress == Some(ProgressRow::Complete),
        });
    }
    Ok(indexes)
}

fn progress_of(view: &ReplicaView<'_>, key: IndexProgressKey) -> Result<Option<ProgressRow>> {
    let row = view.get(Column::State, &key.encode())?;
    row.map(|row| codec::decode(&row)).transpose()
}

/// The indexes of a bucket that may be read, remembered: reading them again takes a look at the bucket's row, and not at each of them.
///
/// What holds in one view holds in those after it as long as the bucket's row is the same: an index that is complete stays it. Only that
/// no document has a list may end, so that is looked at.
#[derive(Clone, Debug)]
pub struct ReadIndexes {
    store: StoreId,
    /// How far the view was that they were read from.
    applied: u64,
    /// The bucket's.
    row: Option<Bytes>,
    indexes: Vec<BucketIndex>,
    /// Those of them that have no document with a list, where the types leave it open.
    closed: Vec<IndexProgressKey>,
    /// No index of the bucket is left to be completed.
    is_final: bool,
    keeps_readers: bool,
}

impl ReadIndexes {
    /// Those of a bucket in a view; none for an unknown or dropped bucket.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: a row does not decode.
    pub fn read(view: &ReplicaView<'_>, database: u32, bucket: u32) -> Result<ReadIndexes> {
        let row = view.get(Column::State, &BucketKey { database, bucket }.encode())?;
        let decoded = row.as_deref().map(buckets::decode).transpose()?;
        let decoded = decoded.unwrap_or_default();
        let mut indexes = of_row(view, database, bucket, &decoded)?;
        let is_final = indexes.iter().all(|index| index.complete);
        indexes.retain(|index| index.complete);
        let mut closed = Vec::new();
        for kept in kept(&decoded)? {
            let is_same = |index: &BucketIndex| index.id == kept.id && !index.index.is_open();
            if kept.index.is_open() && indexes.iter().any(is_same) {
                closed.push(progress_key(database, bucket, kept.id));
            }
        }
        Ok(ReadIndexes {
            store: view.store(),
            applied: view.applied()?.id.map_or(0, |id| id.index),
            keeps_readers: decoded.keeps_readers,
            row,
            indexes,
            closed,
            is_final,
        })
    }

    /// Whether they are the same in a view of the same bucket that has applied at least so much.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: a row does not decode.
    pub fn hold_in(
        &self,
        view: &ReplicaView<'_>,
        database: u32,
        bucket: u32,
        applied: u64,
    ) -> Result<bool> {
        if !self.is_final || self.store != view.store() || applied < self.applied {
            return Ok(false);
        }
        let row = view.get(Column::State, &BucketKey { database, bucket }.encode())?;
        if row != self.row {
            return Ok(false);
        }
        for &key in &self.closed {
            if progress_of(view, key)? != Some(ProgressRow::CompleteClosed) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The indexes, ascending by id.
    pub fn indexes(&self) -> &[BucketIndex] {
        &self.indexes
    }

    /// Whether writes of the bucket keep up who may find its documents ([`super::readers`]).
    pub fn keeps_readers(&self) -> bool {
        self.keeps_readers
    }
}

/// Shows the entries of an index within a range, until `each` breaks.
///
/// # Errors
/// [`crate::Error::Corrupt`], those of the engine, and the first of `each`.
pub fn visit(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    index: &BucketIndex,
    range: &Range,
    direction: Direction,
    each: &mut dyn FnMut(IndexEntry<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let prefix = IndexEntryKey::prefix(database, bucket, index.id);
    let (from, to) = bounds(&prefix, range);
    let mut show =
        |key: &[u8], row: &[u8]| show(&index.index, &key[prefix.len()..], row, &mut *each);
    let from = Bound::Included(from.as_slice());
    let to = to.as_ref().map(Vec::as_slice);
    view.visit(Column::Documents, from, to, direction, &mut show)
}

/// Shows one entry.
pub(super) fn show<T>(
    index: &Index,
    place: &[u8],
    row: &[u8],
    each: &mut dyn FnMut(IndexEntry<'_>) -> Result<T>,
) -> Result<T> {
    let (value, key) = split(index, index.definition().keys.len(), place)?;
    each(IndexEntry {
        value,
        key: &key,
        is_public: is_public(row)?,
    })
}

/// Value and decoded key of an entry's place.
fn split<'p>(
    index: &Index,
    components: usize,
    place: &'p [u8],
) -> Result<(&'p [u8], Cow<'p, str>)> {
    let value = index.prefix(place, components);
    let corrupt = || {
        let place = place.escape_ascii();
        Error::corrupt(format!("index entry: no key behind the value of {place}"))
    };
    let key = std::str::from_utf8(&place[value.len()..]).map_err(|_| corrupt())?;
    if key.is_empty() {
        return Err(corrupt());
    }
    if !key.contains('%') {
        return Ok((value, Cow::Borrowed(key)));
    }
    let key = decode_segment(key).ok_or_else(corrupt)?;
    Ok((value, Cow::Owned(key)))
}

/// Whether an entry's row says that everybody may read the document.
pub(crate) fn is_public(row: &[u8]) -> Result<bool> {
    match row {
        [PUBLIC] => Ok(true),
        [RESTRICTED] => Ok(false),
        _ => Err(Error::corrupt("index entry row: neither 0 nor 1")),
    }
}

/// The keys of an index's entries within a range, without store id.
pub(super) fn bounds(prefix: &[u8], range: &Range) -> (Vec<u8>, Bound<Vec<u8>>) {
    let from = [prefix, &range.from].concat();
    let to = if range.to.is_empty() {
        prefix_end(prefix)
    } else {
        Bound::Excluded([prefix, &range.to].concat())
    };
    (from, to)
}

/// How far the building of an index is in this shard.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn progress(replica: &Replica, database: u32, bucket: u32, index: u32) -> Result<Progress> {
    let key = progress_key(database, bucket, index);
    let row = replica.get(Column::State, &key.encode())?;
    let row: Option<ProgressRow> = row.map(|row| codec::decode(&row)).transpose()?;
    Ok(row.map_or_else(Progress::begun, ProgressRow::of_building))
}

fn progress_key(database: u32, bucket: u32, index: u32) -> IndexProgressKey {
    IndexProgressKey {
        database,
        bucket,
        index,
    }
}

impl ProgressRow {
    /// Documents up to `after` are in the index; `is_closed`: none that was met has a list.
    pub(crate) fn building(after: String, is_closed: bool) -> Self {
        match is_closed {
            true => Self::BuildingClosed { after },
            false => Self::Building { after },
        }
    }

    /// All documents are in it, likewise.
    pub(crate) fn complete(is_closed: bool) -> Self {
        match is_closed {
            true => Self::CompleteClosed,
            false => Self::Complete,
        }
    }

    /// How far the building is. What is being purged has to be built anew.
    pub(crate) fn of_building(self) -> Progress {
        match self {
            Self::Building { after } | Self::BuildingClosed { after } => Progress::More { after },
            Self::Complete | Self::CompleteClosed => Progress::Complete,
            Self::Purging { .. } => Progress::begun(),
        }
    }

    /// Whether it is known that no document that was met has a list where the types leave it open; `None`: the building begins anew.
    pub(crate) fn is_closed(&self) -> Option<bool> {
        match self {
            Self::Purging { .. } => None,
            Self::BuildingClosed { .. } | Self::CompleteClosed => Some(true),
            Self::Building { .. } | Self::Complete => Some(false),
        }
    }
}

/// The stored progress of an index.
pub(crate) fn progress_row(
    tx: &mut Transaction<'_>,
    key: IndexProgressKey,
) -> Result<Option<ProgressRow>> {
    let row = tx.get(Column::State, &key.encode())?;
    row.map(|row| codec::decode(&row)).transpose()
}

/// Stores the progress of an index.
pub(crate) fn set_progress(
    tx: &mut Transaction<'_>,
    key: IndexProgressKey,
    row: &ProgressRow,
) -> Result<()> {
    tx.put(Column::State, &key.encode(), codec::encode(row)?);
    Ok(())
}

/// Notes that a document with a list is in an index that no such document was in.
pub(crate) fn note_list(tx: &mut Transaction<'_>, key: IndexProgressKey) -> Result<()> {
    let row = match progress_row(tx, key)? {
        Some(ProgressRow::BuildingClosed { after }) => ProgressRow::Building { after },
        Some(ProgressRow::CompleteClosed) => ProgressRow::Complete,
        _ => return Ok(()),
    };
    set_progress(tx, key, &row)
}

/// Forgets the progress of an index, if there is any.
pub(crate) fn remove_progress(tx: &mut Transaction<'_>, key: IndexProgressKey) -> Result<()> {
    let key = key.encode();
    if tx.get(Column::State, &key)?.is_some() {
        tx.delete(Column::State, &key);
    }
    Ok(())
}

/// Where the entries of one document in one index go.
pub(crate) struct Places {
    prefix: Vec<u8>,
    encoded: String,
}

impl Places {
    /// Those of the document `key`.
    pub(crate) fn new(database: u32, bucket: u32, index: u32, key: &str) -> Self {
        Self {
            prefix: IndexEntryKey::prefix(database, bucket, index),
            encoded: encode_key(key).into_owned(),
        }
    }

    /// The key of the entry with `value`, without store id.
    fn of(&self, value: &[u8]) -> Vec<u8> {
        [&self.prefix, value, self.encoded.as_bytes()].concat()
    }

    /// Stores an entry; gives the bytes of its key.
    pub(crate) fn put(&self, tx: &mut Transaction<'_>, value: &[u8], is_public: bool) -> u64 {
        let row: &'static [u8] = if is_public { &[PUBLIC] } else { &[RESTRICTED] };
        let key = self.of(value);
        tx.put(Column::Documents, &key, Bytes::from_static(row));
        key.len() as u64
    }

    /// Removes an entry; gives the bytes of its key.
    pub(crate) fn remove(&self, tx: &mut Transaction<'_>, value: &[u8]) -> u64 {
        let key = self.of(value);
        tx.delete(Column::Documents, &key);
        key.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entry_rows_are_one_byte() {
        assert!(is_public(&[PUBLIC]).expect("reads"));
        assert!(!is_public(&[RESTRICTED]).expect("reads"));
        for bad in [&[][..], &[2], &[1, 1]] {
            assert!(matches!(is_public(bad), Err(Error::Corrupt { .. })));
        }
    }

    proptest! {
        #[test]
        fn progress_round_trips(after: String, at: Vec<u8>) {
            let rows = [
                ProgressRow::Building { after: after.clone() },
                ProgressRow::Complete,
                ProgressRow::Purging { after: at },
                ProgressRow::BuildingClosed { after },
                ProgressRow::CompleteClosed,
            ];
            for row in rows {
                let bytes = codec::encode(&row).expect("encodes");
                prop_assert_eq!(codec::decode::<ProgressRow>(&bytes).expect("decodes"), row);
            }
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(bytes: Vec<u8>) {
            if let Err(error) = codec::decode::<ProgressRow>(&bytes) {
                let is_corrupt = matches!(error, Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }
    }
}
