//! Log-in with a provider (contract section 8.7), as browsers and polling programs see it.
//!
//! `GET /db/User/OAuth/:provider` means one of three things. With `code`, `error` or `error_description` it is the **end** of a flow: the
//! provider sent the browser here. With a `state` that is no JSON it is a **poll** with a device code. Otherwise a flow **begins**, and
//! the browser is sent to the provider.
//!
//! A flow ends with a redirect to the app, or with a page that hands its answer over by the local storage of this origin. The page holds
//! words of a provider and of users: they stand in a script element that is data, with every `<` escaped, the one script that runs is
//! allowed by its hash, and the page may load and be framed by nothing.

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, HeaderMap, LOCATION,
    REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use proto::ErrorCode;
use serde::Serialize;
use serde_json::Value;
use service::users::oauth::{FLOW_LIFE, Finished, Returned, Target};
use service::{Error, Session};
use sha2::{Digest as _, Sha256};

use super::connect_page::script_data;
use super::edge::Call;
use super::error::{self, refuse};
use super::{respond, sessions};

/// Keeps the browser's secret of a flow.
const COOKIE_NAME: &str = "larder-oauth";
/// Longest parameter.
const PARAMETER_BYTES_MAX: usize = 8 * 1024;

/// Stores the answer where the app listens, and closes the window. Has no `</script` in it.
const SCRIPT: &str = r#"
try {
  localStorage.setItem('oauth-response', document.getElementById('answer').textContent);
} finally {
  window.close();
}
"#;

/// What the app in the other window reads.
#[derive(Serialize)]
struct Answer<'a> {
    status: u16,
    headers: Headers<'a>,
    /// JSON as a text.
    entity: String,
}

#[derive(Serialize)]
struct Headers<'a> {
    #[serde(
        rename = "baqend-authorization-token",
        skip_serializing_if = "Option::is_none"
    )]
    token: Option<&'a str>,
    #[serde(rename = "content-type")]
    content_type: &'static str,
}

/// The parameters that this address knows.
#[derive(Default)]
struct Parameters {
    code: Option<String>,
    refusal: Option<String>,
    state: Option<String>,
    redirect: Option<String>,
    login_option: Option<String>,
}

impl Parameters {
    fn of(query: &str) -> Result<Parameters, Error> {
        let mut all = Parameters::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if value.len() > PARAMETER_BYTES_MAX {
                let message =
                    format!("the parameter {name} is longer than {PARAMETER_BYTES_MAX} bytes");
                return Err(refuse(ErrorCode::BadRequest, message));
            }
            let place = match name.as_ref() {
                "code" => &mut all.code,
                // The description says more, wherever it stands.
                "error_description" => {
                    all.refusal = Some(value.into_owned());
                    continue;
                }
                "error" => &mut all.refusal,
                "state" => &mut all.state,
                "redirect" => &mut all.redirect,
                "loginOption" => &mut all.login_option,
                _ => continue,
            };
            if place.is_none() && !value.is_empty() {
                *place = Some(value.into_owned());
            }
        }
        Ok(all)
    }

    /// A device code: a state without anything else that is no JSON object, which is what clients call a state.
    fn device_code(&self) -> Option<&str> {
        let state = self.state.as_deref()?;
        let is_object = matches!(serde_json::from_str(state), Ok(Value::Object(_)));
        (!is_object && self.redirect.is_none()).then_some(state)
    }
}

/// `GET /db/User/OAuth/:provider`.
pub(crate) async fn oauth(call: Call<'_>, provider: &str) -> Result<Response, Error> {
    let parameters = Parameters::of(call.head.uri.query().unwrap_or_default())?;
    let here = own_address(&call, provider)?;
    let ctx = call.anonymous_context();
    let service = &call.shared.service;
    if parameters.code.is_some() || parameters.refusal.is_some() {
        let returned = Returned {
            provider: provider.to_owned(),
            code: parameters.code,
            refusal: parameters.refusal,
            state: parameters.state.unwrap_or_default(),
            secret: secret_of(call.headers()),
            here,
        };
        return match service.finish_oauth(&ctx, returned).await {
            Ok(finished) => ended(finished, &ctx.request_id),
            Err(error) => page(&Err(error), &ctx.request_id),
        };
    }
    if let Some(code) = parameters.device_code() {
        return sessions::session(service.poll_oauth(&ctx, provider, code).await?);
    }
    let target = parameters.redirect.map(|url| Target {
        url,
        login_option: parameters.login_option.unwrap_or_default(),
    });
    let begun = service.begin_oauth(&ctx, provider, target, &here).await?;
    let mut response = to(&begun.url)?;
    let cookie = cookie(
        &begun.secret,
        FLOW_LIFE.as_secs(),
        here.starts_with("https:"),
    )?;
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}

