//! Single documents (contract section 3.3): insert, read, replace, delete.

use axum::response::Response;
use http::StatusCode;
use proto::ErrorCode;
use service::{Condition, Error};

use super::caching::Asked;
use super::conditions::{self, OfRead, Verdict};
use super::edge::Call;
use super::error::refuse;
use super::fields::Fields;
use super::respond;

/// `GET /db/:bucket/:oid`.
pub(crate) async fn get(call: Call<'_>, bucket: &str, key: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    let service = &call.shared.service;
    let asked = Asked::of(call.headers(), service, &ctx.database, bucket)?;
    let conditions = OfRead::from_headers(call.headers())?;
    let fields = Fields::of_query(call.head.uri.query().unwrap_or_default())?;
    let freshness = asked.freshness.clone();
    let document = service.get(&ctx, bucket, key, freshness).await?;
    let verdict = match conditions.judge(document.version) {
        Verdict::NotModified if !asked.may_confirm(&document) => Verdict::Full,
        verdict => verdict,
    };
    let response = match (verdict, fields) {
        (Verdict::Full, Some(fields)) => {
            let body = fields.project(&document.body);
            let whole = respond::document(StatusCode::OK, document.version, body);
            Ok(respond::cut(whole))
        }
        (Verdict::Full, None) => {
            let body = document.body.clone();
            let whole = respond::document(StatusCode::OK, document.version, body);
            Ok(asked.tell(whole, &ctx.database, &document))
        }
        (Verdict::NotModified, _) => {
            let known = respond::not_modified(document.version);
            Ok(asked.tell(known, &ctx.database, &document))
        }
        (Verdict::OutOfDate, _) => Err(refuse(
            ErrorCode::ObjectOutOfDate,
            format!("the stored version is {}", document.version),
        )),
    };
    response.map(|response| respond::served(response, document.served.as_ref()))
}

/// `POST /db/:bucket`: the id is in the body, or made here.
pub(crate) async fn insert(mut call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    if !matches!(
        conditions::of_write(call.headers())?,
        Condition::None | Condition::Absent
    ) {
        return Err(refuse(ErrorCode::BadRequest, "an insert takes no if-match"));
    }
    let body = call.read_body().await?;
    let written = call
        .shared
        .service
        .put(&ctx, bucket, None, body, Condition::Absent)
        .await?;
    let served = written.document.served;
    let response = respond::document(
        StatusCode::CREATED,
        written.document.version,
        written.document.body,
    );
    Ok(respond::served(response, served.as_ref()))
}

/// `PUT /db/:bucket/:oid`: replaces, or inserts where no condition forbids it; 200 in both cases, as the contract has it.
pub(crate) async fn put(mut call: Call<'_>, bucket: &str, key: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    let condition = conditions::of_write(call.headers())?;
    let body = call.read_body().await?;
    let written = call
        .shared
        .service
        .put(&ctx, bucket, Some(key), body, condition)
        .await
        .map_err(|error| precondition(error, condition))?;
    let served = written.document.served;
    let response = respond::document(
        StatusCode::OK,
        written.document.version,
        written.document.body,
    );
    Ok(respond::served(response, served.as_ref()))
}

/// A failed `If-None-Match: *` is 412 (RFC 9110, 13.1.2); 409 is the answer to an insert.
fn precondition(mut error: Error, condition: Condition) -> Error {
    if condition == Condition::Absent && error.code == ErrorCode::ObjectExists {
        error.code = ErrorCode::ObjectOutOfDate;
    }
    error
}

/// `DELETE /db/:bucket/:oid`.
pub(crate) async fn delete(call: Call<'_>, bucket: &str, key: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    let condition = conditions::of_write(call.headers())?;
    if condition == Condition::Absent {
        return Err(refuse(
            ErrorCode::BadRequest,
            "a delete takes no if-none-match",
        ));
    }
    let deleted = call
        .shared
        .service
        .delete(&ctx, bucket, key, condition)
        .await?;
    let response = respond::empty(StatusCode::NO_CONTENT);
    Ok(respond::served(response, deleted.served.as_ref()))
}
