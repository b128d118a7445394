//! Partial updates and batches, as far as the service decides.

use proto::ErrorCode;

use super::{body, json, put};
use crate::testing::{TestCluster, anonymous};
use crate::{BatchOperation, BatchWrite, Condition, Context, Document, Result};

async fn update(
    cluster: &TestCluster,
    ctx: &Context,
    operations: &str,
    condition: Condition,
) -> Result<Document> {
    let service = &cluster.service;
    service
        .update(ctx, "Demo", "k", body(operations), condition)
        .await
}

#[tokio::test]
async fn updates_follow_the_table() {
    let cluster = TestCluster::start().await;
    let ctx = anonymous();
    let add = r#"{"$inc":{"n":1}}"#;
    for (condition, code) in [
        (Condition::None, ErrorCode::ObjectNotFound),
        (Condition::Exists, ErrorCode::ObjectOutOfDate),
        (Condition::Version(1), ErrorCode::ObjectOutOfDate),
        (Condition::Absent, ErrorCode::BadRequest),
    ] {
        let refused = update(&cluster, &ctx, add, condition).await;
        assert_eq!(
            refused.map_err(|error| error.code),
            Err(code),
            "{condition:?}"
        );
    }
    put(&cluster, &ctx, "k", r#"{"n":1}"#, Condition::Absent)
        .await
        .expect("inserted");
    let refused = update(&cluster, &ctx, add, Condition::Version(2)).await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::ObjectOutOfDate)
    );
    let updated = update(&cluster, &ctx, add, Condition::Version(1)).await;
    let updated = updated.expect("updated");
    assert_eq!((updated.version, &json(&updated.body)["n"]), (2, &2.into()));
    let refused = update(&cluster, &ctx, r#"{"$push":{"n":1}}"#, Condition::None).await;
    let error = refused.expect_err("a number is no list");
    assert_eq!(error.code, ErrorCode::BadRequest);
    assert_eq!(
        error.message,
        "$push of \"n\": the stored value is not a list"
    );
    let field = cluster.service.update_field(
        &ctx,
        "Demo",
        "k",
        "n",
        body(r#"{"$mul":4}"#),
        Condition::None,
    );
    assert_eq!(json(&field.await.expect("updated").body)["n"], 8);
}

#[tokio::test]
async fn a_repeated_update_is_told_what_the_first_one_made() {
    let cluster = TestCluster::start().await;
    let ctx = anonymous();
    put(&cluster, &ctx, "k", r#"{"n":1}"#, Condition::Absent)
        .await
        .expect("inserted");
    let keyed = Context {
        idempotency_key: Some("u".to_owned()),
        ..anonymous()
    };
    let add = r#"{"$inc":{"n":1}}"#;
    let first = update(&cluster, &keyed, add, Condition::None).await;
    let first = first.expect("updated");
    update(&cluster, &ctx, add, Condition::None)
        .await
        .expect("updated");
    let again = update(&cluster, &keyed, add, Condition::None).await;
    assert_eq!(again.expect("repeated").body, first.body);
    let whole = put(&cluster, &keyed, "k", add, Condition::None).await;
    assert_eq!(
        whole.map_err(|error| error.code).err(),
        Some(ErrorCode::IdempotencyMismatch),
        "the same body as a whole document is another request"
    );
}

#[tokio::test]
async fn batches_take_updates_and_each_write_for_itself() {
    let cluster = TestCluster::start().await;
    let write = |key: &str, operation| BatchWrite {
        bucket: "Demo".to_owned(),
        key: key.to_owned(),
        condition: Condition::None,
        operation,
    };
    let put = |text: &str| BatchOperation::Put(body(text));
    let change = |text: &str| BatchOperation::Update(body(text));
    let batch = vec![
        write("{t}1", put(r#"{"n":1}"#)),
        write("{t}1", change(r#"{"$inc":{"n":1}}"#)),
    ];
    let documents = cluster.service.batch(&anonymous(), batch).await;
    let documents = documents.expect("written");
    assert_eq!(json(&documents[1].body)["n"], 2);
    let keys: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    let mut batch: Vec<_> = keys.iter().map(|key| write(key, put("{}"))).collect();
    batch.push(write("none", change(r#"{"$inc":{"n":1}}"#)));
    batch.push(write("3", BatchOperation::Delete));
    let results = cluster.service.batch_each(&anonymous(), batch).await;
    let results = results.expect("tried");
    let codes: Vec<_> = results
        .iter()
        .map(|result| {
            result
                .as_ref()
                .map(|document| document.version)
                .map_err(|error| error.code)
        })
        .collect();
    let mut expected = vec![Ok(1); 8];
    expected.extend([Err(ErrorCode::ObjectNotFound), Ok(0)]);
    assert_eq!(codes, expected);
}
