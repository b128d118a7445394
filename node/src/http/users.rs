//! Accounts: registration, passwords, names, roles (contract sections 8.2 and 8.3).
//!
//! What lies below `/db/User/` besides users, and below `/db/Role/` besides roles, is listed here with its methods; `route` asks for it.
//! Bodies may hold passwords, so no parser's message, which could quote them, goes out.

use std::borrow::Cow;

use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderValue, Method, StatusCode};
use proto::ErrorCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use service::{Error, Registered, Registration};

use super::edge::Call;
use super::error::refuse;
use super::route::{Malformed, Route, decode};
use super::{oauth, respond, second_factor, sessions};

/// What an address below `/db/User/` or `/db/Role/` means, if it is no document.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UserRoute<'a> {
    /// A new user.
    Register,
    /// Whether a token is good.
    Validate,
    /// Another password, or none.
    Password,
    /// A mail that resets the password.
    Reset,
    /// The link of a mail that confirms an address.
    Verify,
    /// A mail that changes the name.
    ChangeUsername,
    /// Its link.
    VerifyUsername,
    /// A session in a role: its key.
    Assume(Cow<'a, str>),
    /// The caller's second factor.
    SecondFactor,
    /// Whether it is on.
    SecondFactorStatus,
    /// Setting it up.
    SecondFactorInit,
    /// The second step of a log-in.
    SecondFactorLogin,
    /// API tokens of a user: its key.
    ApiToken(Cow<'a, str>),
    /// Log-in with a provider: its name.
    Oauth(Cow<'a, str>),
}

impl UserRoute<'_> {
    /// The meaning of a word below `/db/User/`; `None`: a user's key.
    pub(crate) fn of_word(word: &str) -> Option<UserRoute<'static>> {
        Some(match word {
            "register" => UserRoute::Register,
            "validate" => UserRoute::Validate,
            "password" => UserRoute::Password,
            "reset" => UserRoute::Reset,
            "verify" => UserRoute::Verify,
            "changeUsername" => UserRoute::ChangeUsername,
            "verifyUsername" => UserRoute::VerifyUsername,
            "mfa" => UserRoute::SecondFactor,
            _ => return None,
        })
    }

    /// The meaning of two segments below `/db/User/` or `/db/Role/`; `None`: a field of a document.
    pub(crate) fn of_member(
        bucket: &str,
        second: &'a str,
        third: &'a str,
    ) -> Result<Option<Route<'a>>, Malformed> {
        Ok(Some(Route::User(match (bucket, second, third) {
            ("User", "mfa", "status") => UserRoute::SecondFactorStatus,
            ("User", "mfa", "init") => UserRoute::SecondFactorInit,
            ("User", "mfa", "token") => UserRoute::SecondFactorLogin,
            ("User", "mfa", _) => return Ok(Some(Route::Unknown)),
            ("User", "OAuth", provider) => UserRoute::Oauth(decode(provider)?),
            ("User", "OAuth1", _) => {
                return Ok(Some(Route::Later("log-in through providers of OAuth 1")));
            }
            ("User", user, "token") => UserRoute::ApiToken(decode(user)?),
            ("Role", role, "assume") => UserRoute::Assume(decode(role)?),
            _ => return Ok(None),
        })))
    }

    /// Stable name for metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            UserRoute::Register => "register",
            UserRoute::Validate => "validate",
            UserRoute::Password => "password",
            UserRoute::Reset => "reset",
            UserRoute::Verify => "verify",
            UserRoute::ChangeUsername => "change_username",
            UserRoute::VerifyUsername => "verify_username",
            UserRoute::Assume(_) => "assume",
            UserRoute::SecondFactor => "second_factor",
            UserRoute::SecondFactorStatus => "second_factor_status",
            UserRoute::SecondFactorInit => "second_factor_init",
            UserRoute::SecondFactorLogin => "second_factor_login",
            UserRoute::ApiToken(_) => "api_token",
            UserRoute::Oauth(_) => "oauth",
        }
    }

    /// The methods that have an answer, as the value of `Allow`.
    pub(crate) fn methods(&self) -> &'static str {
        match self {
            UserRoute::Validate
            | UserRoute::Verify
            | UserRoute::VerifyUsername
            | UserRoute::SecondFactorStatus
            | UserRoute::Oauth(_) => "GET, HEAD, OPTIONS",
            UserRoute::SecondFactorInit => "GET, HEAD, POST, OPTIONS",
            UserRoute::SecondFactor => "DELETE, OPTIONS",
            UserRoute::ApiToken(_) => "POST, DELETE, OPTIONS",
            UserRoute::Password => "POST, DELETE, OPTIONS",
            UserRoute::Register
            | UserRoute::Reset
            | UserRoute::ChangeUsername
            | UserRoute::SecondFactorLogin
            | UserRoute::Assume(_) => "POST, OPTIONS",
        }
    }
}

