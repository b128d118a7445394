//! A repeated request under an idempotency key takes effect once (design, section 7).

use std::time::Duration;

use proto::ErrorCode;

use super::{body, json, put};
use crate::testing::{SHARDS, TestCluster, anonymous, keyed};
use crate::{BatchOperation, BatchWrite, Condition, Consistency, Limits};

#[tokio::test]
async fn a_repetition_is_told_what_happened() {
    let cluster = TestCluster::start().await;
    let ctx = keyed(&anonymous(), "key");
    let first = put(&cluster, &ctx, "k", r#"{"n":1}"#, Condition::Absent)
        .await
        .expect("inserted");
    let again = put(&cluster, &ctx, "k", r#"{"n":1}"#, Condition::Absent)
        .await
        .expect("repeated");
    assert_eq!(first, again);
    // Also after others went on.
    put(
        &cluster,
        &anonymous(),
        "k",
        r#"{"n":2}"#,
        Condition::Version(1),
    )
    .await
    .expect("replaced");
    let later = put(&cluster, &ctx, "k", r#"{"n":1}"#, Condition::Absent)
        .await
        .expect("repeated");
    assert_eq!(json(&first.document.body), json(&later.document.body));
    assert_eq!((later.document.version, later.created), (1, true));
    let stored = cluster
        .service
        .get(&anonymous(), "Demo", "k", Consistency::Linearizable)
        .await
        .expect("found");
    assert_eq!(json(&stored.body)["n"], 2);
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let cluster = TestCluster::start().await;
    let ctx = keyed(&anonymous(), "key");
    put(&cluster, &ctx, "k", r#"{"n":1}"#, Condition::None)
        .await
        .expect("inserted");
    let error = put(&cluster, &ctx, "k", r#"{"n":2}"#, Condition::None)
        .await
        .expect_err("another body");
    assert_eq!(error.code, ErrorCode::IdempotencyMismatch);
    let error = cluster
        .service
        .delete(&ctx, "Demo", "k", Condition::None)
        .await
        .expect_err("another operation");
    assert_eq!(error.code, ErrorCode::IdempotencyMismatch);
    // Another document or another caller is another scope.
    put(&cluster, &ctx, "l", r#"{"n":2}"#, Condition::None)
        .await
        .expect("inserted");
    put(
        &cluster,
        &keyed(&cluster.root().await, "key"),
        "k",
        r#"{"n":2}"#,
        Condition::None,
    )
    .await
    .expect("replaced");
}

#[tokio::test]
async fn an_insert_without_id_finds_its_key_again() {
    let cluster = TestCluster::start().await;
    let ctx = keyed(&anonymous(), "key");
    let first = cluster
        .service
        .put(&ctx, "Demo", None, body("{}"), Condition::Absent)
        .await
        .expect("inserted");
    let again = cluster
        .service
        .put(&ctx, "Demo", None, body("{}"), Condition::Absent)
        .await
        .expect("repeated");
    assert_eq!(first, again);
    let other = keyed(&anonymous(), "other");
    let other = cluster
        .service
        .put(&other, "Demo", None, body("{}"), Condition::Absent)
        .await
        .expect("inserted");
    assert_ne!(other.document.key, first.document.key);
}

#[tokio::test]
async fn a_deleted_missing_document_stays_the_answer() {
    let cluster = TestCluster::start().await;
    let ctx = keyed(&anonymous(), "key");
    assert!(
        !cluster
            .service
            .delete(&ctx, "Demo", "k", Condition::None)
            .await
            .expect("nothing there")
            .existed
    );
    put(&cluster, &anonymous(), "k", "{}", Condition::Absent)
        .await
        .expect("inserted");
    assert!(
        !cluster
            .service
            .delete(&ctx, "Demo", "k", Condition::None)
            .await
            .expect("repeated")
            .existed
    );
    cluster
        .service
        .get(&anonymous(), "Demo", "k", Consistency::Linearizable)
        .await
        .expect("still there");
}

#[tokio::test]
async fn a_batch_is_repeated_as_a_whole() {
    let cluster = TestCluster::start().await;
    let ctx = keyed(&anonymous(), "key");
    let write = |key: &str| BatchWrite {
        bucket: "Demo".to_owned(),
        key: key.to_owned(),
        condition: Condition::Absent,
        operation: BatchOperation::Put(body(r#"{"n":1}"#)),
    };
    let first = cluster
        .service
        .batch(&ctx, vec![write("{t}1"), write("{t}2")])
        .await
        .expect("written");
    let again = cluster
        .service
        .batch(&ctx, vec![write("{t}1"), write("{t}2")])
        .await
        .expect("repeated");
    assert_eq!(first, again);
}

#[tokio::test]
async fn a_new_user_is_rebuilt_with_its_own_acl() {
    let cluster = TestCluster::start().await;
    let ctx = keyed(&anonymous(), "key");
    let insert = || {
        cluster
            .service
            .put(&ctx, "User", None, body("{}"), Condition::Absent)
    };
    let first = insert().await.expect("inserted");
    let root = cluster.root().await;
    let key = Some(&*first.document.key);
    cluster
        .service
        .put(&root, "User", key, body("{}"), Condition::Version(1))
        .await
        .expect("replaced");
    let again = insert().await.expect("repeated");
    assert_eq!(json(&first.document.body), json(&again.document.body));
}

#[tokio::test]
async fn old_records_leave_by_an_entry_when_they_are_due() {
    let kept = Duration::from_secs(3_600);
    let limits = Limits {
        idempotency_kept: kept,
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(1, limits).await;
    let ctx = keyed(&anonymous(), "key");
    put(&cluster, &ctx, "k", r#"{"n":1}"#, Condition::None)
        .await
        .expect("inserted");
    let shard = cluster.shard_of("Demo", "k");
    let ticker = cluster.service.jobs().ticker;
    let before = cluster.world.document_proposals();
    cluster.clock.advance(kept - Duration::from_secs(1));
    ticker.age(shard).await.expect("nothing is due");
    assert_eq!(cluster.world.document_proposals(), before);
    cluster.clock.advance(Duration::from_secs(2));
    for shard in 1..=SHARDS {
        ticker.age(proto::ShardId(shard)).await.expect("aged");
    }
    // One shard had something due.
    assert_eq!(cluster.world.document_proposals(), before + 1);
    let written = put(&cluster, &ctx, "k", r#"{"n":2}"#, Condition::None)
        .await
        .expect("the key is free again");
    assert_eq!(written.document.version, 2);
}
