//! `store | 0x10 | database u32 | bucket u32 | key` in [`crate::engine::Column::Documents`]: a document, or the tombstone of one.
//!
//! The key is UTF-8 up to the end, so documents of a bucket lie in the order of their keys' code points.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentKey<'a> {
    /// Id of the database.
    pub database: u32,
    /// Id of the bucket in it.
    pub bucket: u32,
    /// The decoded last part of the object id.
    pub key: &'a str,
}

impl<'a> DocumentKey<'a> {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = Self::begin(self.database, self.bucket, self.key.len());
        key.extend_from_slice(self.key.as_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &'a [u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Document, "document key", key)?;
        let (database, bucket) = (reader.u32_be()?, reader.u32_be()?);
        let key = std::str::from_utf8(reader.rest()).map_err(|_| reader.corrupt("not UTF-8"))?;
        Ok(Self {
            database,
            bucket,
            key,
        })
    }

    /// What the keys of all documents of a bucket begin with.
    pub fn prefix(database: u32, bucket: u32) -> Vec<u8> {
        Self::begin(database, bucket, 0)
    }

    fn begin(database: u32, bucket: u32, text_bytes: usize) -> Vec<u8> {
        let mut key = begin(KeyKind::Document, 8 + text_bytes);
        key.extend_from_slice(&database.to_be_bytes());
        key.extend_from_slice(&bucket.to_be_bytes());
        key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::prefix_end;
    use std::ops::Bound;

    fn parts() -> impl Strategy<Value = (u32, u32, String)> {
        (
            0..3u32,
            prop_oneof![0..3u32, any::<u32>()],
            "[a-c\u{0}ä😀\u{10ffff}]{0,4}",
        )
    }

    proptest! {
        #[test]
        fn round_trips((database, bucket, text) in parts()) {
            let key = DocumentKey { database, bucket, key: &text };
            let bytes = key.encode();
            prop_assert_eq!(DocumentKey::decode(&bytes).expect("decodes"), key);
        }

        #[test]
        fn byte_order_is_logical_order(a in parts(), b in parts()) {
            let a = DocumentKey { database: a.0, bucket: a.1, key: &a.2 };
            let b = DocumentKey { database: b.0, bucket: b.1, key: &b.2 };
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }

        #[test]
        fn a_bucket_is_one_range(a in parts(), (database, bucket, text) in parts()) {
            let prefix = DocumentKey::prefix(database, bucket);
            let Bound::Excluded(end) = prefix_end(&prefix) else { panic!("a kind is never 0xff") };
            let own = DocumentKey { database, bucket, key: &text }.encode();
            prop_assert!(own >= prefix && own < end);
            let other = DocumentKey { database: a.0, bucket: a.1, key: &a.2 }.encode();
            prop_assert_eq!(other >= prefix && other < end, (a.0, a.1) == (database, bucket));
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(bytes: Vec<u8>) {
            let bytes = [&[0x10, 0, 0, 0, 1, 0, 0, 0, 1][..], &bytes].concat();
            prop_assert_eq!(DocumentKey::decode(&bytes).is_ok(), std::str::from_utf8(&bytes[9..]).is_ok());
        }
    }
}
