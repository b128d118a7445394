//! HTTP/1.1 over a socket, for a load generator that shares its cores with the nodes it measures.
//!
//! A general client spends several microseconds per request on header maps, URIs and a connection task. Here a
//! request is one buffer with the key copied in, and of an answer only the status, the length and a few headers are
//! looked at. It understands what Larder sends, no more: answers of known length, no compression, no redirects.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{Condition, Effect, Failure, Level, Stored};
use super::grpc;
use crate::cli::tls::Secure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A little above the server's deadline of 5 s, so that its own answer arrives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
const HEAD_BYTES_MAX: usize = 64 * 1024;
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One keep-alive connection to each node, made when needed.
pub(super) struct Client {
    hosts: Vec<String>,
    connections: Vec<Option<Connection>>,
    bucket: String,
    /// Header line of each read.
    level: &'static str,
    request: Vec<u8>,
    secure: Option<Secure>,
    /// For scans.
    grpc: grpc::Client,
}

impl Client {
    /// `hosts` are `host:port`.
    pub(super) fn new(
        hosts: &[String],
        bucket: &str,
        level: Level,
        secure: Option<Secure>,
        pool: &grpc::Pool,
    ) -> Self {
        Self {
            hosts: hosts.to_vec(),
            connections: hosts.iter().map(|_| None).collect(),
            bucket: bucket.to_owned(),
            level: match level {
                Level::Linearizable => "",
                Level::Local => "larder-consistency: local\r\n",
            },
            request: Vec::new(),
            secure,
            grpc: grpc::Client::new(pool, bucket, level),
        }
    }

    pub(super) async fn read(&mut self, node: usize, key: &str) -> Result<Option<Stored>, Failure> {
        let request = &mut self.request;
        request.clear();
        push(
            request,
            &[
                "GET /v1/db/",
                &self.bucket,
                "/",
                key,
                " HTTP/1.1\r\nhost: ",
                &self.hosts[node],
                "\r\n",
                self.level,
                "\r\n",
            ],
        );
        match self.exchange(node).await {
            Ok(answer) if answer.status == 200 => Ok(Some(Stored {
                version: answer.version,
                body: answer.body,
            })),
            Ok(answer) => match refused(&answer) {
                // 404 alone is no evidence: a wrong address answers it too.
                failure if failure.code == "object_not_found" => Ok(None),
                failure => Err(Failure {
                    effect: Effect::None,
                    ..failure
                }),
            },
            // A read never has an effect.
            Err(failure) => Err(Failure {
                effect: Effect::None,
                ..failure
            }),
        }
    }

    pub(super) async fn write(
        &mut self,
        node: usize,
        key: &str,
        body: &[u8],
        condition: Condition,
    ) -> Result<u64, Failure> {
        let (request, bucket, host) = (
            &mut self.request,
            self.bucket.as_str(),
            self.hosts[node].as_str(),
        );
        request.clear();
        // An insert names its document in the body: `{"id":"…",` and then the rest of the object.
        let id = if condition == Condition::Absent {
            format!("{{\"id\":\"/db/{bucket}/{key}\",")
        } else {
            String::new()
        };
        let rest = if id.is_empty() {
            body
        } else {
            body.get(1..).unwrap_or_default()
        };
        match condition {
            Condition::Absent => push(request, &["POST /v1/db/", bucket]),
            Condition::None | Condition::Version(_) => {
                push(request, &["PUT /v1/db/", bucket, "/", key])
            }
        }
        push(
            request,
            &[
                " HTTP/1.1\r\nhost: ",
                host,
                "\r\ncontent-type: application/json\r\n",
            ],
        );
        if let Condition::Version(version) = condition {
            push(request, &["if-match: \"", &version.to_string(), "\"\r\n"]);
        }
        push(
            request,
            &[
                "content-length: ",
                &(id.len() + rest.len()).to_string(),
                "\r\n\r\n",
                &id,
            ],
        );
        request.extend_from_slice(rest);
        let answer = self.exchange(node).await?;
        if matches!(answer.status, 200..=202) {
            Ok(answer.version)
        } else {
            Err(refused(&answer))
        }
    }

    pub(super) async fn scan(
        &mut self,
        node: usize,
        key: &str,
        limit: u64,
    ) -> Result<u64, Failure> {
        self.grpc.scan(node, key, limit).await
    }

    /// Sends `self.request`. A connection is kept only after a whole answer.
    async fn exchange(&mut self, node: usize) -> Result<Answer, Failure> {
        let mut connection = match self.connections[node].take() {
            Some(connection) => connection,
            None => Connection::open(&self.hosts[node], self.secure.as_ref()).await?,
        };
        let answer = timeout(ANSWER_TIMEOUT, connection.exchange(&self.request))
            .await
            .unwrap_or_else(|_| Err(Failure::here("timeout", Effect::Unknown)))?;
        if !answer.close {
            self.connections[node] = Some(connection);
        }
        Ok(answer)
    }
}

fn push(request: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        request.extend_from_slice(part.as_bytes());
    }
}

