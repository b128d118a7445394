//! `store | 0x09 | due T u64 | database u32 | bucket u32 | key` in [`crate::engine::Column::State`]: a document that expires, at its place
//! in the order in which they do.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of a document's place among those that expire. Ordered from the one that is due first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpiryKey<'a> {
    /// The shard's T from which on it is due, microseconds.
    pub due_us: u64,
    /// Id of the database.
    pub database: u32,
    /// Id of the bucket in it.
    pub bucket: u32,
    /// The decoded last part of the object id.
    pub key: &'a str,
}

impl<'a> ExpiryKey<'a> {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::Expiry, 16 + self.key.len());
        key.extend_from_slice(&self.due_us.to_be_bytes());
        key.extend_from_slice(&self.database.to_be_bytes());
        key.extend_from_slice(&self.bucket.to_be_bytes());
        key.extend_from_slice(self.key.as_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &'a [u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Expiry, "expiry key", key)?;
        let due_us = reader.u64_be()?;
        let (database, bucket) = (reader.u32_be()?, reader.u32_be()?);
        let key = std::str::from_utf8(reader.rest()).map_err(|_| reader.corrupt("not UTF-8"))?;
        Ok(Self {
            due_us,
            database,
            bucket,
            key,
        })
    }

    /// What the keys of all documents that expire begin with.
    pub fn prefix() -> Vec<u8> {
        begin(KeyKind::Expiry, 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts() -> impl Strategy<Value = (u64, u32, u32, String)> {
        (
            prop_oneof![0..3u64, any::<u64>()],
            0..3u32,
            prop_oneof![0..3u32, any::<u32>()],
            "[a-c\u{0}ä😀]{0,4}",
        )
    }

    fn key_of(parts: &(u64, u32, u32, String)) -> ExpiryKey<'_> {
        ExpiryKey {
            due_us: parts.0,
            database: parts.1,
            bucket: parts.2,
            key: &parts.3,
        }
    }

    proptest! {
        #[test]
        fn round_trips(parts in parts()) {
            let bytes = key_of(&parts).encode();
            prop_assert_eq!(ExpiryKey::decode(&bytes).expect("decodes"), key_of(&parts));
        }

        #[test]
        fn byte_order_is_logical_order(a in parts(), b in parts()) {
            let (a, b) = (key_of(&a), key_of(&b));
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }
}
