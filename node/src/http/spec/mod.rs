//! The interface description: `GET /<db>/spec` is an OpenAPI 3.1 document, `GET /<db>/docs/` a page to read it and to try calls.
//!
//! | part | owns |
//! |---|---|
//! | `operations` | one entry for each method of each route, which a test holds against the dispatch |
//! | `classes` | the database's classes as schemas |
//!
//! The page's files are part of the binary, so it works without the internet. Lacks: gRPC, which describes itself by reflection.

mod classes;
mod operations;

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};
use proto::ErrorCode;
use service::Error;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Server};
use utoipa_swagger_ui::Config;

use super::edge::Call;
use super::error::refuse;
use super::respond;

#[cfg(test)]
pub(crate) use operations::OPERATIONS;

/// What every caller of the interface should know before the first call.
const ABOUT: &str = "Documents, classes and sessions of one database. Errors are JSON with `code`, `effect` and `requestId`; \
    `effect` says whether the request changed anything: `none`, `applied` or `unknown`. Writes take an `Idempotency-Key`. \
    A token goes into `authorization` as `BAT <token>`.";

/// Name of the way to say who calls.
const TOKEN: &str = "token";

/// `GET /<db>/spec`: with the classes that the database has now.
pub(crate) async fn document(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let schema = call.shared.service.schema(&ctx).await?;
    Ok(respond::value(&describe(call.base(), &schema)))
}

/// The description of a database that clients reach below `base`.
fn describe(base: &str, schema: &serde_json::Value) -> OpenApi {
    let info = InfoBuilder::new()
        .title("Larder")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(License::new("Apache-2.0")))
        .build();
    let token = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
        "authorization",
        "`BAT <token>`, from a log-in",
    )));
    let components = ComponentsBuilder::new().security_scheme(TOKEN, token);
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new(base)]))
        .paths(operations::paths())
        .components(Some(classes::add(components, schema).build()))
        .build()
}

/// `GET /<db>/docs/…`: the page and its files.
pub(crate) fn page(call: &Call<'_>, file: Option<&str>) -> Result<Response, Error> {
    let base = call.base();
    let Some(file) = file else {
        // The page names its files relative to itself.
        return Ok(redirect(&format!("{base}/docs/")));
    };
    let config = Arc::new(Config::from(format!("{base}/spec")));
    let found = utoipa_swagger_ui::serve(file, config).map_err(|error| {
        tracing::error!(%error, "the page's settings are not UTF-8");
        refuse(ErrorCode::Internal, "internal error")
    })?;
    let found = found.ok_or_else(|| refuse(ErrorCode::NoRoute, "no such file of the page"))?;
    let mut response = Response::new(Body::from(found.bytes.into_owned()));
    if let Ok(content_type) = HeaderValue::try_from(found.content_type) {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    Ok(response)
}

fn redirect(to: &str) -> Response {
    let mut response = respond::empty(StatusCode::PERMANENT_REDIRECT);
    if let Ok(to) = HeaderValue::try_from(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}
