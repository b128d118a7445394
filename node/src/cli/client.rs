//! What the client verbs share: URLs, log-in, one HTTP client, errors as people and scripts want them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::exit::{Exit, Status};
use super::tls::{Secure, TlsArgs};

/// The base path of the default database.
const BASE_PATH: &str = "/v1";
/// The header that carries a new token.
const TOKEN_HEADER: &str = "baqend-authorization-token";
/// A little above the server's deadline of 5 s, so that its own answer arrives.
const TIMEOUT: Duration = Duration::from_secs(8);
/// A node that is there takes a connection at once, even while it cannot serve.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The user and password that exist in a cluster made by `larder dev`, and nowhere else.
pub(crate) const DEV_ROOT: &str = "root";

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON value, for scripts.
    Json,
}

/// Where to connect, and as whom.
#[derive(Args, Clone, Debug)]
pub struct Connect {
    /// Client address of a node, http://HOST:PORT or https://HOST:PORT; any node serves any request. A path names a database, none means the default one
    #[arg(
        long,
        env = "LARDER_URL",
        default_value = "http://127.0.0.1:7400",
        value_name = "URL"
    )]
    pub url: String,
    /// A file whose first line is a token of an earlier log-in, instead of --user
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    pub token_file: Option<PathBuf>,
    /// Log in as this user first; without user and token the request is anonymous
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub user: Option<String>,
    /// A file whose first line is the user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// For https:// addresses.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// How results are printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutputArgs {
    /// How to print results and errors
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
}

/// A failed request, in the server's words where it spoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status; 0: no answer.
    pub status: u16,
    /// The code of the closed list, or `unreachable`.
    pub code: String,
    /// `none`, `applied` or `unknown`.
    pub effect: String,
    /// For people.
    pub message: String,
    /// To be found in the node's log.
    pub request_id: Option<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} (code {}, effect {}",
            self.message, self.code, self.effect
        )?;
        if let Some(id) = &self.request_id {
            write!(f, ", request {id}")?;
        }
        f.write_str(")")
    }
}

impl Failure {
    /// As JSON, with the member names of the server's error bodies.
    pub(crate) fn to_json(&self) -> Value {
        serde_json::json!({
            "status": self.status, "code": self.code, "effect": self.effect,
            "message": self.message, "requestId": self.request_id,
        })
    }

    /// Prints the failure and gives the error that ends the process.
    pub(crate) fn report(&self, output: Output) -> anyhow::Error {
        let unavailable = self.status == 0 || self.code == "unavailable";
        self.report_as(
            if unavailable {
                Status::Unavailable
            } else {
                Status::Error
            },
            output,
        )
    }

    /// Like [`Self::report`], with a given exit status.
    pub(crate) fn report_as(&self, status: Status, output: Output) -> anyhow::Error {
        match output {
            Output::Text => Exit::new(status, self).into(),
            Output::Json => {
                println!("{}", serde_json::json!({ "error": self.to_json() }));
                Exit::silent(status).into()
            }
        }
    }
}

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: bytes::Bytes,
}

/// A request that is about to be sent.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<bytes::Bytes>,
}

/// An HTTP client bound to one base URL and one token.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    tls: TlsArgs,
}

impl Client {
    /// A client of `url` without a token. Nothing is sent yet.
    pub(crate) fn anonymous(url: &str, tls: &TlsArgs) -> anyhow::Result<Self> {
        let base = base_url(url)?;
        let http = tls
            .http([base.as_str()])?
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .context("cannot set up the HTTP client")?;
        Ok(Self {
            http,
            base,
            token: None,
            tls: tls.clone(),
        })
    }

    /// A client with the token that the arguments ask for; logs in if they name a user.
    pub(crate) async fn connect(connect: &Connect) -> anyhow::Result<Self> {
        let mut client = Self::anonymous(&connect.url, &connect.tls)?;
        if let Some(file) = &connect.token_file {
            client.token = Some(read_secret(file)?);
        } else if let (Some(user), Some(file)) = (&connect.user, &connect.password_file) {
            let password = read_secret(file)?;
            client
                .log_in(user, &password)
                .await
                .map_err(|failure| failure.report(Output::Text))?;
        }
        Ok(client)
    }

