//! One node of larder as a library, so that tests can run it inside their own process; `main.rs` is only the command line.
//!
//! | module | owns |
//! |---|---|
//! | [`http`] [`grpc`] | the edges: the client port and the admin port |
//! | `identity` | who outside vouches for users |
//! | `mail` | sending mails |
//! | `webhooks` | sending changes to the targets of consumers |
//! | [`tls`] | certificates, handshakes, who is a node |
//! | [`audit`] | this node's own audit log |
//! | [`telemetry`] | metrics and logs |

#![deny(unsafe_code)]

pub mod audit;
pub mod cli;
pub mod config;
pub mod grpc;
pub mod http;
mod identity;
mod mail;
pub mod node;
pub mod records;
pub mod telemetry;
pub mod tls;
mod webhooks;
