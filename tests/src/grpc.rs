//! The gRPC client of the tests: the public API with the headers that it reads.

use std::error::Error as _;
use std::iter::successors;

use proto::v1::documents_client::DocumentsClient;
use proto::v1::{self, batch_write, precondition};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The API of one node.
pub type Documents = DocumentsClient<Channel>;

/// A connection to `origin`, for example `http://127.0.0.1:7400`; opened at the first call.
///
/// # Panics
/// If that is no address.
pub fn channel(origin: &str) -> Channel {
    Endpoint::from_shared(origin.to_owned())
        .expect("an address")
        .connect_lazy()
}

/// The document API at `origin`.
pub fn documents(origin: &str) -> Documents {
    DocumentsClient::new(channel(origin))
}

/// A request with metadata. `authorization` takes the bare token.
///
/// # Panics
/// If a value does not fit into metadata.
pub fn request<T>(message: T, token: Option<&str>, idempotency_key: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    let ascii = |text: String| MetadataValue::<Ascii>::try_from(text).expect("ASCII");
    if let Some(token) = token {
        request
            .metadata_mut()
            .insert("authorization", ascii(format!("BAT {token}")));
    }
    if let Some(key) = idempotency_key {
        request
            .metadata_mut()
            .insert("idempotency-key", ascii(key.to_owned()));
    }
    request
}

/// Reads linearizably from the default database.
pub fn get(bucket: &str, key: &str) -> v1::GetRequest {
    v1::GetRequest {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        ..Default::default()
    }
}

/// Writes without a condition.
pub fn put(bucket: &str, key: &str, json: &str) -> v1::PutRequest {
    v1::PutRequest {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        json: json.to_owned().into(),
        ..Default::default()
    }
}

/// Deletes without a condition.
pub fn delete(bucket: &str, key: &str) -> v1::DeleteRequest {
    v1::DeleteRequest {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        ..Default::default()
    }
}

/// One put of a batch, without a condition.
pub fn batch_put(bucket: &str, key: &str, json: &str) -> v1::BatchWrite {
    let operation = Some(batch_write::Operation::Put(json.to_owned().into()));
    v1::BatchWrite {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        operation,
        ..Default::default()
    }
}

/// The condition that the stored version is this.
pub fn at_version(version: u64) -> Option<v1::Precondition> {
    Some(v1::Precondition {
        condition: Some(precondition::Condition::Version(version)),
    })
}

/// The condition that nothing is stored.
pub fn absent() -> Option<v1::Precondition> {
    Some(v1::Precondition {
        condition: Some(precondition::Condition::Absent(true)),
    })
}

/// Calls any path with an empty message.
///
/// # Errors
/// The call's.
///
/// # Panics
/// If there is no connection.
pub async fn call(origin: &str, path: &'static str) -> Result<(), Status> {
    let mut raw = tonic::client::Grpc::new(channel(origin));
    raw.ready().await.expect("a connection");
    let codec = tonic_prost::ProstCodec::<v1::GetRequest, v1::GetResponse>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = raw.unary(Request::new(v1::GetRequest::default()), path, codec);
    answer.await.map(|_| ())
}

/// Asserts that a call was refused with this code and the promise of no effect.
///
/// # Panics
/// If it was not.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, grpc: tonic::Code, code: &str) {
    let status = outcome.expect_err("a refusal");
    assert_eq!(status.code(), grpc, "{status:?}");
    let text = |name: &str| {
        status
            .metadata()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    assert_eq!(text("larder-code"), code, "{status:?}");
    assert_eq!(text("larder-effect"), "none", "{status:?}");
    assert!(!text("larder-request-id").is_empty(), "{status:?}");
    assert!(!status.message().is_empty(), "{status:?}");
}

/// Whether the request of a failed call has certainly not left this process: nobody listened, or the node closed the connection before the
/// library had put the request onto it.
pub fn was_not_sent(status: &Status) -> bool {
    let mut causes = successors(status.source(), |&cause| cause.source());
    causes.any(|cause| {
        let canceled = cause.downcast_ref().is_some_and(hyper::Error::is_canceled);
        canceled || cause.is::<tonic::ConnectError>()
    })
}

/// All pages of one scan, in the order in which they came, and the last continuation.
///
/// # Errors
/// The call's or the stream's.
pub async fn scan(
    documents: &mut Documents,
    request: Request<v1::ScanRequest>,
) -> Result<(Vec<v1::Document>, Vec<u8>), Status> {
    let mut stream = documents.scan(request).await?.into_inner();
    let (mut found, mut continuation) = (Vec::new(), Vec::new());
    while let Some(page) = stream.message().await? {
        found.extend(page.documents);
        continuation = page.continuation.into();
    }
    Ok((found, continuation))
}

/// All documents of a bucket that the caller may read, as JSON.
///
/// # Panics
/// If the scan fails, or a document is not JSON.
pub async fn scan_all(origin: &str, bucket: &str, token: Option<&str>) -> Vec<serde_json::Value> {
    let message = v1::ScanRequest {
        bucket: bucket.to_owned(),
        ..Default::default()
    };
    let (found, _) = scan(&mut documents(origin), request(message, token, None))
        .await
        .expect("scan");
    found
        .iter()
        .map(|document| serde_json::from_slice(&document.json).expect("documents are JSON"))
        .collect()
}
