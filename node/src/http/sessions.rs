//! Connect, log-in, log-out (contract sections 2.1 and 8.2).
//!
//! A token travels in the header `baqend-authorization-token`, and in the body of connect; such an answer may not be stored by anyone.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use proto::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use service::{Caller, Connect, Error, Filter, Session, Staleness};

use super::edge::{Call, Shared};
use super::error::refuse;
use super::{connect_page, respond};

/// Delivers a new token.
const TOKEN_HEADER: &str = "baqend-authorization-token";

/// Seconds after which a browser asks for a new Bloom filter.
const BLOOM_FILTER_REFRESH_SECONDS: u32 = 60;

/// What a client sends to log in.
#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

/// The answer to connect. Without cached buckets it has no `bloomFilter`: an empty one would say that every cached copy is fresh.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectBody<'a> {
    schema: &'a Value,
    bloom_filter_refresh: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    bloom_filter: Option<&'a Filter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    staleness: Option<Staleness>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a RawValue>,
}

/// `GET /connect`. Never refused for its credentials: a client whose connect fails is unusable for good.
pub(crate) async fn connect(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context().unwrap_or_else(|_| call.anonymous_context());
    let connect = call.shared.service.connect(&ctx).await?;
    let caching = Caching::of(call.shared, &ctx.database).await;
    if connect_page::is_wanted(call.headers()) {
        let json = connect_json(&connect, &caching)?;
        return Ok(connect_page::page(Some((&json, connect.token.as_deref()))));
    }
    connected(&connect, &caching)
}

/// What connect says about web caches.
#[derive(Default)]
struct Caching {
    filter: Option<Arc<Filter>>,
    staleness: Option<Staleness>,
}

impl Caching {
    async fn of(shared: &Shared, database: &str) -> Caching {
        let flight = shared.limits.request_time;
        Caching {
            filter: shared.service.filter(database).await,
            staleness: shared.service.staleness(database, flight),
        }
    }
}

/// `POST /connect`: the page of the hidden frame, for the token in the form.
pub(crate) async fn connect_page(mut call: Call<'_>) -> Result<Response, Error> {
    let form = call.read_body().await?;
    let mut ctx = call.anonymous_context();
    if let Some(token) = connect_page::token_of(&form) {
        ctx.caller = Caller::Token(token);
    }
    let answer = match call.shared.service.connect(&ctx).await {
        Ok(connect) => {
            let caching = Caching::of(call.shared, &ctx.database).await;
            Some((connect_json(&connect, &caching)?, connect.token))
        }
        Err(error) => {
            tracing::debug!(%error, "the page of connect goes out without its data");
            None
        }
    };
    let answer = answer
        .as_ref()
        .map(|(json, token)| (json.as_ref(), token.as_deref()));
    Ok(connect_page::page(answer))
}

fn connected(connect: &Connect, caching: &Caching) -> Result<Response, Error> {
    let mut response = respond::json(StatusCode::OK, connect_json(connect, caching)?);
    if connect.token.is_some() {
        response
            .headers_mut()
            .insert(CACHE_CONTROL, respond::NO_STORE);
    }
    Ok(response)
}

fn connect_json(connect: &Connect, caching: &Caching) -> Result<Bytes, Error> {
    let user = connect
        .user
        .as_deref()
        .map(serde_json::from_slice::<&RawValue>)
        .transpose();
    let user = user.map_err(|cause| {
        tracing::error!(%cause, "the stored user is not JSON");
        refuse(ErrorCode::Internal, "internal error")
    })?;
    Ok(respond::to_json(&ConnectBody {
        schema: &connect.schema,
        bloom_filter_refresh: BLOOM_FILTER_REFRESH_SECONDS,
        bloom_filter: caching.filter.as_deref(),
        staleness: caching.staleness,
        token: connect.token.as_deref(),
        user,
    }))
}

/// `POST /db/User/login`.
pub(crate) async fn login(mut call: Call<'_>) -> Result<Response, Error> {
    // Whoever logs in anew may hold a token that is no good any more.
    let ctx = call.anonymous_context();
    let body = call.read_body().await?;
    // The parser's own message could quote a password.
    let credentials: Credentials = serde_json::from_slice(&body).map_err(|_| {
        refuse(
            ErrorCode::SyntaxError,
            "expected a JSON object with the texts username and password",
        )
    })?;
    session(
        call.shared
            .service
            .login(&ctx, &credentials.username, &credentials.password)
            .await?,
    )
}

/// `GET /db/User/me`.
pub(crate) async fn me(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    session(call.shared.service.me(&ctx).await?)
}

/// `GET /db/User/logout`, with `?everywhere=true` for all sessions of the user.
pub(crate) async fn logout(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let query = call.head.uri.query().unwrap_or_default();
    let everywhere = form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| name == "everywhere" && value == "true");
    if everywhere {
        call.shared.service.logout_everywhere(&ctx).await?;
    } else {
        call.shared.service.logout(&ctx).await?;
    }
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// The user, with the token in the header.
pub(crate) fn session(session: Session) -> Result<Response, Error> {
    with_token(respond::json(StatusCode::OK, session.user), &session.token)
}

/// An answer that hands out a token, and is kept nowhere.
pub(crate) fn with_token(mut response: Response, token: &str) -> Result<Response, Error> {
    let token =
        HeaderValue::try_from(token).map_err(|_| refuse(ErrorCode::Internal, "internal error"))?;
    response.headers_mut().insert(TOKEN_HEADER, token);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, respond::NO_STORE);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    async fn body_of(response: Response) -> String {
        String::from_utf8(
            response
                .into_body()
                .collect()
                .await
                .expect("body")
                .to_bytes()
                .to_vec(),
        )
        .expect("utf-8")
    }

    #[tokio::test]
    async fn connect_names_a_session_only_if_there_is_one() {
        let anonymous = Connect {
            schema: json!([]),
            token: None,
            user: None,
        };
        let response = connected(&anonymous, &Caching::default()).expect("response");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-cache");
        assert_eq!(
            body_of(response).await,
            r#"{"schema":[],"bloomFilterRefresh":60}"#
        );

        let user = Bytes::from_static(br#"{"id":"/db/User/1"}"#);
        let known = Connect {
            schema: json!([{"class": "/db/Todo"}]),
            token: Some("5f".into()),
            user: Some(user),
        };
        let response = connected(&known, &Caching::default()).expect("response");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        let expected = r#"{"schema":[{"class":"/db/Todo"}],"bloomFilterRefresh":60,"token":"5f","user":{"id":"/db/User/1"}}"#;
        assert_eq!(body_of(response).await, expected);
    }

    #[tokio::test]
    async fn a_session_comes_with_its_token_and_is_never_stored() {
        let response = session(Session {
            token: "5f".into(),
            user: Bytes::from_static(b"{}"),
        })
        .expect("response");
        assert_eq!(response.headers()[TOKEN_HEADER], "5f");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(body_of(response).await, "{}");
    }
}
