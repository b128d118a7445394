//! `store | 0x22 | consumer u64` in [`crate::engine::Column::State`]: how far a durable consumer is, which the crate `cluster` gives its
//! meaning.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of a consumer's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConsumerKey {
    /// Id of the consumer.
    pub consumer: u64,
}

impl ConsumerKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::Consumer, 8);
        key.extend_from_slice(&self.consumer.to_be_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Consumer, "consumer key", key)?;
        let consumer = reader.u64_be()?;
        reader.finish()?;
        Ok(Self { consumer })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips_in_order(a: u64, b: u64) {
            let (a, b) = (ConsumerKey { consumer: a }, ConsumerKey { consumer: b });
            prop_assert_eq!(ConsumerKey::decode(&a.encode()).expect("decodes"), a);
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }

    #[test]
    fn another_layout_is_corrupt() {
        assert!(ConsumerKey::decode(&[0x22, 1]).is_err());
    }
}
