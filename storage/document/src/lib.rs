//! The pure document model: ids, access rules, times, the schema, and the JSON form of objects.
//!
//! Everything here is a function of its arguments: no I/O, no clock, no randomness, no global state. HTTP, gRPC, apply, the feeds and
//! the import all ask this crate what a document *is*, so that no two of them can disagree. `DESIGN.md` beside this crate has the
//! reasons.
//!
//! | module | owns |
//! |---|---|
//! | [`id`] | `/db/<bucket>/<encoded key>` and its parts |
//! | [`acl`] | who may read or write: rules, object ACLs, principals |
//! | [`decision`] | why rules let somebody do something, for people |
//! | [`readers`] | the same as references that an index can hold |
//! | [`time`] | microseconds since 1970 and their JSON texts |
//! | [`schema`] | class descriptors, how they may change, and compiled layouts |
//! | [`bloom`] | the filter that tells web caches what changed |
//! | [`body`] | checking a body against its class, and writing the stored form out again |
//! | [`query`] | filters and sort orders: reading them, and asking stored documents |
//! | [`index`] | definitions of indexes, the values of documents in them, and plans |
//! | [`update`] | partial updates: fitting operations to a class, and applying them to stored fields |
//! | [`error`] | what can be wrong with any of these |
//!
//! Deliberately absent: stored bytes and keys (crate `storage`), statuses and error codes (crate `proto`), and what a missing ACL means
//! in a given database (crate `service`; here it always means public).

#![deny(unsafe_code)]

pub mod acl;
pub mod bloom;
pub mod body;
pub mod decision;
pub mod error;
pub mod id;
pub mod index;
mod json;
pub mod query;
pub mod readers;
pub mod schema;
pub mod time;
pub mod update;

pub use error::{Error, SchemaError};
