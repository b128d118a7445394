//! The answer in plain text to those who speak plain text on a TLS port: one error, in the form that they can read.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Version};
use proto::ErrorCode;
use tonic::Status;

use super::Port;
use crate::http::{plain_refusal, request_id};

const CLIENT: &str = "this port speaks TLS: use https://, and trust the cluster's CA (--ca FILE)";
const PEER: &str = "this node speaks mutual TLS: remove security.insecure and give the asking node a certificate of the \
                    same CA (larder cert create-node)";

/// Refuses every request.
pub(super) fn router(port: Port) -> Router {
    Router::new().fallback(move |request: Request| async move { answer(port, &request) })
}

fn answer(port: Port, request: &Request) -> Response {
    let is_grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if port == Port::Peer {
        return Status::unauthenticated(PEER).into_http();
    }
    if is_grpc {
        return Status::new(ErrorCode::BadRequest.grpc_code(), CLIENT).into_http();
    }
    let mut response: Response<Body> = plain_refusal(CLIENT, &request_id(request.headers()));
    if request.version() < Version::HTTP_2 {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
