//! One request to one node, over HTTP or gRPC, and what may be concluded from its end. The reasoning is in the README,
//! "The error contract". A client never retries.

mod grpc;
mod http;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

pub use grpc::Grpc;
pub use http::Http;

/// The server gives up after 5 s; its answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The beginnings of an HTTP client. The nodes under test are insecure; the library wants to know all the same what TLS
/// would be.
///
/// # Errors
/// If TLS cannot be set up.
pub(crate) fn http_builder() -> anyhow::Result<reqwest::ClientBuilder> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust_nobody = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let builder = reqwest::Client::builder().tls_backend_preconfigured(trust_nobody);
    Ok(builder
        .timeout(ANSWER_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT))
}

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its bucket.
    pub bucket: String,
    /// Its key; `{tag}` keeps keys in one shard.
    pub key: String,
}

impl Place {
    /// A document of a bucket.
    pub fn new(bucket: &str, key: &str) -> Place {
        Place {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        }
    }
}

/// What must be stored for a write to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Anything or nothing.
    None,
    /// Nothing.
    Absent,
    /// This version.
    Version(u64),
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which document.
    pub place: Place,
    /// What happens to it.
    pub what: What,
}

/// What happens to a document.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It is replaced.
    Put(Value),
    /// Parts of it are changed: operation -> path -> argument.
    Update(Value),
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Reads a document linearizably.
    Get(Place),
    /// Changes one document under a condition.
    Write(Change, Condition),
    /// Deletes one document under a condition.
    Delete(Place, Condition),
    /// Changes several documents of one shard, all or none.
    Batch(Vec<Change>),
    /// Reads the documents from this key on, at most so many, within its shard and at one moment. Over gRPC alone.
    Range(Place, u64),
}

impl Call {
    /// Whether it changes nothing, so that a lost answer says nothing.
    fn is_read(&self) -> bool {
        matches!(self, Call::Get(_) | Call::Range(..))
    }
}

/// A document in an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its key.
    pub key: String,
    /// Its version.
    pub version: u64,
    /// All of it.
    pub json: Value,
}

/// What may be concluded.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It happened. A read gives what it found, a write what it made, a delete nothing.
    Ok(Vec<Document>),
    /// It did not happen and never will; the code is that of the node, if it was one that answered.
    Fail {
        /// An error code, or empty.
        code: String,
        /// For people.
        error: String,
    },
    /// Nobody knows.
    Info {
        /// For people.
        error: String,
    },
}

impl Reply {
    /// A refusal with the promise of no effect.
    fn refused(code: &str, error: String) -> Reply {
        Reply::Fail {
            code: code.to_owned(),
            error,
        }
    }

    /// No answer, or one that promises nothing. A read that got none told nothing; anything else may have happened.
    fn without_answer(call: &Call, error: String) -> Reply {
        if call.is_read() {
            Reply::refused("", error)
        } else {
            Reply::Info { error }
        }
    }
}

/// How a worker speaks to nodes.
#[derive(Clone)]
pub enum Client {
    /// JSON over HTTP.
    Http(Http),
    /// gRPC.
    Grpc(Grpc),
}

impl Client {
    /// Asks the node at `origin`, for example `http://127.0.0.1:7400`. `repetition` is the idempotency key.
    pub async fn run(&self, origin: &str, call: &Call, repetition: Option<&str>) -> Reply {
        match self {
            Client::Http(client) => client.run(origin, call, repetition).await,
            Client::Grpc(client) => client.run(origin, call, repetition).await,
        }
    }
}

/// A document from its JSON.
fn document(key: &str, json: Value) -> anyhow::Result<Document> {
    let version = json["version"]
        .as_u64()
        .context("a document without a version")?;
    Ok(Document {
        key: key.to_owned(),
        version,
        json,
    })
}
