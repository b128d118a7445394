//! Requests over gRPC.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::v1::documents_client::DocumentsClient;
use proto::v1::{self, batch_write, precondition};
use proto::{Effect, ErrorCode};
use serde_json::Value;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{
    ANSWER_TIMEOUT, CONNECT_TIMEOUT, Call, Change, Condition, Document, Place, Reply, What,
    document,
};

type Documents = DocumentsClient<Channel>;

/// A client of any node. A connection is kept until something goes wrong with it.
#[derive(Clone, Default)]
pub struct Grpc {
    open: Arc<Mutex<HashMap<String, Documents>>>,
}

/// Why there is no answer of the kind that was asked for.
enum Failure {
    Status(Status),
    /// It was a good answer, and cannot be read.
    Unreadable(anyhow::Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Status(status)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Unreadable(error)
    }
}

impl Grpc {
    pub(super) async fn run(&self, origin: &str, call: &Call, repetition: Option<&str>) -> Reply {
        let mut documents = match self.connected(origin).await {
            Ok(documents) => documents,
            // No connection, so nobody received anything.
            Err(error) => return Reply::refused("", format!("not connected: {error:#}")),
        };
        let answer =
            tokio::time::timeout(ANSWER_TIMEOUT, send(&mut documents, call, repetition)).await;
        let reply = match answer {
            Ok(Ok(documents)) => return Reply::Ok(documents),
            Ok(Err(Failure::Status(status))) => conclude(call, &status),
            Ok(Err(Failure::Unreadable(error))) => {
                Reply::without_answer(call, format!("{error:#}"))
            }
            Err(_) => Reply::without_answer(call, "no answer in time".to_owned()),
        };
        let is_from_a_node = matches!(&reply, Reply::Fail { code, .. } if !code.is_empty())
            || matches!(&reply, Reply::Ok(_));
        if !is_from_a_node {
            // The library would connect again inside a call; what was sent could not be told then.
            self.open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(origin);
        }
        reply
    }

    async fn connected(&self, origin: &str) -> anyhow::Result<Documents> {
        let open = self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(origin)
            .cloned();
        if let Some(documents) = open {
            return Ok(documents);
        }
        let endpoint = Endpoint::from_shared(origin.to_owned())?.connect_timeout(CONNECT_TIMEOUT);
        let documents = DocumentsClient::new(endpoint.connect().await?);
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(origin.to_owned(), documents.clone());
        Ok(documents)
    }

    /// All documents of a bucket: by a scan, or, with a filter, by a query.
    ///
    /// # Errors
    /// If the node does not answer completely.
    pub async fn all(
        &self,
        origin: &str,
        bucket: &str,
        filter: Option<&str>,
    ) -> anyhow::Result<Vec<Document>> {
        let mut documents = self.connected(origin).await?;
        let mut found = Vec::new();
        match filter {
            None => {
                let request = v1::ScanRequest {
                    bucket: bucket.to_owned(),
                    ..Default::default()
                };
                let mut pages = documents.scan(request).await?.into_inner();
                while let Some(page) = pages.message().await? {
                    found.extend(page.documents);
                }
            }
            Some(filter) => {
                let request = v1::QueryRequest {
                    bucket: bucket.to_owned(),
                    filter: filter.to_owned(),
                    ..Default::default()
                };
                let mut pages = documents.query(request).await?.into_inner();
                while let Some(page) = pages.message().await? {
                    found.extend(page.documents);
                }
            }
        }
        found.into_iter().map(read_document).collect()
    }
}

fn read_document(found: v1::Document) -> anyhow::Result<Document> {
    document(&found.key, serde_json::from_slice(&found.json)?)
}

fn with_key<T>(message: T, repetition: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(key) = repetition.and_then(|key| MetadataValue::<Ascii>::try_from(key).ok()) {
        request.metadata_mut().insert("idempotency-key", key);
    }
    request
}

