//! The filter language (contract section 5.3) and sort orders: read once, then asked for many stored documents.
//!
//! Matching is MongoDB's: a condition on an array holds if it holds for an element, `null` matches null and missing, embedded values
//! compare as a whole, ranges stay within one kind of value, and sorting has a total order over all kinds. Nothing here builds a tree
//! of a document: conditions look at the stored bytes.
//!
//! | part | owns |
//! |---|---|
//! | `filter` | [`Filter`]: the whole condition |
//! | `sort` | [`Sort`] and [`SortKey`]: orders as bytes |
//! | `subject` | [`Subject`]: what is asked |
//! | `limits` | [`Limits`]: how much a request may ask of us |
//! | `error` | [`Error`] |
//!
//! Lacks: rights (`acl`), plans and indexes, and everything that takes more than one document.

mod error;
mod filter;
mod limits;
mod sort;
mod subject;

pub use self::error::Error;
pub use self::filter::Filter;
pub use self::limits::Limits;
pub use self::sort::{Sort, SortKey};
pub use self::subject::Subject;
