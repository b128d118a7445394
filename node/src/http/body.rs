//! Reading request bodies within limits of size and time.
//!
//! A body over the limit is refused at once, by its announced length or by the frame that passes it. What the client still sends is then
//! read and thrown away behind the response, within limits of its own: closing a connection that has unread bytes resets it, and the
//! client would lose the response that tells it why.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HeaderMap};
use http_body_util::BodyExt;
use proto::ErrorCode;
use service::Error;
use tokio::time::timeout;

use super::Limits;
use super::error::refuse;

/// Bytes of a refused body that are read so that its sender sees the refusal.
const DISCARD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a refused body is read for.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// Reads a whole request body.
///
/// # Errors
/// `body_too_large`; `bad_request` if it is encoded, breaks off, or takes longer than `limits.body_read_time`.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Bytes, Error> {
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity")
    {
        return Err(refuse(
            ErrorCode::BadRequest,
            "compressed request bodies are not offered: send it without content-encoding",
        ));
    }
    if announced_length(headers).is_some_and(|bytes| bytes > limits.body_bytes_max as u64) {
        // Who asks before sending has sent nothing; reading would tell it to go on.
        if !headers.contains_key(EXPECT) {
            discard(body);
        }
        return Err(too_large(limits));
    }
    match timeout(limits.body_read_time, collect(body, limits)).await {
        Ok(result) => result,
        Err(_) => Err(refuse(
            ErrorCode::BadRequest,
            "the request body did not arrive in time",
        )),
    }
}

/// The most bytes that [`read`] will hold of a body.
pub(crate) fn most_bytes(headers: &HeaderMap, limits: &Limits) -> usize {
    announced_length(headers)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(usize::MAX)
        .min(limits.body_bytes_max)
}

async fn collect(mut body: Body, limits: &Limits) -> Result<Bytes, Error> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| refuse(ErrorCode::BadRequest, "the request body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.len() + all.len() + data.len() > limits.body_bytes_max {
            discard(body);
            return Err(too_large(limits));
        }
        // Nearly every body is one frame, and is then not copied.
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

fn too_large(limits: &Limits) -> Error {
    refuse(
        ErrorCode::BodyTooLarge,
        format!("the body is larger than {} bytes", limits.body_bytes_max),
    )
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads the rest behind the response.
fn discard(mut body: Body) {
    let rest = async move {
        let mut bytes = 0;
        while bytes < DISCARD_BYTES_MAX {
            match body.frame().await {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => return,
            }
        }
    };
    tokio::spawn(timeout(DISCARD_TIME_MAX, rest));
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn limits() -> Limits {
        Limits {
            body_bytes_max: 10,
            body_read_time: Duration::from_millis(20),
            ..Limits::default()
        }
    }

    fn chunks(parts: &[&'static str]) -> Body {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| Ok::<_, Error>(Bytes::from_static(part.as_bytes())))
            .collect();
        Body::from_stream(stream::iter(parts))
    }

    async fn read_all(headers: HeaderMap, body: Body) -> Result<Bytes, ErrorCode> {
        read(&headers, body, &limits())
            .await
            .map_err(|error| error.code)
    }

    #[tokio::test]
    async fn bodies_up_to_the_limit_are_read_in_order() {
        assert_eq!(
            read_all(HeaderMap::new(), Body::empty()).await,
            Ok(Bytes::new())
        );
        assert_eq!(
            read_all(HeaderMap::new(), chunks(&["0123456789"])).await,
            Ok(Bytes::from("0123456789"))
        );
        assert_eq!(
            read_all(HeaderMap::new(), chunks(&["01", "", "234", "5"])).await,
            Ok(Bytes::from("012345"))
        );
    }

    #[tokio::test]
    async fn larger_bodies_are_refused_by_length_and_by_count() {
        let announced = HeaderMap::from_iter([(CONTENT_LENGTH, "11".parse().expect("header"))]);
        assert_eq!(
            read_all(announced, Body::empty()).await,
            Err(ErrorCode::BodyTooLarge)
        );
        assert_eq!(
            read_all(HeaderMap::new(), chunks(&["01234", "56789", "0"])).await,
            Err(ErrorCode::BodyTooLarge)
        );
    }

    #[tokio::test]
    async fn a_body_that_stalls_or_is_encoded_is_refused() {
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, Error>>());
        assert_eq!(
            read_all(HeaderMap::new(), stalled).await,
            Err(ErrorCode::BadRequest)
        );
        let encoded = HeaderMap::from_iter([(CONTENT_ENCODING, "gzip".parse().expect("header"))]);
        assert_eq!(
            read_all(encoded, Body::empty()).await,
            Err(ErrorCode::BadRequest)
        );
    }
}
