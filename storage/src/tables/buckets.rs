//! What apply knows of a bucket: put there by `SetBuckets` entries, so that no apply ever asks the metadata.
//!
//! Format 2 has the indexes; a bucket without any is written in format 1, the same bytes as before there were indexes.

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
    if row.first() != Some(&PlainRow::FORMAT) {
        return codec::decode(row);
    }
    let PlainRow {
        version,
        name,
        dropped,
    } = codec::decode(row)?;
    Ok(BucketRow {
        version,
        name,
        dropped,
        indexes: Vec::new(),
    })
}

/// Stores a bucket.
pub(crate) fn put(tx: &mut Transaction<'_>, key: BucketKey, row: &BucketRow<'_>) -> Result<()> {
    tx.put(Column::State, &key.encode(), encode(row)?);
    Ok(())
}

fn encode(row: &BucketRow<'_>) -> Result<Bytes> {
    if !row.indexes.is_empty() {
        return codec::encode(row);
    }
    codec::encode(&PlainRow {
        version: row.version,
        name: row.name,
        dropped: row.dropped,
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
            indexes: Vec::new(),
        };
        let bytes = b"\x01\x07\x04Todo\x01";
        assert_eq!(decode(bytes).expect("decodes"), row);
        assert_eq!(&encode(&row).expect("encodes")[..], bytes);
    }

    proptest! {
        #[test]
        fn round_trips(version: u64, name: String, dropped: bool, indexes: Vec<(u32, Vec<u8>)>) {
            let indexes = indexes.iter().map(|(id, definition)| IndexRow { id: *id, definition });
            let row = BucketRow { version, name: &name, dropped, indexes: indexes.collect() };
            let bytes = encode(&row).expect("encodes");
            prop_assert_eq!(decode(&bytes).expect("decodes"), row);
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(format in 0..4u8, bytes: Vec<u8>) {
            let bytes = [&[format], &bytes[..]].concat();
            if let Err(error) = decode(&bytes) {
                let is_corrupt = matches!(error, crate::Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }
    }
}
