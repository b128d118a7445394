//! Building successful responses, and compressing the ones that are worth it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap};
use http::{HeaderValue, Request, StatusCode};
use serde::Serialize;
use service::{Consistency, Served};
use tower::{Service, ServiceExt};
use tower_http::compression::Compression;
use tower_http::compression::predicate::SizeAbove;

use super::changes::EVENT_STREAM;

/// The content type of all bodies.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json;charset=utf-8");

/// Store, but ask before each use. All answers carry it until caching lands.
pub(crate) const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// For answers with a token: no cache may keep them.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// For answers that are cut to some fields: a cache must not take them for the whole.
pub(crate) const PRIVATE_NO_STORE: HeaderValue = HeaderValue::from_static("private, no-store");

/// How far the shard was that answered: opaque, for `larder-at-least`.
pub(crate) const LARDER_POSITION: &str = "larder-position";

/// How fresh an answer is: `linearizable;age-ms=0`, `bounded;age-ms=N`, `local;age-ms=N`, or `local` where nothing is known.
pub(crate) const LARDER_AS_OF: &str = "larder-as-of";

/// The value for answers that asked the leader.
const LINEARIZABLE: HeaderValue = HeaderValue::from_static("linearizable;age-ms=0");

/// Positions of one answer: 64 take 1.7 KiB.
const POSITIONS_MAX: usize = 64;

/// Bodies up to this size are sent as they are: a packet is a packet, and compressing costs more than it saves.
const COMPRESS_BYTES_MIN: u64 = 1024;

/// Serializes what cannot fail to serialize: own structs and values with text keys.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .unwrap_or_else(|cause| {
            tracing::error!(%cause, "response could not be serialized");
            Bytes::from_static(b"{}")
        })
}

/// A JSON body.
pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, NO_CACHE);
    response
}

/// A JSON body from a value.
pub(crate) fn value<T: Serialize>(value: &T) -> Response {
    json(StatusCode::OK, to_json(value))
}

/// A complete document with its version as entity tag.
pub(crate) fn document(status: StatusCode, version: u64, body: Bytes) -> Response {
    let mut response = json(status, body);
    response.headers_mut().insert(ETAG, entity_tag(version));
    response
}

/// Marks an answer that shows only some fields.
pub(crate) fn cut(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(CACHE_CONTROL, PRIVATE_NO_STORE);
    response
}

/// Adds how fresh an answer is, and the position to ask later reads for.
pub(crate) fn served(mut response: Response, served: Option<&Served>) -> Response {
    let Some(served) = served else {
        return response;
    };
    let headers = response.headers_mut();
    if let Ok(position) = HeaderValue::try_from(served.position.to_string()) {
        headers.insert(LARDER_POSITION, position);
    }
    if let Some(as_of) = as_of(served) {
        headers.insert(LARDER_AS_OF, as_of);
    }
    response
}

/// Adds how fresh an answer from several shards is: its level and age are the weakest of theirs.
///
/// Positions are left out where they would not fit beside the other headers.
pub(crate) fn served_by_all(mut response: Response, served: &[Served]) -> Response {
    let headers = response.headers_mut();
    let weakest = served
        .iter()
        .max_by_key(|part| (rank(part.consistency), part.age.is_none(), part.age));
    if let Some(as_of) = weakest.and_then(as_of) {
        headers.insert(LARDER_AS_OF, as_of);
    }
    if served.len() <= POSITIONS_MAX {
        let positions: Vec<_> = served
            .iter()
            .map(|part| part.position.to_string())
            .collect();
        if let Ok(positions) = HeaderValue::try_from(positions.join(",")) {
            headers.insert(LARDER_POSITION, positions);
        }
    }
    response
}

/// Levels from strong to weak.
fn rank(consistency: Consistency) -> u8 {
    match consistency {
        Consistency::Linearizable => 0,
        Consistency::Bounded(_) => 1,
        Consistency::Local => 2,
    }
}

/// The level that the answer has, and how old the state may be at most.
fn as_of(served: &Served) -> Option<HeaderValue> {
    let level = match served.consistency {
        // Most answers: nothing to put together.
        Consistency::Linearizable => return Some(LINEARIZABLE),
        Consistency::Bounded(_) => "bounded",
        Consistency::Local => "local",
    };
    let text = match served.age {
        Some(age) => format!("{level};age-ms={}", age.as_micros().div_ceil(1000)),
        None => level.to_owned(),
    };
    HeaderValue::try_from(text).ok()
}

/// 304: the client has this version.
pub(crate) fn not_modified(version: u64) -> Response {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    response.headers_mut().insert(ETAG, entity_tag(version));
    response
}

/// No body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    response
}

