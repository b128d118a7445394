//! An HTTP client that hides nothing: every status is an answer, every header can be looked at.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::tls::Trust;

/// Above the server's own deadline of 5 s, so that its answer arrives.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Opening a connection on loopback never takes this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One node's client port, and who asks.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Api {
    /// The anonymous client of `base`, for example `http://127.0.0.1:7400/v1`.
    pub fn new(base: &str) -> Api {
        Api::trusting(base, &Trust::default())
    }

    /// The anonymous client of `base`, which may be `https://`.
    pub fn trusting(base: &str, trust: &Trust) -> Api {
        let http = trust
            .http()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .build();
        Api {
            http: http.expect("the configuration is of the library that the client uses"),
            base: base.to_owned(),
            token: None,
        }
    }

    /// The same connections with another base, say another database.
    pub fn at(&self, base: &str) -> Api {
        Api {
            base: base.to_owned(),
            ..self.clone()
        }
    }

    /// The same client with a token.
    pub fn with_token(&self, token: &str) -> Api {
        Api {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// The same client with a log-in as `user`.
    ///
    /// # Panics
    /// If the log-in is refused.
    pub async fn log_in(&self, user: &str, password: &str) -> Api {
        let body = json!({ "username": user, "password": password });
        let answer = self
            .post("/db/User/login")
            .json(&body)
            .send()
            .await
            .expect(200);
        self.with_token(
            &answer
                .header("baqend-authorization-token")
                .expect("a log-in brings a token"),
        )
    }

    /// `http://host:port/database`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The token, if it has one.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// A request to `path`, which starts with a slash and is relative to the base.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("BAT {token}"));
        }
        Call { request }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    /// POST.
    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    /// PUT.
    pub fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }
}

/// A request that is about to be sent.
#[derive(Debug)]
pub struct Call {
    request: reqwest::RequestBuilder,
}

impl Call {
    /// Adds a header.
    pub fn header(self, name: &str, value: &str) -> Call {
        Call {
            request: self.request.header(name, value),
        }
    }

    /// `If-Match: "version"`.
    pub fn if_match(self, version: u64) -> Call {
        self.header("if-match", &format!("\"{version}\""))
    }

    /// `Idempotency-Key`.
    pub fn idempotent(self, key: &str) -> Call {
        self.header("idempotency-key", key)
    }

    /// `Larder-Consistency: local`.
    pub fn local(self) -> Call {
        self.header("larder-consistency", "local")
    }

    /// A JSON body.
    pub fn json(self, body: &Value) -> Call {
        self.body(body.to_string())
    }

    /// A body that claims to be JSON.
    pub fn body(self, body: impl Into<reqwest::Body>) -> Call {
        Call {
            request: self
                .request
                .header("content-type", "application/json;charset=utf-8")
                .body(body),
        }
    }

    /// Sends it.
    ///
    /// # Panics
    /// If no complete answer comes. [`Call::try_send`] is for nodes that may die.
    pub async fn send(self) -> Answer {
        let shown = format!("{:?}", self.request);
        self.try_send()
            .await
            .unwrap_or_else(|error| panic!("no answer ({error:?}) to {shown}"))
    }

    /// Sends it and asserts the status, see [`Answer::expect`].
    ///
    /// # Panics
    /// If no complete answer comes, or another one.
    pub async fn expect(self, status: u16) -> Answer {
        let shown = format!("{:?}", self.request);
        let answer = self.send().await;
        assert_eq!(answer.status, status, "{}\nto {shown}", answer.text());
        answer
    }

    /// Sends it and asserts that it is refused, see [`Answer::refused`].
    ///
    /// # Panics
    /// If no complete answer comes, or another one.
    pub async fn refused(self, status: u16, code: &str) -> Answer {
        self.expect(status).await.refused(status, code)
    }

    /// Sends it.
    ///
    /// # Errors
    /// No connection, or no complete answer in time.
    pub async fn try_send(self) -> Result<Answer, reqwest::Error> {
        let response = self.request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer {
            status,
            headers,
            body: response.bytes().await?,
        })
    }
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: Bytes,
}

impl Answer {
    /// Asserts the status.
    ///
    /// # Panics
    /// If it is another one, with the body.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Asserts that this is an error of the contract's form with these codes, and that it promises no effect.
    ///
    /// # Panics
    /// If any part of it is not so.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Answer {
        let answer = self.expect(status);
        let body = answer.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["effect"], "none", "{body}");
        assert_eq!(
            answer.header("larder-effect").as_deref(),
            Some("none"),
            "{body}"
        );
        for member in ["message", "reason", "className", "requestId"] {
            assert!(
                body[member].as_str().is_some_and(|text| !text.is_empty()),
                "no {member} in {body}"
            );
        }
        let kind = answer.header("content-type").unwrap_or_default();
        assert!(
            kind.starts_with("application/json"),
            "an error of type {kind}"
        );
        answer
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("not JSON ({error}): {}", self.text()),
        }
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }

    /// The version in the body.
    ///
    /// # Panics
    /// If there is none, or if the `ETag` says something else.
    #[track_caller]
    pub fn version(&self) -> u64 {
        let body = self.json();
        let version = body["version"]
            .as_u64()
            .unwrap_or_else(|| panic!("no version in {body}"));
        assert_eq!(
            self.header("etag"),
            Some(format!("\"{version}\"")),
            "the ETag is the version"
        );
        version
    }
}

/// A document's own members, without those that the server makes.
pub fn content(document: &Value) -> Value {
    let mut members = document.as_object().cloned().unwrap_or_default();
    for made in ["id", "version", "acl", "createdAt", "updatedAt"] {
        members.shift_remove(made);
    }
    Value::Object(members)
}
