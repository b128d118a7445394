//! The admin port as a whole.

use std::sync::Arc;

use axum::body::Body;
use futures::future::{BoxFuture, FutureExt, ready};
use http::Method;
use metrics_exporter_prometheus::PrometheusBuilder;
use proto::{NodeId, ShardId};
use serde_json::{Value, json};
use service::Error;

use super::harness::{Answer, Cluster, unfounded};
use crate::audit::Log;
use crate::http::{Limits, NodeInfo, admin::ShardControl, admin_app};

/// Answers what it was asked for.
struct Echo;

impl ShardControl for Echo {
    fn snapshot(&self, shard: ShardId, purge: bool) -> BoxFuture<'_, Result<u64, Error>> {
        ready(Ok(u64::from(shard.0) * 10 + u64::from(purge))).boxed()
    }

    fn transfer(&self, shard: ShardId, _: NodeId) -> BoxFuture<'_, Result<(), Error>> {
        let known = shard.0 < 3;
        ready(if known {
            Ok(())
        } else {
            Err(Error::unavailable("not the leader"))
        })
        .boxed()
    }
}

/// A node without a cluster, behind its admin port.
fn admin() -> Cluster {
    let (service, mut cluster) = unfounded(Limits::default());
    let dir = tempfile::tempdir().expect("a folder");
    let audit = Arc::new(Log::open(dir.path()).expect("an audit log"));
    let node = NodeInfo {
        id: NodeId(1).to_string(),
        name: "n1".into(),
        version: "1".into(),
        client: "127.0.0.1:7400".into(),
        peer: "127.0.0.1:7401".into(),
        admin: "127.0.0.1:7402".into(),
        zone: String::new(),
    };
    let recorder = PrometheusBuilder::new().build_recorder();
    cluster.app = admin_app(
        service,
        recorder.handle(),
        node,
        Arc::new(Echo),
        crate::config::Secret::Absent,
        audit,
        None,
    );
    cluster
}

async fn post(admin: &Cluster, path: &str, body: Value) -> Answer {
    admin.send(Method::POST, path, &[], body.to_string()).await
}

#[tokio::test]
async fn founding_shows_the_password_once() {
    let admin = admin();
    assert_eq!(
        admin.get("/admin/v1/cluster/status").await.json()["health"],
        "uninitialized"
    );
    assert_eq!(
        admin.get("/admin/v1/node").await.json()["clusterId"],
        Value::Null
    );

    for refused in [
        json!({ "shards": 3 }),
        json!({ "shards": "2" }),
        json!({ "nodes": 1 }),
    ] {
        let answer = post(&admin, "/admin/v1/cluster/init", refused.clone()).await;
        assert!(
            answer.status.is_client_error(),
            "{refused}: {:?}",
            answer.body
        );
    }
    let request =
        json!({ "shards": 2, "replicas": null, "rootPassword": "a long secret", "demo": false });
    let founded = post(&admin, "/admin/v1/cluster/init", request.clone()).await;
    assert_eq!(founded.status, 200, "{:?}", founded.body);
    assert_eq!(founded.header("cache-control"), Some("no-store"));
    let body = founded.json();
    assert_eq!(
        (&body["created"], body.get("rootPassword")),
        (&json!(true), None)
    );
    let again = post(&admin, "/admin/v1/cluster/init", request).await.json();
    assert_eq!(
        again,
        json!({ "clusterId": body["clusterId"], "created": false })
    );

    let status = admin.get("/admin/v1/cluster/status").await.json();
    assert_eq!(
        (&status["health"], &status["shardCount"]),
        (&json!("healthy"), &json!(2))
    );
    assert_eq!(status["shards"].as_array().map(Vec::len), Some(3));
    let node = admin.get("/admin/v1/node").await.json();
    assert_eq!(
        (&node["clusterId"], &node["name"], &node["zone"]),
        (&body["clusterId"], &json!("n1"), &json!(""))
    );
}

#[tokio::test]
async fn shards_are_addressed_by_number() {
    let admin = admin();
    assert_eq!(
        post(&admin, "/admin/v1/shards/2/snapshot", json!({}))
            .await
            .json(),
        json!({ "index": 20 })
    );
    assert_eq!(
        post(&admin, "/admin/v1/shards/2/snapshot?purge=true", json!({}))
            .await
            .json(),
        json!({ "index": 21 })
    );
    let moved = post(
        &admin,
        "/admin/v1/shards/1/transfer?to=00000000000000ff",
        json!({}),
    )
    .await;
    assert_eq!(
        moved.json(),
        json!({ "shard": 1, "to": "00000000000000ff" })
    );
    for (path, status) in [
        ("/admin/v1/shards/x/snapshot", 400),
        ("/admin/v1/shards/1/snapshot?purge=yes", 400),
        ("/admin/v1/shards/1/transfer", 400),
        ("/admin/v1/shards/1/transfer?to=n1", 400),
        ("/admin/v1/shards/9/transfer?to=1", 503),
        ("/admin/v1/shards/1/split", 404),
        ("/admin/v1/node", 405),
    ] {
        let answer = post(&admin, path, json!({})).await;
        assert_eq!(answer.status, status, "{path}: {:?}", answer.body);
        assert_eq!(answer.header("larder-effect"), Some("none"), "{path}");
    }
}

#[tokio::test]
async fn metrics_are_text_and_foreign_pages_get_nothing() {
    let admin = admin();
    let metrics = admin.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(
        metrics
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/plain"))
    );
    let foreign = [
        ("host", "127.0.0.1:7402"),
        ("origin", "http://evil.example"),
    ];
    let answer = admin
        .send(
            Method::POST,
            "/admin/v1/cluster/init",
            &foreign,
            Body::from("{}"),
        )
        .await;
    assert_eq!(answer.status, 466);
}
