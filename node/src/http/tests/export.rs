//! The export of a bucket.

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use super::harness::{Cluster, cluster};
use super::root_token;

async fn export(cluster: &Cluster, bucket: &str) -> Value {
    let token = format!("BAT {}", root_token(cluster).await);
    let path = format!("/v1/db/{bucket}");
    let headers = [("authorization", token.as_str())];
    let answer = cluster
        .send(Method::GET, &path, &headers, Body::empty())
        .await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.json()
}

#[tokio::test]
async fn an_export_is_every_document_as_it_is_served() {
    let cluster = cluster().await;
    assert_eq!(export(&cluster, "Demo").await, json!([]));
    let mut stored = Vec::new();
    // More than one page of the scan behind it.
    for n in 0..50 {
        let body = format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(15_000));
        let path = format!("/v1/db/Demo/{n:03}");
        let answer = cluster.send(Method::PUT, &path, &[], body).await;
        stored.push(answer.json());
    }
    let mut found = export(&cluster, "Demo").await;
    let found = found.as_array_mut().expect("array");
    found.sort_by_key(|document| document["n"].as_u64());
    assert!(*found == stored, "{} documents", found.len());
}

#[tokio::test]
async fn an_export_of_users_has_their_hidden_members() {
    let cluster = cluster().await;
    let users = export(&cluster, "User").await;
    assert_eq!(users[0]["username"], "root");
    assert!(
        users[0]["_password"]
            .as_str()
            .is_some_and(|hash| hash.starts_with("$argon2")),
        "{users}"
    );
}
