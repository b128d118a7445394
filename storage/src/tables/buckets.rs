//! What apply knows of a bucket: put there by `SetBuckets` entries, so that no apply ever asks the metadata.
//!
//! Format 2 has the indexes; a bucket without any is written in format 1, the same bytes as before there were indexes. Format 3 is that of a
//! bucket that keeps up entries of readers.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::codec::{self, Record};
use crate::engine::Column;
use crate::error::Result;
use crate::keys::BucketKey;
use crate::machine::{Replica, Transaction};

/// A bucket as its shard knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
pub struct BucketRow<'a> {
    /// Version of the rules. Commands that were validated under another one are rejected.
    pub version: u64,
    /// Name, for the ids of its documents.
    pub name: &'a str,
    /// No more writes.
    pub dropped: bool,
    /// What every write keeps up.
    pub indexes: Vec<IndexRow<'a>>,
    /// Every write keeps up under which references its document is found ([`super::readers`]).
    pub keeps_readers: bool,
}

/// An index of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct IndexRow<'a> {
    /// Never reused within the database.
    pub id: u32,
    /// See [`document::index::Index::to_bytes`].
    pub definition: &'a [u8],
}

impl Record for BucketRow<'_> {
    const FORMAT: u8 = 3;
    const WHAT: &'static str = "bucket row";
}

/// A bucket that keeps up indexes, but not readers.
#[derive(Encode, BorrowDecode)]
struct IndexedRow<'a> {
    version: u64,
    name: &'a str,
    dropped: bool,
    indexes: Vec<IndexRow<'a>>,
}

impl Record for IndexedRow<'_> {
    const FORMAT: u8 = 2;
    const WHAT: &'static str = "bucket row";
}

/// A bucket without indexes.
#[derive(Encode, BorrowDecode)]
struct PlainRow<'a> {
    version: u64,
    name: &'a str,
    dropped: bool,
}

impl Record for PlainRow<'_> {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "bucket row";
}

/// The version of a bucket's rules that the shard knows, and whether the bucket is dropped; `None` for one that it does not know.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn version(replica: &Replica, database: u32, bucket: u32) -> Result<Option<(u64, bool)>> {
    let Some(row) = replica.get(Column::State, &BucketKey { database, bucket }.encode())? else {
        return Ok(None);
    };
    let decoded = decode(&row)?;
    Ok(Some((decoded.version, decoded.dropped)))
}

/// The stored row of a bucket, for [`decode`].
pub(crate) fn get_row(tx: &mut Transaction<'_>, key: BucketKey) -> Result<Option<Bytes>> {
    tx.get(Column::State, &key.encode())
}

/// Reads a stored row. Allocates nothing for a bucket without indexes.
pub(crate) fn decode(row: &[u8]) -> Result<BucketRow<'_>> {
    match row.first() {
        Some(&PlainRow::FORMAT) => {
            let PlainRow {
                version,
                name,
                dropped,
            } = codec::decode(row)?;
            Ok(BucketRow {
                version,
                name,
                dropped,
                ..BucketRow::default()
            })
        }
        Some(&IndexedRow::FORMAT) => {
            let IndexedRow {
                version,
                name,
                dropped,
                indexes,
            } = codec::decode(row)?;
            Ok(BucketRow {
                version,
                name,
                dropped,
                indexes,
                keeps_readers: false,
            })
        }
        _ => codec::decode(row),
    }
}

/// Stores a bucket.
pub(crate) fn put(tx: &mut Transaction<'_>, key: BucketKey, row: &BucketRow<'_>) -> Result<()> {
    tx.put(Column::State, &key.encode(), encode(row)?);
    Ok(())
}

fn encode(row: &BucketRow<'_>) -> Result<Bytes> {
    let &BucketRow {
        version,
        name,
        dropped,
        ..
    } = row;
    if row.keeps_readers {
        return codec::encode(row);
    }
    if row.indexes.is_empty() {
        return codec::encode(&PlainRow {
            version,
            name,
            dropped,
        });
    }
    codec::encode(&IndexedRow {
        version,
        name,
        dropped,
        indexes: row.indexes.clone(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_of_before_there_were_indexes_are_read_and_written() {
        let row = BucketRow {
            version: 7,
            name: "Todo",
            dropped: true,
            ..BucketRow::default()
        };
        let bytes = b"\x01\x07\x04Todo\x01";
        assert_eq!(decode(bytes).expect("decodes"), row);
        assert_eq!(&encode(&row).expect("encodes")[..], bytes);
    }

    proptest! {
        #[test]
        fn round_trips(version: u64, name: String, dropped: bool, indexes: Vec<(u32, Vec<u8>)>, keeps_readers: bool) {
            let indexes = indexes.iter().map(|(id, definition)| IndexRow { id: *id, definition });
            let row = BucketRow { version, name: &name, dropped, indexes: indexes.collect(), keeps_readers };
            let bytes = encode(&row).expect("encodes");
            prop_assert_eq!(decode(&bytes).expect("decodes"), row);
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(format in 0..5u8, bytes: Vec<u8>) {
            let bytes = [&[format], &bytes[..]].concat();
            if let Err(error) = decode(&bytes) {
                let is_corrupt = matches!(error, crate::Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }
    }
}
