//! `store | 0x02 | database u32 | bucket u32` in [`crate::engine::Column::State`]: a bucket as apply knows it.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of a bucket's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketKey {
    /// Id of the database.
    pub database: u32,
    /// Id of the bucket in it.
    pub bucket: u32,
}

impl BucketKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::Bucket, 8);
        key.extend_from_slice(&self.database.to_be_bytes());
        key.extend_from_slice(&self.bucket.to_be_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Bucket, "bucket key", key)?;
        let decoded = Self {
            database: reader.u32_be()?,
            bucket: reader.u32_be()?,
        };
        reader.finish()?;
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = BucketKey> {
        (any::<u32>(), any::<u32>()).prop_map(|(database, bucket)| BucketKey { database, bucket })
    }

    proptest! {
        #[test]
        fn round_trips(key in keys()) {
            prop_assert_eq!(BucketKey::decode(&key.encode()).expect("decodes"), key);
        }

        #[test]
        fn byte_order_is_logical_order(a in keys(), b in keys()) {
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }
}
