//! What changes in a database: as a stream of server-sent events, as one answer that waits for a change, and the versions of one document.
//!
//! The stream is for as long as the client reads. Its ids are resume tokens, so that an `EventSource` that lost its connection goes on
//! behind the last frame at whatever node it reaches: the last event of a frame carries the token of the whole frame.
//!
//! | part | owns |
//! |---|---|
//! | `json` | an event as JSON |
//! | `socket` | the same stream over a WebSocket |

mod json;
mod socket;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use document::id::parse_object_id;
use futures::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use proto::ErrorCode;
use serde_json::json;
use service::{Error, Feed, FeedEvent, FeedRequest, Frame, Service, Start};

pub(crate) use self::json::event_json;
use self::json::moment;
pub(super) use self::socket::open as open_socket;
use super::edge::Call;
use super::error::refuse;
use super::fields::{decode, parameters};
use super::query::number;
use super::respond::{self, NO_STORE};

/// What an `EventSource` sends when it connects again.
const LAST_EVENT_ID: &str = "last-event-id";
/// Server-sent events.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";
/// The longest time that an answer waits for a change, in seconds.
const WAIT_SECONDS_MAX: u64 = 60;

/// `GET /changes`.
pub(crate) async fn read(call: Call<'_>) -> Result<Response, Error> {
    let parameters = Parameters::read(&call)?;
    match &parameters.id {
        Some(id) => versions(call, id, parameters.at.as_deref()).await,
        None => match parameters.wait {
            Some(wait) => wait_for(call, parameters.request, wait).await,
            None => follow(call, parameters.request).await,
        },
    }
}

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    request: FeedRequest,
    /// Of the document whose versions are wanted.
    id: Option<String>,
    /// The moment of the one version that is wanted: a resume token.
    at: Option<String>,
    wait: Option<Duration>,
}

impl Parameters {
    fn read(call: &Call<'_>) -> Result<Self, Error> {
        let mut parameters = Self::parse(call.head.uri.query().unwrap_or_default())?;
        let last = call.headers().get(LAST_EVENT_ID);
        if let Some(token) = last.and_then(|token| token.to_str().ok()) {
            // Where the client is by now, not where it began.
            let token = token.to_owned();
            let start = &mut parameters.request.start;
            match start {
                Start::Consumer { from, .. } => *from = Some(token),
                _ => *start = Start::Token(token),
            }
        }
        Ok(parameters)
    }

    fn parse(query: &str) -> Result<Self, Error> {
        let (mut parsed, mut consumer) = (Self::default(), None);
        for (name, value) in parameters(query) {
            match name {
                "consumer" => consumer = Some(decode(name, value)?),
                "bucket" => parsed.request.bucket = Some(decode(name, value)?),
                "filter" => parsed.request.filter = decode(name, value)?.into(),
                "from" => parsed.request.start = start(&decode(name, value)?),
                "order" => parsed.request.by_time = by_time(value)?,
                "id" => parsed.id = Some(decode(name, value)?),
                "at" => parsed.at = Some(decode(name, value)?),
                "wait" => parsed.wait = Some(wait(name, value)?),
                _ => {}
            }
        }
        if let Some(name) = consumer {
            parsed.request.start = of_consumer(name, parsed.request.start)?;
        }
        Ok(parsed)
    }
}

/// Where to begin, by the words that all protocols have for it.
pub(crate) fn start(value: &str) -> Start {
    match value {
        "now" => Start::Now,
        "oldest" => Start::Oldest,
        "snapshot" => Start::Snapshot,
        token => Start::Token(token.to_owned()),
    }
}

/// Where a consumer is, or behind a token that it was given.
fn of_consumer(name: String, start: Start) -> Result<Start, Error> {
    let from = match start {
        Start::Now => None,
        Start::Token(token) => Some(token),
        _ => {
            return Err(refuse(
                ErrorCode::BadRequest,
                "a consumer goes on where it is: from takes a token of it, or nothing",
            ));
        }
    };
    Ok(Start::Consumer { name, from })
}

fn by_time(value: &str) -> Result<bool, Error> {
    match value {
        "time" => Ok(true),
        "shard" => Ok(false),
        _ => Err(refuse(
            ErrorCode::BadRequest,
            "order must be shard, which is the default, or time",
        )),
    }
}

fn wait(name: &str, value: &str) -> Result<Duration, Error> {
    let seconds = number(name, value)?;
    if (1..=WAIT_SECONDS_MAX).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    let message = format!("wait is in seconds, from 1 to {WAIT_SECONDS_MAX}");
    Err(refuse(ErrorCode::BadRequest, message))
}

/// The versions of a document that are kept, or the one of a moment.
async fn versions(call: Call<'_>, id: &str, at: Option<&str>) -> Result<Response, Error> {
    let (bucket, key) = parse_object_id(id).ok_or_else(|| {
        refuse(
            ErrorCode::BadRequest,
            "id must be one of a document: /db/<bucket>/<key>",
        )
    })?;
    let ctx = call.context()?;
    let versions = call.shared.service.history(&ctx, bucket, &key, at).await?;
    if at.is_none() {
        return Ok(answer(&versions, "versions", &json!({})));
    }
    let version = versions.into_iter().next();
    let change = version.map(|version| version.change).unwrap_or_default();
    Ok(respond::document(
        StatusCode::OK,
        change.version,
        change.body,
    ))
}

