//! Who owns what: which shard a document belongs to, which nodes hold a shard, and the replicated metadata that says so.
//!
//! | module | owns |
//! |---|---|
//! | [`shard_map`] | key → shard |
//! | [`hash_ring`] | shard → nodes, clockwise |
//! | [`placement`] | ring, zones, weights → replicas and preferred leaders |
//! | [`nodes`] | what is known of a node |
//! | [`state`] | the metadata as one immutable value |
//! | [`replacement`] | the steps from one replica to its successor |
//! | `rows` | the metadata on disk, row by row |
//! | [`machine`] | commands → rows and a reply, the state machine of shard 0 |
//! | [`clearing`] | which shards are rid of a dropped bucket |
//! | `init`, `schema_change`, `index_change` | the commands that are more than a step |
//! | [`caching`] | how long web caches may keep the documents of a bucket |
//! | [`quotas`] | what databases may take and take |
//! | [`consumers`] | durable consumers of change feeds, and how far each is |
//! | `audited` | the metadata group's own audit log |
//! | [`publish`] | the newest state, for everybody on this node |
//! | [`signing_keys`] | the keys that tokens are signed with |
//! | [`outcome`] | replies |
//!
//! Everything here is a function of its arguments: no clock, no randomness, no I/O but through the transaction of apply.
//!
//! Deliberately absent: liveness of nodes, present leaders (crate `raft`), and the drivers that carry out what is decided
//! here (crate `service`).

#![deny(unsafe_code)]

mod audited;
pub mod caching;
pub mod clearing;
pub mod consumers;
pub mod error;
pub mod hash_ring;
mod index_change;
mod init;
pub mod machine;
pub mod nodes;
pub mod outcome;
pub mod placement;
pub mod publish;
pub mod quotas;
pub mod replacement;
mod rows;
mod schema_change;
pub mod shard_map;
pub mod signing_keys;
pub mod state;

pub use audited::{ANCHORS_MAX, anchored};
pub use error::{Error, Result};
pub use machine::{ClusterMachine, StateHandle};
pub use outcome::{MetaOutcome, MetaRejection};
pub use replacement::{Replacement, Step};
pub use state::{Assignment, BucketInfo, ClusterState, Database, IndexInfo, IndexState};
