//! `store | 0x08 | name` in [`crate::engine::Column::State`]: a row of the cluster metadata, which the crate `cluster` gives its meaning.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of a metadata row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetadataKey<'a> {
    /// Name of the row, up to the end of the key.
    pub name: &'a str,
}

impl<'a> MetadataKey<'a> {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::Metadata, self.name.len());
        key.extend_from_slice(self.name.as_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &'a [u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Metadata, "metadata key", key)?;
        let name = std::str::from_utf8(reader.rest()).map_err(|_| reader.corrupt("not UTF-8"))?;
        Ok(Self { name })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips(name: String) {
            let key = MetadataKey { name: &name };
            let bytes = key.encode();
            prop_assert_eq!(MetadataKey::decode(&bytes).expect("decodes"), key);
        }

        #[test]
        fn byte_order_is_logical_order(a in "[a-cä]{0,4}", b in "[a-cä]{0,4}") {
            let (a, b) = (MetadataKey { name: &a }, MetadataKey { name: &b });
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }
}
