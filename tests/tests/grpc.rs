//! Promise: the same documents over gRPC, with the same rules, in one shard atomically, and as a stream.

use std::collections::BTreeSet;

use document::id::object_id;
use proto::v1;
use serde_json::{Value, json};
use tests::grpc::{self, Documents, request};
use tests::http::content;
use tests::{Checks, Cluster, Options};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[tokio::test]
async fn documents_over_grpc() {
    let cluster = Cluster::start(Options {
        shards: 16,
        ..Options::default()
    })
    .await;
    let mut checks = Checks::new();
    checks
        .check("get, put, delete", one_document(&cluster))
        .await;
    checks.check("preconditions", preconditions(&cluster)).await;
    checks.check("bad input", bad_input(&cluster)).await;
    checks
        .check("what HTTP wrote, gRPC reads, and back", with_http(&cluster))
        .await;
    checks
        .check("a batch of one shard is atomic", batch(&cluster))
        .await;
    checks
        .check("a batch over shards is refused", cross_shard(&cluster))
        .await;
    checks
        .check("a scan finds everything once", scan(&cluster))
        .await;
    checks.check("a scan in pages", pages(&cluster)).await;
    checks
        .check("a range of one shard in order of keys", range(&cluster))
        .await;
    checks.check("health", health(&cluster)).await;
    checks.check("reflection", reflection(&cluster)).await;
    checks.finish();
}

fn node(cluster: &Cluster, node: usize) -> Documents {
    grpc::documents(&cluster.nodes[node].client)
}

async fn put(documents: &mut Documents, key: &str, json: &str) -> v1::Document {
    let answer = documents
        .put(request(grpc::put("Demo", key, json), None, None))
        .await
        .expect("put");
    answer.into_inner().document.expect("a document")
}

async fn read(documents: &mut Documents, key: &str) -> Option<v1::Document> {
    match documents
        .get(request(grpc::get("Demo", key), None, None))
        .await
    {
        Ok(answer) => answer.into_inner().document,
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => panic!("{status:?}"),
    }
}

fn json_of(document: &v1::Document) -> Value {
    serde_json::from_slice(&document.json).expect("documents are JSON")
}

async fn one_document(cluster: &Cluster) {
    for asked in cluster.all() {
        let (mut here, mut there) = (node(cluster, asked), node(cluster, (asked + 1) % 3));
        let key = format!("one/{asked}");
        let written = put(&mut here, &key, "{\"a\":1}").await;
        assert_eq!(
            (
                written.bucket.as_str(),
                written.key.as_str(),
                written.version
            ),
            ("Demo", key.as_str(), 1)
        );
        let json = json_of(&written);
        assert_eq!(
            (&json["id"], &json["version"]),
            (&json!(object_id("Demo", &key)), &json!(1))
        );
        assert_eq!(content(&json), json!({ "a": 1 }));
        assert_eq!(read(&mut there, &key).await, Some(written));
        let delete = || request(grpc::delete("Demo", &key), None, None);
        assert!(
            there
                .delete(delete())
                .await
                .expect("delete")
                .into_inner()
                .existed
        );
        assert!(
            !here
                .delete(delete())
                .await
                .expect("delete")
                .into_inner()
                .existed
        );
        assert_eq!(read(&mut here, &key).await, None);
        assert_eq!(
            put(&mut here, &key, "{}").await.version,
            3,
            "versions go on after a delete"
        );
        let made = put(&mut here, "", "{}").await;
        assert!(
            made.key.len() >= 16,
            "the server makes a key: {:?}",
            made.key
        );
    }
}

async fn preconditions(cluster: &Cluster) {
    let mut documents = node(cluster, 0);
    let with = |precondition| {
        let message = v1::PutRequest {
            precondition,
            ..grpc::put("Demo", "conditions", "{}")
        };
        request(message, None, None)
    };
    let exists = || {
        Some(v1::Precondition {
            condition: Some(v1::precondition::Condition::Exists(true)),
        })
    };
    grpc::refused(
        documents.put(with(exists())).await,
        Code::FailedPrecondition,
        "object_out_of_date",
    );
    grpc::refused(
        documents.put(with(grpc::at_version(1))).await,
        Code::FailedPrecondition,
        "object_out_of_date",
    );
    documents
        .put(with(grpc::absent()))
        .await
        .expect("nothing is stored");
    grpc::refused(
        documents.put(with(grpc::absent())).await,
        Code::AlreadyExists,
        "object_exists",
    );
    documents
        .put(with(grpc::at_version(1)))
        .await
        .expect("version 1 is stored");
    documents
        .put(with(exists()))
        .await
        .expect("something is stored");
    let delete = v1::DeleteRequest {
        precondition: grpc::at_version(2),
        ..grpc::delete("Demo", "conditions")
    };
    grpc::refused(
        documents.delete(request(delete, None, None)).await,
        Code::FailedPrecondition,
        "object_out_of_date",
    );
    assert_eq!(
        read(&mut documents, "conditions")
            .await
            .map(|document| document.version),
        Some(3)
    );
}

