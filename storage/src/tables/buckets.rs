//! What apply knows of a bucket: put there by `SetBuckets` entries, so that no apply ever asks the metadata.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::codec::{self, Record};
use crate::engine::Column;
use crate::error::Result;
use crate::keys::BucketKey;
use crate::machine::{Replica, Transaction};

/// A bucket as its shard knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct BucketRow<'a> {
    /// Version of the rules. Commands that were validated under another one are rejected.
    pub version: u64,
    /// Name, for the ids of its documents.
    pub name: &'a str,
    /// No more writes.
    pub dropped: bool,
}

impl Record for BucketRow<'_> {
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

/// Reads a stored row.
pub(crate) fn decode(row: &[u8]) -> Result<BucketRow<'_>> {
    codec::decode(row)
}

/// Stores a bucket.
pub(crate) fn put(tx: &mut Transaction<'_>, key: BucketKey, row: &BucketRow<'_>) -> Result<()> {
    tx.put(Column::State, &key.encode(), codec::encode(row)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips(version: u64, name: String, dropped: bool) {
            let row = BucketRow { version, name: &name, dropped };
            let bytes = codec::encode(&row).expect("encodes");
            prop_assert_eq!(decode(&bytes).expect("decodes"), row);
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(bytes: Vec<u8>) {
            if let Err(error) = decode(&bytes) {
                let is_corrupt = matches!(error, crate::Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }
    }
}