/// The address of this resource as the client wrote it.
fn own_address(call: &Call<'_>, provider: &str) -> Result<String, Error> {
    let named = call
        .head
        .uri
        .authority()
        .map(|authority| authority.as_str());
    let host = call.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = named
        .or(host)
        .ok_or_else(|| refuse(ErrorCode::BadRequest, "the request names no host"))?;
    let scheme = match call.shared.limits.plain {
        true => "http",
        false => "https",
    };
    Ok(format!(
        "{scheme}://{host}{}/db/User/OAuth/{provider}",
        call.base()
    ))
}

fn secret_of(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter();
    let mut cookies = lines.flat_map(|line| line.to_str().unwrap_or_default().split(';'));
    let found = cookies.find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == COOKIE_NAME).then_some(value)
    });
    found.map(str::to_owned)
}

/// `Lax`: the browser comes back from the provider's site.
fn cookie(secret: &str, seconds: u64, secure: bool) -> Result<HeaderValue, Error> {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!(
        "{COOKIE_NAME}={secret}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}"
    );
    HeaderValue::try_from(text).map_err(|_| refuse(ErrorCode::Internal, "internal error"))
}

/// The end of a flow that may be shown to an app.
fn ended(finished: Finished, request_id: &str) -> Result<Response, Error> {
    let Some(target) = finished.target else {
        return page(&finished.outcome, request_id);
    };
    let mut parameters = form_urlencoded::Serializer::new(String::new());
    match &finished.outcome {
        Ok(session) => {
            parameters.append_pair("token", &session.token);
            parameters.append_pair("loginOption", &target.login_option);
        }
        Err(error) => {
            parameters.append_pair("errorMessage", &error.message);
        }
    }
    let parameters = parameters.finish();
    let (before, fragment) = match target.url.split_once('#') {
        Some((before, fragment)) => (before, Some(fragment)),
        None => (target.url.as_str(), None),
    };
    let joint = if before.contains('?') { '&' } else { '?' };
    let mut url = format!("{before}{joint}{parameters}");
    if let Some(fragment) = fragment {
        url.push('#');
        url.push_str(fragment);
    }
    let mut response = to(&url)?;
    let gone = cookie("", 0, false)?;
    response.headers_mut().insert(SET_COOKIE, gone);
    Ok(response)
}

