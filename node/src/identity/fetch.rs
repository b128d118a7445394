//! Requests to providers and issuers: bounded in time and size, over TLS, to the address that was named and no other.
//!
//! No redirect is followed: an issuer that could send the node elsewhere could make it ask its own network. No error shows what was
//! sent: requests hold client secrets and codes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Url};
use rustls::{ClientConfig, RootCertStore};

use crate::tls::provider;

/// Largest answer that is read: key sets and discovery documents have a few KiB.
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;
/// For a whole request; a log-in waits for it.
const REQUEST_TIME: Duration = Duration::from_secs(4);
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// Idle connections kept to one host.
const IDLE_MAX: usize = 2;

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The other side refused; its body, if it is short.
    #[error("answered {status}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its body.
        body: Bytes,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    pub(super) fn other(message: impl Into<String>) -> Failure {
        Failure::Other(message.into())
    }
}

/// An HTTP client for outside parties. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fetcher {
    client: Client,
    plain: bool,
}

impl Fetcher {
    /// A client that trusts the system's CAs; with `plain` it also takes `http://` addresses.
    ///
    /// # Errors
    /// The client cannot be made.
    pub(crate) fn new(plain: bool) -> anyhow::Result<Fetcher> {
        let mut roots = RootCertStore::empty();
        // Those that cannot be read are as good as not there.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(config)
            .redirect(Policy::none())
            .timeout(REQUEST_TIME)
            .connect_timeout(CONNECT_TIME)
            .pool_max_idle_per_host(IDLE_MAX)
            .build()?;
        Ok(Fetcher { client, plain })
    }

    /// Asks for JSON, with a bearer token if there is one.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn get(&self, url: &str, token: Option<&str>) -> Result<Bytes, Failure> {
        let mut request = self.client.get(self.url(url)?);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        send(request).await
    }

    /// Sends a form and takes JSON.
    ///
    /// # Errors
    /// [`Failure`]; it may have taken effect.
    pub(super) async fn post_form(
        &self,
        url: &str,
        form: &[(&str, &str)],
        basic: Option<(&str, &str)>,
    ) -> Result<Bytes, Failure> {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let mut request = self
            .client
            .post(self.url(url)?)
            .header(
                http::header::CONTENT_TYPE,
                "application/x-www-form-urlencoded",
            )
            .body(body);
        if let Some((user, password)) = basic {
            request = request.basic_auth(user, Some(password));
        }
        send(request).await
    }

    fn url(&self, url: &str) -> Result<Url, Failure> {
        let url = Url::parse(url).map_err(|error| Failure::other(format!("{url}: {error}")))?;
        let fits = url.scheme() == "https" || (self.plain && url.scheme() == "http");
        if !fits {
            return Err(Failure::other(format!("{url} is not https")));
        }
        Ok(url)
    }
}

async fn send(request: RequestBuilder) -> Result<Bytes, Failure> {
    let request = request
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("larder/", env!("CARGO_PKG_VERSION")));
    let failed = |error: reqwest::Error| Failure::other(error.without_url().to_string());
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    let mut body = BytesMut::new();
    let mut parts = response.bytes_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(failed)?;
        if body.len() + part.len() > BODY_BYTES_MAX {
            return Err(Failure::other("the answer is too large"));
        }
        body.extend_from_slice(&part);
    }
    let body = body.freeze();
    match status.is_success() {
        true => Ok(body),
        false => Err(Failure::Refused { status, body }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_addresses_need_permission() {
        let (strict, plain) = (
            Fetcher::new(false).expect("client"),
            Fetcher::new(true).expect("client"),
        );
        assert!(strict.url("https://issuer.example/keys").is_ok());
        assert!(strict.url("http://issuer.example/keys").is_err());
        assert!(plain.url("http://issuer.example/keys").is_ok());
        for bad in ["file:///etc/passwd", "issuer.example", ""] {
            assert!(plain.url(bad).is_err(), "{bad}");
        }
    }
}
