//! One real-time query as server-sent events: `GET /events?class=Todo&query=…`, for as long as the client reads.
//!
//! The events are named like the frames of the WebSocket, whose form they have. An `EventSource` connects again by itself and begins with
//! the result.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use proto::ErrorCode;
use service::{Error, LiveFrame, LiveOperation, LiveQuery, LiveRequest, MatchType, Service};

use super::super::changes::EVENT_STREAM;
use super::super::edge::Call;
use super::super::error::refuse;
use super::super::fields::{decode, parameters};
use super::super::query::number;
use super::super::respond::NO_STORE;
use super::said::words;
use super::told;

/// The name of the one subscription that there is.
const ID: &str = "";

/// The events of the query that the parameters ask for.
pub(super) async fn follow(call: Call<'_>) -> Result<Response, Error> {
    let request = request(call.head.uri.query().unwrap_or_default())?;
    let ctx = call.context()?;
    let service = call.shared.service.clone();
    let live = service.subscribe(&ctx, request).await?;
    // Open queries have a limit of their own.
    drop(call.permit);
    let stream = stream::unfold(Some((live, service)), next);
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, NO_STORE);
    Ok(response)
}

fn request(query: &str) -> Result<LiveRequest, Error> {
    let mut request = LiveRequest {
        initial: true,
        ..LiveRequest::default()
    };
    for (name, value) in parameters(query) {
        let text = || decode(name, value);
        match name {
            "class" => request.bucket = text()?,
            "query" => request.filter = text()?.into(),
            "sort" => request.sort = text()?.into(),
            "offset" => request.offset = size(name, value)?,
            "limit" => request.limit = Some(size(name, value)?),
            "initial" => request.initial = value != "false",
            "matchTypes" => {
                let text = text()?;
                request.match_types =
                    words(name, "all", text.split(',').collect(), MatchType::parse)?;
            }
            "operations" => {
                let text = text()?;
                request.operations =
                    words(name, "any", text.split(',').collect(), LiveOperation::parse)?;
            }
            _ => {}
        }
    }
    if request.bucket.is_empty() {
        return Err(refuse(ErrorCode::BadRequest, "class is missing"));
    }
    Ok(request)
}

fn size(name: &str, value: &str) -> Result<usize, Error> {
    let number = number(name, value)?;
    usize::try_from(number)
        .map_err(|_| refuse(ErrorCode::BadRequest, format!("{name} is too large")))
}

type Following = Option<(LiveQuery, Service)>;

/// The next piece of the stream, read when the client has taken the one before.
async fn next(following: Following) -> Option<(Result<Bytes, Error>, Following)> {
    let (mut live, service) = following?;
    match live.next().await {
        Ok(frame) => {
            let name = match &frame {
                LiveFrame::Result { .. } => "result",
                LiveFrame::Match(_) => "match",
            };
            let text = event(name, &told::frame(ID, &frame));
            // The node stops, or is slow: the client goes on elsewhere.
            let following = (!service.declines()).then_some((live, service));
            Some((Ok(text), following))
        }
        Err(error) => {
            let text = told::error(Some(ID), &error, service.now_us());
            Some((Ok(event("error", &text)), None))
        }
    }
}

fn event(name: &str, data: &str) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_or_refused() {
        let parsed = request(
            "class=Todo&query=%7B%22a%22%3A1%7D&limit=3&initial=false&matchTypes=add,remove",
        );
        let parsed = parsed.expect("parameters");
        assert_eq!(
            (parsed.bucket.as_str(), &parsed.filter[..]),
            ("Todo", &br#"{"a":1}"#[..])
        );
        assert_eq!((parsed.limit, parsed.initial), (Some(3), false));
        assert_eq!(parsed.match_types, [MatchType::Add, MatchType::Remove]);
        for query in [
            "",
            "class=",
            "class=A&limit=x",
            "class=A&operations=sing",
            "class=%ff",
        ] {
            assert_eq!(
                request(query).map_err(|error| error.code),
                Err(ErrorCode::BadRequest),
                "{query}"
            );
        }
    }
}