/// One answer: with the first changes there are, or none after the time.
async fn wait_for(call: Call<'_>, request: FeedRequest, wait: Duration) -> Result<Response, Error> {
    let ctx = call.context()?;
    let mut feed = call.shared.service.feed(&ctx, request).await?;
    // Who waits is no request in flight.
    drop(call.permit);
    let until = Instant::now() + wait;
    let (mut events, mut about) = (Vec::new(), json!({}));
    while events.is_empty() {
        match tokio::time::timeout_at(until.into(), feed.next()).await {
            Ok(Ok(Frame::Events { events: told, .. })) => events = told,
            Ok(Ok(Frame::Resync { reason, .. })) => about["resync"] = reason.into(),
            Ok(Ok(Frame::Live { .. })) => about["live"] = true.into(),
            Ok(Ok(Frame::Progress { .. })) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => break,
        }
    }
    about["token"] = feed.token().into();
    Ok(answer(&events, "events", &about))
}

/// An object with a list of events, and what else there is to say.
fn answer(events: &[FeedEvent], name: &str, about: &serde_json::Value) -> Response {
    let mut out = format!("{{\"{name}\":[");
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        event_json(&mut out, "", event);
    }
    out.push(']');
    for (name, value) in about.as_object().into_iter().flatten() {
        out.push_str(&format!(",\"{name}\":{value}"));
    }
    out.push('}');
    let mut response = respond::json(StatusCode::OK, out);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}

/// Events for as long as the client reads.
async fn follow(call: Call<'_>, request: FeedRequest) -> Result<Response, Error> {
    let ctx = call.context()?;
    let service = call.shared.service.clone();
    let feed = service.feed(&ctx, request).await?;
    // Open feeds have a limit of their own.
    drop(call.permit);
    let stream = stream::unfold(Some((feed, service)), chunk);
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, NO_STORE);
    Ok(response)
}

type Following = Option<(Feed, Service)>;

/// The next piece of a stream, read when the client has taken the one before.
async fn chunk(following: Following) -> Option<(Result<Bytes, Error>, Following)> {
    let (mut feed, service) = following?;
    match feed.next().await {
        // The node stops, or is slow: the client goes on elsewhere, behind this frame.
        Ok(frame) if service.declines() => Some((Ok(sse(&frame)), None)),
        Ok(frame) => Some((Ok(sse(&frame)), Some((feed, service)))),
        Err(error) => Some((Ok(sse_error(&error)), None)),
    }
}

/// A frame as server-sent events.
fn sse(frame: &Frame) -> Bytes {
    let mut out = String::new();
    match frame {
        Frame::Events { events, token } => {
            for (at, event) in events.iter().enumerate() {
                out.push_str("event: change\n");
                if at + 1 == events.len() {
                    let _ = writeln!(out, "id: {token}");
                }
                out.push_str("data: ");
                event_json(&mut out, "", event);
                out.push_str("\n\n");
            }
        }
        Frame::Progress {
            token,
            watermark_us,
        } => {
            let data = json!({ "watermark": watermark(*watermark_us) });
            message(&mut out, "progress", token, &data);
        }
        Frame::Resync { reason, token } => {
            message(&mut out, "resync", token, &json!({ "reason": reason }));
        }
        Frame::Live { token } => message(&mut out, "live", token, &json!({})),
    }
    out.into()
}

/// Up to when everything is told, if that is known.
fn watermark(us: u64) -> Option<String> {
    (us > 0).then(|| moment(us))
}

fn message(out: &mut String, event: &str, token: &str, data: &serde_json::Value) {
    out.push_str(&format!("event: {event}\nid: {token}\ndata: {data}\n\n"));
}

/// Why a feed ends. The client's last id stays what it is.
fn sse_error(error: &Error) -> Bytes {
    let data = json!({ "code": error.code.as_str(), "message": error.message });
    format!("event: error\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use service::forward::ChangeKind;

    use super::json::tests::event;
    use super::*;

    #[test]
    fn parameters_are_read_or_refused() {
        let parsed = Parameters::parse("bucket=Demo&filter=%7B%7D&from=oldest&order=time&wait=7");
        let parsed = parsed.expect("parameters");
        let expected = FeedRequest {
            bucket: Some("Demo".to_owned()),
            filter: Bytes::from_static(b"{}"),
            start: Start::Oldest,
            by_time: true,
        };
        assert_eq!(parsed.request, expected);
        assert_eq!(parsed.wait, Some(Duration::from_secs(7)));
        assert_eq!(start("AbC"), Start::Token("AbC".to_owned()));
        for (query, from) in [("consumer=c", None), ("consumer=c&from=T", Some("T"))] {
            let expected = Start::Consumer {
                name: "c".to_owned(),
                from: from.map(str::to_owned),
            };
            let parsed = Parameters::parse(query).expect("parameters");
            assert_eq!(parsed.request.start, expected);
        }
        for query in [
            "consumer=c&from=oldest",
            "wait=0",
            "wait=61",
            "wait=x",
            "order=up",
            "bucket=%ff",
        ] {
            let refused = Parameters::parse(query).map_err(|error| error.code);
            assert_eq!(refused, Err(ErrorCode::BadRequest), "{query}");
        }
    }

    #[test]
    fn the_last_event_of_a_frame_carries_its_token() {
        let frame = Frame::Events {
            events: vec![
                event(ChangeKind::Update, "{}"),
                event(ChangeKind::Delete, ""),
            ],
            token: "T".to_owned(),
        };
        let text = sse(&frame);
        let text = std::str::from_utf8(&text).expect("text");
        assert_eq!(text.matches("id: T\n").count(), 1);
        assert!(text.find("id: T") > text.find("\n\n"), "{text}");
        let progress = Frame::Progress {
            token: "T".to_owned(),
            watermark_us: 0,
        };
        assert_eq!(
            sse(&progress),
            "event: progress\nid: T\ndata: {\"watermark\":null}\n\n"
        );
    }
}
