//! A feed over a WebSocket: `GET /changes/ws`.
//!
//! The first message of the client says what it wants, as one object: `bucket`, `filter` (an object), `from`, `order`, and `token` in place
//! of the header `authorization`, which browsers cannot send here. With a query in the address the feed begins without it. From then on the
//! client has nothing to say. Each event is a message, and so is each other frame of a feed; what is wrong is told in a last one.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::response::Response;
use proto::ErrorCode;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use service::{Caller, Context, Error, Feed, FeedRequest, Frame, Service};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::json::event_json;
use super::{Parameters, by_time, start, watermark};
use crate::http::edge::Call;
use crate::http::error::refuse;
use crate::http::socket::{End, Socket, upgrade};

/// How long the client may take to say what it wants.
const ASK_TIME: Duration = Duration::from_secs(10);

/// `GET /changes/ws`.
///
/// # Errors
/// Those of the handshake. All others are told over the socket, where a browser can read them.
pub(in crate::http) fn open(call: Call<'_>) -> Result<Response, Error> {
    let talk = Talk {
        service: call.shared.service.clone(),
        ctx: call.context()?,
        time: call.shared.limits.request_time,
        query: call.head.uri.query().map(str::to_owned),
    };
    upgrade(&call, |mut socket| async move {
        let Err(why) = talk.run(&mut socket).await;
        socket.end(why)
    })
}

struct Talk {
    service: Service,
    ctx: Context,
    /// For opening the feed.
    time: Duration,
    query: Option<String>,
}

impl Talk {
    async fn run(mut self, socket: &mut Socket) -> Result<Infallible, End> {
        let wanted = match &self.query {
            Some(query) => Parameters::parse(query).map(|parameters| parameters.request),
            None => self.hear(socket).await?,
        };
        let mut feed = match self.open(wanted).await {
            Ok(feed) => feed,
            Err(error) => return refused(socket, &error).await,
        };
        loop {
            tokio::select! {
                said = socket.receive() => {
                    said?;
                    let error = refuse(ErrorCode::BadRequest, "a feed is told nothing after its beginning");
                    socket.send(error_message(&error)).await?;
                }
                frame = feed.next() => match frame {
                    Ok(frame) => socket.send_all(messages(&frame)).await?,
                    Err(error) => return refused(socket, &error).await,
                },
            }
            if self.service.declines() {
                return Err(End::Stopping);
            }
        }
    }

    /// What the client says that it wants, and who it is.
    async fn hear(&mut self, socket: &mut Socket) -> Result<Result<FeedRequest, Error>, End> {
        let Ok(said) = timeout(ASK_TIME, socket.receive()).await else {
            let late = "the first message says what is wanted, and none came";
            return Ok(Err(refuse(ErrorCode::BadRequest, late)));
        };
        Ok(match Wanted::read(&said?) {
            Ok((request, token)) => {
                if let Some(token) = token {
                    self.ctx.caller = Caller::Token(token);
                }
                Ok(request)
            }
            Err(error) => Err(error),
        })
    }

    async fn open(&mut self, wanted: Result<FeedRequest, Error>) -> Result<Feed, Error> {
        let wanted = wanted?;
        self.ctx.deadline = Instant::now() + self.time;
        self.service.feed(&self.ctx, wanted).await
    }
}

/// Tells an error, and ends with it.
async fn refused(socket: &mut Socket, error: &Error) -> Result<Infallible, End> {
    socket.send(error_message(error)).await?;
    Err(End::Refused)
}

/// The first message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted<'a> {
    bucket: Option<String>,
    #[serde(borrow)]
    filter: Option<&'a RawValue>,
    from: Option<String>,
    order: Option<String>,
    token: Option<String>,
}

impl Wanted<'_> {
    /// The feed that is wanted, and the token of whoever wants it.
    fn read(text: &str) -> Result<(FeedRequest, Option<String>), Error> {
        let wanted: Wanted<'_> = serde_json::from_str(text).map_err(|cause| {
            let message = format!(
                "the first message is an object with any of bucket, filter, from, order and token: {cause}"
            );
            refuse(ErrorCode::BadRequest, message)
        })?;
        let filter = wanted.filter.map(|filter| filter.get().to_owned());
        let order = wanted.order.as_deref().map(by_time).transpose()?;
        let request = FeedRequest {
            bucket: wanted.bucket,
            filter: filter.unwrap_or_default().into(),
            start: wanted.from.as_deref().map(start).unwrap_or_default(),
            by_time: order.unwrap_or_default(),
        };
        Ok((request, wanted.token))
    }
}

/// A frame as messages; the last one of several events carries the token of all.
fn messages(frame: &Frame) -> Vec<Utf8Bytes> {
    let one = |message: serde_json::Value| vec![Utf8Bytes::from(message.to_string())];
    match frame {
        Frame::Events { events, token } => {
            let last = format!("\"type\":\"change\",\"token\":\"{token}\",");
            let heads = (1..=events.len()).map(|at| match at == events.len() {
                true => last.as_str(),
                false => "\"type\":\"change\",",
            });
            let texts = events.iter().zip(heads).map(|(event, head)| {
                let mut text = String::new();
                event_json(&mut text, head, event);
                text.into()
            });
            texts.collect()
        }
        Frame::Progress {
            token,
            watermark_us,
        } => one(json!({
            "type": "progress", "token": token, "watermark": watermark(*watermark_us),
        })),
        Frame::Resync { reason, token } => {
            one(json!({ "type": "resync", "token": token, "reason": reason }))
        }
        Frame::Live { token } => one(json!({ "type": "live", "token": token })),
    }
}

fn error_message(error: &Error) -> String {
    let code = error.code;
    json!({
        "type": "error", "code": code.as_str(), "status": code.http_status(), "message": error.message,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use service::Start;
    use service::forward::ChangeKind;

    use super::super::json::tests::event;
    use super::*;

    #[test]
    fn the_first_message_is_read_or_refused() {
        let text =
            r#"{"bucket":"Demo","filter":{"n":1},"from":"oldest","order":"time","token":"t"}"#;
        let (request, token) = Wanted::read(text).expect("a request");
        let expected = FeedRequest {
            bucket: Some("Demo".to_owned()),
            filter: r#"{"n":1}"#.into(),
            start: Start::Oldest,
            by_time: true,
        };
        assert_eq!((request, token.as_deref()), (expected, Some("t")));
        let (request, token) = Wanted::read("{}").expect("a request");
        assert_eq!((request, token), (FeedRequest::default(), None));
        for bad in [
            "",
            "[]",
            "{",
            r#"{"buckets":"Demo"}"#,
            r#"{"order":"up"}"#,
            r#"{"from":1}"#,
        ] {
            let refused = Wanted::read(bad).map_err(|error| error.code);
            assert_eq!(refused, Err(ErrorCode::BadRequest), "{bad}");
        }
    }

    #[test]
    fn the_last_message_of_a_frame_carries_its_token() {
        let frame = Frame::Events {
            events: vec![
                event(ChangeKind::Update, "{}"),
                event(ChangeKind::Delete, ""),
            ],
            token: "T".to_owned(),
        };
        let messages = messages(&frame);
        let read = |text: &Utf8Bytes| -> serde_json::Value {
            serde_json::from_str(text.as_str()).expect("JSON")
        };
        let tokens: Vec<_> = messages
            .iter()
            .map(|text| read(text)["token"].clone())
            .collect();
        assert_eq!(tokens, [json!(null), json!("T")]);
        assert!(messages.iter().all(|text| read(text)["type"] == "change"));
    }
}