async fn send(
    documents: &mut Documents,
    call: &Call,
    repetition: Option<&str>,
) -> Result<Vec<Document>, Failure> {
    let found: Vec<v1::Document> = match call {
        Call::Get(place) => {
            let Place { bucket, key } = place.clone();
            let request = v1::GetRequest {
                bucket,
                key,
                ..Default::default()
            };
            match documents.get(request).await {
                Ok(answer) => answer.into_inner().document.into_iter().collect(),
                Err(status) if code_of(&status) == ErrorCode::ObjectNotFound.as_str() => Vec::new(),
                Err(status) => return Err(status.into()),
            }
        }
        Call::Write(change, condition) => {
            let document = write(documents, change, precondition(*condition), repetition).await?;
            document.into_iter().collect()
        }
        Call::Delete(place, condition) => {
            let Place { bucket, key } = place.clone();
            let request = v1::DeleteRequest {
                bucket,
                key,
                precondition: precondition(*condition),
                ..Default::default()
            };
            documents.delete(with_key(request, repetition)).await?;
            Vec::new()
        }
        Call::Batch(changes) => {
            let request = v1::BatchRequest {
                writes: changes.iter().map(batch_write).collect(),
                ..Default::default()
            };
            documents
                .batch(with_key(request, repetition))
                .await?
                .into_inner()
                .documents
        }
        Call::Range(place, limit) => {
            let Place { bucket, key } = place.clone();
            let request = v1::ScanRequest {
                bucket,
                start_key: key,
                limit: *limit,
                ..Default::default()
            };
            let mut pages = documents.scan(request).await?.into_inner();
            let mut found = Vec::new();
            while let Some(page) = pages.message().await? {
                found.extend(page.documents);
            }
            found
        }
    };
    Ok(found
        .into_iter()
        .map(read_document)
        .collect::<anyhow::Result<_>>()?)
}

async fn write(
    documents: &mut Documents,
    change: &Change,
    precondition: Option<v1::Precondition>,
    repetition: Option<&str>,
) -> Result<Option<v1::Document>, Status> {
    let Place { bucket, key } = change.place.clone();
    match &change.what {
        What::Put(body) => {
            let request = v1::PutRequest {
                bucket,
                key,
                json: bytes(body).into(),
                precondition,
                ..Default::default()
            };
            Ok(documents
                .put(with_key(request, repetition))
                .await?
                .into_inner()
                .document)
        }
        What::Update(operations) => {
            let request = v1::UpdateRequest {
                bucket,
                key,
                operations: bytes(operations).into(),
                precondition,
                ..Default::default()
            };
            Ok(documents
                .update(with_key(request, repetition))
                .await?
                .into_inner()
                .document)
        }
    }
}

fn bytes(json: &Value) -> Vec<u8> {
    json.to_string().into_bytes()
}

fn batch_write(change: &Change) -> v1::BatchWrite {
    let Place { bucket, key } = change.place.clone();
    let operation = match &change.what {
        What::Put(body) => batch_write::Operation::Put(bytes(body).into()),
        What::Update(operations) => batch_write::Operation::Update(bytes(operations).into()),
    };
    v1::BatchWrite {
        bucket,
        key,
        operation: Some(operation),
        ..Default::default()
    }
}

fn precondition(condition: Condition) -> Option<v1::Precondition> {
    let condition = match condition {
        Condition::None => return None,
        Condition::Absent => precondition::Condition::Absent(true),
        Condition::Version(version) => precondition::Condition::Version(version),
    };
    Some(v1::Precondition {
        condition: Some(condition),
    })
}

fn metadata<'a>(status: &'a Status, name: &str) -> &'a str {
    status
        .metadata()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn code_of(status: &Status) -> &str {
    metadata(status, "larder-code")
}

/// What an error says. Only the promise of no effect is a failure.
fn conclude(call: &Call, status: &Status) -> Reply {
    let code = code_of(status);
    let error = format!("{:?} {code} {}", status.code(), status.message());
    if metadata(status, "larder-effect") == Effect::None.as_str() {
        Reply::refused(code, error)
    } else {
        Reply::without_answer(call, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_promise_of_no_effect_is_a_failure() {
        let delete = Call::Delete(Place::new("Demo", "k"), Condition::None);
        let mut status = Status::unavailable("");
        assert!(
            matches!(conclude(&delete, &status), Reply::Info { .. }),
            "the library's own error"
        );
        for (effect, is_failure) in [("none", true), ("unknown", false), ("applied", false)] {
            status
                .metadata_mut()
                .insert("larder-effect", MetadataValue::from_static(effect));
            assert_eq!(
                matches!(conclude(&delete, &status), Reply::Fail { .. }),
                is_failure,
                "{effect}"
            );
        }
        assert!(matches!(
            conclude(&Call::Get(Place::new("Demo", "k")), &Status::unknown("")),
            Reply::Fail { .. }
        ));
    }
}