/// Finds the handler and calls it.
pub(crate) async fn dispatch(
    call: Call<'_>,
    method: &Method,
    route: &UserRoute<'_>,
) -> Result<Response, Error> {
    match (method, route) {
        (&Method::POST, UserRoute::Register) => register(call).await,
        (&Method::GET, UserRoute::Validate) => validate(call).await,
        (&Method::POST, UserRoute::Password) => password(call).await,
        (&Method::DELETE, UserRoute::Password) => remove_password(call).await,
        (&Method::POST, UserRoute::Reset) => reset(call).await,
        (&Method::GET, UserRoute::Verify) => verify(call).await,
        (&Method::POST, UserRoute::ChangeUsername) => change_username(call).await,
        (&Method::GET, UserRoute::VerifyUsername) => verify_username(call).await,
        (&Method::POST, UserRoute::Assume(role)) => assume(call, role).await,
        (&Method::GET, UserRoute::SecondFactorStatus) => second_factor::status(call).await,
        (&Method::GET, UserRoute::SecondFactorInit) => second_factor::begin(call).await,
        (&Method::POST, UserRoute::SecondFactorInit) => second_factor::finish(call).await,
        (&Method::POST, UserRoute::SecondFactorLogin) => second_factor::login(call).await,
        (&Method::DELETE, UserRoute::SecondFactor) => second_factor::drop_it(call).await,
        (&Method::POST, UserRoute::ApiToken(user)) => second_factor::make_token(call, user).await,
        (&Method::DELETE, UserRoute::ApiToken(user)) => {
            second_factor::revoke_tokens(call, user).await
        }
        (&Method::GET, UserRoute::Oauth(provider)) => oauth::oauth(call, provider).await,
        _ => Err(refuse(
            ErrorCode::MethodNotAllowed,
            "this address does not know the method",
        )),
    }
}

/// `POST /db/User/register`.
async fn register(mut call: Call<'_>) -> Result<Response, Error> {
    #[derive(Deserialize)]
    struct Body {
        user: Map<String, Value>,
        password: String,
        #[serde(default)]
        login: bool,
    }
    let ctx = call.context()?;
    let body: Body = read(&mut call, "user, password and login").await?;
    let registration = Registration {
        user: body.user,
        password: body.password,
        login: body.login,
    };
    match call.shared.service.register(&ctx, registration).await? {
        Registered::LoggedIn(session) => sessions::session(session),
        Registered::User(user) => Ok(respond::json(StatusCode::OK, user)),
        Registered::Mailed => Ok(respond::empty(StatusCode::NO_CONTENT)),
    }
}

/// `GET /db/User/validate`.
async fn validate(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let user = call.shared.service.validate(&ctx).await?;
    Ok(respond::value(&json!({ "user": user })))
}

/// `POST /db/User/password`: by the old password, or by the token of a mail.
async fn password(mut call: Call<'_>) -> Result<Response, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        username: Option<String>,
        password: Option<String>,
        token: Option<String>,
        new_password: String,
    }
    let ctx = call.context()?;
    let body: Body = read(
        &mut call,
        "username, password and newPassword, or token and newPassword",
    )
    .await?;
    let service = &call.shared.service;
    let session = match (body.token, body.username) {
        (Some(token), _) => {
            service
                .reset_password(&ctx, &token, &body.new_password)
                .await?
        }
        (None, Some(name)) => {
            let old = body.password.unwrap_or_default();
            service
                .change_password(&ctx, &name, &old, &body.new_password)
                .await?
        }
        (None, None) => {
            return Err(refuse(
                ErrorCode::BadRequest,
                "the body needs a username or a token",
            ));
        }
    };
    sessions::session(session)
}

/// `DELETE /db/User/password`.
async fn remove_password(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let session = call.shared.service.remove_password(&ctx).await?;
    // All sessions have ended; this one goes on by the token.
    sessions::with_token(respond::empty(StatusCode::NO_CONTENT), &session.token)
}

/// `POST /db/User/reset`.
async fn reset(mut call: Call<'_>) -> Result<Response, Error> {
    #[derive(Deserialize)]
    struct Body {
        username: String,
    }
    let ctx = call.context()?;
    let body: Body = read(&mut call, "username").await?;
    call.shared.service.want_reset(&ctx, &body.username).await?;
    Ok(respond::value(&json!({})))
}

/// `GET /db/User/verify?token=`.
async fn verify(call: Call<'_>) -> Result<Response, Error> {
    // The browser of the mail's reader may be logged in as anybody.
    let ctx = call.anonymous_context();
    let token = token_of(&call)?;
    let redirect = call.shared.service.verify_address(&ctx, &token).await?;
    let mut response = respond::empty(StatusCode::NO_CONTENT);
    if let Some(location) = redirect.and_then(|to| HeaderValue::try_from(to).ok()) {
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// `POST /db/User/changeUsername`.
async fn change_username(mut call: Call<'_>) -> Result<Response, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        username: String,
        new_username: String,
        password: String,
    }
    let ctx = call.anonymous_context();
    let body: Body = read(&mut call, "username, newUsername and password").await?;
    call.shared
        .service
        .want_name(&ctx, &body.username, &body.new_username, &body.password)
        .await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// `GET /db/User/verifyUsername?token=`.
async fn verify_username(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.anonymous_context();
    let token = token_of(&call)?;
    call.shared.service.verify_name(&ctx, &token).await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// `POST /db/Role/:oid/assume`.
async fn assume(call: Call<'_>, role: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    sessions::session(call.shared.service.assume_role(&ctx, role).await?)
}

/// The body, an object with these members.
async fn read<T: DeserializeOwned>(call: &mut Call<'_>, members: &str) -> Result<T, Error> {
    let body = call.read_body().await?;
    serde_json::from_slice(&body).map_err(|_| {
        refuse(
            ErrorCode::SyntaxError,
            format!("expected a JSON object with {members}"),
        )
    })
}

/// The parameter `token` of a link.
fn token_of(call: &Call<'_>) -> Result<String, Error> {
    let query = call.head.uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "token")
        .map(|(_, token)| token.into_owned())
        .ok_or_else(|| refuse(ErrorCode::BadRequest, "the parameter token is missing"))
}
