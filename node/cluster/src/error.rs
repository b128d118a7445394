//! What can go wrong with the cluster metadata. None of these is a rejection: whoever meets one stops the metadata group.

/// Result of a metadata call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure that is no reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A stored row is not what was written.
    #[error("metadata row {name:?}: {reason}")]
    Row {
        /// Name of the row.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A row that others refer to is missing.
    #[error("metadata row {name:?} is missing")]
    Missing {
        /// Name of the row.
        name: String,
    },
    /// A log entry is no metadata command, or one that a later release brought.
    #[error("metadata command: {0}")]
    Command(String),
    /// A counter has no number left.
    #[error("out of {0}")]
    Exhausted(&'static str),
    /// A reply is not one of the metadata group.
    #[error("metadata reply: {0}")]
    Reply(#[source] serde_json::Error),
}

impl From<Error> for storage::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Storage(error) => error,
            Error::Row { .. }
            | Error::Missing { .. }
            | Error::Command(_)
            | Error::Exhausted(_)
            | Error::Reply(_) => Self::corrupt(error.to_string()),
        }
    }
}
