//! What can be wrong with a document, an access rule or a schema change.
//!
//! Every error here is a refusal decided before anything is stored: its effect is always "none". The crate names conditions, not
//! statuses: the numbers in the docstrings are those of the HTTP contract (section 1.5) and are written once, in the code list of crate
//! `proto`. Messages are for people: lower case, no full stop, they name the member, class or position at fault, and they never quote
//! whole bodies, which may hold secrets.

use thiserror::Error;

/// Why a body, an ACL or a request for a schema change was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The text is not JSON, or not a JSON object where one is due; names line and column. HTTP 471.
    #[error("{0}")]
    Syntax(String),

    /// The JSON is fine but a value does not fit the type of its field. HTTP 463.
    #[error("field {field}: {message}")]
    Type {
        /// Path of the value from the top of the document: `address.zip`, `tags[3]`.
        field: String,
        /// What was expected and what was found.
        message: String,
    },

    /// A member outside the class' fields is wrong: an id that does not fit, a malformed ACL, an unknown operation. HTTP 400.
    #[error("{0}")]
    BadRequest(String),

    /// A schema change was refused.
    #[error(transparent)]
    Schema(#[from] SchemaError),

    /// Objects and arrays are nested more than `limit` levels deep. HTTP 400.
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// The greatest depth that is accepted; the outermost object is level 1.
        limit: usize,
    },
}

/// Why a schema change was refused. Nothing of the request took effect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SchemaError {
    /// The change contradicts what is there: another type, another superclass, a system class. HTTP 469.
    #[error("{0}")]
    NotCompatible(String),

    /// The change needs something gone that still exists. HTTP 470.
    #[error("{0}")]
    StillExists(String),

    /// The class is defined twice. HTTP 473.
    #[error("{0}")]
    AlreadyExists(String),

    /// The class is the type of a field, or the superclass of another one. HTTP 474.
    #[error("{0}")]
    StillReferenced(String),

    /// No such class. HTTP 461.
    #[error("unknown class {0}")]
    UnknownClass(String),

    /// The descriptor itself breaks a rule of the contract (section 4.1) or a limit. HTTP 400.
    #[error("{0}")]
    Invalid(String),

    /// The caller lacks `schemaAdd`, `schemaReplace` or `schemaSubclass` on the class. HTTP 466.
    #[error("{0}")]
    Denied(String),
}
