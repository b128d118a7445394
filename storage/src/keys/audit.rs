//! `store | 0x14 | sequence u64` and `store | 0x15` in [`crate::engine::Column::State`]: a record of the shard's audit log, and how far the
//! log is.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of a record of the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditKey {
    /// Its place in the chain, from 1.
    pub sequence: u64,
}

impl AuditKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::Audit, 8);
        key.extend_from_slice(&self.sequence.to_be_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Audit, "audit key", key)?;
        let sequence = reader.u64_be()?;
        reader.finish()?;
        Ok(Self { sequence })
    }

    /// What the keys of all records begin with.
    pub fn prefix() -> Vec<u8> {
        begin(KeyKind::Audit, 0)
    }
}

/// Key of the row that says how far the audit log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditHeadKey;

impl AuditHeadKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        begin(KeyKind::AuditHead, 0)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        open(KeyKind::AuditHead, "audit head key", key)?.finish()?;
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips_in_order(a: u64, b: u64) {
            let (a, b) = (AuditKey { sequence: a }, AuditKey { sequence: b });
            prop_assert_eq!(AuditKey::decode(&a.encode()).expect("decodes"), a);
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }

    #[test]
    fn the_head_is_alone() {
        assert!(AuditHeadKey::decode(&AuditHeadKey.encode()).is_ok());
        assert!(AuditHeadKey::decode(&[0x15, 1]).is_err());
        assert!(AuditKey::decode(&[0x14, 1]).is_err());
    }
}
