//! `store | 0x40 | index u64 | ordinal u32` in [`crate::engine::Column::State`]: a change of something that web caches may hold, at its
//! place in the shard's history; and `store | 0x41 | index u64`: a mark of when the changes up to an index were known to be committed.

use super::{ChangeKey, KeyKind, begin, open};
use crate::error::Result;

/// Key of a change that made cached copies stale: the place of its event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaleKey(pub ChangeKey);

impl StaleKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        self.0.encode_as(KeyKind::Stale)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        ChangeKey::decode_as(KeyKind::Stale, "stale key", key).map(Self)
    }

    /// What all of these keys begin with.
    pub fn prefix() -> Vec<u8> {
        begin(KeyKind::Stale, 0)
    }
}

/// Key of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaleMarkKey {
    /// Everything up to this log index was known to be committed.
    pub index: u64,
}

impl StaleMarkKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::StaleMark, 8);
        key.extend_from_slice(&self.index.to_be_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let mut reader = open(KeyKind::StaleMark, "stale mark key", key)?;
        let index = reader.u64_be()?;
        reader.finish()?;
        Ok(Self { index })
    }

    /// What all of these keys begin with.
    pub fn prefix() -> Vec<u8> {
        begin(KeyKind::StaleMark, 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stale(index: u64, ordinal: u32) -> StaleKey {
        StaleKey(ChangeKey { index, ordinal })
    }

    proptest! {
        #[test]
        fn both_round_trip_in_order(a: (u64, u32), b: (u64, u32)) {
            let (one, other) = (stale(a.0, a.1), stale(b.0, b.1));
            prop_assert_eq!(StaleKey::decode(&one.encode()).expect("decodes"), one);
            prop_assert_eq!(one.encode().cmp(&other.encode()), one.cmp(&other));
            let (one, other) = (StaleMarkKey { index: a.0 }, StaleMarkKey { index: b.0 });
            prop_assert_eq!(StaleMarkKey::decode(&one.encode()).expect("decodes"), one);
            prop_assert_eq!(one.encode().cmp(&other.encode()), one.cmp(&other));
        }
    }
}
