//! Indexes as pure functions: what a definition says, which values a document has, and which of them a filter or a sort order needs.
//!
//! An index holds, for each document of its bucket, at least one value: bytes that order as the indexed fields do
//! ([`query`](crate::query), `ordered`), component after component, those of descending ones inverted. A list makes one value of each of its
//! elements.
//!
//! Invariants, property-tested:
//! - a document that a filter matches has a value within the ranges that the filter's plan reads;
//! - if the plan is exact, every document with a value there matches;
//! - a walk that gives an order meets each document first at its place in that order.
//!
//! | part | owns |
//! |---|---|
//! | `definition` | [`Definition`]: what clients say |
//! | `compiled`, `lists` | [`Index`]: a definition fitted to a class |
//! | `wire` | its bytes |
//! | `values` | the values of a document, and the hashes of unique ones |
//! | `hashed` | keyed hashes in the place of values |
//! | `encoding` | the layout of values |
//! | `cell` | places on a line |
//! | `conditions` | what all documents of a filter have in common |
//! | `bounds` | which values of one component a condition leaves |
//! | `ranges` | which values of an index a filter leaves |
//! | `order` | which orders a walk gives, and where to go on |
//! | `plan` | [`plan`](fn@plan): the choice |
//! | `places` | which filters need a geo index |
//! | `anchors` | [`Anchor`]: where a filter is found by the documents that it may match |
//! | `explain` | ranges as people read them |
//!
//! Lacks: entries and their keys, and whether an index is complete (crate `storage`), and walking them (crate `service`).

mod anchors;
mod bounds;
mod cell;
mod compiled;
mod conditions;
mod definition;
mod encoding;
mod explain;
mod hashed;
mod lists;
mod order;
mod places;
mod plan;
mod ranges;
mod values;
mod wire;

pub use self::anchors::{Anchor, anchors};
pub use self::compiled::Index;
pub use self::definition::{Definition, KEYS_MAX, Kind, PATH_BYTES_MAX};
pub use self::encoding::COMPONENT_BYTES_MAX;
pub use self::hashed::{IndexSecret, SECRET_BYTES};
pub use self::order::IndexOrder;
pub use self::plan::{Access, Candidate, IndexAccess, Plan, Refused, Statistics, plan};
pub use self::ranges::{RANGES_MAX, Range};
pub use self::values::{TooManyValues, ValueHash};
