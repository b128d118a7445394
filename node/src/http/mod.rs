//! The client port: documents, schema and sessions over HTTP as the contract has them, and gRPC beside it on the same listener.
//!
//! A handler only parses, makes one call into the service, and converts the answer. What a request may do is decided there; which status
//! an error has is decided by its code. `DESIGN.md` of this crate has the reasons.
//!
//! | module | owns |
//! |---|---|
//! | `edge` | the way of every request: HTTP or gRPC, permit, the table of methods and routes, error form, metrics, log |
//! | `route` | raw path → database and resource |
//! | `rates` | how often somebody may ask |
//! | `address` | where a request comes from |
//! | `context` `conditions` `body` | headers and bodies on the way in |
//! | `respond` `error` `cors` | headers and bodies on the way out |
//! | `documents` `updates` `batch` `buckets` `bulk` `schema` `sessions` `users` `health` | the handlers |
//! | `access` | what somebody may do, and why |
//! | `changes` | feeds, and the versions of a document |
//! | `live` | real-time queries |
//! | `socket` | WebSockets |
//! | `caching` | what web caches are told, and the filter of what is old in them |
//! | `query` `fields` | queries and counts, and answers cut to some fields |
//! | `second_factor` `oauth` | codes and API tokens; log-in with a provider |
//! | `connect_page` | connect as the page of a hidden frame |
//! | `scan` | walking a bucket for streamed answers, HTTP and gRPC alike |
//! | [`admin`] `governance` | the admin port; its part about quotas and audit logs |
//! | [`server`] `crowd` | connections: limits, time-outs, draining |
//!
//! Invariants:
//! - Every failure is JSON in the contract's form and says whether anything happened, whichever part refused.
//! - What the contract names and this version lacks is refused by name, never answered with 404 or something made up.
//! - Nothing waits without a limit: bodies, headers, requests in flight and connections have one each.
//!
//! Lacks: files, cached queries.

mod access;
mod address;
pub mod admin;
pub mod admin_encryption;
mod batch;
mod body;
mod buckets;
mod bulk;
mod caching;
mod changes;
mod conditions;
mod connect_page;
mod consumers;
mod context;
mod cors;
mod crowd;
mod documents;
mod edge;
mod error;
mod fields;
mod governance;
mod health;
mod indexes;
mod live;
mod oauth;
mod outbox;
mod query;
mod rates;
mod respond;
mod route;
mod scan;
mod schema;
mod second_factor;
pub mod server;
mod sessions;
mod socket;
mod spec;
#[cfg(test)]
mod tests;
mod updates;
mod users;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use ipnet::IpNet;
use service::Service;

pub use admin::{NodeInfo, admin_app};
pub use rates::{Rate, Rates};
pub use server::{Connections, serve};

pub(crate) use address::of as client_address;
pub(crate) use changes::{event_json, start as feed_start};
pub(crate) use context::build as build_context;
pub(crate) use context::{X_REQUEST_ID, request_id, request_id_from};
pub(crate) use edge::Shared;
pub(crate) use error::{plain_refusal, refuse, retry_after_seconds};
pub(crate) use route::database_name;
pub(crate) use scan::{Pages, Show};

/// What an operator may change about the client port. A document's own size is limited by the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request body. 1 MiB: what the service takes for one document.
    pub body_bytes_max: usize,
    /// Time for a request body to arrive.
    pub body_read_time: Duration,
    /// Bytes of one gRPC message on the way in. 4 MiB: a batch of documents.
    pub grpc_message_bytes_max: usize,
    /// Requests that are with the service at the same time; more are refused with effect none.
    pub requests_in_flight_max: usize,
    /// Bytes of request bodies that are held at the same time; past it requests are refused with effect none.
    pub request_bytes_in_flight_max: usize,
    /// Scans and streamed lists that are open at the same time, each with a page in memory; more are refused with effect none.
    pub scans_open_max: usize,
    /// WebSockets that are open at the same time; more are refused with 429.
    pub websockets_max: usize,
    /// Real-time queries of one WebSocket; more are refused with 429.
    pub live_per_socket_max: usize,
    /// Clients come without TLS.
    pub plain: bool,
    /// How long the service may take for a request; a longer `grpc-timeout` is cut to it.
    pub request_time: Duration,
    /// Proxies that are believed when they say where a request comes from.
    pub trusted_proxies: Arc<[IpNet]>,
    /// How often somebody may ask.
    pub rates: Rates,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1024 * 1024,
            body_read_time: Duration::from_secs(30),
            grpc_message_bytes_max: 4 * 1024 * 1024,
            requests_in_flight_max: 1024,
            request_bytes_in_flight_max: 64 * 1024 * 1024,
            scans_open_max: 128,
            websockets_max: 2_000,
            live_per_socket_max: 100,
            plain: false,
            request_time: Duration::from_secs(5),
            trusted_proxies: Arc::default(),
            rates: Rates::default(),
        }
    }
}

/// Everything that the client port serves: HTTP and gRPC, told apart by content type.
///
/// Metrics go to the recorder that is installed when a kind of request is first seen, see [`crate::telemetry::install_metrics`].
pub fn client_app(service: Service, limits: Limits) -> Router {
    Router::new().fallback_service(edge::Edge::new(service, limits))
}
