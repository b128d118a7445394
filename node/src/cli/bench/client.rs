//! One benchmark client: documents over HTTP or gRPC, or keys of etcd, with what is known about each failure.

use std::borrow::Cow;

use bytes::Bytes;
use clap::ValueEnum;

use super::{etcd, grpc, http};
use crate::cli::tls::Secure;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum System {
    Larder,
    /// Members of etcd, over its gRPC API
    Etcd,
}

/// How clients speak to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Protocol {
    Http,
    Grpc,
}

/// What reads promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Level {
    /// Every write acknowledged before the read began is seen
    Linearizable,
    /// What the asked node has, however old (etcd: serializable)
    Local,
}

/// How all clients of a run speak, and of what.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) system: System,
    /// Of etcd always gRPC.
    pub(super) protocol: Protocol,
    pub(super) bucket: String,
    pub(super) level: Level,
    /// TLS to the nodes.
    pub(super) secure: Option<Secure>,
}

impl Access {
    /// One more client; gRPC goes over the connections of `pool`.
    pub(super) fn client(&self, hosts: &[String], pool: &grpc::Pool) -> Client {
        let (bucket, level) = (self.bucket.as_str(), self.level);
        match (self.system, self.protocol) {
            (System::Etcd, _) => Client::Etcd(etcd::Client::new(pool, bucket, level)),
            (System::Larder, Protocol::Http) => Client::Http(http::Client::new(
                hosts,
                bucket,
                level,
                self.secure.clone(),
                pool,
            )),
            (System::Larder, Protocol::Grpc) => {
                Client::Grpc(grpc::Client::new(pool, bucket, level))
            }
        }
    }
}

/// What a write demands of the stored document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Nothing: insert or replace.
    None,
    /// There is none.
    Absent,
    /// It has this version.
    Version(u64),
}

/// Whether a failed request did anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    None,
    Applied,
    Unknown,
}

impl Effect {
    /// Anything but a clear promise is no promise.
    pub(super) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("none") => Self::None,
            Some("applied") => Self::Applied,
            _ => Self::Unknown,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Applied => "applied",
            Self::Unknown => "unknown",
        }
    }
}

/// Why an operation did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// A code of the server, or what befell the connection.
    pub(super) code: Cow<'static, str>,
    pub(super) effect: Effect,
}

impl Failure {
    /// A failure on this side.
    pub(super) fn here(code: &'static str, effect: Effect) -> Self {
        Self {
            code: Cow::Borrowed(code),
            effect,
        }
    }

    /// The condition of the write did not hold.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(&*self.code, "object_out_of_date" | "object_exists")
    }
}

/// A document as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) version: u64,
    pub(super) body: Bytes,
}

/// Connections of one client to all nodes. One operation at a time; dropping a future closes its connection.
pub(super) enum Client {
    Http(http::Client),
    Grpc(grpc::Client),
    Etcd(etcd::Client),
}

impl Client {
    /// Reads at the level of the run; `None`: there is no such document.
    pub(super) async fn read(&mut self, node: usize, key: &str) -> Result<Option<Stored>, Failure> {
        match self {
            Self::Http(client) => client.read(node, key).await,
            Self::Grpc(client) => client.read(node, key).await,
            Self::Etcd(client) => client.read(node, key).await,
        }
    }

    /// Writes the object `{"value":<text>}` of `body` and gives the new version; 0: the answer does not tell it.
    ///
    /// etcd knows no condition on a plain put, so that runs against it have none.
    pub(super) async fn write(
        &mut self,
        node: usize,
        key: &str,
        body: &[u8],
        condition: Condition,
    ) -> Result<u64, Failure> {
        match self {
            Self::Http(client) => client.write(node, key, body, condition).await,
            Self::Grpc(client) => client.write(node, key, body, condition).await,
            Self::Etcd(client) => client.write(node, key, body).await,
        }
    }

    /// Reads up to `limit` documents from `key` on, within its shard; gRPC whatever the protocol, since HTTP has none.
    pub(super) async fn scan(
        &mut self,
        node: usize,
        key: &str,
        limit: u64,
    ) -> Result<u64, Failure> {
        match self {
            Self::Http(client) => client.scan(node, key, limit).await,
            Self::Grpc(client) => client.scan(node, key, limit).await,
            Self::Etcd(client) => client.scan(node, key, limit).await,
        }
    }
}
