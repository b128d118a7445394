//! Durable consumers of change feeds: making, showing and deleting them, acknowledging, pausing. Reading is `changes`.

use std::borrow::Cow;

use axum::response::Response;
use http::header::CACHE_CONTROL;
use http::{Method, StatusCode};
use proto::ErrorCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use service::{ConsumerRequest, ConsumerStatus, Error, NewTarget, Start};

use super::changes::start;
use super::edge::Call;
use super::error::refuse;
use super::respond::{self, NO_STORE};
use super::route::{Malformed, Route, decode};

/// What an address below `/consumers` means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConsumersRoute<'a> {
    /// All of them.
    All,
    /// One: its name.
    One(Cow<'a, str>),
    /// Up to where it took everything over.
    Ack(Cow<'a, str>),
    /// Nothing is sent to its target.
    Pause(Cow<'a, str>),
    /// It is again.
    Resume(Cow<'a, str>),
}

impl<'a> ConsumersRoute<'a> {
    /// The meaning of what comes behind `/consumers`.
    pub(crate) fn of(rest: Option<&'a str>) -> Result<Route<'a>, Malformed> {
        let Some(rest) = rest else {
            return Ok(Route::Consumers(ConsumersRoute::All));
        };
        let route = match rest.split_once('/') {
            None => ConsumersRoute::One(decode(rest)?),
            Some((name, "ack")) => ConsumersRoute::Ack(decode(name)?),
            Some((name, "pause")) => ConsumersRoute::Pause(decode(name)?),
            Some((name, "resume")) => ConsumersRoute::Resume(decode(name)?),
            Some(_) => return Ok(Route::Unknown),
        };
        Ok(Route::Consumers(route))
    }

    /// Stable name for metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            ConsumersRoute::All => "consumers",
            ConsumersRoute::One(_) => "consumer",
            ConsumersRoute::Ack(_) => "consumer_ack",
            ConsumersRoute::Pause(_) => "consumer_pause",
            ConsumersRoute::Resume(_) => "consumer_resume",
        }
    }

    /// The methods that have an answer, as the value of `Allow`.
    pub(crate) fn methods(&self) -> &'static str {
        match self {
            ConsumersRoute::All => "GET, HEAD, OPTIONS",
            ConsumersRoute::One(_) => "GET, HEAD, POST, DELETE, OPTIONS",
            ConsumersRoute::Ack(_) | ConsumersRoute::Pause(_) | ConsumersRoute::Resume(_) => {
                "POST, OPTIONS"
            }
        }
    }
}

/// The body of a request that makes a consumer.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NewConsumer {
    bucket: Option<String>,
    filter: Option<Box<RawValue>>,
    from: Option<String>,
    target: Option<String>,
    secret: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledgement {
    token: String,
}

/// Finds the handler and calls it.
pub(crate) async fn dispatch(
    mut call: Call<'_>,
    method: &Method,
    route: &ConsumersRoute<'_>,
) -> Result<Response, Error> {
    let ctx = call.context()?;
    let service = call.shared.service.clone();
    let nothing = respond::empty(StatusCode::NO_CONTENT);
    match (method, route) {
        (&Method::GET, ConsumersRoute::All) => {
            let all = service.consumers(&ctx).await?;
            let all: Vec<Value> = all.iter().map(ConsumerStatus::to_json).collect();
            Ok(shown(respond::value(&all)))
        }
        (&Method::GET, ConsumersRoute::One(name)) => {
            let consumer = service.consumer(&ctx, name).await?;
            Ok(shown(respond::value(&consumer.to_json())))
        }
        (&Method::POST, ConsumersRoute::One(name)) => {
            let request = request(name, read(&mut call).await?)?;
            let consumer = service.create_consumer(&ctx, request).await?;
            Ok(shown(respond::value(&consumer.to_json())))
        }
        (&Method::DELETE, ConsumersRoute::One(name)) => {
            service.delete_consumer(&ctx, name).await?;
            Ok(nothing)
        }
        (&Method::POST, ConsumersRoute::Ack(name)) => {
            let Acknowledgement { token } = read(&mut call).await?;
            service.ack_consumer(&ctx, name, &token).await?;
            Ok(nothing)
        }
        (&Method::POST, ConsumersRoute::Pause(name)) => {
            service.run_consumer(&ctx, name, false).await?;
            Ok(nothing)
        }
        (&Method::POST, ConsumersRoute::Resume(name)) => {
            service.run_consumer(&ctx, name, true).await?;
            Ok(nothing)
        }
        _ => Err(refuse(
            ErrorCode::MethodNotAllowed,
            "this address does not know the method",
        )),
    }
}

/// No cache may keep how far somebody is, and still less a secret.
fn shown(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}

/// Reads a body, which may hold a secret: no parser's message, which could quote it, goes out.
async fn read<T: DeserializeOwned>(call: &mut Call<'_>) -> Result<T, Error> {
    let body = call.read_body().await?;
    serde_json::from_slice(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        refuse(
            ErrorCode::SyntaxError,
            format!(
                "the body is not the JSON object that is wanted here: line {line}, column {column}"
            ),
        )
    })
}

fn request(name: &str, body: NewConsumer) -> Result<ConsumerRequest, Error> {
    let target = match (body.target, body.secret) {
        (Some(url), secret) => Some(NewTarget { url, secret }),
        (None, None) => None,
        (None, Some(_)) => {
            return Err(refuse(
                ErrorCode::BadRequest,
                "a secret signs what is sent to a target: give one",
            ));
        }
    };
    let filter = body.filter.map(|filter| filter.get().to_owned());
    Ok(ConsumerRequest {
        name: name.to_owned(),
        bucket: body.bucket,
        filter: filter.unwrap_or_default().into(),
        start: body.from.as_deref().map_or(Start::Now, start),
        target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_say_what_is_told_and_where_it_goes() {
        let parse = |text: &str| {
            let body: NewConsumer = serde_json::from_str(text).expect("a body");
            request("c", body)
        };
        assert_eq!(parse("{}").expect("a request").start, Start::Now);
        let whole = parse(
            r#"{"bucket":"B","filter":{"n":1.0},"from":"oldest","target":"https://x","secret":"s"}"#,
        );
        let expected = ConsumerRequest {
            name: "c".to_owned(),
            bucket: Some("B".to_owned()),
            filter: r#"{"n":1.0}"#.into(),
            start: Start::Oldest,
            target: Some(NewTarget {
                url: "https://x".to_owned(),
                secret: Some("s".to_owned()),
            }),
        };
        assert_eq!(whole, Ok(expected));
        assert!(parse(r#"{"secret":"s"}"#).is_err());
        assert!(serde_json::from_str::<NewConsumer>(r#"{"traget":"x"}"#).is_err());
    }

    #[test]
    fn addresses_have_one_reading() {
        for (rest, expected) in [
            (None, Route::Consumers(ConsumersRoute::All)),
            (
                Some("a%2Db"),
                Route::Consumers(ConsumersRoute::One("a-b".into())),
            ),
            (
                Some("a/ack"),
                Route::Consumers(ConsumersRoute::Ack("a".into())),
            ),
            (Some("a/b"), Route::Unknown),
            (Some("a/ack/b"), Route::Unknown),
        ] {
            assert_eq!(ConsumersRoute::of(rest), Ok(expected), "{rest:?}");
        }
        assert_eq!(ConsumersRoute::of(Some("")), Err(Malformed::Empty));
    }
}
