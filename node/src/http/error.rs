//! Errors on the wire: contract section 1.5 with our three members.
//!
//! The status, the class name and the reason come from the code alone (`proto::ErrorCode`); nothing here chooses a status. Every error
//! is JSON, whatever the client accepts: the SDK turns any other body into an error without status.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use proto::{Effect, ErrorCode};
use serde::Serialize;
use service::Error;

use super::respond;

/// The header that says whether a failed request changed anything.
pub(crate) const LARDER_EFFECT: &str = "larder-effect";

/// The token of a log-in that waits for a code, beside the one in the body.
const MFA_TOKEN_HEADER: &str = "baqend-mfa-auth-token";

/// The body of every error.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    message: &'a str,
    reason: &'static str,
    class_name: &'static str,
    code: &'static str,
    effect: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

/// What the client needs to go on.
#[derive(Serialize)]
struct Data<'a> {
    /// The log-in waits for a code; this comes back with it.
    #[serde(rename = "baqend-mfa-auth-token")]
    second_factor: &'a str,
}

/// A refusal of the edge itself, with the effect that the code promises.
pub(crate) fn refuse(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(code, message)
}

/// The answer to a request that came in plain text to a TLS port: nobody has looked at it.
pub(crate) fn plain_refusal(message: &str, request_id: &str) -> Response {
    response(&refuse(ErrorCode::BadRequest, message), request_id)
}

/// A part of the contract that this version does not offer. Never a made-up answer, and never a 404, which clients read as evidence.
pub(crate) fn not_offered(what: &str) -> Error {
    refuse(
        ErrorCode::QueryNotSupported,
        format!("this version of larder does not offer {what}"),
    )
}

/// The body of an error as it stands within another answer.
pub(crate) fn body_text(error: &Error, request_id: &str) -> String {
    String::from_utf8_lossy(&body(error, request_id)).into_owned()
}

fn body(error: &Error, request_id: &str) -> Bytes {
    respond::to_json(&ErrorBody {
        message: &error.message,
        reason: error.code.reason(),
        class_name: error.code.class_name(),
        code: error.code.as_str(),
        effect: error.effect.as_str(),
        request_id,
        data: error
            .second_factor
            .as_deref()
            .map(|second_factor| Data { second_factor }),
    })
}

/// The response to a failed request.
pub(crate) fn response(error: &Error, request_id: &str) -> Response {
    let mut response = Response::new(Body::from(body(error, request_id)));
    *response.status_mut() =
        StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, respond::JSON);
    headers.insert(CACHE_CONTROL, respond::NO_CACHE);
    headers.insert(LARDER_EFFECT, effect_value(error.effect));
    let second_factor = error.second_factor.as_deref().map(HeaderValue::try_from);
    if let Some(Ok(token)) = second_factor {
        headers.insert(MFA_TOKEN_HEADER, token);
        headers.insert(CACHE_CONTROL, respond::NO_STORE);
    }
    if let Some(seconds) = retry_after_seconds(error) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `Retry-After` in whole seconds, rounded up: zero would mean a retry at once.
pub(crate) fn retry_after_seconds(error: &Error) -> Option<u64> {
    error.retry_after.map(|after| {
        after
            .as_millis()
            .div_ceil(1000)
            .clamp(1, u128::from(u32::MAX)) as u64
    })
}

fn effect_value(effect: Effect) -> HeaderValue {
    HeaderValue::from_static(effect.as_str())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::time::Duration;

    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    async fn body_of(response: Response) -> Value {
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("body")
            .to_bytes();
        serde_json::from_slice(&bytes).expect("json")
    }

    #[tokio::test]
    async fn an_error_has_the_form_of_the_contract() {
        let error = refuse(ErrorCode::ObjectOutOfDate, "the stored version is \"4\"");
        let response = response(&error, "r-1");
        assert_eq!(response.status(), 412);
        assert_eq!(
            response.headers()[CONTENT_TYPE],
            "application/json;charset=utf-8"
        );
        assert_eq!(response.headers()[LARDER_EFFECT], "none");
        assert!(!response.headers().contains_key(RETRY_AFTER));
        let expected = serde_json::json!({
            "message": "the stored version is \"4\"", "reason": "Object Out Of Date", "className": "ObjectOutOfDate",
            "code": "object_out_of_date", "effect": "none", "requestId": "r-1",
        });
        assert_eq!(body_of(response).await, expected);
    }

    #[tokio::test]
    async fn the_effect_is_that_of_the_error_not_of_its_code() {
        let error = Error::unavailable("not confirmed")
            .with_effect(Effect::Applied)
            .with_retry_after(Duration::from_millis(1200));
        let response = response(&error, "r");
        assert_eq!(response.headers()[LARDER_EFFECT], "applied");
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(body_of(response).await["effect"], "applied");
    }

    /// What a client sees of every code. To change a line here is to change the public interface.
    #[test]
    fn every_code_has_its_status_and_effect() {
        let mut seen = String::new();
        for code in ErrorCode::ALL {
            let response = response(&refuse(*code, "m"), "r");
            let effect = response.headers()[LARDER_EFFECT]
                .to_str()
                .expect("ascii")
                .to_owned();
            writeln!(
                seen,
                "{} {code} {} {effect}",
                response.status().as_u16(),
                code.class_name()
            )
            .expect("string");
        }
        let golden = include_str!("error_codes.golden");
        assert_eq!(
            seen, golden,
            "update node/src/http/error_codes.golden if this change of the interface is wanted"
        );
    }
}
