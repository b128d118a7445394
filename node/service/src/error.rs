//! The one error of the facade: what the client is told, and whether anything happened.
//!
//! The code is from the closed list in `proto`; an edge turns it into a status and writes the rest as it is. `effect` is usually what
//! the code promises. It differs only where the service knows better: a refusal that follows an attempt with unknown outcome, or a
//! schema change that is stored but not confirmed yet.

use std::fmt;
use std::time::Duration;

use proto::{Effect, ErrorCode};

/// A refused or failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What went wrong.
    pub code: ErrorCode,
    /// Whether anything happened.
    pub effect: Effect,
    /// For people: lower case, no full stop, never with secrets.
    pub message: String,
    /// When a retry makes sense.
    pub retry_after: Option<Duration>,
    /// With `SecondFactorRequired`: the token to go on with.
    pub second_factor: Option<String>,
}

/// Result of the facade.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with the effect that its code promises.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        Error {
            code,
            effect: code.effect(),
            message: message.into(),
            retry_after: None,
            second_factor: None,
        }
    }

    /// The same error with another effect.
    pub fn with_effect(mut self, effect: Effect) -> Error {
        self.effect = effect;
        self
    }

    /// The same error with a hint when to try again.
    pub fn with_retry_after(mut self, retry_after: Duration) -> Error {
        self.retry_after = Some(retry_after);
        self
    }

    /// Nothing happened, a retry may work.
    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::Unavailable, message).with_retry_after(crate::limits::RETRY_AFTER)
    }

    /// The password was right; the code is missing.
    pub(crate) fn second_factor(token: String) -> Error {
        Error {
            second_factor: Some(token),
            ..Error::new(
                ErrorCode::SecondFactorRequired,
                "a code of the second factor is needed",
            )
        }
    }

    /// A fault of the server. The cause goes to the log, not to the client.
    pub(crate) fn internal(cause: &dyn fmt::Display) -> Error {
        tracing::error!(%cause, "internal error");
        Error::new(ErrorCode::Internal, "internal error")
    }

    /// An unknown bucket.
    pub(crate) fn bucket_not_found(bucket: &str) -> Error {
        Error::new(
            ErrorCode::BucketNotFound,
            format!("unknown bucket {bucket:?}"),
        )
    }

    /// An unknown database. Never 404: on an update the client takes that for success.
    pub(crate) fn database_not_found(database: &str) -> Error {
        Error::new(
            ErrorCode::BucketNotFound,
            format!("unknown database {database:?}"),
        )
    }

    /// A malformed parameter.
    pub(crate) fn bad_request(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::BadRequest, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}

impl From<document::Error> for Error {
    fn from(error: document::Error) -> Error {
        let code = match &error {
            document::Error::Syntax(_) => ErrorCode::SyntaxError,
            document::Error::Type { .. } => ErrorCode::InvalidTypeValue,
            document::Error::BadRequest(_) | document::Error::TooDeep { .. } => {
                ErrorCode::BadRequest
            }
            document::Error::Schema(schema) => return schema.clone().into(),
        };
        Error::new(code, error.to_string())
    }
}

impl From<document::query::Error> for Error {
    fn from(error: document::query::Error) -> Error {
        let code = match &error {
            document::query::Error::Syntax(_) => ErrorCode::SyntaxError,
            document::query::Error::Unsupported(_) => ErrorCode::QueryNotSupported,
            document::query::Error::InvalidValue(_) => ErrorCode::InvalidTypeValue,
            document::query::Error::Limit { .. } => ErrorCode::BadRequest,
        };
        Error::new(code, error.to_string())
    }
}

impl From<document::SchemaError> for Error {
    fn from(error: document::SchemaError) -> Error {
        let code = match &error {
            document::SchemaError::NotCompatible(_) => ErrorCode::SchemaNotCompatible,
            document::SchemaError::StillExists(_) => ErrorCode::SchemaStillExists,
            document::SchemaError::AlreadyExists(_) => ErrorCode::TypeAlreadyExists,
            document::SchemaError::StillReferenced(_) => ErrorCode::TypeStillReferenced,
            document::SchemaError::UnknownClass(_) => ErrorCode::BucketNotFound,
            document::SchemaError::Invalid(_) => ErrorCode::BadRequest,
            document::SchemaError::Denied(_) => ErrorCode::PermissionDenied,
        };
        Error::new(code, error.to_string())
    }
}

impl From<storage::error::Error> for Error {
    /// A failed read. A failed write never comes this way: it stops the shard.
    fn from(error: storage::error::Error) -> Error {
        Error::internal(&error).with_effect(Effect::None)
    }
}
