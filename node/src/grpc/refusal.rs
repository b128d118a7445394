//! Refusals that tonic makes by itself, before or behind a handler, brought into the form of ours.
//!
//! An unknown method, a message that is too large or does not decode: tonic answers these with a bare status. Here they get the code,
//! the effect and the request id that every refusal of a node has, and the status that belongs to the code.

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::HeaderMap;
use http_body_util::BodyExt;
use proto::{Effect, ErrorCode};
use service::Error;
use tonic::{Code, Status};

use super::error::{LARDER_CODE, status};
use crate::http::request_id_from;

const GRPC_STATUS: &str = "grpc-status";

/// When a status was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In the head of the answer: no handler has run, or it was one that only reads.
    Head,
    /// In its trailers: the handler has run.
    Trailers,
}

/// Completes the status in the head or in the trailers of an answer. `sent_id` is the request id that the client sent, if it did.
pub(super) fn complete<B>(answer: http::Response<B>, sent_id: Option<HeaderValue>) -> Response
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    let (mut head, body) = answer.into_parts();
    if head.headers.contains_key(GRPC_STATUS) {
        complete_status(&mut head.headers, Stage::Head, sent_id.as_ref());
        return Response::from_parts(head, Body::new(body));
    }
    let body = body.map_frame(move |mut frame| {
        if let Some(trailers) = frame.trailers_mut() {
            complete_status(trailers, Stage::Trailers, sent_id.as_ref());
        }
        frame
    });
    Response::from_parts(head, Body::new(body))
}

fn complete_status(headers: &mut HeaderMap, stage: Stage, sent_id: Option<&HeaderValue>) {
    let fine = headers.get(GRPC_STATUS).is_none_or(|code| code == "0");
    if fine || headers.contains_key(LARDER_CODE) {
        return;
    }
    let Some(bare) = Status::from_header_map(headers) else {
        return;
    };
    let complete = status(&error_of(&bare, stage), &request_id_from(sent_id));
    if let Err(cause) = complete.add_header(headers) {
        tracing::error!(%cause, "a status does not fit into headers");
    }
}

/// What a status of tonic says in our words.
fn error_of(bare: &Status, stage: Stage) -> Error {
    let (code, message) = (code_of(bare, stage), bare.message());
    let error = match code {
        ErrorCode::NoRoute => Error::new(code, "no such service or method"),
        _ => Error::new(code, message),
    };
    match stage {
        Stage::Head => error.with_effect(Effect::None),
        Stage::Trailers => error,
    }
}

fn code_of(bare: &Status, stage: Stage) -> ErrorCode {
    if stage == Stage::Trailers {
        return ErrorCode::Internal;
    }
    match bare.code() {
        // Without a word it is the answer to an unknown path; otherwise to a compression that is not offered.
        Code::Unimplemented if bare.message().is_empty() => ErrorCode::NoRoute,
        Code::Unimplemented => ErrorCode::QueryNotSupported,
        Code::OutOfRange | Code::ResourceExhausted => ErrorCode::BodyTooLarge,
        // What the decoder says of bytes that are no message.
        Code::Internal => ErrorCode::SyntaxError,
        Code::InvalidArgument => ErrorCode::BadRequest,
        Code::NotFound => ErrorCode::ObjectNotFound,
        Code::Unavailable => ErrorCode::Unavailable,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::DataLoss
        | Code::Unauthenticated => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(bare: Status, stage: Stage, sent_id: Option<HeaderValue>) -> Status {
        let mut headers = HeaderMap::new();
        bare.add_header(&mut headers).expect("headers");
        complete_status(&mut headers, stage, sent_id.as_ref());
        Status::from_header_map(&headers).expect("a status")
    }

    fn text<'a>(status: &'a Status, name: &str) -> &'a str {
        let value = status.metadata().get(name);
        value.map_or("", |value| value.to_str().expect("ascii"))
    }

    #[test]
    fn a_bare_status_gets_code_effect_and_id() {
        for (bare, grpc, code) in [
            (Status::unimplemented(""), Code::Unimplemented, "no_route"),
            (
                Status::unimplemented("gzip"),
                Code::Unimplemented,
                "query_not_supported",
            ),
            (
                Status::out_of_range("5 GB"),
                Code::ResourceExhausted,
                "body_too_large",
            ),
            (
                Status::internal("no varint"),
                Code::InvalidArgument,
                "syntax_error",
            ),
            (Status::not_found("x"), Code::NotFound, "object_not_found"),
            (Status::data_loss("x"), Code::Internal, "internal"),
        ] {
            let sent = HeaderValue::from_static("r-7");
            let status = completed(bare.clone(), Stage::Head, Some(sent));
            assert_eq!(status.code(), grpc, "{bare:?}");
            assert_eq!(text(&status, "larder-code"), code, "{bare:?}");
            assert_eq!(text(&status, "larder-effect"), "none", "{bare:?}");
            assert_eq!(text(&status, "larder-request-id"), "r-7", "{bare:?}");
            assert!(!status.message().is_empty(), "{bare:?}");
        }
    }

    #[test]
    fn behind_a_handler_the_effect_is_unknown() {
        let status = completed(Status::internal("encoding"), Stage::Trailers, None);
        assert_eq!(text(&status, "larder-effect"), "unknown");
        assert_eq!(text(&status, "larder-request-id").len(), 16);
    }

    #[test]
    fn our_own_and_successes_stay_as_they_are() {
        let error = Error::new(ErrorCode::ObjectOutOfDate, "the stored version is 4");
        let own = completed(status(&error, "r-1"), Stage::Trailers, None);
        assert_eq!(text(&own, "larder-code"), "object_out_of_date");
        assert_eq!(text(&own, "larder-request-id"), "r-1");
        let fine = completed(Status::new(Code::Ok, ""), Stage::Trailers, None);
        assert!(fine.metadata().is_empty());
    }
}
