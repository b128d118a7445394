//! One operation over HTTP, and what may be concluded from its end. The reasoning is in the README, "error contract".

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use proto::{Effect, ErrorCode};
use reqwest::{Method, Response};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use crate::history::{Action, Outcome, Stored};

/// The server gives up after 5 s; its answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The beginnings of a client. The nodes under test are insecure; the library wants to know all the same what TLS would be.
///
/// # Errors
/// If TLS cannot be set up.
pub(crate) fn http() -> anyhow::Result<reqwest::ClientBuilder> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust_nobody = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(trust_nobody))
}

/// A client of one bucket.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    bucket: String,
}

impl Client {
    /// Connects at the first operation.
    ///
    /// # Errors
    /// If HTTP cannot be set up.
    pub fn new(bucket: &str) -> anyhow::Result<Client> {
        let http = http()?
            .timeout(ANSWER_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .build();
        Ok(Client {
            http: http.context("cannot set up the HTTP client")?,
            bucket: bucket.to_owned(),
        })
    }

    /// Asks the node at `base`, for example `http://127.0.0.1:7400/v1`.
    pub async fn run(&self, base: &str, action: &Action) -> Outcome {
        let url = format!("{base}/db/{}/{}", self.bucket, action.key());
        let request = match action {
            Action::Read { .. } => self.http.request(Method::GET, url),
            Action::Write {
                value, expected, ..
            } => {
                let put = self
                    .http
                    .request(Method::PUT, url)
                    .header("content-type", "application/json");
                let put = put.body(json!({ "value": value }).to_string());
                match expected {
                    Some(version) => put.header("if-match", format!("\"{version}\"")),
                    None => put,
                }
            }
            Action::Delete { expected, .. } => self
                .http
                .request(Method::DELETE, url)
                .header("if-match", format!("\"{expected}\"")),
        };
        match request.send().await {
            Ok(response) => concluded(action, response).await,
            // No connection, so nobody received anything.
            Err(error) if error.is_connect() => fail(format!("not connected: {error}")),
            Err(error) => without_answer(action, &error.to_string()),
        }
    }
}

/// Reads an answer.
async fn concluded(action: &Action, response: Response) -> Outcome {
    let status = response.status().as_u16();
    let effect = response
        .headers()
        .get("larder-effect")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let body = match response.bytes().await {
        Ok(body) => serde_json::from_slice(&body).unwrap_or(Value::Null),
        Err(error) => return without_answer(action, &error.to_string()),
    };
    conclude(action, status, effect.as_deref(), &body)
}

/// What a complete answer says. Only the promise of no effect is a failure; a bare status may be a proxy's.
fn conclude(action: &Action, status: u16, effect: Option<&str>, body: &Value) -> Outcome {
    let error = || {
        format!(
            "{status} {}",
            body["code"].as_str().unwrap_or("without a code")
        )
    };
    match (action, status, effect) {
        (Action::Read { .. } | Action::Write { .. }, 200, _) => {
            match (body["value"].as_u64(), body["version"].as_u64()) {
                (Some(value), Some(version)) => Outcome::Ok {
                    stored: Some(Stored {
                        value: Some(value),
                        version,
                    }),
                },
                _ => without_answer(action, "an answer without value and version"),
            }
        }
        (Action::Read { .. }, 404, _) if body["code"] == ErrorCode::ObjectNotFound.as_str() => {
            Outcome::Ok { stored: None }
        }
        // Every accepted write takes the next version, a delete too.
        (Action::Delete { expected, .. }, 204, _) => Outcome::Ok {
            stored: Some(Stored {
                value: None,
                version: expected + 1,
            }),
        },
        (_, _, Some(effect)) if effect == Effect::None.as_str() => fail(error()),
        _ => without_answer(action, &error()),
    }
}

/// A read that got no answer told nothing; anything else may have happened.
fn without_answer(action: &Action, error: &str) -> Outcome {
    match action {
        Action::Read { .. } => fail(error.to_owned()),
        Action::Write { .. } | Action::Delete { .. } => Outcome::Info {
            error: error.to_owned(),
        },
    }
}

fn fail(error: String) -> Outcome {
    Outcome::Fail { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write() -> Action {
        Action::Write {
            key: "k".to_owned(),
            value: 7,
            expected: None,
        }
    }

    fn is_info(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Info { .. })
    }

    #[test]
    fn only_the_promise_of_no_effect_is_a_failure() {
        let body = json!({ "code": "unavailable" });
        assert_eq!(
            conclude(&write(), 503, Some("none"), &body),
            fail("503 unavailable".to_owned())
        );
        for (status, effect) in [
            (503, None),
            (503, Some("unknown")),
            (504, Some("unknown")),
            (500, None),
            (404, None),
            (502, Some("")),
        ] {
            assert!(
                is_info(&conclude(&write(), status, effect, &body)),
                "{status} {effect:?}"
            );
        }
        assert!(
            is_info(&conclude(&write(), 200, None, &Value::Null)),
            "200 from something that is no node"
        );
    }

    #[test]
    fn a_read_without_an_answer_tells_nothing() {
        let read = Action::Read {
            key: "k".to_owned(),
        };
        for (status, effect) in [
            (503, None),
            (504, Some("unknown")),
            (404, None),
            (200, None),
        ] {
            assert!(
                matches!(
                    conclude(&read, status, effect, &Value::Null),
                    Outcome::Fail { .. }
                ),
                "{status}"
            );
        }
        let missing = json!({ "code": "object_not_found" });
        assert_eq!(
            conclude(&read, 404, Some("none"), &missing),
            Outcome::Ok { stored: None }
        );
    }

    #[test]
    fn versions_come_from_the_answer_or_from_the_condition() {
        let body = json!({ "value": 7, "version": 3 });
        let stored = |value, version| Outcome::Ok {
            stored: Some(Stored { value, version }),
        };
        assert_eq!(conclude(&write(), 200, None, &body), stored(Some(7), 3));
        let delete = Action::Delete {
            key: "k".to_owned(),
            expected: 3,
        };
        assert_eq!(conclude(&delete, 204, None, &Value::Null), stored(None, 4));
    }
}
