//! The filter language (contract section 5.3) and sort orders: read once, then asked for many stored documents.
//!
//! Matching is MongoDB's: a condition on an array holds if it holds for an element, `null` matches null and missing, embedded values
//! compare as a whole, ranges stay within one kind of value, and sorting has a total order over all kinds. Nothing here builds a tree
//! of a document: conditions look at the stored bytes.
//!
//! | part | owns |
//! |---|---|
//! | `filter` | [`Filter`]: the whole condition |
//! | `parse` | which operators there are, and the form of their arguments |
//! | `literal` | values in filters |
//! | `expression` | conditions as they are evaluated |
//! | `path` | dotted paths, and which members of a document are looked at |
//! | `raw` | stored JSON as bytes |
//! | `value`, `number`, `moment` | values, their kinds and their total order |
//! | `pattern` | regular expressions |
//! | `geo` | places, distances and areas |
//! | `sort` | [`Sort`] and [`SortKey`]: orders of documents |
//! | `ordered` | values as bytes that order as they do |
//! | `subject` | [`Subject`]: what is asked |
//! | `limits` | [`Limits`]: how much a request may ask of us |
//! | `error` | [`Error`] |
//!
//! Lacks: rights (`acl`), plans and indexes ([`index`](crate::index)), and everything that takes more than one document.

mod error;
pub(crate) mod expression;
mod filter;
pub(crate) mod geo;
mod limits;
mod literal;
mod moment;
pub(crate) mod number;
pub(crate) mod ordered;
mod parse;
pub(crate) mod path;
pub(crate) mod pattern;
mod raw;
mod sort;
mod subject;
pub(crate) mod value;

pub use self::error::Error;
pub use self::filter::Filter;
pub use self::limits::Limits;
pub use self::sort::{Sort, SortKey};
pub use self::subject::Subject;
