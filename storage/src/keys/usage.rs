//! `store | 0x16 | database u32` in [`crate::engine::Column::State`]: what a database's documents take in this shard.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of a database's usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageKey {
    /// Id of the database.
    pub database: u32,
}

impl UsageKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::Usage, 4);
        key.extend_from_slice(&self.database.to_be_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Usage, "usage key", key)?;
        let database = reader.u32_be()?;
        reader.finish()?;
        Ok(Self { database })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips_in_order(a: u32, b: u32) {
            let (a, b) = (UsageKey { database: a }, UsageKey { database: b });
            prop_assert_eq!(UsageKey::decode(&a.encode()).expect("decodes"), a);
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }

    #[test]
    fn another_layout_is_corrupt() {
        assert!(UsageKey::decode(&[0x16, 1]).is_err());
    }
}
