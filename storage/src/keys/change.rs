//! `store | 0x20 | index u64 | ordinal u32` in [`crate::engine::Column::Changes`]: a change event at its place in the shard's history.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of a change event, and with the shard its id. Ordered as the events happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeKey {
    /// Log index of the entry that made the event.
    pub index: u64,
    /// Counts the events of one entry, from 0.
    pub ordinal: u32,
}

impl ChangeKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        self.encode_as(KeyKind::Change)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        Self::decode_as(KeyKind::Change, "change key", key)
    }

    /// The same place as the key of another kind that has one row for each change.
    pub(super) fn encode_as(self, kind: KeyKind) -> Vec<u8> {
        let mut key = begin(kind, 12);
        key.extend_from_slice(&self.index.to_be_bytes());
        key.extend_from_slice(&self.ordinal.to_be_bytes());
        key
    }

    /// Reads what [`Self::encode_as`] wrote.
    pub(super) fn decode_as(kind: KeyKind, what: &'static str, key: &[u8]) -> Result<Self> {
        let mut reader = open(kind, what, key)?;
        let decoded = Self {
            index: reader.u64_be()?,
            ordinal: reader.u32_be()?,
        };
        reader.finish()?;
        Ok(decoded)
    }

    /// What all keys of change events begin with.
    pub fn prefix() -> Vec<u8> {
        begin(KeyKind::Change, 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = ChangeKey> {
        (any::<u64>(), any::<u32>()).prop_map(|(index, ordinal)| ChangeKey { index, ordinal })
    }

    proptest! {
        #[test]
        fn round_trips(key in keys()) {
            prop_assert_eq!(ChangeKey::decode(&key.encode()).expect("decodes"), key);
        }

        #[test]
        fn byte_order_is_logical_order(a in keys(), b in keys()) {
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }
}
