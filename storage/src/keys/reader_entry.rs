//! `store | 0x17 | database u32 | bucket u32 | reader u64 | key` in [`crate::engine::Column::Documents`]: a document under a reference that
//! may read it.
//!
//! The reference is there as a hash of fixed width: rows stay short, and two references with one hash only cost time, since whoever finds a
//! document this way judges its rules again.

use xxhash_rust::xxh3::xxh3_64;

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of a document's place under a reference. Ordered by the document's key within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReaderEntryKey<'a> {
    /// Id of the database.
    pub database: u32,
    /// Id of the bucket in it.
    pub bucket: u32,
    /// Of the reference, see [`Self::reader_of`].
    pub reader: u64,
    /// The decoded last part of the object id.
    pub key: &'a str,
}

impl<'a> ReaderEntryKey<'a> {
    /// Bytes in front of the document's key.
    pub const PREFIX_BYTES: usize = 17;

    /// The hash of a reference: XXH3-64 with seed 0, for ever.
    pub fn reader_of(reference: &str) -> u64 {
        xxh3_64(reference.as_bytes())
    }

    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = Self::begin(self.database, self.bucket, self.reader, self.key.len());
        key.extend_from_slice(self.key.as_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &'a [u8]) -> Result<Self> {
        let mut reader = open(KeyKind::ReaderEntry, "reader entry key", key)?;
        let (database, bucket) = (reader.u32_be()?, reader.u32_be()?);
        let hash = reader.u64_be()?;
        let key = std::str::from_utf8(reader.rest()).map_err(|_| reader.corrupt("not UTF-8"))?;
        Ok(Self {
            database,
            bucket,
            reader: hash,
            key,
        })
    }

    /// What the keys of all documents under a reference begin with.
    pub fn prefix(database: u32, bucket: u32, reader: u64) -> Vec<u8> {
        Self::begin(database, bucket, reader, 0)
    }

    fn begin(database: u32, bucket: u32, reader: u64, key_bytes: usize) -> Vec<u8> {
        let mut key = begin(KeyKind::ReaderEntry, 16 + key_bytes);
        key.extend_from_slice(&database.to_be_bytes());
        key.extend_from_slice(&bucket.to_be_bytes());
        key.extend_from_slice(&reader.to_be_bytes());
        key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Parts = (u32, u32, u64, String);

    fn parts() -> impl Strategy<Value = Parts> {
        (
            0..3u32,
            prop_oneof![0..3u32, any::<u32>()],
            prop_oneof![0..3u64, any::<u64>()],
            "[a-c\u{0}ä😀]{0,4}",
        )
    }

    fn key(parts: &Parts) -> ReaderEntryKey<'_> {
        ReaderEntryKey {
            database: parts.0,
            bucket: parts.1,
            reader: parts.2,
            key: &parts.3,
        }
    }

    #[test]
    fn hashes_of_references_never_change() {
        assert_eq!(ReaderEntryKey::reader_of(""), 0x2d06_8005_38d3_94c2);
        let user = ReaderEntryKey::reader_of("/db/User/10");
        assert_ne!(user, ReaderEntryKey::reader_of("/db/User/11"));
    }

    proptest! {
        #[test]
        fn round_trips(parts in parts()) {
            let key = key(&parts);
            let bytes = key.encode();
            prop_assert_eq!(ReaderEntryKey::decode(&bytes).expect("decodes"), key);
        }

        #[test]
        fn byte_order_is_logical_order(a in parts(), b in parts()) {
            prop_assert_eq!(key(&a).encode().cmp(&key(&b).encode()), key(&a).cmp(&key(&b)));
        }
    }
}