/// The headers of the answer to the same GET, without its body.
pub(crate) fn without_body(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    if let Some(bytes) = body
        .size_hint()
        .exact()
        .filter(|_| head.status != StatusCode::NOT_MODIFIED)
    {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    Response::from_parts(head, Body::empty())
}

fn entity_tag(version: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// Compresses the body if the client accepts it and it is large enough.
pub(crate) async fn compress(request: &HeaderMap, response: Response) -> Response {
    let Some(coding) = accepted_coding(request) else {
        return response;
    };
    // What is compressed comes when there is enough of it; an event comes now.
    let content_type = response.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|value| value == EVENT_STREAM) {
        return response;
    }
    if response
        .body()
        .size_hint()
        .exact()
        .is_some_and(|bytes| bytes <= COMPRESS_BYTES_MIN)
    {
        return response;
    }
    // The layer wants a request to negotiate from. It gets one that leaves no choice: left to the client's own header it answers
    // 406 when nothing fits, and by then a write has happened.
    let mut negotiated = Request::new(Body::empty());
    negotiated
        .headers_mut()
        .insert(ACCEPT_ENCODING, HeaderValue::from_static(coding));
    let compression =
        Compression::new(Answer(Some(response))).compress_when(SizeAbove::new(COMPRESS_BYTES_MIN));
    match compression.oneshot(negotiated).await {
        Ok(compressed) => compressed.map(Body::new),
        Err(never) => match never {},
    }
}

/// The coding to use: zstd before gzip, unless the client gave it weight 0.
fn accepted_coding(headers: &HeaderMap) -> Option<&'static str> {
    let mut gzip = false;
    for line in headers.get_all(ACCEPT_ENCODING) {
        for item in line.to_str().unwrap_or_default().split(',') {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let refused = parameters
                .trim()
                .strip_prefix("q=")
                .is_some_and(|weight| weight.parse() == Ok(0.0_f32));
            match name.trim() {
                "zstd" if !refused => return Some("zstd"),
                "gzip" if !refused => gzip = true,
                _ => {}
            }
        }
    }
    gzip.then_some("gzip")
}

/// A service that gives one response, which exists already.
#[derive(Clone)]
struct Answer<T>(Option<T>);

impl<T: Default> Service<Request<Body>> for Answer<T> {
    type Response = T;
    type Error = Infallible;
    type Future = Ready<Result<T, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok(self.0.take().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::CONTENT_ENCODING;
    use http_body_util::BodyExt;

    use super::*;

    fn accepting(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(text))])
    }

    #[test]
    fn the_coding_is_one_that_the_client_takes() {
        for (header, expected) in [
            ("gzip", Some("gzip")),
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip;q=0.5,zstd;q=0", Some("gzip")),
            ("gzip; q=0", None),
            ("br", None),
            ("identity", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(accepted_coding(&accepting(header)), expected, "{header}");
        }
    }

    #[test]
    fn answers_say_how_fresh_they_are() {
        let as_of_text = |consistency, age| {
            let served = Served {
                position: service::Position {
                    shard: proto::ShardId(1),
                    index: 7,
                },
                consistency,
                age,
            };
            let response = served_empty(&served);
            assert_eq!(
                response.headers()[LARDER_POSITION],
                served.position.to_string()
            );
            response.headers()[LARDER_AS_OF]
                .to_str()
                .expect("ascii")
                .to_owned()
        };
        let bounded = Consistency::Bounded(Duration::from_secs(1));
        let age = Some(Duration::from_micros(1_001));
        assert_eq!(
            as_of_text(Consistency::Linearizable, Some(Duration::ZERO)),
            "linearizable;age-ms=0"
        );
        assert_eq!(as_of_text(bounded, age), "bounded;age-ms=2");
        assert_eq!(as_of_text(Consistency::Local, age), "local;age-ms=2");
        assert_eq!(as_of_text(Consistency::Local, None), "local");
    }

    fn served_empty(served: &Served) -> Response {
        super::served(empty(StatusCode::NO_CONTENT), Some(served))
    }

    #[tokio::test]
    async fn only_large_bodies_are_compressed() {
        let large = || json(StatusCode::OK, "x".repeat(4096));
        let small = || json(StatusCode::OK, "x".repeat(1024));
        for (headers, response, expected) in [
            (accepting("gzip"), large(), Some("gzip")),
            (accepting("zstd, gzip"), large(), Some("zstd")),
            (accepting("gzip"), small(), None),
            (accepting("br, identity;q=0"), large(), None),
            (HeaderMap::new(), large(), None),
        ] {
            let response = compress(&headers, response).await;
            assert_eq!(response.status(), 200);
            assert_eq!(
                response
                    .headers()
                    .get(CONTENT_ENCODING)
                    .map(|v| v.to_str().expect("ascii")),
                expected
            );
            let bytes = response
                .into_body()
                .collect()
                .await
                .expect("body")
                .to_bytes();
            assert_eq!(bytes.len() < 1024, expected.is_some());
        }
    }

    #[tokio::test]
    async fn head_states_the_length_of_the_body_it_leaves_out() {
        let response = without_body(document(
            StatusCode::OK,
            7,
            Bytes::from_static(b"{\"a\":1}"),
        ));
        assert_eq!(response.headers()[CONTENT_LENGTH], "7");
        assert_eq!(response.headers()[ETAG], "\"7\"");
        assert!(
            response
                .into_body()
                .collect()
                .await
                .expect("body")
                .to_bytes()
                .is_empty()
        );
        assert!(
            !without_body(not_modified(7))
                .headers()
                .contains_key(CONTENT_LENGTH)
        );
    }
}