    /// Like [`Self::connect`]; without any credentials it tries those of a `larder dev` cluster.
    pub(crate) async fn connect_as_root(connect: &Connect) -> anyhow::Result<Self> {
        let mut client = Self::connect(connect).await?;
        if client.token.is_none() {
            client
                .log_in(DEV_ROOT, DEV_ROOT)
                .await
                .map_err(|failure| {
                    match failure.status {
                460 => Exit::new(
                    Status::Error,
                    "this needs root: give --user root --password-file FILE, or --token-file FILE",
                )
                .into(),
                _ => failure.report(Output::Text),
            }
                })?;
        }
        Ok(client)
    }

    pub(crate) async fn log_in(&mut self, user: &str, password: &str) -> Result<(), Failure> {
        let body = serde_json::json!({ "username": user, "password": password }).to_string();
        let request = Request {
            body: Some(body.into()),
            ..Request::default()
        };
        let answer = self.send(Method::POST, "/db/User/login", request).await?;
        match answer
            .headers
            .get(TOKEN_HEADER)
            .and_then(|value| value.to_str().ok())
        {
            Some(token) => self.token = Some(token.to_owned()),
            None => return Err(unexpected(answer.status, "the log-in brought no token")),
        }
        Ok(())
    }

    /// Fails if nobody answers at the address, so that verbs which sit out an outage need not do so for a wrong address.
    pub(crate) async fn reach(&self) -> Result<(), Failure> {
        match self.send(Method::GET, "/version", Request::default()).await {
            Err(failure) if failure.status == 0 => Err(failure),
            _ => Ok(()),
        }
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// TLS for gRPC beside the HTTP requests; `None` without it.
    pub(crate) fn secure(&self) -> anyhow::Result<Option<Secure>> {
        self.tls.secure([self.base.as_str()])
    }

    /// Scheme, host and port, and the database's segment of the path.
    pub(crate) fn origin_and_database(&self) -> (&str, &str) {
        self.base.rsplit_once('/').unwrap_or((&self.base, ""))
    }

    /// Sends to `path`, which starts with a slash and is relative to the base path.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        request: Request,
    ) -> Result<Answer, Failure> {
        let mut builder = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            builder = builder.header("authorization", format!("BAT {token}"));
        }
        for (name, value) in request.headers {
            let value = HeaderValue::from_str(&value).map_err(|_| Failure {
                status: 400,
                code: "bad_request".to_owned(),
                effect: "none".to_owned(),
                message: format!("the header {name} cannot hold {value:?}"),
                request_id: None,
            })?;
            builder = builder.header(name, value);
        }
        if let Some(body) = request.body {
            builder = builder
                .header("content-type", "application/json;charset=utf-8")
                .body(body);
        }
        let response = builder
            .send()
            .await
            .map_err(|error| unreachable(&self.base, &error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response
            .bytes()
            .await
            .map_err(|error| unreachable(&self.base, &error))?;
        if status.is_success() {
            return Ok(Answer {
                status,
                headers,
                body,
            });
        }
        Err(failure_of(status, &headers, &body))
    }
}

/// `http://host:port/database`, or with https://: with the default database if the URL has no path, never with a slash at the end.
pub(crate) fn base_url(url: &str) -> anyhow::Result<String> {
    let with_scheme = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let parsed =
        reqwest::Url::parse(&with_scheme).map_err(|error| usage(format!("{url}: {error}")))?;
    match parsed.scheme() {
        "http" | "https" => {}
        scheme => {
            return Err(usage(format!(
                "{url}: {scheme}:// is not supported, use http:// or https://"
            )));
        }
    }
    let origin = parsed.origin().ascii_serialization();
    match parsed.path().trim_end_matches('/') {
        "" => Ok(format!("{origin}{BASE_PATH}")),
        path => Ok(format!("{origin}{path}")),
    }
}

/// `http://host:port` of an address or URL; `https://` stays.
pub(crate) fn origin_url(address: &str) -> anyhow::Result<String> {
    let base = base_url(address)?;
    let (scheme, rest) = base.split_once("://").unwrap_or(("http", &base));
    Ok(format!(
        "{scheme}://{}",
        rest.split('/').next().unwrap_or(rest)
    ))
}

/// One path segment, encoded as the contract wants it.
pub(crate) fn segment(text: &str) -> String {
    document::id::encode_key(text).into_owned()
}

/// The first line of a file, without the line's end.
///
/// # Errors
/// The file cannot be read, or is empty.
pub(crate) fn read_secret(file: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let line = text.lines().next().unwrap_or_default();
    anyhow::ensure!(!line.is_empty(), "{} is empty", file.display());
    Ok(line.to_owned())
}

/// A usage error: exit status 2.
pub(crate) fn usage(message: impl std::fmt::Display) -> anyhow::Error {
    Exit::new(Status::Usage, message).into()
}

/// The member `name` as text, whether the server sent text or a number.
pub(crate) fn text_member(value: &Value, name: &str) -> Option<String> {
    match value.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn failure_of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let member = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
    Failure {
        status: status.as_u16(),
        code: member("code").unwrap_or_else(|| format!("http_{}", status.as_u16())),
        // Without the promise a gateway may have spoken, and then nothing is known.
        effect: header("larder-effect")
            .or_else(|| member("effect"))
            .unwrap_or_else(|| "unknown".to_owned()),
        message: member("message").unwrap_or_else(|| format!("the server answered {status}")),
        request_id: member("requestId").or_else(|| header("larder-request-id")),
    }
}

fn unexpected(status: StatusCode, message: &str) -> Failure {
    Failure {
        status: status.as_u16(),
        code: "unexpected".to_owned(),
        effect: "unknown".to_owned(),
        message: message.to_owned(),
        request_id: None,
    }
}

fn unreachable(base: &str, error: &reqwest::Error) -> Failure {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let effect = if error.is_connect() {
        "none"
    } else {
        "unknown"
    };
    Failure {
        status: 0,
        code: "unreachable".to_owned(),
        effect: effect.to_owned(),
        message: format!("{base}: {cause}{}", hint(&cause.to_string())),
        request_id: None,
    }
}

/// What a failed handshake asks of the caller; empty for other failures.
pub(super) fn hint(cause: &str) -> &'static str {
    if cause.contains("InsufficientSecurity") {
        "; the node speaks plain text: use http://"
    } else if cause.contains("UnknownIssuer") {
        "; trust the cluster's CA with --ca FILE"
    } else if cause.contains("CertificateRequired") {
        "; the node asks for a certificate: --cert FILE --key FILE"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_means_the_default_database() {
        assert_eq!(
            base_url("http://127.0.0.1:7400").unwrap(),
            "http://127.0.0.1:7400/v1"
        );
        assert_eq!(
            base_url("127.0.0.1:7400/").unwrap(),
            "http://127.0.0.1:7400/v1"
        );
        assert_eq!(base_url("http://node/shop/").unwrap(), "http://node/shop");
        let client = Client::anonymous("http://node:7400/shop", &TlsArgs::default()).unwrap();
        assert_eq!(client.origin_and_database(), ("http://node:7400", "shop"));
        assert_eq!(
            origin_url("http://node:7400/shop").unwrap(),
            "http://node:7400"
        );
        assert_eq!(
            origin_url("https://node:7400/shop").unwrap(),
            "https://node:7400"
        );
        assert!(base_url("ftp://node").is_err());
        assert!(base_url("http://").is_err());
    }

    #[test]
    fn keys_are_encoded_like_encode_uri_component() {
        assert_eq!(segment("a/b c{d}é'(x)*!~"), "a%2Fb%20c%7Bd%7D%C3%A9'(x)*!~");
    }

    #[test]
    fn an_error_without_a_promise_has_an_unknown_effect() {
        let failure = failure_of(
            StatusCode::SERVICE_UNAVAILABLE,
            &HeaderMap::new(),
            b"<html>",
        );
        assert_eq!(
            (failure.code.as_str(), failure.effect.as_str()),
            ("http_503", "unknown")
        );
        let body =
            br#"{"message":"no leader","code":"unavailable","effect":"none","requestId":"r1"}"#;
        let failure = failure_of(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new(), body);
        assert_eq!(
            failure.to_string(),
            "no leader (code unavailable, effect none, request r1)"
        );
    }
}
