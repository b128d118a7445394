//! Everything that a node keeps on its disk, and the state machine of the documents.
//!
//! Two RocksDB databases lie below one data directory. `log` holds what Raft must not lose and the directory of stores; each of its
//! promises is one synced write. `data` holds what was applied; it never uses a write-ahead log and is rebuilt from `log` past its last
//! flush. Every key of both begins with a store id, so that several generations of a replica can lie side by side.
//!
//! | module | owns |
//! |---|---|
//! | [`engine`] | the seam to the applied data: RocksDB, or memory for tests and simulation |
//! | [`raft_log`] | entries, votes, commit and purge points, the store directory; one sync for all groups |
//! | [`codec`] | stored values as bytes |
//! | [`keys`] | the catalogue of keys in the data database |
//! | [`tables`] | typed reads and writes over those keys |
//! | [`machine`] | entry → one batch and a reply |
//! | [`audit`] | records of audit logs and the chain that they form |
//! | [`memory`] | one budget, shared out |
//! | [`snapshot`] | one replica as files: written, verified, installed |
//! | [`mod@verify`] | an offline check of all of it |
//! | [`seal`] | encryption at rest: keys, sealed values, bringing old ones to new keys |
//! | [`salvage`] | what still reads of a damaged data database, put into a new one |
//! | [`format`](mod@format) | the version of all of this |
//!
//! Deliberately absent: openraft's types (crate `raft`), anything asynchronous, wall clocks. Calls block; whoever calls from an async
//! thread uses those that say that they do not wait for a disk.

#![deny(unsafe_code)]

pub mod audit;
pub mod codec;
pub mod engine;
pub mod error;
pub mod format;
pub mod ids;
pub mod keys;
pub mod machine;
pub mod memory;
mod open;
pub mod raft_log;
pub mod salvage;
pub mod seal;
pub mod snapshot;
pub mod tables;
pub mod verify;

pub use error::{Error, Result};
pub use ids::{LogId, StoreId, Vote};
pub use open::{Lost, Options, Storage, drop_stores, open};
