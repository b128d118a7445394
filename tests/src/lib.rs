//! The harness of the end-to-end tests: real processes on free ports, driven through the public interfaces.
//!
//! The tests know nothing of the inside of a node. They start the binary, speak HTTP, gRPC, the admin API and the
//! command line to it, and hurt it with signals. Waiting is always for a condition and always bounded
//! ([`wait::eventually`]); processes are ended and reaped whatever happens ([`cluster::Cluster`] and
//! [`process::Running`] do it when dropped); the end of their logs is printed when a test fails.
//!
//! Lacks: partitions and clocks as faults. Those are `jepsen`'s.

pub mod binary;
pub mod checks;
pub mod cluster;
pub mod disk;
pub mod feed;
pub mod grpc;
pub mod http;
pub mod load;
pub mod npm;
pub mod ports;
pub mod process;
pub mod provider;
pub mod receiver;
pub mod rights;
pub mod rows;
pub mod socket;
pub mod status;
pub mod tls;
pub mod wait;
pub mod wall;

pub use checks::Checks;
pub use cluster::{Cluster, Options};
pub use http::{Answer, Api};
pub use wait::{eventually, within};

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Whether to run at full size (`LARDER_SOAK=1`, as `make soak` sets it) instead of the bounded default.
pub fn is_soak() -> bool {
    std::env::var("LARDER_SOAK").is_ok_and(|value| value == "1")
}