async fn bad_input(cluster: &Cluster) {
    let mut documents = node(cluster, 1);
    for (bucket, key, json, code, name) in [
        ("Demo", "bad", "{", Code::InvalidArgument, "syntax_error"),
        ("Demo", "bad", "[]", Code::InvalidArgument, "syntax_error"),
        (
            "Demo",
            "bad",
            "{\"id\":\"/db/Demo/other\"}",
            Code::InvalidArgument,
            "bad_request",
        ),
        (
            "Demo",
            "bad",
            "{\"acl\":7}",
            Code::InvalidArgument,
            "bad_request",
        ),
        (
            "Demo",
            &"k".repeat(1025),
            "{}",
            Code::InvalidArgument,
            "key_too_long",
        ),
        ("NoBucket", "bad", "{}", Code::NotFound, "bucket_not_found"),
    ] {
        grpc::refused(
            documents
                .put(request(grpc::put(bucket, key, json), None, None))
                .await,
            code,
            name,
        );
    }
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1024 * 1024));
    let put = documents
        .put(request(grpc::put("Demo", "bad", &large), None, None))
        .await;
    grpc::refused(put, Code::ResourceExhausted, "body_too_large");
    // Past the limit of a message no handler sees it.
    let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(5 * 1024 * 1024));
    let put = documents
        .put(request(grpc::put("Demo", "bad", &huge), None, None))
        .await;
    grpc::refused(put, Code::ResourceExhausted, "body_too_large");
    for path in ["/larder.v1.Documents/Nope", "/larder.v9.Documents/Get"] {
        let outcome = grpc::call(&cluster.nodes[0].client, path).await;
        grpc::refused(outcome, Code::Unimplemented, "no_route");
    }
    let forged = documents
        .put(request(grpc::put("Demo", "bad", "{}"), Some("00"), None))
        .await;
    grpc::refused(forged, Code::Unauthenticated, "bad_credentials");
    let elsewhere = v1::PutRequest {
        database: "nodatabase".to_owned(),
        ..grpc::put("Demo", "bad", "{}")
    };
    grpc::refused(
        documents.put(request(elsewhere, None, None)).await,
        Code::NotFound,
        "bucket_not_found",
    );
    assert_eq!(read(&mut documents, "bad").await, None);
}

async fn with_http(cluster: &Cluster) {
    let (api, mut documents) = (cluster.api(2), node(cluster, 0));
    let path = object_id("Demo", "both");
    let over_http = api
        .put(&path)
        .json(&json!({ "n": 1.10, "t": "ü" }))
        .send()
        .await
        .expect(200);
    let over_grpc = read(&mut documents, "both").await.expect("stored");
    assert_eq!(over_grpc.json, over_http.body.to_vec(), "the same bytes");
    put(&mut documents, "both", "{\"n\":2}").await;
    let answer = api.get(&path).send().await.expect(200);
    assert_eq!(
        (answer.version(), content(&answer.json())),
        (2, json!({ "n": 2 }))
    );
    let local = v1::GetRequest {
        consistency: v1::Consistency::Local.into(),
        ..grpc::get("Demo", "both")
    };
    let local = documents
        .get(request(local, None, None))
        .await
        .expect("a local read");
    assert!(
        local
            .into_inner()
            .document
            .is_some_and(|document| document.version >= 1)
    );
}

