//! The schema as a whole and class by class (contract section 4.3).

use axum::response::Response;
use http::StatusCode;
use service::Error;

use super::edge::Call;
use super::respond;

/// `GET /schema`.
pub(crate) async fn read(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    Ok(respond::value(&call.shared.service.schema(&ctx).await?))
}

/// `POST /schema`: merges, and answers with the whole schema.
pub(crate) async fn add(mut call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let body = call.read_body().await?;
    Ok(respond::value(
        &call.shared.service.add_schema(&ctx, body).await?,
    ))
}

/// `PUT /schema`: replaces.
pub(crate) async fn replace(mut call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let body = call.read_body().await?;
    Ok(respond::value(
        &call.shared.service.replace_schema(&ctx, body).await?,
    ))
}

/// `GET /schema/:bucket`.
pub(crate) async fn read_class(call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    Ok(respond::value(
        &call.shared.service.schema_class(&ctx, bucket).await?,
    ))
}

/// `POST /schema/:bucket`: adds missing fields, or the class.
pub(crate) async fn add_class(mut call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    let body = call.read_body().await?;
    Ok(respond::value(
        &call.shared.service.add_class(&ctx, bucket, body).await?,
    ))
}

/// `PUT /schema/:bucket`: replaces the class.
pub(crate) async fn replace_class(mut call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    let body = call.read_body().await?;
    Ok(respond::value(
        &call
            .shared
            .service
            .replace_class(&ctx, bucket, body)
            .await?,
    ))
}

/// `DELETE /schema/:bucket`: drops the class and its documents.
pub(crate) async fn drop_class(call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    call.shared.service.drop_class(&ctx, bucket).await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}
