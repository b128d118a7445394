//! What the metadata group answers to a command.
//!
//! A rejection is decided in apply, from the state alone: it is the same on every replica, and nothing was changed.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The reply to a metadata command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaOutcome {
    /// It holds now. Also when it did before, for commands that may be repeated.
    Done,
    /// It was refused, without any effect.
    Rejected(MetaRejection),
}

/// Why a metadata command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MetaRejection {
    /// The cluster exists.
    #[error("the cluster is initialized already")]
    AlreadyInitialized,
    /// There is no cluster yet.
    #[error("the cluster is not initialized")]
    NotInitialized,
    /// The schema changed since the proposer read it.
    #[error("the schema is at version {current}")]
    VersionConflict {
        /// The schema version now.
        current: u64,
    },
    /// The command contradicts itself or the state; the text says how.
    #[error("{0}")]
    Invalid(String),
}

impl MetaOutcome {
    /// The reply as bytes. They stay in the process, or cross between nodes of neighbouring releases.
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Reply`]: it is something else.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(Error::Reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_round_trip() {
        for outcome in [
            MetaOutcome::Done,
            MetaOutcome::Rejected(MetaRejection::AlreadyInitialized),
            MetaOutcome::Rejected(MetaRejection::NotInitialized),
            MetaOutcome::Rejected(MetaRejection::VersionConflict { current: u64::MAX }),
            MetaOutcome::Rejected(MetaRejection::Invalid("größer".to_owned())),
        ] {
            assert_eq!(
                MetaOutcome::decode(&outcome.encode()).expect("decodes"),
                outcome
            );
        }
        assert!(matches!(MetaOutcome::decode(b""), Err(Error::Reply(_))));
    }
}
