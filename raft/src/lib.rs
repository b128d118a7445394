//! Consensus: one Raft group per shard, all groups of a node behind one [`Host`].
//!
//! The only crate that knows openraft. It replicates opaque commands into any [`storage::machine::Replica`] and knows
//! nothing about documents. [`transport`] is the seam to the network. See `DESIGN.md` for the options and why so.

mod applier;
mod beats;
mod codec;
mod commits;
mod error;
mod host;
mod log_store;
mod network;
mod options;
mod pool;
mod state_machine;
pub mod transport;
mod type_config;
mod votes;

pub use applier::Applier;
pub use error::{Error, ProposeError, ReadError, Result};
pub use host::{
    Confirmed, Divergence, GroupStatus, Host, HostParts, Leader, MemberStatus, Role, Verdict,
};
pub use options::Options;
pub use pool::Pool;

#[cfg(test)]
mod cluster_test;
#[cfg(test)]
mod suite;