/// A redirect that nobody keeps, and that tells its target nothing of this address.
fn to(url: &str) -> Result<Response, Error> {
    let url = HeaderValue::try_from(url)
        .map_err(|_| refuse(ErrorCode::BadRequest, "the redirect is no address"))?;
    let mut response = respond::empty(StatusCode::FOUND);
    let headers = response.headers_mut();
    headers.insert(LOCATION, url);
    headers.insert(CACHE_CONTROL, respond::NO_STORE);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

/// The page of a window that the app opened.
fn page(outcome: &Result<Session, Error>, request_id: &str) -> Result<Response, Error> {
    let internal = || refuse(ErrorCode::Internal, "internal error");
    let answer = match outcome {
        Ok(session) => Answer {
            status: StatusCode::OK.as_u16(),
            headers: Headers {
                token: Some(&session.token),
                content_type: "application/json;charset=utf-8",
            },
            entity: String::from_utf8(session.user.to_vec()).map_err(|_| internal())?,
        },
        Err(error) => Answer {
            status: error.code.http_status(),
            headers: Headers {
                token: None,
                content_type: "application/json;charset=utf-8",
            },
            entity: error::body_text(error, request_id),
        },
    };
    let data = script_data(&respond::to_json(&answer));
    let html = format!(
        "<!DOCTYPE html>\n<html>\n<head><meta charset=\"utf-8\"><title>larder</title></head>\n<body>\n\
         <script type=\"application/json\" id=\"answer\">{data}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    );
    let hash = STANDARD.encode(Sha256::digest(SCRIPT));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = Response::new(Body::from(html));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html;charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, respond::NO_STORE);
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::try_from(policy).map_err(|_| internal())?,
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(SET_COOKIE, cookie("", 0, false)?);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::BodyExt;

    use super::*;

    fn session() -> Session {
        Session {
            token: "5f00".into(),
            user: Bytes::from_static(
                br#"{"id":"/db/User/a","username":"</script><script>alert(1)//<!--"}"#,
            ),
        }
    }

    #[tokio::test]
    async fn the_page_runs_one_script_and_its_data_cannot_become_another() {
        let response = page(&Ok(session()), "r").expect("a page");
        let policy = response.headers()[CONTENT_SECURITY_POLICY]
            .to_str()
            .expect("ascii")
            .to_owned();
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        let body = response
            .into_body()
            .collect()
            .await
            .expect("body")
            .to_bytes();
        let html = String::from_utf8(body.to_vec()).expect("utf-8");
        assert_eq!(
            (
                html.matches("<script").count(),
                html.matches("</script").count()
            ),
            (2, 2),
            "{html}"
        );
        assert!(!html.contains("<!--"));
        let data = html
            .split_once("id=\"answer\">")
            .and_then(|(_, rest)| rest.split_once("</script>"));
        let answer: Value = serde_json::from_str(data.expect("data").0).expect("JSON");
        assert_eq!(answer["status"], 200);
        assert_eq!(answer["headers"]["baqend-authorization-token"], "5f00");
        let user: Value =
            serde_json::from_str(answer["entity"].as_str().expect("a text")).expect("JSON");
        assert_eq!(user["username"], "</script><script>alert(1)//<!--");
        // The hash in the policy is that of the script as it stands in the page.
        let script = html
            .rsplit_once("<script>")
            .and_then(|(_, rest)| rest.split_once("</script>"));
        let hash = STANDARD.encode(Sha256::digest(script.expect("a script").0));
        assert!(
            policy.contains(&format!("script-src 'sha256-{hash}'")),
            "{policy}"
        );
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'")
        );
    }

    #[tokio::test]
    async fn a_refusal_is_a_page_with_its_status() {
        let refused = refuse(ErrorCode::BadCredentials, "no \"<b>\"");
        let response = page(&Err(refused), "r").expect("a page");
        let body = response
            .into_body()
            .collect()
            .await
            .expect("body")
            .to_bytes();
        let html = String::from_utf8(body.to_vec()).expect("utf-8");
        assert!(
            html.contains(r#""status":460"#) && !html.contains("<b>"),
            "{html}"
        );
        assert!(!html.contains("baqend-authorization-token"));
    }

    #[test]
    fn an_app_gets_its_token_or_why_there_is_none() {
        let finished = |url: &str, outcome| Finished {
            target: Some(Target {
                url: url.to_owned(),
                login_option: "true".to_owned(),
            }),
            outcome,
        };
        let location = |finished| {
            let response = ended(finished, "r").expect("a redirect");
            assert_eq!(response.status(), 302);
            assert_eq!(response.headers()[REFERRER_POLICY], "no-referrer");
            response.headers()[LOCATION]
                .to_str()
                .expect("ascii")
                .to_owned()
        };
        assert_eq!(
            location(finished("https://a.example/in#x", Ok(session()))),
            "https://a.example/in?token=5f00&loginOption=true#x"
        );
        let refused = || Err(refuse(ErrorCode::BadCredentials, "no & no"));
        assert_eq!(
            location(finished("https://a.example/?y=1", refused())),
            "https://a.example/?y=1&errorMessage=no+%26+no"
        );
    }

    #[test]
    fn what_is_asked_follows_from_the_parameters() {
        let of = |query: &str| Parameters::of(query).expect("parameters");
        assert_eq!(of("state=AB-CD").device_code(), Some("AB-CD"));
        assert_eq!(of("state=%7B%7D").device_code(), None);
        assert_eq!(of("").device_code(), None);
        assert_eq!(of("redirect=https://a.example&state=x").device_code(), None);
        let refused = of("error=access_denied&error_description=the+user+said+no&state=%7B%7D");
        assert_eq!(refused.refusal.as_deref(), Some("the user said no"));
        assert_eq!(of("code=a&code=b").code.as_deref(), Some("a"));
        assert!(Parameters::of(&format!("state={}", "x".repeat(9000))).is_err());
    }

    #[test]
    fn the_secret_is_read_among_other_cookies() {
        let headers = |text: &str| HeaderMap::from_iter([(COOKIE, text.parse().expect("header"))]);
        assert_eq!(
            secret_of(&headers("a=1; larder-oauth=5f; b=2")).as_deref(),
            Some("5f")
        );
        assert_eq!(secret_of(&headers("xlarder-oauth=5f")), None);
        let set = cookie("5f", 600, true).expect("a cookie");
        assert_eq!(
            set,
            "larder-oauth=5f; Path=/; HttpOnly; SameSite=Lax; Max-Age=600; Secure"
        );
    }
}
