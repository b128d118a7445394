//! Import and truncation of a bucket.

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Cluster, cluster};
use super::root_token;

async fn as_root(cluster: &Cluster, method: Method, path: &str, body: impl Into<Body>) -> Answer {
    let token = format!("BAT {}", root_token(cluster).await);
    let headers = [("authorization", token.as_str())];
    cluster.send(method, path, &headers, body.into()).await
}

fn sorted(mut documents: Value) -> Vec<Value> {
    let documents = documents.as_array_mut().expect("array");
    documents.sort_by_key(|document| document["id"].to_string());
    documents.clone()
}

#[tokio::test]
async fn an_export_can_be_imported_again() {
    let cluster = cluster().await;
    // More than one page.
    let all: Vec<Value> = (0..1_200)
        .map(|n| json!({"id": format!("/db/Demo/{n:04}"), "n": n, "text": "x".repeat(1_000)}))
        .collect();
    let body = serde_json::to_vec(&all).expect("JSON");
    // Cut where it suits nobody.
    let pieces: Vec<_> = body
        .chunks(777)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
        .collect();
    let pieces = Body::from_stream(stream::iter(pieces));
    let answer = as_root(&cluster, Method::PUT, "/v1/db/Demo", pieces).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let done = json!({"imported": 1_200, "failed": 0, "failures": []});
    assert_eq!(answer.json(), done);

    let exported = as_root(&cluster, Method::GET, "/v1/db/Demo", Body::empty()).await;
    let first = sorted(exported.json());
    assert_eq!(first.len(), 1_200);
    assert_eq!(first[7]["n"], 7);
    let again = as_root(&cluster, Method::PUT, "/v1/db/Demo", exported.body).await;
    assert_eq!(again.json(), done);
    let second = as_root(&cluster, Method::GET, "/v1/db/Demo", Body::empty()).await;
    let second = sorted(second.json());
    assert_eq!(second.len(), 1_200, "replaced, not doubled");
    assert_eq!(second[7]["version"], 2);
    assert_eq!(second[7]["n"], 7);
}

#[tokio::test]
async fn users_keep_their_passwords_over_export_and_import() {
    let cluster = cluster().await;
    let exported = as_root(&cluster, Method::GET, "/v1/db/User", Body::empty()).await;
    let before = exported.json();
    let imported = as_root(&cluster, Method::PUT, "/v1/db/User", exported.body).await;
    assert_eq!(imported.json()["imported"], 1, "{:?}", imported.body);
    let after = as_root(&cluster, Method::GET, "/v1/db/User", Body::empty()).await;
    assert_eq!(after.json()[0]["_password"], before[0]["_password"]);
    assert_eq!(after.json()[0]["version"], 2);
}

#[tokio::test]
async fn documents_that_cannot_be_imported_are_named_and_spoil_no_others() {
    let cluster = cluster().await;
    let body = r#"[{"id":"/db/Demo/a"},{"n":1},{"id":"/db/Other/b"},7,{"id":"/db/Demo/c"}]"#;
    let answer = as_root(&cluster, Method::PUT, "/v1/db/Demo", body).await;
    assert_eq!(answer.status, 200);
    let report = answer.json();
    assert_eq!(
        (&report["imported"], &report["failed"]),
        (&json!(2), &json!(3))
    );
    let failures = report["failures"].as_array().expect("array");
    let positions: Vec<_> = failures
        .iter()
        .map(|failure| &failure["position"])
        .collect();
    assert_eq!(positions, [1, 2, 3]);
    assert!(failures.iter().all(|failure| failure["effect"] == "none"));
    for key in ["a", "c"] {
        let path = format!("/v1/db/Demo/{key}");
        let found = cluster.send(Method::GET, &path, &[], Body::empty()).await;
        assert_eq!(found.status, 200, "{key}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_says_what_it_did() {
    let cluster = cluster().await;
    let whole = as_root(
        &cluster,
        Method::PUT,
        "/v1/db/Demo",
        r#"[{"id":"/db/Demo/a"}"#,
    )
    .await;
    assert_eq!(whole.status, 471);
    assert_eq!(whole.json()["effect"], "none");
    let mut long = String::from("[");
    for n in 0..600 {
        long.push_str(&format!(r#"{{"id":"/db/Demo/{n}"}},"#));
    }
    let long = as_root(&cluster, Method::PUT, "/v1/db/Demo", long).await;
    assert_eq!(long.status, 471);
    let error = long.json();
    assert_eq!(error["effect"], "applied");
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("500 documents"), "{message}");
}

#[tokio::test]
async fn a_truncated_bucket_is_empty_and_its_versions_go_on() {
    let cluster = cluster().await;
    let all: Vec<Value> = (0..1_100)
        .map(|n| json!({"id": format!("/db/Demo/{n}")}))
        .collect();
    let all = serde_json::to_vec(&all).expect("JSON");
    as_root(&cluster, Method::PUT, "/v1/db/Demo", all).await;
    let truncated = as_root(&cluster, Method::DELETE, "/v1/db/Demo", Body::empty()).await;
    assert_eq!(truncated.status, 200, "{:?}", truncated.body);
    assert_eq!(
        truncated.json(),
        json!({"bucket": "/db/Demo", "deleted": 1_100})
    );
    let left = as_root(&cluster, Method::GET, "/v1/db/Demo", Body::empty()).await;
    assert_eq!(left.json(), json!([]));
    let again = cluster.send(Method::PUT, "/v1/db/Demo/7", &[], "{}").await;
    assert_eq!(again.json()["version"], 3);
    let users = as_root(&cluster, Method::DELETE, "/v1/db/User", Body::empty()).await;
    assert_eq!(users.json()["deleted"], 0, "the predefined stay");
}

#[tokio::test]
async fn a_bucket_is_truncated_in_parts() {
    let cluster = cluster().await;
    let all: Vec<Value> = (0..2_500)
        .map(|n| json!({"id": format!("/db/Demo/{n}")}))
        .collect();
    let all = serde_json::to_vec(&all).expect("JSON");
    as_root(&cluster, Method::PUT, "/v1/db/Demo", all).await;
    let (mut deleted, mut parts, mut after) = (0, 0, String::new());
    loop {
        let path = format!("/v1/db/Demo?count=1{after}");
        let part = as_root(&cluster, Method::DELETE, &path, Body::empty()).await;
        assert_eq!(part.status, 200, "{:?}", part.body);
        deleted += part.json()["deleted"].as_u64().expect("a number");
        parts += 1;
        let Some(token) = part.headers.get("larder-continuation") else {
            break;
        };
        after = format!("&after={}", token.to_str().expect("text"));
    }
    assert_eq!(deleted, 2_500);
    assert!(parts >= 3, "{parts}");
    for bad in ["count=some", "count=-2", "after=!", "after=AAAA"] {
        let path = format!("/v1/db/Demo?{bad}");
        let refused = as_root(&cluster, Method::DELETE, &path, Body::empty()).await;
        assert_eq!(refused.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn only_admins_write_whole_buckets() {
    let cluster = cluster().await;
    for method in [Method::PUT, Method::DELETE] {
        let answer = cluster.send(method, "/v1/db/Demo", &[], "[]").await;
        assert_eq!(answer.status, 466);
    }
    let unknown = as_root(&cluster, Method::PUT, "/v1/db/Nowhere", "[]").await;
    assert_eq!(unknown.status, 461);
}