async fn batch(cluster: &Cluster) {
    let mut documents = node(cluster, 0);
    let send = async |documents: &mut Documents, writes: Vec<v1::BatchWrite>| {
        documents
            .batch(request(
                v1::BatchRequest {
                    writes,
                    ..Default::default()
                },
                None,
                None,
            ))
            .await
    };
    let keys = ["cart{alice}", "order{alice}", "{alice}"];
    let writes = keys
        .iter()
        .map(|key| grpc::batch_put("Demo", key, "{\"n\":1}"))
        .collect();
    let answer = send(&mut documents, writes)
        .await
        .expect("one shard")
        .into_inner();
    assert_eq!(
        answer
            .documents
            .iter()
            .map(|document| document.version)
            .collect::<Vec<_>>(),
        [1, 1, 1]
    );
    assert_eq!(
        answer
            .documents
            .iter()
            .map(|document| document.key.as_str())
            .collect::<Vec<_>>(),
        keys
    );

    // One condition that does not hold refuses all.
    let mut writes: Vec<_> = keys
        .iter()
        .map(|key| grpc::batch_put("Demo", key, "{\"n\":2}"))
        .collect();
    writes[2].precondition = grpc::at_version(7);
    grpc::refused(
        send(&mut documents, writes.clone()).await,
        Code::FailedPrecondition,
        "object_out_of_date",
    );
    for (asked, key) in keys.iter().enumerate() {
        let stored = read(&mut node(cluster, asked), key).await.expect("stored");
        assert_eq!(
            (stored.version, content(&json_of(&stored))),
            (1, json!({ "n": 1 }))
        );
    }
    // Put and delete together, at another node.
    writes[2].precondition = grpc::at_version(1);
    writes[2].operation = Some(v1::batch_write::Operation::Delete(true));
    let answer = send(&mut node(cluster, 1), writes)
        .await
        .expect("all hold")
        .into_inner();
    assert_eq!(
        answer
            .documents
            .iter()
            .map(|document| document.version)
            .collect::<Vec<_>>(),
        [2, 2, 0]
    );
    assert_eq!(read(&mut documents, keys[2]).await, None);
    assert_eq!(
        read(&mut documents, keys[0])
            .await
            .map(|document| document.version),
        Some(2)
    );
}

async fn cross_shard(cluster: &Cluster) {
    let status = cluster.status(0).await;
    let first = status.shard_of("Demo", "cross-0");
    let other = (1..)
        .map(|number| format!("cross-{number}"))
        .find(|key| status.shard_of("Demo", key) != first);
    let other = other.expect("there are 16 shards");
    for asked in cluster.all() {
        let writes = vec![
            grpc::batch_put("Demo", "cross-0", "{}"),
            grpc::batch_put("Demo", &other, "{}"),
        ];
        let message = v1::BatchRequest {
            writes,
            ..Default::default()
        };
        let outcome = node(cluster, asked)
            .batch(request(message, None, None))
            .await;
        grpc::refused(outcome, Code::InvalidArgument, "cross_shard");
    }
    for key in ["cross-0", &other] {
        assert_eq!(read(&mut node(cluster, 0), key).await, None, "{key}");
    }
}

const SCANNED: usize = 300;

/// Documents that only scans use, so that their number is known. Made once.
async fn scanned(cluster: &Cluster) -> BTreeSet<String> {
    let root = cluster.root(0).await;
    let class = json!([{
        "class": "/db/Scanned", "superClass": "/db/Object", "fields": {}, "metadata": { "larder.open": "true" },
    }]);
    root.post("/schema").json(&class).send().await.expect(200);
    let keys: BTreeSet<String> = (0..SCANNED).map(|number| format!("key/{number}")).collect();
    if grpc::scan_all(&cluster.nodes[0].client, "Scanned", None)
        .await
        .len()
        != SCANNED
    {
        for key in &keys {
            root.put(&object_id("Scanned", key))
                .json(&json!({ "pad": "x".repeat(100) }))
                .send()
                .await
                .expect(200);
        }
    }
    keys
}

fn scan_request(limit: u64, continuation: Vec<u8>) -> v1::ScanRequest {
    let continuation = continuation.into();
    v1::ScanRequest {
        bucket: "Scanned".to_owned(),
        limit,
        continuation,
        ..Default::default()
    }
}

