//! `store | 0x01` in [`crate::engine::Column::State`]: the one applied row of a store.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of the applied row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppliedKey;

impl AppliedKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        begin(KeyKind::Applied, 0)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        open(KeyKind::Applied, "applied key", key)?.finish()?;
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_is_alone() {
        assert_eq!(
            AppliedKey::decode(&AppliedKey.encode()).expect("decodes"),
            AppliedKey
        );
        assert!(AppliedKey::decode(&[1, 1]).is_err());
        assert!(AppliedKey::decode(&[2]).is_err());
    }
}
