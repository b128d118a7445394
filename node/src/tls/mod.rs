//! TLS of the three ports, on both sides of a connection.
//!
//! | module | owns |
//! |---|---|
//! | [`keyring`] | the certificates of this node as they are now: loading, checking, reloading |
//! | [`accept`] | from a TCP connection to one that may be served: handshake, its bounds, and what is refused |
//! | `dial` | connections to other nodes |
//! | `nodes` | who counts as a node of this cluster |
//! | `facts` | what a certificate says |
//! | `refusal` | the answer in plain text to those who speak plain text on a TLS port |
//!
//! Invariants:
//! - A configuration is made with the provider named in it (`provider`); nothing depends on a process-wide one.
//! - Certificates that cannot be used never replace those in force.
//! - TLS 1.2 at least, TLS 1.3 alone between nodes; neither renegotiation nor early data, which rustls does not have or not by default.
//!
//! Lacks: revocation lists (a node is kept out by changing the CA, see `docs/security.md`) and keys in hardware.

pub mod accept;
mod dial;
pub(crate) mod facts;
pub mod keyring;
pub(crate) mod nodes;
mod refusal;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use accept::{Guard, Port};
pub(crate) use dial::Secure;
pub use keyring::{Error, Keyring};

/// The cryptography of every configuration of this process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
