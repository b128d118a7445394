//! What apply knows of a bucket: put there by `SetBuckets` entries, so that no apply ever asks the metadata.
//!
//! Format 2 has the indexes; a bucket without any is written in format 1, the same bytes as before there were indexes. Format 3 is that of a
//! bucket that keeps up entries of readers.
//!
//! Format 7 is a bucket whose documents web caches may keep, or could at some time: what is known of that, in fixed places, then the row in one
//! of the other formats. So a bucket that was never cached costs a write nothing.
//!
//! | bytes | content, little endian |
//! |---|---|
//! | 0 | format, 7 |
//! | 1 | scope |
//! | 2–21 | least lifetime, greatest, prior interval, longest unsaid lifetime, longest lifetime: u32 each, ms |
//! | 22–29 | hash of the rules about readers, u64 |
//! | to the end | the row of another format |

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::codec::{self, Reader, Record};
use crate::engine::Column;
use crate::error::Result;
use crate::keys::BucketKey;
use crate::machine::lifetime::{Caching, Scope};
use crate::machine::{Replica, Transaction};

/// Format of a row in front of which it says how web caches may keep documents.
const CACHED_FORMAT: u8 = 7;

/// A bucket as its shard knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// How web caches may keep its documents, or could; `None`: never.
    pub caching: Option<Caching>,
}

/// An index of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct IndexRow<'a> {
    /// Never reused within the database.
    pub id: u32,
    /// See [`document::index::Index::to_bytes`].
    pub definition: &'a [u8],
}

/// A bucket that keeps up readers.
#[derive(Encode, BorrowDecode)]
struct ReadersRow<'a> {
    version: u64,
    name: &'a str,
    dropped: bool,
    indexes: Vec<IndexRow<'a>>,
    keeps_readers: bool,
}

impl Record for ReadersRow<'_> {
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

/// How web caches may keep a bucket's documents as its row says it now, and the version of the rules that this belongs to; `None`: not at all.
/// May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn caching(replica: &Replica, database: u32, bucket: u32) -> Result<Option<(u64, Caching)>> {
    let row = replica.get(Column::State, &BucketKey { database, bucket }.encode())?;
    let decoded = row.as_deref().map(decode).transpose()?;
    Ok(decoded.and_then(|row| Some((row.version, row.caching?))))
}

/// The stored row of a bucket, for [`decode`].
pub(crate) fn get_row(tx: &mut Transaction<'_>, key: BucketKey) -> Result<Option<Bytes>> {
    tx.get(Column::State, &key.encode())
}

/// Reads a stored row. Allocates nothing for a bucket without indexes.
pub(crate) fn decode(row: &[u8]) -> Result<BucketRow<'_>> {
    if row.first() != Some(&CACHED_FORMAT) {
        return decode_plain(row);
    }
    let mut reader = Reader::new(ReadersRow::WHAT, row);
    reader.u8()?;
    let scope = Scope::of(reader.u8()?).ok_or_else(|| reader.corrupt("unknown scope"))?;
    let caching = Caching {
        scope,
        ttl_min_ms: reader.u32_le()?,
        ttl_max_ms: reader.u32_le()?,
        prior_ms: reader.u32_le()?,
        unsaid_ms: reader.u32_le()?,
        longest_ms: reader.u32_le()?,
        readers: reader.u64_le()?,
    };
    Ok(BucketRow {
        caching: Some(caching),
        ..decode_plain(reader.rest())?
    })
}

fn decode_plain(row: &[u8]) -> Result<BucketRow<'_>> {
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
                ..BucketRow::default()
            })
        }
        _ => {
            let ReadersRow {
                version,
                name,
                dropped,
                indexes,
                keeps_readers,
            } = codec::decode(row)?;
            Ok(BucketRow {
                version,
                name,
                dropped,
                indexes,
                keeps_readers,
                caching: None,
            })
        }
    }
}

/// Stores a bucket.
pub(crate) fn put(tx: &mut Transaction<'_>, key: BucketKey, row: &BucketRow<'_>) -> Result<()> {
    tx.put(Column::State, &key.encode(), encode(row)?);
    Ok(())
}

fn encode(row: &BucketRow<'_>) -> Result<Bytes> {
    let plain = encode_plain(row)?;
    let Some(caching) = row.caching else {
        return Ok(plain);
    };
    let mut cached = vec![CACHED_FORMAT, caching.scope as u8];
    for number in [
        caching.ttl_min_ms,
        caching.ttl_max_ms,
        caching.prior_ms,
        caching.unsaid_ms,
        caching.longest_ms,
    ] {
        cached.extend_from_slice(&number.to_le_bytes());
    }
    cached.extend_from_slice(&caching.readers.to_le_bytes());
    cached.extend_from_slice(&plain);
    Ok(cached.into())
}

fn encode_plain(row: &BucketRow<'_>) -> Result<Bytes> {
    let &BucketRow {
        version,
        name,
        dropped,
        ..
    } = row;
    if row.keeps_readers {
        return codec::encode(&ReadersRow {
            version,
            name,
            dropped,
            indexes: row.indexes.clone(),
            keeps_readers: true,
        });
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

    fn cachings() -> impl Strategy<Value = Caching> {
        let numbers = any::<[u32; 5]>();
        (0..3_u8, numbers, any::<u64>()).prop_map(|(scope, numbers, readers)| {
            let [ttl_min_ms, ttl_max_ms, prior_ms, unsaid_ms, longest_ms] = numbers;
            Caching {
                scope: Scope::of(scope).expect("a scope"),
                ttl_min_ms,
                ttl_max_ms,
                prior_ms,
                unsaid_ms,
                longest_ms,
                readers,
            }
        })
    }

    proptest! {
        #[test]
        fn round_trips(
            version: u64,
            name: String,
            dropped: bool,
            indexes: Vec<(u32, Vec<u8>)>,
            keeps_readers: bool,
            caching in proptest::option::of(cachings()),
        ) {
            let indexes = indexes.iter().map(|(id, definition)| IndexRow { id: *id, definition });
            let row = BucketRow { version, name: &name, dropped, indexes: indexes.collect(), keeps_readers, caching };
            let bytes = encode(&row).expect("encodes");
            prop_assert_eq!(decode(&bytes).expect("decodes"), row);
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(format in 0..8u8, bytes: Vec<u8>) {
            let bytes = [&[format], &bytes[..]].concat();
            if let Err(error) = decode(&bytes) {
                let is_corrupt = matches!(error, crate::Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }
    }
}
