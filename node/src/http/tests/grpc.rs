//! gRPC on the client port.

use bytes::Bytes;
use http::Method;
use proto::v1;
use proto::v1::documents_client::DocumentsClient;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::harness::{cluster, unfounded};
use crate::http::Limits;

fn put(
    key: &str,
    json: &'static str,
    condition: Option<v1::precondition::Condition>,
) -> v1::PutRequest {
    v1::PutRequest {
        bucket: "Demo".into(),
        key: key.into(),
        json: Bytes::from_static(json.as_bytes()),
        precondition: Some(v1::Precondition { condition }),
        ..v1::PutRequest::default()
    }
}

#[tokio::test]
async fn grpc_shares_the_port_and_the_documents() {
    let cluster = cluster().await;
    let mut client = DocumentsClient::new(cluster.app.clone());
    let put_response = client
        .put(put("a", r#"{"name":"x"}"#, None))
        .await
        .expect("put")
        .into_inner();
    let document = put_response.document.expect("document");
    assert_eq!((document.version, document.key.as_str()), (1, "a"));
    assert_eq!(cluster.get("/db/Demo/a").await.body, document.json);

    let get = v1::GetRequest {
        bucket: "Demo".into(),
        key: "a".into(),
        ..v1::GetRequest::default()
    };
    assert_eq!(
        client.get(get).await.expect("get").into_inner().document,
        Some(document)
    );

    let stale = put("a", "{}", Some(v1::precondition::Condition::Version(7)));
    let status = client.put(stale).await.expect_err("stale");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.metadata().get("larder-code").expect("code"),
        "object_out_of_date"
    );
    assert_eq!(
        status.metadata().get("larder-effect").expect("effect"),
        "none"
    );
    assert!(status.metadata().contains_key("larder-request-id"));

    client.put(put("b", "{}", None)).await.expect("put");
    let scan = v1::ScanRequest {
        bucket: "Demo".into(),
        ..v1::ScanRequest::default()
    };
    let mut stream = client.scan(scan.clone()).await.expect("scan").into_inner();
    let mut keys = Vec::new();
    while let Some(page) = stream.message().await.expect("page") {
        keys.extend(page.documents.into_iter().map(|document| document.key));
    }
    keys.sort();
    assert_eq!(keys, ["a", "b"]);
    let mut limited = client
        .scan(v1::ScanRequest { limit: 1, ..scan })
        .await
        .expect("scan")
        .into_inner();
    let page = limited.message().await.expect("page").expect("first");
    assert_eq!(page.documents.len(), 1);
    assert!(!page.continuation.is_empty());
    assert!(limited.message().await.expect("end").is_none());

    let delete = v1::DeleteRequest {
        bucket: "Demo".into(),
        key: "a".into(),
        ..v1::DeleteRequest::default()
    };
    assert!(
        client
            .delete(delete.clone())
            .await
            .expect("delete")
            .into_inner()
            .existed
    );
    assert!(
        !client
            .delete(delete)
            .await
            .expect("delete")
            .into_inner()
            .existed
    );
}

#[tokio::test]
async fn grpc_batches_need_one_shard() {
    let cluster = cluster().await;
    let mut client = DocumentsClient::new(cluster.app.clone());
    let write = |key: &str| v1::BatchWrite {
        bucket: "Demo".into(),
        key: key.into(),
        precondition: None,
        operation: Some(v1::batch_write::Operation::Put(Bytes::from_static(b"{}"))),
    };
    let together = v1::BatchRequest {
        writes: vec![write("{t}1"), write("{t}2")],
        ..v1::BatchRequest::default()
    };
    assert_eq!(
        client
            .batch(together)
            .await
            .expect("batch")
            .into_inner()
            .documents
            .len(),
        2
    );
    let apart = v1::BatchRequest {
        writes: (0..20).map(|n| write(&n.to_string())).collect(),
        ..v1::BatchRequest::default()
    };
    let status = client.batch(apart).await.expect_err("cross shard");
    assert_eq!(
        status.metadata().get("larder-code").expect("code"),
        "cross_shard"
    );
}

#[tokio::test]
async fn grpc_batches_that_are_not_atomic_tell_of_each_write() {
    use v1::batch_result::Result::{Document, Error};
    let cluster = cluster().await;
    let mut client = DocumentsClient::new(cluster.app.clone());
    let write = |key: &str, operation, condition| v1::BatchWrite {
        bucket: "Demo".into(),
        key: key.into(),
        precondition: Some(v1::Precondition { condition }),
        operation: Some(operation),
    };
    let put = || v1::batch_write::Operation::Put(Bytes::from_static(b"{}"));
    let absent = || Some(v1::precondition::Condition::Absent(true));
    let mut writes: Vec<_> = (0..20)
        .map(|n| write(&n.to_string(), put(), None))
        .collect();
    writes.push(write("3", put(), absent()));
    writes.push(write("4", v1::batch_write::Operation::Delete(true), None));
    let request = v1::BatchRequest {
        writes,
        atomic: Some(false),
        ..v1::BatchRequest::default()
    };
    let answer = client.batch(request).await.expect("batch").into_inner();
    assert!(answer.documents.is_empty());
    assert_eq!(answer.results.len(), 22);
    for (n, one) in answer.results.iter().enumerate() {
        match &one.result {
            Some(Document(document)) => {
                assert_eq!(document.version, u64::from(n < 20), "{n}");
                assert!(!one.position.is_empty());
            }
            Some(Error(error)) => {
                assert_eq!(n, 20);
                assert_eq!(
                    (error.code.as_str(), error.effect.as_str()),
                    ("object_exists", "none")
                );
                assert_eq!(error.status, Code::AlreadyExists as u32);
                assert!(error.message.contains("/db/Demo/3"));
            }
            None => panic!("no result for write {n}"),
        }
    }
}

#[tokio::test]
async fn grpc_health_follows_readiness() {
    let serving = |app: axum::Router| async move {
        let request = HealthCheckRequest {
            service: "larder.v1.Documents".into(),
        };
        HealthClient::new(app)
            .check(request)
            .await
            .expect("check")
            .into_inner()
            .status()
    };
    let founded = cluster().await;
    assert_eq!(serving(founded.app.clone()).await, ServingStatus::Serving);
    let (_, node) = unfounded(Limits::default());
    assert_eq!(serving(node.app.clone()).await, ServingStatus::NotServing);
}

/// What tonic refuses before a handler runs has the form of every refusal.
#[tokio::test]
async fn grpc_refusals_of_the_library_have_our_form() {
    let cluster = cluster().await;
    let get = "/larder.v1.Documents/Get";
    let frame = |flag: u8, announced: u32, bytes: &[u8]| {
        [&[flag][..], &announced.to_be_bytes(), bytes].concat()
    };
    for (path, encoding, body, grpc, code) in [
        (
            "/larder.v1.Documents/Nope",
            "identity",
            frame(0, 0, b""),
            Code::Unimplemented,
            "no_route",
        ),
        (
            "/larder.v9.Documents/Get",
            "identity",
            frame(0, 0, b""),
            Code::Unimplemented,
            "no_route",
        ),
        (
            get,
            "identity",
            frame(0, 2, b"\xff\xff"),
            Code::InvalidArgument,
            "syntax_error",
        ),
        (
            get,
            "identity",
            Vec::new(),
            Code::InvalidArgument,
            "syntax_error",
        ),
        (
            get,
            "identity",
            frame(9, 0, b""),
            Code::InvalidArgument,
            "syntax_error",
        ),
        (
            get,
            "identity",
            frame(0, 64 << 20, b""),
            Code::ResourceExhausted,
            "body_too_large",
        ),
        (
            get,
            "gzip",
            frame(1, 0, b""),
            Code::Unimplemented,
            "query_not_supported",
        ),
    ] {
        let headers = [
            ("content-type", "application/grpc"),
            ("grpc-encoding", encoding),
            ("x-request-id", "r-7"),
        ];
        let what = format!("{path} {encoding} {body:?}");
        let answer = cluster.send(Method::POST, path, &headers, body).await;
        assert_eq!(answer.status, 200, "{what}");
        let status = Status::from_header_map(&answer.headers).expect("a status");
        assert_eq!(status.code(), grpc, "{what}: {status:?}");
        assert!(!status.message().is_empty(), "{what}: {status:?}");
        for (name, value) in [
            ("larder-code", code),
            ("larder-effect", "none"),
            ("larder-request-id", "r-7"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{what}: {status:?}");
        }
    }
    let unknown = HealthClient::new(cluster.app.clone())
        .check(HealthCheckRequest {
            service: "nope".into(),
        })
        .await
        .expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.metadata().get("larder-code").is_some());
}
