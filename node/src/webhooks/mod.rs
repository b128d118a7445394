//! Sending changes to the targets of consumers over HTTP: one POST a batch, signed, bounded in time and size, to the address that was named
//! and no other.
//!
//! | part | owns |
//! |---|---|
//! | `addresses` | which addresses may be a target |
//! | `signature` | how a target knows that a batch is ours |
//!
//! Taken is what is answered with a 2xx; everything else is a failure, a redirect too, as it could lead into our own network. Nothing here
//! logs an address, a secret or a body.

mod addresses;
mod signature;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use serde_json::json;
use service::clock::Clock;
use service::courier::{Address, Batch, Courier, Undelivered};
use service::ports::PortError;

use self::addresses::PublicOnly;
use crate::cli::tls::TlsArgs;
use crate::config;
use crate::http::event_json;

/// The batch's name.
const LARDER_BATCH: &str = "larder-batch";
/// See `signature`.
const LARDER_SIGNATURE: &str = "larder-signature";
/// Time for a connection; a part of that for the whole.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Of an answer's body no more is read; nothing in it matters, but a connection whose answer was read is used again.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Idle connections kept to one target.
const IDLE_MAX: usize = 2;

/// Sends batches.
pub(crate) struct Webhooks {
    client: Client,
    clock: Arc<dyn Clock>,
    targets: Targets,
}

/// Which targets there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Targets {
    /// With TLS, in the public internet.
    Public,
    /// With TLS, anywhere.
    Anywhere,
    /// Anything.
    Plain,
}

impl Targets {
    fn of(config: &config::Webhooks, insecure: bool) -> Targets {
        match (insecure, config.allow_private) {
            (true, _) => Targets::Plain,
            (false, true) => Targets::Anywhere,
            (false, false) => Targets::Public,
        }
    }
}

impl Webhooks {
    /// A client as it is configured.
    ///
    /// # Errors
    /// The file with certificates cannot be used.
    pub(crate) fn new(
        config: &config::Webhooks,
        insecure: bool,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Webhooks> {
        let targets = Targets::of(config, insecure);
        let tls = TlsArgs {
            ca: Some(config.ca.clone()).filter(|ca: &PathBuf| !ca.as_os_str().is_empty()),
            ..TlsArgs::default()
        };
        let mut client = tls
            .http(["https://"])
            .context("webhooks.ca")?
            // A proxy would be asked for addresses that this node must not ask itself.
            .no_proxy()
            .redirect(Policy::none())
            .timeout(Duration::from_millis(config.timeout_ms))
            .connect_timeout(CONNECT_TIME)
            .pool_max_idle_per_host(IDLE_MAX);
        if targets == Targets::Public {
            client = client.dns_resolver(Arc::new(PublicOnly));
        }
        Ok(Webhooks {
            client: client.build().context("the client for webhooks")?,
            clock,
            targets,
        })
    }

    fn url(&self, text: &str) -> Result<Url, String> {
        let url = Url::parse(text).map_err(|error| format!("the target is no address: {error}"))?;
        let host = url.host().ok_or("the target has no host")?;
        match (url.scheme(), self.targets) {
            ("https", _) | ("http", Targets::Plain) => {}
            ("http", _) => {
                return Err(
                    "the target must be an https:// address; http:// is for security.insecure"
                        .to_owned(),
                );
            }
            _ => return Err("the target must be an https:// address".to_owned()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "the target must have no user in it: the signature says who sends".to_owned(),
            );
        }
        if self.targets == Targets::Public && !addresses::may_be_public(&host) {
            return Err(
                "the target lies in a private network; webhooks.allow_private = true allows that"
                    .to_owned(),
            );
        }
        Ok(url)
    }

    async fn post(&self, address: &Address, batch: &Batch) -> Result<(), Undelivered> {
        let failed = |reason: String| Undelivered {
            reason,
            retry_after: None,
        };
        let url = self.url(&address.url).map_err(failed)?;
        let body = Bytes::from(body(address, batch));
        let seconds = self.clock.wall_us() / 1_000_000;
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json;charset=utf-8")
            .header(USER_AGENT, concat!("larder/", env!("CARGO_PKG_VERSION")))
            .header(LARDER_BATCH, &batch.id)
            .header(
                LARDER_SIGNATURE,
                signature::header(&address.secret, seconds, &body),
            )
            .body(body);
        let mut answer = request
            .send()
            .await
            .map_err(|error| failed(reason_of(&error)))?;
        let status = answer.status();
        let retry_after = retry_after(answer.headers());
        let mut read = 0;
        while let Ok(Some(part)) = answer.chunk().await {
            read += part.len();
            if read > ANSWER_BYTES_MAX {
                break;
            }
        }
        match status.is_success() {
            true => Ok(()),
            false => Err(Undelivered {
                reason: format!("the target answered {status}"),
                retry_after,
            }),
        }
    }
}

impl Courier for Webhooks {
    fn check(&self, url: &str) -> Result<(), PortError> {
        self.url(url).map(|_| ()).map_err(PortError)
    }