/// The server's code and its promise; a body without them was written by somebody else.
fn refused(answer: &Answer) -> Failure {
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |name: &str| json.get(name).and_then(serde_json::Value::as_str);
    let code = text("code").map_or_else(|| format!("http_{}", answer.status), str::to_owned);
    Failure {
        code: Cow::Owned(code),
        effect: answer
            .effect
            .unwrap_or_else(|| Effect::parse(text("effect"))),
    }
}

/// What is looked at of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// From the ETag; 0 without one.
    version: u64,
    effect: Option<Effect>,
    close: bool,
    body: Bytes,
}

/// A socket, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

struct Connection {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
}

impl Connection {
    async fn open(host: &str, secure: Option<&Secure>) -> Result<Self, Failure> {
        let refused = || Failure::here("connect_refused", Effect::None);
        let connect = async {
            let stream = TcpStream::connect(host).await.map_err(|_| refused())?;
            stream.set_nodelay(true).map_err(|_| refused())?;
            Ok::<_, Failure>(match secure {
                None => Box::new(stream) as Box<dyn Stream>,
                Some(secure) => {
                    let stream = secure.connect(host, stream, "http/1.1").await;
                    Box::new(stream.map_err(|_| Failure::here("tls_refused", Effect::None))?)
                }
            })
        };
        let stream = match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(stream) => stream?,
            Err(_) => return Err(Failure::here("connect_timeout", Effect::None)),
        };
        Ok(Self {
            stream,
            buffer: BytesMut::with_capacity(16 * 1024),
        })
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Failure> {
        // What was not sent as a whole is not served: the server waits for the announced length.
        self.stream
            .write_all(request)
            .await
            .map_err(|_| Failure::here("connection_lost", Effect::None))?;
        let lost = || Failure::here("connection_lost", Effect::Unknown);
        let mut searched = 0;
        let head_length = loop {
            if let Some(at) = find_end(&self.buffer, searched) {
                break at;
            }
            searched = self.buffer.len();
            if searched > HEAD_BYTES_MAX
                || self
                    .stream
                    .read_buf(&mut self.buffer)
                    .await
                    .map_err(|_| lost())?
                    == 0
            {
                return Err(lost());
            }
        };
        let (mut answer, length) = parse_head(&self.buffer[..head_length]).ok_or_else(lost)?;
        self.buffer.advance(head_length);
        while self.buffer.len() < length {
            self.buffer.reserve(length - self.buffer.len());
            if self
                .stream
                .read_buf(&mut self.buffer)
                .await
                .map_err(|_| lost())?
                == 0
            {
                return Err(lost());
            }
        }
        answer.body = self.buffer.split_to(length).freeze();
        Ok(answer)
    }
}

/// The length of the head with its empty line, if it is all there; bytes before `searched` hold no end.
fn find_end(buffer: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    buffer[from..]
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| from + at + 4)
}

/// The answer without its body, and the body's length; `None`: not understood.
fn parse_head(head: &[u8]) -> Option<(Answer, usize)> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let status: u16 = lines
        .next()?
        .strip_prefix("HTTP/1.1 ")?
        .get(..3)?
        .parse()
        .ok()?;
    let mut answer = Answer {
        status,
        version: 0,
        effect: None,
        close: false,
        body: Bytes::new(),
    };
    let mut length = (status == 204 || status == 304).then_some(0);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(
                value
                    .parse()
                    .ok()
                    .filter(|length| *length <= BODY_BYTES_MAX)?,
            );
        } else if name.eq_ignore_ascii_case("etag") {
            answer.version = value.trim_matches('"').parse().unwrap_or(0);
        } else if name.eq_ignore_ascii_case("larder-effect") {
            answer.effect = Some(Effect::parse(Some(value)));
        } else if name.eq_ignore_ascii_case("connection") {
            answer.close = value.eq_ignore_ascii_case("close");
        }
    }
    Some((answer, length?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_found_across_reads() {
        let head = b"HTTP/1.1 200 OK\r\netag: \"7\"\r\n\r\nbody";
        let end = head.len() - 4;
        assert_eq!(find_end(head, 0), Some(end));
        for searched in 0..end {
            assert_eq!(find_end(&head[..searched], 0), None);
            assert_eq!(find_end(head, searched), Some(end), "{searched}");
        }
    }

    #[test]
    fn of_a_head_status_length_version_and_effect_are_read() {
        let head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 12\r\nLarder-Effect: none\r\nETag: \"7\"\r\n\r\n";
        let (answer, length) = parse_head(head).unwrap();
        assert_eq!(
            (answer.status, answer.version, answer.effect, length),
            (503, 7, Some(Effect::None), 12)
        );
    }

    #[test]
    fn an_answer_of_unknown_length_is_not_understood() {
        assert_eq!(
            parse_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
            None
        );
        assert!(parse_head(b"HTTP/1.1 204 No Content\r\n\r\n").is_some());
        assert_eq!(parse_head(b"SSH-2.0\r\n\r\n"), None);
    }

    #[test]
    fn a_gateway_that_promises_nothing_leaves_the_outcome_unknown() {
        let (answer, _) = parse_head(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").unwrap();
        assert_eq!(
            refused(&answer),
            Failure {
                code: "http_503".into(),
                effect: Effect::Unknown
            }
        );
    }
}
