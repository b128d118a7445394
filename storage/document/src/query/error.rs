//! Why a filter or a sort order was refused. Nothing was read or changed.

use thiserror::Error;

/// Why a filter or a sort order was refused. Messages are for people and name the field or operator at fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Not JSON, or not in the form of a filter or a sort order. HTTP 471.
    #[error("{0}")]
    Syntax(String),

    /// An operator, or a use of one, that is not offered here. HTTP 468.
    #[error("{0}")]
    Unsupported(String),

    /// A value that no document of the class can have in this field: a text that is no date, a point off the globe. HTTP 463.
    #[error("{0}")]
    InvalidValue(String),

    /// More than [`Limits`](super::Limits) allow. HTTP 400.
    #[error("{what} beyond the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most that is accepted.
        limit: usize,
    },
}
