//! Documents that expire: when they go, what keeps them, and what is refused.

use std::time::Duration;

use proto::{ErrorCode, NodeId, ShardId};
use serde_json::json as value;

use super::{body, json, put};
use crate::query::QueryRequest;
use crate::testing::{SHARDS, START_US, TestCluster, anonymous, keyed};
use crate::{Condition, Consistency, Limits, Service};

/// The moment so many seconds after the test clock's start, as JSON text.
fn after(seconds: u64) -> String {
    let us = i64::try_from(START_US + seconds * 1_000_000).expect("in range");
    document::time::format_datetime(us)
}

fn expiring(seconds: u64) -> String {
    format!(r#"{{"n":1,"expiresAt":"{}"}}"#, after(seconds))
}

/// One look of the job at every shard, by this node.
async fn sweep(service: &Service) {
    let job = service.jobs().expiry;
    for shard in 1..=SHARDS {
        job.sweep(ShardId(shard)).await.expect("swept");
    }
}

async fn is_there(cluster: &TestCluster, key: &str) -> bool {
    let got = cluster
        .service
        .get(&anonymous(), "Demo", key, Consistency::Linearizable)
        .await;
    match got {
        Ok(_) => true,
        Err(error) if error.code == ErrorCode::ObjectNotFound => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_document_goes_when_it_is_due_and_is_there_until_then() {
    let cluster = TestCluster::start().await;
    let ctx = anonymous();
    let made = put(&cluster, &ctx, "k", &expiring(60), Condition::Absent)
        .await
        .expect("inserted");
    assert_eq!(json(&made.document.body)["expiresAt"], after(60));
    put(&cluster, &ctx, "stays", "{}", Condition::Absent)
        .await
        .expect("inserted");
    cluster.clock.advance(Duration::from_millis(59_999));
    sweep(&cluster.service).await;
    assert!(is_there(&cluster, "k").await);
    // Due, and not swept yet: there for every reader and writer.
    cluster.clock.advance(Duration::from_millis(1));
    assert!(is_there(&cluster, "k").await);
    let taken = put(&cluster, &ctx, "k", "{}", Condition::Absent).await;
    assert_eq!(
        taken.map_err(|error| error.code),
        Err(ErrorCode::ObjectExists)
    );
    let counted = cluster
        .service
        .count(&ctx, "Demo", QueryRequest::default())
        .await;
    assert_eq!(counted.expect("counted").count, 2);
    sweep(&cluster.service).await;
    assert!(!is_there(&cluster, "k").await);
    assert!(is_there(&cluster, "stays").await);
    // The tombstone has taken version 2.
    let again = put(&cluster, &ctx, "k", "{}", Condition::Absent)
        .await
        .expect("free again");
    assert_eq!(again.document.version, 3);
    assert_eq!(json(&again.document.body).get("expiresAt"), None);
}

#[tokio::test]
async fn what_says_nothing_keeps_the_expiry_and_null_ends_it() {
    let cluster = TestCluster::start().await;
    let (ctx, service) = (anonymous(), &cluster.service);
    for key in ["put", "set", "null", "moved", "inc"] {
        put(&cluster, &ctx, key, &expiring(60), Condition::Absent)
            .await
            .expect("inserted");
    }
    let kept = put(&cluster, &ctx, "put", r#"{"n":2}"#, Condition::Exists)
        .await
        .expect("replaced");
    assert_eq!(
        json(&kept.document.body)["expiresAt"],
        value!(after(60)),
        "{kept:?}"
    );
    let update = |key: &'static str, text: String| {
        let ctx = &ctx;
        async move {
            let updated = service
                .update(ctx, "Demo", key, body(&text), Condition::None)
                .await;
            json(&updated.expect("updated").body)["expiresAt"].clone()
        }
    };
    let inc = update("inc", r#"{"$inc":{"n":1}}"#.to_owned()).await;
    assert_eq!(inc, after(60));
    let moved = format!(r#"{{"$set":{{"expiresAt":"{}"}}}}"#, after(120));
    assert_eq!(update("moved", moved).await, after(120));
    let ended = update("set", r#"{"$set":{"expiresAt":null}}"#.to_owned()).await;
    assert_eq!(ended, value!(null));
    put(
        &cluster,
        &ctx,
        "null",
        r#"{"expiresAt":null}"#,
        Condition::None,
    )
    .await
    .expect("replaced");
    cluster.clock.advance(Duration::from_secs(61));
    sweep(service).await;
    for (key, stays) in [
        ("put", false),
        ("inc", false),
        ("moved", true),
        ("set", true),
        ("null", true),
    ] {
        assert_eq!(is_there(&cluster, key).await, stays, "{key}");
    }
    cluster.clock.advance(Duration::from_secs(60));
    sweep(service).await;
    assert!(!is_there(&cluster, "moved").await);
}

#[tokio::test]
async fn a_repeated_put_shows_the_expiry_that_it_asked_for() {
    let cluster = TestCluster::start().await;
    let ctx = keyed(&anonymous(), "key");
    let first = put(&cluster, &ctx, "k", &expiring(60), Condition::None)
        .await
        .expect("inserted");
    put(&cluster, &anonymous(), "k", r#"{"n":2}"#, Condition::None)
        .await
        .expect("replaced");
    let again = put(&cluster, &ctx, "k", &expiring(60), Condition::None)
        .await
        .expect("repeated");
    assert_eq!(json(&again.document.body), json(&first.document.body));
}

#[tokio::test]
async fn expiry_can_be_asked_about() {
    let cluster = TestCluster::start().await;
    let ctx = anonymous();
    for (key, text) in [
        ("a", expiring(60)),
        ("b", expiring(30)),
        ("c", "{}".to_owned()),
    ] {
        put(&cluster, &ctx, key, &text, Condition::Absent)
            .await
            .expect("inserted");
    }
    let filter = format!(r#"{{"expiresAt":{{"$gt":{{"$date":"{}"}}}}}}"#, after(40));
    for (filter, sort, keys) in [
        (filter, "", vec!["a"]),
        (r#"{"expiresAt":null}"#.to_owned(), "", vec!["c"]),
        (String::new(), r#"{"expiresAt":-1}"#, vec!["a", "b", "c"]),
    ] {
        let request = QueryRequest {
            filter: body(&filter),
            sort: body(sort),
            ..QueryRequest::default()
        };
        let page = cluster.service.query(&ctx, "Demo", request).await;
        let found = page.expect("found").documents;
        let found: Vec<&str> = found.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(found, keys, "{filter} {sort}");
    }
}

#[tokio::test]
async fn bad_expiries_are_refused_and_nothing_happens() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    for text in [r#""soon""#, "1", "true", r#"{"$date":"2026-01-01"}"#] {
        let sent = format!(r#"{{"expiresAt":{text}}}"#);
        let refused = put(&cluster, &root, "k", &sent, Condition::None).await;
        assert_eq!(
            refused.map_err(|error| error.code),
            Err(ErrorCode::InvalidTypeValue),
            "{text}"
        );
    }
    assert!(!is_there(&cluster, "k").await);
    put(&cluster, &root, "k", "{}", Condition::Absent)
        .await
        .expect("inserted");
    for (text, code) in [
        (
            r#"{"$set":{"expiresAt":"soon"}}"#,
            ErrorCode::InvalidTypeValue,
        ),
        (r#"{"$inc":{"expiresAt":1}}"#, ErrorCode::BadRequest),
        (
            r#"{"$currentDate":{"expiresAt":null}}"#,
            ErrorCode::BadRequest,
        ),
        (r#"{"$set":{"expiresAt.x":1}}"#, ErrorCode::BadRequest),
        (r#"{"$rename":{"n":"expiresAt"}}"#, ErrorCode::BadRequest),
    ] {
        let refused = service
            .update(&root, "Demo", "k", body(text), Condition::None)
            .await;
        assert_eq!(refused.map_err(|error| error.code), Err(code), "{text}");
    }
    // Root and the roles stay.
    for (bucket, key) in [("User", "1"), ("Role", "1")] {
        let set = format!(r#"{{"$set":{{"expiresAt":"{}"}}}}"#, after(60));
        let refused = [
            service
                .put(
                    &root,
                    bucket,
                    Some(key),
                    body(&expiring(60)),
                    Condition::Exists,
                )
                .await
                .map(|_| ()),
            service
                .update(&root, bucket, key, body(&set), Condition::None)
                .await
                .map(|_| ()),
        ];
        for refused in refused {
            assert_eq!(
                refused.map_err(|error| error.code),
                Err(ErrorCode::BadRequest),
                "{bucket}"
            );
        }
    }
}

#[tokio::test]
async fn a_class_with_a_field_of_the_name_has_no_expiry() {
    let cluster = TestCluster::start().await;
    cluster
        .add_class(r#"[{"class":"/db/Coupon","fields":{"expiresAt":{"name":"expiresAt","type":"/db/DateTime"}}}]"#)
        .await;
    let (service, ctx) = (&cluster.service, anonymous());
    let text = format!(r#"{{"expiresAt":"{}"}}"#, after(1));
    service
        .put(&ctx, "Coupon", Some("k"), body(&text), Condition::Absent)
        .await
        .expect("inserted");
    cluster.clock.advance(Duration::from_secs(60));
    sweep(service).await;
    let update = body(r#"{"$currentDate":{"expiresAt":null}}"#);
    let updated = service
        .update(&ctx, "Coupon", "k", update, Condition::None)
        .await;
    assert_eq!(json(&updated.expect("there").body)["expiresAt"], after(60));
}

#[tokio::test]
async fn a_new_leader_lets_documents_live_a_little_longer_and_never_shorter() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let ctx = anonymous();
    put(&cluster, &ctx, "k", &expiring(100), Condition::Absent)
        .await
        .expect("inserted");
    let seconds = |seconds| Duration::from_secs(seconds);
    // While documents wait, the job puts T into the log every 10 s: of the 95 s at most the last ones are lost.
    for _ in 0..95 {
        cluster.clock.advance(seconds(1));
        sweep(&cluster.service).await;
    }
    cluster.world.elect_everywhere(NodeId(2));
    sweep(cluster.node(2)).await;
    cluster.clock.advance(seconds(4));
    sweep(cluster.node(2)).await;
    assert!(is_there(&cluster, "k").await);
    cluster.clock.advance(seconds(11));
    sweep(cluster.node(2)).await;
    assert!(!is_there(&cluster, "k").await);
}
