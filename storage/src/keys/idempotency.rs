//! Keys of the idempotency table in [`crate::engine::Column::State`]: `store | 0x03 | scope u128` for a record, `store | 0x04 | created T
//! u64 | scope u128` for its place in the order of ages, `store | 0x05` for the bytes that all records take.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of the record of one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdempotencyKey {
    /// Hash of the scope, see [`crate::tables::idempotency::scope`].
    pub scope: u128,
}

impl IdempotencyKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::Idempotency, 16);
        key.extend_from_slice(&self.scope.to_be_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Idempotency, "idempotency key", key)?;
        let decoded = Self {
            scope: reader.u128_be()?,
        };
        reader.finish()?;
        Ok(decoded)
    }
}

/// Key of a record's age row. Ordered from the oldest record to the youngest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdempotencyAgeKey {
    /// The shard's T when the record was made, microseconds.
    pub created_us: u64,
    /// See [`IdempotencyKey::scope`].
    pub scope: u128,
}

impl IdempotencyAgeKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::IdempotencyAge, 24);
        key.extend_from_slice(&self.created_us.to_be_bytes());
        key.extend_from_slice(&self.scope.to_be_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let mut reader = open(KeyKind::IdempotencyAge, "idempotency age key", key)?;
        let decoded = Self {
            created_us: reader.u64_be()?,
            scope: reader.u128_be()?,
        };
        reader.finish()?;
        Ok(decoded)
    }

    /// What all age keys begin with.
    pub fn prefix() -> Vec<u8> {
        begin(KeyKind::IdempotencyAge, 0)
    }
}

/// Key of the byte count of all records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdempotencyUsageKey;

impl IdempotencyUsageKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        begin(KeyKind::IdempotencyUsage, 0)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        open(KeyKind::IdempotencyUsage, "idempotency usage key", key)?.finish()?;
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ages() -> impl Strategy<Value = IdempotencyAgeKey> {
        (prop_oneof![0..3u64, any::<u64>()], any::<u128>())
            .prop_map(|(created_us, scope)| IdempotencyAgeKey { created_us, scope })
    }

    #[test]
    fn the_usage_key_round_trips() {
        assert_eq!(
            IdempotencyUsageKey::decode(&IdempotencyUsageKey.encode()).expect("decodes"),
            IdempotencyUsageKey
        );
    }

    proptest! {
        #[test]
        fn records_round_trip(scope: u128) {
            let key = IdempotencyKey { scope };
            prop_assert_eq!(IdempotencyKey::decode(&key.encode()).expect("decodes"), key);
        }

        #[test]
        fn record_byte_order_is_logical_order(a: u128, b: u128) {
            let (a, b) = (IdempotencyKey { scope: a }, IdempotencyKey { scope: b });
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }

        #[test]
        fn ages_round_trip(key in ages()) {
            prop_assert_eq!(IdempotencyAgeKey::decode(&key.encode()).expect("decodes"), key);
        }

        #[test]
        fn age_byte_order_is_logical_order(a in ages(), b in ages()) {
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }
}
