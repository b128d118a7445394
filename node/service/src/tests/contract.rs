//! Contract section 3.3, row by row, and what is refused before anything is stored.

use proto::{Effect, ErrorCode};

use super::{body, json, put};
use crate::testing::{TestCluster, anonymous};
use crate::{BatchOperation, BatchWrite, Condition, Consistency, Context, Limits};

/// Result of a put: whether it created, or the code.
async fn put_code(
    cluster: &TestCluster,
    key: &str,
    condition: Condition,
) -> Result<bool, ErrorCode> {
    let written = put(cluster, &anonymous(), key, r#"{"a":1}"#, condition).await;
    written
        .map(|written| written.created)
        .map_err(|error| error.code)
}

async fn delete_code(
    cluster: &TestCluster,
    key: &str,
    condition: Condition,
) -> Result<bool, ErrorCode> {
    cluster
        .service
        .delete(&anonymous(), "Demo", key, condition)
        .await
        .map(|deleted| deleted.existed)
        .map_err(|error| error.code)
}

#[tokio::test]
async fn puts_follow_the_table() {
    let cluster = TestCluster::start().await;
    // A missing document.
    assert_eq!(
        put_code(&cluster, "k", Condition::Version(1)).await,
        Err(ErrorCode::ObjectOutOfDate)
    );
    assert_eq!(
        put_code(&cluster, "k", Condition::Exists).await,
        Err(ErrorCode::ObjectOutOfDate)
    );
    assert_eq!(put_code(&cluster, "k", Condition::None).await, Ok(true));
    assert_eq!(put_code(&cluster, "l", Condition::Absent).await, Ok(true));
    // A present one.
    assert_eq!(
        put_code(&cluster, "k", Condition::Absent).await,
        Err(ErrorCode::ObjectExists)
    );
    assert_eq!(
        put_code(&cluster, "k", Condition::Version(1)).await,
        Ok(false)
    );
    assert_eq!(
        put_code(&cluster, "k", Condition::Version(1)).await,
        Err(ErrorCode::ObjectOutOfDate)
    );
    assert_eq!(put_code(&cluster, "k", Condition::Exists).await, Ok(false));
    assert_eq!(put_code(&cluster, "k", Condition::None).await, Ok(false));
}

#[tokio::test]
async fn deletes_follow_the_table() {
    let cluster = TestCluster::start().await;
    assert_eq!(
        delete_code(&cluster, "k", Condition::Version(1)).await,
        Err(ErrorCode::ObjectOutOfDate)
    );
    assert_eq!(
        delete_code(&cluster, "k", Condition::Exists).await,
        Err(ErrorCode::ObjectOutOfDate)
    );
    assert_eq!(delete_code(&cluster, "k", Condition::None).await, Ok(false));
    for condition in [Condition::Version(1), Condition::Exists, Condition::None] {
        let key = format!("{condition:?}");
        put_code(&cluster, &key, Condition::Absent)
            .await
            .expect("inserted");
        assert_eq!(
            delete_code(&cluster, &key, Condition::Version(9)).await,
            Err(ErrorCode::ObjectOutOfDate)
        );
        assert_eq!(delete_code(&cluster, &key, condition).await, Ok(true));
        let gone = cluster
            .service
            .get(&anonymous(), "Demo", &key, Consistency::Linearizable)
            .await;
        assert_eq!(
            gone.map_err(|error| error.code),
            Err(ErrorCode::ObjectNotFound)
        );
    }
}

#[tokio::test]
async fn versions_go_on_after_a_delete() {
    let cluster = TestCluster::start().await;
    put_code(&cluster, "k", Condition::Absent)
        .await
        .expect("version 1");
    delete_code(&cluster, "k", Condition::None)
        .await
        .expect("version 2");
    let written = put(&cluster, &anonymous(), "k", "{}", Condition::Absent)
        .await
        .expect("inserted again");
    assert!(written.created);
    assert_eq!(written.document.version, 3);
}

#[tokio::test]
async fn a_put_answers_the_complete_stored_object() {
    let cluster = TestCluster::start().await;
    let sent = r#"{"id":"/db/Demo/a%20b","version":7,"createdAt":"x","title":"T","n":1}"#;
    let written = put(&cluster, &anonymous(), "a b", sent, Condition::Absent)
        .await
        .expect("inserted");
    let stored = json(&written.document.body);
    assert_eq!(stored["id"], "/db/Demo/a%20b");
    assert_eq!(stored["version"], 1);
    assert_eq!(stored["title"], "T");
    assert_eq!(stored["createdAt"], stored["updatedAt"]);
    for consistency in [Consistency::Linearizable, Consistency::Local] {
        let read = cluster
            .service
            .get(&anonymous(), "Demo", "a b", consistency)
            .await
            .expect("found");
        assert_eq!(read.body, written.document.body);
        assert_eq!(read.version, 1);
    }
}

#[tokio::test]
async fn keys_come_from_the_body_or_are_made() {
    let cluster = TestCluster::start().await;
    let service = &cluster.service;
    let ctx = anonymous();
    let named = service
        .put(
            &ctx,
            "Demo",
            None,
            body(r#"{"id":"/db/Demo/x%2Fy"}"#),
            Condition::Absent,
        )
        .await
        .expect("inserted");
    assert_eq!(named.document.key, "x/y");
    let made = service
        .put(&ctx, "Demo", None, body("{}"), Condition::Absent)
        .await
        .expect("inserted");
    assert_eq!(made.document.key.len(), 36);
    for bad in [r#"{"id":"/db/Other/1"}"#, r#"{"id":"x"}"#, r#"{"id":7}"#] {
        let error = service
            .put(&ctx, "Demo", None, body(bad), Condition::Absent)
            .await
            .expect_err(bad);
        assert_eq!(error.code, ErrorCode::BadRequest, "{bad}");
    }
    let other = put(
        &cluster,
        &ctx,
        "k",
        r#"{"id":"/db/Demo/other"}"#,
        Condition::None,
    )
    .await
    .expect_err("another id");
    assert_eq!(other.code, ErrorCode::BadRequest);
}

#[tokio::test]
async fn bad_input_is_refused_and_costs_no_entry() {
    let limits = Limits {
        body_bytes_max: 100,
        key_bytes_max: 10,
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(1, limits).await;
    let before = cluster.world.document_proposals();
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(100));
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(45), "]".repeat(45));
    assert!(
        put(&cluster, &anonymous(), "ok", &deep, Condition::None)
            .await
            .is_ok()
    );
    for (key, text, code) in [
        ("k", "{", ErrorCode::SyntaxError),
        ("k", "[]", ErrorCode::SyntaxError),
        ("k", &long, ErrorCode::BodyTooLarge),
        ("", "{}", ErrorCode::BadRequest),
        ("01234567890", "{}", ErrorCode::KeyTooLong),
        ("k", r#"{"acl":{"raed":{}}}"#, ErrorCode::BadRequest),
    ] {
        let error = put(&cluster, &anonymous(), key, text, Condition::None)
            .await
            .expect_err(text);
        assert_eq!((error.code, error.effect), (code, Effect::None), "{text}");
    }
    let unknown = cluster
        .service
        .put(&anonymous(), "Nope", Some("k"), body("{}"), Condition::None)
        .await;
    assert_eq!(
        unknown.map_err(|error| error.code),
        Err(ErrorCode::BucketNotFound)
    );
    let elsewhere = Context {
        database: "tenant".to_owned(),
        ..anonymous()
    };
    let unknown = cluster
        .service
        .get(&elsewhere, "Demo", "k", Consistency::Linearizable)
        .await;
    assert_eq!(
        unknown.map_err(|error| error.code),
        Err(ErrorCode::BucketNotFound)
    );
    assert_eq!(cluster.world.document_proposals(), before + 1);
}

#[tokio::test]
async fn a_refused_write_costs_a_barrier_but_no_entry_and_an_accepted_one_the_reverse() {
    let cluster = TestCluster::start().await;
    put_code(&cluster, "k", Condition::Absent)
        .await
        .expect("inserted");
    let (entries, barriers) = (
        cluster.world.document_proposals(),
        *cluster.world.barriers.lock(),
    );
    put_code(&cluster, "k", Condition::Absent)
        .await
        .expect_err("exists");
    assert_eq!(cluster.world.document_proposals(), entries);
    assert_eq!(*cluster.world.barriers.lock(), barriers + 1);
    put_code(&cluster, "k", Condition::Version(1))
        .await
        .expect("replaced");
    assert_eq!(cluster.world.document_proposals(), entries + 1);
    assert_eq!(*cluster.world.barriers.lock(), barriers + 1);
}

fn write(key: &str, condition: Condition, operation: BatchOperation) -> BatchWrite {
    BatchWrite {
        bucket: "Demo".to_owned(),
        key: key.to_owned(),
        condition,
        operation,
    }
}

#[tokio::test]
async fn a_batch_is_all_or_nothing_within_a_shard() {
    let cluster = TestCluster::start().await;
    let ctx = anonymous();
    let put = |text: &str| BatchOperation::Put(body(text));
    let batch = vec![
        write("{t}1", Condition::Absent, put(r#"{"n":1}"#)),
        write("{t}2", Condition::Absent, put(r#"{"n":2}"#)),
        // The same document again: sees the first write.
        write("{t}1", Condition::Version(1), put(r#"{"n":3}"#)),
    ];
    let documents = cluster.service.batch(&ctx, batch).await.expect("written");
    assert_eq!(
        documents
            .iter()
            .map(|document| document.version)
            .collect::<Vec<_>>(),
        [1, 1, 2]
    );

    let batch = vec![
        write("{t}2", Condition::None, BatchOperation::Delete),
        write("{t}3", Condition::Exists, put("{}")),
    ];
    let error = cluster
        .service
        .batch(&ctx, batch)
        .await
        .expect_err("refused");
    assert_eq!(error.code, ErrorCode::ObjectOutOfDate);
    assert!(error.message.starts_with("write 1: "), "{}", error.message);
    cluster
        .service
        .get(&ctx, "Demo", "{t}2", Consistency::Linearizable)
        .await
        .expect("still there");

    let deleted = cluster
        .service
        .batch(
            &ctx,
            vec![write("{t}2", Condition::None, BatchOperation::Delete)],
        )
        .await;
    let deleted = deleted.expect("deleted");
    assert_eq!((deleted[0].version, deleted[0].body.len()), (0, 0));
}

#[tokio::test]
async fn a_batch_over_shards_is_refused() {
    let cluster = TestCluster::start().await;
    let other = (0..)
        .map(|n| n.to_string())
        .find(|key| cluster.shard_of("Demo", key) != cluster.shard_of("Demo", "a"));
    let other = other.expect("some key lies elsewhere");
    let batch = vec![
        write("a", Condition::None, BatchOperation::Put(body("{}"))),
        write(&other, Condition::None, BatchOperation::Put(body("{}"))),
    ];
    let error = cluster
        .service
        .batch(&anonymous(), batch)
        .await
        .expect_err("refused");
    assert_eq!(error.code, ErrorCode::CrossShard);
    assert_eq!(
        cluster
            .service
            .batch(&anonymous(), Vec::new())
            .await
            .expect("nothing to do"),
        []
    );
}