async fn scan(cluster: &Cluster) {
    let keys = scanned(cluster).await;
    for asked in cluster.all() {
        let message = request(scan_request(0, Vec::new()), None, None);
        let (found, continuation) = grpc::scan(&mut node(cluster, asked), message)
            .await
            .expect("scan");
        assert_eq!(found.len(), keys.len(), "none twice");
        assert_eq!(
            found
                .into_iter()
                .map(|document| document.key)
                .collect::<BTreeSet<_>>(),
            keys,
            "at node {asked}"
        );
        assert!(continuation.is_empty(), "nothing follows the last");
    }
    let missing = v1::ScanRequest {
        bucket: "NoBucket".to_owned(),
        ..Default::default()
    };
    let outcome = grpc::scan(&mut node(cluster, 0), request(missing, None, None)).await;
    grpc::refused(outcome, Code::NotFound, "bucket_not_found");
}

async fn pages(cluster: &Cluster) {
    let keys = scanned(cluster).await;
    let (mut found, mut continuation, mut calls) = (Vec::new(), Vec::new(), 0);
    loop {
        // A continuation is good at any node.
        let mut documents = node(cluster, calls % 3);
        let message = request(scan_request(7, continuation), None, None);
        let (page, next) = grpc::scan(&mut documents, message).await.expect("scan");
        assert!(page.len() <= 7, "{} documents, the limit is 7", page.len());
        found.extend(page.into_iter().map(|document| document.key));
        (continuation, calls) = (next, calls + 1);
        assert!(calls <= SCANNED, "pages lead in circles");
        if continuation.is_empty() {
            break;
        }
    }
    assert!(calls >= SCANNED / 7);
    assert_eq!(found.len(), keys.len(), "none twice");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), keys);
    let forged = request(scan_request(7, b"forged".to_vec()), None, None);
    grpc::refused(
        grpc::scan(&mut node(cluster, 0), forged).await,
        Code::InvalidArgument,
        "bad_request",
    );
}

async fn range(cluster: &Cluster) {
    let mut documents = node(cluster, 1);
    for number in 0..30 {
        put(&mut documents, &format!("{{range}}{number:03}"), "{}").await;
    }
    let message = v1::ScanRequest {
        bucket: "Demo".to_owned(),
        limit: 10,
        start_key: "{range}012".to_owned(),
        ..Default::default()
    };
    let (found, _) = grpc::scan(&mut node(cluster, 2), request(message, None, None))
        .await
        .expect("scan");
    let keys: Vec<String> = found.into_iter().map(|document| document.key).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    let mine: Vec<&String> = keys
        .iter()
        .filter(|key| key.starts_with("{range}"))
        .collect();
    assert_eq!(
        keys.first().map(String::as_str),
        Some("{range}012"),
        "{keys:?}"
    );
    assert_eq!(mine.len(), 10, "nothing sorts between them: {keys:?}");
}

async fn health(cluster: &Cluster) {
    for asked in cluster.all() {
        let mut client = HealthClient::new(grpc::channel(&cluster.nodes[asked].client));
        for service in ["", "larder.v1.Documents"] {
            let message = tonic_health::pb::HealthCheckRequest {
                service: service.to_owned(),
            };
            let answer = client
                .check(message)
                .await
                .expect("a known service")
                .into_inner();
            assert_eq!(
                answer.status(),
                ServingStatus::Serving,
                "{service:?} at node {asked}"
            );
        }
        let unknown = tonic_health::pb::HealthCheckRequest {
            service: "no.Such".to_owned(),
        };
        assert_eq!(
            client.check(unknown).await.expect_err("unknown").code(),
            Code::NotFound
        );
    }
}

async fn reflection(cluster: &Cluster) {
    let mut client = ServerReflectionClient::new(grpc::channel(&cluster.nodes[0].client));
    let question = |message| tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let list = question(MessageRequest::ListServices(String::new()));
    let file = question(MessageRequest::FileContainingSymbol(
        "larder.v1.Documents".to_owned(),
    ));
    let asked = tokio_stream::iter([list, file]);
    let mut answers = client
        .server_reflection_info(asked)
        .await
        .expect("reflection")
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers
        .message()
        .await
        .expect("list")
        .and_then(|answer| answer.message_response)
    else {
        panic!("no list of services");
    };
    let names: Vec<&str> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(names.contains(&"larder.v1.Documents"), "{names:?}");
    assert!(
        !names.iter().any(|name| name.contains("peer")),
        "the peer protocol is not offered to clients: {names:?}"
    );
    let described = answers
        .message()
        .await
        .expect("file")
        .and_then(|answer| answer.message_response);
    assert!(
        matches!(described, Some(MessageResponse::FileDescriptorResponse(_))),
        "{described:?}"
    );
}
