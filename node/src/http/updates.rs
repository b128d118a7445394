//! Partial updates (contract section 6): of a document, and of one of its fields.

use axum::response::Response;
use http::StatusCode;
use service::{Document, Error};

use super::conditions;
use super::edge::Call;
use super::respond;

/// `POST /db/:bucket/:oid`: operation → path → argument. Without a condition any version is meant.
pub(crate) async fn update(mut call: Call<'_>, bucket: &str, key: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    let condition = conditions::of_write(call.headers())?;
    let operations = call.read_body().await?;
    let service = &call.shared.service;
    let document = service
        .update(&ctx, bucket, key, operations, condition)
        .await?;
    Ok(updated(document))
}

/// `POST /db/:bucket/:oid/:field`: operation → argument.
pub(crate) async fn update_field(
    mut call: Call<'_>,
    bucket: &str,
    key: &str,
    field: &str,
) -> Result<Response, Error> {
    let ctx = call.context()?;
    let condition = conditions::of_write(call.headers())?;
    let operations = call.read_body().await?;
    let service = &call.shared.service;
    let document = service
        .update_field(&ctx, bucket, key, field, operations, condition)
        .await?;
    Ok(updated(document))
}

fn updated(document: Document) -> Response {
    let response = respond::document(StatusCode::OK, document.version, document.body);
    respond::served(response, document.served.as_ref())
}
