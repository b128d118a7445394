//! Cross-origin access (contract section 1.6): open to every origin, on answers and errors alike.
//!
//! Who may read a document is decided by tokens in `authorization`, never by cookies or addresses, so an origin is no evidence of
//! anything and none is refused.

use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderMap,
    ORIGIN, VARY,
};
use http::{HeaderValue, StatusCode};

use super::respond;

/// Methods of the contract.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");

/// Request headers of the contract, then ours.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, accept, content-type, cache-control, if-match, if-none-match, if-unmodified-since, baqend-acl, \
     baqend-custom-headers, idempotency-key, larder-consistency, larder-at-least, x-request-id",
);

/// The nine headers that the contract's clients read (section 1.3), then ours.
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "baqend-authorization-token, content-type, etag, last-modified, baqend-size, baqend-acl, baqend-created-at, \
     baqend-custom-headers, baqend-mfa-auth-token, larder-effect, larder-position, larder-as-of, larder-continuation, retry-after, ratelimit-limit, \
     ratelimit-remaining, ratelimit-reset, age, cache-status, \
     x-request-id",
);

/// How long a browser may remember a preflight: a day. Browsers cut it to their own limit.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// What an answer depends on besides its address.
const VARY_ON: HeaderValue = HeaderValue::from_static("origin, accept-encoding");

/// The answer to a preflight; [`apply`] adds the origin.
pub(crate) fn preflight() -> Response {
    let mut response = respond::empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

/// Opens an answer to the origin that asks: echoed with credentials, `*` where none is named.
pub(crate) fn apply(request: &HeaderMap, response: &mut HeaderMap) {
    response.append(VARY, VARY_ON);
    match request.get(ORIGIN) {
        Some(origin) => {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            response.insert(
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
        }
        // Not a cross-origin request, so nobody reads the long list.
        None => {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_echoed_with_credentials() {
        let request =
            HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static("https://app.example"))]);
        let mut headers = HeaderMap::new();
        apply(&request, &mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(headers[VARY], "origin, accept-encoding");
        let exposed = headers[ACCESS_CONTROL_EXPOSE_HEADERS]
            .to_str()
            .expect("ascii");
        for name in [
            "baqend-authorization-token",
            "etag",
            "baqend-mfa-auth-token",
            "larder-effect",
            "retry-after",
            "age",
            "cache-status",
        ] {
            assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
        }
    }

    #[test]
    fn without_an_origin_credentials_are_not_offered() {
        let mut headers = HeaderMap::new();
        apply(&HeaderMap::new(), &mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }

    #[test]
    fn a_preflight_allows_methods_and_headers_for_long() {
        let response = preflight();
        assert_eq!(response.status(), 204);
        assert_eq!(
            response.headers()[ACCESS_CONTROL_ALLOW_METHODS],
            "GET, HEAD, POST, PUT, DELETE"
        );
        let allowed = response.headers()[ACCESS_CONTROL_ALLOW_HEADERS]
            .to_str()
            .expect("ascii");
        for name in [
            "authorization",
            "if-match",
            "baqend-custom-headers",
            "idempotency-key",
            "larder-consistency",
        ] {
            assert!(allowed.split(", ").any(|allowed| allowed == name), "{name}");
        }
        assert_eq!(response.headers()[ACCESS_CONTROL_MAX_AGE], "86400");
    }
}
