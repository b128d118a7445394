//! Probes, version and the list of resources (contract section 11.5). None of them waits for anything.

use axum::response::Response;
use serde_json::json;
use service::{Error, Service};

use super::respond;

/// `GET /`: what can be asked for.
pub(crate) fn root() -> Response {
    respond::value(&json!({
        "name": "larder",
        "version": env!("CARGO_PKG_VERSION"),
        "resources": ["/connect", "/db", "/schema", "/status", "/version", "/healthz", "/readyz"],
    }))
}

/// `GET /version`.
pub(crate) fn version() -> Response {
    respond::value(&json!({ "name": "larder", "version": env!("CARGO_PKG_VERSION") }))
}

/// The process answers, whatever the cluster does.
pub(crate) fn live() -> Response {
    respond::value(&json!({ "status": "ok" }))
}

/// Whether the node can serve. A full disk does not make it unready: reads and deletes go on, and the answer says so.
///
/// # Errors
/// `unavailable` with the reason.
pub(crate) fn ready(service: &Service) -> Result<Response, Error> {
    service.ready().map_err(Error::unavailable)?;
    let Some(why) = service.refuses_writes() else {
        return Ok(live());
    };
    Ok(respond::value(
        &json!({ "status": "ok", "writes": "refused", "reason": why }),
    ))
}
