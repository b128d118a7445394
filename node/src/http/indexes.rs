//! The indexes of a bucket (contract section 4.4).

use axum::response::Response;
use http::StatusCode;
use serde_json::Value;
use service::{Error, IndexStatus};

use super::edge::Call;
use super::respond;

/// `GET /index/:bucket`: definitions, with how far each index is.
pub(crate) async fn list(call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    let indexes = call.shared.service.indexes(&ctx, bucket).await?;
    let indexes: Vec<Value> = indexes.iter().map(IndexStatus::to_json).collect();
    Ok(respond::value(&indexes))
}

/// `POST /index/:bucket`: makes an index, or drops the one with this definition.
pub(crate) async fn change(mut call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    let body = call.read_body().await?;
    call.shared.service.change_index(&ctx, bucket, body).await?;
    Ok(respond::empty(StatusCode::ACCEPTED))
}

/// `DELETE /index/:bucket`: drops all.
pub(crate) async fn drop_all(call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    call.shared.service.drop_indexes(&ctx, bucket).await?;
    Ok(respond::empty(StatusCode::ACCEPTED))
}
