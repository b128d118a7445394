//! gRPC for benchmark clients. Clients of one thread share connections, as an application's would.

use std::borrow::Cow;
use std::error::Error as _;
use std::iter::successors;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proto::v1::documents_client::DocumentsClient;
use proto::v1::{Consistency, GetRequest, Precondition, PutRequest, ScanRequest, precondition};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Status};

use super::client::{Condition, Effect, Failure, Level, Stored};
use crate::cli::tls::{Secure, channel};

/// Clients per HTTP/2 connection.
pub(super) const CLIENTS_PER_CONNECTION: usize = 32;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A little above the server's deadline of 5 s, so that its own answer arrives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Connections of one thread to all nodes.
pub(super) struct Pool {
    nodes: Vec<Vec<Channel>>,
    taken: std::cell::Cell<usize>,
}

impl Pool {
    /// Nothing is connected yet. Must be made within a runtime.
    pub(super) fn new(
        hosts: &[String],
        clients: usize,
        secure: Option<&Secure>,
    ) -> anyhow::Result<Rc<Self>> {
        let connections = clients.div_ceil(CLIENTS_PER_CONNECTION).max(1);
        let mut nodes = Vec::new();
        for host in hosts {
            let scheme = if secure.is_some() { "https" } else { "http" };
            let endpoint = Endpoint::from_shared(format!("{scheme}://{host}"))?
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(ANSWER_TIMEOUT)
                .tcp_nodelay(true);
            nodes.push(
                (0..connections)
                    .map(|_| channel(&endpoint, secure))
                    .collect(),
            );
        }
        Ok(Rc::new(Self {
            nodes,
            taken: std::cell::Cell::new(0),
        }))
    }

    /// A connection to each node for the next client; clients take turns.
    pub(super) fn take(&self) -> Vec<Channel> {
        let number = self.taken.replace(self.taken.get() + 1);
        let channel = |channels: &Vec<Channel>| channels[number % channels.len()].clone();
        self.nodes.iter().map(channel).collect()
    }
}

/// One client over shared connections.
pub(super) struct Client {
    nodes: Vec<DocumentsClient<Channel>>,
    bucket: String,
    level: Level,
}

impl Client {
    pub(super) fn new(pool: &Pool, bucket: &str, level: Level) -> Self {
        Self {
            nodes: pool.take().into_iter().map(DocumentsClient::new).collect(),
            bucket: bucket.to_owned(),
            level,
        }
    }

    pub(super) async fn read(&mut self, node: usize, key: &str) -> Result<Option<Stored>, Failure> {
        let request = GetRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            consistency: match self.level {
                Level::Linearizable => Consistency::Linearizable,
                Level::Local => Consistency::Local,
            }
            .into(),
            ..GetRequest::default()
        };
        match self.nodes[node].get(request).await {
            Ok(answer) => Ok(answer.into_inner().document.map(|document| Stored {
                version: document.version,
                body: document.json,
            })),
            Err(status) => {
                let failure = failure_of(&status);
                if failure.code == "object_not_found" {
                    return Ok(None);
                }
                // A read never has an effect.
                Err(Failure {
                    effect: Effect::None,
                    ..failure
                })
            }
        }
    }

    pub(super) async fn write(
        &mut self,
        node: usize,
        key: &str,
        body: &[u8],
        condition: Condition,
    ) -> Result<u64, Failure> {
        let condition = match condition {
            Condition::None => None,
            Condition::Absent => Some(precondition::Condition::Absent(true)),
            Condition::Version(version) => Some(precondition::Condition::Version(version)),
        };
        let request = PutRequest {
            database: String::new(),
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            json: Bytes::copy_from_slice(body),
            precondition: condition.map(|condition| Precondition {
                condition: Some(condition),
            }),
        };
        let answer = self.nodes[node]
            .put(request)
            .await
            .map_err(|status| failure_of(&status))?;
        Ok(answer
            .into_inner()
            .document
            .map_or(0, |document| document.version))
    }

    pub(super) async fn scan(
        &mut self,
        node: usize,
        key: &str,
        limit: u64,
    ) -> Result<u64, Failure> {
        let read = |status: Status| Failure {
            effect: Effect::None,
            ..failure_of(&status)
        };
        let request = ScanRequest {
            bucket: self.bucket.clone(),
            start_key: key.to_owned(),
            limit,
            ..ScanRequest::default()
        };
        let mut stream = self.nodes[node]
            .scan(request)
            .await
            .map_err(read)?
            .into_inner();
        let mut count = 0;
        while let Some(page) = stream.message().await.map_err(read)? {
            count += page.documents.len() as u64;
        }
        Ok(count)
    }
}

fn failure_of(status: &Status) -> Failure {
    let text = |name: &str| {
        status
            .metadata()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    if let Some(code) = text("larder-code") {
        return Failure {
            code: Cow::Owned(code.to_owned()),
            effect: Effect::parse(text("larder-effect")),
        };
    }
    befallen(status)
}

/// What befell a call that no node has said a word about.
pub(super) fn befallen(status: &Status) -> Failure {
    let causes = || successors(status.source(), |&error| error.source());
    if causes().any(|error| error.is::<ConnectError>()) {
        return Failure::here("connect_refused", Effect::None);
    }
    let never_left = |error: &hyper::Error| error.is_canceled();
    if causes()
        .filter_map(|error| error.downcast_ref())
        .any(never_left)
    {
        // The node closed the connection (GOAWAY) before the library had put the request onto it.
        return Failure::here("not_sent", Effect::None);
    }
    // The request may have arrived.
    let code = match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => "timeout",
        _ => "connection_lost",
    };
    Failure::here(code, Effect::Unknown)
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    #[test]
    fn only_a_promise_of_the_server_is_believed() {
        let mut status = Status::unavailable("no leader");
        assert_eq!(
            failure_of(&status),
            Failure::here("connection_lost", Effect::Unknown)
        );
        status
            .metadata_mut()
            .insert("larder-code", "unavailable".parse().unwrap());
        status
            .metadata_mut()
            .insert("larder-effect", "none".parse().unwrap());
        assert_eq!(
            failure_of(&status),
            Failure::here("unavailable", Effect::None)
        );
    }

    #[tokio::test]
    async fn what_waited_for_a_connection_that_ends_has_no_effect() {
        let (io, _server) = tokio::io::duplex(1024);
        let (io, executor) = (TokioIo::new(io), TokioExecutor::new());
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        let answer = sender.send_request(http::Request::new(String::new()));
        drop(connection);
        let status = Status::from_error(Box::new(answer.await.unwrap_err()));
        assert_eq!(status.code(), Code::Cancelled);
        assert_eq!(failure_of(&status), Failure::here("not_sent", Effect::None));
        // Nor does a call that the library gave up itself look like it.
        let status = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        assert_eq!(
            failure_of(&status),
            Failure::here("timeout", Effect::Unknown)
        );
    }

    #[tokio::test]
    async fn a_refused_connection_has_no_effect() {
        // Port 1 of loopback is not listened on.
        let pool = Pool::new(&["127.0.0.1:1".to_owned()], 1, None).unwrap();
        let failure = Client::new(&pool, "B", Level::Linearizable)
            .write(0, "k", b"{}", Condition::None)
            .await
            .unwrap_err();
        assert_eq!(failure, Failure::here("connect_refused", Effect::None));
    }
}