    fn send<'a>(
        &'a self,
        address: &'a Address,
        batch: &'a Batch,
    ) -> BoxFuture<'a, Result<(), Undelivered>> {
        Box::pin(self.post(address, batch))
    }
}

/// A batch as it is sent.
fn body(address: &Address, batch: &Batch) -> String {
    let about = json!({
        "batch": batch.id, "database": address.database, "consumer": address.consumer,
    });
    let mut out = about.to_string();
    out.pop();
    if let Some(reason) = batch.resync {
        let _ = write!(out, ",\"resync\":{}", json!(reason));
    }
    out.push_str(",\"events\":[");
    for (at, event) in batch.events.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        event_json(&mut out, "", event);
    }
    out.push(']');
    if batch.is_live {
        out.push_str(",\"live\":true");
    }
    out.push('}');
    out
}

/// What the target wants, in seconds. A date is not understood: correct clocks are not ours to assume.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse();
    seconds.ok().map(Duration::from_secs)
}

/// Why a request failed, by its last cause, without the address.
fn reason_of(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the target did not answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("the target cannot be reached: {cause}")
}

#[cfg(test)]
mod tests {
    use service::clock::SystemClock;

    use super::*;

    fn webhooks(allow_private: bool, insecure: bool) -> Webhooks {
        let config = config::Webhooks {
            allow_private,
            ..config::Webhooks::default()
        };
        Webhooks::new(&config, insecure, Arc::new(SystemClock::new())).expect("a client")
    }

    #[test]
    fn targets_are_what_the_configuration_allows() {
        let public = ["https://shop.example/hook?x=1", "https://93.184.215.14/"];
        let private = [
            "https://127.0.0.1/",
            "https://[::1]:8443/",
            "https://localhost/",
        ];
        let plain = ["http://shop.example/", "http://127.0.0.1:9000/hook"];
        let never = [
            "ftp://shop.example/",
            "shop.example",
            "https://user:pw@shop.example/",
        ];
        for (hooks, is_private, is_plain) in [
            (webhooks(false, false), false, false),
            (webhooks(true, false), true, false),
            (webhooks(false, true), true, true),
        ] {
            let all = |urls: &[&str]| urls.iter().all(|url| hooks.check(url).is_ok());
            let none = |urls: &[&str]| urls.iter().all(|url| hooks.check(url).is_err());
            assert!(all(&public) && none(&never));
            assert!(if is_private {
                all(&private)
            } else {
                none(&private)
            });
            assert!(if is_plain { all(&plain) } else { none(&plain) });
        }
    }

    #[test]
    fn a_batch_is_an_object_with_its_marks() {
        let address = Address {
            url: String::new(),
            secret: "secret".to_owned(),
            database: "v1".to_owned(),
            consumer: "or\"ders".to_owned(),
        };
        let batch = Batch {
            id: "b".to_owned(),
            resync: Some("why"),
            is_live: true,
            ..Batch::default()
        };
        let sent: serde_json::Value = serde_json::from_str(&body(&address, &batch)).expect("JSON");
        let expected = json!({
            "batch": "b", "database": "v1", "consumer": "or\"ders",
            "resync": "why", "events": [], "live": true,
        });
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_target_says_in_seconds_when_to_come_again() {
        for (text, expected) in [
            ("7", Some(7)),
            (" 120 ", Some(120)),
            ("-1", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a value"));
            assert_eq!(retry_after(&headers), expected.map(Duration::from_secs));
        }
    }
}
