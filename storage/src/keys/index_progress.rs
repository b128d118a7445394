//! `store | 0x0A | database u32 | bucket u32 | index u32` in [`crate::engine::Column::State`]: how far the building of an index is, or
//! its removal.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of an index's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexProgressKey {
    /// Id of the database.
    pub database: u32,
    /// Id of the bucket in it.
    pub bucket: u32,
    /// Id of the index in the database.
    pub index: u32,
}

impl IndexProgressKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::IndexProgress, 12);
        for id in [self.database, self.bucket, self.index] {
            key.extend_from_slice(&id.to_be_bytes());
        }
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let mut reader = open(KeyKind::IndexProgress, "index progress key", key)?;
        let decoded = Self {
            database: reader.u32_be()?,
            bucket: reader.u32_be()?,
            index: reader.u32_be()?,
        };
        reader.finish()?;
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = IndexProgressKey> {
        let id = prop_oneof![0..3u32, any::<u32>()];
        [id.clone(), id.clone(), id].prop_map(|[database, bucket, index]| IndexProgressKey {
            database,
            bucket,
            index,
        })
    }

    proptest! {
        #[test]
        fn round_trips(key in keys()) {
            prop_assert_eq!(IndexProgressKey::decode(&key.encode()).expect("decodes"), key);
        }

        #[test]
        fn byte_order_is_logical_order(a in keys(), b in keys()) {
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }
}
