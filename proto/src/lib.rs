//! Wire and log formats, and the closed lists that every layer shares: ids and error codes.
//!
//! Three schemas that never share a message across their borders' lifetimes: [`v1`] is the public API, [`peer`] is
//! spoken between nodes of neighbouring releases, [`log`] lies on disk for ever. Depends on nothing of ours.

pub mod error_code;
pub mod ids;

pub use error_code::{Effect, ErrorCode};
pub use ids::{NodeId, ReplicaId, ShardId};

pub use wire::log::v1 as log;
pub use wire::peer::v1 as peer;
pub use wire::v1;

/// The generated code, nested as its packages are: they refer to each other by relative paths.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod wire {
    /// The public gRPC API, package `larder.v1`.
    pub mod v1 {
        tonic::include_proto!("larder.v1");
    }

    /// Node to node, package `larder.peer.v1`.
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("larder.peer.v1");
        }
    }

    /// Log commands, package `larder.log.v1`.
    pub mod log {
        pub mod v1 {
            tonic::include_proto!("larder.log.v1");
        }
    }
}

impl std::fmt::Debug for peer::TransferKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TransferKey(..)")
    }
}

/// Encoded file descriptor set of all three packages, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
